"""All that reads or changes the cluster under test."""
