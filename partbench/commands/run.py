"""Compute a configuration with Snakemake, with results in the present folder."""

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.usage = "partbench run CONFIG [-- OPTION ...]"
    parser.set_defaults(hint=f"; Snakemake's own stand after `--`: {parser.usage}")
    parser.add_argument("config", metavar="CONFIG", help="a file, or demo, subset or paper")
    parser.add_argument(
        "options",
        nargs="*",
        metavar="OPTION",
        help="Snakemake's own options and targets, after `--`, such as `-- -n -R train_dlp`",
    )


def run(args: argparse.Namespace) -> None:
    """Run the command; Snakemake takes the place of this process."""
    import os
    import shlex
    import sys

    from partbench import shipped, workflow
    from partbench.strict_yaml import read_mapping

    path = shipped.configuration(args.config)
    read_mapping(path)  # Snakemake would execute what a stranger's file may hold
    command = workflow.command(path, args.options)
    print(shlex.join(command), file=sys.stderr, flush=True)
    os.execv(sys.executable, [sys.executable, "-P", "-m", *command])
