"""Floor control: the plainest vectors of a network's activations, pooled and of norm 1.

`global` is what networks themselves end with, the mean of each channel over all places. `mean` and
`max` are over the descriptors that the other encodings read.
"""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from partbench.deviations import Deviation
from partbench.encoding import COMMON, DEMO, SUBSET, Encoding, EncodingSettings
from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.nn.activations import BLOCK_NORM

PYRAMID = {"pyramid": True, "block_norm": BLOCK_NORM}


class PoolingSettings(EncodingSettings, StepFreeSettings):
    """Global activations, unless a variant says otherwise."""

    pool: Literal["mean", "max"] = Field("mean", description="over descriptors")
    block_norm: float | None = Field(None, gt=0, description="see `ActivationSettings`")
    pyramid: bool = Field(False, description="see `ActivationSettings`")


class Pooling(Encoding, StepFreeMethod):
    """Mean or maximal activations."""

    Settings = PoolingSettings
    VARIANTS = {
        "mean": {**PYRAMID, "pool": "mean"},
        "max": {**PYRAMID, "pool": "max"},
        **COMMON,
    }
    REDUCED = {
        "demo": {key: DEMO[key] for key in ("backbone", "layer", "window")},
        "subset": {key: SUBSET[key] for key in ("backbone", "layer", "window")},
    }
    role = "floor"
    random = False
    paper = "fv_vae"
    deviations = (
        Deviation(
            "Which global activations of VGG-19 they compare with is not stated, perhaps those of "
            "a fully connected layer; here the mean of the layer that the encodings read.",
            "nowhere at hand",
            "Unknown.",
            unless=("res5c",),
        ),
    )

    def __init__(self, settings: PoolingSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        self.compress_from(self.channels)

    def encode(self, x: Tensor) -> Tensor:
        """Return the pooled descriptors [B, T, M, C]: [B, C]."""
        x = x.flatten(1, 2)
        return x.mean(1) if self.settings.pool == "mean" else x.amax(1)

    def normalised(self, vectors: Tensor) -> Tensor:
        """Return vectors of norm 1, in their own proportions."""
        return F.normalize(vectors)
