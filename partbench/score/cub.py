"""CUB's ruler: landmarks by a standardised regression from centres of parts, in shares of the box.

The definition is that of `partbench.metrics.cub`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from partbench.errors import BadInput
from partbench.metrics import cub
from partbench.metrics.intervals import bootstrap_totals, percentiles
from partbench.metrics.landmarks import FloatArray, box_side, flat
from partbench.score import arrays
from partbench.score.arrays import LARGEST, check_files_alike, read_landmarks

VERSION = 1
"""Version of the definition; numbers of different versions are not comparable."""
DRAWS = 1000
"""Resampled data sets that an interval stands on."""


def score(train_path: Path, test_path: Path, *, seed: int = 0) -> dict[str, Any]:
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
        BadInput: as `read_landmarks`; no boxes; files that do not fit one another; no landmark
            that both files show.
    """
    train, test = read_landmarks(train_path, each=False), read_landmarks(test_path, each=False)
    check_files_alike(train_path, test_path, train, test, "keypoints")
    sides = []
    for path, file in ((train_path, train), (test_path, test)):
        if file.points.shape[2] != 2:
            raise BadInput(f"{path}: extra values of keypoints have no place in CUB's protocol")
        if file.box is None:
            raise BadInput(f"{path}: no array named box; CUB's errors are shares of the box")
        box_side(file.box, np.ones((len(file.points), 1), bool), f"{path}: box")
        inputs = flat(cub.box_units(file.points, file.box))
        targets = cub.in_box(file.landmarks, file.visible, file.box)
        for shares in (inputs, flat(targets.landmarks)):
            if (far := np.flatnonzero((np.abs(shares) > LARGEST).any(1))).size:
                raise BadInput(
                    f"{path}: box: row {far[0]} is {file.box[far[0]].tolist()}, which is too "
                    "small; correct the row or leave it out"
                )
        sides.append((inputs, targets))
    (inputs, targets), (test_inputs, truth) = sides
    examples = (inputs, targets.landmarks, targets.visible)
    errors = truth.errors(cub.predict(examples, test_inputs))
    if not np.isfinite(errors).any():
        raise BadInput(f"{test_path}: no landmark that {train_path} shows is visible here")
    constant = truth.errors(cub.predict_constant(examples, len(test_inputs)))

    counted = np.isfinite(errors)
    sums = cub.sums(errors)
    sums = sums[sums[:, 1] > 0]
    interval = None
    if len(sums) > 1:
        interval = list(percentiles(cub.ratio(bootstrap_totals(sums, DRAWS, seed))))
    return {
        "probe": "landmarks",
        "version": VERSION,
        "protocol": "cub",
        "metric": "landmark_error",
        "unit": "% of box",
        "direction": "lower is better",
        "value": cub.micro_average(errors),
        "interval95": interval,
        "constant": cub.micro_average(constant),
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
    classes = arrays.read(path, (), ("classes",)).get("classes")
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
