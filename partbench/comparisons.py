"""Tests of the trained methods of a table, against their floors and against each other.

A group is one metric in one setting, of all methods that were trained and measured on the same
data. Its tests of two kinds share a Holm correction each: whether a method beats the floors that it
must beat, and which of two methods is better. `partbench.judgement` has the rules.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from partbench.judgement import (
    NOTHING_TO_TEST,
    OTHER_FAILED,
    UNDEFINED,
    Relation,
    Seeds,
    relations,
    why_untested,
)
from partbench.metrics.intervals import by_group
from partbench.metrics.paired import (
    Difference,
    Parts,
    Profile,
    differences,
    holm,
    parts_of,
    profile,
    welch_parts,
)
from partbench.probe import GROUP_COLUMN

GROUP = ["train", "eval", "probe", "metric", "setting"]
"""Numbers that agree in these are measured by the same ruler on the same data."""
COLUMNS: dict[str, Any] = {
    **dict.fromkeys(GROUP, str),
    "method": str,
    "variant": str,
    "control": str,
    "control_variant": str,
    "relation": str,
    "difference": float,
    "low": float,
    "high": float,
    "p": float,
    "p_holm": float,
    "samples": int,
    "reason": str,
}
"""`control` is what the method is compared with, a floor or another method, as `relation` says;
see `partbench.judgement.Relation`. Two methods have one row, in the order of the table."""
CELL = ["method", "variant", "train", "eval", "probe"]


class Outcomes(NamedTuple):
    """What a number is the mean of."""

    values: NDArray[np.float64]
    """[S, N], by seed and test sample, in the unit of the number; NaN where a sample does not
    count."""
    groups: NDArray[np.int64] | None = None
    """[N], where test samples come in groups that are not independent in themselves."""

    @property
    def counted(self) -> NDArray[np.bool_]:
        """[N], the samples that count for every seed."""
        return np.asarray(np.isfinite(self.values).all(0))

    def draws(self, counted: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return [S, G]: outcomes that are independent draws, of the samples or of their groups."""
        values = self.values[:, counted]
        return values if self.groups is None else by_group(values, self.groups[counted])


class Measured(NamedTuple):
    """One number of one method over its seeds."""

    method: str
    variant: str
    random: bool
    """Whether the seed changes the number."""
    values: NDArray[np.float64]
    """[S], by seed."""
    outcomes: Outcomes | None
    asked: int = 0
    """Seeds that the configuration asks for."""

    @property
    def seeds(self) -> Seeds:
        """The seeds behind the number, for the rules."""
        return Seeds(self.random, len(self.values), self.asked)


class Comparison(NamedTuple):
    """A method against a floor, or against another method."""

    parts: Parts | None
    """What the test needs; None: nothing varies that could be tested, or one seed shows nothing."""
    difference: float
    samples: int
    """Test samples behind the test; 0: it is over seeds alone, or there is none."""
    reason: str
    """Why there is no verdict."""

    @property
    def result(self) -> Difference | None:
        """The interval and the test, before any correction."""
        return differences([self.parts])[0] if self.parts else None


def compare(
    method: Measured,
    control: Measured,
    profiles: dict[tuple[str, str, bytes], Profile] | None = None,
) -> Comparison:
    """Return what the test of a method against another needs, by sample where that is known.

    Samples that do not count for a seed of either are left out of both. Without outcomes by sample,
    or if fewer than two count, the test is over seeds.

    Args:
        method: the method.
        control: what it is compared with.
        profiles: of the methods of a group, by name and the samples that count; filled as needed.

    Raises:
        ValueError: they were measured on different numbers of samples.
    """
    difference = float(method.values.mean() - control.values.mean())
    reason = why_untested(method.seeds, control.seeds)
    if method.seeds.alone or control.seeds.alone:
        return Comparison(None, difference, 0, reason)
    if not np.isfinite(difference):
        return Comparison(None, float("nan"), 0, reason or UNDEFINED)
    random = {"a_random": method.random, "b_random": control.random}
    a, b = method.outcomes, control.outcomes
    if a is not None and b is not None:
        common = a.counted & b.counted
        known = profiles if profiles is not None else {}
        one, other = (_profile(number, common, known) for number in (method, control))
        if one is not None and other is not None:
            parts = parts_of(one, other)
            return Comparison(parts, parts.difference, int(common.sum()), reason)
    if not (method.random or control.random):
        return Comparison(None, difference, 0, NOTHING_TO_TEST)
    parts = welch_parts(method.values, control.values, **random)
    return Comparison(parts, difference, 0, reason)


