"""Every number of the results by task and ruler: chart, words and leaderboard."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from partbench.comparisons import CELL, GROUP, seeds_asked
from partbench.judgement import is_untrained
from partbench.metrics.ranking import letters
from partbench.report import figures, text
from partbench.report.compare import Statement, gain_statement, ordered, statements
from partbench.report.failures import Failures
from partbench.report.figures import Bar
from partbench.report.read import Results, records
from partbench.report.section import Section, View
from partbench.report.training_time import RUN_KEYS, training_seconds
from partbench.standings import Standing, standings

TASK = ["probe", "train", "eval"]
ORDER = {"ceiling": 0, "method": 1, "floor": 2}
"""Of a chart's rows, top first."""


def panel_views(
    results: Results,
    colours: Mapping[str, int],
    sections: Mapping[str, Section],
    failures: Failures,
) -> list[View]:
    """Return a panel for each task: its rulers, those that open its page first.

    Args:
        results: the results.
        colours: of the methods, see `partbench.report.page.palette`.
        sections: by probe; one without a section opens with its first metric.
        failures: of the results.
    """
    comparisons = dict(iter(results.comparisons.groupby(GROUP)))
    none = results.comparisons.head(0)
    cells = dict(iter(results.metrics.groupby(TASK)))
    tables = dict(iter(results.summary.groupby(TASK, sort=False)))
    asked = results.metrics[results.metrics["status"] != "not applicable"]
    for key in dict.fromkeys(asked[TASK].itertuples(index=False, name=None)):
        tables.setdefault(key, results.summary.head(0))
    panels = []
    for (probe, train, evaluated), table in tables.items():
        section = sections.get(str(probe), Section())
        of_task = cells.get((probe, train, evaluated), results.metrics.head(0))
        absent = failures.of_task(str(probe), str(train), str(evaluated))
        names = list(dict.fromkeys(table["metric"]))
        metric = next((m for m in section.headline if m in names), names[0] if names else "")
        chosen = {str(setting): title for setting, title in section.headline_settings.items()}
        groups = [
            group_view(
                same,
                comparisons.get(key, none),
                of_task,
                section,
                chosen if same["metric"].iloc[0] == metric else {},
            )
            for key, same in table.groupby(GROUP, sort=False)
        ]
        places = {setting: i for i, setting in enumerate(chosen)}
        first: list[View] = []
        more: list[View] = []
        for group in groups:
            opens = group["metric"] == metric and (not chosen or group["setting"] in chosen)
            (first if opens else more).append(group)
        said = gain_statements(table, section.gains, of_task)
        for group in first if said else []:
            group |= {"statements": said, "by_gain": True}
        first.sort(key=lambda group: places.get(group["setting"], len(places)))
        more.sort(key=lambda group: (group["reference"], group["metric"] != metric))
        with_numbers = {(row["method"], row["variant"]) for g in first for row in g["rows"]}
        for i, group in enumerate(first):
            without = [a for a in absent if (a["method"], a["variant"]) not in with_numbers]
            controls = constants(group, groups, section)
            draw(group, without if i == 0 else [], controls, colours)
        panels.append(
            {
                "id": text.address("task", probe, *dict.fromkeys([train, evaluated])),
                "title": text.title(section.task_name(str(probe)), str(train), str(evaluated)),
                "family": section.task_name(str(probe)),
                "probe": probe,
                "train": train,
                "eval": evaluated,
                "first": first,
                "more": more,
                "absent": absent,
            }
        )
    order = {probe: i for i, probe in enumerate(sections)}
    return sorted(panels, key=lambda panel: order.get(panel["probe"], len(order)))


def group_view(
    group: pd.DataFrame,
    comparisons: pd.DataFrame,
    cells: pd.DataFrame,
    section: Section,
    titles: Mapping[str, str],
) -> View:
    """Return one ruler: one metric in one setting, all methods on the same data.

    Args:
        group: its rows of the summary.
        comparisons: of these methods, see `partbench.comparisons`.
        cells: the task's rows of the metrics.
        section: the probe's.
        titles: setting -> what it is called; one that is not here goes by its own name.
    """
    one = records(group)[0]
    # A constant of the data is nobody's merit: it is shown, and nobody is held against it.
    reference = bool(one["reference"])
    ranked = [] if reference else standings(group, comparisons, cells)
    known = {(s.method, s.variant): s for s in ranked}
    seconds = training_seconds(cells)
    rows = [
        row_view(row, known.get((row["method"], row["variant"])))
        | {"seconds": seconds.get(tuple(row[key] for key in RUN_KEYS), float("nan"))}
        for row in records(group)
    ]
    rows.sort(key=lambda row: -row["mean"] if one["better"] == "higher" else row["mean"])
    setting = titles.get(one["setting"], one["setting"])
    label = section.label(one["metric"])
    return {
        "id": text.address("ruler", *(one[column] for column in GROUP)),
        "metric": one["metric"],
        "setting": one["setting"],
        "label": label,
        "title": label + (f", {setting}" if setting else ""),
        "unit": one["unit"],
        "better": one["better"],
        "reference": reference,
        "random": bool(group["random"].any()),
        "rows": rows,
        "absent": [],
        "controls": [],
        "by_gain": False,
        "chart": "",
        "standings": ranked,
        "statements": [] if reference else statements(group, comparisons),
        "notes": sorted(set(group["note"]) - {""}),
        **{
            column: any(row[column] for row in rows)
            for column in ("groups", "gain", "pretrained_on")
        },
    }


