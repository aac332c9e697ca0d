"""The rule of verdicts: by hand, its simulated error rates, and what must not change it."""

import math
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from partbench.verdict import (
    FEWEST_EQUAL,
    LABELS,
    MARGIN,
    MOST_SEEDS,
    Label,
    Published,
    decide,
    half_width,
    judge,
    margin_of,
    seeds_to_decide,
)

PAGE = Path(__file__).parents[1] / "docs" / "verdicts.md"
SEEDS = (1, 2, 3, 5, 10, 30)
VALUES = st.floats(1, 100).map(lambda value: round(value, 2))

# By hand.


def test_labels_have_an_order() -> None:
    assert LABELS[:4] == ("reproduced", "better", "worse", "undecided")
    assert len(set(LABELS)) == 9


def test_widths_by_hand() -> None:
    """t(.975, 2) = 4.3027, and 1/3 + 1/2 = 0.8333; t(.95, 2) = 2.9200, and 1/3 + 1.1025/2."""
    assert half_width(2.0, 3, 2) == pytest.approx(4.302653 * 2 * math.sqrt(5 / 6), rel=1e-6)
    expected = 2.919986 * 2 * math.sqrt(1 / 3 + 1.05**2 / 2)
    assert half_width(2.0, 3, 2, 0.90, MARGIN) == pytest.approx(expected, rel=1e-6)
    assert half_width(0.0, 1, 1) == 0


def test_margin_is_a_share_or_half_a_digit() -> None:
    assert margin_of(Published(-40.0, 0.05)) == 2.0
    assert margin_of(Published(3.0, 0.5)) == 0.5
    assert margin_of(Published(0.0, 0.05)) == 0.05


@pytest.mark.parametrize(
    ("values", "theirs", "label"),
    [
        # SD 0.1: h' = 2.92 x 0.1 x sqrt(1/3 + 1.1025) = 0.350, h = 0.497; the margin is 2.
        ([41.55, 41.65, 41.75], Published(40.0, 0.05), "reproduced"),  # 1.65 + 0.350 = 2.000
        ([41.57, 41.67, 41.77], Published(40.0, 0.05), "better"),  # 1.67 + 0.350 > 2, 1.67 > h
        ([41.57, 41.67, 41.77], Published(40.0, 0.05, better="lower"), "worse"),
        ([38.23, 38.33, 38.43], Published(40.0, 0.05), "worse"),
        # SD 1: h = 4.968, h' = 3.499, more than the margin at any difference.
        ([39.0, 40.0, 41.0], Published(40.0, 0.05), "undecided"),
        ([44.0, 45.0, 46.0], Published(40.0, 0.05), "undecided"),  # 5 < h + 0.05
        ([44.02, 45.02, 46.02], Published(40.0, 0.05), "better"),  # 5.02 > h + 0.05
        # Ten of their seeds: h = 4.303 sqrt(1/3 + 1/10) = 2.832.
        ([41.86, 42.86, 43.86], Published(40.0, 0.05, 10), "undecided"),
        ([41.89, 42.89, 43.89], Published(40.0, 0.05, 10), "better"),
    ],
)
def test_cases_by_hand(values: list[float], theirs: Published, label: Label) -> None:
    assert judge(values, theirs, random=True).label == label


@pytest.mark.parametrize(
    ("value", "label"), [(42.0, "reproduced"), (42.01, "better"), (37.99, "worse")]
)
def test_a_number_without_randomness_needs_one_seed(value: float, label: Label) -> None:
    theirs = Published(40.0, 0.05)
    assert judge([value], theirs, random=False).label == label
    assert judge([value] * FEWEST_EQUAL, theirs, random=True).label == label
    assert judge([value], theirs, random=True).label == "undecided"
    assert judge([value] * (FEWEST_EQUAL - 1), theirs, random=True).label == "undecided"


def test_a_spread_that_should_not_be_counts() -> None:
    """The seed is said to change nothing, but it does: the spread is not hidden."""
    assert judge([39.0, 40.0, 41.0], Published(40.0, 0.05), random=False).label == "undecided"


def test_what_is_hit_exactly_is_reproduced() -> None:
    for value in (46.03, 0.0, -1.5, 1e-3):
        verdict = judge([value] * 3, Published(value, 0.005), random=True)
        assert verdict.label == "reproduced"


