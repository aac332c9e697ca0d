"""Every number of the results: charts with statements, and tables, by probe and data."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from partbench.comparisons import GROUP
from partbench.report import figures, text
from partbench.report.compare import (
    NO_FLOOR,
    Statement,
    gain_statement,
    ordered,
    statements,
)
from partbench.report.read import Results, records
from partbench.report.section import Section, View
from partbench.standings import ends

CELL = ["method", "variant", "train", "eval", "probe"]


def panel_views(
    results: Results, colours: Mapping[str, int], sections: Mapping[str, Section]
) -> list[View]:
    """Return a panel for each probe, training and evaluation data: charts, words and a table.

    Args:
        results: the results.
        colours: of the methods, see `partbench.report.page.palette`.
        sections: by probe; one without a section opens with its first metric.
    """
    panels = []
    wanted = asked(results.metrics)
    comparisons = dict(iter(results.comparisons.groupby(GROUP)))
    none = results.comparisons.head(0)
    by_data = results.summary.groupby(["probe", "train", "eval"], sort=False)
    for (probe, train, evaluated), table in by_data:
        names = list(dict.fromkeys(table["metric"]))
        section = sections.get(str(probe), Section())
        metric = next((m for m in section.headline if m in names), names[0])
        settings = {str(setting): title for setting, title in section.headline_settings.items()}
        places = {(metric, setting): i for i, setting in enumerate(settings)}
        groups = [
            group_view(
                same,
                comparisons.get(key, none),
                colours,
                wanted,
                settings if same["metric"].iloc[0] == metric else {},
            )
            for key, same in table.groupby(GROUP, sort=False)
        ]
        said = gain_statements(table, section.gains, wanted)
        for group in groups if said else []:
            if group["metric"] == metric and group["setting"] in settings:
                group["statements"] = said
        groups.sort(key=lambda g: places.get((g["metric"], g["setting"]), len(places)))
        groups.sort(key=lambda g: g["metric"] != metric)
        first = [
            group
            for group in groups
            if group["metric"] == metric and (not settings or group["setting"] in settings)
        ]
        panels.append(
            {
                "id": text.address(probe, train, evaluated),
                "title": f"{probe} on {evaluated}",
                "probe": probe,
                "train": train,
                "eval": evaluated,
                "first": first,
                "more": groups[len(first) :],
                "tables": [
                    table_view([row for g in groups if g["metric"] == metric for row in g["rows"]])
                    for metric in dict.fromkeys(group["metric"] for group in groups)
                ],
            }
        )
    return panels


def gain_statements(
    table: pd.DataFrame, gains: Mapping[str, str], wanted: Mapping[Any, int]
) -> list[Statement]:
    """Return the statements of a panel's trained methods on numbers that are themselves gains."""
    rows = table[table["metric"].isin(gains) & (table["role"] == "method")]
    return [
        gain_statement(row, wanted.get(tuple(row[c] for c in CELL), 0), gains[row["metric"]])
        for row in records(ordered(rows[rows["setting"] == ""]))
    ]


def asked(metrics: pd.DataFrame) -> Mapping[Any, int]:
    """Return how many seeds were asked for, by method, variant, train, eval and probe."""
    cells = metrics[metrics["status"] != "not applicable"]
    once = cells.drop_duplicates([*CELL, "seed"])
    return Counter(once[CELL].itertuples(index=False, name=None))


def table_view(rows: list[View]) -> View:
    """Return a table of one metric in all its settings; what all rows share is said once."""
    first = rows[0]
    notes = {row["note"] for row in rows}
    return {
        "metric": first["metric"],
        "unit": first["unit"],
        "better": first["better"],
        "note": first["note"] if len(notes) == 1 else "",
        "notes": len(notes) > 1,
        "settings": any(row["setting"] for row in rows),
        "floors": any(row["role"] == "floor" for row in rows),
        "pretrained": any(row["pretrained_on"] for row in rows),
        "rows": rows,
    }


def group_view(
    group: pd.DataFrame,
    comparisons: pd.DataFrame,
    colours: Mapping[str, int],
    wanted: Mapping[Any, int],
    titles: Mapping[str, str],
) -> View:
    """Return one chart with its statements and table rows: one metric in one setting.

    Args:
        group: the rows.
        comparisons: of its methods with its floor controls, see `partbench.comparisons`.
        colours: of the methods, see `partbench.report.page.palette`.
        wanted: see `asked`.
        titles: setting -> what it is called; one that is not here goes by its own name.
    """
    group = ordered(group)
    one = group.iloc[0]
    unit, better = one["unit"], one["better"]
    # A constant of the data is nobody's merit: it is shown, and nobody is held against it.
    reference = bool(one["reference"])
    floor = float("nan") if reference else ends(group).floor
    key = text.address(*(one[column] for column in GROUP))
    setting = titles.get(one["setting"], one["setting"])
    title = one["metric"] + (f", {setting}" if setting else "")
    label = f"{one['metric']}{f' ({unit})' if unit else ''}, {better} is better"
    rows = [row_view(row, floor, wanted) for row in records(group)]
    order = {"ceiling": 0, "method": 1, "floor": 2}
    bars = [
        figures.Bar(
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
        )
        for row in sorted(rows, key=lambda row: order.get(row["role"], 1))
    ]
    spoken = "; ".join(f"{bar.label}: {bar.text}" for bar in bars)
    return {
        "id": f"chart-{key}",
        "title": title,
        "metric": one["metric"],
        "setting": one["setting"],
        "chart": figures.intervals(bars, label, f"{title}. {spoken}"),
        "statements": [] if reference else statements(group, comparisons),
        "rows": rows,
    }


def row_view(row: Mapping[str, Any], floor: float, wanted: Mapping[Any, int]) -> View:
    """Return one number of the tables: a method by one metric in one setting."""
    sign = 1 if row["better"] == "higher" else -1
    gain = sign * (row["mean"] - floor) if row["role"] != "floor" else float("nan")
    return {
        **row,
        "id": text.address("cell", *(row[c] for c in ("method", "variant", *GROUP))),
        "run": text.address("run", row["method"], row["variant"], row["train"]),
        "name": text.name(row["method"], row["variant"]),
        "values": list(row["values"]) if isinstance(row["values"], list | np.ndarray) else [],
        "interval": text.interval(row["low"], row["high"], row["unit"]),
        "gain": gain,
        "seeds": int(row["seeds"]) if np.isfinite(row["seeds"]) else 0,
        "asked": wanted.get(tuple(row[column] for column in CELL), 0),
        "n": int(row["n"]) if np.isfinite(row["n"]) else 0,
    }


def tally(panels: list[View]) -> list[View]:
    """Return, for each panel, how many trained methods beat every floor control."""
    lines = []
    for panel in panels:
        for group in panel["first"]:
            states = [s.state for s in group["statements"] if s.method != NO_FLOOR]
            elsewhere = panel["train"] != panel["eval"]
            trained = f", trained on {panel['train']}" if elsewhere else ""
            if states:
                lines.append(
                    {
                        "id": group["id"],
                        "where": f"{panel['title']}, {group['title']}{trained}",
                        "beats": states.count("beats"),
                        "of": len(states),
                        "open": states.count("unknown"),
                    }
                )
    return lines
