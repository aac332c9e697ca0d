"""The crop that part discovery is trained on: a square around one object."""

from typing import Any

from numpy.typing import NDArray

from partbench.data.image import Box

MARGIN = 0.05
"""Added on each side, share of the box's width and height."""


def square_around(box: NDArray[Any]) -> Box:
    """Return the square around an object, (left, top, right, bottom), pixels.

    The box, with `MARGIN` added, its short side grown about its middle until it is a square; it
    may reach beyond the image. So the code of Choudhury et al. (NeurIPS 2021) cuts objects out,
    but for a jitter of the training boxes.

    Args:
        box: [4], (x, y, width, height), pixel centres at integers.
    """
    left, top, width, height = (float(value) for value in box)
    side = max(width, height) * (1 + 2 * MARGIN)
    # Pixel centres at integers: the box ends half a pixel further.
    x, y = left + width / 2 + 0.5, top + height / 2 + 0.5
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2
