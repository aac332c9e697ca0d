"""Ceiling control of the foreground: a network trained on masks, for images without masks.

The part papers measure their "full" numbers with masks that a supervised network predicts for the
test images. The authors trained that network separately, published only its masks, and do not
state its architecture or its training. The network here is our choice: DeepLab-v2 on the first
stages of a ResNet-18, trained from scratch.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.optim import Adam, Optimizer

from partbench.data.batch import Batch
from partbench.data.crop import TrainingCrop
from partbench.deviations import Deviation
from partbench.method import DataInfo, Method, MethodSettings
from partbench.nn.deeplab import resnet18
from partbench.outputs.part_maps import PartMaps


class ForegroundSettings(MethodSettings):
    """The settings for images at 256 px."""

    width: int = Field(64, ge=1, description="channels of the first stage")
    dilations: tuple[int, ...] = Field(
        (1, 2, 4, 8), min_length=1, description="dilations of the head's 3x3 convolutions"
    )
    learning_rate: float = Field(1e-3, gt=0, description="Adam")
    batch_size: int = Field(16, ge=1, description="images per step, over all processes")
    flip: bool = Field(True, description="mirror half of the training images")
    training_crop: TrainingCrop = Field(
        "window",
        description="of whole images, squares at random places, so that the network learns on what "
        "it is applied to; of other data, the prepared images",
    )


class Foreground(Method):
    """One part, the foreground, trained with the cross-entropy between logits and masks."""

    Settings = ForegroundSettings
    REDUCED = {"demo": {"width": 8, "epochs": 2}, "subset": {"width": 16, "epochs": 10}}
    learns_from = "mask"
    role = "ceiling"
    references = ("chen2018deeplab", "he2016resnet")
    several_devices = True
    deviations = (
        Deviation(
            "The network that predicted the masks of the part papers' test images is not stated: "
            "only its masks were released. Here it is DeepLab-v2 on a ResNet-18, from scratch.",
            "nowhere at hand",
            "Numbers that count the background rise and fall with its masks.",
        ),
    )

    def __init__(self, settings: ForegroundSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        self.network = resnet18(1, settings.dilations, stride=8, width=settings.width)

    def score(self, images: Tensor) -> Tensor:
        """Return the logits of the foreground, [B, S, S] float32."""
        low = self.network(self.normalize(images)).float()
        return F.interpolate(low, images.shape[2:], mode="bilinear", align_corners=True).squeeze(1)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the cross-entropy, averaged over the pixels."""
        assert batch.masks is not None  # the training loop checks it
        return {"loss": F.binary_cross_entropy_with_logits(self.score(batch.images), batch.masks)}

    def optimizers(self) -> dict[str, Optimizer]:
        """Return one Adam for all parameters."""
        return {"all": Adam(self.parameters(), self.settings.learning_rate)}

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return one part, and as foreground the pixels where its probability exceeds 1/2."""
        score = self.score(images)
        foreground = score > 0
        labels = foreground.new_zeros(foreground.shape).long()
        return PartMaps(score.sigmoid().unsqueeze(1), labels, foreground)
