"""Whether the rulers agree: rank correlations between tasks, over all runs that both measured."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from partbench.metrics.agreement import Agreement
from partbench.report import figures, text
from partbench.report.answers import opening
from partbench.report.figures import Point
from partbench.report.read import Results, records
from partbench.report.section import View
from partbench.standings import agreement

FIRST = (("landmarks", "parts"), ("generation", "linear"))
"""Pairs of probes of which the literature claims that they do, or do not, say the same."""
BESIDE = {"fg_nmi": "fg_ari"}
"""Metrics that stand beside a task's first one here."""
CHARTS = 24
"""Scatter plots at most; all pairs stand in the table."""


def agreement_view(results: Results, panels: list[View], colours: Mapping[str, int]) -> View:
    """Return the page of agreements.

    Args:
        results: the results.
        panels: see `partbench.report.panels`.
        colours: of the methods, see `partbench.report.page.palette`.
    """
    done = results.metrics[results.metrics["status"] == "done"]
    found = []
    for one, other in combinations(rulers(panels), 2):
        if one["train"] != other["train"] or one["task"] == other["task"]:
            continue
        measured, points = agreement(done, one["rows"], other["rows"])
        if measured.methods > 2 and np.isfinite(measured.tau):
            found.append((one, other, measured, points))
    found.sort(key=lambda pair: (place(pair[0], pair[1]), -pair[2].methods))
    return {
        "pairs": [
            {
                "one": one,
                "other": other,
                "said": said(measured),
                "tau": measured.tau,
                "low": measured.low,
                "high": measured.high,
                "runs": measured.runs,
                "methods": measured.methods,
                "chart": chart(one, other, measured, points, colours) if i < CHARTS else None,
            }
            for i, (one, other, measured, points) in enumerate(found)
        ]
    }


def rulers(panels: list[View]) -> list[View]:
    """Return what each task is measured by first, and what stands beside it."""
    views = []
    for panel in panels:
        first = opening(panel)
        if first is None:
            continue
        groups = [first]
        beside = BESIDE.get(first["metric"])
        for group in panel["more"]:
            if group["metric"] == beside and group["setting"] == first["setting"]:
                groups.append(group)
        for group in groups:
            columns = ("probe", "train", "eval")
            row = group["rows"][0]
            views.append(
                {
                    "task": panel["id"],
                    "probe": panel["probe"],
                    "train": panel["train"],
                    "label": group["label"],
                    "name": f"{group['label']} ({panel['title']})",
                    "unit": group["unit"],
                    "better": group["better"],
                    "rows": {column: panel[column] for column in columns}
                    | {"metric": group["metric"], "settings": row["settings"]},
                }
            )
    return views


def place(one: View, other: View) -> int:
    """Return where a pair stands: those of `FIRST` before all others."""
    probes = {one["probe"], other["probe"]}
    return next((i for i, pair in enumerate(FIRST) if set(pair) == probes), len(FIRST))


def said(measured: Agreement) -> str:
    """Return in words whether two rulers agree."""
    if not np.isfinite(measured.low):
        return "too few methods for an interval"
    if measured.low > 0:
        return "they agree" if measured.low > 0.5 else "they tend to agree"
    if measured.high < 0:
        return "they contradict each other"
    return "no agreement can be told"


def chart(
    one: View,
    other: View,
    measured: Agreement,
    points: pd.DataFrame,
    colours: Mapping[str, int],
) -> Any:
    """Draw every run by both rulers."""
    drawn = [
        Point(
            text.name(row["method"], row["variant"]),
            row["role"],
            colours.get(row["method"], 0),
            row["x"],
            row["y"],
        )
        for row in records(points)
    ]
    axes = tuple(
        ", ".join(filter(None, [ruler["label"], ruler["unit"], f"{ruler['better']} is better"]))
        for ruler in (one, other)
    )
    spoken = f"{one['name']} against {other['name']}: Kendall's tau {measured.tau:.2f}"
    return figures.scatter(drawn, (axes[0], axes[1]), f"{spoken}, {len(drawn)} runs")
