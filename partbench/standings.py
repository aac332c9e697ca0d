"""How the methods of a task stand, and what all tasks say together: for the report's pages.

Everything follows from the tables of `partbench.gather`. What to call for what:

- a leaderboard, its rank groups and gains: `standings` (one call a task, metric and setting);
- one row of the pairwise table, in either direction: `against`;
- the grid's scale, floor 0 and ceiling 1: `ends`, with `partbench.metrics.ranking.scaled`;
- interquartile mean and probability of improvement over tasks: `over_tasks`, `improvement`;
- whether two rulers agree: `agreement`, which also returns the points to plot;
- accuracy against hours: `partbench.metrics.ranking.pareto_front`;
- words for an outcome and the rules behind it: `partbench.judgement`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from partbench.judgement import Outcome, Relation, State, is_untrained, outcome, state
from partbench.metrics.aggregate import (
    Improvement,
    interquartile_mean,
    probability_of_improvement,
)
from partbench.metrics.agreement import Agreement, rank_agreement
from partbench.metrics.intervals import Interval
from partbench.metrics.ranking import rank_groups, scaled

METHOD = ["method", "variant"]
TURNED: Mapping[Outcome, Outcome] = {"better": "worse", "worse": "better"}


class Ends(NamedTuple):
    """What is drawn as 0 and as 1 on a task."""

    floor: float
    """The best mean of the floor controls that every method must beat; NaN if there is none."""
    ceiling: float
    """The best mean of the ceiling controls; NaN if there is none."""


class Pair(NamedTuple):
    """A method against another or a floor, seen from the method."""

    method: str
    variant: str
    """Of what it is compared with."""
    outcome: Outcome
    difference: float
    """The method's mean less the other's, in the number's unit; NaN if it is not known."""
    low: float
    high: float
    p: float
    """Corrected (Holm) for the tests of its kind on the task."""
    reason: str
    """Why there is no verdict; empty if there is one."""


class Standing(NamedTuple):
    """One method or control of a task; of a trained method also what was tested."""

    method: str
    variant: str
    role: str
    mean: float
    """NaN if no seed has a number."""
    low: float
    high: float
    values: tuple[float, ...]
    """By seed."""
    seeds: int
    asked: int
    """Seeds that the configuration asks for."""
    scaled: float
    """Floor 0, ceiling 1; NaN if an end is missing."""
    groups: tuple[int, ...]
    """Rank groups, see `partbench.metrics.ranking.rank_groups`; none of a control, or where no
    test has a verdict."""
    state: State
    """Whether it beats every floor that it must beat."""
    floors: tuple[Pair, ...]
    """Against the floor controls that every method must beat."""
    gain: Pair | None
    """Against its own untrained network."""
    others: tuple[Pair, ...]
    """Against each other trained method, best first."""
    failure: str
    """The reason of its first seed without a number, as the metrics table has it."""


