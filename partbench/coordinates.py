"""Where points lie in the prepared image: the one module that converts coordinates.

Pixels are those of the prepared image, (x, y), centres at integers.
"""

from typing import Any, Literal, NamedTuple, Self

from partbench.errors import BadInput

Origin = Literal["corner", "centred"]
"""Where a paper's regression counts from: the corner of the window, or its centre."""
ORIGINS: tuple[Origin, ...] = ("corner", "centred")


class Frame(NamedTuple):
    """The frame of a method's keypoints.

    Methods see a square window of the prepared image (training warps need a margin around it) and
    count coordinates from -1 to 1, either between the centres of the outermost cells of a heat map
    or between the window's borders.
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

    def contains(self, pixels: Any, slack: float = 0.0) -> Any:
        """Return whether pixels (array or tensor, [..., 2]) lie in the window, [...] bool.

        Args:
            pixels: points.
            slack: pixels by which a point may lie outside.
        """
        low, high = self.left - 0.5 - slack, self.left + self.side - 0.5 + slack
        return ((pixels >= low) & (pixels <= high)).all(-1)


class RegressionFrame(NamedTuple):
    """The frame that a regression reads points in: (pixels - origin) / unit."""

    origin: float
    unit: float

    @classmethod
    def of(cls, origin: Origin, frame: Frame) -> Self:
        """Return the frame of landmarks, for a method that sees the window of `frame`.

        Counted from the corner, the unit is a pixel; about the centre, the window's side.
        """
        if origin == "corner":
            return cls(frame.left, 1)
        return cls(frame.left + frame.side / 2, frame.side)

    def from_pixels(self, pixels: Any) -> Any:
        """Return pixels of the prepared image (array or tensor) in this frame."""
        return (pixels - self.origin) / self.unit

    def to_pixels(self, points: Any) -> Any:
        """Return points of this frame (array or tensor) as pixels of the prepared image."""
        return points * self.unit + self.origin


class RegressionOrigins(NamedTuple):
    """Where a paper's regression from keypoints to landmarks counts from."""

    points: Origin = "centred"
    """centred: keypoints from -1 to 1, as the method gives them; corner: pixels of the window."""
    landmarks: Origin = "corner"
    """corner: pixels of the window; centred: its sides, from its centre."""


def from_corner(points: Any, frame: Frame) -> Any:
    """Return points from -1 to 1 (array or tensor) as pixels from the window's corner.

    So KeyNet counts its keypoints: -1 and 1 are the borders, whatever the frame says.
    """
    return (points + 1) / 2 * frame.side


def window_of(side: int, margin: int) -> int:
    """Return the side of the window, pixels.

    Args:
        side: pixels of the prepared image's side.
        margin: pixels left out on each side.

    Raises:
        BadInput: the margin leaves nothing.
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


def of_pixels(side: int) -> Frame:
    """Return the frame whose -1 and 1 are the centres of the outermost pixels.

    grid_sample counts so with `align_corners`, and so do all warps.
    """
    return of_cells(side, side)


def of_borders(side: int, margin: int = 0) -> Frame:
    """Return the frame whose -1 and 1 are the borders of the window.

    grid_sample counts so without `align_corners`.

    Raises:
        BadInput: the margin leaves no window.
    """
    window = window_of(side, margin)
    return Frame(margin - 0.5, margin + window - 0.5, margin, window)
