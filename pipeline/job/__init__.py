"""What a job is: its options, its identity, its runner."""
