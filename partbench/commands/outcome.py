"""Say which cells are done, failed or skipped, and why."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("results", type=Path, help="such as results/demo")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from partbench import config, outcome
    from partbench.integrity import read_record

    where = args.results / "config.json"
    print(outcome.outcome(config.check(read_record(where), str(where), args.results), args.results))
