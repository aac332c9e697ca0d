"""The parts' ruler: NMI, ARI and IoU of labels that partbench did not make."""

from pathlib import Path
from typing import Any

from partbench.errors import BadInput
from partbench.metrics import parts
from partbench.metrics.ceilings import best_grouping, grouping_table
from partbench.metrics.intervals import over_seeds_and_samples
from partbench.metrics.landmarks import FloatArray
from partbench.probes.parts import DRAWS, MEASURES, VERSION
from partbench.score import arrays

MOST_CELLS = 1 << 27
"""Counts of all tables together: 1 GiB."""


def score(path: Path, *, ignore: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Measure the parts in a file against its labels.

    Args:
        path: npz with `pred` and `true`, integers of one shape, at least one; other arrays are
            ignored. With two axes or more, the first is images: then there are intervals over
            images and means over images.
        ignore: a true label; where it stands nothing counts.
        seed: of the intervals' draws.

    Returns:
        What there is to say, ready for `json.dumps`; numbers are in %, intervals are null with
        fewer than two images.

    Raises:
        BadInput: no such file, not an npz, an array that is missing or not of integers, shapes
            that differ, nothing to count, more different labels than parts can have.
    """
    pred, true = arrays.read(path, ("pred", "true")).values()
    try:
        parts.check_labels(true, pred)
        if true.size == 0:
            raise BadInput(f"true and pred have shape {list(true.shape)}; nothing is left to count")
        (true_labels, true), (pred_labels, pred) = (
            parts.compact(labels, name) for labels, name in ((true, "true"), (pred, "pred"))
        )
        if true.ndim < 2:
            true, pred = true.reshape(1, -1), pred.reshape(1, -1)
        n_true, n_pred = len(true_labels), len(pred_labels)
        several = len(true) > 1
        n_tables = max(len(true), DRAWS) if several else 1
        if n_tables * n_true * n_pred > MOST_CELLS:
            raise BadInput(
                f"{n_tables:,} tables, of images or of draws of them, with {n_true:,} true and "
                f"{n_pred:,} predicted labels have more than {MOST_CELLS:,} cells; give fewer "
                "labels, or flatten the arrays to do without intervals over images"
            )
        tables = parts.contingency_by_image(true, pred, n_true, n_pred)
        counts = true_labels != ignore
        ignored = int(tables[:, ~counts].sum())
        tables, true_labels = tables[:, counts], true_labels[counts]
        tables = tables[tables.any((1, 2))]
        if not len(tables):
            raise BadInput(f"every true label is {ignore}, which --ignore leaves out")
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    pred_labels, tables = pred_labels[tables.any((0, 1))], tables[:, :, tables.any((0, 1))]

    table = tables.sum(0)
    matching = parts.matched_iou(table)
    counts_of, k = table.sum(1), len(pred_labels)
    mergers = {name: best_grouping(counts_of, k, name) for name in MEASURES}
    ceilings = {name: grouping_table(counts_of, m.groups) for name, m in mergers.items()}
    groups = mergers["nmi"].groups
    several = len(tables) > 1
    intervals = parts.bootstrap(tables, DRAWS, seed)._asdict() if several else None
    return {
        "probe": "parts",
        "version": VERSION,
        "unit": "%",
        "direction": "higher is better",
        "nmi": 100 * float(parts.nmi(table)),
        "ari": 100 * float(parts.ari(table)),
        "mean_iou": 100 * matching.mean_iou,
        "majority_accuracy": 100 * parts.majority_accuracy(table),
        "interval95": intervals
        and {key: [100 * end for end in ends] for key, ends in intervals.items()},
        "per_image": {
            "nmi": _over_images(parts.nmi(tables)),
            "ari": _over_images(parts.ari(tables)),
        }
        if several
        else None,
        "ceiling": {
            "k": int(groups.max()) + 1,
            **{name: 100 * float(of(ceilings[name])) for name, of in MEASURES.items()},
            "exact": all(merger.exact for merger in mergers.values()),
            "groups": [true_labels[groups == g].tolist() for g in range(groups.max() + 1)],
        },
        "per_label": [
            {
                "label": int(label),
                "n": int(row.sum()),
                "part": int(pred_labels[partner]) if partner >= 0 else None,
                "iou": 100 * float(iou),
            }
            for label, row, partner, iou in zip(
                true_labels, table, matching.partner, matching.iou, strict=True
            )
        ],
        "n": int(table.sum()),
        "n_ignored": ignored,
        "k": len(pred_labels),
        "labels": len(true_labels),
        "images": len(tables) if several else None,
        "parts": pred_labels.tolist(),
        "table": table.tolist() if table.size <= 4096 else None,
        "seed": seed,
        "settings": {"ignore": ignore, "draws": DRAWS if several else 0},
    }


def _over_images(values: FloatArray) -> dict[str, Any]:
    interval = over_seeds_and_samples(100 * values[None])
    return {"mean": interval.mean, "interval95": [interval.low, interval.high]}
