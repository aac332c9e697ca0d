"""List what this machine has and lacks for a configuration."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("config", type=Path, nargs="?", default=Path("config/paper.yaml"))


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from partbench import config, plan

    print(plan.check(config.read(args.config)))
