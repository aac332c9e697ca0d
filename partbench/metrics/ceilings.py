"""What K parts can reach with given labels, by NMI, ARI and matched IoU.

A model that merges labels into parts has, of all models, the greatest NMI: for any bound, how far
NMI is above it is a convex function of the shares of a label that go to each part, so it is
greatest where no label is shared. Its NMI and its ARI then depend on the sizes of the groups alone,
and both are greatest where the groups are most alike: where the sum of g log g, or of g * g, is
least over groups of g points.
"""

import heapq
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput
from partbench.metrics.parts import Counts, FloatArray

MOST_EXACT = 15
"""Labels up to which the best groups are searched for; the time grows as 3 to their number. CUB has
as many, of which 4 parts take two seconds."""

Measure = Literal["nmi", "ari"]


class Grouping(NamedTuple):
    """Labels merged into groups."""

    groups: NDArray[np.intp]
    """[T], the group of each label, numbered by the first label in it; -1 for labels without
    points."""
    exact: bool
    """Whether no other groups are better; else they are the greedy ones."""


def best_grouping(
    counts: Sequence[int] | NDArray[np.integer], k: int, measure: Measure
) -> Grouping:
    """Merge labels into K groups so that NMI, or ARI, with the labels is greatest.

    A label with at least the mean size of the K groups has one of its own in the best grouping: a
    label beside it would do better in the smallest other group. Of the others all groupings are
    searched, by the sums of all subsets, if there are at most `MOST_EXACT`; else the groups are
    those of `greedy_grouping`.

    Args:
        counts: [T], points of each label; labels without any are in no group.
        k: groups, at least 1.
        measure: which is to be greatest.

    Raises:
        BadInput: k below 1, or no points.
    """
    greedy = greedy_grouping(counts, k)
    sizes = [int(n) for n in counts]
    left = sorted((i for i, n in enumerate(sizes) if n > 0), key=lambda i: -sizes[i])
    own: list[int] = []
    while left and (len(left) <= k - len(own) or _stands_alone(left, sizes, k - len(own))):
        own.append(left.pop(0))
    if not left or k == 1:
        return Grouping(greedy, True)
    if len(left) > MOST_EXACT and k - len(own) > 1:
        return Grouping(greedy, False)
    merged = [left]
    if k - len(own) > 1:
        total = sum(sizes)
        subsets = _best_subsets(tuple(sizes[i] / total for i in left), k - len(own), measure)
        merged = [[i for bit, i in enumerate(left) if bits >> bit & 1] for bits in subsets]
    groups = np.full(len(sizes), -1)
    for number, members in enumerate(
        sorted(sorted(group) for group in [*([i] for i in own), *merged])
    ):
        groups[members] = number
    return Grouping(groups, True)


def _stands_alone(left: Sequence[int], sizes: Sequence[int], k: int) -> bool:
    """Return whether the largest of labels that are left has one of k groups of its own."""
    return k > 1 and sizes[left[0]] * k >= sum(sizes[i] for i in left)


