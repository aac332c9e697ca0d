"""How well outputs follow a warp of the image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


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
