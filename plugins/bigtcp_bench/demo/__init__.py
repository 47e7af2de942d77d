"""The DAG once on this machine, for a newcomer."""
