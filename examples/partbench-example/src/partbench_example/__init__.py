"""A method, a reader and a probe for partbench, found by the entry points of pyproject.toml."""
