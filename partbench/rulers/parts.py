"""Parts against labels, as a function and batch by batch."""

from collections.abc import Collection
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput
from partbench.metrics import parts
from partbench.metrics.ceilings import Measure, best_grouping, grouping_table
from partbench.metrics.parts import Counts
from partbench.probes.parts import DRAWS, MEASURES, VERSION
from partbench.rulers.common import Estimate, array, public


class PartAgreementResult(NamedTuple):
    """How well parts and labels agree, in %."""

    nmi: Estimate
    """Normalised mutual information, by the mean of the entropies."""
    ari: Estimate
    """Adjusted Rand index (Hubert and Arabie 1985)."""
    mean_iou: Estimate
    """Mean over labels of the IoU with the part matched to each, one to one."""


class PartCeiling(NamedTuple):
    """The best that K parts can reach with given labels, in %."""

    nmi: float
    ari: float
    exact: bool
    """Whether it is that of all mergers of labels, and not of a greedy one."""


@public
def part_agreement(
    true: Any,
    pred: Any,
    *,
    ignore: Collection[int] = (),
    interval: bool = True,
    draws: int = DRAWS,
    seed: int = 0,
) -> PartAgreementResult:
    """Return how well predicted parts and true labels agree over a data set.

    All points or pixels count in one table, as in the probe `parts`. With the background among
    the labels to ignore, these are its `fg_nmi`, `fg_ari` and `fg_mean_iou`. All three grow with
    the number of parts; `part_ceiling` says what is possible.

    Args:
        true: integers [N, ...], N images.
        pred: integers of the same shape, the part at each place.
        ignore: true labels; where one stands nothing counts.
        interval: whether to bootstrap over images, which needs two that count.
        draws: resampled data sets.
        seed: of the draws.

    Raises:
        ValueError: shapes that differ, labels that are not integers, nothing to count.
    """
    true, pred = _labels(true, pred)
    if true.ndim < 2:
        true, pred = true.reshape(1, -1), pred.reshape(1, -1)
    if not true.size:
        raise BadInput("no label is given, so there is nothing to count")
    (of_true, true), (of_pred, pred) = parts.compact(true, "true"), parts.compact(pred, "pred")
    counts = ~np.isin(of_true, list(ignore))
    tables = np.zeros((len(true) if interval else 1, len(of_true), len(of_pred)), np.int64)
    if interval:
        tables[:] = parts.contingency_by_image(true, pred, len(of_true), len(of_pred))
    else:
        tables[0] = parts.contingency(true, pred, len(of_true), len(of_pred))
    images = _images(true, of_true, counts)
    return _agreement(tables[:, counts], images, interval, draws, seed)


class PartAgreement:
    """`part_agreement` batch by batch, for a validation loop.

    Without intervals, one table is kept whatever the number of images; with them one an image.

    Args:
        labels: number of true labels, which are 0 to labels - 1; those to ignore may be others.
        parts: number of parts, which are 0 to parts - 1.
        ignore: see `part_agreement`.
        interval: likewise.
        draws: likewise.
        seed: likewise.
    """

    @public
    def __init__(
        self,
        labels: int,
        parts: int,
        *,
        ignore: Collection[int] = (),
        interval: bool = True,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> None:
        if min(labels, parts) < 1:
            raise BadInput(f"labels are {labels} and parts {parts}; give at least one of each")
        self.labels, self.parts, self.ignore = labels, parts, tuple(ignore)
        self.interval, self.draws, self.seed = interval, draws, seed
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._tables: list[Counts] = [np.zeros((0, self.labels, self.parts), np.int64)]
        self._total: Counts = np.zeros((self.labels, self.parts), np.int64)
        self._images = 0

    @public
    def update(self, true: Any, pred: Any) -> Self:
        """Count a batch of whole images in: integers [B, ...] of one shape.

        Raises:
            ValueError: as `part_agreement`; a label or a part beyond their numbers.
        """
        true, pred = _labels(true, pred)
        if true.ndim < 2:
            raise BadInput(f"true has shape {list(true.shape)}; expected [images, ...]")
        keep = ~np.isin(true, self.ignore)
        tables = parts.contingency_by_image(true, pred, self.labels, self.parts, keep)
        self._total += tables.sum(0)
        self._images += int(tables.any((1, 2)).sum())
        if self.interval:
            self._tables.append(tables)
        return self

    @public
    def compute(self) -> PartAgreementResult:
        """Return the agreement of all batches so far; see `part_agreement`.

        Raises:
            ValueError: nothing counts.
        """
        tables = np.concatenate(self._tables) if self.interval else self._total[None]
        return _agreement(tables, self._images, self.interval, self.draws, self.seed)


@public
def part_ceiling(true: Any, parts: int, *, ignore: Collection[int] = ()) -> PartCeiling:
    """Return the best NMI and ARI that a number of parts can reach: labels merged into them.

    Args:
        true: integers of any shape.
        parts: K.
        ignore: see `part_agreement`.

    Raises:
        ValueError: labels that are not integers, nothing to count, no part.
    """
    labels, _ = _labels(true, true)
    counts = np.unique(labels[~np.isin(labels, list(ignore))], return_counts=True)[1]
    if not len(counts):
        raise BadInput("no label counts: there are none, or all are ignored")
    measured: dict[Measure, float] = {}
    exact = True
    for name, statistic in MEASURES.items():
        best = best_grouping(counts, parts, name)
        measured[name] = 100 * float(statistic(grouping_table(counts, best.groups)))
        exact &= best.exact
    return PartCeiling(measured["nmi"], measured["ari"], exact)


def _labels(true: Any, pred: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    true, pred = array(true, "true"), array(pred, "pred")
    parts.check_labels(true, pred)
    return true, pred


def _images(codes: NDArray[Any], of: NDArray[Any], counts: NDArray[np.bool_]) -> int:
    """Return how many images have a label that counts."""
    return int(counts[codes.reshape(len(codes), -1)].any(1).sum())


def _agreement(
    tables: Counts, images: int, interval: bool, draws: int, seed: int
) -> PartAgreementResult:
    """Return the numbers of tables [N, T, P], or of one table without intervals."""
    table = tables.sum(0)
    if not table.any():
        raise BadInput("no label counts: there are none, or all are ignored")
    # Sums over labels that do not occur would round in another order.
    tables = tables[tables.any((1, 2))][:, table.any(1)][:, :, table.any(0)]
    table = tables.sum(0)
    values = (float(parts.nmi(table)), float(parts.ari(table)), parts.matched_iou(table).mean_iou)
    ends: tuple[tuple[float, float] | None, ...] = (None, None, None)
    if interval and images > 1:
        ends = parts.bootstrap(tables, draws, seed)
    return PartAgreementResult(
        *(
            Estimate(100 * value, end and (100 * end[0], 100 * end[1]), "%", images, VERSION)
            for value, end in zip(values, ends, strict=True)
        )
    )
