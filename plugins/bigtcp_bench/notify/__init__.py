"""What is worth telling, and how it is delivered."""
