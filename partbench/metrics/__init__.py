"""The arithmetic of the probes, on arrays, in float64: no files and no torch modules here."""
