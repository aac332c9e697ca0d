"""Knowledge transfer (Noroozi et al., CVPR 2018): AlexNet learns the clusters of another network.

The features of a trained method are clustered, and AlexNet learns the numbers of the clusters as if
they were labels. So networks of any shape are compared by one that all share. Here in the version
of Zbinden (MSc thesis, University of Bern 2019): 2,000 clusters of LORBMS's features on COCO. A
data set with `of`, `by` and `clusters` holds them.
"""

from typing import Literal

from pydantic import Field

from partbench.method import DataInfo
from partbench.methods.supervised_trunk import (
    CENTRAL_WINDOWS,
    DROPS,
    SupervisedTrunk,
    SupervisedTrunkSettings,
)


class KnowledgeTransferSettings(SupervisedTrunkSettings):
    """A whole AlexNet, as the thesis trains it on clusters."""

    network: Literal["encoder", "alexnet"] = "alexnet"
    head: Literal["linear", "dense"] = "dense"
    epochs: int = Field(100, ge=0)
    crops: Literal["resized", "window"] = "window"
    optimizer: Literal["adam", "sgd"] = Field("sgd", description="momentum 0.9")
    weight_decay: float = Field(5e-4, ge=0, description="of weights, not of biases")
    drops: tuple[int, ...] = Field(DROPS, description="steps after which the rate falls")


class KnowledgeTransfer(SupervisedTrunk):
    """AlexNet, trained to tell clusters apart."""

    Settings = KnowledgeTransferSettings
    VARIANTS = {}
    REDUCED = {
        name: {
            "network": "alexnet",
            "head": "linear",
            "crops": "resized",
            "optimizer": "adam",
            **of,
        }
        for name, of in {
            "demo": {"epochs": 3, "batch_size": 32},
            "subset": {"epochs": 8, "batch_size": 64},
        }.items()
    }
    role = "method"
    references = ("noroozi2018transfer", "zbinden2019lorbms", "krizhevsky2012alexnet")
    learns_from = "clusters"
    deviations = (CENTRAL_WINDOWS,)

    @staticmethod
    def outputs(data: DataInfo) -> int:
        """Return the number of logits."""
        return data.clusters
