"""One generation, one control, one capture: what is measured in which pods."""
