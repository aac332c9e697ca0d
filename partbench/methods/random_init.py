"""Floor control: the encoder that PatchVAE and its baselines share, without training."""

from pydantic import Field
from torch import Tensor, nn

from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.nn.init import init_patchvae_
from partbench.nn.resnet import resnet18_trunk


class RandomInitSettings(StepFreeSettings):
    """The encoder's shape."""

    stride: int = Field(8, description="total stride of the encoder: 4, 8, 16 or 32")
    encoder_width: int = Field(64, ge=4, description="channels of the first ResNet stage")


class RandomInit(StepFreeMethod):
    """The first stages of a ResNet-18 with random weights."""

    Settings = RandomInitSettings
    VARIANTS = {
        "cifar100": {},
        "indoor67": {"normalize": "half"},
        "places205": {},
        "imagenet": {"stride": 32},
    }
    REDUCED = {
        "demo": {"encoder_width": 16},
        "subset": {"encoder_width": 32},
    }
    role = "floor"

    def __init__(self, settings: RandomInitSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        self.encoder = resnet18_trunk(settings.stride, settings.encoder_width)
        init_patchvae_(self)

    def trunk(self) -> nn.Sequential:
        """Return the encoder."""
        return self.encoder

    def features(self, images: Tensor) -> Tensor:
        """Return the flattened encoder map, [B, C * h * w]."""
        return self.encoder(self.normalize(images)).flatten(1)
