"""The Beam steps: thin transforms around pure functions, one file per step.

Chunks go in, receipts come out.
"""

DISTRIBUTION = "spanmill"
"""The mark by which run_pipeline recognizes this package among others of the same name."""
