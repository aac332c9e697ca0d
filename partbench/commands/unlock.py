"""Remove the lock that a killed Snakemake left in this folder."""

import argparse
import sys


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare that the command takes nothing."""


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from partbench.unlock import unlock

    if unlock():
        print("removed the lock of a Snakemake that was killed", file=sys.stderr)
