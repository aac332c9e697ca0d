"""Methods and controls: one module each, found by its file name."""
