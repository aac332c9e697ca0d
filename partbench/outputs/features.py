"""Features: what a linear classifier is put on.

<split>.features.npy   float32 [N, D], of the splits `train` and `test`
"""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.prepared import Prepared
from partbench.outputs.arrays import read_floats, write_both_splits
from partbench.outputs.capability import Capability, call_of, check_tensor


@runtime_checkable
class HasFeatures(Protocol):
    """A method that describes an image by a vector."""

    def features(self, images: Tensor) -> Tensor:
        """Return the features of images [B, 3, S, S] in [0, 1]: [B, D] float32.

        A method that reads clips or frames also takes clips, [B, T, 3, S, S].
        """


class Features(Capability):
    """Features of all images."""

    offer = HasFeatures
    member = "features"

    def check(self, method: HasFeatures, samples: Tensor) -> None:
        """Check the features of two images; see `Capability.check`."""
        what = call_of(method, "features(images)")
        floats = (torch.float32, torch.bfloat16)
        check_tensor(method.features(samples), what, (len(samples), "D"), dtypes=floats)

    def write(
        self, method: HasFeatures, data: Prepared, folder: Path, device: torch.device, label: str
    ) -> None:
        """Write the features of both splits; see `Capability.write`."""
        write_both_splits("features", method.features, data, folder, device, label)


def read(folder: Path, split: str, n: int) -> NDArray[Any]:
    """Return the features of a split's n samples, float32 [n, D], as a memory map.

    Raises:
        BadInput: the file is missing or damaged, or has another shape.
    """
    return read_floats(folder / f"{split}.features.npy", n, "features")
