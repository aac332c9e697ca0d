"""Data sets, one module each, discovered by file name; and the arrays prepared from them."""
