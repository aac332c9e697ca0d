"""What changed between two runs of the workflow: numbers, settings, commits, definitions.

A number of one is compared with that of the same method, data, probe, metric and setting of the
other. Numbers that different versions of a definition made, or that were measured or trained on
data with different checksums, are not compared, and the reason is given. The test pairs the same
seeds on the same test samples, see `partbench.metrics.paired.paired_by_seed`; p values are
corrected for all numbers that were tested (Holm). The rules on seeds are those of
`partbench.judgement`.
"""

import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from partbench import pack
from partbench.comparisons import CELL, Outcomes, outcomes_by_seed, seeds_asked
from partbench.errors import BadInput
from partbench.gather import COLUMNS, KEYS
from partbench.integrity import read_record
from partbench.judgement import NOTHING_TO_TEST, UNDEFINED, Outcome, Seeds, outcome
from partbench.metrics.paired import (
    Parts,
    differences,
    holm,
    paired_parts,
    parts_by_seed,
    welch_parts,
)
from partbench.settings import nearest

TABLE = "metrics.parquet"
ONE_SEED = "one seed"
LACKS = "{} lacks seeds that it asks for"
GRID = ("name", "runs")
"""Keys of a configuration that say which cells there are: the numbers themselves show that."""
NO_COMMON = "they share no seed"
ONLY_A, ONLY_B = "not measured in B", "not measured in A"
State = Outcome | Literal["lost", "identical", "not compared", "found", "only in A", "only in B"]
"""`lost`: A has the number, and its job failed or was not done in B; `found`: the reverse."""
STATES: tuple[State, ...] = (
    *("worse", "lost", "better", "found", "untested", "same", "identical", "not compared"),
    *("only in A", "only in B"),
)
"""In the order of a reader's interest."""
BAD: tuple[State, ...] = ("worse", "lost")
"""What makes B worse than A."""


class Run(NamedTuple):
    """One run of the workflow, as it was written."""

    path: Path
    metrics: pd.DataFrame
    """See `partbench.gather`."""
    results: Path | None
    """The folder with its cells, if it is there: without it there are no outcomes by sample."""
    config: dict[str, Any]
    """Empty if it is not known."""


class Change(NamedTuple):
    """One number in both runs."""

    key: dict[str, str]
    """What `partbench.gather.KEYS` names, and `setting` in words."""
    state: State
    a: float
    """Mean over the seeds of A; NaN if there is none."""
    b: float
    difference: float
    """B less A, over the seeds that both have."""
    low: float
    high: float
    p: float
    """Corrected; NaN without a test."""
    unit: str
    better: str
    seeds: int
    """Seeds that both have."""
    samples: int
    """Test samples behind the test; 0: it is over seeds alone, or there is none."""
    reason: str
    """Why it was not compared, or has no verdict."""


class Setting(NamedTuple):
    """A setting that differs."""

    where: str
    key: str
    a: Any
    b: Any


class Changes(NamedTuple):
    """All that changed from A to B."""

    a: Run
    b: Run
    numbers: list[Change]
    """In the order of `STATES`."""
    settings: list[Setting]
    commits: tuple[list[str], list[str]]
    versions: list[tuple[str, str, str]]
    """(probe, in A, in B) of definitions whose versions differ."""
    code: list[tuple[str, str, str]]
    """(what, in A, in B) of fingerprints of code that differ."""

    @property
    def counts(self) -> dict[State, int]:
        """How many numbers are in each state, but for those without any."""
        counts = Counter(change.state for change in self.numbers)
        return {state: counts[state] for state in STATES if counts[state]}

    @property
    def is_worse(self) -> bool:
        """Whether a number is significantly worse in B, or was lost there."""
        return any(change.state in BAD for change in self.numbers)


@contextmanager
def opened(path: Path) -> Iterator[Run]:
    """Yield a run, which can be compared while it is open.

    Args:
        path: a results folder, a pack, or a metrics table.

    Raises:
        BadInput: there is no such table, it is not one of partbench's, or the pack was changed.
    """
    if not path.exists():
        raise BadInput(f"{path} does not exist; name a results folder, a pack or a {TABLE}")
    if path.is_dir() or zipfile.is_zipfile(path):
        with pack.opened(path) as folder:
            yield _read(path, folder / TABLE)
    else:
        yield _read(path, path)


