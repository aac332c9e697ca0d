"""Say what changed from one run to another: numbers, settings, commits, definitions.

Exit status 0: no number is significantly worse in the second run. 3: one is, or one that the first
run has failed in the second. 1: the two cannot be compared.
"""

import argparse
from pathlib import Path

WORSE = 3
"""Exit status where the second run is worse."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    what = "a results folder, such as results/demo, its pack, or its metrics.parquet"
    parser.add_argument("run_a", type=Path, help=f"the earlier run: {what}")
    parser.add_argument("run_b", type=Path, help="the later run")
    parser.add_argument("--html", type=Path, metavar="OUT", help="write a page, too")
    for name in ("probe", "metric"):
        parser.add_argument(
            f"--{name}",
            action="append",
            default=[],
            help=f"compare the numbers of this {name} alone; may be given several times. Fewer "
            "numbers are corrected less",
        )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from partbench import changes
    from partbench.report import changes as report

    with changes.opened(args.run_a) as a, changes.opened(args.run_b) as b:
        found = changes.changes(a, b, probes=args.probe, metrics=args.metric)
    print(report.written(found))
    if args.html:
        report.write(found, args.html)
    return WORSE if found.is_worse else 0
