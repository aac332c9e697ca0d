"""Ceiling control: a ResNet-18 trained with the labels."""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from partbench.data.batch import Batch
from partbench.deviations import Deviation
from partbench.method import DataInfo, Method, MethodSettings
from partbench.nn.init import init_patchvae_
from partbench.nn.resnet import resnet18_trunk
from partbench.training_protocols import PROTOCOLS


class SupervisedSettings(MethodSettings):
    """SGD as in PatchVAE's downstream protocol, at a constant rate."""

    stride: int = Field(32, description="total stride of the encoder; 32 is the whole ResNet-18")
    encoder_width: int = Field(64, ge=4, description="channels of the first stage")
    learning_rate: float = Field(0.1, gt=0, description="SGD, momentum 0.9")
    weight_decay: float = Field(1e-4, ge=0, description="SGD")


class Supervised(Method):
    """A ResNet-18 trained with labels: what the same encoder reaches with supervision."""

    Settings = SupervisedSettings
    VARIANTS = {
        "cifar100": PROTOCOLS["cifar100"],
        "indoor67": PROTOCOLS["indoor67"],
        "places205": PROTOCOLS["places205"],
        "imagenet": {**PROTOCOLS["imagenet"], "batch_size": 256},
    }
    REDUCED = {
        "demo": {"encoder_width": 16, "batch_size": 32, "epochs": 6, "learning_rate": 0.02},
        "subset": {
            "encoder_width": 32,
            "batch_size": 64,
            "epochs": 10,
            "learning_rate": 0.05,
            "flip": True,
        },
    }
    role = "ceiling"
    learns_from = "labels"
    paper = "patchvae"
    references = ("he2016resnet",)
    several_devices = True
    deviations = (
        Deviation(
            "How they trained the supervised network is not stated. Here: SGD at a constant rate "
            "for 30 epochs, from random weights.",
            "nowhere at hand; the numbers are those of PatchVAE's tables",
            "Lower than a network trained by a schedule of its own.",
        ),
    )

    def __init__(self, settings: SupervisedSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        self.encoder = resnet18_trunk(s.stride, s.encoder_width)
        self.classifier = nn.Linear(s.encoder_width * s.stride // 4, data.classes)
        init_patchvae_(self)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the cross-entropy and the accuracy."""
        assert batch.labels is not None  # the training loop checks it
        logits = self.classifier(self.features(batch.images)).float()
        correct = (logits.argmax(1) == batch.labels).float().mean()
        return {"loss": F.cross_entropy(logits, batch.labels), "accuracy": correct}

    def optimizers(self) -> dict[str, Optimizer]:
        """Return one SGD for all parameters."""
        s = self.settings
        sgd = SGD(self.parameters(), s.learning_rate, momentum=0.9, weight_decay=s.weight_decay)
        return {"all": sgd}

    def trunks(self) -> dict[str, nn.Module]:
        """Return the encoder."""
        return {"encoder": self.encoder}

    def features(self, images: Tensor) -> Tensor:
        """Return the encoder's map averaged over its cells, [B, C]."""
        return self.encoder(self.normalize(images)).mean((2, 3))
