"""The parts' ruler: NMI, ARI and IoU of labels that partbench did not make."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput
from partbench.metrics import parts
from partbench.metrics.ceilings import best_grouping, grouping_table
from partbench.metrics.intervals import over_seeds_and_samples
from partbench.metrics.landmarks import FloatArray
from partbench.metrics.parts import Counts
from partbench.probes.parts import DRAWS, MEASURES, VERSION
from partbench.score import arrays

MOST_CELLS = 1 << 27
"""Counts of all tables together: 1 GiB."""


def score(
    path: Path, *, ignore: Collection[int] = (), background: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Measure the parts in a file against its labels.

    Args:
        path: npz with `pred` and `true`, integers of one shape, at least one; other arrays are
            ignored. With two axes or more, the first is images: then there are intervals over
            images and means over images.
        ignore: true labels; where one stands nothing counts.
        background: a true label; there are then numbers of the foreground alone besides, whose
            names begin with `fg_`: of the places where another label stands, as the probe has
            them. `pred` holds the K parts there, and no label for what a method takes for
            background.
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
        counts = ~np.isin(true_labels, list(ignore))
        ignored = int(tables[:, ~counts].sum())
        tables, true_labels = tables[:, counts], true_labels[counts]
        tables = tables[tables.any((1, 2))]
        if not len(tables):
            listed = " or ".join(map(str, sorted(ignore)))
            raise BadInput(f"every true label is {listed}, which --ignore leaves out")
        if background is not None and background in ignore:
            raise BadInput(f"{background} is both --background and --ignore; give it once")
        inside = true_labels != background
        if background is not None and inside.all():
            raise BadInput(
                f"no true label that counts is {background}, which --background names; true holds "
                f"{', '.join(map(str, true_labels[:10].tolist()))}"
            )
        if not inside.any():
            raise BadInput(f"every true label is {background}, which is the background")
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    pred_labels, tables = pred_labels[tables.any((0, 1))], tables[:, :, tables.any((0, 1))]

    table = tables.sum(0)
    matching = parts.matched_iou(table)
    several = len(tables) > 1
    fg = {}
    if background is not None:
        of_fg = tables[:, inside]
        of_fg = of_fg[of_fg.any((1, 2))][:, :, of_fg.any((0, 1))]
        fg = {f"fg_{k}": v for k, v in _numbers(of_fg, true_labels[inside], seed).items()}
    return {
        "probe": "parts",
        "version": VERSION,
        "unit": "%",
        "direction": "higher is better",
        **_numbers(tables, true_labels, seed),
        **fg,
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
        "settings": {
            "ignore": sorted(ignore),
            "background": background,
            "draws": DRAWS if several else 0,
        },
    }


def _numbers(tables: Counts, labels: NDArray[Any], seed: int) -> dict[str, Any]:
    """Return the numbers of tables [N, T, P] of the true labels [T], all of which occur."""
    table, several = tables.sum(0), len(tables) > 1
    counts, k = table.sum(1), table.shape[1]
    mergers = {name: best_grouping(counts, k, name) for name in MEASURES}
    ceilings = {name: grouping_table(counts, m.groups) for name, m in mergers.items()}
    groups = mergers["nmi"].groups
    intervals = parts.bootstrap(tables, DRAWS, seed)._asdict() if several else None
    return {
        "nmi": 100 * float(parts.nmi(table)),
        "ari": 100 * float(parts.ari(table)),
        "mean_iou": 100 * parts.matched_iou(table).mean_iou,
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
            "groups": [labels[groups == g].tolist() for g in range(groups.max() + 1)],
        },
    }


def _over_images(values: FloatArray) -> dict[str, Any]:
    interval = over_seeds_and_samples(100 * values[None])
    return {"mean": interval.mean, "interval95": [interval.low, interval.high]}
