"""Methods, one module each."""
