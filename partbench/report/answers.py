"""The index: one sentence a task, the grid of methods and tasks, and what ran."""

from collections import Counter
from typing import Any

import numpy as np

from partbench.judgement import is_untrained, own_untrained
from partbench.report import text
from partbench.report.compare import NO_FLOOR
from partbench.report.failures import HOLES, Failures
from partbench.report.origins import origins
from partbench.report.overall import Ruled, overall_view
from partbench.report.read import RUN, Results
from partbench.report.section import View
from partbench.report.words import ends, lowered
from partbench.standings import Pair, Standing

STATES = ("done", *HOLES, "not applicable")


def answers_view(results: Results, tasks: list[View], papers: View, failures: Failures) -> View:
    """Return the index.

    Args:
        results: the results.
        tasks: see `partbench.report.tasks`.
        papers: see `partbench.report.papers`.
        failures: of the results.
    """
    return {
        "title": results.config.get("name", ""),
        "reduced": bool(results.config) and not results.config.get("comparable"),
        "overview": overview(results),
        "answers": [answer(task) for task in tasks],
        "grid": grid(tasks),
        "overall": overall_view(
            results.summary,
            [Ruled(task["family"], group) for task in tasks if (group := opening(task))],
        ),
        "papers": papers,
        "failed": [group for group in failures.groups if group["status"] == "failed"],
        "counts": {status: failures.count(status) for status in HOLES},
    }


def answer(panel: View) -> View:
    """Return what a task says, in a sentence."""
    group = opening(panel)
    view = {"id": panel["id"], "where": panel["title"], "best": "", "clauses": [], "what": ""}
    absent = [one for one in panel["absent"] if one["role"] == "method"]
    if group is None:
        return view | {"absent": absent}
    view |= {"what": group["title"], "unit": group["unit"], "better": group["better"]}
    ranked = [one for one in group["standings"] if one.seeds and np.isfinite(one.mean)]
    trained = [one for one in ranked if one.role == "method"]
    proper = {one.method for one in trained}
    # Another method's untrained network is no bar, so the best floor is never one of those.
    named = {
        role: next((s for s in ranked if s.role == role and not is_untrained(s.variant)), None)
        for role in ("floor", "ceiling")
    }
    clauses = []
    if trained:
        best = trained[0]
        rows = {(row["method"], row["variant"]): row for row in group["rows"]}
        row = rows[best.method, best.variant]
        view |= {
            "best": row["name"],
            "value": text.number(row["mean"], group["unit"]),
            "low": text.number(row["low"], group["unit"]),
            "high": text.number(row["high"], group["unit"]),
            "row": row["id"],
        }
        clauses += against_others(best, trained[1:], group)
        clauses.append(against_floors(row["name"], group))
        clauses += itself_untrained(best, ranked, group)
    for role, one in named.items():
        if one is not None:
            value = text.number(one.mean, group["unit"])
            clauses.append(f"{role} {value} ({lowered(one.method, one.variant, proper)})")
    for bar in group["controls"]:
        if named[bar.role] is None:
            clauses.append(f"{bar.role} {bar.text} ({bar.label[0].lower()}{bar.label[1:]})")
    view["clauses"] = clauses
    view["negative"] = {s.state for s in group["statements"]} == {"mixed"}
    return view | {"absent": absent}


def opening(panel: View) -> View | None:
    """Return the ruler that answers for a task: the first with the most trained methods."""
    counts = [sum(row["role"] == "method" for row in group["rows"]) for group in panel["first"]]
    return panel["first"][int(np.argmax(counts))] if counts else None


def itself_untrained(best: Standing, ranked: list[Standing], group: View) -> list[str]:
    """Return what the best method's own network gives before training, if it was measured."""
    untrained = [s for s in ranked if s.method == best.method and is_untrained(s.variant)]
    own = own_untrained(best.variant, [one.variant for one in untrained])
    return [
        f"itself untrained {text.number(one.mean, group['unit'])}"
        for one in untrained
        if one.variant == own
    ]


def against_others(best: Standing, rest: list[Standing], group: View) -> list[str]:
    """Return how the best stands to the runner-up, and to the first that it is better than.

    If no test tells it apart from any, the first that it was tested against stands there.
    """
    if not rest:
        return ["the only trained method"]
    pairs = {(pair.method, pair.variant): pair for pair in best.others}
    found = [(one, pairs.get((one.method, one.variant))) for one in rest]
    shown = found[:1]
    outcomes = ["untested" if pair is None else pair.outcome for _, pair in found]
    wanted = {"same": ["better"], "untested": ["better", "same"]}.get(outcomes[0], [])
    for outcome in wanted:
        if outcome in outcomes:
            shown.append(found[outcomes.index(outcome)])
            break
    return [relation(pair, text.name(one.method, one.variant), group) for one, pair in shown]


