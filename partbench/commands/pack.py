"""Write one archive of a results folder, without data and models."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("results", type=Path, help="such as results/demo")
    parser.add_argument("--out", type=Path, help="zip file; default: NAME.pack.zip")
    parser.add_argument(
        "--no-pictures",
        action="store_true",
        help="leave out the pictures, which show images of the data sets",
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from partbench.pack import pack

    out = args.out or Path(f"{args.results.resolve().name}.pack.zip")
    manifest = pack(args.results, out, not args.no_pictures)
    print(f"{out}: {len(manifest.files)} files, {out.stat().st_size / 2**20:.1f} MiB")
