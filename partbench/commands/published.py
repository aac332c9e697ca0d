"""Say which published numbers a configuration is held against."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("config", type=Path, nargs="?", default=Path("config/paper.yaml"))


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from partbench import config, official_splits, published

    addresses = official_splits.addresses(config.read(args.config))
    print(published.coverage(published.load(), (published.CellAddress(*a) for a in addresses)))
