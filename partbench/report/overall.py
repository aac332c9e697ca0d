"""What all tasks say together: interquartile means and probabilities of improvement."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from partbench.comparisons import GROUP
from partbench.metrics.intervals import Interval
from partbench.report import text
from partbench.report.section import View
from partbench.standings import ends, improvement, over_tasks

FEWEST = 2
"""Tasks that are worth an aggregate: one alone says more by itself."""
PAIRS = 40
"""Pairs of methods that are shown at most, those of the most tasks first."""
Name = tuple[str, str]


class Ruled(NamedTuple):
    """A task and the ruler that answers for it."""

    family: str
    """What its probe is called."""
    group: View
    """See `partbench.report.panels.group_view`."""

    @property
    def columns(self) -> Mapping[str, Any]:
        """What picks its rows of the summary."""
        row = self.group["rows"][0]
        return {column: row[column] for column in GROUP}

    @property
    def methods(self) -> list[Name]:
        """The trained methods that have a number on it."""
        return [
            (row["method"], row["variant"])
            for row in self.group["rows"]
            if row["role"] == "method" and np.isfinite(row["mean"])
        ]


def overall_view(summary: pd.DataFrame, tasks: Sequence[Ruled]) -> View:
    """Return what stands below the grid of the index.

    Args:
        summary: the table.
        tasks: all of them.
    """
    families = {
        family: [task for task in tasks if family in ("All tasks", task.family)]
        for family in dict.fromkeys(["All tasks", *(task.family for task in tasks)])
    }
    if len(families) == 2:  # those of the one family are all tasks
        families.popitem()
    columns = []
    for family, same in families.items():
        whole = [task for task in same if has_ends(summary, task)]
        means = over_tasks(summary, [task.columns for task in whole])
        if len(whole) >= FEWEST and means:
            columns.append((family, len(whole), means))
    names = [name for _, _, means in columns for name in by_value(means)]
    order = list(dict.fromkeys([*names, *(name for task in tasks for name in task.methods)]))
    return {
        "columns": [(family, count) for family, count, _ in columns],
        "rows": [
            (text.name(*name), [written(means.get(name)) for _, _, means in columns])
            for name in dict.fromkeys(names)
        ],
        "pairs": pairs(summary, tasks, order),
    }


def has_ends(summary: pd.DataFrame, task: Ruled) -> bool:
    """Whether a task has a floor and a ceiling to scale by."""
    fits = np.logical_and.reduce([summary[key] == value for key, value in task.columns.items()])
    floor, ceiling = ends(summary[fits])
    return bool(np.isfinite(ceiling - floor)) and floor != ceiling


def by_value(means: Mapping[Name, Interval]) -> list[Name]:
    """Return the methods, the highest mean first."""
    return sorted(means, key=lambda name: -means[name].mean)


def written(mean: Interval | None) -> tuple[str, str] | None:
    """Return a mean and its interval as they stand in the table."""
    if mean is None:
        return None
    return text.share(mean.mean), text.share_interval(mean.low, mean.high)


def pairs(summary: pd.DataFrame, tasks: Sequence[Ruled], order: Sequence[Name]) -> list[View]:
    """Return how likely one method is better than another, over the tasks that both have.

    Args:
        summary: the table.
        tasks: all of them.
        order: of the methods; of pairs with as many tasks, neighbours stand first.
    """
    measured = [{i for i, task in enumerate(tasks) if name in task.methods} for name in order]
    shared = [
        (i, j, sorted(measured[i] & measured[j]))
        for i, j in combinations(range(len(order)), 2)
        if len(measured[i] & measured[j]) >= FEWEST
    ]
    shared.sort(key=lambda pair: (-len(pair[2]), pair[1] - pair[0], pair[0]))
    views = []
    for i, j, common in shared[:PAIRS]:
        columns = [tasks[k].columns for k in common]
        found = improvement(summary, columns, order[i], order[j])
        if found is not None:
            views.append(
                {
                    "name": text.name(*order[i]),
                    "other": text.name(*order[j]),
                    "probability": text.share(found.probability),
                    "interval": text.share_interval(found.low, found.high),
                    "tasks": len(common),
                }
            )
    return views
