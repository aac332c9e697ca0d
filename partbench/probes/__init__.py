"""Probes: standard measurements of a run, one module each, found by its file name."""
