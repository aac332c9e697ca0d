"""The commands for people, one file each: `plan.py` is `partbench plan`.

The docstring of a file is the command's help. Its `arguments` declare what the command takes, and
its `run` does it. A command imports what it needs when it runs, so that none waits for torch
without need.
"""

CONFIG = "a file, or demo, subset or paper, which come with partbench; default: paper"