def gain_statements(
    table: pd.DataFrame, gains: Mapping[str, str], cells: pd.DataFrame
) -> list[Statement]:
    """Return the statements of a task's trained methods on numbers that are themselves gains."""
    rows = table[table["metric"].isin(gains) & (table["role"] == "method")]
    wanted = seeds_asked(cells)
    return [
        gain_statement(row, wanted.get(tuple(row[c] for c in CELL), 0), gains[row["metric"]])
        for row in records(ordered(rows[rows["setting"] == ""]))
    ]


def constants(group: View, groups: list[View], section: Section) -> list[Bar]:
    """Return the bars of a ruler's references, each the mean over the methods that it is of.

    Of several settings, that of the ruler counts, or else the first.
    """
    bars = []
    for metric, references in section.references.items():
        for reference in references:
            found = [other for other in groups if other["metric"] == metric]
            found.sort(key=lambda other: other["setting"] != group["setting"])
            measured = {row["short"] for row in group["rows"]}  # as a control of its own
            if reference.metric != group["metric"] or not found or reference.name in measured:
                continue
            means = [row["mean"] for row in found[0]["rows"]]
            mean = float(np.mean(means))
            written = text.number(mean, group["unit"])
            # One that depends on the method has no interval of its own: it spans their values.
            ends = (min(means), max(means))
            bars.append(Bar(reference.name, reference.role, 0, mean, *ends, [], written, True))
    return bars


def draw(group: View, absent: list[View], controls: list[Bar], colours: Mapping[str, int]) -> None:
    """Add to a ruler that opens a page its chart.

    Args:
        group: the ruler.
        absent: methods that have no number.
        controls: see `constants`.
        colours: of the methods, see `partbench.report.page.palette`.
    """
    unit = group["unit"]
    bars = controls + [
        Bar(
            row["name"],
            row["role"],
            colours.get(row["method"], 0),
            row["mean"],
            row["low"],
            row["high"],
            row["values"],
            f"{text.number(row['mean'], unit)}   [{row['interval']}]"
            if np.isfinite(row["mean"])
            else "no value",
            # Another method's untrained network is no bar, so none is carried across the chart.
            across=row["role"] != "method" and not is_untrained(row["variant"]),
        )
        for row in group["rows"]
    ]
    nothing = float("nan")
    bars += [
        Bar(
            a["name"],
            a["role"],
            colours.get(a["method"], 0),
            nothing,
            nothing,
            nothing,
            [],
            a["status"],
        )
        for a in absent
    ]
    bars.sort(key=lambda bar: ORDER.get(bar.role, 1))
    axis = f"{group['label']}{f' ({unit})' if unit else ''}, {group['better']} is better"
    spoken = "; ".join(f"{bar.label}: {bar.text}" for bar in bars)
    group["chart"] = figures.intervals(bars, axis, f"{group['title']}. {spoken}")
    group |= {"absent": absent, "controls": controls}


def row_view(row: Mapping[str, Any], standing: Standing | None = None) -> View:
    """Return one number of the tables: a method by one ruler.

    Args:
        row: of the summary.
        standing: of the method by this ruler, where it was compared.
    """
    keys = ("method", "variant", *GROUP)
    return {
        **row,
        "id": text.address("cell", *(row[c] for c in keys)),
        "run": text.address("run", row["method"], row["variant"], row["train"]),
        "name": text.name(row["method"], row["variant"]),
        "short": text.name(row["method"]),
        "values": list(row["values"]) if isinstance(row["values"], list | np.ndarray) else [],
        "interval": text.interval(row["low"], row["high"], row["unit"]),
        "seeds": int(row["seeds"]) if np.isfinite(row["seeds"]) else 0,
        "asked": standing.asked if standing else 0,
        "n": int(row["n"]) if np.isfinite(row["n"]) else 0,
        "scaled": standing.scaled if standing else float("nan"),
        "groups": letters(standing.groups) if standing else "",
        "gain": standing.gain if standing else None,
    }
