"""Where a method's keypoint coordinates lie in the prepared image: the one place that converts."""

from typing import Any, NamedTuple

from partbench.errors import BadInput


class Frame(NamedTuple):
    """The frame of a method's keypoints.

    Methods see a square window of the prepared image (training warps need a margin around it) and
    count coordinates from -1 to 1, between the centres of the outermost cells of a heat map or
    between the borders. Pixels are those of the prepared image, centres at integers.
    """

    first: float
    """Pixel, in x and y alike, of the coordinate -1."""
    last: float
    """Pixel of the coordinate 1."""
    left: int
    """First pixel of the window, in x and y alike."""
    side: int
    """Pixels of the window's side."""

    def to_pixels(self, points: Any) -> Any:
        """Return points of this frame (array or tensor, [..., 2]) as pixels."""
        return self.first + (points + 1) / 2 * (self.last - self.first)

    def from_pixels(self, points: Any) -> Any:
        """Return pixels (array or tensor, [..., 2]) as points of this frame."""
        return (points - self.first) / (self.last - self.first) * 2 - 1

    def cut(self, images: Any) -> Any:
        """Return the window of prepared images (array or tensor, [..., S, S])."""
        end = self.left + self.side
        return images[..., self.left : end, self.left : end]


def window_of(side: int, margin: int) -> int:
    """Return the side of the window, pixels.

    Raises:
        BadInput: the margin leaves none.
    """
    if (window := side - 2 * margin) < 1:
        raise BadInput(
            f"a `margin` of {margin} pixels on each side leaves nothing of images of {side} x "
            f"{side}; lower it, or raise the data set's `size`"
        )
    return window


def of_cells(side: int, cells: int, margin: int = 0) -> Frame:
    """Return the frame whose -1 and 1 are the centres of the outermost cells of a heat map.

    Args:
        side: pixels of the prepared image's side.
        cells: of a side of the heat map, which covers the window.
        margin: pixels around the window.

    Raises:
        BadInput: the margin leaves no window.
    """
    window = window_of(side, margin)
    half = window / cells / 2 - 0.5
    return Frame(margin + half, margin + window - 1 - half, margin, window)


def of_borders(side: int, margin: int = 0) -> Frame:
    """Return the frame whose -1 and 1 are the borders of the window, as grid_sample's without
    `align_corners`. Raises BadInput if the margin leaves no window.
    """
    window = window_of(side, margin)
    return Frame(margin - 0.5, margin + window - 0.5, margin, window)
