"""Hold methods against the controls of the same table: who beats what, and by how much."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from partbench.report.read import records
from partbench.report.text import listed, name

GROUP = ["train", "eval", "probe", "metric", "setting"]
"""Numbers that agree in these are measured by the same ruler on the same data."""

Outcome = Literal["better", "worse", "overlap", "unknown"]


class Statement(NamedTuple):
    """One trained method against every floor control, in words."""

    state: Literal["beats", "mixed", "unknown"]
    method: str
    text: str


def outcome(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> Outcome:
    """Return how `a` stands to `b`: only intervals that do not overlap tell them apart."""
    ends = [a["low"], a["high"], b["low"], b["high"]]
    if not np.isfinite(ends).all():
        return "unknown"
    if a["low"] <= b["high"] and b["low"] <= a["high"]:
        return "overlap"
    return "better" if (a["mean"] > b["mean"]) == (a["better"] == "higher") else "worse"


def statements(group: pd.DataFrame) -> list[Statement]:
    """Return a statement for every trained method of a group, best first."""
    rows = records(ordered(group))
    floors = [row for row in rows if row["role"] == "floor"]
    if not floors:
        return [
            Statement(
                "unknown",
                "No floor control",
                "was measured here, so there is nothing to compare with.",
            )
        ]
    trained = [row for row in rows if row["role"] == "method"]
    proper = {row["method"] for row in trained}
    return [_state(row, floors, proper) for row in trained]


def ordered(group: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a group with the best mean first."""
    higher = bool((group["better"] == "higher").all())
    return group.sort_values("mean", ascending=not higher, kind="stable")


def best_floor(group: pd.DataFrame) -> float:
    """Return the best mean of a group's floor controls, or NaN."""
    floors = ordered(group[group["role"] == "floor"].dropna(subset=["mean"]))
    return float(floors["mean"].iloc[0]) if len(floors) else float("nan")


def _state(row: Mapping[Any, Any], floors: list[dict[Any, Any]], proper: set[str]) -> Statement:
    title = name(row["method"], row["variant"])
    by_outcome: dict[Outcome, list[str]] = {"better": [], "overlap": [], "worse": [], "unknown": []}
    for floor in floors:
        control = name(floor["method"], floor["variant"])
        if floor["method"] not in proper:  # an untrained method keeps its proper name
            control = control[0].lower() + control[1:]
        by_outcome[outcome(row, floor)].append(control)
    seeds = " (one seed)" if row["seeds"] == 1 else ""
    if len(by_outcome["better"]) == len(floors):
        text = f"beats {listed(by_outcome['better'])}{seeds}: the intervals do not overlap."
        return Statement("beats", title, text)
    if len(by_outcome["unknown"]) == len(floors):
        return Statement("unknown", title, "cannot be judged: there is no interval.")
    clauses = []
    if by_outcome["overlap"]:
        clauses.append(f"does not beat {listed(by_outcome['overlap'])}: the intervals overlap")
    if by_outcome["worse"]:
        clauses.append(f"is worse than {listed(by_outcome['worse'])}")
    if by_outcome["better"]:
        clauses.append(f"beats {listed(by_outcome['better'])}")
    if by_outcome["unknown"]:
        clauses.append(f"cannot be compared with {listed(by_outcome['unknown'])}, without interval")
    return Statement("mixed", title, f"{'; '.join(clauses)}{seeds}.")
