"""Check packs of results, and write one report of those that pass."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("packs", type=Path, nargs="+", help="packs or results folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables and pages")
    parser.add_argument("--seeds", type=int, default=3, help="of each trained method, the least")
    parser.add_argument(
        "--strict", action="store_true", help="exit with status 1 if a pack is refused"
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from partbench.leaderboard import leaderboard, listing

    submissions = leaderboard(args.packs, args.out, args.seeds)
    print(listing(submissions))
    print(args.out / "report" / "index.html")
    if args.strict and not all(submission.accepted for submission in submissions):
        raise SystemExit(1)
