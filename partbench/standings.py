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

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from partbench.judgement import Outcome, State
from partbench.metrics.aggregate import Improvement
from partbench.metrics.agreement import Agreement
from partbench.metrics.intervals import Interval

METHOD = ["method", "variant"]


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
        summary: rows of the summary of one task: they agree in
            `partbench.comparisons.GROUP`.
        comparisons: of the same task; more rows do no harm.
        metrics: of the same train, eval and probe: cells that failed or are missing show who was
            to be measured.
    """
    raise NotImplementedError


def against(
    comparisons: pd.DataFrame, one: tuple[str, str], other: tuple[str, str], better: str
) -> Pair | None:
    """Return how one method stands to another, in whichever order the table has them."""
    raise NotImplementedError


def ends(group: pd.DataFrame) -> Ends:
    """Return the floor and the ceiling of a task, from its rows of the summary."""
    raise NotImplementedError


def over_tasks(
    summary: pd.DataFrame, tasks: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], Interval]:
    """Return the interquartile mean of each method's scaled values over the tasks that it has all.

    Args:
        summary: the whole table.
        tasks: what `GROUP` names, one a task; those without both ends are left out.
    """
    raise NotImplementedError


def improvement(
    summary: pd.DataFrame,
    tasks: Sequence[Mapping[str, Any]],
    one: tuple[str, str],
    other: tuple[str, str],
) -> Improvement | None:
    """Return the probability that one method is better than another over the tasks of both.

    None if they share no task.
    """
    raise NotImplementedError


def agreement(
    metrics: pd.DataFrame, x: Mapping[str, Any], y: Mapping[str, Any]
) -> tuple[Agreement, pd.DataFrame]:
    """Return whether two rulers order the runs alike, and the runs that both measured.

    Args:
        metrics: the metrics table.
        x: columns -> values that pick the first ruler's rows: probe, metric, settings, and train
            and eval where they matter.
        y: likewise of the second.

    Returns:
        Kendall's tau over runs, 1 if both call the same runs better; and a row a run: `method`,
        `variant`, `train`, `seed`, `role`, `x`, `y`, as they were measured.
    """
    raise NotImplementedError
