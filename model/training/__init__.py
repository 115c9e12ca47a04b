"""What `model.train` trains on, and what it minimises."""
