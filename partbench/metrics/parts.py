"""Parts against labels: one contingency table, and the numbers that are read from it.

NMI and ARI compare two labellings of the same points or pixels without saying which part is which
label. Both depend on the labellings through their contingency table alone, so pixels are counted
as they come and never kept: memory does not grow with their number. Counts are exact integers.

Both grow with the number of parts K whatever the parts mean, so compare at equal K;
`partbench.metrics.ceilings` says what K parts can reach.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from partbench.errors import BadInput
from partbench.metrics.intervals import bootstrap_totals, percentiles

FloatArray = NDArray[np.float64]
Counts = NDArray[np.int64]

CHUNK = 1 << 18
"""Pixels that are counted at a time: their codes stay in the cache."""
PAIRED_FROM = 1 << 16
"""Pixels from which counting them in pairs is worth its larger table."""
MOST_LABELS = 1 << 16
SPAN = 1 << 20
"""Range of labels up to which they are looked up, not searched."""
SAFE_TOTAL = 3_037_000_499
"""The largest integer whose square an int64 holds."""


# ---------------------------------------------------------------------------- counting


def contingency(
    true: NDArray[Any],
    pred: NDArray[Any],
    n_true: int,
    n_pred: int,
    keep: NDArray[np.bool_] | None = None,
) -> Counts:
    """Count how often each true label meets each predicted one.

    Tables of disjoint sets of pixels add up to the table of their union. Arrays may be memory
    maps and need not be contiguous; nothing of their size is made.

    Args:
        true: integers of any shape, from 0 to n_true - 1 wherever they count.
        pred: integers of the same shape, from 0 to n_pred - 1.
        n_true: true labels.
        n_pred: predicted labels.
        keep: of the same shape, which pixels count; by default all.

    Returns:
        [n_true, n_pred]; all zeros where no pixel counts.

    Raises:
        BadInput: shapes that differ, arrays that are not of integers, a label out of range.
    """
    check_labels(true, pred)
    if keep is not None and (keep.shape != true.shape or keep.dtype != np.bool_):
        raise BadInput(
            f"keep is {keep.dtype} of shape {list(keep.shape)}, the labels have shape "
            f"{list(true.shape)}; give one boolean for each label"
        )
    table = np.zeros(n_true * n_pred, np.int64)
    # Where a cell's number is one byte, two neighbours are counted at once, as two bytes.
    paired = n_true * n_pred <= 256 and true.size >= PAIRED_FROM
    pairs = np.zeros(256 * n_true * n_pred if paired else 0, np.int64)
    for t, p, *k in _chunks(true, pred, *([] if keep is None else [keep])):
        if k:
            t, p = t[k[0]], p[k[0]]
        if not t.size:
            continue
        _check_range(t, n_true, "true")
        _check_range(p, n_pred, "pred")
        if paired:
            codes = t.astype(np.uint8)
            codes *= np.uint8(n_pred % 256)  # 256 only where all true labels are 0
            codes += p.astype(np.uint8)
            even = len(codes) // 2 * 2
            pairs += np.bincount(codes[:even].view(np.uint16), minlength=len(pairs))
            if even < len(codes):
                table[codes[-1]] += 1
        else:
            np.add.at(table, t.astype(np.intp) * n_pred + p.astype(np.intp), 1)
    if paired:
        square = pairs.reshape(-1, 256)
        table += square.sum(1) + square.sum(0)[: len(table)]
    return table.reshape(n_true, n_pred)


def contingency_by_image(
    true: NDArray[Any],
    pred: NDArray[Any],
    n_true: int,
    n_pred: int,
    keep: NDArray[np.bool_] | None = None,
) -> Counts:
    """Return the table of each image, [N, n_true, n_pred]; see `contingency`.

    Args:
        true: [N, ...].
        pred: [N, ...].
        n_true: true labels.
        n_pred: predicted labels.
        keep: [N, ...].
    """
    check_labels(true, pred)
    tables = np.zeros((len(true), n_true, n_pred), np.int64)
    for image, table in enumerate(tables):
        kept = None if keep is None else keep[image]
        table[:] = contingency(true[image], pred[image], n_true, n_pred, kept)
    return tables


def _chunks(*arrays: NDArray[Any]) -> Iterator[Sequence[NDArray[Any]]]:
    """Yield the same places of all arrays, flat, CHUNK at a time; good until the next."""
    flags: list[Any] = ["external_loop", "buffered", "zerosize_ok"]
    for chunk in np.nditer(arrays, flags, order="C", buffersize=CHUNK):
        yield chunk if isinstance(chunk, tuple) else (chunk,)


def check_labels(true: NDArray[Any], pred: NDArray[Any]) -> None:
    """Refuse, with `BadInput`, labels that are not integers or differ in shape."""
    for name, labels in (("true", true), ("pred", pred)):
        if labels.dtype.kind not in "iub":
            raise BadInput(f"{name} is {labels.dtype}; labels must be integers")
    if true.shape != pred.shape:
        raise BadInput(
            f"true has shape {list(true.shape)}, pred {list(pred.shape)}; give one predicted label "
            "for each true one, at the same resolution"
        )


def _check_range(labels: NDArray[Any], n: int, name: str) -> None:
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= n:
        raise BadInput(
            f"{name} has the label {least if least < 0 else most}, but there are {n} labels, "
            f"numbered from 0 to {n - 1}; name the labels that are to be left out, or correct them"
        )


def compact(labels: NDArray[Any], name: str = "labels") -> tuple[NDArray[Any], NDArray[Any]]:
    """Number the different labels 0, 1, ... in their order.

    Args:
        labels: integers of any shape, at least one; they may be negative and far apart.
        name: of the array, for the message.

    Returns:
        The different labels [n], sorted, in the dtype of `labels`; and their numbers, in the shape
        of `labels`, uint8 where that is enough, else uint16.

    Raises:
        BadInput: more than 65,536 different labels.
    """
    if labels.dtype == np.bool_:
        labels = labels.view(np.uint8)
    least, most = labels.min(), labels.max()
    narrow = int(most) - int(least) < SPAN
    present = np.zeros(int(most) - int(least) + 1 if narrow else 0, bool)
    values = np.empty(0, labels.dtype)
    for (chunk,) in _chunks(labels):
        if narrow:
            present[_above(chunk, least)] = True
        else:
            values = np.union1d(values, chunk)
        if len(values) > MOST_LABELS:
            break
    if narrow:
        values = np.flatnonzero(present).astype(labels.dtype) + least
    if len(values) > MOST_LABELS:
        raise BadInput(
            f"{name} has more than {MOST_LABELS:,} different labels; labels of parts are few: give "
            "the number of the part at each point"
        )
    codes = np.empty(labels.shape, np.uint8 if len(values) <= 256 else np.uint16)
    number_of = (present.cumsum() - 1).astype(codes.dtype)
    out = codes.reshape(-1)
    done = 0
    for (chunk,) in _chunks(labels):
        numbers = number_of[_above(chunk, least)] if narrow else np.searchsorted(values, chunk)
        out[done : done + len(chunk)] = numbers
        done += len(chunk)
    return values, codes


def _above(labels: NDArray[Any], least: Any) -> NDArray[np.intp]:
    """Return labels - least for a range that fits; in two's complement the wrap cancels."""
    return labels.astype(np.intp) - np.asarray(least).astype(np.intp)


