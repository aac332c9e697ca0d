"""Data sets, one module each, discovered by file name; and the arrays prepared from them."""

from partbench import plugins as _plugins  # noqa: F401  # a worker unpickles a plugin's reader
