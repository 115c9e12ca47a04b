"""The Beam steps: thin transforms around pure functions, one file per step, chunks in and receipts out."""