def _profile(
    number: Measured,
    common: NDArray[np.bool_],
    known: dict[tuple[str, str, bytes], Profile],
) -> Profile | None:
    """Return a method's profile over the samples that count; None of fewer than two draws."""
    key = (number.method, number.variant, common.tobytes())
    if key not in known:
        if number.outcomes is None or not common.any():
            return None
        draws = number.outcomes.draws(common)
        if draws.shape[1] < 2:  # outcomes of less than two groups show no spread
            return None
        known[key] = profile(draws, random=number.random)
    return known[key]


def comparisons(table: pd.DataFrame, results: Path) -> pd.DataFrame:
    """Return a row for each trained method and each of its floors, and for each two methods.

    `difference` is the method's mean less the other's, in the unit of the number, with its 95 %
    interval; `p` is two-sided, and `p_holm` is corrected for all tests of its kind in the group.
    Where `reason` says why there is no verdict, there is no p, and an interval only if several
    seeds are there. A floor of which every seed was lost has a row, too: nobody beats what was not
    measured. References, which are constants of the data, are not compared. The outcomes of one
    group are in memory at once, beside `FILES`.

    Args:
        table: rows of the metrics table, see `partbench.gather`; cells without a number show which
            seeds were asked for.
        results: the results folder, whose cells have the outcomes.
    """
    rows: list[dict[str, Any]] = []
    asked = seeds_asked(table)
    lost = _lost_floors(table)
    judged = table[(table["status"] == "done") & ~table["reference"]]
    for key, group in judged.groupby(GROUP, sort=False):
        place = {column: str(value) for column, value in zip(GROUP, key, strict=True)}
        if "method" not in set(group["role"]):
            continue
        measured = {
            (str(name[0]), str(name[1])): _measured(same, results, asked)
            for name, same in group[group["role"] != "ceiling"].groupby(
                ["method", "variant"], sort=False
            )
        }
        by_role = {
            role: list(dict.fromkeys(zip(same["method"], same["variant"], strict=True)))
            for role, same in group.groupby("role", sort=False)
        }
        floors = by_role.get("floor", []) + lost.get(
            (place["train"], place["eval"], place["probe"]), []
        )
        against: list[tuple[tuple[str, str], tuple[str, str], Relation]] = []
        for one in by_role["method"]:
            against += [(one, *item) for item in relations(*one, floors).items()]
        against += [(one, other, "method") for one, other in combinations(by_role["method"], 2)]
        rows += _tested(place, measured, against)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def seeds_asked(table: pd.DataFrame) -> dict[tuple[str, ...], int]:
    """Return how many seeds were asked for, by `CELL`, whatever became of them.

    Args:
        table: the metrics table, with the rows of cells that failed or are missing.
    """
    cells = table[table["status"] != "not applicable"]
    seeds = cells.groupby(CELL, sort=False)["seed"].nunique()
    return dict(zip(seeds.index.tolist(), seeds.tolist(), strict=True))


def _lost_floors(table: pd.DataFrame) -> dict[tuple[str, ...], list[tuple[str, str]]]:
    """Return the floors that were asked for and have no number, by train, eval and probe."""
    floors = table[(table["role"] == "floor") & (table["status"] != "not applicable")]
    measured = floors.groupby(CELL, sort=False)["status"].agg(lambda states: "done" in set(states))
    lost: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for method, variant, *task in measured[~measured.astype(bool)].index:
        lost.setdefault(tuple(task), []).append((method, variant))
    return lost


