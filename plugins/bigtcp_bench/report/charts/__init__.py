"""Every chart once, as an Altair specification."""
