"""Print the cells, GPU hours and disk of a configuration."""

import argparse

from partbench.commands import CONFIG


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("config", nargs="?", default="paper", help=CONFIG)
    parser.add_argument(
        "--tflops",
        type=float,
        help="assumed sustained TFLOP/s, of a GPU or of a core; default: 10 or 0.05",
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from partbench import config, plan, published, shipped

    judged = {c.cells[:3] for c in published.load() if c.is_judged and plan.draws(c)}
    print(plan.plan(config.read(shipped.configuration(args.config)), args.tflops, judged))
