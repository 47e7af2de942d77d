"""Simulations that show what the verdicts are worth; each writes its tables into docs/generated/simulations.md."""
