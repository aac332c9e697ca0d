"""Images with similar quadrants: how their ranks are drawn, and how a training reads them.

A data set with neighbours (see `partbench.scenes`) has, for each image and each quadrant, the R
images of the same split whose quadrants look most alike. Quadrants are counted top left, top right,
bottom left, bottom right.

    <split>.neighbours.npy   int64 [N, 4, R], rows of the split, nearest first
    <split>.distances.npy    float32 [N, 4, R], squared L2 distance of the two quadrants' features
    <split>.squashed.npy     uint8 [N, S, S, 3], whole images squashed to squares; only where
                             `crop` keeps the images' aspect
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from partbench.data.prepared import Split
from partbench.settings import Settings

PLACES = ("top left", "top right", "bottom left", "bottom right")
"""Of the quadrants, in their order."""
QUADRANTS = len(PLACES)
NEIGHBOURS = 10
"""R: neighbours of each quadrant."""


class NeighbourSettings(Settings):
    """What a training that mixes images draws; a part of a method's settings."""

    neighbour_rank: Literal["shared", "quadrant"] = Field(
        "shared",
        description="shared: one rank for all four quadrants, never the last one, as the authors' "
        "code draws it; quadrant: a rank for each quadrant out of all, as the thesis says",
    )

    @field_validator("flip", check_fields=False)
    @classmethod
    def _upright(cls, flip: bool) -> bool:
        if flip:
            raise ValueError(
                "mirroring an image swaps its quadrants, whose neighbours are then wrong; leave "
                "`flip` out, and use mirrored copies as samples of their own (`copies` of coco)"
            )
        return flip


class Neighbours:
    """The neighbours of a split's images, and their pictures.

    Args:
        split: of a data set with neighbours.
        settings: the method's; `NeighbourSettings` is a part of them.

    Raises:
        BadInput: the split has no neighbours.
        TypeError: the settings are others.
    """

    def __init__(self, split: Split, settings: Any) -> None:
        if not isinstance(settings, NeighbourSettings):
            raise TypeError(
                f"{type(settings).__name__} must inherit from NeighbourSettings, since the method "
                "learns from neighbours"
            )
        self.settings = settings
        self.rows = split.annotation("neighbours")
        self.distances = split.annotation("distances")
        self.images = split.annotation("squashed") if split.has("squashed") else split.images

    def draw(self, n: int, draw: np.random.Generator | None) -> NDArray[np.int64]:
        """Return the ranks of the candidates of `n` images, counted from 0: [n, 4].

        Args:
            n: images.
            draw: None: the nearest neighbours.
        """
        if draw is None:
            return np.zeros((n, QUADRANTS), np.int64)
        ranks = self.rows.shape[-1]
        if self.settings.neighbour_rank == "quadrant":
            return draw.integers(ranks, size=(n, QUADRANTS))
        return draw.integers(ranks - 1, size=(n, 1)).repeat(QUADRANTS, 1)

    def take(
        self, indices: NDArray[np.int64], ranks: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return the candidates of some images, uint8 [B, 4, S, S, 3], and distances [B, 4].

        Args:
            indices: of the images in the split, [B].
            ranks: of their neighbours, [B, 4].
        """
        place = (indices[:, None], np.arange(QUADRANTS), ranks)
        return self.images[self.rows[place]], self.distances[place]


def candidates(
    split: Split, indices: Sequence[int], settings: Any, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the candidates of some images to extract something of, and their distances.

    The ranks of an image are drawn by the seed and its row, whatever else is asked for.

    Args:
        split: of a data set with neighbours.
        indices: of the images in the split, B.
        settings: the method's.
        seed: of the run.
        device: where to put them.

    Returns:
        Candidates [B, 4, 3, S, S] float32 in [0, 1]; distances [B, 4] float32.

    Raises:
        BadInput: the split has no neighbours.
    """
    neighbours = Neighbours(split, settings)
    ranks = [neighbours.draw(1, np.random.default_rng([seed, row])) for row in indices]
    images, distances = neighbours.take(np.asarray(indices), np.concatenate(ranks))
    shown = torch.from_numpy(images).to(device).movedim(-1, -3) / 255
    return shown, torch.from_numpy(distances).to(device)
