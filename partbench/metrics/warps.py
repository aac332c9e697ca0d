"""How well outputs follow a warp of the image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput
from partbench.metrics.cub import ratio
from partbench.metrics.intervals import jackknife
from partbench.metrics.landmarks import FloatArray


def part_agreement(carried: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the share of a warped image's foreground whose part is that of the place it shows.

    Args:
        carried: [N, H, W] integers: the part of the place of the original that each pixel of the
            warped image shows, counted from 1; 0 is background, or a place outside the original.
        labels: [N, H, W] integers, the part of each pixel of the warped image, counted from 1.

    Returns:
        [N], from 0 to 1; NaN where nothing is foreground.
    """
    seen = carried > 0
    same = ((labels == carried) & seen).sum((1, 2))
    with np.errstate(invalid="ignore"):  # counts below 2^24 are exact
        share: NDArray[np.float32] = same.astype(np.float32) / seen.sum((1, 2)).astype(np.float32)
    return share


def over_staying(moved: FloatArray, stayed: FloatArray, where: str) -> FloatArray:
    """Return outcomes by image, [N], whose mean is the sum of `moved` over that of `stayed`.

    The sums are over the keypoints of all images that have both. An image with none has NaN.

    Args:
        moved: [N, K], distances of keypoints from their places that a warp leaves; NaN: unknown.
        stayed: [N, K], those that it would leave of keypoints that do not move.
        where: the outputs, for the message.

    Raises:
        BadInput: no keypoint has both, or the warps move nothing.
    """
    both = np.isfinite(moved) & np.isfinite(stayed)
    sums = np.stack([np.where(both, distances, 0).sum(1) for distances in (moved, stayed)], 1)
    if not sums[:, 1].any():
        raise BadInput(
            f"{where}: no keypoint of a warped copy can be compared with one that had stayed; "
            "extract the run's outputs again"
        )
    return jackknife(ratio, sums)
