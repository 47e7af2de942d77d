"""Nights that never were: a history for demonstrations and for tests of what is shown, labelled as generated."""
