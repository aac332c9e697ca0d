"""Write a commented configuration for your own images and methods into the present folder."""

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("name", metavar="NAME", nargs="?", default="mine", help="default: mine")
    parser.add_argument(
        "--profile", help="slurm, workstation or laptop: copy its folder too, to be filled in"
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from pathlib import Path

    from partbench import starting

    for path in starting.project(args.name, args.profile, Path()):
        print(path)