def _read(path: Path, table: Path) -> Run:
    """Return the run that a table and what lies beside it hold; `path` is what the user named."""
    if not table.exists():
        raise BadInput(
            f"{path} has no {TABLE}; name a results folder whose workflow has come to its end"
        )
    try:
        metrics = pd.read_parquet(table)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is no parquet table: {error}; name a {TABLE}") from None
    missing = [column for column in COLUMNS if column not in metrics]
    if missing:
        raise BadInput(
            f"{path} lacks the columns {', '.join(missing)}: it is no {TABLE} of this version; "
            "gather its results again"
        )
    folder = table.parent
    config = folder / "config.json"
    results = folder if (folder / "cells").is_dir() else None
    return Run(path, metrics, results, read_record(config) if config.exists() else {})


def changes(
    a: Run, b: Run, *, probes: Collection[str] = (), metrics: Collection[str] = ()
) -> Changes:
    """Return what changed from A to B.

    Args:
        a: the earlier run.
        b: the later run.
        probes: the only ones whose numbers are compared; all, if there is none.
        metrics: likewise.

    Raises:
        BadInput: the runs share no number, or a probe or metric is in neither.
    """
    both = pd.concat([a.metrics, b.metrics])
    for column, names in (("probe", probes), ("metric", metrics)):
        known = set(both[column]) - {""}
        for name in names:
            if name not in known:
                raise BadInput(f"no {column} {name} in either run; {nearest(name, known)}")
    in_a, in_b = (_wanted(run.metrics, probes, metrics) for run in (a, b))
    numbers, parts = _numbers(a, b, in_a, in_b)
    if not {change.state for change in numbers} - {"only in A", "only in B"}:
        raise BadInput(f"{a.path} and {b.path} share no number; compare two runs of the same cells")
    return Changes(
        *(a, b, _tested(numbers, parts), _settings(a, b), (_commits(a), _commits(b))),
        versions=_differing(in_a, in_b, "version", ["probe"]),
        code=_differing(in_a, in_b, "code", ["probe"])
        + _differing(in_a, in_b, "train_code", ["method", "variant"]),
    )


def _wanted(metrics: pd.DataFrame, probes: Collection[str], names: Collection[str]) -> pd.DataFrame:
    """Return the numbers that are compared, and the cells without one."""
    fits = metrics["status"] != "not applicable"
    if probes:
        fits &= metrics["probe"].isin(probes)
    if names:
        fits &= metrics["metric"].isin([*names, ""])
    return metrics[fits]


def _numbers(
    a: Run, b: Run, in_a: pd.DataFrame, in_b: pd.DataFrame
) -> tuple[list[Change], dict[int, Parts]]:
    """Return all numbers, and what the tests of those that are tested need, by their place."""
    asked = [seeds_asked(rows) for rows in (in_a, in_b)]
    done = [
        dict(iter(rows[rows["status"] == "done"].groupby([*KEYS], sort=False)))
        for rows in (in_a, in_b)
    ]
    found: list[Change] = []
    parts: dict[int, Parts] = {}
    for key in dict.fromkeys([*done[0], *done[1]]):
        named = dict(zip(KEYS, map(str, key), strict=True))
        cell = tuple(named[column] for column in CELL)
        first, second = (of_run.get(key) for of_run in done)
        one = first if first is not None else second
        assert one is not None
        head: dict[str, Any] = {
            "key": named,
            "unit": one["unit"].iloc[0],
            "better": one["better"].iloc[0],
        }
        means = [_mean(rows) for rows in (first, second)]
        nothing = dict.fromkeys(("difference", "low", "high", "p"), float("nan"))
        base: dict[str, Any] = {
            **head,
            "a": means[0],
            "b": means[1],
            **nothing,
            "seeds": 0,
            "samples": 0,
        }
        if first is None or second is None:
            other = asked[1] if second is None else asked[0]
            gone: State = "lost" if second is None else "found"
            only: State = "only in A" if second is None else "only in B"
            table = in_b if second is None else in_a
            failed = _failure(table, cell) if cell in other else ""
            reason = failed or (ONLY_A if second is None else ONLY_B)
            found.append(Change(**base, state=gone if failed else only, reason=reason))
            continue
        obstacle = _obstacle(first, second)
        if obstacle:
            found.append(Change(**base, state="not compared", reason=obstacle))
            continue
        change, needs = _compared(base, first, second, (a, b), [n[cell] for n in asked])
        if needs is not None:
            parts[len(found)] = needs
        found.append(change)
    return found, parts


