"""What a table says of its methods and its floor controls: who beats what, and by how much."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from partbench.judgement import (
    BOTH_ALONE,
    BOTH_INCOMPLETE,
    METHOD_ALONE,
    METHOD_INCOMPLETE,
    NOTHING_TO_TEST,
    OTHER_ALONE,
    OTHER_FAILED,
    OTHER_INCOMPLETE,
    Outcome,
    State,
    outcome,
    outcome_of_gain,
    relations,
    state,
)
from partbench.report import text
from partbench.report.read import records
from partbench.report.words import lowered

NO_FLOOR = "No floor control"
INCOMPLETE = {METHOD_INCOMPLETE, BOTH_INCOMPLETE}
NOT_RECORDED = {"reason": "the results hold no comparison"}
SHORT = {
    OTHER_ALONE: "one seed",
    OTHER_INCOMPLETE: "seeds are missing",
    OTHER_FAILED: "it has no number",
    NOTHING_TO_TEST: "nothing varies that could be tested",
}
"""Reasons why there is no test, as they stand in brackets; another stands as it is."""


class Statement(NamedTuple):
    """One trained method against every floor that it must beat, in words."""

    state: State
    method: str
    text: str


def statements(group: pd.DataFrame, comparisons: pd.DataFrame) -> list[Statement]:
    """Return a statement for every trained method of a group, best first.

    Its floors are those of `partbench.judgement.relations`, and those of which no number is left.

    Args:
        group: rows of the summary, of one metric in one setting on the same data.
        comparisons: of these methods and controls, see `partbench.comparisons`.
    """
    rows = records(ordered(group))
    floors = [row for row in rows if row["role"] == "floor"]
    compared = {
        tuple(row[key] for key in ("method", "variant", "control", "control_variant")): row
        for row in records(comparisons)
        if row["relation"] != "method"
    }
    failed = [pair for pair, row in compared.items() if row["reason"] == OTHER_FAILED]
    if not floors and not failed:
        return [
            Statement(
                "unknown",
                NO_FLOOR,
                "was measured here, so there is nothing to compare with.",
            )
        ]
    trained = [row for row in rows if row["role"] == "method"]
    proper = {row["method"] for row in trained}
    names = [(row["method"], row["variant"]) for row in floors]
    said = []
    for row in trained:
        one = (row["method"], row["variant"])
        lost = [(pair[2], pair[3]) for pair in failed if pair[:2] == one]
        must_beat = [*relations(*one, names), *lost]
        if must_beat:
            pairs = {other: compared.get((*one, *other), NOT_RECORDED) for other in must_beat}
            said.append(_statement(row, pairs, proper))
    return said


def gain_statement(row: Mapping[Any, Any], asked: int, floor: str) -> Statement:
    """Return the statement on a number that is itself a gain over a floor, sample by sample.

    Args:
        row: of the summary.
        asked: seeds that the configuration asks for.
        floor: what it gains on, such as "showing the last frame again".
    """
    title = text.name(row["method"], row["variant"])
    found = outcome_of_gain(row, asked)
    size, low, high = (text.number(row[end], row["unit"]) for end in ("mean", "low", "high"))
    unit = f" {row['unit']}" if row["unit"] else ""
    interval = f" [{low}, {high}]" if math.isfinite(row["low"] + row["high"]) else ""
    gain = f"a gain of {size}{unit}{interval}"
    if found == "untested":
        lacks = "one seed" if row["seeds"] == 1 else f"{row['seeds']} of {asked} seeds"
        said = f"has {lacks}: no verdict. So far it shows {gain} over {floor}."
        return Statement("unknown", title, said)
    words = {"better": "is better than", "worse": "is worse than", "same": "cannot be told from"}
    return Statement(state([found]), title, f"{words[found]} {floor}: {gain}.")


def ordered(group: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a group with the best mean first."""
    higher = bool((group["better"] == "higher").all())
    return group.sort_values("mean", ascending=not higher, kind="stable")


def _statement(
    row: Mapping[Any, Any],
    pairs: Mapping[tuple[str, str], Mapping[Any, Any]],
    proper: set[str],
) -> Statement:
    """Return a method's statement.

    Args:
        row: of the summary.
        pairs: floor -> its comparison.
        proper: methods whose names are proper names.
    """
    title = text.name(row["method"], row["variant"])
    by_outcome: dict[Outcome, list[str]] = {"better": [], "same": [], "worse": [], "untested": []}
    sizes = []
    for (method, variant), comparison in pairs.items():
        control = lowered(method, variant, proper)
        found = outcome(comparison, row["better"])
        sizes.append(_size(comparison, found, row))
        by_outcome[found].append(f"{control}{sizes[-1]}")
    reasons = {comparison["reason"] for comparison in pairs.values()}
    own = reasons <= {METHOD_ALONE, BOTH_ALONE, METHOD_INCOMPLETE, BOTH_INCOMPLETE}
    if own:
        lacks = "lacks seeds that were asked for" if reasons & INCOMPLETE else "has one seed"
        seen = f" (so far {text.listed(by_outcome['untested'])})" if any(sizes) else ""
        return Statement("unknown", title, f"{lacks}: no verdict{seen}.")
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
    outcomes = [found for found, controls in by_outcome.items() for _ in controls]
    return Statement(state(outcomes), title, f"{'; '.join(clauses)}.")


def _size(comparison: Mapping[Any, Any], found: Outcome, row: Mapping[Any, Any]) -> str:
    """Return ` by 3.1 [2.2, 4.0] (p < 0.001)`, or ` (a gain of ...)` where they are not apart.

    Empty where the difference is not known.
    """
    values = [comparison.get(end, float("nan")) for end in ("difference", "low", "high")]
    if not math.isfinite(values[0]):
        return ""
    gains = row["better"] == "higher"
    if (found == "worse") == gains:  # counted so that what the sentence says is positive
        values = [-values[0], -values[2], -values[1]]
    size, low, high = (text.number(value, row["unit"]) for value in values)
    interval = f" [{low}, {high}]" if math.isfinite(values[1]) else ""
    if found == "untested":
        return f" (a gain of {size}{interval})"
    p = text.p_value(comparison["p_holm"])
    if found == "same":
        return f" (a gain of {size}{interval}, {p})"
    return f" by {size}{interval} ({p})"
