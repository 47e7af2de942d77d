"""What is said of a run, the same for every audience."""