def _mean(rows: pd.DataFrame | None) -> float:
    """Return the mean over seeds, NaN without any."""
    return float(rows["value"].mean()) if rows is not None else float("nan")


def _failure(table: pd.DataFrame, cell: tuple[str, ...]) -> str:
    """Return why a cell that was asked for has no number, empty if it is done."""
    rows = table[(table[CELL] == list(cell)).all(axis=1)]
    empty = rows[rows["status"] != "done"]
    if len(empty) < len(rows) or not len(rows):
        return ""
    lines = [line for line in str(empty["reason"].iloc[0]).splitlines() if line.strip()]
    return f"{empty['status'].iloc[0]}: {lines[-1] if lines else 'no reason was recorded'}"


def _obstacle(first: pd.DataFrame, second: pd.DataFrame) -> str:
    """Return why two numbers of the same name must not be compared, or empty."""
    for column, what in (
        ("version", "versions of the definition differ"),
        ("data_checksum", "checksums of the evaluation data differ"),
        ("train_checksum", "checksums of the training data differ"),
        ("unit", "units differ"),
        ("better", "directions differ"),
    ):
        values = [sorted({str(value) for value in rows[column]}) for rows in (first, second)]
        if values[0] != values[1]:
            said = " against ".join(", ".join(v[:12] or "none" for v in one) for one in values)
            return f"{what}: {said}"
    return ""


def _compared(
    base: dict[str, Any],
    first: pd.DataFrame,
    second: pd.DataFrame,
    runs: tuple[Run, Run],
    asked: Sequence[int],
) -> tuple[Change, Parts | None]:
    """Return a number of both, before the correction, and what its test needs."""
    random = bool(first["random"].any() or second["random"].any())
    lacks = [
        LACKS.format(name)
        for name, rows, wanted in zip("AB", (first, second), asked, strict=True)
        if Seeds(random, len(rows), wanted).incomplete
    ]
    reason = " and ".join(lacks)
    seeds = sorted(set(first["seed"]) & set(second["seed"]))
    if not random:  # the seed changes nothing, so any two are the same
        first, second = first.iloc[:1], second.iloc[:1]
    else:
        first, second = (
            rows[rows["seed"].isin(seeds)].sort_values("seed") for rows in (first, second)
        )
    values = [rows["value"].to_numpy(np.float64) for rows in (first, second)]
    counted = len(values[0])
    if not counted:
        return Change(**base, state="untested", reason=NO_COMMON), None
    base = {**base, "seeds": counted, "difference": float((values[1] - values[0]).mean())}
    if not reason and np.array_equal(values[0], values[1], equal_nan=True):
        return Change(**base, state="identical", reason=""), None
    if not np.isfinite(base["difference"]):
        return Change(**base, state="untested", reason=reason or UNDEFINED), None
    if random and counted == 1:
        return Change(**base, state="untested", reason=ONE_SEED), None
    pair = _draws(first, second, runs)
    if pair is not None:
        needs = (
            parts_by_seed(pair[1], pair[0])
            if random
            else paired_parts(pair[1], pair[0], a_random=False, b_random=False)
        )
        return Change(**{**base, "samples": pair[2]}, state="untested", reason=reason), needs
    if not random:
        return Change(**base, state="untested", reason=NOTHING_TO_TEST), None
    needs = welch_parts(values[1] - values[0], [0.0], b_random=False)
    return Change(**base, state="untested", reason=reason), needs


