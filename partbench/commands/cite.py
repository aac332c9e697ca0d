"""Print BibTeX of all that a configuration builds on, and the licences of its data."""

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="a configuration (a file, or demo, subset or paper), a results folder or a pack",
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    import zipfile
    from pathlib import Path

    from partbench import citations, config, pack, shipped

    path = Path(args.name)
    if path.is_dir() or zipfile.is_zipfile(path):
        with pack.opened(path) as folder:
            read = pack.configuration(path, folder)
    else:
        read = config.read(shipped.configuration(args.name))
    print(citations.text(read))
