"""Ceiling controls of transfer: LORBMS's encoder, or an AlexNet, trained with labels.

The rows "STL-10 encoder", "STL-10 AlexNet" and "ImageNet AlexNet" of Zbinden (MSc thesis,
University of Bern 2019). Its STL-10 rows learn all 5,000 labels before a new layer is trained on
folds of 1,000, so they are no results of 1,000 labels. Facts: `src/evaluation` of its public code.
"""

from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from partbench.data.batch import Batch, LearnsFrom
from partbench.data.random_crops import RandomCrops
from partbench.deviations import Deviation
from partbench.errors import BadInput
from partbench.method import DataInfo, Method, MethodSettings, Role
from partbench.nn.alexnet import alexnet_trunk
from partbench.nn.scene_networks import DENSE_LAYERS, SceneEncoder
from partbench.nn.shared_batch import own, own_rows, whole


class SupervisedTrunkSettings(MethodSettings):
    """The network and how it is trained; the defaults are those of the STL-10 encoder."""

    network: Literal["encoder", "alexnet"] = Field(
        "encoder", description="LORBMS's encoder, or conv1 to conv5 of slim's alexnet_v2"
    )
    head: Literal["linear", "dense"] = Field(
        "linear", description="one layer on the flattened map, or AlexNet's pool5, fc6, fc7 and fc8"
    )
    epochs: int = Field(150, ge=0)
    normalize: Literal["imagenet", "half"] = "half"
    crops: Literal["resized", "window"] = Field(
        "resized",
        description="resized: a random part of the image, mirrored or not, at the image's size; "
        "window: a square of `window` pixels at a random place",
    )
    window: int = Field(224, ge=8, description="pixels, for `crops: window`")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="sgd: momentum 0.9")
    learning_rate: float = Field(1e-3, gt=0)
    beta1: float = Field(0.5, ge=0, lt=1, description="of Adam")
    weight_decay: float = Field(0, ge=0, description="of weights, not of biases")
    drops: tuple[int, ...] = Field((), description="steps after which the rate falls")
    drop: float = Field(0.1, gt=0, le=1, description="to this share of itself")
    code: int = Field(192, ge=1, description="channels of the encoder's map")
    first: int = Field(48, ge=1, description="channels of its first convolution")
    growth: int = Field(16, ge=1, description="channels that each of its dense layers adds")
    dense_layers: tuple[int, ...] = Field(DENSE_LAYERS, description="of its dense blocks")
    hidden: int = Field(4096, ge=1, description="units of fc6 and fc7")


DROPS = (170_000, 350_000)
"""Of a whole AlexNet, on ImageNet and on clusters."""
CENTRAL_WINDOWS = Deviation(
    "They cut windows out of the whole image at a short side of 256; here out of its central "
    "square.",
    "the code, `read_record` of `alexnet_imagenet_model.py` and of the models beside it",
    "Slightly lower numbers, if any difference: fewer places are seen.",
    unless=("demo", "subset"),
)
SMALL = {"code": 32, "first": 12, "growth": 6, "dense_layers": (2, 2, 2, 2)}


