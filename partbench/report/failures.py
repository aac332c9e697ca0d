"""Cells without numbers: which, why, and where the log of the job lies."""

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from partbench.report import text
from partbench.report.read import RUN, Results, records
from partbench.report.section import View

HOLES = ("failed", "missing", "skipped")
"""States of cells that were asked for and have no numbers, the worst first."""


class Failures:
    """The cells of a results folder that failed, were skipped or are missing."""

    def __init__(self, results: Results) -> None:
        metrics = results.metrics
        self.results = results
        self.holes = metrics[metrics["status"].isin(HOLES)]
        self._groups = _grouped(records(self.holes), results)
        self._ids = {
            (
                cell["method"],
                cell["variant"],
                cell["train"],
                cell["seed"],
                cell["eval"],
                cell["probe"],
            ): group["id"]
            for group in self._groups
            for cell in group["members"]
        }
        self._of_task: dict[tuple[str, str, str], dict[tuple[str, str], list[dict[str, Any]]]] = {}
        for cell in records(self.holes):
            of_task = self._of_task.setdefault((cell["probe"], cell["train"], cell["eval"]), {})
            of_task.setdefault((cell["method"], cell["variant"]), []).append(cell)

    @property
    def groups(self) -> list[View]:
        """Cells that end alike, once."""
        return self._groups

    def count(self, status: str) -> int:
        """Return how many cells are in a state."""
        return sum(len(group["members"]) for group in self._groups if group["status"] == status)

    def of_task(self, probe: str, train: str, evaluated: str) -> list[View]:
        """Return what a task lacks, one entry a method and variant: the state and its address."""
        views = []
        of_task = self._of_task.get((probe, train, evaluated), {})
        for (method, variant), cells in of_task.items():
            worst = min(cells, key=lambda cell: HOLES.index(cell["status"]))
            views.append(
                {
                    "method": method,
                    "variant": variant,
                    "name": text.name(method, variant),
                    "role": worst["role"],
                    "status": worst["status"],
                    "count": sum(cell["status"] == worst["status"] for cell in cells),
                    "address": self.address(worst),
                }
            )
        return views

    def address(self, cell: Mapping[str, Any]) -> str:
        """Return the place of a cell's entry."""
        keys = ("method", "variant", "train", "seed", "eval", "probe")
        return self._ids[tuple(cell[key] for key in keys)]

    def view(self) -> View:
        """Return the page of failures."""
        return {"groups": self._groups, "misfits": misfit_views(self.results.metrics)}


def _grouped(cells: list[dict[str, Any]], results: Results) -> list[View]:
    """Return cells by state and reason; seeds and numbers in a traceback do not tell two apart."""
    groups: dict[tuple[str, str], View] = {}
    for cell in cells:
        reason = text.plain(cell["reason"])
        key = (cell["status"], re.sub(r"\d+", "#", reason))
        group = groups.setdefault(
            key,
            {
                "id": text.address("failure", *(cell[key] for key in (*RUN, "eval", "probe"))),
                "status": cell["status"],
                "reason": reason,
                "end": "",
                "members": [],
                "logs": {},
            },
        )
        group["members"].append(cell)
        ending = results.ending(cell)
        if ending.log:
            group["logs"][ending.log] = None
        group["end"] = group["end"] or ending.end
    for group in groups.values():
        group["logs"] = list(group["logs"])
        group["cells"] = _named(group["members"])
    return sorted(groups.values(), key=lambda group: HOLES.index(group["status"]))


def _named(cells: list[dict[str, Any]]) -> list[View]:
    """Return cells in words: one line a method, variant, training data and measurement."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for cell in cells:
        key = tuple(str(cell[k]) for k in ("method", "variant", "train", "eval", "probe"))
        lines.setdefault(key, []).append(str(cell["seed"]))
    return [
        {
            "name": text.name(method, variant),
            "method": text.address("method", method),
            "train": train,
            "probe": probe,
            "eval": evaluated,
            "seeds": seeds,
        }
        for (method, variant, train, evaluated, probe), seeds in lines.items()
    ]


def misfit_views(metrics: pd.DataFrame) -> list[View]:
    """Return what does not apply, and why; seeds and data sets do not matter here."""
    misfits = metrics[metrics["status"] == "not applicable"]
    return [
        {
            "id": text.address("misfit", one.method, one.probe, one.reason),
            "name": text.name(str(one.method)),
            "probe": one.probe,
            "reason": one.reason,
        }
        for one in misfits.drop_duplicates(["method", "probe", "reason"]).itertuples()
    ]
