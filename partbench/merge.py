"""Several results folders or packs as one results folder.

A run, with its cells, comes from one source. Where two sources have the same run, their numbers
must agree: then the first source's stand, and of the second come the cells that it alone has, if
both measured the same training. Otherwise the sources are in conflict.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from partbench import gather, names, pack
from partbench.config import Config, check
from partbench.errors import BadInput
from partbench.files import aside_of, make_empty, put_in_place, sha256, write_json
from partbench.integrity import write_record
from partbench.jobs import FILE, JOINED, SKIPPED
from partbench.probe import read_cell
from partbench.run import Runtime

MOST = 10
"""Conflicts that a message shows."""


class Source(NamedTuple):
    """A results folder, or an opened pack."""

    given: Path
    """What the user named."""
    folder: Path
    config: Config


class Merged(NamedTuple):
    """What became of a merge."""

    cells: int
    repeated: int
    """Cells that another source had too, with the same numbers."""
    conflicts: list[str]
    """Runs and cells of later sources that were left out, with the reason."""


def merge(sources: Sequence[Path], out: Path, first_wins: bool = False) -> Merged:
    """Write a results folder with the cells of several, and its tables.

    Args:
        sources: results folders, or packs.
        out: results/NAME. Models and data are not copied.
        first_wins: where sources are in conflict, take the earliest and leave the others' out.

    Raises:
        BadInput: a source is none; two configure a data set, a method or a probe differently; they
            are in conflict; their cells cannot stand in one table (see `gather`).
    """
    names.check(out.name, str(out))
    with ExitStack() as stack:
        opened = [_source(given, stack.enter_context(pack.opened(given))) for given in sources]
        config = merge_configs(opened, out.name)
        aside = aside_of(out)
        make_empty(aside)
        merged = _copy(opened, aside)
        if merged.conflicts and not first_wins:
            shutil.rmtree(aside)
            more = len(merged.conflicts) - MOST
            listed = merged.conflicts[:MOST] + ([f"and {more} more"] if more > 0 else [])
            raise BadInput(
                "\n  ".join([f"{out} is not written: the sources are in conflict", *listed])
                + "\nLeave a source out, or let the first one win: --first-wins"
            )
        write_record(aside / "config.json", config.model_dump(mode="json"))
        write_json(aside / JOINED, [source.given.name for source in opened])
        try:
            tables = gather.gather(config, aside)
        except BadInput:
            shutil.rmtree(aside)
            raise
        gather.write(tables, aside)
        put_in_place(aside, out)
    return merged


def _source(given: Path, folder: Path) -> Source:
    return Source(given, folder, pack.configuration(given, folder))


def merge_configs(sources: Sequence[Source], name: str) -> Config:
    """Return the configuration whose runs are those of all sources.

    Raises:
        BadInput: two sources mean different things by the same name.
    """
    merged: dict[str, Any] = {
        "name": name,
        "seeds": sorted({seed for source in sources for seed in source.config.seeds}),
        "comparable": all(source.config.comparable for source in sources),
        "runtime": Runtime().model_dump(mode="json"),
        "plugins": list(dict.fromkeys(p for source in sources for p in source.config.plugins)),
        "data": _joined(sources, "data", lambda config: set(config.data)),
        "settings": _joined(
            sources, "settings", lambda config: {m for b in config.runs for m in b.methods}
        ),
        "probes": _joined(
            sources, "probes", lambda config: {p for b in config.runs for p in b.probes}
        ),
        "runs": [],
    }
    for source in sources:
        for block in source.config.runs:
            values = block.model_dump(mode="json")
            values["seeds"] = list(block.seeds or source.config.seeds)
            if values not in merged["runs"]:
                merged["runs"].append(values)
    return check(merged, name)


def _joined(sources: Sequence[Source], key: str, used: Any) -> dict[str, Any]:
    """Return the union of one key of the configurations; those that use a name must agree on it.

    Args:
        sources: the sources.
        key: of a configuration.
        used: gives the names under that key that a configuration depends on, set or not.
    """
    joined: dict[str, tuple[Any, Path]] = {}
    for source in sources:
        values: Mapping[str, Any] = getattr(source.config, key)
        for name in sorted(used(source.config)):
            value = values.get(name, {})
            first, whose = joined.setdefault(name, (value, source.given))
            if first != value:
                raise BadInput(
                    f"{key}.{name} is {json.dumps(first)} in {whose}, and {json.dumps(value)} in "
                    f"{source.given}: numbers of both cannot stand in one table under one name. "
                    "Rename one in its configuration and run it again, or merge without it"
                )
    return {name: value for name, (value, _) in joined.items() if value}


def _copy(sources: Sequence[Source], out: Path) -> Merged:
    """Copy what belongs into a pack from all sources, run by run."""
    cells, repeated, conflicts = 0, 0, []
    whose: dict[str, Source] = {}
    jobs: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for source in sources:
        paths = pack.members(source.folder)
        by_run = _by_run(paths)
        for run, files in by_run.items():
            first = whose.setdefault(run, source)
            if first is not source:
                same, fault = _compare(first, source, run, files)
                if fault:
                    conflicts.append(fault)
                    continue
                repeated += same
            for name in files:
                if not (out / name).exists():
                    _copy_file(paths[name], out / name)
                    cells += name.startswith("cells/") and name.endswith(".json")
        for name in paths.keys() - {name for files in by_run.values() for name in files}:
            shared = name.startswith(("data/", "logs/")) and name not in (FILE, SKIPPED)
            if shared and not (out / name).exists():
                _copy_file(paths[name], out / name)
        for job in _values(source.folder / FILE, []):
            jobs.setdefault(job[0], job)
        skipped = _values(source.folder / SKIPPED, {}) | skipped
    write_json(out / FILE, list(jobs.values()))
    write_json(out / SKIPPED, skipped)
    return Merged(cells, repeated, conflicts)


def _by_run(paths: Mapping[str, Path]) -> dict[str, list[str]]:
    """Return the files of each run, those of its cells included."""
    runs: dict[str, list[str]] = {}
    for name in paths:
        kind, *rest = name.split("/")
        if kind in ("runs", "cells"):
            runs.setdefault("/".join(rest[:4]), []).append(name)
    return runs


def _compare(first: Source, other: Source, run: str, files: Sequence[str]) -> tuple[int, str]:
    """Return how many cells both have with equal numbers, and why a run cannot be joined, if so."""
    same = 0
    extra = []
    for name in files:
        if not (name.startswith("cells/") and name.endswith(".json")):
            continue
        if not (first.folder / name).exists():
            extra.append(name)
            continue
        ours, theirs = (_numbers(source.folder / name) for source in (first, other))
        for key in ours.keys() | theirs.keys():
            if ours.get(key) != theirs.get(key):
                return same, (
                    f"{name[len('cells/') : -len('.json')]}: {key} is {ours.get(key)} in "
                    f"{first.given}, and {theirs.get(key)} in {other.given}"
                )
        same += 1
    records = [source.folder / "runs" / run / "train.json" for source in (first, other)]
    if extra and sha256(records[0]) != sha256(records[1]):
        return same, (
            f"{run}: {first.given} and {other.given} each trained it, and only {other.given} "
            f"measured {len(extra)} cells of its own training"
        )
    return same, ""


def _numbers(path: Path) -> dict[str, Any]:
    """Return the numbers of a cell by name and setting, and what they were measured by and on."""
    cell = read_cell(path)
    numbers = {
        f"{metric['metric']} {json.dumps(metric['setting'], sort_keys=True)}": metric["value"]
        for metric in cell["metrics"]
    }
    return numbers | {key: cell[key] for key in ("version", "data_checksum", "settings")}


def _values(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return default


def _copy_file(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