def _tested(
    place: Mapping[str, Any],
    measured: Mapping[tuple[str, str], Measured],
    against: Sequence[tuple[tuple[str, str], tuple[str, str], Relation]],
) -> list[dict[str, Any]]:
    """Return the rows of one group, tested at once."""
    profiles: dict[tuple[str, str, bytes], Profile] = {}
    pairs = [
        compare(measured[one], measured[other], profiles)
        if other in measured
        else Comparison(None, float("nan"), 0, OTHER_FAILED)
        for one, other, _ in against
    ]
    found = iter(differences([pair.parts for pair in pairs if pair.parts]))
    rows = []
    for pair, (one, other, relation) in zip(pairs, against, strict=True):
        nan = float("nan")
        result = next(found) if pair.parts else Difference(pair.difference, nan, nan, nan)
        if pair.reason:
            result = result._replace(p=nan)
        rows.append(
            {**place, "method": one[0], "variant": one[1]}
            | {"control": other[0], "control_variant": other[1], "relation": relation}
            | result._asdict()
            | {"p_holm": nan, "samples": pair.samples, "reason": pair.reason}
        )
    for kind in (("floor", "self"), ("method",)):
        family = [row for row in rows if row["relation"] in kind and not row["reason"]]
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = p
    return rows


def outcomes_by_seed(rows: pd.DataFrame, results: Path) -> Outcomes | None:
    """Return the outcomes behind a number; None if a seed has none.

    Args:
        rows: of the metrics table, one number of one method, a row a seed.
        results: the results folder.

    Raises:
        ValueError: seeds were measured on different numbers of samples.
    """
    if not all(rows["samples"]):
        return None
    outcomes, groups = [], None
    for path, column, scale in zip(rows["path"], rows["samples"], rows["scale"], strict=True):
        kept = FILES.read((results / path).with_suffix(".parquet"))
        outcomes.append(scale * kept[column].to_numpy(np.float64))
        has_groups = GROUP_COLUMN in kept.columns
        groups = kept[GROUP_COLUMN].to_numpy(np.int64) if has_groups else None
    return Outcomes(np.stack(outcomes), groups)


class Files:
    """The cells' tables of outcomes; those that were read last stay in memory.

    A cell's numbers are asked for one after another, for the summary and for every test.
    """

    def __init__(self, most: int = 2**29) -> None:
        """Keep up to `most` bytes."""
        self.most = most
        self._kept: OrderedDict[tuple[Path, int, int], pd.DataFrame] = OrderedDict()
        self._bytes = 0

    def read(self, file: Path) -> pd.DataFrame:
        """Return a parquet file; it is read again if it changed meanwhile."""
        status = file.stat()
        key = (file, status.st_size, status.st_mtime_ns)
        if key not in self._kept:
            self._kept[key] = pd.read_parquet(file)
            self._bytes += _bytes(self._kept[key])
        self._kept.move_to_end(key)
        while self._bytes > self.most and len(self._kept) > 1:
            self._bytes -= _bytes(self._kept.popitem(last=False)[1])
        return self._kept[key]


FILES = Files()


def _bytes(table: pd.DataFrame) -> int:
    return int(table.memory_usage(deep=True).sum())


def _measured(rows: pd.DataFrame, results: Path, asked: Mapping[tuple[str, ...], int]) -> Measured:
    first = rows.iloc[0]
    values = rows["value"].to_numpy(np.float64)
    random = bool(rows["random"].any())
    n = asked[tuple(str(first[column]) for column in CELL)]
    alone = Seeds(random, len(values), n).alone
    outcomes = None if alone else outcomes_by_seed(rows, results)  # no test would read them
    return Measured(first["method"], first["variant"], random, values, outcomes, n)
