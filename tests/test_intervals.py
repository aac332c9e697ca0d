"""Intervals over seeds and test samples: by hand, by simulation, and what must not change them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from partbench.metrics.intervals import (
    Interval,
    Spread,
    by_group,
    crossed,
    over_seeds,
    over_seeds_and_samples,
    squared_half_width,
)

TABLES = arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(2, 12)),
    elements=st.floats(-100, 100).map(lambda value: round(value, 3)),
)


def test_one_seed_is_students_interval_over_samples() -> None:
    outcomes = np.random.default_rng(0).normal(size=25)
    low, high = stats.t.interval(0.95, 24, outcomes.mean(), stats.sem(outcomes))
    assert over_seeds_and_samples(outcomes[None]) == pytest.approx((outcomes.mean(), low, high))


def test_a_table_by_hand() -> None:
    """[[1, 2, 3], [3, 2, 7]]: mean 3; rows 2 and 4; columns 2, 2, 5; rest +-1, 0 +-1, +-1."""
    table = np.array([[1.0, 2, 3], [3, 2, 7]])
    ms_seed = 3 * ((2 - 3) ** 2 + (4 - 3) ** 2) / 1
    ms_sample = 2 * ((2 - 3) ** 2 + (2 - 3) ** 2 + (5 - 3) ** 2) / 2
    # table - row - column + mean: [[0, 1, -1], [0, -1, 1]]
    ms_rest = 4 / 2
    t_1, t_2 = 12.7062047362, 4.3026527297
    seeds, samples = ms_seed / 6, (ms_sample - ms_rest) / 6
    freedom = (seeds + samples) ** 2 / (seeds**2 / 1 + samples**2 / 2)
    howe = t_1**2 * seeds + t_2**2 * samples
    satterthwaite = stats.t.ppf(0.975, freedom) ** 2 * (seeds + samples)
    half = math.sqrt((howe + satterthwaite) / 2)
    assert over_seeds_and_samples(table) == pytest.approx((3, 3 - half, 3 + half), rel=1e-9)


def test_seeds_that_agree_leave_the_samples_interval() -> None:
    outcomes = np.random.default_rng(1).normal(size=40)
    several = over_seeds_and_samples(np.stack([outcomes] * 4))
    assert several == pytest.approx(over_seeds_and_samples(outcomes[None]))


def test_samples_that_agree_leave_the_seeds_interval() -> None:
    values = np.array([1.0, 2.0, 4.0])
    several = over_seeds_and_samples(np.repeat(values[:, None], 10, axis=1))
    assert several == pytest.approx(over_seeds(values))


def test_over_seeds_is_students_interval() -> None:
    values = [3.0, 5.0, 4.0, 8.0]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert over_seeds(values) == pytest.approx((5, low, high))
    low, high = stats.t.interval(0.8, 3, np.mean(values), stats.sem(values))
    assert over_seeds(values, level=0.8) == pytest.approx((5, low, high))


def test_one_value_has_no_interval() -> None:
    mean, low, high = over_seeds([7.0])
    assert mean == 7
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (3, 1), (1, 1)])
def test_tables_of_a_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \[seeds, samples >= 2\]"):
        over_seeds_and_samples(np.zeros(shape))


# How often the interval holds the truth, when seeds, samples and both together vary.
SPREADS = {
    "seeds": (1.0, 0.0, 0.1),
    "seeds and rest": (1.0, 1.0, 1.0),
    "samples": (0.1, 3.0, 1.0),
    "seeds and samples": (0.5, 5.0, 1.0),
    "rest": (0.0, 0.5, 3.0),
    "seeds hidden by the rest": (0.25, 0.0, 1.0),
}


def coverage(
    seeds: int, spreads: tuple[float, float, float], samples: int = 60, draws: int = 2000
) -> float:
    """Return the share of intervals that hold the truth, 0."""
    draw = np.random.default_rng([seeds, samples, *(int(100 * s) for s in spreads)])
    by_seed, by_sample, rest = spreads
    parts = []
    for _ in range(draws):
        table = (
            by_seed * draw.normal(size=(seeds, 1))
            + by_sample * draw.normal(size=(1, samples))
            + rest * draw.normal(size=(seeds, samples))
        )
        parts.append(crossed(table))
    means = np.array([mean for mean, _, _ in parts])
    of_seeds, of_samples = (Spread(*np.array([p[i] for p in parts]).T) for i in (1, 2))
    return float(np.mean(means**2 <= squared_half_width(0.05, of_seeds, of_samples)))


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("spreads", SPREADS.values(), ids=SPREADS)
def test_coverage(seeds: int, spreads: tuple[float, float, float]) -> None:
    """The bounds of the docstring; a standard error of 2,000 draws is 0.5 %."""
    assert (0.92 if seeds == 2 else 0.93) <= coverage(seeds, spreads)
    assert coverage(seeds, spreads) <= (0.99 if seeds == 2 else 0.975)


def test_coverage_of_an_accuracy() -> None:
    """Right or wrong, 200 samples of different difficulty, three seeds of different skill."""
    draw = np.random.default_rng(0)
    truth = np.mean(right(draw, 400, 5000))
    intervals = [over_seeds_and_samples(draw_right(draw)) for _ in range(500)]
    hits = np.mean([i.low <= truth <= i.high for i in intervals])
    assert 0.92 <= hits <= 0.99


def right(draw: np.random.Generator, seeds: int, samples: int) -> np.ndarray:
    skill, ease = draw.normal(0.5, 0.2, (seeds, 1)), draw.normal(0, 1, (1, samples))
    return 1 / (1 + np.exp(-skill - ease))


def draw_right(draw: np.random.Generator) -> np.ndarray:
    chance = right(draw, 3, 200)
    return draw.random(chance.shape) < chance


def close(actual: Interval, expected: Interval, scale: float) -> None:
    assert actual == pytest.approx(expected, rel=1e-6, abs=1e-6 * scale)


@given(TABLES, st.randoms(use_true_random=False))
def test_order_does_not_matter(table: np.ndarray, random: object) -> None:
    draw = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    shuffled = draw.permutation(draw.permutation(table, axis=0), axis=1)
    close(over_seeds_and_samples(shuffled), over_seeds_and_samples(table), 100)


@given(TABLES, st.floats(-50, 50), st.floats(0.01, 50))
def test_moves_and_scales_with_the_outcomes(table: np.ndarray, move: float, scale: float) -> None:
    before = over_seeds_and_samples(table)
    expected = Interval(*(scale * value + move for value in before))
    close(over_seeds_and_samples(scale * table + move), expected, 100 * scale + 100)


@given(TABLES)
def test_mirrored_outcomes_mirror_the_interval(table: np.ndarray) -> None:
    mean, low, high = over_seeds_and_samples(table)
    close(over_seeds_and_samples(-table), Interval(-mean, -high, -low), 100)


@given(TABLES)
def test_the_interval_is_around_the_mean_and_widens_with_the_level(table: np.ndarray) -> None:
    narrow, wide = (over_seeds_and_samples(table, level) for level in (0.5, 0.99))
    assert wide.low <= narrow.low <= table.mean() + 1e-9
    assert wide.high >= narrow.high >= table.mean() - 1e-9
    assert narrow.mean == pytest.approx(table.mean(), abs=1e-9)


# ---------------------------------------------------------------------------- groups


def films(
    draw: np.random.Generator, seeds: int, groups: int, agree: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return right or wrong [seeds, clips] and the film of each; clips share its ease."""
    sizes = draw.integers(5, 8, groups)
    film = np.repeat(np.arange(groups), sizes)
    ease = draw.random(groups)[film]
    shared = draw.random(len(film)) < agree
    chance = np.where(shared, ease > 0.5, 0.5)
    skill = 0.02 * draw.normal(size=(seeds, 1))
    right = draw.random((seeds, len(film))) < chance + skill
    return right.astype(float), film


