"""Part rulers for files: labels by NMI, ARI and IoU, and CUB's landmark regression.

NMI and ARI are of the data set: all pixels, or points, in one contingency table. What they can
reach depends on the number of parts K, so beside them stands the ceiling at the same K: the true
labels, greedily merged into K groups.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput
from partbench.files import read_npz
from partbench.metrics import cub, parts
from partbench.metrics.intervals import bootstrap_totals, over_seeds_and_samples, percentiles
from partbench.metrics.landmarks import FloatArray, Truth, box_side
from partbench.probes.landmarks import check_alike, flat, load_landmarks
from partbench.settings import nearest

VERSION = 1
"""Version of the definition; numbers of different versions are not comparable."""
DRAWS = 1000
"""Resampled data sets that an interval stands on."""
MOST_CELLS = 1 << 27
"""Counts of all tables together: 1 GiB."""
KEYS = ("pred", "true")


def score_labels(path: Path, *, ignore: int | None = None, seed: int = 0) -> dict[str, Any]:
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
    arrays = read_npz(path)
    if missing := [key for key in KEYS if key not in arrays]:
        unknown = [f"'{key}': {nearest(key, KEYS)}" for key in sorted(arrays) if key not in KEYS]
        raise BadInput("\n".join([f"{path}: no array named {', '.join(missing)}.", *unknown]))
    true, pred = arrays["true"], arrays["pred"]
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
        if len(true) * n_true * n_pred > MOST_CELLS:
            raise BadInput(
                f"the tables of {len(true):,} images with {n_true:,} true and {n_pred:,} predicted "
                f"labels have more than {MOST_CELLS:,} cells; give fewer labels, or flatten the "
                "arrays to do without intervals over images"
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
    groups = parts.greedy_grouping(table.sum(1), len(pred_labels))
    ceiling = parts.grouping_table(table.sum(1), groups)
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
            "k": ceiling.shape[1],
            "nmi": 100 * float(parts.nmi(ceiling)),
            "ari": 100 * float(parts.ari(ceiling)),
            "groups": [true_labels[groups == k].tolist() for k in range(ceiling.shape[1])],
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


def score_landmarks(train_path: Path, test_path: Path, *, seed: int = 0) -> dict[str, Any]:
    """Run CUB's landmark regression on two files of part centres and keypoints.

    The fit is on all training images of the file: for CUB-001, 002 and 003 give the three classes
    together, as the papers do.

    Args:
        train_path: npz with `points` [N, K, 2], `landmarks` [N, L, 2] and `box` [N, 4], (x, y,
            width, height), in pixels, where there are any invisible landmarks `visible` [N, L].
        test_path: likewise; `classes` [N], integers, for an error of each class.
        seed: of the interval's draws.

    Returns:
        What a result file holds, ready for `json.dumps`. Errors are in % of the box, whose width
        and height count separately, over all visible landmarks of test images; the interval is a
        bootstrap's over images. Landmarks that no training image or no test image shows are
        skipped: their error is null.

    Raises:
        BadInput: as `load_landmarks`; no boxes; files that do not fit one another; no landmark
            that both files show.
    """
    train, test = load_landmarks(train_path, each=False), load_landmarks(test_path, each=False)
    check_alike(train.points, test.points, "keypoints")
    check_alike(train.landmarks, test.landmarks, "landmarks")
    units = []
    for path, file in ((train_path, train), (test_path, test)):
        if file.points.shape[2] != 2:
            raise BadInput(f"{path}: extra values of keypoints have no place in CUB's protocol")
        if file.box is None:
            raise BadInput(f"{path}: no array named box; CUB's errors are shares of the box")
        box_side(file.box, np.ones((len(file.points), 1), bool), f"{path}: box")
        points, landmarks = (cub.box_units(p, file.box) for p in (file.points, file.landmarks))
        units.append((flat(points), np.where(file.visible[..., None], landmarks, 0)))
    (inputs, landmarks), (test_inputs, test_landmarks) = units
    known = (inputs, landmarks, train.visible)
    truth = Truth(test_landmarks, test.visible, np.ones(len(test_inputs)))
    errors = truth.errors(cub.predict(known, test_inputs))
    if not np.isfinite(errors).any():
        raise BadInput(f"{test_path}: no landmark that {train_path} shows is visible here")
    constant = cub.predict((np.zeros((len(inputs), 1)), *known[1:]), np.zeros((len(errors), 1)))

    counted = np.isfinite(errors)
    sums = np.stack([np.where(counted, errors, 0).sum(1), counted.sum(1)], axis=1)
    sums = sums[sums[:, 1] > 0]
    interval = None
    if len(sums) > 1:
        total, number = bootstrap_totals(sums, DRAWS, seed).T
        interval = list(percentiles(total / number))
    return {
        "probe": "landmarks",
        "version": VERSION,
        "protocol": "cub",
        "metric": "landmark_error",
        "unit": "% of box",
        "direction": "lower is better",
        "value": cub.micro_average(errors),
        "interval95": interval,
        "constant": cub.micro_average(truth.errors(constant)),
        "per_class": _per_class(errors, test_path),
        "per_landmark": [_or_null(cub.micro_average(column)) for column in errors.T],
        "skipped": np.flatnonzero(~counted.any(0)).tolist(),
        "n_points": int(counted.sum()),
        "n_train": len(inputs),
        "n_test": len(errors),
        "keypoints": train.points.shape[1],
        "seed": seed,
        "settings": {"draws": DRAWS if interval else 0},
    }


def _per_class(errors: FloatArray, path: Path) -> dict[str, float | None] | None:
    classes: NDArray[Any] | None = read_npz(path).get("classes")
    if classes is None:
        return None
    if classes.dtype.kind not in "iu" or classes.shape != (len(errors),):
        raise BadInput(
            f"{path}: classes is {classes.dtype} of shape {list(classes.shape)}; expected one "
            f"integer for each of {len(errors)} images"
        )
    return {str(c): _or_null(cub.micro_average(errors[classes == c])) for c in np.unique(classes)}


def _or_null(value: float) -> float | None:
    return value if np.isfinite(value) else None
