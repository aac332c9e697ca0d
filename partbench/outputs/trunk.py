"""A trunk: the encoder whose front a classifier freezes. Nothing is written of it."""

from typing import Protocol

import torch
from torch import Tensor, nn

from partbench.errors import BadInput
from partbench.outputs.capability import Capability, call_of, check_tensor

STAGES = 5
"""Modules up to the end of the first stage, conv1 to layer1, which the probe `classify` freezes."""


class HasTrunk(Protocol):
    """A method whose encoder is a ResNet's front."""

    def trunk(self) -> nn.Sequential:
        """Return the encoder as torchvision's ResNet orders it: conv1, bn1, relu, maxpool, ..."""

    def normalize(self, images: Tensor) -> Tensor:
        """Return images in [0, 1] as the encoder reads them."""


class Trunk(Capability):
    """The encoder, to be trained further."""

    offer = HasTrunk
    member = "trunk"

    def check(self, method: HasTrunk, samples: Tensor) -> None:
        """Check the encoder and its map of two images; see `Capability.check`."""
        what = call_of(method, "trunk()")
        trunk = method.trunk()
        if not isinstance(trunk, nn.Sequential) or len(trunk) < STAGES:
            raise BadInput(
                f"{what} is of type {type(trunk).__name__}; it must be an nn.Sequential of "
                f"{STAGES} modules or more, conv1 first and layer1 fifth, as torchvision's ResNet"
            )
        floats = (torch.float32, torch.bfloat16)
        cells = trunk(method.normalize(samples))
        check_tensor(cells, f"{what}(images)", (len(samples), "C", "h", "w"), dtypes=floats)
