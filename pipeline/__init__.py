"""What a job is: options, one builder per stage, identity, progress, report."""
