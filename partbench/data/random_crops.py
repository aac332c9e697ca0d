"""Random parts of training images, resized back and mirrored.

As Jenni and Favaro (CVPR 2018) train classifiers on STL-10, and Zbinden (LORBMS, 2019) after them.
Their change of colours is left out: Zbinden's code computes it and drops the result.
"""

from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.crop import random_parts
from partbench.data.resample import resample

AREA = (0.333, 1.0)
"""Range of a part's area, share of the image's."""
ASPECT = (0.75, 1.33)
"""Range of a part's width by height."""
CENTRAL = 0.85
"""Side of the middle that is shown of a test image, share of the image's."""


class RandomCrops(NamedTuple):
    """What is done to some images of one side."""

    parts: NDArray[np.float64]
    """[B, 4], (left, top, right, bottom), pixel edges."""
    cubic: NDArray[np.bool_]
    """[B], whether the part is resized bicubically; else bilinearly."""
    mirrored: NDArray[np.bool_]
    """[B]."""

    @classmethod
    def drawn(cls, n: int, side: int, draw: np.random.Generator) -> Self:
        """Draw a part of each of n images of `side` pixels; half are bicubic, half mirrored."""
        whole = np.tile(np.array([0.0, 0.0, side, side]), (n, 1))
        parts = random_parts(whole, AREA, ASPECT, draw)
        return cls(parts, draw.random(n) < 0.5, draw.random(n) < 0.5)

    @classmethod
    def central(cls, n: int, side: int) -> Self:
        """Return the middle of each of n images of `side` pixels, as test images are shown.

        The border is a whole number of pixels, rounded down, as TensorFlow's central crop has it.
        """
        border = int((side - side * CENTRAL) / 2)
        middle = np.array([border, border, side - border, side - border], np.float64)
        none = np.zeros(n, bool)
        return cls(np.tile(middle, (n, 1)), none, none)

    def some(self, which: NDArray[np.int64] | slice) -> Self:
        """Return what is done to some of the images."""
        return type(self)(self.parts[which], self.cubic[which], self.mirrored[which])

    def of(self, images: Tensor) -> Tensor:
        """Return what is shown of uint8 images [B, S, S, 3]: [B, 3, S, S] float32 in [0, 1]."""
        parts, cubic, mirrored = (torch.from_numpy(field).to(images.device) for field in self)
        shown = resample(images, parts, images.shape[1], cubic)
        return torch.where(mirrored.view(-1, 1, 1, 1), shown.flip(3), shown)
