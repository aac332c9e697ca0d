"""Reconstructions: images that a method encoded and decoded again. They are pictured only."""

from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.prepared import Split
from partbench.outputs.arrays import Arrays, first_images, read_images, to_bytes
from partbench.outputs.capability import Capability, call_of, check_tensor


class HasReconstructions(Protocol):
    """A method that decodes what it encoded."""

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return images [B, 3, S, S] decoded again: [B, 3, S', S'] in [0, 1].

        S' is S, or the side of the window that the method sees. In training mode a method may
        return what its training step compares with the images, in any range.
        """


class Pictures(NamedTuple):
    """A run's reconstructions of the first test images."""

    originals: NDArray[np.uint8]
    """[n, S, S, 3]."""
    reconstructions: NDArray[np.uint8]
    """[n, S', S', 3]."""

    @classmethod
    def read(cls, arrays: Arrays) -> Self | None:
        """Return the pictures, None if the arrays hold none."""
        originals = read_images(arrays, "originals")
        reconstructions = read_images(arrays, "reconstructions")
        if originals is None or reconstructions is None:
            return None
        return cls(originals, reconstructions)


class Reconstructions(Capability):
    """Images decoded again."""

    offer = HasReconstructions
    member = "reconstruct"

    def check(self, method: HasReconstructions, samples: Tensor) -> None:
        """Check the reconstructions of two samples; see `Capability.check`."""
        what = call_of(method, "reconstruct(images)")
        shape = (*samples.shape[:-2], "S'", "S'")
        check_tensor(method.reconstruct(samples), what, shape, low=0, high=1)

    def draw(
        self, method: HasReconstructions, split: Split, device: torch.device
    ) -> dict[str, NDArray[Any]]:
        """Return `reconstructions`, uint8 [n, S', S', 3]."""
        return {"reconstructions": to_bytes(method.reconstruct(first_images(split, device)))}