def _draws(
    first: pd.DataFrame, second: pd.DataFrame, runs: tuple[Run, Run]
) -> tuple[NDArray[np.float64], NDArray[np.float64], int] | None:
    """Return the outcomes of A and of B on the samples that count in both, and their number.

    None if one has none, or fewer than two draws.
    """
    kept: list[Outcomes] = []
    for rows, run in zip((first, second), runs, strict=True):
        outcomes = None
        if run.results is not None and all(
            (run.results / path).with_suffix(".parquet").exists() for path in rows["path"]
        ):
            outcomes = outcomes_by_seed(rows, run.results)
        if outcomes is None:
            return None
        kept.append(outcomes)
    a, b = kept
    if a.values.shape[1] != b.values.shape[1]:
        return None
    common = a.counted & b.counted
    if not common.any():
        return None
    pair = [outcomes.draws(common) for outcomes in kept]
    if pair[0].shape != pair[1].shape or pair[0].shape[1] < 2:
        return None
    return pair[0], pair[1], int(common.sum())


def _tested(numbers: list[Change], parts: Mapping[int, Parts]) -> list[Change]:
    """Return the numbers with their intervals and tests, in the order of `STATES`."""
    results = dict(zip(parts, differences(list(parts.values())), strict=True))
    judged = [place for place in parts if not numbers[place].reason]
    corrected = dict(zip(judged, holm([results[i].p for i in judged]), strict=True))
    found = []
    for place, change in enumerate(numbers):
        if place in results:
            size, low, high, _ = results[place]
            p = corrected.get(place, float("nan"))
            row = {"difference": size, "p_holm": p, "reason": change.reason}
            change = change._replace(
                state=outcome(row, change.better), difference=size, low=low, high=high, p=p
            )
        found.append(change)
    return sorted(found, key=lambda change: STATES.index(change.state))


def _settings(a: Run, b: Run) -> list[Setting]:
    """Return settings that differ: of the configurations, and of the trainings of both."""
    first, second = (_flat(run.config) for run in (a, b))
    rows = _pairs(first, second)
    found = [Setting("configuration", *row) for row in rows if row[0] not in GRID]
    trained = [_trainings(run) for run in (a, b)]
    for name in sorted(set(trained[0]) & set(trained[1])):
        found += [Setting(name, *row) for row in _pairs(trained[0][name], trained[1][name])]
    return found


def _trainings(run: Run) -> dict[str, dict[str, Any]]:
    """Return method/variant/train -> settings of its first training."""
    found: dict[str, dict[str, Any]] = {}
    paths = sorted((run.results / "runs").glob("*/*/*/*/train.json")) if run.results else []
    for path in paths:
        name = "/".join(path.parts[-5:-2])
        if name not in found:
            found[name] = _flat(read_record(path).get("settings", {}))
    return found


def _flat(value: Any, above: str = "") -> dict[str, Any]:
    """Return nested settings as one mapping, keys joined by dots."""
    if not isinstance(value, dict) or (above and not value):
        return {above: value}
    rows: dict[str, Any] = {}
    for key, inner in value.items():
        rows |= _flat(inner, f"{above}.{key}" if above else str(key))
    return rows


def _pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (key, in a, in b) of what differs; None where one lacks it."""
    keys = dict.fromkeys([*a, *b])
    return [(key, a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)]


def _commits(run: Run) -> list[str]:
    """Return the commits that made a run's numbers."""
    done = run.metrics[run.metrics["status"] == "done"]
    rows = done[["commit", "dirty"]].drop_duplicates().itertuples(index=False)
    return sorted(
        str(row.commit) + (" with uncommitted changes" if row.dirty else "") for row in rows
    )


def _differing(
    a: pd.DataFrame, b: pd.DataFrame, column: str, by: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Return (name, in A, in B) where a column's values differ, by probe or by method."""
    values: list[dict[str, str]] = []
    for rows in (a, b):
        done = rows[rows["status"] == "done"]
        names = done[list(by)].agg("/".join, axis=1) if len(done) else pd.Series(dtype=str)
        of_run = done[column].astype(str).groupby(names, sort=False).unique()
        values.append({str(n): ", ".join(sorted(v)) for n, v in of_run.items()})
    shared = [name for name in values[0] if name in values[1]]
    return [(n, values[0][n], values[1][n]) for n in shared if values[0][n] != values[1][n]]
