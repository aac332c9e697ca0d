"""What quality costs: each method's number against its training time, and time by stage."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from partbench.metrics.ranking import pareto_front
from partbench.report import figures, text
from partbench.report.answers import opening
from partbench.report.figures import Point
from partbench.report.read import Results
from partbench.report.section import View
from partbench.report.training_time import RUN_KEYS, training_seconds

SHORTEST = 1e-4
"""Share of the longest training that a mark shows at least: what takes no time has no logarithm."""


def cost_view(results: Results, panels: list[View], colours: Mapping[str, int]) -> View:
    """Return the page of costs.

    Args:
        results: the results.
        panels: see `partbench.report.panels`.
        colours: of the methods, see `partbench.report.page.palette`.
    """
    seconds = training_seconds(results.metrics)
    charts = []
    for panel in panels:
        group = opening(panel)
        if group is None:
            continue
        rows = [
            (row, seconds[key] / 3600)
            for row in group["rows"]
            if (key := tuple(row[k] for k in RUN_KEYS)) in seconds and np.isfinite(row["mean"])
        ]
        if len(rows) > 1:
            charts.append(chart_view(panel, group, rows, colours))
    return {
        "charts": charts,
        "stages": stages(results),
        "runs": training_table(results, seconds),
        "devices": sorted(set(results.metrics["device"]) - {""}),
    }


def chart_view(
    panel: View, group: View, rows: list[tuple[View, float]], colours: Mapping[str, int]
) -> View:
    """Return a chart and the methods that no other one dominates."""
    costs, values = np.array([cost for _, cost in rows]), [row["mean"] for row, _ in rows]
    front = pareto_front(costs, values, better=group["better"])
    scale, unit = (1.0, "hours") if costs.max() >= 1 else (3600.0, "seconds")
    least = SHORTEST * costs.max() or SHORTEST
    points = [
        Point(
            row["name"],
            row["role"],
            colours.get(row["method"], 0),
            scale * max(cost, least),
            row["mean"],
        )
        for row, cost in rows
    ]
    axes = (
        f"{unit} of training, one seed",
        f"{group['label']} ({group['unit']})".replace(" ()", ""),
    )
    best = [row["name"] for (row, _), on in zip(rows, front, strict=True) if on]
    spoken = "; ".join(
        f"{p.label} {text.number(p.y, group['unit'])} in {p.x:.2g} {unit}" for p in points
    )
    return {
        "id": panel["id"],
        "title": panel["title"],
        "what": group["title"],
        "front": best,
        "better": group["better"],
        "chart": figures.scatter(
            points, axes, f"{panel['title']}: {spoken}", front=front.tolist(), log=True
        ),
    }


def stages(results: Results) -> list[tuple[str, float, int]]:
    """Return the seconds of each stage and their share in %, the longest first."""
    seconds: dict[str, float] = {}
    for run in results.runs:
        seconds["training"] = seconds.get("training", 0.0) + float(run.record.get("seconds", 0))
    for probe, cells in results.cells.items():
        for cell in cells:
            spent = cell.record.get("seconds", 0.0)
            seconds[f"probe {probe}"] = seconds.get(f"probe {probe}", 0.0) + float(spent)
    total = sum(seconds.values())
    listed = sorted(seconds.items(), key=lambda stage: -stage[1])
    return [(name, spent, round(100 * spent / total)) for name, spent in listed if total and spent]


def training_table(results: Results, seconds: Mapping[tuple[Any, ...], float]) -> list[View]:
    """Return what a training of each method takes: time, memory, speed, size."""
    views: dict[tuple[str, ...], View] = {}
    for run in results.runs:
        key = (run.method, run.variant, run.train)
        if run.record and key not in views:
            views[key] = {
                "name": text.name(run.method, run.variant),
                "run": text.address("run", *key),
                "train": run.train,
                "seconds": seconds.get(key, run.record.get("seconds")),
                "memory": run.record.get("peak_memory_mb"),
                "speed": run.record.get("images_per_second"),
                "parameters": run.record.get("parameters"),
                "device": run.record.get("provenance", {}).get("device", ""),
            }
    return sorted(views.values(), key=lambda view: -(view["seconds"] or 0))
