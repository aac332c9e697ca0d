"""Print the cells, hours, memory and disk of a configuration."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("config", type=Path, nargs="?", default=Path("config/paper.yaml"))
    parser.add_argument("--tflops", type=float, default=10.0, help="assumed sustained TFLOP/s")
    parser.add_argument("--gpu-memory", type=float, default=24.0, help="of a card, GiB")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from partbench import config, plan, published

    judged = {c.cells[:3] for c in published.load() if c.is_judged and plan.draws(c)}
    print(plan.plan(config.read(args.config), args.tflops, judged, args.gpu_memory))
