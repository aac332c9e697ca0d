"""Tests of the difference of two methods that were measured on the same samples.

`paired_difference` compares two methods, whose seeds have nothing to do with each other;
`paired_by_seed` two versions of one method, whose seeds are the same; `welch_difference` values
without outcomes by sample. `Parts` are what a test needs of the outcomes: the many pairs of a table
are reduced to them one by one and then tested at once.

An interval holds the true difference as often as it says, whatever the seeds are. What it takes
to call a difference a finding is stricter: see `partbench.judgement`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from partbench.metrics.intervals import Spread, crossed, rest, squared_half_width

LEAST_P = 1e-100
"""Given where p is below it."""
HALVINGS = 60
"""Of the range of log p, 230: more than its float64 can tell apart."""
NONE = Spread(0.0, 1.0)
ONE_SEED = "a method that depends on the seed has one seed, which shows no spread"


class Difference(NamedTuple):
    """The difference of two means, with its 95 % interval and its test."""

    difference: float
    """The first less the second."""
    low: float
    high: float
    p: float
    """Two-sided, of no difference."""


class Parts(NamedTuple):
    """A difference, and the two parts of its variance."""

    difference: float
    seeds: Spread
    samples: Spread


class Profile(NamedTuple):
    """The outcomes of one method, as far as comparisons need them."""

    by_sample: NDArray[np.float64]
    """[N], means over seeds."""
    by_seed: NDArray[np.float64]
    """[S], means over samples."""
    rest: float
    """What the rest adds to the variance of the mean; 0 where the seed changes nothing."""
    random: bool
    """Whether the seed changes the outcomes."""


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, a_random: bool = True, b_random: bool = True
) -> Difference:
    """Compare two methods by their outcomes on the same test samples.

    The outcome of a seed on a sample is mean + seed + sample + rest. The sample's part that both
    methods share cancels in the difference by sample. Three parts of the variance of the
    difference of means are left: the seeds of a, the seeds of b, and the samples. The seeds' parts
    are joined as Welch does (Biometrika 1947), with Satterthwaite's degrees of freedom, but no more
    than if single seeds of both spread alike, as fewer seeds would otherwise hide behind more. The
    samples' part is the variance of the differences by sample, less the rest, which the spread of
    the seeds has in it; see `partbench.metrics.intervals.squared_half_width` for the sum of both.

    Simulated with 60 samples, with seeds, samples and rest in many proportions, and with seeds of
    one method that spread up to ten times as much as the other's: 93 to 97 % of intervals hold the
    true difference with 3, 5 and 10 seeds; so 3 to 7 % of pairs that do not differ have p below
    5 %. With two seeds it is 95 to 98 % where seeds of both spread alike, and 91 % where those of
    one spread ten times as much. Two seeds against more are on the safe side, up to 100 %.

    Args:
        a: [S_a, N] outcomes of the first method, one row a seed; N at least 2.
        b: [S_b, N] of the second, on the same samples in the same order.
        a_random: whether the seed changes the first method's outcomes. If not, one seed suffices.
        b_random: likewise of the second.

    Raises:
        ValueError: the shapes do not fit, a value is not finite, or a method whose outcomes the
            seed changes has one seed.
    """
    return differences([paired_parts(a, b, a_random=a_random, b_random=b_random)])[0]


def paired_parts(
    a: ArrayLike, b: ArrayLike, *, a_random: bool = True, b_random: bool = True
) -> Parts:
    """Return what `paired_difference` tests; its arguments and errors are the same."""
    first, second = _outcomes(a, b)
    return parts_of(profile(first, random=a_random), profile(second, random=b_random))


def profile(outcomes: NDArray[np.float64], *, random: bool) -> Profile:
    """Return what a method brings into each of its comparisons.

    Args:
        outcomes: [S, N], finite.
        random: whether the seed changes them.

    Raises:
        ValueError: the seed changes them, and there is one.
    """
    if random and len(outcomes) < 2:
        raise ValueError(ONE_SEED)
    counted = rest(outcomes) if random else 0.0
    return Profile(outcomes.mean(0), outcomes.mean(1), counted, random)


def parts_of(a: Profile, b: Profile) -> Parts:
    """Return what the test of two methods needs."""
    by_sample = a.by_sample - b.by_sample
    n = len(by_sample)
    seeds = _of_seeds([(a.by_seed, a.random), (b.by_seed, b.random)])
    own = max(float(by_sample.var(ddof=1)) / n - a.rest - b.rest, 0.0)
    return Parts(float(by_sample.mean()), seeds, Spread(own, n - 1))


def paired_by_seed(a: ArrayLike, b: ArrayLike) -> Difference:
    """Compare two versions of a method by the same seeds on the same test samples.

    A seed draws the same weights and the same order of the data in both, so its part cancels as
    far as they agree. The difference by seed and sample is a crossed design of its own.

    Args:
        a: [S, N] outcomes of the first version, one row a seed; S and N at least 2.
        b: [S, N] of the second, of the same seeds and samples in the same order.

    Raises:
        ValueError: the shapes do not fit, a value is not finite, or there is one seed.
    """
    return differences([parts_by_seed(a, b)])[0]


def parts_by_seed(a: ArrayLike, b: ArrayLike) -> Parts:
    """Return what `paired_by_seed` tests; its arguments and errors are the same."""
    first, second = _outcomes(a, b)
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(
            f"both must have the same seeds, at least two: {len(first)}, {len(second)}"
        )
    return Parts(*crossed(first - second))


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
    return differences([welch_parts(a, b, a_random=a_random, b_random=b_random)])[0]


def welch_parts(
    a: ArrayLike, b: ArrayLike, *, a_random: bool = True, b_random: bool = True
) -> Parts:
    """Return what `welch_difference` tests; its arguments and errors are the same."""
    first, second = (np.asarray(values, np.float64) for values in (a, b))
    if first.ndim != 1 or second.ndim != 1:
        raise ValueError(f"values must be [seeds], not {first.shape}, {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("values must be finite")
    if not (a_random or b_random):
        raise ValueError("neither method depends on the seed, so seeds cannot test them")
    spread = _of_seeds([(first, a_random), (second, b_random)])
    return Parts(float(first.mean() - second.mean()), spread, NONE)


def differences(pairs: Sequence[Parts]) -> list[Difference]:
    """Return the interval and the test of each difference, all at once."""
    if not pairs:
        return []
    size = np.array([pair.difference for pair in pairs])
    seeds, samples = (
        Spread(*np.array([pair[part] for pair in pairs], np.float64).T) for part in (1, 2)
    )
    half = np.sqrt(squared_half_width(np.full(len(pairs), 0.05), seeds, samples))
    rows = zip(size, size - half, size + half, _p(size, seeds, samples), strict=True)
    return [Difference(*map(float, row)) for row in rows]


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


def _outcomes(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = (np.asarray(table, np.float64) for table in (a, b))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"outcomes must be [seeds, samples], not {first.shape}, {second.shape}")
    if first.shape[1] < 2 or not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("outcomes must be finite, and those of at least two samples")
    return first, second


def _of_seeds(methods: Sequence[tuple[NDArray[np.float64], bool]]) -> Spread:
    """Return the joint spread of the means over seeds, of (values by seed, random) pairs."""
    if any(random and len(values) < 2 for values, random in methods):
        raise ValueError(ONE_SEED)
    parts = [
        Spread(float(values.var(ddof=1)) / len(values), len(values) - 1)
        for values, random in methods
        if random
    ]
    variance = sum(part.variance for part in parts)
    if variance == 0:
        return NONE
    shares = [part.variance / variance for part in parts]
    freedom = min(_joint(shares, parts), _joint([1 / (p.freedom + 1) for p in parts], parts))
    return Spread(variance, freedom)


def _joint(shares: Sequence[float], parts: Sequence[Spread]) -> float:
    """Return Satterthwaite's degrees of freedom of parts that take these shares of a variance."""
    total = sum(shares)
    return 1 / sum((s / total) ** 2 / p.freedom for s, p in zip(shares, parts, strict=True))


def _p(size: NDArray[np.float64], seeds: Spread, samples: Spread) -> NDArray[np.float64]:
    """Return the p of the interval that ends at zero, by halving the range of its logarithm."""
    low, high = np.full(len(size), np.log(LEAST_P)), np.zeros(len(size))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        inside = squared_half_width(np.exp(middle), seeds, samples) >= size**2
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    p = np.exp(high)
    certain = (np.asarray(seeds.variance) + np.asarray(samples.variance)) == 0
    return np.asarray(np.where(certain, np.where(size == 0, 1.0, 0.0), p))
