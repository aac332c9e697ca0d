"""Join several results folders or packs into one results folder."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("sources", type=Path, nargs="+", help="results folders or packs")
    parser.add_argument("--out", type=Path, required=True, help="such as results/joined")
    parser.add_argument(
        "--first-wins",
        action="store_true",
        help="where they are in conflict, take the first and leave the others' out",
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from partbench.merge import merge

    merged = merge(args.sources, args.out, args.first_wins)
    print(f"{args.out}: {merged.cells} cells; {merged.repeated} stood in several sources")
    for conflict in merged.conflicts:
        print(f"left out: {conflict}")
    print(f"draw its report: partbench report --results {args.out} --out report/index.html")
