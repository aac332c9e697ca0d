"""A page a method: its papers, what differs from them, its curves, and the way to each number."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from partbench.report import figures, text
from partbench.report.failures import Failures
from partbench.report.origins import origin
from partbench.report.read import RUN, Results, RunRecord, records
from partbench.report.references import references_of
from partbench.report.section import View


def method_views(
    runs: list[RunRecord],
    colours: Mapping[str, int],
    results: Results,
    failures: Failures,
    panels: list[View],
) -> list[View]:
    """Return a page for each method of the results, in the order of `runs`; others follow."""
    by_method: dict[str, list[RunRecord]] = {run.method: [] for run in runs}
    for run in runs:
        by_method[run.method].append(run)
    for method in results.metrics["method"]:
        by_method.setdefault(method, [])
    numbers = headline_rows(panels)
    measured = {
        str(method): records(rows.drop_duplicates([*RUN, "eval", "probe"]))
        for method, rows in results.metrics.groupby("method", sort=False)
    }
    return [
        {
            "id": text.address("method", method),
            "title": text.name(method),
            "method": method,
            "role": next((cell["role"] for cell in measured.get(method, [])), ""),
            "references": references_of(method),
            "numbers": numbers.get(method, []),
            "settings": settings_views(of_method),
            "curves": curve_views(of_method, colours),
            "runs": run_groups(of_method, measured.get(method, []), results, failures),
        }
        for method, of_method in by_method.items()
    ]


def headline_rows(panels: list[View]) -> dict[str, list[View]]:
    """Return, by method, its rows of the first charts of all tasks, and where it failed."""
    rows: dict[str, list[View]] = {}
    for panel in panels:
        for group in panel["first"]:
            for row in (*group["rows"], *group["absent"]):
                entry = {"task": panel["id"], "where": panel["title"], "what": group["title"]}
                rows.setdefault(row["method"], []).append(row | entry)
    return rows


def settings_views(runs: list[RunRecord]) -> list[View]:
    """Return what differs from the paper: settings, and the method's known deviations.

    Seeds that agree make one entry.
    """
    views: dict[tuple[str, ...], View] = {}
    for run in runs:
        if not run.record:
            continue
        changes = run.record.get("changes", {})
        deviations = run.record.get("deviations", [])
        known = hashlib.sha256(json.dumps(deviations).encode()).hexdigest()[:6]
        differ = [json.dumps(changes, sort_keys=True), *([known] if deviations else [])]
        key = (run.method, run.variant, run.train, *differ)
        view = views.setdefault(
            key,
            {
                "id": text.address("settings", *key) if changes or deviations else "",
                "name": text.name(run.method, run.variant),
                "train": run.train,
                "seeds": [],
                "changes": changes,
                "deviations": deviations,
            },
        )
        view["seeds"].append(run.seed)
    return list(views.values())


def curve_views(runs: list[RunRecord], colours: Mapping[str, int]) -> list[View]:
    """Return the training curves of each method, one small chart a term."""
    views = []
    groups: dict[tuple[str, str, str], list[RunRecord]] = {}
    for run in runs:
        if "images" in run.log and len(run.log) > 1:
            groups.setdefault((run.method, run.variant, run.train), []).append(run)
    for (method, variant, train), same in groups.items():
        key = text.address("curves", method, variant, train)
        terms = dict.fromkeys(c for run in same for c in run.log.columns if "/" in str(c))
        charts = []
        for term in terms:
            title = term.removeprefix("all/").replace("/", ": ").replace("_", " ")
            seeds = [
                run.log.set_index("images")[term].astype(float)
                for run in same
                if term in run.log.columns
            ]
            spoken = f"{title} of {text.name(method, variant)} against images seen"
            charts.append((title, figures.curve(seeds, colours.get(method, 0), spoken)))
        views.append(
            {
                "id": key,
                "name": text.name(method, variant),
                "train": train,
                "seeds": len(same),
                "charts": charts,
            }
        )
    return views


def run_groups(
    runs: list[RunRecord], cells: list[dict[str, Any]], results: Results, failures: Failures
) -> list[View]:
    """Return the runs by variant and training data, each with the way to its numbers."""
    known = {run.path: run for run in runs}
    measured: dict[str, list[dict[str, Any]]] = {path: [] for path in known}
    for cell in cells:
        if cell["status"] != "not applicable":
            path = "/".join(str(cell[key]) for key in RUN)
            measured.setdefault(path, []).append(cell)
    groups: dict[str, View] = {}
    for path, of_run in measured.items():
        method, variant, train, seed = path.split("/")
        run = known.get(path) or RunRecord(method, variant, train, seed, {}, pd.DataFrame())
        key = text.address("run", method, variant, train)
        group = groups.setdefault(
            key,
            {"id": key, "name": text.name(method, variant), "train": train, "runs": []},
        )
        group["runs"].append(run_view(run, of_run, results, failures))
    return list(groups.values())


def run_view(
    run: RunRecord, cells: list[dict[str, Any]], results: Results, failures: Failures
) -> View:
    """Return one run: how it was trained, and how each of its cells was measured."""
    stages = []
    for cell in cells:
        done = cell["status"] == "done"
        found = results.cell(cell) if done else None
        record = found.record if found else {}
        provenance = record.get("provenance", {})
        stages.append(
            {
                "probe": cell["probe"],
                "eval": cell["eval"],
                "status": cell["status"],
                "failure": "" if done else failures.address(cell),
                "command": provenance.get("command", ""),
                "commit": provenance.get("commit") or cell["commit"],
                "settings": record.get("settings", {}),
                "checksum": record.get("data_checksum") or cell["data_checksum"],
                "seconds": record.get("seconds", float("nan")),
                "path": cell["path"] if done else "",
                "samples": str(cell["path"]).removesuffix(".json") + ".parquet" if done else "",
                "log": results.log_of(f"cells/{run.path}/{cell['eval']}/{cell['probe']}.json"),
            }
        )
    return {
        "id": text.address("run", *(run[:4])),
        "seed": run.seed,
        "path": run.path,
        "record": run.record,
        "provenance": run.record.get("provenance", {}),
        "plugins": [*map(origin, run.record.get("provenance", {}).get("plugins", []))],
        "log": results.log_of(f"runs/{run.path}/model.pt"),
        "stages": stages,
    }
