"""Tests of the difference of two methods that were measured on the same samples."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit

MOST_OF_TWO_SEEDS = 1.25
"""Degrees of freedom of the seeds if a method has two. Two that happen to agree hide their spread,
and Satterthwaite's formula then counts the other method's seeds alone: up to 9 % false positives,
simulated, and 6 % with this limit."""
LEAST_P = 1e-100
"""Given where p is below it."""


class Difference(NamedTuple):
    """The difference of two means, with its 95 % interval and its test."""

    difference: float
    """The first less the second."""
    low: float
    high: float
    p: float
    """Two-sided, of no difference."""


class Spread(NamedTuple):
    """A part of a variance, and how well it is known."""

    variance: float
    freedom: float
    """Degrees of freedom; unused where the variance is 0."""


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, a_random: bool = True, b_random: bool = True
) -> Difference:
    """Compare two methods by their outcomes on the same test samples.

    The outcome of a seed on a sample is mean + seed + sample + rest. The sample's part is common
    to both methods and cancels in the difference by sample. Three parts of the variance of the
    difference of means are left: the seeds of a, the seeds of b, and the samples, as the variance
    of the differences by sample. The seeds' parts are joined as Welch does (Biometrika 1947), with
    Satterthwaite's degrees of freedom, but no more than if single seeds of both spread alike, as
    fewer seeds would otherwise hide behind more. The samples' part has its own; the half-width is
    the root of the sum of both squared half-widths (Howe, JASA 1974), as in
    `partbench.metrics.intervals.over_seeds_and_samples`. Joining all three as Satterthwaite does
    would call up to 11 % of pairs of two seeds different that are not: a seeds' part that happens
    to be small would count as well known.

    False positives at 5 %, simulated for 2, 3, 5 and 10 seeds a method, equal in number or not:
    1 to 5 % where seeds of both spread alike, at most 7 % where those of one spread ten times as
    much. The rest counts twice, among seeds and among samples, which is on the safe side.

    Args:
        a: [S_a, N] outcomes of the first method, one row a seed; N at least 2.
        b: [S_b, N] of the second, on the same samples in the same order.
        a_random: whether the seed changes the first method's outcomes. If not, one seed suffices.
        b_random: likewise of the second.

    Raises:
        ValueError: the shapes do not fit, a value is not finite, or a method whose outcomes the
            seed changes has one seed.
    """
    first, second = (np.asarray(table, np.float64) for table in (a, b))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"outcomes must be [seeds, samples], not {first.shape}, {second.shape}")
    if first.shape[1] < 2 or not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("outcomes must be finite, and those of at least two samples")
    by_sample = first.mean(0) - second.mean(0)
    samples = Spread(float(by_sample.var(ddof=1)) / len(by_sample), len(by_sample) - 1)
    seeds = _of_seeds([(first.mean(1), a_random), (second.mean(1), b_random)])
    return _tested(float(by_sample.mean()), [samples, seeds])


def welch_difference(
    a: ArrayLike, b: ArrayLike, *, a_random: bool = True, b_random: bool = True
) -> Difference:
    """Compare two methods by one value a seed, where there are no outcomes by sample.

    This is Welch's test. It covers seeds alone, and says nothing about other test samples.

    Args:
        a: [S_a], values of the first method.
        b: [S_b], of the second.
        a_random: see `paired_difference`.
        b_random: see `paired_difference`.

    Raises:
        ValueError: not one-dimensional, a value is not finite, neither method depends on the seed,
            or one that does has one seed.
    """
    first, second = (np.asarray(values, np.float64) for values in (a, b))
    if first.ndim != 1 or second.ndim != 1:
        raise ValueError(f"values must be [seeds], not {first.shape}, {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("values must be finite")
    if not (a_random or b_random):
        raise ValueError("neither method depends on the seed, so seeds cannot test them")
    spread = _of_seeds([(first, a_random), (second, b_random)])
    return _tested(float(first.mean() - second.mean()), [spread])


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm, Scandinavian Journal of Statistics 1979).

    If those below 5 % are called differences, one or more of the calls is wrong in at most 5 % of
    all such tables.
    """
    corrected, greatest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        greatest = max(greatest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = greatest
    return corrected


def _of_seeds(methods: Sequence[tuple[NDArray[np.float64], bool]]) -> Spread:
    """Return the joint spread of the means over seeds, of (values by seed, random) pairs."""
    if any(random and len(values) < 2 for values, random in methods):
        raise ValueError("a method that depends on the seed has one seed, which shows no spread")
    parts = [
        Spread(float(values.var(ddof=1)) / len(values), len(values) - 1)
        for values, random in methods
        if random
    ]
    variance = sum(part.variance for part in parts)
    if variance == 0:
        return Spread(0.0, math.inf)
    shares = [part.variance / variance for part in parts]
    freedom = min(_joint(shares, parts), _joint([1 / (p.freedom + 1) for p in parts], parts))
    if min(part.freedom for part in parts) == 1:
        freedom = min(freedom, MOST_OF_TWO_SEEDS)
    return Spread(variance, freedom)


def _joint(shares: Sequence[float], parts: Sequence[Spread]) -> float:
    """Return Satterthwaite's degrees of freedom of parts that take these shares of a variance."""
    total = sum(shares)
    return 1 / sum((s / total) ** 2 / p.freedom for s, p in zip(shares, parts, strict=True))


def _tested(difference: float, parts: Sequence[Spread]) -> Difference:
    parts = [part for part in parts if part.variance > 0]
    half = math.sqrt(_squared_half_width(0.05, parts))
    return Difference(difference, difference - half, difference + half, _p(difference, parts))


def _squared_half_width(p: float, parts: Sequence[Spread]) -> float:
    """Return the squared half-width of the interval whose level is 1 - p."""
    return sum(float(stdtrit(part.freedom, p / 2)) ** 2 * part.variance for part in parts)


def _p(difference: float, parts: Sequence[Spread]) -> float:
    """Return the p of the interval that ends at zero."""
    if not parts:
        return 1.0 if difference == 0 else 0.0
    if len(parts) == 1:
        ratio = abs(difference) / math.sqrt(parts[0].variance)
        return float(2 * stdtr(parts[0].freedom, -ratio))

    def beyond(log_p: float) -> float:
        return _squared_half_width(math.exp(log_p), parts) - difference**2

    if beyond(math.log(LEAST_P)) < 0:
        return LEAST_P
    return math.exp(brentq(beyond, math.log(LEAST_P), 0.0))
