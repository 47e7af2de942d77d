"""What is measured and for how long, validated once, at the door."""
