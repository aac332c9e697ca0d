"""A page a task: who is best and by how much, and what is behind the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment

from partbench.published import Claim
from partbench.report import text
from partbench.report.read import Results
from partbench.report.section import Section, View, tasks
from partbench.report.words import ends

Key = tuple[str, str, str]
"""Probe, training data, evaluation data."""
PAIRS = 300
"""Pairs of methods that a page lists at most; beyond, those of the best methods stand."""


def task_views(
    panels: list[View],
    fragments: Mapping[Key, View],
    pictures: list[View],
    sections: Mapping[str, Section],
) -> list[View]:
    """Return the pages of tasks, in the order of the sections.

    Args:
        panels: see `partbench.report.panels`; of one page each.
        fragments: what sections show, by task; some may have no panel.
        pictures: pages of pictures, to link to.
        sections: by probe.
    """
    by_data = {(view["train"], view["eval"]): view["id"] for view in pictures}
    order = {probe: i for i, probe in enumerate(sections)}
    by_key = {(panel["probe"], panel["train"], panel["eval"]): panel for panel in panels}
    for key, fragment in fragments.items():
        if fragment["body"]:
            by_key.setdefault(key, _bare(*key, sections))
    nothing = {"title": "", "intro": "", "body": "", "note": ""}
    views = [
        panel
        | {
            "fragment": fragments.get(key, nothing),
            "pictures": by_data.get(key[1:], ""),
            "pairs": [pairs(group) for group in panel["first"]],
        }
        for key, panel in by_key.items()
    ]
    views.sort(key=lambda view: order.get(view["probe"], len(order)))
    charts = (group for view in views for group in view["first"])
    for number, group in enumerate(charts, start=1):
        group["figure"] = number
    return views


def _bare(probe: str, train: str, evaluated: str, sections: Mapping[str, Section]) -> View:
    name = sections.get(probe, Section()).task_name(probe)
    return {
        "id": task_address(probe, train, evaluated),
        "title": text.title(name, train, evaluated),
        "family": name,
        **{"probe": probe, "train": train, "eval": evaluated},
        **{"first": [], "more": [], "absent": []},
    }


def task_address(probe: str, train: str, evaluated: str) -> str:
    """Return the id of a task's page."""
    return text.address("task", probe, *dict.fromkeys([train, evaluated]))


def fragments_of(
    results: Results,
    colours: Mapping[str, int],
    claims: Sequence[Claim],
    sections: Mapping[str, Section],
    templates: Environment,
) -> dict[Key, View]:
    """Return what the sections show of each task, where there is anything."""
    views: dict[Key, View] = {}
    for probe, section in sections.items():
        macros: Any = templates.get_template(f"sections/{probe}.html").module
        for task in tasks(results, probe, colours, claims):
            view = section.view(task) if section.title else None
            note = macros.note(section.note(task.numbers)) if hasattr(macros, "note") else ""
            views[probe, task.train, task.eval] = {
                "title": section.title if view is not None else "",
                "intro": macros.intro() if view is not None and hasattr(macros, "intro") else "",
                "body": macros.task(view) if view is not None else "",
                "note": note,
            }
    return views


def pairs(group: View) -> list[View]:
    """Return the pairwise table of a ruler: each trained method against each that is below it."""
    trained = [one for one in group["standings"] if one.role == "method" and one.seeds]
    places = {(one.method, one.variant): i for i, one in enumerate(trained)}
    views: list[View] = []
    for one in trained:
        own = places[one.method, one.variant]
        for pair in one.others:
            if places.get((pair.method, pair.variant), -1) <= own:
                continue
            tested = pair.outcome != "untested" and np.isfinite(pair.difference)
            views.append(
                {
                    "name": text.name(one.method, one.variant),
                    "other": text.name(pair.method, pair.variant),
                    "outcome": pair.outcome,
                    "size": ends(pair, group) if tested else None,
                    "p": text.p_value(pair.p) if tested else "",
                    "reason": pair.reason,
                }
            )
            if len(views) == PAIRS:
                return views
    return views