class SupervisedTrunk(Method):
    """A network trained with labels, whose features are then measured as any other's."""

    Settings: ClassVar[type[MethodSettings]] = SupervisedTrunkSettings
    VARIANTS = {
        "alexnet": {"network": "alexnet"},
        "dense_alexnet": {
            "network": "alexnet",
            "head": "dense",
            "epochs": 60,
            "crops": "window",
            "optimizer": "sgd",
            "weight_decay": 5e-4,
            "drops": DROPS,
        },
    }
    REDUCED = {
        "demo": {**SMALL, "epochs": 6, "batch_size": 32},
        "subset": {**SMALL, "epochs": 15, "batch_size": 64},
    }
    role: ClassVar[Role] = "ceiling"
    learns_from: ClassVar[LearnsFrom] = "labels"
    paper = "lorbms"
    references: ClassVar[tuple[str, ...]] = ("zbinden2019lorbms", "krizhevsky2012alexnet")
    several_devices = True
    deviations: ClassVar[tuple[Deviation, ...]] = (
        CENTRAL_WINDOWS._replace(variants=("dense_alexnet",)),
        Deviation(
            "They fill batches from a buffer of 128 images; here every pass has an order of its "
            "own, and leaves out the images that do not fill a batch.",
            "the code, `src/evaluation/lorbms_stl10pretraining_model.py`",
            "Slightly higher numbers, if any difference.",
        ),
    )

    def __init__(self, settings: SupervisedTrunkSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        side = s.window if s.crops == "window" else data.size
        if side > data.size:
            raise BadInput(
                f"windows of {side} px do not fit into images of {data.size} px; prepare the "
                "training data at a larger `size`, or lower `window`"
            )
        self.trunk: nn.Module
        if s.network == "encoder":
            self.trunk = SceneEncoder(s.code, s.first, s.growth, s.dense_layers)
            channels, cells = s.code, side >> len(s.dense_layers)
        else:
            self.trunk = alexnet_trunk()
            channels, cells = 256, _pooled(_pooled((side - 11) // 4 + 1))
            for layer in self.trunk:
                if isinstance(layer, nn.Conv2d):  # as slim's, unless told otherwise
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        kept = _pooled(cells) if s.head == "dense" else cells
        if kept < 1:
            raise BadInput(
                f"images of {side} px are too small for the network; prepare the training data at "
                "a larger `size`" + (", or set `head: linear`" if s.head == "dense" else "")
            )
        self.head = self._head(channels * kept**2, self.outputs(data))

    @staticmethod
    def outputs(data: DataInfo) -> int:
        """Return the number of logits."""
        return data.classes

    def _head(self, features: int, classes: int) -> nn.Sequential:
        """Return the layers that classify a map with as many values, with slim's first weights."""
        if self.settings.head == "linear":
            linear = nn.Linear(features, classes)
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.constant_(linear.bias, 0.02)
            return nn.Sequential(nn.Flatten(), linear)
        hidden = self.settings.hidden
        widths = (features, hidden, hidden, classes)
        fc6, fc7, fc8 = (nn.Linear(*pair) for pair in pairwise(widths))
        for layer, bias in ((fc6, 0.1), (fc7, 0.1), (fc8, 0.0)):
            nn.init.trunc_normal_(layer.weight, std=0.005, a=-0.01, b=0.01)
            nn.init.constant_(layer.bias, bias)
        pool = (nn.MaxPool2d(3, 2), nn.Flatten())
        return nn.Sequential(*pool, fc6, nn.ReLU(), nn.Dropout(), fc7, nn.ReLU(), nn.Dropout(), fc8)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the cross-entropy and the accuracy on random crops of the images."""
        assert batch.labels is not None  # the training loop checks it
        logits = self.logits(batch.images)
        correct = (logits.argmax(1) == batch.labels).float().mean()
        return {"loss": F.cross_entropy(logits, batch.labels), "accuracy": correct}

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of random crops of images in [0, 1], float32."""
        return self.head(self.trunk(self.normalize(self._cropped(images)))).float()

    def _cropped(self, images: Tensor) -> Tensor:
        """Return what a step sees of images [B, 3, S, S] in [0, 1]."""
        s, side = self.settings, images.shape[3]
        if s.crops == "window":
            drawn = torch.randint(side - s.window + 1, (whole(len(images)), 2), device="cpu")
            corners = own(drawn).tolist()
            cut = [
                image[:, y : y + s.window, x : x + s.window]
                for image, (x, y) in zip(images, corners, strict=True)
            ]
            return torch.stack(cut).contiguous(memory_format=torch.channels_last)
        draw = np.random.default_rng(torch.randint(2**31, (1,), device="cpu").tolist())
        levels = (255 * images).round().to(torch.uint8).movedim(1, -1)
        crops = RandomCrops.drawn(whole(len(images)), side, draw)
        return crops.some(own_rows(len(images))).of(levels)

    def optimizers(self) -> dict[str, Optimizer]:
        """Return one optimiser in two groups: weights, then biases."""
        s = self.settings
        weights = [p for p in self.parameters() if p.ndim > 1]
        groups = [
            {"params": weights, "weight_decay": s.weight_decay},
            {"params": [p for p in self.parameters() if p.ndim == 1], "weight_decay": 0},
        ]
        if s.optimizer == "sgd":
            self.optimizer: Optimizer = SGD(groups, s.learning_rate, momentum=0.9)
        else:
            self.optimizer = Adam(groups, s.learning_rate, (s.beta1, 0.999))
        return {"all": self.optimizer}

    def after_step(self, step: int) -> None:
        """Let the learning rate fall at each of `drops`."""
        s = self.settings
        rate = s.learning_rate * s.drop ** sum(step >= at for at in s.drops)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def trunks(self) -> dict[str, nn.Module]:
        """Return the network without its head."""
        return {"encoder": self.trunk}

    def features(self, images: Tensor) -> Tensor:
        """Return the network's flattened map, [B, C * h * w]."""
        return self.trunk(self.normalize(images)).flatten(1)


def _pooled(cells: int) -> int:
    """Return the side of a map after a pooling of 3 by 3 with stride 2, 0 if it is too small."""
    return (cells - 3) // 2 + 1
