"""What became of a workflow's cells, in a few lines: what it prints at its end."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from partbench.config import Config, cells
from partbench.jobs import Jobs

SHOWN = 3
"""Cells with the same reason that are named; of more, the number stands."""


def outcome(config: Config, results: Path) -> str:
    """Return how many cells are done, and which failed or were skipped, with reason and log.

    Args:
        config: whose cells are looked for.
        results: its results folder.
    """
    jobs = Jobs(results)
    counts: Counter[str] = Counter()
    groups: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells(config):
        if cell.skip:
            continue
        state, reason = jobs.state(str(cell), str(cell.run))
        counts[state] += 1
        if reason:
            failure = jobs.failure(f"cells/{cell}.json")
            log = str(results / failure.log) if failure else ""
            groups.setdefault((state, reason, log), []).append(str(cell))
    states = ("done", "failed", "skipped", "missing")
    lines = ["cells: " + ", ".join(f"{counts[s]} {s}" for s in states if counts[s] or s == "done")]
    for (state, reason, log), members in sorted(groups.items()):
        lines.append(f"{state}: {_named(members)}")
        lines += [f"  {line}" for line in _short(state, reason)]
        lines += [f"  log: {log}"] if log else []
    return "\n".join(lines)


def _named(members: list[str]) -> str:
    more = f" and {len(members) - SHOWN} more" if len(members) > SHOWN else ""
    return ", ".join(members[:SHOWN]) + more


def _short(state: str, reason: str) -> Iterable[str]:
    """Return the lines that matter of a log, and all of another reason."""
    lines = reason.splitlines()
    if state != "failed":
        return lines
    messages = [i for i, line in enumerate(lines) if line.startswith("partbench: ")]
    return lines[messages[0] :] if messages else lines[-1:]
