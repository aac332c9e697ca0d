"""Print the cells, hours, memory and disk of a configuration."""

import argparse

from partbench.commands import CONFIG


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("config", nargs="?", default="paper", help=CONFIG)
    parser.add_argument(
        "--tflops",
        type=float,
        help="assumed sustained TFLOP/s of a GPU, or of a core where trainings run on the CPU; "
        "default: 10 or 0.05",
    )
    parser.add_argument(
        "--gpu-memory", type=float, default=24.0, help="of a card, GiB; default: 24"
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from partbench import config, plan, published, shipped

    judged = {c.cells[:3] for c in published.load() if c.is_judged and plan.draws(c)}
    chosen = config.read(shipped.configuration(args.config))
    print(plan.plan(chosen, args.tflops, judged, args.gpu_memory))
