"""The nightly comparison."""
