"""The Beam steps: thin transforms around pure functions, one file per step, chunks in and receipts out."""

DISTRIBUTION = "spanmill"
"""By which run_pipeline tells this package from another of the same name."""
