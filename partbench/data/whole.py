"""Images at their own aspect, as the authors of unsup-parts prepare CUB for their measurements.

Facts from the evaluation code of Choudhury et al. (NeurIPS 2021): coordinates are multiplied by the
factor of the resize, as if they were counted from the border of the first pixel; a crop begins at
the whole pixel, but landmarks in it are counted from the box's untruncated corner, and none lies
below 0; the border goes that keeps the sides from being multiples of 16.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput

MULTIPLE = 16


def scale_points(
    points: NDArray[np.floating], factor: float, corner: Sequence[float] = (0.0, 0.0)
) -> NDArray[np.float32]:
    """Return points counted from a corner, none below 0, times the factor of a resize.

    Args:
        points: [..., 2], (x, y), pixels.
        factor: prepared pixels a pixel.
        corner: (x, y), pixels; may have fractions.
    """
    return (np.maximum(np.asarray(points, np.float64) - corner, 0) * factor).astype(np.float32)


def cut_border(
    size: tuple[int, int],
    landmarks: NDArray[np.floating],
    visible: NDArray[np.bool_],
    box: NDArray[np.floating],
    multiple: int = MULTIPLE,
) -> tuple[tuple[slice, slice], NDArray[np.floating], NDArray[np.bool_], NDArray[np.floating]]:
    """Cut an image's border so that its sides are multiples of 16; move its keypoints and box.

    Half of what is too much, rounded down, goes on the left and at the top. A keypoint in the
    border becomes invisible and (0, 0). The box's corner is moved and not let below 0, its width
    and height not above the new sides; so a box that began in the border grows to the right.

    Args:
        size: height and width of the image, pixels.
        landmarks: [L, 2], (x, y), pixels.
        visible: [L].
        box: [4], (x, y, width, height).
        multiple: of which the sides shall be.

    Returns:
        The rows and columns that stay, landmarks, visible, box.

    Raises:
        BadInput: a side shorter than the multiple.
    """
    if min(size) < multiple:
        raise BadInput(
            f"an image of {size[0]} x {size[1]} pixels has no side of a multiple of {multiple}; "
            "resize it first"
        )
    kept = [side // multiple * multiple for side in size]
    start = [(side - left) // 2 for side, left in zip(size, kept, strict=True)]
    window = (slice(start[0], start[0] + kept[0]), slice(start[1], start[1] + kept[1]))
    corner = np.array(start[::-1], landmarks.dtype)
    sides = np.array(kept[::-1], landmarks.dtype)
    moved = landmarks - corner
    stays = visible & (moved >= 0).all(1) & (moved < sides).all(1)
    cut = np.concatenate([np.maximum(box[:2] - corner, 0), np.minimum(box[2:], sides)])
    return window, np.where(stays[:, None], moved, 0), stays, cut
