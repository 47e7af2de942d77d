"""Scripts that measure the project itself; run by ``make bench``."""