def test_reasons_have_the_numbers() -> None:
    theirs = Published(46.0, 0.05)
    minus = "\N{MINUS SIGN}"
    assert judge([45.1, 45.2, 45.3], theirs, random=True).reason == (
        f"Ours is 45.20 (3 seeds), theirs 46.0: a difference of {minus}0.80, within the margin of "
        "2.30, and so are both ends of its 90 % interval"
    )
    assert judge([42.1, 42.2, 42.3], theirs, random=True).reason == (
        f"Ours is 42.20 (3 seeds), theirs 46.0: a difference of {minus}3.80, more than the 0.55 "
        "that chance explains"
    )
    assert judge([50.0], theirs, random=False).reason == (
        "Ours is 50.00 (1 seed), theirs 46.0: a difference of +4.00, more than the margin of 2.30"
    )
    assert judge([50.0], theirs, random=True).reason == (
        "Ours is 50.00 (1 seed), theirs 46.0: a difference of +4.00. One seed does not show how "
        "much seeds differ; three give a first answer"
    )
    assert judge([50.0, 50.0], theirs, random=True).reason == (
        "Ours is 50.00 (2 seeds), theirs 46.0: a difference of +4.00. Both seeds gave the same "
        "value, perhaps by chance; 3 seeds would tell"
    )
    assert judge([43.5, 44.0, 44.5], theirs, random=True).reason == (
        f"Ours is 44.00 (3 seeds), theirs 46.0: a difference of {minus}2.00. This run tells "
        "differences of more than 2.53 from chance; it cannot tell whether this one is within the "
        "margin of 2.30. About 4 seeds would decide"
    )
    assert judge([40.0, 46.0, 51.0], theirs, random=True).reason.endswith(
        f"Even {MOST_SEEDS} seeds would not decide, as theirs counts as one seed"
    )


def test_the_number_of_seeds_that_would_decide() -> None:
    """Their ten seeds: h' falls below the margin of 5 at the first S that this scan finds."""
    theirs, spread = Published(100.0, 0.5, 10), 5.0
    first = next(
        s
        for s in range(4, 200)
        if stats.t.ppf(0.95, s - 1) * spread * math.sqrt(1 / s + 1.05**2 / 10) <= 5
    )
    assert first == 7
    assert seeds_to_decide(0.0, spread, 3, theirs) == first
    assert seeds_to_decide(0.0, spread, 3, theirs._replace(seeds=1)) is None
    # Or the difference stands out: 6 > h(S) + 0.5.
    outstanding = next(
        s
        for s in range(4, 200)
        if stats.t.ppf(0.975, s - 1) * spread * math.sqrt(1 / s + 1 / 10) < 5.5
    )
    assert seeds_to_decide(6.0, spread, 3, theirs) == outstanding


@pytest.mark.parametrize(
    ("values", "theirs"),
    [
        ([], Published(1, 0)),
        ([1.0, math.nan], Published(1, 0)),
        ([1.0], Published(math.inf, 0)),
        ([1.0], Published(1, -0.1)),
        ([1.0], Published(1, math.nan)),
        ([1.0], Published(1, 0.1, seeds=0)),
    ],
)
def test_what_is_no_number(values: list[float], theirs: Published) -> None:
    with pytest.raises(ValueError, match=r"finite|at least 1"):
        judge(values, theirs, random=False)


# What must not change it.


@given(VALUES, VALUES, st.integers(1, 10), st.sampled_from(["higher", "lower"]))
def test_one_seed_is_never_a_yes_or_a_no(value: float, published: float, n: int, way: str) -> None:
    theirs = Published(published, 0.005, n, way)  # type: ignore[arg-type]
    assert judge([value], theirs, random=True).label == "undecided"


@given(st.lists(VALUES, min_size=2, max_size=6), VALUES, st.integers(1, 10))
def test_the_other_direction_swaps_better_and_worse(
    values: list[float], published: float, n: int
) -> None:
    swap = {"better": "worse", "worse": "better"}
    higher, lower = (
        decide(values, Published(published, 0.005, n, better), random=True)
        for better in ("higher", "lower")
    )
    assert lower == swap.get(higher, higher)


@given(st.lists(VALUES, min_size=2, max_size=6), VALUES, st.randoms(use_true_random=False))
def test_order_and_the_reason_do_not_change_the_label(
    values: list[float], published: float, random: object
) -> None:
    theirs = Published(published, 0.005)
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    label = decide(values, theirs, random=True)
    assert judge(shuffled, theirs, random=True).label == label


@given(st.lists(VALUES, min_size=2, max_size=6), VALUES)
def test_seeds_that_would_decide_do(values: list[float], published: float) -> None:
    theirs = Published(published, 0.005)
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    if spread < 1e-6 or decide(values, theirs, random=True) != "undecided":
        return
    needed = seeds_to_decide(mean - published, spread, len(values), theirs)
    if needed is not None:
        # As many values with this mean and this spread.
        ends = np.resize([-1.0, 1.0], needed)
        ends = (ends - ends.mean()) / np.std(ends, ddof=1)
        assert decide((mean + spread * ends).tolist(), theirs, random=True) != "undecided"


# Error rates.