def test_groups_of_one_sample_are_samples() -> None:
    table = np.random.default_rng(0).normal(size=(3, 30))
    np.testing.assert_allclose(by_group(table, np.arange(30)), table, atol=1e-12)


def test_outcomes_by_group_by_hand() -> None:
    """Means 2 and 5 with n = 3 and 1: m = 2.75, s - n m = 6 - 8.25 and 5 - 2.75."""
    found = by_group([[1.0, 2, 3, 5]], [4, 4, 4, 9])
    assert found[0].tolist() == pytest.approx([2.75 - 2 / 4 * 2.25, 2.75 + 2 / 4 * 2.25])


@given(TABLES, st.integers(0, 2**32 - 1))
def test_outcomes_by_group_keep_the_mean(table: np.ndarray, seed: int) -> None:
    groups = np.random.default_rng(seed).integers(4, size=table.shape[1])
    found = by_group(table, groups)
    np.testing.assert_allclose(found.mean(1), table.mean(1), atol=1e-9)
    assert found.shape == (len(table), len(np.unique(groups)))


def test_the_interval_is_that_of_resampled_groups() -> None:
    """Its standard error is a bootstrap's over films, of the ratio of sums."""
    draw = np.random.default_rng(1)
    right, film = films(draw, 1, 60, 0.8)
    sums, sizes = np.bincount(film, right[0]), np.bincount(film)
    taken = draw.integers(60, size=(20_000, 60))
    bootstrap = (sums[taken].sum(1) / sizes[taken].sum(1)).std()
    outcomes = by_group(right, film)[0]
    assert outcomes.std(ddof=1) / math.sqrt(60) == pytest.approx(bootstrap, rel=0.03)


@pytest.mark.parametrize("seeds", [1, 3])
def test_coverage_with_groups(seeds: int) -> None:
    """The numbers of the docstring; intervals over clips hold the truth far less often."""
    draw = np.random.default_rng(seeds)
    hits, blind, draws = 0, 0, 1500
    for _ in range(draws):
        right, film = films(draw, seeds, 21, 0.8)
        interval = over_seeds_and_samples(by_group(right, film))
        hits += interval.low <= 0.5 <= interval.high
        interval = over_seeds_and_samples(right)
        blind += interval.low <= 0.5 <= interval.high
    assert 0.93 <= hits / draws <= 0.965
    assert 0.62 <= blind / draws <= 0.72
