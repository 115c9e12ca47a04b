"""What a job is: options, one builder per stage, identity, progress, report."""

DISTRIBUTION = "spanmill"
"""Lets run_pipeline distinguish this package from another of the same name."""
