"""Ceiling control of transfer: LORBMS's encoder, trained with the classes that photos show.

The row "PASCAL encoder" of Zbinden (MSc thesis, University of Bern 2019). Facts:
`src/evaluation/lorbms_pascalvoc_model.py` of its public code.
"""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from partbench.data.batch import Batch
from partbench.method import DataInfo
from partbench.methods.supervised_trunk import (
    CENTRAL_WINDOWS,
    SMALL,
    SupervisedTrunk,
    SupervisedTrunkSettings,
)


class SupervisedAttributesSettings(SupervisedTrunkSettings):
    """The encoder and 80,000 steps on PASCAL VOC 2012."""

    epochs: int = Field(80, ge=0)
    images_per_epoch: int | None = Field(
        10_000, ge=1, description="so that epochs have 1,000 steps"
    )
    batch_size: int = Field(10, ge=1, description="images a step, over all processes")
    crops: Literal["resized", "window"] = "window"
    optimizer: Literal["adam", "sgd"] = Field("sgd", description="momentum 0.9")
    drops: tuple[int, ...] = Field(
        tuple(range(10_000, 80_000, 10_000)), description="steps after which the rate falls"
    )
    drop: float = Field(0.5, gt=0, le=1, description="to this share of itself")


class SupervisedAttributes(SupervisedTrunk):
    """A network trained to tell which of several attributes an image has, each by itself."""

    Settings = SupervisedAttributesSettings
    VARIANTS = {}
    REDUCED = {
        name: {**SMALL, "images_per_epoch": None, "crops": "resized", "optimizer": "adam", **of}
        for name, of in {
            "demo": {"epochs": 6, "batch_size": 32},
            "subset": {"epochs": 15, "batch_size": 64},
        }.items()
    }
    learns_from = "attributes"
    references = ("zbinden2019lorbms",)
    deviations = (CENTRAL_WINDOWS,)

    @staticmethod
    def outputs(data: DataInfo) -> int:
        """Return the number of logits."""
        return data.attributes

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the mean cross-entropy of the attributes on random crops of the images."""
        assert batch.labels is not None  # the training loop checks it
        logits, told = self.logits(batch.images), batch.labels.float()
        right = ((logits > 0) == (told > 0)).float().mean()
        return {"loss": F.binary_cross_entropy_with_logits(logits, told), "accuracy": right}
