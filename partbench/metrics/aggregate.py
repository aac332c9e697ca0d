"""Numbers over several tasks: interquartile mean and probability of improvement.

Both follow Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice",
NeurIPS 2021, whose library is rliable. Scores are per task and seed, on a scale that the tasks
share, such as floor 0 and ceiling 1. Intervals resample seeds within each task (stratified
bootstrap): they say what other seeds on the same tasks would give, and nothing of other tasks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from partbench.metrics.intervals import Interval, percentiles

DRAWS = 2000
"""Resampled sets of seeds."""
CUT = 0.25
"""Share of the scores that the interquartile mean leaves out at each end."""

Array = NDArray[np.float64]


class Improvement(NamedTuple):
    """How likely one method is better than another, with its 95 % interval."""

    probability: float
    low: float
    high: float


def interquartile_mean(tasks: Sequence[ArrayLike], *, seed: int = 0) -> Interval:
    """Return the mean of the middle half of all scores, over tasks and seeds, with its interval.

    A quarter of the scores, rounded down, is left out at each end, as in `scipy.stats.trim_mean`.
    It is less moved by a single task than the mean, and uses more of the scores than the median.
    Every score counts once, so a task with more seeds counts more; give each task the same seeds.

    Args:
        tasks: one array [S] a task, of the scores of its seeds, finite.
        seed: of the resampling.

    Returns:
        Without an interval (NaN) if no task has two seeds.

    Raises:
        ValueError: there is no score, or one is not finite.
    """
    scores = _checked(tasks)
    value = float(_trimmed(np.concatenate(scores)[None])[0])
    if max(map(len, scores)) < 2:
        return Interval(value, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([_resampled(task, rng) for task in scores], axis=1)
    return Interval(value, *percentiles(_trimmed(drawn)))


def probability_of_improvement(
    a: Sequence[ArrayLike], b: Sequence[ArrayLike], *, better: str, seed: int = 0
) -> Improvement:
    """Return the probability that a seed of a is better than one of b on a task drawn at random.

    On a task it is the share of pairs of seeds, one of each, in which a is better; ties count half
    (the statistic of Mann and Whitney, Annals of Mathematical Statistics 1947). The result is its
    mean over tasks. It says how often, not by how much.

    Args:
        a: one array [S] a task, of the first method's numbers; any unit.
        b: likewise of the second, of the same tasks in the same order.
        better: "higher" or "lower".
        seed: of the resampling.

    Returns:
        Without an interval (NaN) if neither has two seeds on any task.

    Raises:
        ValueError: the tasks do not fit, there is none, or a number is not finite.
    """
    first, second = _checked(a), _checked(b)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} tasks of one and {len(second)} of the other")
    sign = 1 if better == "higher" else -1
    pairs = [(sign * x, sign * y) for x, y in zip(first, second, strict=True)]
    value = float(np.mean([_wins(x[None], y[None])[0] for x, y in pairs]))
    if max(map(len, [*first, *second])) < 2:
        return Improvement(value, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    drawn = [_wins(_resampled(x, rng), _resampled(y, rng)) for x, y in pairs]
    return Improvement(value, *percentiles(np.mean(drawn, axis=0)))


def _checked(tasks: Sequence[ArrayLike]) -> list[Array]:
    scores = [np.asarray(task, np.float64) for task in tasks]
    if not scores or any(task.ndim != 1 or not len(task) for task in scores):
        raise ValueError("there must be a task, and each must be [S >= 1]")
    if not all(np.isfinite(task).all() for task in scores):
        raise ValueError("scores must be finite")
    return scores


def _resampled(task: Array, rng: np.random.Generator) -> Array:
    """Return [DRAWS, S], seeds of a task drawn with replacement."""
    return task[rng.integers(len(task), size=(DRAWS, len(task)))]


def _trimmed(scores: Array) -> Array:
    """Return [D], the mean of each row without `CUT` of its scores at each end."""
    cut = int(CUT * scores.shape[1])
    return np.asarray(np.sort(scores, axis=1)[:, cut : scores.shape[1] - cut].mean(1))


def _wins(x: Array, y: Array) -> Array:
    """Return [D], the share of pairs of each row in which x is larger, ties half.

    The ranks of x among both sum to its wins and half its ties, plus S (S + 1) / 2.
    """
    s, others = x.shape[1], y.shape[1]
    ranks = rankdata(np.concatenate([x, y], axis=1), axis=1)[:, :s].sum(1)
    return np.asarray((ranks - s * (s + 1) / 2) / (s * others), np.float64)
