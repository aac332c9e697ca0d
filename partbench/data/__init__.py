"""Data sets: one module each, found by its file name, and the arrays they are prepared into."""
