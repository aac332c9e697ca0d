"""Paired tests: against SciPy where it has them, by simulation, and what must not change them."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from partbench.metrics.intervals import Spread, over_seeds_and_samples
from partbench.metrics.paired import (
    Parts,
    differences,
    holm,
    paired_by_seed,
    paired_difference,
    paired_parts,
    welch_difference,
)

Array = NDArray[np.float64]
TABLES = arrays(
    np.float64,
    st.tuples(st.integers(2, 4), st.just(6)),
    elements=st.floats(-50, 50).map(lambda value: round(value, 2)),
)


def test_without_seeds_it_is_the_paired_t_test() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 1, 40))
    result = paired_difference(a + 0.4, b, a_random=False, b_random=False)
    expected = stats.ttest_rel(a[0] + 0.4, b[0])
    interval = expected.confidence_interval()
    assert result.p == pytest.approx(expected.pvalue)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    assert result.difference == pytest.approx(a.mean() + 0.4 - b.mean())


def test_without_samples_it_is_welchs_test() -> None:
    draw = np.random.default_rng(1)
    a, b = draw.normal(1, 2, 5), draw.normal(0, 1, 5)
    expected = stats.ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval()
    constant = (np.repeat(x[:, None], 7, axis=1) for x in (a, b))  # all samples alike
    for result in (welch_difference(a, b), paired_difference(*constant)):
        assert result.p == pytest.approx(expected.pvalue)
        assert (result.low, result.high) == pytest.approx((interval.low, interval.high))


def test_one_that_ignores_the_seed_is_a_constant() -> None:
    """Then Welch's test is Student's of one mean against it."""
    values = np.array([3.0, 4.0, 6.0, 5.0])
    result = welch_difference(values, [2.5], b_random=False)
    assert result.p == pytest.approx(stats.ttest_1samp(values, 2.5).pvalue)
    result = welch_difference([2.5], values, a_random=False)
    assert result.difference == -2.0


def test_a_table_by_hand() -> None:
    """Parts of the variance: 1/4 and 1 of the seeds, 1/3 of the samples; there is no rest."""
    a = np.array([[1.0, 3.0, 2.0], [2.0, 4.0, 3.0]])  # means 2, 3: SD^2 1/2
    b = np.array([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]])  # means 1, 3: SD^2 2
    seeds, samples = 0.25 + 1.0, 1 / 3  # differences by sample -1/2, 3/2, 1/2: SD^2 1
    freedom = seeds**2 / (0.25**2 + 1.0**2)
    joint = (seeds + samples) ** 2 / (seeds**2 / freedom + samples**2 / 2)
    t_seeds, t_samples, t_joint = stats.t.ppf(0.975, [freedom, 2, joint])
    howe = t_seeds**2 * seeds + t_samples**2 * samples
    half = math.sqrt((howe + t_joint**2 * (seeds + samples)) / 2)
    result = paired_difference(a, b)
    assert result.difference == pytest.approx(0.5)
    assert (result.low, result.high) == pytest.approx((0.5 - half, 0.5 + half))


def test_the_rest_counts_once() -> None:
    """By hand: rest +-1/2 in a alone, so 1 / (1 x 1) / 4 of the variance, and none is left."""
    a = np.array([[1.0, 0.0], [0.0, 1.0]])
    b = np.array([[0.0, 0.0], [1.0, 1.0]])
    parts = paired_parts(a, b)
    assert parts.samples.variance == 0
    assert parts.seeds.variance == pytest.approx(0.0 / 2 + 0.5 / 2)
    a[:, 1] += 6  # differences by sample 0 and 6: SD^2 18, less the rest of 1/4
    assert paired_parts(a, b).samples.variance == pytest.approx(18 / 2 - 0.25)
    fixed = paired_parts(a[:1], b, a_random=False)  # it has no seeds' part to count the rest in
    assert fixed.samples.variance == pytest.approx((1 - 6) ** 2 / 2 / 2)


@pytest.mark.parametrize(
    ("n_a", "n_b", "most"), [(2, 2, 2.0), (2, 10, 1.433628), (3, 3, 4.0), (3, 6, 4.09091)]
)
def test_degrees_of_freedom_have_a_limit(n_a: int, n_b: int, most: float) -> None:
    """By hand for 3 and 6: (1/3 + 1/6)^2 / ((1/3)^2 / 2 + (1/6)^2 / 5) = 4.0909."""
    a, b = np.zeros(n_a), np.arange(float(n_b))
    a[0] = 1e-3  # the seeds of a hardly spread, so Welch would count those of b alone
    result = welch_difference(a, b)
    variance = a.var(ddof=1) / n_a + b.var(ddof=1) / n_b
    freedom = min(most, n_b - 1)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert result.high - result.difference == pytest.approx(half, rel=1e-5)


def test_the_same_seeds_are_one_crossed_design() -> None:
    draw = np.random.default_rng(2)
    a, b = draw.normal(size=(2, 4, 30))
    result = paired_by_seed(a, b)
    interval = over_seeds_and_samples(a - b)
    assert (result.difference, result.low, result.high) == pytest.approx(interval)
    shift = result.high  # then the interval ends at zero
    assert paired_by_seed(a - shift, b).p == pytest.approx(0.05, rel=1e-6)
    one = np.repeat(draw.normal(size=(4, 1)), 30, axis=1)  # samples all alike: Student's test
    expected = stats.ttest_1samp(one[:, 0], 0).pvalue
    assert paired_by_seed(a + one, a).p == pytest.approx(expected)
    assert paired_by_seed(a, a).p == 1


def test_many_are_tested_as_one() -> None:
    draw = np.random.default_rng(3)
    pairs = [tuple(draw.normal(size=(2, 3, 20)) * draw.uniform(0.1, 9)) for _ in range(5)]
    pairs.append((np.ones((2, 3)), np.zeros((2, 3))))
    together = differences([paired_parts(*pair) for pair in pairs])
    assert together == [paired_difference(*pair) for pair in pairs]
    assert differences([]) == []


@pytest.mark.parametrize("freedom", [1.0, 4.0, 30.0])
@pytest.mark.parametrize("ratio", [0.5, 2.0, 30.0])
def test_small_p_values_are_students(freedom: float, ratio: float) -> None:
    found = differences([Parts(ratio, Spread(1.0, freedom), Spread(0.0, 1.0))])[0].p
    assert found == pytest.approx(2 * stats.t.sf(ratio, freedom), rel=1e-8)


@given(TABLES, TABLES, st.floats(0.001, 0.5))
def test_p_is_the_level_whose_interval_ends_at_nothing(a: Array, b: Array, level: float) -> None:
    """Shift the difference to the end of its own interval: p is 5 %."""
    result = paired_difference(a, b)
    half = result.high - result.difference
    if half < 1e-3:
        return
    shifted = paired_difference(a - result.low, b)
    assert shifted.p == pytest.approx(0.05, rel=1e-4)
    further = paired_difference(a - result.low + level * half, b)
    assert further.p < shifted.p


def test_a_certain_difference_and_none() -> None:
    a = np.array([[1.0, 2.0, 3.0]] * 2)
    assert paired_difference(a, a).p == 1
    assert paired_difference(a + 1, a) == (1.0, 1.0, 1.0, 0.0)
    tiny = paired_difference(a + 1, a + np.array([1e-9, -1e-9, 0.0]))
    assert 0 < tiny.p < 1e-6


@pytest.mark.parametrize(
    ("a", "b", "options"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), {}),
        (np.zeros(3), np.zeros(3), {}),
        (np.zeros((2, 1)), np.zeros((2, 1)), {}),
        (np.full((2, 3), np.nan), np.zeros((2, 3)), {}),
        (np.zeros((1, 3)), np.zeros((2, 3)), {}),
        (np.zeros((2, 3)), np.zeros((1, 3)), {"a_random": False}),
    ],
)
def test_outcomes_that_cannot_be_compared(a: Array, b: Array, options: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match=r"must be|one seed"):
        paired_difference(a, b, **options)


@pytest.mark.parametrize(
    ("a", "b", "options"),
    [
        (np.zeros((2, 1)), np.zeros(2), {}),
        (np.array([1.0, np.inf]), np.zeros(2), {}),
        (np.zeros(1), np.zeros(2), {}),
        (np.zeros(2), np.zeros(2), {"a_random": False, "b_random": False}),
    ],
)
def test_values_that_cannot_be_compared(a: Array, b: Array, options: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match=r"must be|one seed|neither"):
        welch_difference(a, b, **options)


def test_holm_of_his_kind() -> None:
    """A textbook table: 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 no less than the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([0.9, 0.9, 0.9]) == [1.0, 1.0, 1.0]
    assert holm([]) == []
    assert holm([0.2]) == [0.2]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_order_and_stays_between_raw_and_bonferroni(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for p, c in zip(p_values, corrected, strict=True):
        assert p <= c <= min(1.0, len(p_values) * p) or c == pytest.approx(max(p, c))
        assert c <= 1
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [corrected[i] for i in order] == sorted(corrected)


@given(TABLES, TABLES, st.floats(-20, 20), st.floats(0.1, 10))
def test_swapped_moved_and_scaled(a: Array, b: Array, move: float, scale: float) -> None:
    one = paired_difference(a, b)
    other = paired_difference(scale * b + move, scale * a + move)
    assert other.difference == pytest.approx(-scale * one.difference, abs=1e-9)
    assert other.low == pytest.approx(-scale * one.high, rel=1e-6, abs=1e-6)
    if min(np.ptp(a), np.ptp(b)) > 0.1 and one.p > 1e-9:
        assert other.p == pytest.approx(one.p, rel=1e-3)


# Error rates. SDs: seeds of a, seeds of b, what only a adds to samples, the rest.
SPREADS = {
    "seeds": (1.0, 1.0, 0.0, 0.1),
    "seeds of one": (2.0, 0.2, 1.0, 0.5),
    "seeds three to one": (1.5, 0.5, 1.0, 1.0),
    "seeds and samples": (0.5, 0.5, 3.0, 1.0),
    "samples": (0.05, 0.05, 3.0, 1.0),
    "rest": (0.0, 0.0, 0.3, 3.0),
    "all": (0.3, 0.3, 1.0, 2.0),
}
SAMPLES = 60
NUMBERS = [(2, 2), (3, 3), (5, 5), (10, 10), (2, 6), (10, 2), (3, 6)]
TABLE_DRAWS = 2000


@cache
def found(
    seeds: tuple[int, int], spreads: tuple[float, ...], shift: float, draws: int = TABLE_DRAWS
) -> tuple[float, float]:
    """Return how often p is below 5 %, and how often the interval holds the true difference."""
    draw = np.random.default_rng([*seeds, *(int(100 * s) for s in spreads), int(100 * shift)])
    of_a, of_b, own, rest = spreads
    pairs = []
    for _ in range(draws):
        common = 5 * draw.normal(size=SAMPLES)  # both methods find the same samples hard
        a, b = (
            common + spread * draw.normal(size=(n, 1)) + rest * draw.normal(size=(n, SAMPLES))
            for n, spread in zip(seeds, (of_a, of_b), strict=True)
        )
        pairs.append(paired_parts(a + own * draw.normal(size=SAMPLES) + shift, b))
    results = differences(pairs)
    called = sum(result.p < 0.05 for result in results)
    held = sum(result.low <= shift <= result.high for result in results)
    return called / draws, held / draws


@pytest.mark.parametrize("seeds", NUMBERS)
@pytest.mark.parametrize("spreads", SPREADS.values(), ids=SPREADS)
def test_intervals_hold_the_truth_and_tests_err_as_often_as_they_say(
    seeds: tuple[int, int], spreads: tuple[float, ...]
) -> None:
    """The bounds of the docstring; a standard error of 2,000 draws is 0.5 %."""
    called, held = found(seeds, spreads, 0.0)
    assert called == pytest.approx(1 - held)  # one is the other, where there is no difference
    if min(seeds) == 2:
        assert held >= 0.90
    else:
        assert 0.925 <= held <= 0.975
    if min(seeds) == 2 and spreads[0] == spreads[1]:
        assert 0.945 <= held <= 0.985 or seeds[0] != seeds[1]


def test_fewer_seeds_never_err_more_often() -> None:
    """Where seeds of both spread alike, a yes without a difference is rarest with two seeds."""
    for spreads in SPREADS.values():
        if spreads[0] == spreads[1]:
            called = [found((n, n), spreads, 0.0)[0] for n in (2, 3, 5, 10)]
            assert called[0] <= 0.05
            assert called[0] <= min(called[1:]) + 0.015


@pytest.mark.parametrize("seeds", [(3, 3), (5, 5), (10, 10)])
@pytest.mark.parametrize("spreads", SPREADS.values(), ids=SPREADS)
def test_a_large_difference_is_found(seeds: tuple[int, int], spreads: tuple[float, ...]) -> None:
    """Six standard errors of the difference with three seeds or more."""
    of_a, of_b, own, rest = spreads
    n_a, n_b = seeds
    variance = (of_a**2 / n_a + of_b**2 / n_b) + (own**2 + rest**2 * (1 / n_a + 1 / n_b)) / SAMPLES
    called, held = found(seeds, spreads, 6 * math.sqrt(variance), 300)
    assert called >= (0.75 if seeds == (3, 3) else 0.97)
    assert held >= 0.91


def test_pairing_finds_what_unpaired_intervals_hide() -> None:
    """Samples of very different difficulty: the difference is small against their spread."""
    draw = np.random.default_rng(3)
    hard = 30 * draw.normal(size=SAMPLES)
    a, b = (hard + level + draw.normal(size=(3, SAMPLES)) for level in (3.0, 0.0))
    assert abs(a.mean() - b.mean()) < 1.96 * hard.std() / math.sqrt(SAMPLES)
    assert paired_difference(a, b).p < 0.01


def test_seeds_that_are_not_the_same() -> None:
    for a, b in ((2, 3), (1, 1)):
        with pytest.raises(ValueError, match="the same seeds, at least two"):
            paired_by_seed(np.zeros((a, 3)), np.zeros((b, 3)))
