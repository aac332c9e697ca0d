"""Places of methods on a task: rank groups, scaled scores, and the front of cost and quality."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def rank_groups(values: ArrayLike, apart: ArrayLike, *, better: str) -> list[tuple[int, ...]]:
    """Return the rank groups of each method: two share a group if and only if not told apart.

    This is a compact letter display (Piepho, Journal of Computational and Graphical Statistics
    2004): group 0 holds the best method, and every pair that no test tells apart stands together
    in some group. A method can be in several groups, because "not told apart" is not transitive:
    the first may not differ from the second, nor the second from the third, while the first and
    the third do. The simpler rule "not worse than the best of its group" puts each method into one
    group, but then two methods of one group may well differ, and two of different groups may not.
    It hides both. This display hides neither.

    Pairs are covered greedily, best first, by sets whose members are all not told apart; a set
    whose pairs others cover is left out. So there are at most as many groups as pairs, found in
    polynomial time.

    Args:
        values: [M], the methods' means, finite.
        apart: [M, M] booleans, symmetric: whether a test tells two methods apart.
        better: "higher" or "lower".

    Returns:
        For each method its groups in ascending order; the groups are numbered from 0 by their best
        members.

    Raises:
        ValueError: the shapes do not fit, a value is not finite, or `apart` is not symmetric.
    """
    means, differ = np.asarray(values, np.float64), np.asarray(apart, bool)
    n = len(means)
    if means.ndim != 1 or differ.shape != (n, n):
        raise ValueError(f"values must be [M] and apart [M, M], not {means.shape}, {differ.shape}")
    if not np.isfinite(means).all() or (differ != differ.T).any():
        raise ValueError("values must be finite, and apart symmetric")
    order = np.argsort(-means if better == "higher" else means, kind="stable")
    same = ~differ[np.ix_(order, order)]
    np.fill_diagonal(same, True)
    groups = _without_redundant(_cover(same))
    places: list[tuple[int, ...]] = [()] * n
    for rank, method in enumerate(order):
        places[method] = tuple(number for number, group in enumerate(groups) if group[rank])
    return places


def letters(groups: Sequence[int]) -> str:
    """Return rank groups as letters: `ab` of (0, 1); beyond `z` come `aa`, `ab`, with commas."""
    if any(group >= 26 for group in groups):
        return ",".join(_letter(group) for group in groups)
    return "".join(_letter(group) for group in groups)


def scaled(values: ArrayLike, floor: float, ceiling: float) -> NDArray[np.float64]:
    """Return values on a scale where the floor is 0 and the ceiling 1, whichever is larger.

    A value beyond an end stays beyond it: worse than the floor is negative.

    Args:
        values: of any shape.
        floor: what no learning gives.
        ceiling: what labels give.

    Returns:
        Of the same shape; NaN where an end is not finite, or both are equal.
    """
    numbers = np.asarray(values, np.float64)
    span = ceiling - floor
    if not np.isfinite(span) or span == 0:
        return np.full(numbers.shape, np.nan)
    return np.asarray((numbers - floor) / span, np.float64)


def pareto_front(costs: ArrayLike, values: ArrayLike, *, better: str) -> NDArray[np.bool_]:
    """Return which methods no other one dominates.

    One dominates another if it costs no more and is no worse, and is strictly better in one of
    the two. Methods that are equal in both stand on the front together. One without a finite cost
    or value is never on it.

    Args:
        costs: [M], such as GPU hours; less is better.
        values: [M].
        better: "higher" or "lower", of the values.

    Returns:
        [M].
    """
    price, quality = np.asarray(costs, np.float64), np.asarray(values, np.float64)
    if price.ndim != 1 or price.shape != quality.shape:
        raise ValueError(f"costs and values must be [M], not {price.shape}, {quality.shape}")
    loss = -quality if better == "higher" else quality
    front = np.zeros(len(price), bool)
    finite = np.flatnonzero(np.isfinite(price) & np.isfinite(loss))
    least, at = np.inf, np.nan
    for i in finite[np.lexsort((loss[finite], price[finite]))]:
        if loss[i] < least:
            least, at = loss[i], price[i]
            front[i] = True
        elif loss[i] == least and price[i] == at:
            front[i] = True
    return front


def _cover(same: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Return sets of methods, all of whose pairs are the same, that cover all such pairs."""
    n, covered, groups = len(same), ~same, []
    for first in range(n):
        for second in range(first, n):
            if covered[first, second]:
                continue
            group = np.zeros(n, bool)
            group[[first, second]] = True
            for third in range(n):
                if same[third][group].all():
                    group[third] = True
            covered |= np.outer(group, group)
            groups.append(group)
    return sorted(groups, key=lambda group: np.flatnonzero(group).tolist())


def _without_redundant(groups: list[NDArray[np.bool_]]) -> list[NDArray[np.bool_]]:
    """Leave out, last first, each set all of whose pairs stand together in others, too."""
    kept = list(groups)
    counts = sum((np.outer(g, g).astype(int) for g in groups), np.zeros((1, 1), int))
    for group in reversed(groups):
        pairs = np.outer(group, group)
        if (counts[pairs] > 1).all():
            counts = counts - pairs
            kept = [other for other in kept if other is not group]
    return kept


def _letter(group: int) -> str:
    name = chr(ord("a") + group % 26)
    return name if group < 26 else _letter(group // 26 - 1) + name