def standings(
    summary: pd.DataFrame, comparisons: pd.DataFrame, metrics: pd.DataFrame
) -> list[Standing]:
    """Return the methods and controls of a task, best first; those without a number stand last.

    Args:
        summary: rows of the summary of one task: they agree in `partbench.comparisons.GROUP`.
        comparisons: of the same task.
        metrics: of the same train, eval and probe: cells that failed or are missing show who was
            to be measured.
    """
    better = str(summary["better"].iloc[0]) if len(summary) else "higher"
    rows = {(row["method"], row["variant"]): row for row in _records(summary)}
    cells = metrics[metrics["status"] != "not applicable"]
    wanted = {(str(n[0]), str(n[1])): same for n, same in cells.groupby(METHOD, sort=False)}
    names = sorted(rows, key=lambda name: _place(rows[name]["mean"], better))
    # A method whose cells are done and which lacks this number does not offer it: it did not fail.
    names += [
        n for n, same in wanted.items() if n not in rows and "done" not in set(same["status"])
    ]
    trained = [n for n in names if n in rows and rows[n]["role"] == "method"]
    floor, ceiling = ends(summary)
    pairs = _pairs(comparisons, better)
    groups = _groups(trained, rows, pairs, better)
    found = []
    for name in names:
        same = wanted.get(name, cells.head(0))
        row = rows.get(name, {})
        mean = float(row.get("mean", math.nan))
        own = {other: pair for (one, other), pair in pairs.items() if one == name}
        kinds = {other: pair for other, (relation, pair) in own.items() if relation != "method"}
        gain = [pair for relation, pair in own.values() if relation == "self"]
        empty = same[same["status"] != "done"]
        found.append(
            Standing(
                *name,
                role=str(row.get("role") or same["role"].iloc[0]),
                mean=mean,
                low=float(row.get("low", math.nan)),
                high=float(row.get("high", math.nan)),
                values=tuple(map(float, row.get("values", ()))),
                seeds=int(row.get("seeds", 0)),
                asked=max(int(same["seed"].nunique()), int(row.get("seeds", 0))),
                scaled=float(scaled(mean, floor, ceiling)),
                groups=groups.get(name, ()),
                state=state([pair.outcome for pair in kinds.values()]),
                floors=tuple(pair for relation, pair in own.values() if relation == "floor"),
                gain=gain[0] if gain else None,
                others=tuple(own[other][1] for other in trained if other in own),
                failure=str(empty["reason"].iloc[0]) if len(empty) else "",
            )
        )
    return found


def against(
    comparisons: pd.DataFrame, one: tuple[str, str], other: tuple[str, str], better: str
) -> Pair | None:
    """Return how one method stands to another, in whichever order the table has them.

    Args:
        comparisons: of one task.
        one: method and variant.
        other: of a method or of a floor.
        better: "higher" or "lower".
    """
    found = _pairs(comparisons, better).get((one, other))
    return found[1] if found else None


def ends(group: pd.DataFrame) -> Ends:
    """Return the floor and the ceiling of a task, from its rows of the summary."""
    best = "min" if bool((group["better"] == "lower").all()) else "max"
    untrained = group["variant"].map(is_untrained).astype(bool)
    floors = group.loc[(group["role"] == "floor") & ~untrained, "mean"]
    ceilings = group.loc[group["role"] == "ceiling", "mean"]
    return Ends(*(float(numbers.agg(best)) for numbers in (floors, ceilings)))


def over_tasks(
    summary: pd.DataFrame, tasks: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], Interval]:
    """Return the interquartile mean of each trained method's scaled values over the tasks.

    Only methods that have a number on each of the tasks with both ends are in it: a mean over
    fewer tasks is another number.

    Args:
        summary: the whole table.
        tasks: what `GROUP` names, one a task; those without both ends are left out.
    """
    scores: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    counted = 0
    for task in tasks:
        group = _rows_of(summary, task)
        floor, ceiling = ends(group)
        if not math.isfinite(ceiling - floor) or floor == ceiling:
            continue
        counted += 1
        for row in _records(group[group["role"] == "method"]):
            values = scaled(list(row["values"]), floor, ceiling)
            if len(values) and np.isfinite(values).all():
                scores.setdefault((row["method"], row["variant"]), []).append(values)
    whole = {name: values for name, values in scores.items() if len(values) == counted}
    return {name: interquartile_mean(values) for name, values in whole.items()}


def improvement(
    summary: pd.DataFrame,
    tasks: Sequence[Mapping[str, Any]],
    one: tuple[str, str],
    other: tuple[str, str],
) -> Improvement | None:
    """Return the probability that one method is better than another over the tasks of both.

    None if they share no task.
    """
    pairs = []
    for task in tasks:
        group = _rows_of(summary, task)
        rows = {(row["method"], row["variant"]): row for row in _records(group)}
        if {one, other} <= set(rows):
            sign = 1.0 if rows[one]["better"] == "higher" else -1.0
            pair = [sign * np.asarray(rows[n]["values"], np.float64) for n in (one, other)]
            if all(len(values) and np.isfinite(values).all() for values in pair):
                pairs.append(pair)
    if not pairs:
        return None
    return probability_of_improvement(*zip(*pairs, strict=True), better="higher")