def relation(pair: Pair | None, name: str, group: View) -> str:
    """Return how a method stands to another: `better than KeyNet by 1.1 [0.6, 1.6]`."""
    if pair is None:
        return f"not compared with {name}"
    if pair.outcome == "untested":
        return f"no verdict against {name}" + (f" ({pair.reason})" if pair.reason else "")
    size, low, high = ends(pair, group)
    if pair.outcome == "same":
        return f"not told apart from {name} ({size} [{low}, {high}])"
    return f"{pair.outcome} than {name} by {size} [{low}, {high}]"


def against_floors(best: str, group: View) -> str:
    """Return how many methods beat every floor that they must beat.

    Where the numbers themselves are gains over a floor, what is said of the best one.
    """
    said = [one for one in group["statements"] if one.method != NO_FLOOR]
    if not said:
        return "no floor control"
    if group["by_gain"]:
        return "; ".join(f"it {one.text.rstrip('.')}" for one in said if one.method == best)
    states = [one.state for one in said]
    n, beating = len(states), states.count("beats")
    if beating == n:
        return {1: "it beats every floor", 2: "both methods beat every floor"}.get(
            n, f"all {n} methods beat every floor"
        )
    if beating:
        return f"{beating} of {n} methods beat every floor"
    if set(states) == {"mixed"}:
        return "no trained method beats every floor" if n > 1 else "it does not beat every floor"
    return "no verdict against the floors"


def grid(panels: list[View]) -> View:
    """Return methods x tasks: scaled to floor 0 and ceiling 1, the raw value, rank groups."""
    columns = [panel for panel in panels if panel["first"] or panel["absent"]]
    rows: dict[tuple[str, str], View] = {}
    for number, panel in enumerate(columns):
        for group in panel["first"]:
            for row in group["rows"]:
                name = (row["method"], row["variant"])
                entry = rows.setdefault(name, grid_row(row))
                entry["cells"].setdefault(number, grid_cell(row, group))
        for absent in panel["absent"]:
            entry = rows.setdefault((absent["method"], absent["variant"]), grid_row(absent))
            cell = entry["cells"].setdefault(number, {"state": absent["status"], "value": ""})
            cell |= {"state": absent["status"], "address": absent["address"]}
            cell["count"] = absent["count"]
    order = {"method": 0, "floor": 1, "ceiling": 2}
    listed = sorted(rows.values(), key=lambda row: order.get(row["role"], 0))
    return {
        "columns": [
            {
                "id": panel["id"],
                "title": panel["title"],
                "what": group["title"] if (group := opening(panel)) else "",
                "arrow": "" if not group else "↑" if group["better"] == "higher" else "↓",
                "unit": group["unit"] if group else "",
            }
            for panel in columns
        ],
        "rows": listed,
    }


def grid_row(row: View) -> View:
    """Return a row of the grid without its cells."""
    return {
        "name": row["name"],
        "method": text.address("method", row["method"]),
        "role": row["role"],
        "cells": {},
    }


def grid_cell(row: View, group: View) -> View:
    """Return a cell of the grid."""
    scaled = row["scaled"]
    share = float(np.clip(scaled, 0, 1)) if np.isfinite(scaled) else None
    return {
        "state": "done",
        "value": text.number(row["mean"], row["unit"]),
        "scaled": text.share(scaled) if share is not None else "",
        "share": None if share is None else round(100 * share),
        "groups": row["groups"],
    }


def overview(results: Results) -> View:
    """Return what ran: cells by state, seeds, data, machine, time."""
    metrics = results.metrics
    cells = metrics.drop_duplicates([*RUN, "eval", "probe"])
    counts: Counter[Any] = Counter(cells["status"])
    provenance = [run.record.get("provenance", {}) for run in results.runs]
    commits = {
        text.commit(p["commit"], bool(p.get("dirty"))) for p in provenance if p.get("commit")
    }
    finished = sorted(p["finished"] for p in provenance if p.get("finished"))
    methods = metrics.drop_duplicates(["method", "variant"])
    return {
        "states": [(state, counts[state]) for state in STATES if counts[state] or state == "done"],
        "methods": int((methods["role"] == "method").sum()),
        "controls": int((methods["role"] != "method").sum()),
        "seeds": results.config.get("seeds") or sorted(set(metrics["seed"])),
        "data": [data.name for data in results.data] or sorted(set(metrics["eval"])),
        "subset": [data.name for data in results.data if data.meta.get("subset")],
        "changed": [data.name for data in results.data if data.changed],
        "devices": sorted({p["device"] for p in provenance if p.get("device")}),
        "cpus": sorted({p["cpu"] for p in provenance if p.get("cpu")}),
        "seconds": float(sum(run.record.get("seconds", 0.0) for run in results.runs)),
        "commits": sorted(commits),
        "plugins": origins(results),
        "finished": f"{finished[-1][:16].replace('T', ' ')} UTC" if finished else "",
    }
