"""Bilinear pooling and its compact forms (Lin et al., ICCV 2015; Gao et al., CVPR 2016).

The bilinear vector of an image is the sum of x x' over its descriptors x, C^2 numbers. Compact
forms map each descriptor at random so that the dot products of short vectors are, on average, those
of the long ones: (x'y)^2. The random maps are drawn by the run's seed.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from partbench.deviations import Deviation
from partbench.encoding import COMMON, DEMO, SUBSET, Encoding, EncodingSettings
from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings

CHUNK = 1024
"""Descriptors of an image or clip at once."""


class CompactBilinearSettings(EncodingSettings, StepFreeSettings):
    """The settings of Gao et al."""

    form: Literal["tensor_sketch", "maclaurin", "full"] = Field(
        "tensor_sketch", description="of the vectors; `full` is x x' itself"
    )
    dimensions: int = Field(8192, ge=1, description="of the compact forms")


class CompactBilinear(Encoding, StepFreeMethod):
    """Sums of second-order maps of the descriptors."""

    Settings = CompactBilinearSettings
    VARIANTS = {
        "maclaurin": {"form": "maclaurin"},
        "full": {"form": "full"},
        **COMMON,
    }
    REDUCED = {
        "demo": {**DEMO, "dimensions": 1024},
        "subset": {**SUBSET, "dimensions": 4096},
    }
    paper = "fv_vae"
    references = ("gao2016compact", "lin2015bilinear")
    deviations = (
        Deviation(
            "FV-VAE's comparison names tensor sketches and random Maclaurin, not their dimensions; "
            "here 8,192, as Gao et al. advise.",
            "nowhere at hand",
            "Unknown.",
            unless=("full",),
        ),
    )

    def __init__(self, settings: CompactBilinearSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        c, d = self.channels, s.dimensions
        if s.form == "tensor_sketch":
            self.register_buffer("signs", 2.0 * torch.randint(2, (2, c)) - 1)
            self.register_buffer("places", torch.randint(d, (2, c)))
        elif s.form == "maclaurin":
            self.register_buffer("signs", 2.0 * torch.randint(2, (2, c, d)) - 1)
        self.compress_from(c * c if s.form == "full" else d)

    @classmethod
    def draws(cls, settings: Any) -> bool:
        """Return whether maps are drawn; `full` has none."""
        return settings.form != "full"

    signs: Tensor
    """1 or -1: [2, C] of a tensor sketch, [2, C, D] of random Maclaurin."""
    places: Tensor
    """[2, C], where a count sketch adds each number."""

    def encode(self, x: Tensor) -> Tensor:
        """Return the sums over the descriptors [B, T, M, C]: [B, D], or [B, C C] of `full`."""
        x = x.flatten(1, 2)
        if self.settings.form == "full":
            return (x.transpose(1, 2) @ x).flatten(1)
        form = self.maclaurin if self.settings.form == "maclaurin" else self.tensor_sketch
        # The forms of all descriptors at once would take a hundred times their space.
        return torch.stack([form(some) for some in x.split(CHUNK, 1)]).sum(0)

    def maclaurin(self, x: Tensor) -> Tensor:
        """Return the random Maclaurin features of x x', summed over [B, N, C]: [B, D]."""
        one, two = (x @ signs for signs in self.signs)
        return (one * two).sum(1) / self.settings.dimensions**0.5

    def tensor_sketch(self, x: Tensor) -> Tensor:
        """Return the count sketches of x x', summed over the descriptors [B, N, C]: [B, D].

        The count sketch of an outer product is the circular convolution of two count sketches of x
        (Pham and Pagh, KDD 2013). Being linear, the inverse transform follows the sum.
        """
        d = self.settings.dimensions
        one, two = (
            torch.fft.rfft(x.new_zeros(*x.shape[:2], d).index_add(2, place, x * sign))
            for place, sign in zip(self.places, self.signs, strict=True)
        )
        return torch.fft.irfft((one * two).sum(1), d)