# ---------------------------------------------------------------------------- NMI and ARI


def nmi(table: NDArray[np.integer]) -> FloatArray:
    """Return the normalised mutual information of tables.

    Mutual information over the arithmetic mean of the two entropies, natural logarithms, as
    scikit-learn from 0.22 on. One label on each side is a perfect match, 1; one label on one side
    alone has no information, 0.

    Args:
        table: [..., T, P], counts; labels that do not occur make no difference.

    Returns:
        [...], from 0 to 1; NaN for a table of zeros.
    """
    counts = np.asarray(table, np.float64)
    rows, columns = counts.sum(-1), counts.sum(-2)
    total = rows.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = rows[..., :, None] * columns[..., None, :]
        ratio = counts * total[..., None, None] / expected
        terms = np.where(counts > 0, counts * np.log(np.where(counts > 0, ratio, 1)), 0)
        information = np.maximum(terms.sum((-2, -1)) / total, 0)
        mean_entropy = (_entropy(rows, total) + _entropy(columns, total)) / 2
        share = np.where(mean_entropy > 0, np.minimum(information / mean_entropy, 1), 1)
    return np.where(total > 0, share, np.nan)


def _entropy(counts: FloatArray, total: FloatArray) -> FloatArray:
    share = counts / total[..., None]
    return -np.where(counts > 0, share * np.log(np.where(counts > 0, share, 1)), 0).sum(-1)


def ari(table: NDArray[np.integer]) -> FloatArray:
    """Return the adjusted Rand index of tables (Hubert and Arabie, 1985).

    Pairs are counted in Python's integers wherever int64 could overflow, and divided once at the
    end, so that the result is the correctly rounded one.

    Args:
        table: [..., T, P], counts.

    Returns:
        [...], from -0.5 to 1; 1 where no pair is split by one side alone, as scikit-learn has it;
        NaN for a table of zeros.
    """
    counts = np.asarray(table, np.int64)
    several = counts.shape[:-2]
    counts = counts.reshape(-1, *counts.shape[-2:])
    total = counts.sum((1, 2))
    if total.max(initial=0) > SAFE_TOTAL:
        counts = counts.astype(object)
    # Ordered pairs, that of a point with itself included.
    both = (counts * counts).sum((1, 2)).tolist()
    same_true = (counts.sum(2) ** 2).sum(1).tolist()
    same_pred = (counts.sum(1) ** 2).sum(1).tolist()
    pairs = zip(total.tolist(), both, same_true, same_pred, strict=True)
    return np.array([_ari(*counted) for counted in pairs], np.float64).reshape(several)


