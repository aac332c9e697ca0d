"""From the table of all cells to one self-contained page."""
