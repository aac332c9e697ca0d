"""Floor control: the encoder that PatchVAE and its baselines share, without training."""

from pydantic import Field
from torch import Tensor, nn

from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.nn.init import init_patchvae_
from partbench.nn.resnet import resnet18_trunk
from partbench.training_protocols import PROTOCOLS


class RandomInitSettings(StepFreeSettings):
    """The encoder's shape."""

    stride: int = Field(8, description="total stride of the encoder: 4, 8, 16 or 32")
    encoder_width: int = Field(64, ge=4, description="channels of the first ResNet stage")


class RandomInit(StepFreeMethod):
    """The first stages of a ResNet-18 with random weights.

    `flip` counts where a probe trains on top of it: there, it sees what the methods see.
    """

    Settings = RandomInitSettings
    VARIANTS = {
        "cifar100": PROTOCOLS["cifar100"],
        "indoor67": PROTOCOLS["indoor67"],
        "places205": PROTOCOLS["places205"],
        "imagenet": {**PROTOCOLS["imagenet"], "stride": 32},
    }
    REDUCED = {
        "demo": {"encoder_width": 16},
        "subset": {"encoder_width": 32, "flip": True},
    }
    role = "floor"
    references = ("gupta2020patchvae",)

    def __init__(self, settings: RandomInitSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        self.encoder = resnet18_trunk(settings.stride, settings.encoder_width)
        init_patchvae_(self)

    def trunks(self) -> dict[str, nn.Module]:
        """Return the encoder."""
        return {"encoder": self.encoder}

    def features(self, images: Tensor) -> Tensor:
        """Return the flattened encoder map, [B, C * h * w]."""
        return self.encoder(self.normalize(images)).flatten(1)
