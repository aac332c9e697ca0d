"""A leaderboard: the packs of several labs, checked, joined and written as one report."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from partbench import method as methods
from partbench import pack, published
from partbench.config import load_probe, method_settings, runs
from partbench.errors import BadInput
from partbench.files import write_json
from partbench.integrity import read_record
from partbench.merge import merge
from partbench.probe import read_cell
from partbench.report import page

NEEDED = ("code", "commit", "command", "finished", "versions", "device", "platform")
"""What the provenance of a cell and of a training must say."""
SUBMISSIONS = "submissions.json"


class Submission(NamedTuple):
    """A pack, and what forbids to show it."""

    pack: str
    faults: list[str]

    @property
    def accepted(self) -> bool:
        """Whether its numbers stand on the board."""
        return not self.faults


def leaderboard(packs: Sequence[Path], out: Path, seeds: int) -> list[Submission]:
    """Write the report of all packs that pass the checks to `out`/report/index.html.

    Beside it stand the joined tables and `submissions.json`. Where two packs have the same run
    with other numbers, the first one's count, and the other is refused.

    Args:
        packs: packs, or results folders.
        out: a folder that partbench made, or a new one.
        seeds: the least number of each trained method.

    Raises:
        BadInput: no pack passes the checks; all reasons are in the message.
    """
    submissions: list[Submission] = []
    accepted: list[Path] = []
    for source in packs:
        faults = list(_faults(source, seeds))
        if not faults:
            faults = _clash([*accepted, source])
        if not faults:
            accepted.append(source)
        submissions.append(Submission(source.name, faults))
    if not accepted:
        raise BadInput(f"no pack passes the checks:\n{listing(submissions)}")
    merge(accepted, out)
    write_json(out / SUBMISSIONS, [submission._asdict() for submission in submissions])
    page.write(out, out / "report" / "index.html", published.load())
    return submissions


def listing(submissions: Sequence[Submission]) -> str:
    """Return the packs in words, each with what is wrong with it."""
    lines = []
    for submission in submissions:
        lines.append(f"{submission.pack}: {'accepted' if submission.accepted else 'refused'}")
        lines += [f"  {fault}" for fault in submission.faults]
    return "\n".join(lines)


def _faults(source: Path, seeds: int) -> Iterator[str]:
    """Yield what is wrong with one pack."""
    try:
        with pack.opened(source) as content:
            config = pack.configuration(source, content)
            yield from _unsure_origins(content)
            for run in runs(config):
                cls = methods.load(run.method)
                settings = method_settings(config, run.method, run.variant)
                same = [other for other in runs(config) if other[:3] == run[:3]]
                if run == same[0] and methods.is_random(cls, settings) and len(same) < seeds:
                    yield f"{run.method}/{run.variant} on {run.train}: {len(same)} of {seeds} seeds"
    except BadInput as error:
        yield str(error)


def _unsure_origins(content: Path) -> Iterator[str]:
    """Yield what the cells and trainings do not say of themselves, each fault once."""
    faults: dict[str, int] = {}
    for path in sorted((content / "cells").glob("*/*/*/*/*/*.json")):
        cell = read_cell(path)
        ours = load_probe(cell["probe"]).version
        if cell["version"] != ours:
            fault = f"the probe {cell['probe']} measured by version {cell['version']}, not {ours}"
            faults[fault] = faults.get(fault, 0) + 1
        for fault in _gaps(cell["provenance"]):
            faults[fault] = faults.get(fault, 0) + 1
    for path in sorted((content / "runs").glob("*/*/*/*/train.json")):
        for fault in _gaps(read_record(path)["provenance"]):
            faults[fault] = faults.get(fault, 0) + 1
    for fault, count in faults.items():
        yield f"{fault} ({count} files)"


def _gaps(provenance: dict[str, Any]) -> Iterator[str]:
    missing = [key for key in NEEDED if not provenance.get(key)]
    if missing:
        yield f"the provenance lacks {', '.join(missing)}"
    if len(str(provenance.get("commit"))) != 40:
        yield f"no commit of the code is known, but: {provenance.get('commit')}"
    elif provenance.get("dirty"):
        yield f"the code differed from its commit {provenance['commit'][:12]}"


def _clash(sources: Sequence[Path]) -> list[str]:
    """Return why the last source cannot stand beside the others."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            merge(sources, Path(folder) / "trial")
        except BadInput as error:
            return str(error).splitlines()
    return []
