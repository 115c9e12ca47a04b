"""What a data set's gold answers cost, and what that says about them."""
