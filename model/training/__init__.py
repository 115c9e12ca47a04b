"""Training: the data, the loss, and the loop that `python -m model.train` runs."""
