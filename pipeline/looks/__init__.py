"""What users see of a run: progress, accounting, text on a terminal."""