@cache
def rates(
    seeds: int, of_theirs: int, off: float, margin: float, draws: int, digits: int = 6
) -> dict[str, float]:
    """Return how often each label is given, where the truth is known.

    Args:
        seeds: ours.
        of_theirs: their seeds.
        off: true difference, in SDs between seeds.
        margin: the margin, in such SDs.
        draws: simulated pairs of numbers.
        digits: that their number is printed with after the point.
    """
    spread = 100 * MARGIN / margin
    draw = np.random.default_rng([seeds, of_theirs, int(100 * off) % 2**32, int(100 * margin)])
    ours = draw.normal(100 + off * spread, spread, (draws, seeds)).tolist()
    printed = draw.normal(100, spread / math.sqrt(of_theirs), draws).round(digits).tolist()
    rounding = 0.5 * 10**-digits
    counts = Counter(
        decide(values, Published(value, rounding, of_theirs), random=True)
        for values, value in zip(ours, printed, strict=True)
    )
    return {label: counts[label] / draws for label in LABELS}


def noise(rate: float, draws: int) -> float:
    """Return three standard errors of a simulated rate."""
    return 3 * math.sqrt(rate * (1 - rate) / draws)


@pytest.mark.parametrize("of_theirs", [1, 3, 10])
@pytest.mark.parametrize("seeds", SEEDS)
def test_exact_replications_are_not_called_different(seeds: int, of_theirs: int) -> None:
    for margin in (0.5, 2.0, 5.0, 20.0):
        found = rates(seeds, of_theirs, 0.0, margin, 1500)
        assert found["reproduced"] + found["undecided"] >= 0.95 - noise(0.05, 1500)
    assert 0.95 - noise(0.05, 1500) > 0.93
    if seeds > 2:
        assert found["reproduced"] > 0.99  # where the spread is small against the margin


@pytest.mark.parametrize("of_theirs", [1, 3, 10])
@pytest.mark.parametrize("seeds", SEEDS)
def test_what_is_five_spreads_off_is_not_reproduced(seeds: int, of_theirs: int) -> None:
    for off in (5.0, -5.0):
        for margin in (2.0, 4.0, 5.0):
            found = rates(seeds, of_theirs, off, margin, 1500)["reproduced"]
            assert found <= 0.05 + noise(0.05, 1500)


def test_a_difference_as_large_as_the_margin_passes_in_five_percent() -> None:
    """The bound is reached: the margin counts for what it is, no less. Both ends, 30 seeds."""
    for off in (5.0, -5.0):
        found = rates(30, 1, off, 5.0, 15000)["reproduced"]
        assert 0.03 < found <= 0.05 + noise(0.05, 15000)


@pytest.mark.parametrize("seeds", [3, 10])
def test_coarse_rounding_does_not_make_a_difference(seeds: int) -> None:
    """The SD is 0.25, and theirs is printed without decimals."""
    found = rates(seeds, 1, 0.0, 20.0, 3000, digits=0)
    assert found["better"] + found["worse"] < 0.05
    narrow = rates(seeds, 10, 0.0, 20.0, 3000, digits=0)
    assert narrow["better"] + narrow["worse"] < 0.05


def test_more_seeds_turn_undecided_into_an_answer() -> None:
    """Never a no into a yes: what is reproduced stays below the bound at every number of seeds."""
    exact = [rates(seeds, 1, 0.0, 5.0, 1500) for seeds in SEEDS]
    off = [rates(seeds, 1, 5.0, 5.0, 1500) for seeds in SEEDS]
    for rows in (exact, off):
        undecided = [row["undecided"] for row in rows]
        assert undecided == sorted(undecided, reverse=True)
        assert undecided[0] == 1
    assert exact[-1]["reproduced"] > 0.9
    assert off[-1]["better"] > 0.9


HEADER = "| our seeds | exact replication: reproduced | undecided | better or worse |"


def page_rows(draws: int) -> dict[int, list[float]]:
    """Return the page's table: seeds -> rates in %, of exact replications and of 5 SDs off."""
    table = {}
    for seeds in SEEDS:
        row = []
        for off in (0.0, 5.0):
            found = rates(seeds, 1, off, 5.0, draws)
            wrong = found["better"] + found["worse"]
            row += [100 * found["reproduced"], 100 * found["undecided"], 100 * wrong]
        table[seeds] = row
    return table


def test_the_page_has_the_simulated_rates() -> None:
    text = PAGE.read_text()
    lines = text[text.index(HEADER) :].partition("\n\n")[0].splitlines()
    said = {
        int(cells[0]): [float(cell) for cell in cells[1:]]
        for line in lines[2:]
        if (cells := re.findall(r"[\d.]+", line))
    }
    assert tuple(said) == SEEDS
    draws = 3000
    for seeds, row in page_rows(draws).items():
        for rate, written in zip(row, said[seeds], strict=True):
            allowed = 100 * noise(max(written / 100, 0.002), draws) + 0.05
            assert abs(rate - written) <= allowed, (seeds, rate, written)


if __name__ == "__main__":  # the rows of the page's table
    for seeds, row in page_rows(100_000).items():
        print("| " + " | ".join([str(seeds), *(f"{rate:.1f}" for rate in row)]) + " |")
