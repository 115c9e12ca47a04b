"""The data that `model.train` trains on, and the loss that it minimises."""
