"""Compare all files of a results folder with checksums."""

import argparse
from pathlib import Path

from partbench.errors import BadInput


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("results", type=Path, help="such as results/demo")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="move what is damaged aside, so that the workflow makes it anew",
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from partbench import verify
    from partbench.integrity import Damaged

    table, faults = verify.report(args.results)
    print(table)
    if faults:
        asides = [f.set_aside() for f in faults if args.repair and isinstance(f, Damaged)]
        raise BadInput("\n".join(dict.fromkeys([*map(str, faults), *asides])))
