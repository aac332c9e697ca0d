"""Begin a method, a data set or a probe of your own: a file that runs at once, with its test."""

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    from pathlib import Path

    parser.add_argument("kind", choices=("method", "data", "probe"))
    parser.add_argument("name", metavar="NAME", help="of the file, and of what it holds")
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--into", type=Path, default=Path("plugins"), help="the plugin folder; default: plugins"
    )
    place.add_argument(
        "--package",
        type=Path,
        metavar="FOLDER",
        help="into a package of your own, begun in this folder where there is none",
    )
    place.add_argument(
        "--checkout", action="store_true", help="into partbench itself, in a checkout"
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from partbench import starting

    if args.package:
        print(starting.packaged(args.kind, args.name, args.package))
    else:
        print(starting.plugin(args.kind, args.name, None if args.checkout else args.into))
