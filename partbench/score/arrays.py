"""Read the npz files that people score, and say what is wrong with them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput, shown
from partbench.metrics.landmarks import FloatArray, check_alike, check_landmarks, check_points
from partbench.score import npz
from partbench.settings import nearest

LARGEST = 1e100
"""Of values: sums of their squares are finite in float64."""
MOST_NAMES = 10
"""Unknown arrays that a message lists."""


def read(
    path: Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz file that are asked for, in that order; others are ignored.

    Args:
        path: the file.
        needed: names of arrays that must be there.
        optional: names of arrays that may be there.

    Raises:
        BadInput: see `npz.read`; a value beyond `LARGEST`; an array that is missing: then the
            nearest name is given for each array whose name is unknown.
    """
    keys = [*needed, *optional]
    arrays, names = npz.read(path, keys)
    if missing := [key for key in needed if key not in arrays]:
        others = [name for name in sorted(names) if name not in keys][:MOST_NAMES]
        hints = [f"{shown(name)}: {nearest(name, keys)}" for name in others]
        raise BadInput("\n".join([f"{path}: no array named {', '.join(missing)}.", *hints]))
    for key, array in arrays.items():
        if array.dtype.kind == "f" and array.size:
            _check_size(array, f"{path}: {key}")
    return {key: arrays[key] for key in keys if key in arrays}


def _check_size(array: NDArray[np.floating], where: str) -> None:
    if array.dtype.itemsize <= 4:  # no such number reaches the bound
        return
    array = np.atleast_1d(array)
    large = np.argwhere(np.isfinite(array) & (np.abs(array) > LARGEST))
    if large.size:
        raise BadInput(
            f"{where}: row {large[0][0]} holds {array[tuple(large[0])]:g}, and sums of squares of "
            f"values beyond {LARGEST:g} overflow; give them in another unit, or correct the row"
        )


class LandmarkFile(NamedTuple):
    """What a file of keypoints and landmarks holds."""

    points: FloatArray
    """[N, K, 2 + E]: coordinates, and the extra values of each keypoint."""
    landmarks: FloatArray
    """[N, L, 2]."""
    visible: NDArray[np.bool_]
    """[N, L]."""
    box: FloatArray | None
    """[N, 4]."""


def read_landmarks(path: Path, each: bool = True) -> LandmarkFile:
    """Read keypoints and landmarks from an npz file.

    Args:
        path: npz with `points` [N, K, 2], `landmarks` [N, L, 2], and where there are any `extra`
            [N, K, E], `visible` [N, L] and `box` [N, 4], (x, y, width, height); other arrays are
            ignored.
        each: whether a landmark that is visible nowhere is refused.

    Raises:
        BadInput: no such file, not an npz, an array that is missing, damaged, of the wrong shape
            or not finite, no visible landmark.
    """
    arrays = read(path, ("points", "landmarks"), ("extra", "visible", "box"))
    for key, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise BadInput(f"{path}: {key} is {array.dtype}; give plain numbers")
    points, landmarks = arrays["points"], arrays["landmarks"]
    check_points(points, len(points) if points.ndim else 0, f"{path}: points")
    if "extra" in arrays:
        check_points(arrays["extra"], len(points), f"{path}: extra", values=None)
        if arrays["extra"].shape[1] != points.shape[1]:
            raise BadInput(
                f"{path}: extra has {arrays['extra'].shape[1]} keypoints, points has "
                f"{points.shape[1]}"
            )
        points = np.concatenate([points, arrays["extra"]], axis=2)
    if landmarks.ndim and len(landmarks) != len(points):
        raise BadInput(f"{path}: {len(points)} rows of points, {len(landmarks)} of landmarks")
    visible = arrays.get("visible", np.ones(landmarks.shape[:2], bool))
    if len(wrong := visible[~np.isin(visible, (0, 1))]):
        raise BadInput(
            f"{path}: visible holds {wrong[0]:g}; give true or 1 for a landmark that is visible, "
            "false or 0 for one that is not"
        )
    visible = visible.astype(bool)
    check_landmarks(landmarks, visible, numbered(landmarks), str(path), each)
    box = arrays["box"].astype(np.float64) if "box" in arrays else None
    return LandmarkFile(points.astype(np.float64), landmarks.astype(np.float64), visible, box)


def check_files_alike(
    train_path: Path, test_path: Path, train: LandmarkFile, test: LandmarkFile, points: str
) -> None:
    """Refuse, with `BadInput`, files with different numbers of points or of landmarks.

    Args:
        train_path: the file of training images, for the message.
        test_path: the file of test images, likewise.
        train: what the first holds.
        test: what the second holds.
        points: what the points are, for the message.
    """
    try:
        check_alike(train.points, test.points, points)
        check_alike(train.landmarks, test.landmarks, "landmarks")
    except BadInput as error:
        raise BadInput(f"{train_path} and {test_path}: {error}") from None


def numbered(landmarks: NDArray[Any]) -> list[str]:
    """Return names for landmarks that have none: their indices."""
    return [str(i) for i in range(landmarks.shape[1] if landmarks.ndim > 1 else 0)]
