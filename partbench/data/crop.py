"""The square around one object, on which part discovery trains."""

from typing import Any

from numpy.typing import NDArray

from partbench.data.image import Box

MARGIN = 0.05
"""Added on each side, as a share of the box's width and height."""


def square_around(box: NDArray[Any]) -> Box:
    """Return the square around an object: (left, top, right, bottom) in pixels.

    The box grows by `MARGIN` on each side. Its short side then extends about its middle until the
    box is a square, which may reach beyond the image. The code of Choudhury et al. (NeurIPS 2021)
    cuts objects out in the same way, except that it jitters the training boxes.

    Args:
        box: [4], (x, y, width, height) in pixels, with pixel centres at integers.
    """
    left, top, width, height = (float(value) for value in box)
    side = max(width, height) * (1 + 2 * MARGIN)
    # A crop is measured from pixel edges, which lie half a pixel from the centres.
    x, y = left + width / 2 + 0.5, top + height / 2 + 0.5
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2
