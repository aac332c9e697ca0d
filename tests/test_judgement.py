"""The rules of verdicts: every branch, and what losing seeds must never do."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from partbench.comparisons import Measured, Outcomes, compare
from partbench.judgement import (
    BOTH_ALONE,
    BOTH_INCOMPLETE,
    METHOD_ALONE,
    METHOD_INCOMPLETE,
    OTHER_ALONE,
    OTHER_INCOMPLETE,
    Outcome,
    Seeds,
    is_untrained,
    outcome,
    outcome_of_gain,
    own_untrained,
    relations,
    state,
    why_untested,
)
from partbench.metrics.paired import paired_difference, welch_difference

WHOLE, ALONE, LOST = Seeds(True, 3, 3), Seeds(True, 1, 1), Seeds(True, 2, 3)
FIXED = Seeds(False, 1, 3)
"""A method that the seed does not change: one seed is as good as three."""


@pytest.mark.parametrize(
    ("method", "other", "reason"),
    [
        (WHOLE, WHOLE, ""),
        (WHOLE, FIXED, ""),
        (FIXED, FIXED, ""),
        (ALONE, WHOLE, METHOD_ALONE),
        (WHOLE, ALONE, OTHER_ALONE),
        (ALONE, ALONE, BOTH_ALONE),
        (LOST, WHOLE, METHOD_INCOMPLETE),
        (FIXED, LOST, OTHER_INCOMPLETE),
        (LOST, LOST, BOTH_INCOMPLETE),
        (LOST, ALONE, OTHER_ALONE),
        (Seeds(True, 1, 3), WHOLE, METHOD_ALONE),
    ],
)
def test_which_seeds_a_verdict_needs(method: Seeds, other: Seeds, reason: str) -> None:
    assert why_untested(method, other) == reason


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (["better", "better"], "beats"),
        (["better", "untested"], "unknown"),
        (["better", "same"], "mixed"),
        (["worse", "untested"], "mixed"),
        (["untested"], "unknown"),
        ([], "unknown"),
    ],
)
def test_the_state_of_a_method(outcomes: list[Outcome], expected: str) -> None:
    assert state(outcomes) == expected


def test_an_outcome_without_a_p_value_is_none() -> None:
    row = {"difference": 1.0, "p_holm": math.nan, "reason": ""}
    assert outcome(row, "higher") == "untested"


@pytest.mark.parametrize(
    ("variant", "untrained", "own"),
    [
        ("paper", ["untrained"], "untrained"),
        ("demo", ["demo+untrained", "untrained"], "demo+untrained"),
        ("demo+first_epoch", ["untrained", "demo+untrained"], "demo+untrained"),
        ("k30", ["k10+untrained"], None),
        ("k30", ["k10+untrained", "untrained"], "untrained"),
        ("untrained+k30", ["k30+untrained"], "k30+untrained"),
        ("paper", [], None),
    ],
)
def test_a_methods_own_untrained_network(
    variant: str, untrained: list[str], own: str | None
) -> None:
    assert own_untrained(variant, untrained) == own


def test_the_floors_that_a_method_must_beat() -> None:
    """Its own untrained network and the controls; never another method's untrained network."""
    floors = [
        ("raw_pixels", "paper"),
        ("keynet", "demo+untrained"),
        ("zhang", "demo+untrained"),
        ("random_keypoints", "demo"),
    ]
    common = {("raw_pixels", "paper"): "floor", ("random_keypoints", "demo"): "floor"}
    assert relations("keynet", "demo", floors) == common | {("keynet", "demo+untrained"): "self"}
    assert relations("dlp", "demo", floors) == common
    assert is_untrained("k10+untrained")
    assert not is_untrained("untrained_k10")


def gain(**changes: Any) -> dict[str, Any]:
    row = {"low": 0.1, "high": 0.4, "seeds": 3, "random": True, "better": "higher"}
    return row | changes


@pytest.mark.parametrize(
    ("row", "asked", "expected"),
    [
        (gain(), 3, "better"),
        (gain(low=-0.4, high=-0.1), 3, "worse"),
        (gain(low=-0.4, high=0.1), 3, "same"),
        (gain(low=0.0), 3, "same"),
        (gain(better="lower"), 3, "worse"),
        (gain(seeds=1), 1, "untested"),
        (gain(seeds=1, random=False), 1, "better"),
        (gain(seeds=2), 3, "untested"),
        (gain(low=math.nan), 3, "untested"),
    ],
)
def test_a_number_that_is_a_gain(row: dict[str, Any], asked: int, expected: Outcome) -> None:
    assert outcome_of_gain(row, asked) == expected


# Losing seeds.

VALUES = st.floats(-50, 50).map(lambda value: round(value, 2))
OUTCOMES = arrays(np.float64, st.tuples(st.integers(2, 6), st.just(5)), elements=VALUES)


def judged(a: np.ndarray, b: np.ndarray, asked: tuple[int, int], by_sample: bool) -> Outcome:
    """Return the outcome of two methods of which these seeds are left."""
    methods = [
        Measured(name, "paper", True, table.mean(1), Outcomes(table) if by_sample else None, n)
        for name, table, n in zip("ab", (a, b), asked, strict=True)
    ]
    found = compare(*methods)
    p = found.result.p if found.result and not found.reason else math.nan
    row = {"difference": found.difference, "p_holm": p, "reason": found.reason}
    return outcome(row, "higher")


@given(OUTCOMES, OUTCOMES, st.data(), st.booleans())
def test_losing_seeds_never_turns_a_no_into_a_yes(
    a: np.ndarray, b: np.ndarray, data: st.DataObject, by_sample: bool
) -> None:
    asked = (len(a), len(b))
    whole = judged(a, b, asked, by_sample)
    left = [
        np.sort(data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]) for n in asked
    ]
    fewer = judged(a[left[0]], b[left[1]], asked, by_sample)
    if tuple(map(len, left)) == asked:
        assert fewer == whole
    else:
        assert fewer == "untested"


def test_what_the_remaining_numbers_alone_would_say() -> None:
    """Two seeds that agree look certain; the lost one did not learn. No verdict, not a yes."""
    draw = np.random.default_rng(0)
    a = np.array([[5.0], [5.01], [-9.0]]) + 0.1 * draw.normal(size=(3, 30))
    b = np.array([[0.0], [0.01], [0.02]]) + 0.1 * draw.normal(size=(3, 30))
    assert judged(a, b, (3, 3), True) == "same"
    assert paired_difference(a[:2], b).p < 0.01
    assert judged(a[:2], b, (3, 3), True) == "untested"
    assert judged(a[:2], b, (2, 3), True) == "better"  # only two were asked for


@given(st.integers(2, 9), st.integers(1, 5), st.floats(0.1, 5), st.floats(0.1, 3))
def test_with_the_same_spread_fewer_seeds_give_a_larger_p(
    seeds: int, more: int, size: float, spread: float
) -> None:
    def values(n: int) -> np.ndarray:
        ends = np.resize([-1.0, 1.0], n) * spread
        return np.asarray((ends - ends.mean()) / ends.std(ddof=1) * spread)

    few, many = (welch_difference(values(n) + size, values(n)).p for n in (seeds, seeds + more))
    assert few > many
