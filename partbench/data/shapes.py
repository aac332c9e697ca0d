"""Shapes: squares, circles, triangles and ellipses on cyan, the toy data of Deep Latent Particles.

Daniel and Tamar (ICML 2022) draw 40,000 images of 64 x 64 anew for each training, without a seed,
by scikit-image's `random_shapes`: 2 to 5 shapes of 11 to 13 pixels, none over another, in colours
of at most 200 of 255. Their code then takes the red off the white ground. Here they are drawn by
partbench from a seed, by the same rules.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from partbench.data.reader import DataSettings, Reader, Sample, Side

SPLITS = ("train", "val", "test")
GROUND = (0, 255, 255)
"""Colour of what no shape covers, RGB."""
BRIGHTEST = 200
"""The most that a shape has of red, green and blue."""
TRIES = 100
"""Places that are tried for a shape; an image where none is free goes without it."""

Mask = NDArray[np.bool_]
Grid = NDArray[np.float64]


def _rectangle(x: Grid, y: Grid, draw: np.random.Generator, low: int, high: int) -> Mask:
    width, height = draw.integers(low, high, 2, endpoint=True) / 2
    inside: Mask = (np.abs(x) <= width) & (np.abs(y) <= height)
    return inside


def _circle(x: Grid, y: Grid, draw: np.random.Generator, low: int, high: int) -> Mask:
    inside: Mask = x**2 + y**2 <= (draw.integers(low, high, endpoint=True) / 2) ** 2
    return inside


def _triangle(x: Grid, y: Grid, draw: np.random.Generator, low: int, high: int) -> Mask:
    side = int(draw.integers(low, high, endpoint=True))
    height = side * np.sqrt(3) / 2
    down = y + height / 2
    inside: Mask = (down >= 0) & (down <= height) & (np.abs(x) <= side / 2 * down / height)
    return inside


def _ellipse(x: Grid, y: Grid, draw: np.random.Generator, low: int, high: int) -> Mask:
    across, along = draw.integers(low, high, 2, endpoint=True) / 2
    angle = draw.uniform(0, np.pi)
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    inside: Mask = (u / across) ** 2 + (v / along) ** 2 <= 1
    return inside


KINDS: Mapping[str, Callable[..., Mask]] = {
    "rectangle": _rectangle,
    "circle": _circle,
    "triangle": _triangle,
    "ellipse": _ellipse,
}


class ShapesSettings(DataSettings):
    """How many shapes of which size; the defaults are the paper's."""

    size: Side = Field(64, description="side of the drawn images, pixels")
    seed: int = Field(0, ge=0, description="of all drawings")
    train: int = Field(40_000, ge=1, description="training images")
    val: int = Field(1_000, ge=1, description="validation images")
    test: int = Field(2_000, ge=1, description="test images")
    fewest: int = Field(2, ge=1, description="shapes of an image")
    most: int = Field(5, ge=1, description="shapes of an image")
    smallest: int = Field(11, ge=3, description="sides and diameters, pixels")
    largest: int = Field(13, ge=3, description="sides and diameters, pixels")

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if self.fewest > self.most or self.smallest > self.largest:
            raise ValueError("`fewest` must not exceed `most`, nor `smallest` `largest`")
        if self.largest >= self.size:
            raise ValueError(f"shapes of {self.largest} px do not fit images of {self.size} px")
        return self


class Shapes(Reader):
    """Images of shapes; the mask is where there is one."""

    Settings = ShapesSettings
    licence = "drawn by partbench; no rights reserved"
    references = ("daniel2022dlp",)

    def __init__(self, root: Any, settings: ShapesSettings) -> None:
        super().__init__(root, settings)
        self.counts = {split: getattr(settings, split) for split in SPLITS}

    @property
    def split_names(self) -> Sequence[str]:
        """Names of the splits."""
        return SPLITS

    def splits(self) -> dict[str, Sequence[str]]:
        """Return the names of the drawings of each split; a name is a number."""
        return {split: [f"{i:06d}" for i in range(n)] for split, n in self.counts.items()}

    def sample(self, split: str, index: int) -> Sample:
        """Draw sample `index` of `split`, independently of all other samples."""
        s = self.settings
        draw = np.random.default_rng([s.seed, SPLITS.index(split), index])
        image = np.full((s.size, s.size, 3), GROUND, np.uint8)
        taken = np.zeros((s.size, s.size), bool)
        for _ in range(int(draw.integers(s.fewest, s.most, endpoint=True))):
            shape = self._place(taken, draw)
            if shape is not None:
                image[shape] = draw.integers(0, BRIGHTEST, 3, endpoint=True)
                taken |= shape
        return Sample(f"{index:06d}", image, mask=taken)

    def _place(self, taken: Mask, draw: np.random.Generator) -> Mask | None:
        """Return a shape that lies inside the image and over no other, None if none was found."""
        s = self.settings
        y, x = np.indices(taken.shape, np.float64)
        kind = KINDS[tuple(KINDS)[draw.integers(len(KINDS))]]
        half = s.largest / 2
        for _ in range(TRIES):
            middle = draw.uniform(half, s.size - 1 - half, 2)
            shape = kind(x - middle[0], y - middle[1], draw, s.smallest, s.largest)
            if not (shape & taken).any():
                return shape
        return None
