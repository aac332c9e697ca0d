"""Samples: images that a method generates from noise. They are pictured only."""

from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.prepared import Split
from partbench.outputs.arrays import PICTURES, Arrays, read_images, to_bytes
from partbench.outputs.capability import Capability, call_of, check_tensor


class HasSamples(Protocol):
    """A method that generates images."""

    def generate(self, n: int) -> Tensor:
        """Return n images drawn from torch's global generator: [n, 3, S, S] in [0, 1]."""


class Pictures(NamedTuple):
    """Images that a run generated."""

    samples: NDArray[np.uint8]
    """[n, S, S, 3]."""

    @classmethod
    def read(cls, arrays: Arrays) -> Self | None:
        """Return the pictures, None if the arrays hold none."""
        samples = read_images(arrays, "samples")
        return None if samples is None else cls(samples)


class Samples(Capability):
    """Images from noise."""

    offer = HasSamples
    member = "generate"

    def check(self, method: HasSamples, samples: Tensor) -> None:
        """Check two generated images; see `Capability.check`."""
        what = call_of(method, "generate(2)")
        check_tensor(method.generate(2), what, (2, 3, "S", "S"), low=0, high=1)

    def draw(
        self, method: HasSamples, split: Split, device: torch.device
    ) -> dict[str, NDArray[Any]]:
        """Return `samples`, uint8 [n, S, S, 3]."""
        return {"samples": to_bytes(method.generate(PICTURES))}
