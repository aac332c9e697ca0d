"""What one training step sees, and what a method may be told beside the images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:  # what prepares data needs no torch
    from torch import Tensor

LearnsFrom = Literal[
    "images", "neighbours", "clusters", "labels", "attributes", "landmarks", "mask", "parts"
]
"""What a training is told: the images alone, which images are similar, or one annotation."""
UNSUPERVISED: tuple[LearnsFrom, ...] = ("images", "neighbours", "clusters")
"""What is known of any images, without a person's annotation."""


class Batch(NamedTuple):
    """The samples of one training step; an annotation that the method is not told is None."""

    images: Tensor
    """[B, 3, S, S] float32 in [0, 1], or [B, T, 3, S, S] of clips."""
    labels: Tensor | None
    """[B] int64, classes or clusters; of attributes, [B, A] bool."""
    landmarks: Tensor | None = None
    """[B, L, 3] float32: x, y in pixels of the prepared image (mirrored as the image is), and 1,
    or 0 where the landmark is not visible and x and y mean nothing."""
    masks: Tensor | None = None
    """[B, S, S] float32, 1 on the foreground and 0 elsewhere."""
    parts: Tensor | None = None
    """[B, S, S] uint8: 0 is background, 255 is to be left out."""
    candidates: Tensor | None = None
    """[B, 4, 3, S, S] float32 in [0, 1]: for each quadrant (see `partbench.data.neighbours`) an
    image whose quadrant is similar."""
    distances: Tensor | None = None
    """[B, 4] float32: squared L2 distance of the features of the image's and the candidate's
    quadrant."""

    def part(self, i: int, n: int) -> Batch:
        """Return the i-th of n parts of equal size, counted from 0."""
        size = len(self.images) // n
        rows = slice(i * size, (i + 1) * size)
        fields: Any = (None if field is None else field[rows] for field in self)
        return Batch(*fields)
