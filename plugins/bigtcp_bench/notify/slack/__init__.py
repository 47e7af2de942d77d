"""How Slack is told."""
