"""A review of a run's answers: a drawn sample for people to judge, and what their marks say."""