def agreement(
    metrics: pd.DataFrame, x: Mapping[str, Any], y: Mapping[str, Any]
) -> tuple[Agreement, pd.DataFrame]:
    """Return whether two rulers order the runs alike, and the runs that both measured.

    Controls are runs, too: leave their rows out to ask about trained methods alone.

    Args:
        metrics: the metrics table.
        x: columns -> values that pick the first ruler's rows: probe, metric, setting, and eval
            where a run was measured on several data sets.
        y: likewise of the second.

    Returns:
        Kendall's tau over runs, 1 if both call the same runs better; and a row a run: `method`,
        `variant`, `train`, `seed`, `role`, `x`, `y`, as they were measured.

    Raises:
        ValueError: a ruler's columns pick several numbers of a run.
    """
    run = [*METHOD, "train", "seed"]
    picked = []
    for name, ruler in (("x", x), ("y", y)):
        rows = _rows_of(metrics[metrics["status"] == "done"], ruler)
        if rows.duplicated(run).any():
            raise ValueError(f"{dict(ruler)} picks several numbers of a run; name its eval, too")
        signs = np.where(rows["better"] == "higher", 1.0, -1.0)
        rows = rows.rename(columns={"value": name})
        rows[f"sign_{name}"] = signs
        picked.append(rows)
    first = picked[0][[*run, "role", "x", "sign_x"]]
    points = first.merge(picked[1][[*run, "y", "sign_y"]], on=run)
    methods = (points["method"] + "/" + points["variant"]).to_numpy(str)
    x_values, y_values = (points[name] * points[f"sign_{name}"] for name in ("x", "y"))
    found = rank_agreement(x_values, y_values, methods)
    return found, points[[*run, "role", "x", "y"]]


def _pairs(
    comparisons: pd.DataFrame, better: str
) -> dict[tuple[tuple[str, str], tuple[str, str]], tuple[Relation, Pair]]:
    """Return (method, other) -> relation and pair; two methods stand in both orders."""
    found: dict[tuple[tuple[str, str], tuple[str, str]], tuple[Relation, Pair]] = {}
    for row in _records(comparisons):
        one, other = (row["method"], row["variant"]), (row["control"], row["control_variant"])
        result, p, reason = outcome(row, better), float(row["p_holm"]), str(row["reason"])
        size, low, high = (float(row[column]) for column in ("difference", "low", "high"))
        found[one, other] = (row["relation"], Pair(*other, result, size, low, high, p, reason))
        if row["relation"] == "method":
            turned = TURNED.get(result, result)
            found[other, one] = ("method", Pair(*one, turned, -size, -high, -low, p, reason))
    return found


def _groups(
    trained: Sequence[tuple[str, str]],
    rows: Mapping[tuple[str, str], Mapping[str, Any]],
    pairs: Mapping[tuple[tuple[str, str], tuple[str, str]], tuple[Relation, Pair]],
    better: str,
) -> dict[tuple[str, str], tuple[int, ...]]:
    """Return the rank groups of the methods that have a verdict against another method."""
    verdicts = {key: pair.outcome for key, (_, pair) in pairs.items()}
    judged = [
        one
        for one in trained
        if any(verdicts.get((one, other), "untested") != "untested" for other in trained)
    ]
    apart = [
        [verdicts.get((one, other)) in ("better", "worse") for other in judged] for one in judged
    ]
    means = [rows[name]["mean"] for name in judged]
    shape = np.array(apart, bool).reshape(len(judged), len(judged))
    return dict(zip(judged, rank_groups(means, shape, better=better), strict=True))


def _place(mean: float, better: str) -> float:
    """Return what sorts the best mean first and none last."""
    if not math.isfinite(mean):
        return math.inf
    return -mean if better == "higher" else mean


def _rows_of(table: pd.DataFrame, columns: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows where these columns have these values."""
    fits = np.ones(len(table), bool)
    for column, value in columns.items():
        fits &= (table[column] == value).to_numpy(bool)
    return table[fits]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    names = [str(column) for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in table.to_numpy(object).tolist()]
