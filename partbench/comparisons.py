"""Tests of the trained methods of a table against its floor controls.

A group is one metric in one setting, of all methods that were trained and measured on the same
data. Its tests share one Holm correction.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from partbench.metrics.intervals import by_group
from partbench.metrics.paired import Difference, holm, paired_difference, welch_difference
from partbench.probe import GROUP_COLUMN

GROUP = ["train", "eval", "probe", "metric", "setting"]
"""Numbers that agree in these are measured by the same ruler on the same data."""
COLUMNS: dict[str, Any] = {
    **dict.fromkeys(GROUP, str),
    "method": str,
    "variant": str,
    "control": str,
    "control_variant": str,
    "difference": float,
    "low": float,
    "high": float,
    "p": float,
    "p_holm": float,
    "samples": int,
    "reason": str,
}
METHOD_ALONE = "the method has one seed"
CONTROL_ALONE = "the control has one seed"
BOTH_ALONE = "both have one seed"
NOTHING_TO_TEST = "neither has a spread: no outcome by sample, and the seed changes nothing"


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

    @property
    def alone(self) -> bool:
        """Whether there is one seed where it would take several to see their spread."""
        return self.random and len(self.values) == 1


class Comparison(NamedTuple):
    """A method against a control."""

    result: Difference | None
    samples: int
    """Test samples behind the test; 0: it is over seeds alone, or there is none."""
    reason: str
    """Why there is no test."""


def compare(method: Measured, control: Measured) -> Comparison:
    """Return the test of a method against a control, by sample where there are such outcomes.

    Samples that do not count for a seed of either are left out of both. Without outcomes by sample,
    or if fewer than two count, the test is over seeds.

    Raises:
        ValueError: they were measured on different numbers of samples.
    """
    if method.alone or control.alone:
        both = method.alone and control.alone
        one = METHOD_ALONE if method.alone else CONTROL_ALONE
        return Comparison(None, 0, BOTH_ALONE if both else one)
    random = {"a_random": method.random, "b_random": control.random}
    a, b = method.outcomes, control.outcomes
    if a is not None and b is not None:
        common = a.counted & b.counted
        # Outcomes of less than two groups show no spread.
        pair = [outcomes.draws(common) for outcomes in (a, b)] if common.any() else []
        if pair and pair[0].shape[1] > 1:
            result = paired_difference(*pair, **random)
            return Comparison(result, int(common.sum()), "")
    if not (method.random or control.random):
        return Comparison(None, 0, NOTHING_TO_TEST)
    return Comparison(welch_difference(method.values, control.values, **random), 0, "")


def comparisons(table: pd.DataFrame, results: Path) -> pd.DataFrame:
    """Return a row for each trained method and floor control of a group, but for references.

    `difference` is the method's mean less the control's, in the unit of the number, with its 95 %
    interval; `p` is two-sided, and `p_holm` is corrected for all tests of the group. At most the
    outcomes of one method and of the group's controls are in memory at once, beside `FILES`.

    Args:
        table: rows of the metrics table, see `partbench.gather`.
        results: the results folder, whose cells have the outcomes.
    """
    rows: list[dict[str, Any]] = []
    judged = table[(table["status"] == "done") & ~table["reference"]]
    for key, group in judged.groupby(GROUP, sort=False):
        roles = dict(iter(group.groupby("role")))
        if not {"method", "floor"} <= set(roles):
            continue
        floors = [
            _measured(same, results)
            for _, same in roles["floor"].groupby(["method", "variant"], sort=False)
        ]
        of_group: list[dict[str, Any]] = []
        for _, same in roles["method"].groupby(["method", "variant"], sort=False):
            method = _measured(same, results)
            for floor in floors:
                compared = compare(method, floor)
                none = Difference(*4 * [float("nan")])
                of_group.append(
                    dict(zip(GROUP, key, strict=True))
                    | {"method": method.method, "variant": method.variant}
                    | {"control": floor.method, "control_variant": floor.variant}
                    | (compared.result or none)._asdict()
                    | {"samples": compared.samples, "reason": compared.reason}
                )
        tested = [row for row in of_group if not row["reason"]]
        corrected = holm([row["p"] for row in tested])
        for row, p in zip(tested, corrected, strict=True):
            row["p_holm"] = p
        rows += of_group
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


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


def _measured(rows: pd.DataFrame, results: Path) -> Measured:
    first = rows.iloc[0]
    values = rows["value"].to_numpy(np.float64)
    random = bool(rows["random"].any())
    alone = random and len(values) == 1
    outcomes = None if alone else outcomes_by_seed(rows, results)  # no test would read them
    return Measured(first["method"], first["variant"], random, values, outcomes)
