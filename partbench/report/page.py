"""The report: a results folder and the literature's numbers as one self-contained page."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from partbench import verdict
from partbench.files import atomic
from partbench.outputs import generated_images, movement, reconstructions
from partbench.published import Claim
from partbench.report import figures, raster, text
from partbench.report import sections as fragments
from partbench.report.origins import origin, origins
from partbench.report.panels import panel_views, tally
from partbench.report.papers import paper_views
from partbench.report.read import RUN, PictureRecord, Results, RunRecord, read
from partbench.report.section import Section, View, sections, tasks

HERE = Path(__file__).parent
STATES = ("done", "failed", "skipped", "missing", "not applicable")
Item = TypeVar("Item", RunRecord, PictureRecord)


def write(results: Path, out: Path, claims: Sequence[Claim]) -> None:
    """Write the report of `results/<name>/` to `out`, whole or not at all.

    Args:
        results: the results folder; anything in it may be missing.
        out: the html file.
        claims: the published numbers, see `partbench.published.load`.
    """
    page = render(read(results), claims)
    with atomic(out) as path:
        path.write_text(page, encoding="utf-8")


def render(results: Results, claims: Sequence[Claim]) -> str:
    """Return the page."""
    templates = environment()
    colours = palette(results)
    by_probe = sections()
    panels = panel_views(results, colours, by_probe)
    papers = paper_views(results, claims)
    runs = in_order(results.runs, colours)
    return templates.get_template("page.html").render(
        css=Markup((HERE / "page.css").read_text()),
        js=Markup((HERE / "page.js").read_text()),
        title=results.config.get("name", ""),
        reduced=bool(results.config) and not results.config.get("comparable"),
        overview=overview(results),
        panels=panels,
        tally=tally(panels),
        papers=papers,
        verdicts=sum((paper["counts"] for paper in papers), Counter()),
        labels=verdict.LABELS,
        margin=verdict.MARGIN,
        settings=settings_views(runs),
        curves=curve_views(runs, colours),
        sections=section_views(results, colours, claims, by_probe, templates),
        pictures=picture_views(in_order(results.pictures, colours)),
        data=data_views(results),
        notes=note_views(results, by_probe, templates),
        runs=[run_view(run, results.metrics) for run in runs],
        holes=hole_views(results.metrics),
        misfits=misfit_views(results.metrics),
    )


def environment() -> Environment:
    """Return the page's templates; a section's own is `sections/<probe>.html`, wherever it lies."""
    of_sections = PrefixLoader({"sections": FileSystemLoader(list(fragments.__path__))})
    templates = Environment(
        loader=ChoiceLoader([of_sections, FileSystemLoader(HERE)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "number": text.number,
        "duration": text.duration,
        "listed": text.listed,
        "json": lambda value: json.dumps(value, ensure_ascii=False),
    }
    return templates


def section_views(
    results: Results,
    colours: Mapping[str, int],
    claims: Sequence[Claim],
    by_probe: Mapping[str, Section],
    templates: Environment,
) -> list[View]:
    """Return the sections that have something to show, or say that there is nothing."""
    views = []
    for probe, section in by_probe.items():
        if not section.title:
            continue
        fragment: Any = templates.get_template(f"sections/{probe}.html").module
        shown = [section.view(task) for task in tasks(results, probe, colours, claims)]
        written = [fragment.task(view) for view in shown if view is not None]
        if written or section.empty:
            views.append(
                {
                    "id": section.title.lower().replace(" ", "-"),
                    "title": section.title,
                    "intro": fragment.intro() if hasattr(fragment, "intro") else "",
                    "tasks": written,
                    "empty": section.empty,
                }
            )
    return views


def note_views(
    results: Results, by_probe: Mapping[str, Section], templates: Environment
) -> list[View]:
    """Return what a reader must know of the probes that were asked for."""
    asked = {*results.metrics["probe"], *results.summary["probe"]}
    views = []
    for probe, section in by_probe.items():
        fragment: Any = templates.get_template(f"sections/{probe}.html").module
        if probe in asked and hasattr(fragment, "note"):
            numbers = results.summary[results.summary["probe"] == probe]
            views.append({"probe": probe, "text": fragment.note(section.note(numbers))})
    return views


def palette(results: Results) -> dict[str, int]:
    """Return each trained method's colour: the same in every chart, whatever else ran."""
    blocks = [name for block in results.config.get("runs", []) for name in block["methods"]]
    names = [*blocks, *results.summary["method"], *(run.method for run in results.runs)]
    metrics = results.metrics  # an untrained run of a method is a control, the method is not
    controls = set(metrics["method"]) - set(metrics.loc[metrics["role"] == "method", "method"])
    methods = [method for method in dict.fromkeys(names) if method not in controls]
    return {method: i % figures.COLOURS for i, method in enumerate(methods)}


