"""Move a particle of a test image; writes an animation."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("model", type=Path, metavar="MODEL.pt")
    parser.add_argument("data", type=Path, help="folder of the prepared data set")
    parser.add_argument("--image", type=int, default=0, help="which test image")
    parser.add_argument("--particle", type=int, help="default: the one with the least variance")
    parser.add_argument("--reach", type=float, default=0.4, help="in halves of the window's side")
    parser.add_argument("--out", type=Path, default=Path("moved.webp"), help="webp or gif file")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from partbench.manipulate import move

    which = move(args.model, args.data, args.image, args.particle, args.reach, args.out)
    print(f"{args.out}: particle {which} of test image {args.image}")
