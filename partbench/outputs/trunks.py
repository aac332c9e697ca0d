"""Trunks: networks whose features a classifier is trained on. Nothing is written of them."""

from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from partbench.errors import BadInput
from partbench.outputs.capability import Capability, call_of, check_tensor

ENCODER = "encoder"
"""The part that every method with an encoder names so."""


@runtime_checkable
class HasTrunks(Protocol):
    """A method with networks that are worth training further, such as its encoder."""

    trunk_names: ClassVar[tuple[str, ...]]
    """The names of its parts; by default there is one, the encoder."""

    def trunks(self) -> Mapping[str, nn.Module]:
        """Return its networks by the names of the parts.

        Each maps normalised images [B, 3, S, S] to features [B, ...], of any S that it can read.
        """

    def normalize(self, images: Tensor) -> Tensor:
        """Return images in [0, 1] as the networks read them."""


class Trunks(Capability):
    """Networks, to be trained further or to be read as they are."""

    offer = HasTrunks
    member = "trunks"

    def check(self, method: HasTrunks, samples: Tensor) -> None:
        """Check each network and its features of two images; see `Capability.check`."""
        what = call_of(method, "trunks()")
        trunks = method.trunks()
        if not isinstance(trunks, Mapping) or not trunks:
            raise BadInput(
                f"{what} is of type {type(trunks).__name__}; it must be networks by the names of "
                "the parts, at least one"
            )
        floats = (torch.float32, torch.bfloat16)
        for part, trunk in trunks.items():
            named = f"{what}['{part}']"
            if not isinstance(trunk, nn.Module):
                raise BadInput(
                    f"{named} is of type {type(trunk).__name__}; it must be an nn.Module"
                )
            found = trunk(method.normalize(samples))
            flat = found.flatten(1) if isinstance(found, Tensor) and found.ndim > 1 else found
            check_tensor(flat, f"{named}(images)", (len(samples), "D"), dtypes=floats)
        if set(trunks) != set(method.trunk_names):
            raise BadInput(
                f"{what} has the parts {', '.join(map(str, trunks))}; `trunk_names` of the "
                f"method names {', '.join(method.trunk_names)}; let both name the same"
            )
