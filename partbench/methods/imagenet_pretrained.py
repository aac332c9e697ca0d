"""Ceiling control: PatchVAE's encoder with the weights of a ResNet-18 trained on ImageNet's labels.

PatchVAE's Table 1 has such a row. Nothing is trained here; the probe trains on top of it.
"""

from collections.abc import Callable, Iterator

from pydantic import Field
from torch import Tensor, nn

from partbench.data.batch import Batch
from partbench.deviations import Deviation
from partbench.errors import BadInput
from partbench.files import data_root
from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.nn.resnet import resnet18_trunk
from partbench.nn.weights import read_state
from partbench.training_protocols import PROTOCOLS

PLACES = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
"""Torchvision's names of a ResNet's layers -> places of the trunk's children."""


class ImageNetPretrainedSettings(StepFreeSettings):
    """The encoder's shape and weights."""

    stride: int = Field(8, description="total stride of the encoder: 4, 8, 16 or 32")
    weights: str | None = Field(
        "weights/resnet18-f37072fd.pth",
        min_length=1,
        description="file below the data root with torchvision's names; none: random weights",
    )


class ImageNetPretrained(StepFreeMethod):
    """The first stages of torchvision's ResNet-18, up to the stride of the other encoders."""

    Settings = ImageNetPretrainedSettings
    # Its weights belong to ImageNet's mean and SD, whatever the data.
    VARIANTS = {
        data: {**PROTOCOLS[data], "normalize": "imagenet"}
        for data in ("cifar100", "indoor67", "places205")
    }
    REDUCED = {"demo": {"weights": None}}
    role = "ceiling"
    paper = "patchvae"
    references = ("gupta2020patchvae",)
    deviations = (
        Deviation(
            "Which part of the pretrained network they keep, and with which weights, is not "
            "stated. Here: torchvision's ResNet-18 up to stride 8, as in the other rows.",
            "nowhere at hand; the numbers are those of PatchVAE's tables",
            "Unknown in sign; at 32 px, a whole ResNet-18 would leave a map of one cell.",
        ),
    )

    def __init__(self, settings: ImageNetPretrainedSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        self.encoder = resnet18_trunk(settings.stride)

    @classmethod
    def draws(cls, settings: ImageNetPretrainedSettings) -> bool:
        """Return whether the weights are drawn, as there is no file of them."""
        return settings.weights is None

    @classmethod
    def weights(cls, settings: ImageNetPretrainedSettings) -> tuple[str, ...]:
        """Return torchvision's ResNet-18, if it is the file that the settings name."""
        default = ImageNetPretrainedSettings.model_fields["weights"].default
        return ("resnet18",) if settings.weights == default else ()

    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Read the weights.

        Raises:
            BadInput: the file is missing or damaged, or lacks a weight of the encoder.
        """
        if self.settings.weights is None:
            return
        path = data_root() / self.settings.weights
        state = read_state(path, "the weights of a ResNet-18", "weights")
        named = {
            f"{PLACES[first]}.{rest}": value
            for (first, _, rest), value in ((name.partition("."), v) for name, v in state.items())
            if first in PLACES
        }
        own = self.encoder.state_dict()
        for name, value in own.items():
            if name not in named or named[name].shape != value.shape:
                raise BadInput(
                    f"{path} holds no {name} of shape {list(value.shape)} of a ResNet-18's trunk; "
                    "get torchvision's file, or change `weights`"
                )
        self.encoder.load_state_dict({name: named[name] for name in own})

    def trunks(self) -> dict[str, nn.Module]:
        """Return the encoder."""
        return {"encoder": self.encoder}

    def features(self, images: Tensor) -> Tensor:
        """Return the flattened encoder map, [B, C * h * w]."""
        return self.encoder(self.normalize(images)).flatten(1)
