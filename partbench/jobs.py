"""What the workflow's jobs make and need, and why a product is not there.

Snakemake writes this down before it runs the first job (`record`), from the rules themselves, so
that no stage is forgotten when tables and page say what failed, and what was left out.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from partbench.files import atomic, write_json

FILE = "logs/jobs.json"
"""Below the results folder."""
SKIPPED = "logs/skipped.json"
"""Cell -> why it was left out, below the results folder."""
ENDS = "logs/ends.json"
"""Log -> the state in which Slurm ended its job, below the results folder."""
JOINED = "sources.json"
"""Below a results folder that was joined from others: their names. It has no models."""
FINISHED = "finished in"
"""Begins the last line of the log of a job that ended well."""
LOG_LINES = 12


class Job(NamedTuple):
    """One job; its paths count from the results folder."""

    log: str
    needs: list[str]
    makes: list[str]
    passing: list[str]
    """Of `makes`, those that are removed once the jobs that need them have ended."""


class Failure(NamedTuple):
    """Why a product is not there."""

    log: str
    """Of the job that failed; its path counts from the results folder."""
    reason: str
    """The last lines of that log."""
    end: str = ""
    """The state in which Slurm ended it, in words; empty if that is not known."""


def record(results: Path, jobs: Iterable[Any], skipped: Mapping[str, str]) -> None:
    """Write down the jobs of a workflow; those of an earlier one with other targets are kept.

    Args:
        results: the results folder.
        jobs: Snakemake's, finished ones included; their paths count from where it runs.
        skipped: cell -> why it is left out.
    """

    def paths(files: Iterable[str]) -> list[str]:
        return [os.path.relpath(file, results) for file in files]

    by_log = {job.log: job for job in _read(results)}
    for job in jobs:
        for log in paths(job.log):
            passing = [file for file in job.output if file in job.temp_output]
            by_log[log] = Job(log, paths(job.input), paths(job.output), paths(passing))
    with atomic(results / FILE) as path:
        path.write_text(json.dumps(list(by_log.values())))
    write_json(results / SKIPPED, dict(skipped))


def record_ends(results: Path, snakemake_log: Path) -> None:
    """Write down how Slurm ended the jobs that failed, by their logs: none can say so itself.

    What an earlier run of the workflow wrote down stays. On one machine, the log has the exit code
    of a job that was killed, see `partbench.forkserver`.

    Args:
        results: the results folder.
        snakemake_log: what Snakemake wrote of this run of the workflow.
    """
    found = read_ends(results)
    try:
        blocks = re.split(r"^(?=\S)", snakemake_log.read_text(errors="replace"), flags=re.MULTILINE)
    except OSError:
        return
    for block in blocks:
        named = re.search(r"^    log: (.+?)(?: \(check log file.*)?$", block, re.MULTILINE)
        if named and block.startswith("Error in "):
            # The first is the job's own; others are those of a cluster.
            log = os.path.relpath(named[1].split(", ")[0], results)
            found.pop(log, None)
            if state := re.search(r"SLURM status is: '?(\w+)", block):
                found[log] = f"Slurm: {state[1]}"
    write_json(results / ENDS, found)


def read_ends(results: Path) -> dict[str, str]:
    """Return what `record_ends` wrote; nothing of a file that cannot be read."""
    try:
        return dict(json.loads((results / ENDS).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _read(results: Path) -> list[Job]:
    """Return what `record` wrote; nothing of a file that cannot be read: it is written often."""
    try:
        return [Job(*values) for values in json.loads((results / FILE).read_text())]
    except (OSError, ValueError, TypeError):
        return []


def failed_logs(results: Path) -> list[str]:
    """Return the logs of the jobs that did not end well; their paths count from `results`."""
    logs = {job.log: _log(results, job) for job in _read(results)}
    return sorted(log for log, text in logs.items() if _ended_badly(text))


def read_skipped(results: Path) -> dict[str, str]:
    """Return the cells that `record` noted as left out, each with its reason; likewise."""
    try:
        return dict(json.loads((results / SKIPPED).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


class Jobs:
    """The jobs of a results folder."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self._by_product = {product: job for job in _read(results) for product in job.makes}
        self._skipped = read_skipped(results)
        self._ends = read_ends(results)
        self._joined = (results / JOINED).exists()

    def state(self, cell: str, run: str) -> tuple[str, str]:
        """Return the state of a cell, "done", "failed", "skipped" or "missing", and the reason.

        Args:
            cell: its path below cells/, without suffix.
            run: its run, likewise below runs/.
        """
        product = f"cells/{cell}.json"
        # Where a new training failed, the cells of the old one still stand.
        if failure := self.failure(product):
            return "failed", failure.reason
        trained = "train.json" if self._joined else "model.pt"
        if (self.results / product).exists() and (self.results / "runs" / run / trained).exists():
            return "done", ""
        reason = self._skipped.get(cell, "")
        return ("skipped" if reason else "missing"), reason

    def failure(self, product: str) -> Failure | None:
        """Return the first job on the way to a product that failed, and how its log ended.

        None if none failed: then none has tried to make what is missing.

        Args:
            product: a path that counts from the results folder.
        """
        for job in self._way_to(product, set()):
            lasting = set(job.makes) - set(job.passing)
            text = _log(self.results, job)
            if _ended_badly(text) and not all((self.results / p).exists() for p in lasting):
                reason = "\n".join(text.splitlines()[-LOG_LINES:])
                return Failure(job.log, reason, self._ends.get(job.log, ""))
        return None

    def log_of(self, product: str) -> str:
        """Return the log of the job that makes a product, empty if it is not known.

        Args:
            product: a path that counts from the results folder.
        """
        job = self._by_product.get(product)
        return job.log if job else ""

    def _way_to(self, product: str, seen: set[str]) -> Iterator[Job]:
        """Yield the jobs on which a product depends, then its own: each after those it needs."""
        job = self._by_product.get(product)
        if job is None or job.log in seen:
            return
        seen.add(job.log)
        for need in job.needs:
            yield from self._way_to(need, seen)
        yield job


def _log(results: Path, job: Job) -> str:
    try:
        return (results / job.log).read_text(errors="replace").strip()
    except OSError:
        return ""


def _ended_badly(log: str) -> bool:
    """Whether the text of a log, if there is any, lacks the line of a job that ended well."""
    return bool(log) and not log.rpartition("\n")[2].startswith(FINISHED)
