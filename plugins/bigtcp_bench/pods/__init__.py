"""What runs inside the benchmark pods, the operator that runs them, and what comes out."""
