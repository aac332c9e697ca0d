"""What a table says of its methods and its floor controls: who beats what, and by how much."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import pandas as pd

from partbench.comparisons import BOTH_ALONE, CONTROL_ALONE, METHOD_ALONE, NOTHING_TO_TEST
from partbench.report import text
from partbench.report.read import records

LEVEL = 0.05
"""Corrected p values below it are differences."""
NOT_RECORDED = {"reason": "the results hold no comparison"}
SHORT = {CONTROL_ALONE: "one seed", NOTHING_TO_TEST: "nothing varies that could be tested"}
"""Reasons why there is no test, as they stand in brackets; another stands as it is."""

Outcome = Literal["better", "same", "worse", "untested"]


class Statement(NamedTuple):
    """One trained method against every floor control, in words."""

    state: Literal["beats", "mixed", "unknown"]
    """It beats every control; it does not beat one; some test is missing, and it beats the rest."""
    method: str
    text: str


def statements(group: pd.DataFrame, comparisons: pd.DataFrame) -> list[Statement]:
    """Return a statement for every trained method of a group, best first.

    Args:
        group: rows of the summary, of one metric in one setting on the same data.
        comparisons: of these methods and controls, see `partbench.comparisons`.
    """
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
    keys = ("method", "variant", "control", "control_variant")
    compared = {tuple(row[key] for key in keys): row for row in records(comparisons)}
    return [_state(row, floors, compared, proper) for row in trained]


def ordered(group: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a group with the best mean first."""
    higher = bool((group["better"] == "higher").all())
    return group.sort_values("mean", ascending=not higher, kind="stable")


def best_floor(group: pd.DataFrame) -> float:
    """Return the best mean of a group's floor controls, or NaN."""
    floors = ordered(group[group["role"] == "floor"].dropna(subset=["mean"]))
    return float(floors["mean"].iloc[0]) if len(floors) else float("nan")


def outcome(comparison: Mapping[Any, Any], better: str) -> Outcome:
    """Return how a method stands to a control.

    Args:
        comparison: a row of `partbench.comparisons`.
        better: "higher" or "lower".
    """
    if comparison["reason"]:
        return "untested"
    if comparison["p_holm"] >= LEVEL:
        return "same"
    return "better" if (comparison["difference"] > 0) == (better == "higher") else "worse"


def _state(
    row: Mapping[Any, Any],
    floors: list[dict[Any, Any]],
    compared: Mapping[tuple[Any, ...], Mapping[Any, Any]],
    proper: set[str],
) -> Statement:
    title = text.name(row["method"], row["variant"])
    by_outcome: dict[Outcome, list[str]] = {"better": [], "same": [], "worse": [], "untested": []}
    reasons = set()
    for floor in floors:
        control = text.name(floor["method"], floor["variant"])
        if floor["method"] not in proper:  # an untrained method keeps its proper name
            control = control[0].lower() + control[1:]
        pair = (row["method"], row["variant"], floor["method"], floor["variant"])
        comparison = compared.get(pair, NOT_RECORDED)
        found = outcome(comparison, row["better"])
        size = "" if found == "untested" else _size(comparison, found, row)
        by_outcome[found].append(f"{control}{size}")
        reasons.add(comparison["reason"])
    if reasons <= {METHOD_ALONE, BOTH_ALONE}:
        return Statement("unknown", title, "has one seed: no verdict.")
    clauses = []
    if by_outcome["same"]:
        clauses.append(f"does not beat {text.listed(by_outcome['same'])}")
    if by_outcome["worse"]:
        clauses.append(f"is worse than {text.listed(by_outcome['worse'])}")
    if by_outcome["better"]:
        clauses.append(f"beats {text.listed(by_outcome['better'])}")
    if by_outcome["untested"]:
        why = text.listed(sorted(SHORT.get(reason, reason) for reason in reasons - {""}))
        clauses.append(f"has no verdict against {text.listed(by_outcome['untested'])} ({why})")
    state: Literal["beats", "mixed", "unknown"] = "beats"
    if by_outcome["same"] or by_outcome["worse"]:
        state = "mixed"
    elif by_outcome["untested"]:
        state = "unknown"
    return Statement(state, title, f"{'; '.join(clauses)}.")


def _size(comparison: Mapping[Any, Any], found: Outcome, row: Mapping[Any, Any]) -> str:
    """Return ` by 3.1 [2.2, 4.0] (p < 0.001)`, or `: a gain of ...` where they are not apart."""
    values = [comparison[end] for end in ("difference", "low", "high")]
    gains = row["better"] == "higher"
    if (found == "worse") == gains:  # counted so that what the sentence says is positive
        values = [-values[0], -values[2], -values[1]]
    size, low, high = (text.number(value, row["unit"]) for value in values)
    if found == "same":
        said = f" (a gain of {size} [{low}, {high}], "
    else:
        said = f" by {size} [{low}, {high}] ("
    return f"{said}{text.p_value(comparison['p_holm'])})"
