"""What a person sees of a run: progress, accounting, text for a terminal."""
