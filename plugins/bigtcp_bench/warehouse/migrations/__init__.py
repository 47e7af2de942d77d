"""The migrations of the warehouse, run by warehouse/migrate.py; a new one is written by hand beside the others."""
