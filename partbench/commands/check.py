"""List what this machine has and lacks for a configuration."""

import argparse

from partbench.commands import CONFIG


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("config", nargs="?", default="paper", help=CONFIG)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from partbench import config, plan, shipped

    print(plan.check(config.read(shipped.configuration(args.config))))
