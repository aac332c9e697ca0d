"""VLAD: vectors of locally aggregated descriptors (Jegou, Douze, Schmid and Perez, CVPR 2010).

K-means finds K centres of the training data's descriptors. The vector of an image is, for each
centre, the sum of what its nearest descriptors differ from it.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from partbench.data.batch import Batch
from partbench.deviations import Deviation
from partbench.encoding import COMMON, DEMO, SUBSET, Encoding, EncodingSettings
from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.nn.clusters import centres


class VLADSettings(EncodingSettings, StepFreeSettings):
    """The clustering; FV-VAE's paper does not state its settings."""

    centres: int = Field(256, ge=1, description="K")
    sample: int = Field(256_000, ge=1, description="descriptors that are clustered")
    iterations: int = Field(50, ge=1, description="of Lloyd's algorithm")


class VLAD(Encoding, StepFreeMethod):
    """Sums of differences from the nearest centre."""

    Settings = VLADSettings
    VARIANTS = COMMON
    REDUCED = {
        "demo": {**DEMO, "centres": 16, "sample": 20_000, "iterations": 20},
        "subset": {**SUBSET, "centres": 32, "sample": 50_000},
    }
    paper = "fv_vae"
    references = ("jegou2010vlad",)
    deviations = (
        Deviation(
            "The number of centres in FV-VAE's comparison is not stated; here 256, which makes "
            "vectors as long as those of FV-VAE.",
            "nowhere at hand",
            "Unknown.",
        ),
    )

    def __init__(self, settings: VLADSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        self.register_buffer("centres", torch.zeros(settings.centres, self.channels))
        self.compress_from(self.centres.numel())

    centres: Tensor
    """[K, C]."""

    @torch.no_grad()
    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Cluster a sample of the training data's descriptors.

        Raises:
            BadInput: there are fewer descriptors than centres.
        """
        s = self.settings
        rows = self.sample(passes, s.sample, s.centres)
        self.centres.copy_(centres(rows, s.centres, s.iterations))

    def encode(self, x: Tensor) -> Tensor:
        """Return the sums of differences, [B, K C], of descriptors [B, T, M, C]."""
        x = x.flatten(1, 2)
        c = self.centres
        nearest = (2 * x @ c.T - c.square().sum(1)).argmax(2)  # the least |x - c|^2
        share = F.one_hot(nearest, len(c)).to(x.dtype)
        return (share.transpose(1, 2) @ x - share.sum(1)[..., None] * c).flatten(1)