def _ari(n: int, both: int, same_true: int, same_pred: int) -> float:
    if n == 0:
        return np.nan
    together, true_only, pred_only = both - n, same_true - both, same_pred - both
    apart = n * n - same_true - same_pred + both
    if true_only == pred_only == 0:
        return 1.0
    above = 2 * (together * apart - true_only * pred_only)
    below = (together + true_only) * (true_only + apart) + (together + pred_only) * (
        pred_only + apart
    )
    return above / below


# ---------------------------------------------------------------------------- one part, one label


class Matching(NamedTuple):
    """The one-to-one matching of true and predicted labels with the greatest mean IoU."""

    mean_iou: float
    """Over the true labels that occur; from 0 to 1, NaN for a table of zeros."""
    partner: NDArray[np.intp]
    """[T], the predicted label of each true one; -1 where it has none."""
    iou: FloatArray
    """[T], 0 where there is no partner, NaN where the true label does not occur."""


def matched_iou(table: NDArray[np.integer]) -> Matching:
    """Match true and predicted labels one to one, by the greatest sum of their IoUs.

    A true label without a partner counts 0: with K parts and T > K labels the mean is at most
    K / T. Predicted labels without a partner cost nothing of their own, but the pixels that they
    hold are missing from the others.

    Args:
        table: [T, P], counts.
    """
    counts = np.asarray(table, np.float64)
    rows, columns = counts.sum(1), counts.sum(0)
    union = rows[:, None] + columns[None, :] - counts
    overlap = counts / np.maximum(union, 1)
    iou = np.where(rows > 0, 0.0, np.nan)
    partner = np.full(len(rows), -1)
    for i, j in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
        if overlap[i, j] > 0:
            iou[i], partner[i] = overlap[i, j], j
    occurring = iou[rows > 0]
    return Matching(float(occurring.mean()) if occurring.size else np.nan, partner, iou)


def mean_iou(tables: NDArray[np.integer]) -> FloatArray:
    """Return `matched_iou(...).mean_iou` of tables [M, T, P], [M]."""
    return np.array([matched_iou(table).mean_iou for table in tables])


def majority_accuracy(table: NDArray[np.integer]) -> float:
    """Return the share of pixels that are right if each part is named by its commonest label.

    Many parts may have one name, so this grows with K up to 1. NaN for a table of zeros.
    """
    total = int(table.sum())
    return int(table.max(0).sum()) / total if total else np.nan


# ---------------------------------------------------------------------------- image by image


def dominant(tables: Counts, least_share: float) -> Counts:
    """Return which true label each part mostly lies on in each image, [N, K, T], ones and zeros.

    Args:
        tables: [N, T, K], of the foreground.
        least_share: of the image's foreground that a part must take; else its row is zeros.
    """
    n_true = tables.shape[1]
    sizes = tables.sum(1)
    present = (sizes > 0) & (sizes >= least_share * sizes.sum(1, keepdims=True))
    commonest = np.eye(n_true, dtype=np.int64)[tables.argmax(1)]
    return commonest * present[..., None]


def consistency(images: NDArray[Any]) -> FloatArray:
    """Return how often a part lies on the same true label from image to image.

    For each part: the share of the images where it is present in which its dominant true label is
    its most common dominant label. The mean over the parts that are present somewhere.

    Args:
        images: [..., K, T], sums of `dominant` over images.

    Returns:
        [...], from 0 to 1.
    """
    present = images.sum(-1)
    share = images.max(-1) / np.maximum(present, 1)
    mean: FloatArray = share.sum(-1) / (present > 0).sum(-1)
    return mean


# ---------------------------------------------------------------------------- intervals


class Intervals(NamedTuple):
    """Percentile intervals, (low, high)."""

    nmi: tuple[float, float]
    ari: tuple[float, float]
    mean_iou: tuple[float, float]


def bootstrap(
    tables: NDArray[np.integer], draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Intervals:
    """Return the intervals over images of the data set's NMI, ARI and matched mean IoU.

    Each draw takes as many images as have pixels, with replacement, and adds up their tables;
    parts and labels are matched anew in each. The intervals are the percentiles of the draws.
    A draw holds some images twice, which makes its parts look a little more consistent than they
    are: with few images the interval may lie above the value itself.

    Args:
        tables: [N, T, P], one for each image, not all empty.
        draws: resampled data sets.
        seed: of the draws.
        level: of confidence.
    """
    n, n_true, n_pred = tables.shape
    flat = tables.reshape(n, -1)
    flat = flat[flat.any(1)]
    occurring = np.flatnonzero(flat.any(0))
    totals = bootstrap_totals(flat[:, occurring].astype(np.float64), draws, seed)
    drawn = np.zeros((len(totals), n_true * n_pred), np.int64)
    drawn[:, occurring] = np.rint(totals)
    drawn = drawn.reshape(-1, n_true, n_pred)
    ious = np.array([matched_iou(table).mean_iou for table in drawn])
    return Intervals(*(percentiles(values, level) for values in (nmi(drawn), ari(drawn), ious)))