@lru_cache(maxsize=64)
def _best_subsets(shares: tuple[float, ...], k: int, measure: Measure) -> tuple[int, ...]:
    """Return k disjoint subsets of labels, as bits, that cover all at the least cost.

    With `cost[m][s]` the least cost of the labels s in m groups, cost[a + b][s] is the least of
    cost[a][t] + cost[b][s - t] over the subsets t of s. Doubling m takes few such steps, and the
    last one is for all labels alone.
    """
    n = len(shares)
    sums = np.zeros(1 << n)
    for bit, share in enumerate(shares):
        sums[1 << bit : 2 << bit] = sums[: 1 << bit] + share
    with np.errstate(divide="ignore", invalid="ignore"):
        one = np.where(sums > 0, sums * np.log(sums), 0) if measure == "nmi" else sums * sums
    costs = {1: one}

    def table(m: int) -> FloatArray:
        if m not in costs:
            costs[m] = _least(table(m // 2), table(m - m // 2))
        return costs[m]

    def split(s: int, m: int) -> list[int]:
        if m == 1:
            return [s]
        a, b = table(m // 2), table(m - m // 2)
        inside = _subsets(s)
        t = int(inside[np.argmin(a[inside] + b[s - inside])])
        return [*split(t, m // 2), *split(s - t, m - m // 2)]

    return tuple(s for s in split((1 << n) - 1, k) if s)


def _least(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return for each set s of labels the least a[t] + b[s - t] over the subsets t of s."""
    least = np.empty_like(a)
    for s in range(len(a)):
        inside = _subsets(s)
        least[s] = (a[inside] + b[s - inside]).min()
    return least


def _subsets(s: int) -> NDArray[np.intp]:
    """Return all subsets of a set, as bits, in ascending order."""
    inside = np.zeros(1, np.intp)
    while s:
        low = s & -s
        inside = np.concatenate([inside, inside + low])
        s -= low
    return inside


def greedy_grouping(counts: Sequence[int] | NDArray[np.integer], k: int) -> NDArray[np.intp]:
    """Merge labels into K groups, two at a time, so that NMI with the labels stays greatest.

    The groups are a function of the labels, so their mutual information is their entropy, and NMI
    grows with it. Merging groups of a and b points costs (a + b) log(a + b) - a log a - b log b,
    which grows with both: the best merge is always of the two smallest. It is also the best merge
    for ARI, as that falls with the pairs put together, a * b. The best merges one by one are not
    the best groups: on CUB's test points with K = 4 this has an NMI of 67.1 and an ARI of 34.5, and
    `best_grouping` 68.2 and 36.9. Among groups of one size, those of the first labels are merged
    first.

    Args:
        counts: [T], points of each label; labels without any are in no group.
        k: groups, at least 1.

    Returns:
        [T], the group of each label, numbered by the first label in it; -1 for labels without
        points. There are as many groups as labels if there are fewer than k.

    Raises:
        BadInput: k below 1, or no points.
    """
    sizes = np.asarray(counts, np.int64)
    if k < 1 or not (sizes > 0).any():
        raise BadInput(f"cannot group labels with {sizes.tolist()} points into {k} groups")
    heap = [(int(sizes[i]), int(i), [int(i)]) for i in np.flatnonzero(sizes > 0)]
    heapq.heapify(heap)
    while len(heap) > k:
        a, b = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (a[0] + b[0], min(a[1], b[1]), a[2] + b[2]))
    groups = np.full(len(sizes), -1)
    for number, (_, members) in enumerate(sorted((first, members) for _, first, members in heap)):
        groups[members] = number
    return groups


def best_mean_iou(counts: NDArray[np.integer], k: int, *, background: bool = False) -> FloatArray:
    """Return the greatest matched mean IoU that any K parts can have with the labels.

    All but K labels have no partner, and their r points lie in parts of others, where they take
    r / (m + r) from the IoU of a label of m points. Of least harm is to put the labels of fewest
    points together, and into the part of the most frequent one.

    Args:
        counts: [..., T], points of each label; labels without any make no difference.
        k: parts, at least 1.
        background: whether label 0 has a part of its own, beside the K.

    Returns:
        [...], from 0 to 1; NaN without points.
    """
    inside = counts[..., 1:] if background else counts
    sizes = np.sort(np.asarray(inside, np.float64), axis=-1)[..., ::-1]
    most, rest, n = sizes[..., 0], sizes[..., k:].sum(-1), (sizes > 0).sum(-1)
    total = np.minimum(n, k) - rest / np.maximum(most + rest, 1)
    if background:
        present = counts[..., 0] > 0
        total, n = total + present, n + present
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def grouping_table(
    counts: Sequence[int] | NDArray[np.integer], groups: Sequence[int] | NDArray[np.integer]
) -> Counts:
    """Return the table [T, K] of a model whose part is a function of the true label.

    Args:
        counts: [T], points of each label.
        groups: [T], the part of each; those without points may have -1.
    """
    sizes, parts = np.asarray(counts, np.int64), np.asarray(groups)
    table = np.zeros((len(sizes), int(parts.max()) + 1), np.int64)
    occurring = np.flatnonzero(sizes)
    table[occurring, parts[occurring]] = sizes[occurring]
    return table


def of_merger(
    statistic: Callable[[Counts], FloatArray], groups: NDArray[np.intp], counts: Counts
) -> FloatArray:
    """Return a statistic [...] of a model whose part is a function of the true label.

    Args:
        statistic: of tables, [..., T, P] -> [...].
        groups: the part of each label of the foreground; -1 for labels without points.
        counts: [..., T], points of each label, with the background first if there is one more
            than groups: it has a part of its own, as a perfect model finds it too.
    """
    own = groups if counts.shape[-1] == len(groups) else np.append(0, groups + 1)
    one_hot = np.eye(own.max() + 1, dtype=np.int64)[own]
    return statistic(counts[..., None] * one_hot)
