"""What Prometheus knows of a run's blocks, and what Prometheus is told of all runs."""
