"""Intervals for a mean over seeds and test samples at once, and by resampling."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

DRAWS_AT_ONCE = 64
"""Resampled data sets that one product of matrices sums."""


class Interval(NamedTuple):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


def over_seeds_and_samples(outcomes: ArrayLike, level: float = 0.95) -> Interval:
    """Return the interval of the mean outcome where both seeds and samples are draws.

    Every seed is measured on the same samples, so the outcomes are a crossed design without
    replication: outcome = mean + seed + sample + rest. The half-width joins Student's
    half-widths of the seeds' and the samples' parts as a root of squares (Howe 1974), each with
    its own degrees of freedom, so that two or three seeds give the wide interval they deserve.
    Simulated with 60 samples whose main effects spread as much as the rest, or more, 95 to 97 % of
    intervals hold the truth from three seeds on, and 91 to 97 % with two. Where samples hardly
    differ among themselves, it is as few as 87 % with two seeds, 91 % with three and 93 % with
    five: the seeds' part is then estimated as nothing too often. With one seed only the samples
    are counted: such an interval says nothing about other seeds.

    Args:
        outcomes: [S, N], one row a seed, one column a test sample; N at least 2.
        level: of confidence.

    Raises:
        ValueError: not two-dimensional, or fewer than 2 samples.
    """
    table = np.asarray(outcomes, np.float64)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(f"outcomes must be [seeds, samples >= 2], not {table.shape}")
    seeds, samples = table.shape
    mean = float(table.mean())
    if seeds == 1:
        return _around(mean, _t(samples - 1, level) ** 2 * float(table.var(ddof=1)) / samples)
    rows, columns = table.mean(1, keepdims=True), table.mean(0, keepdims=True)
    ms_seed = samples * float(rows.var(ddof=1))
    ms_sample = seeds * float(columns.var(ddof=1))
    ms_rest = float(((table - rows - columns + mean) ** 2).sum()) / ((seeds - 1) * (samples - 1))
    squares = (
        _t(seeds - 1, level) ** 2 * max(ms_seed - ms_rest, 0)
        + _t(samples - 1, level) ** 2 * ms_sample
    )
    return _around(mean, squares / (seeds * samples))


def by_group(outcomes: ArrayLike, groups: ArrayLike) -> NDArray[np.float64]:
    """Return one outcome a group whose mean is that of all samples, for intervals over groups.

    Samples of a group, such as clips of one film, are no independent draws; groups are. With G
    groups, N samples, and n samples in a group whose outcomes sum to s, the group's outcome is
    m + G / N (s - n m), where m is the mean of all samples. The variance of these outcomes over G
    is that of m under resampling of whole groups, to first order (Cochran, Sampling Techniques,
    1977, on ratio estimators). Intervals and tests for samples so hold for groups.

    Simulated with 21 groups of 5 to 7 clips, four of five as easy as their group, 95 % of
    intervals hold the truth, with one seed and with three; of those over clips, 66 to 68 %.

    Args:
        outcomes: [S, N], one row a seed, one column a test sample.
        groups: [N] integers.

    Returns:
        [S, G], in the order of the sorted groups.
    """
    table = np.asarray(outcomes, np.float64)
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(index)
    sums = np.stack([np.bincount(index, weights=row) for row in table])
    mean = table.mean(1, keepdims=True)
    return np.asarray(mean + len(sizes) / len(index) * (sums - sizes * mean), np.float64)


def over_seeds(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return Student's interval of the mean of one value a seed; none (NaN) for one seed."""
    seeds = np.asarray(values, np.float64)
    if len(seeds) < 2:
        return Interval(float(seeds.mean()), float("nan"), float("nan"))
    variance = float(seeds.var(ddof=1)) / len(seeds)
    return _around(float(seeds.mean()), _t(len(seeds) - 1, level) ** 2 * variance)


def _t(freedom: int, level: float) -> float:
    return float(stats.t.ppf(0.5 + level / 2, freedom))


def _around(mean: float, squared_half_width: float) -> Interval:
    half = math.sqrt(squared_half_width)
    return Interval(mean, mean - half, mean + half)


def jackknife(
    statistic: Callable[[NDArray[Any]], NDArray[np.float64]], counts: NDArray[Any]
) -> NDArray[np.float64]:
    """Return outcomes by sample whose mean is a statistic of the sum of all samples' counts.

    A number such as NMI is no mean over images. With t the statistic of all N samples, and t_i
    without sample i, the outcome of i is t + (N - 1) (mean of t_j - t_i): their variance over N is
    the jackknife's of t (Efron and Stein, Annals of Statistics 1981), so intervals for means hold
    for it to first order.

    Args:
        statistic: takes sums of counts, [M, ...], to numbers [M]; not changed by a factor, to
            first order.
        counts: [N, ...].

    Returns:
        [N]; NaN for samples without any count. With one other sample, its outcome is t.
    """
    rows = np.flatnonzero(counts.reshape(len(counts), -1).any(1))
    outcomes = np.full(len(counts), np.nan)
    total = counts.sum(0)
    outcomes[rows] = statistic(total[None])
    if len(rows) > 1:
        without = statistic(total - counts[rows])
        outcomes[rows] += (len(rows) - 1) * (without.mean() - without)
    return outcomes


def bootstrap_totals(values: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    """Return the column sums of samples drawn with replacement, as many as there are.

    A draw is how often each sample was taken, so its sums are one row of a product of matrices;
    no sample is copied. Sums of integers are exact up to 2^53.

    Args:
        values: [N, D].
        draws: resampled data sets.
        seed: of the draws.

    Returns:
        [draws, D].
    """
    rng = np.random.default_rng(seed)
    n = len(values)
    totals = np.empty((draws, values.shape[1]))
    for start in range(0, draws, DRAWS_AT_ONCE):
        rows = totals[start : start + DRAWS_AT_ONCE]
        taken = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in rows]
        rows[:] = np.array(taken, np.float64) @ values
    return totals


def percentiles(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Return the percentiles between which the share `level` of bootstrapped values lies."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