def in_order(items: list[Item], colours: Mapping[str, int]) -> list[Item]:
    """Return runs or pictures in the configuration's order of methods, controls last."""
    places = {method: i for i, method in enumerate(colours)}
    return sorted(items, key=lambda item: places.get(item.method, len(places)))


def overview(results: Results) -> View:
    """Return what ran: cells by state, seeds, data, machine, time."""
    metrics = results.metrics
    cells = metrics.drop_duplicates([*RUN, "eval", "probe"])
    counts = Counter(cells["status"])
    provenance = [run.record.get("provenance", {}) for run in results.runs]
    commits = {
        re.sub(r"^([0-9a-f]{10})[0-9a-f]+$", r"\1", p["commit"])
        + (" with uncommitted changes" if p.get("dirty") else "")
        for p in provenance
        if p.get("commit")
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


def picture_views(pictures: list[PictureRecord]) -> list[View]:
    """Return, for each data set, every method's pictures of the same images, one seed each."""
    groups: dict[tuple[str, str], list[PictureRecord]] = {}
    seen = set()
    for picture in pictures:
        key = (picture.method, picture.variant, picture.train, picture.eval)
        if key not in seen:
            seen.add(key)
            groups.setdefault((picture.train, picture.eval), []).append(picture)
    views = []
    for (train, evaluated), same in groups.items():
        originals = same[0].arrays["originals"]
        strips = [("Originals", "", raster.strip(originals))]
        for picture in same:
            if decoded := reconstructions.Pictures.read(picture.arrays):
                title = text.name(picture.method, picture.variant)
                if not np.array_equal(decoded.originals, originals):
                    strips.append((title, "its own originals", raster.strip(decoded.originals)))
                what = f"reconstructions, seed {picture.seed}"
                strips.append((title, what, raster.strip(decoded.reconstructions)))
        for picture in same:
            if made := generated_images.Pictures.read(picture.arrays):
                title = text.name(picture.method, picture.variant)
                what = f"generated images, seed {picture.seed}"
                strips.append((title, what, raster.strip(made.images)))
        for picture in same:
            if moved := movement.Pictures.read(picture.arrays):
                title = text.name(picture.method, picture.variant)
                what = "its surest particle moves"
                strips.append((title, what, raster.strip(moved.frames[::2])))
                strips.append((title, "the same, moving", raster.animation(moved.frames)))
        views.append(
            {
                "id": text.address("pictures", train, evaluated),
                "train": train,
                "eval": evaluated,
                "strips": strips,
            }
        )
    return views


def data_views(results: Results) -> list[View]:
    """Return the data sets, with their contact sheets."""
    return [
        {
            "id": text.address("data", data.name),
            "name": data.name,
            "reader": data.meta.get("reader", ""),
            "origin": origin(data.reader) if data.reader else "",
            "licence": data.meta.get("licence") or "not stated",
            "checksum": data.meta.get("checksum", ""),
            "classes": len(data.meta.get("class_names", [])),
            "subset": data.meta.get("subset", False),
            "splits": data.meta.get("splits", {}),
            "sheet": raster.sheet(data.sheet) if data.sheet else None,
        }
        for data in results.data
    ]


def run_view(run: RunRecord, metrics: pd.DataFrame) -> View:
    """Return one run's provenance."""
    same = (metrics[RUN] == [run.method, run.variant, run.train, run.seed]).all(axis=1)
    files = sorted(set(metrics.loc[same & (metrics["status"] == "done"), "path"]) - {""})
    return {
        "id": text.address("run", run.method, run.variant, run.train, run.seed),
        "group": text.address("run", run.method, run.variant, run.train),
        "name": text.name(run.method, run.variant),
        "train": run.train,
        "seed": run.seed,
        "path": run.path,
        "record": run.record,
        "provenance": run.record.get("provenance", {}),
        "plugins": [*map(origin, run.record.get("provenance", {}).get("plugins", []))],
        "files": files,
    }


def hole_views(metrics: pd.DataFrame) -> list[View]:
    """Return cells without numbers; those of one run with the same reason stand together."""
    holes = metrics[metrics["status"].isin(["failed", "skipped", "missing"])]
    views = []
    for _, same in holes.groupby([*RUN, "status", "reason"], sort=False):
        one = same.iloc[0]
        views.append(
            {
                "id": text.address("hole", *one[[*RUN, "status", "reason"]]),
                "status": one["status"],
                "name": text.name(one["method"], one["variant"]),
                "train": one["train"],
                "seed": one["seed"],
                "reason": text.plain(one["reason"]),
                "cells": list(same["probe"] + " on " + same["eval"]),
            }
        )
    return views


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
