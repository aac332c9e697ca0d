"""Sections of the report: a module and a page fragment for each probe, found by its name."""
