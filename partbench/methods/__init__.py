"""Methods and controls, one module each; a method's name is that of its file."""
