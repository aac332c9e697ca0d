"""Ceiling control of the foreground: a network that is told it, to tell it where it is not known.

The part papers measure "full" numbers with masks that a supervised network predicts for the test
images. Theirs was trained apart and only its masks were published; its architecture and training
are not stated, so those here are ours: DeepLab-v2 on the front of a ResNet-18, from scratch.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.optim import Adam, Optimizer

from partbench.data.batch import Batch
from partbench.method import DataInfo, Method, MethodSettings
from partbench.nn.deeplab import resnet18
from partbench.outputs.part_maps import PartMaps


class ForegroundSettings(MethodSettings):
    """Settings for boxes of birds at 256 px."""

    width: int = Field(64, ge=1, description="channels of the first stage")
    dilations: tuple[int, ...] = Field(
        (1, 2, 4, 8), min_length=1, description="of the head's 3x3 convolutions"
    )
    learning_rate: float = Field(1e-3, gt=0, description="Adam")
    batch_size: int = Field(16, ge=1, description="images a step, over all processes")
    flip: bool = Field(True, description="mirror half of the training images")


class Foreground(Method):
    """One part, the foreground; trained by cross-entropy with the masks."""

    Settings = ForegroundSettings
    REDUCED = {"demo": {"width": 8, "epochs": 2}, "subset": {"width": 16, "epochs": 10}}
    learns_from = "mask"
    role = "ceiling"

    def __init__(self, settings: ForegroundSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        self.network = resnet18(1, settings.dilations, stride=8, width=settings.width)

    def score(self, images: Tensor) -> Tensor:
        """Return the logits of the foreground, [B, S, S] float32."""
        low = self.network(self.normalize(images)).float()
        return F.interpolate(low, images.shape[2:], mode="bilinear", align_corners=True).squeeze(1)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the cross-entropy, the mean over pixels."""
        assert batch.masks is not None  # the training loop sees to it
        return {"loss": F.binary_cross_entropy_with_logits(self.score(batch.images), batch.masks)}

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam over everything."""
        return {"all": Adam(self.parameters(), self.settings.learning_rate)}

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return one part, and where it is the likelier."""
        score = self.score(images)
        there = score > 0
        return PartMaps(score.sigmoid().unsqueeze(1), there.new_zeros(there.shape).long(), there)
