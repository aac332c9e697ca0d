"""Keypoints and landmarks drawn on images: each keypoint in a colour and a shape of its own."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from partbench.data.sheet import COLOURS

TILE, FINE = 160, 2
"""Side of an image in pixels, and how many times finer it is drawn."""
OUTLINE, PAIR = "#111111", "white"

Point = tuple[float, float]


def _polygon(corners: int, turn: float, inner: float = 1.0) -> list[Point]:
    """Return a regular polygon, or with `inner` below 1 a star, around the origin."""
    angles = (math.pi * (i / corners + turn) for i in range(2 * corners))
    radii = (1.0, inner) if inner < 1 else (1.0, math.cos(math.pi / corners))
    return [
        (radii[i % 2] * math.sin(angle), -radii[i % 2] * math.cos(angle))
        for i, angle in enumerate(angles)
    ]


SHAPES = (
    _polygon(24, 0),
    _polygon(4, 1 / 4),
    _polygon(3, 0),
    _polygon(4, 0),
    _polygon(3, 1),
    _polygon(5, 0, 0.42),
    _polygon(4, 0, 0.36),
    _polygon(4, 1 / 4, 0.36),
)
"""Shapes of keypoints: with the colours, 56 that differ."""


def keypoint_tile(image: np.ndarray, points: np.ndarray) -> Image.Image:
    """Draw keypoints [K, 2], in pixels, on an image uint8 [S, S, 3]: each its colour and shape."""
    tile, draw, scale = _canvas(image)
    for number, (x, y) in enumerate((points + 0.5) * scale):
        if np.isfinite([x, y]).all():
            shape = SHAPES[number // len(COLOURS) % len(SHAPES)]
            _mark(draw, (x, y), shape, COLOURS[number % len(COLOURS)])
    return tile.resize((TILE, TILE), Image.Resampling.LANCZOS)


def landmark_tile(
    image: np.ndarray, predicted: Sequence[Point], true: Sequence[Point], visible: Sequence[bool]
) -> Image.Image:
    """Draw predicted landmarks, filled, each joined to its true place, a ring.

    Args:
        image: uint8 [S, S, 3].
        predicted: L landmarks in pixels; one that is not finite is left out.
        true: likewise.
        visible: which of them to draw.
    """
    tile, draw, scale = _canvas(image)
    pairs = [
        (number, (np.array(ends) + 0.5) * scale)
        for number, (*ends, seen) in enumerate(zip(predicted, true, visible, strict=False))
        if seen and np.isfinite(ends).all()
    ]
    for _, ends in pairs:
        line = [tuple(end) for end in ends.tolist()]
        draw.line(line, fill=OUTLINE, width=5 * FINE // 2)
        draw.line(line, fill=PAIR, width=FINE)
    for number, (shown, (x, y)) in pairs:
        radius = 4 * FINE
        for grow, fill, width in ((1, OUTLINE, 3 * FINE), (0, PAIR, 3 * FINE // 2)):
            reach = radius + grow
            box = (x - reach, y - reach, x + reach, y + reach)
            draw.ellipse(box, outline=fill, width=width)
        _mark(draw, (shown[0], shown[1]), SHAPES[0], COLOURS[number % len(COLOURS)])
    return tile.resize((TILE, TILE), Image.Resampling.LANCZOS)


def _canvas(image: np.ndarray) -> tuple[Image.Image, ImageDraw.ImageDraw, float]:
    """Return an image enlarged, what draws on it, and by how much it is larger."""
    side = TILE * FINE
    tile = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return tile, ImageDraw.Draw(tile), side / image.shape[1]


def _mark(
    draw: ImageDraw.ImageDraw, place: Point, shape: Sequence[Point], fill: str, size: float = 5.0
) -> None:
    """Draw a marker with a dark outline, which shows on light ground as on dark."""
    for radius, shade in ((size + 2, OUTLINE), (size, fill)):
        r = radius * FINE
        draw.polygon([(place[0] + r * u, place[1] + r * v) for u, v in shape], fill=shade)
