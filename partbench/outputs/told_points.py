"""Parts that are told, of test images too: points that follow from annotations alone.

A paper's trivial baselines are such. They are controls: a number worse than theirs could be had
without looking at the image.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.prepared import Prepared, Split


class Annotated(NamedTuple):
    """What is told of some images; coordinates are pixels of the prepared images."""

    names: Sequence[str]
    """Of the L landmarks."""
    landmarks: NDArray[np.float32]
    """[B, L, 2], (x, y)."""
    visible: NDArray[np.bool_]
    """[B, L]."""
    extent: NDArray[np.int64]
    """[B, 2], width and height."""
    uncut: NDArray[np.int64]
    """[B, 2], width and height before a border was cut off."""


class Points(NamedTuple):
    """Parts that are points."""

    centres: NDArray[np.float64]
    """[B, K, 2], (x, y), pixels of the prepared images."""
    mass: NDArray[np.float64]
    """[B, K], 1, or 0 where a part is absent."""


@runtime_checkable
class HasToldPoints(Protocol):
    """A control whose parts lie where annotations say, and take the whole image."""

    def told_points(self, about: Annotated) -> Points:
        """Return the parts of images whose annotations are given."""


def annotations_of(data: Prepared, split: Split, rows: slice) -> Annotated:
    """Return what is told of some images of a split.

    Raises:
        BadInput: the split has no landmarks.
    """
    landmarks = np.array(split.annotation("landmarks")[rows])
    visible = np.array(split.annotation("visible")[rows])
    square = np.full((len(landmarks), 2), data.size, np.int64)
    extent, uncut = (
        np.array(split.annotation(kind)[rows]) if split.has(kind) else square
        for kind in ("extent", "uncut")
    )
    return Annotated(data.meta["landmark_names"], landmarks, visible, extent, uncut)


def told(
    method: HasToldPoints, data: Prepared, split: Split, rows: slice, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return centres [B, K, 2] and mass [B, K] of some images, float32, as the method is told."""
    points = method.told_points(annotations_of(data, split, rows))
    centres, mass = (torch.from_numpy(np.asarray(values)).float() for values in points)
    return centres.to(device), mass.to(device)
