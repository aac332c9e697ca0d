"""Descriptors: local activations of an image or a clip, which encodings read.

<split>.descriptors.npy   float32 [N, M, D], of the splits `train` and `test`
"""

from pathlib import Path
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.prepared import Prepared
from partbench.outputs.arrays import read_floats, write_both_splits
from partbench.outputs.capability import Capability, call_of, check_tensor


class HasDescriptors(Protocol):
    """A method that describes places of an image by vectors."""

    def descriptors(self, images: Tensor) -> Tensor:
        """Return the descriptors of images [B, 3, S, S] in [0, 1]: [B, M, D] float32.

        A method that reads clips or frames also takes clips, [B, T, 3, S, S]; their descriptors
        are those of all frames, the first frame's first.
        """


class Descriptors(Capability):
    """Descriptors of all images."""

    offer = HasDescriptors
    member = "descriptors"

    def check(self, method: HasDescriptors, samples: Tensor) -> None:
        """Check the descriptors of two images; see `Capability.check`."""
        what = call_of(method, "descriptors(images)")
        check_tensor(method.descriptors(samples), what, (len(samples), "M", "D"))

    def write(
        self, method: HasDescriptors, data: Prepared, folder: Path, device: torch.device, label: str
    ) -> None:
        """Write the descriptors of both splits; see `Capability.write`."""
        write_both_splits("descriptors", method.descriptors, data, folder, device, label)


def read(folder: Path, split: str, n: int) -> NDArray[Any]:
    """Return the descriptors of a split's n samples, float32 [n, M, D], as a memory map.

    Raises:
        BadInput: the file is missing or damaged, or has another shape.
    """
    return read_floats(folder / f"{split}.descriptors.npy", n, "descriptors", "channels")
