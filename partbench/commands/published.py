"""Say which published numbers a configuration is held against."""

import argparse

from partbench.commands import CONFIG


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("config", nargs="?", default="paper", help=CONFIG)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from partbench import config, official_splits, published, shipped

    addresses = official_splits.addresses(config.read(shipped.configuration(args.config)))
    print(published.coverage(published.load(), (published.CellAddress(*a) for a in addresses)))
