"""What a job is: options, one builder per stage, identity, progress, report."""

DISTRIBUTION = "spanmill"
"""By which run_pipeline tells this package from another of the same name."""
