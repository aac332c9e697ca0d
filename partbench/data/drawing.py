"""Draw shapes with soft edges, with the same bytes on every machine.

Lengths are in sides of the image, so that a drawing looks the same at any size. y points down. For
the same bytes everywhere, numbers come only from:

- operations that IEEE 754 rounds exactly (+, -, *, /, sqrt);
- the raw bits of PCG64, which NumPy guarantees, unlike the numbers of its `Generator`;
- sines and cosines rounded to ten digits.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Colour = tuple[float, float, float]
T = TypeVar("T")
Marking = Literal["plain", "belly", "stripes", "spots", "rings"]


class Draw:
    """Seeded draws; the same key gives the same draws.

    Products and sums are computed in Python. Compiled code may round `low + width * u` once on some
    processors and twice on others.
    """

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def between(self, low: float, high: float) -> float:
        """Draw uniformly from [low, high)."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def around(self, spread: float) -> float:
        """Draw uniformly from [-spread, spread)."""
        return self.between(-spread, spread)

    def count(self, low: int, high: int) -> int:
        """Draw an integer from low..high, both included."""
        return int(self.between(low, high + 1))

    def choice(self, items: Sequence[T]) -> T:
        """Draw one of `items`."""
        return items[self.count(0, len(items) - 1)]

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.between(0, 1) < probability

    def colour(self, bright: bool) -> Colour:
        """Draw a colour of any hue, either clearly bright or clearly dark; RGB in 0..1."""
        value = self.between(0.78, 1.0) if bright else self.between(0.3, 0.5)
        return colorsys.hsv_to_rgb(self.between(0, 1), self.between(0.25, 0.7), value)

    def noise(self, shape: tuple[int, ...]) -> Array:
        """Draw symmetric noise in -1..1, float64 [*shape]: the centred sum of two random bytes."""
        count = 2 * math.prod(shape)
        raw = self._bits.random_raw(-(-count // 8)).astype("<u8").view(np.uint8)
        first, second = raw[:count].reshape(2, *shape).astype(np.float64)
        return (first + second - 255) / 255


@dataclass(frozen=True)
class Placement:
    """The position, scale and direction of a shape, with its local axes u (right) and v (down)."""

    x: float
    y: float
    scale: float = 1.0
    cos: float = 1.0
    sin: float = 0.0

    def point(self, u: float, v: float) -> tuple[float, float]:
        """Return the position in the picture of the local point (u, v)."""
        return (
            self.x + self.scale * (self.cos * u - self.sin * v),
            self.y + self.scale * (self.sin * u + self.cos * v),
        )

    def moved(self, u: float, v: float, angle: float = 0.0) -> "Placement":
        """Return the placement at the local point (u, v), turned clockwise by `angle` radians."""
        x, y = self.point(u, v)
        cos, sin = round(math.cos(angle), 10), round(math.sin(angle), 10)
        return Placement(
            x, y, self.scale, self.cos * cos - self.sin * sin, self.sin * cos + self.cos * sin
        )

    def local(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return the local coordinates of points of the picture."""
        x, y = (x - self.x) / self.scale, (y - self.y) / self.scale
        return self.cos * x + self.sin * y, self.cos * y - self.sin * x


@dataclass(frozen=True)
class Ellipse:
    """An ellipse about the origin of its placement, with half axes `a` along u and `b` along v."""

    placement: Placement
    a: float
    b: float

    def distance(self, x: Array, y: Array) -> Array:
        """Return the first-order distance to the contour in sides of the image, negative inside."""
        u, v = self.placement.local(x, y)
        u, v = u / self.a, v / self.b
        level = np.sqrt(u * u + v * v)
        slope = np.sqrt(u * u / (self.a * self.a) + v * v / (self.b * self.b)) + 1e-9
        return level * (level - 1) / slope * self.placement.scale

    def bounds(self) -> tuple[float, float, float, float]:
        """Return a box around the shape: left, top, right, bottom."""
        reach = self.placement.scale * max(self.a, self.b)
        x, y = self.placement.x, self.placement.y
        return x - reach, y - reach, x + reach, y + reach


@dataclass(frozen=True)
class Segment:
    """A rounded segment from the origin of its placement along v.

    Its radius changes from `start` to `end`.
    """

    placement: Placement
    length: float
    start: float
    end: float

    def distance(self, x: Array, y: Array) -> Array:
        """Return the first-order distance to the contour in sides of the image, negative inside."""
        u, v = self.placement.local(x, y)
        along = np.clip(v / self.length, 0, 1)
        v = v - along * self.length
        return (np.sqrt(u * u + v * v) - self.start - along * (self.end - self.start)) * (
            self.placement.scale
        )

    def bounds(self) -> tuple[float, float, float, float]:
        """Return a box around the shape: left, top, right, bottom."""
        reach = self.placement.scale * max(self.start, self.end)
        (x, y), (tip_x, tip_y) = self.placement.point(0, 0), self.placement.point(0, self.length)
        return (
            min(x, tip_x) - reach,
            min(y, tip_y) - reach,
            max(x, tip_x) + reach,
            max(y, tip_y) + reach,
        )


Shape = Sequence[Ellipse | Segment]


def chain(
    placement: Placement, length: float, radii: Sequence[float], bend: float
) -> tuple[Shape, tuple[float, float]]:
    """Return a limb and the position of its tip.

    Args:
        placement: where the limb starts; it grows along v.
        length: of one segment, in local units.
        radii: at the joints, from the root to the tip, in local units.
        bend: the clockwise turn at each joint, radians.
    """
    segments = []
    for start, end in pairwise(radii):
        segments.append(Segment(placement, length, start, end))
        placement = placement.moved(0, length, bend)
    return segments, placement.point(0, 0)


def marking_distance(marking: Marking, u: Array, v: Array) -> Array:
    """Return the distance to the contour of a marking in local units, negative inside."""
    if marking == "belly":
        return np.sqrt(u * u + (v - 0.04) * (v - 0.04) * 0.6) - 0.09
    if marking == "stripes":
        return 0.026 - np.abs(_wrapped(v, 0.105))
    if marking == "rings":  # the scales of a belly: stripes within a vertical band
        return np.maximum(0.018 - np.abs(_wrapped(v, 0.07)), np.abs(u) - 0.08)
    row = np.floor(v / 0.11)
    u, v = _wrapped(u + 0.0625 * (row % 2), 0.125), v - (row + 0.5) * 0.11
    return np.sqrt(u * u + v * v) - 0.038


def _wrapped(values: Array, period: float) -> Array:
    """Return the offset from the nearest multiple of `period`."""
    return values - np.floor(values / period + 0.5) * period


class Canvas:
    """A square picture, painted back to front, that records the group of each pixel."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.centres: Array = (np.arange(size) + 0.5) / size
        self.image: Array = np.zeros((size, size, 3))
        self.groups = np.zeros((size, size), np.uint8)

    def copy(self) -> "Canvas":
        """Return an independent copy."""
        other = Canvas(self.size)
        other.image, other.groups = self.image.copy(), self.groups.copy()
        return other

    def paint(
        self,
        shape: Shape,
        colour: Colour,
        group: int = 0,
        marking: Marking = "plain",
        accent: Colour = (0, 0, 0),
        outline: float = 0.0,
    ) -> None:
        """Paint the union of the primitives of a shape, with a soft edge of one pixel.

        Args:
            shape: the primitives; the marking is drawn at the placement of the first.
            colour: RGB in 0..1.
            group: the group of the painted pixels, 0 for the background.
            marking: a pattern in the colour `accent`.
            accent: RGB in 0..1.
            outline: the width of a darker contour, in sides of the image.
        """
        bounds = np.array([primitive.bounds() for primitive in shape])
        low = np.floor(bounds[:, :2].min(0) * self.size - 0.5).clip(0, self.size)
        high = np.ceil(bounds[:, 2:].max(0) * self.size + 1.5).clip(0, self.size)
        columns, rows = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        x, y = self.centres[None, columns], self.centres[rows, None]
        if not x.size or not y.size:
            return
        distance = shape[0].distance(x, y)
        for primitive in shape[1:]:
            distance = np.minimum(distance, primitive.distance(x, y))
        paint: Array = np.array(colour)
        if marking != "plain":
            placement = shape[0].placement
            distance_to_marking = marking_distance(marking, *placement.local(x, y))
            inside = self._cover(distance_to_marking * placement.scale)
            paint = paint + inside * (np.array(accent) - paint)
        if outline:
            ink = 0.3 * np.array(colour)
            paint = ink + self._cover(distance + outline) * (paint - ink)
        cover = self._cover(distance)
        window = self.image[rows, columns]
        window += cover * (paint - window)
        self.groups[rows, columns][cover[..., 0] >= 0.5] = group

    def _cover(self, distance: Array) -> Array:
        """Return the share of each pixel that lies inside a contour, [h, w, 1]."""
        return np.clip(0.5 - distance * self.size, 0, 1)[..., None]
