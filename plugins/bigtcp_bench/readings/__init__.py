"""What pods print, decoded; what a machine counts."""
