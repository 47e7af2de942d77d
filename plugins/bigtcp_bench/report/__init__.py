"""One rendering for each audience (terminal, Slack), all from the same verdicts."""
