"""The command line: commands for people, and the stages that the DAG's rules call."""

import argparse
import importlib
import pkgutil
import sys
import time
from collections.abc import Sequence

from partbench import __version__, commands
from partbench.errors import BadInput
from partbench.stages import add_stages


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status.

    0: done. 1: something the user gave is wrong; one message says what. 75: a signal stopped a
    training; running the same command again resumes it. A command may return another status, which
    its own help explains.
    """
    parser = _parser()
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{getattr(args, 'hint', '')}")
    began = time.monotonic()
    try:
        status = args.run(args)
        if args.stage:
            from partbench.jobs import FINISHED

            print(f"{FINISHED} {time.monotonic() - began:.1f} s", file=sys.stderr)
    except BadInput as error:
        print(f"partbench: {error}", file=sys.stderr)
        if args.stage:
            from partbench.integrity import Damaged

            if isinstance(error, Damaged):
                print(f"partbench: {error.set_aside()}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever reads our output, such as head, has gone
        sys.stderr.close()
        return 1
    return status or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="partbench", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in sorted(module.name for module in pkgutil.iter_modules(commands.__path__)):
        module = importlib.import_module(f"partbench.commands.{name}")
        text = module.__doc__
        new = subparsers.add_parser(name, help=text, description=text)
        new.set_defaults(run=getattr(module, "run", None), stage=False)
        module.arguments(new)
    add_stages(subparsers)
    return parser
