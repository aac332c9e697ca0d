"""Whether two rulers agree: the rank correlation of what they say of the same runs."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from partbench.metrics.intervals import percentiles

DRAWS = 2000
"""Resampled sets of methods."""
BLOCK = 256
"""Runs that are compared with all others at once."""
FEWEST = 5
"""Methods below which there is no interval: resampling so few shows nothing."""


class Agreement(NamedTuple):
    """Kendall's rank correlation, with its 95 % interval."""

    tau: float
    low: float
    high: float
    runs: int
    methods: int


def rank_agreement(
    x: ArrayLike, y: ArrayLike, methods: ArrayLike | None = None, *, seed: int = 0
) -> Agreement:
    """Return Kendall's tau-b of two rulers over the same runs, with an interval over methods.

    Tau-b is the number of pairs of runs that both rulers order alike, less that of pairs that
    they order differently, over the root of the products of the numbers of pairs that each one
    orders at all (Kendall, Biometrika 1945). 1: the same order; 0: no relation; -1: reversed.

    Runs of one method that differ in their seed are no independent evidence of an agreement, so
    the bootstrap resamples methods with all their runs. A method that was drawn twice is not
    compared with its copy.

    Args:
        x: [R], what the first ruler says; turn the sign where lower is better.
        y: [R], the second.
        methods: [R], which method a run is of; none: each run is a method of its own.
        seed: of the resampling.

    Returns:
        Over the runs where both are finite. NaN where a ruler orders no pair; without an interval
        where there are fewer than `FEWEST` methods.

    Raises:
        ValueError: the shapes do not fit.
    """
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    names = np.arange(len(first)) if methods is None else np.asarray(methods)
    if first.ndim != 1 or first.shape != second.shape or names.shape != first.shape:
        raise ValueError(
            f"x, y and methods must be [R], not {first.shape}, {second.shape}, {names.shape}"
        )
    both = np.isfinite(first) & np.isfinite(second)
    first, second = first[both], second[both]
    _, index = np.unique(names[both], return_inverse=True)
    n = int(index.max()) + 1 if len(index) else 0
    concordant, by_x, by_y = _pairs(first, second, index, n)
    once = np.ones((1, n))
    tau = float(_tau(once, concordant, by_x, by_y)[0])
    low = high = float("nan")
    if n >= FEWEST and np.isfinite(tau):
        drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), DRAWS)
        taus = _tau(drawn.astype(np.float64), concordant, by_x, by_y)
        low, high = percentiles(taus[np.isfinite(taus)])
    return Agreement(tau, low, high, len(first), n)


def _pairs(
    x: NDArray[np.float64], y: NDArray[np.float64], index: NDArray[np.int64], n: int
) -> tuple[NDArray[np.float64], ...]:
    """Return [n, n] sums over pairs of runs, by their methods: sign x sign y, |sign x|, |sign y|.

    Runs are taken block by block, so memory does not grow with runs squared.
    """
    member = np.zeros((len(x), n))
    member[np.arange(len(x)), index] = 1
    sums = tuple(np.zeros((n, n)) for _ in range(3))
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        of_x, of_y = (np.sign(values[rows, None] - values) for values in (x, y))
        for total, pairs in zip(sums, (of_x * of_y, np.abs(of_x), np.abs(of_y)), strict=True):
            total += member[rows].T @ (pairs @ member)
    return sums


def _tau(
    taken: NDArray[np.float64],
    concordant: NDArray[np.float64],
    by_x: NDArray[np.float64],
    by_y: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return tau-b [D] where each method was taken as often as `taken` [D, n] says.

    Runs of one copy of a method are compared with each other, those of two copies are not.
    """
    copies = taken - taken**2
    weighted = [
        ((taken @ pairs) * taken).sum(1) + copies @ np.diag(pairs)
        for pairs in (concordant, by_x, by_y)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(weighted[0] / np.sqrt(weighted[1] * weighted[2]), np.float64)
