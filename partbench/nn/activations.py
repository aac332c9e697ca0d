"""Local activations: what a trained network sees at the places of an image.

Each is one vector, a descriptor, and an encoding of `partbench.encoding` makes one vector of all
descriptors of an image or a clip.

- `vgg19` and `resnet152` are torchvision's. `mobilenet` and `random` are those of
  `partbench.nn.perceptual`.
- `timm:NAME` is any network of timm, convolutional or a transformer, before its pooling. Nothing is
  downloaded for it: its weights come from a file, or are random.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from partbench.files import data_root
from partbench.nn import perceptual, timm_networks
from partbench.nn.crops import center_crop
from partbench.nn.normalization import IMAGENET_MEAN_STD
from partbench.nn.precision import without_tf32
from partbench.nn.shared_batch import own, whole
from partbench.nn.timm_networks import TIMM
from partbench.nn.weights import IMAGENET_LABELS, NOTHING
from partbench.settings import Settings, nearest

PYRAMID = (6, 3, 2, 1)
"""Cells along a side of the maps that are pooled from one. Of 7 x 7 cells, the windows are 2 x 2 at
stride 1, 3 x 3 at stride 2, 4 x 4 at stride 3, and all cells: 50 descriptors."""
BLOCK_NORM = 158.0
"""About sqrt(7 * 7 * 512): the root mean square of VGG-19's activations becomes 1."""


class Network(NamedTuple):
    """A network that is known by name."""

    layers: Mapping[str, int]
    """Layer -> index of its module, the last that is computed."""
    channels: Mapping[str, int]
    """Layer -> channels of its activations."""
    pretrained_on: str


NETWORKS: Mapping[str, Network] = {
    "vgg19": Network({"pool5": 36, "conv5_4": 35}, {"pool5": 512, "conv5_4": 512}, IMAGENET_LABELS),
    "resnet152": Network({"res5c": -1}, {"res5c": 2048}, IMAGENET_LABELS),
    "mobilenet": Network(
        {"stride16": 11, "stride32": 13}, {"stride16": 128, "stride32": 256}, IMAGENET_LABELS
    ),
    "random": Network({"stride4": 7}, {"stride4": 64}, NOTHING),
}
RESNET152 = "weights/resnet152-394f9c45.pth"


class ActivationSettings(Settings):
    """The network whose activations are encoded; the defaults are those of FV-VAE's code."""

    backbone: str = Field(
        "vgg19",
        description=f"network: {', '.join(NETWORKS)}, or `{TIMM}NAME` for one of timm",
    )
    layer: str = Field(
        "pool5", description="layer whose activations are read; of a network of timm, `last`"
    )
    weights_file: str | None = Field(
        None,
        min_length=1,
        description="path below the data root of a state_dict for a network of timm; none: random "
        "weights from a fixed seed",
    )
    pretrained_on: str | None = Field(
        None,
        min_length=1,
        description="what the weights in `weights_file` were trained on, such as `ImageNet labels` "
        "or `no labels`; it stands beside every number",
    )
    window: int | None = Field(
        224,
        ge=16,
        description="side of the square that is cut out of an image, pixels: in training at a "
        "random place, else in its middle; none: the whole image",
    )
    block_norm: float | None = Field(
        BLOCK_NORM,
        gt=0,
        description="L2 norm to which all activations of an image together are scaled; none: as "
        "they are",
    )
    pyramid: bool = Field(
        True, description="pool by maxima to a pyramid of 50 cells; off: one descriptor a cell"
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.backbone.startswith(TIMM):
            known = {"last"}
            timm_networks.check_name(self.backbone.removeprefix(TIMM))
            if (self.weights_file is None) != (self.pretrained_on is None):
                raise ValueError(
                    "`weights_file` and `pretrained_on` belong together: numbers need to say what "
                    "the weights were trained on"
                )
        elif self.backbone in NETWORKS:
            known = set(NETWORKS[self.backbone].layers)
            if self.weights_file is not None or self.pretrained_on is not None:
                raise ValueError(
                    f"`weights_file` and `pretrained_on` are for networks of timm; those of "
                    f"{self.backbone} are known"
                )
        else:
            raise ValueError(
                f"there is no backbone '{self.backbone}'; {nearest(self.backbone, NETWORKS)} Or "
                f"`{TIMM}NAME`"
            )
        if self.layer not in known:
            raise ValueError(
                f"{self.backbone} has no layer '{self.layer}'; {nearest(self.layer, known)}"
            )
        return self


def pretrained_on(s: ActivationSettings) -> str:
    """Return what a network was trained on."""
    if s.backbone in NETWORKS:
        return NETWORKS[s.backbone].pretrained_on
    return s.pretrained_on or NOTHING


def fetched(s: ActivationSettings) -> tuple[str, ...]:
    """Return the weights that partbench fetches, names of `partbench data list`."""
    return (s.backbone,) if s.backbone in ("vgg19", "resnet152") else ()


class Body(nn.Module):
    """A network up to the layer that is read: [B, 3, H, W] in [0, 1] -> [B, C, h, w].

    Batch norms keep their statistics and nothing is dropped, even where its weights are trained.

    Args:
        layers: the network.
        channels: C.
        mean: of the images that it learnt on, by channel.
        std: of these.
        side: pixels that it needs; None: any.
    """

    def __init__(
        self,
        layers: nn.Module,
        channels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        side: int | None = None,
    ) -> None:
        super().__init__()
        self.layers, self.channels, self.side = layers, channels, side
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.eval()

    mean: Tensor
    std: Tensor

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the activations."""
        if self.side is not None and images.shape[2:] != (self.side, self.side):
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        return self.layers((images - self.mean) / self.std)


class TimmMaps(nn.Module):
    """The activations of a network of timm before its pooling, [B, 3, H, W] -> [B, C, h, w]."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the map; tokens of a transformer become the cells of their square."""
        found: Tensor = self.network.forward_features(images)
        if found.ndim == 3:
            found = found[:, self.network.num_prefix_tokens :]
            side = round(found.shape[1] ** 0.5)
            return found.transpose(1, 2).unflatten(2, (side, side))
        return found if found.shape[1] == self.network.num_features else found.movedim(3, 1)


def channels_of(s: ActivationSettings) -> int:
    """Return the channels of the activations; of a network of timm it takes seconds to know."""
    if s.backbone in NETWORKS:
        return NETWORKS[s.backbone].channels[s.layer]
    with torch.device("meta"):
        return build(s).channels


def build(s: ActivationSettings) -> Body:
    """Return a network without trained weights, from a fixed seed."""
    # Keep the generator's state: a step's draws must not depend on which step builds the network.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if s.backbone == "resnet152":
            return _of_timm("resnet152")
        if s.backbone.startswith(TIMM):
            return _of_timm(s.backbone.removeprefix(TIMM))
        return _known(s, perceptual.untrained(s.backbone))


def load(s: ActivationSettings) -> Body:
    """Return the network with its weights, frozen.

    Raises:
        BadInput: a file of weights is missing or holds something else.
    """
    if s.backbone in NETWORKS and s.backbone != "resnet152":
        body = _known(s, perceptual.load(s.backbone, "backbone"))
    else:
        body = build(s)
        file = RESNET152 if s.backbone == "resnet152" else s.weights_file
        if file is not None:
            network = body.layers.network
            timm_networks.read_weights(
                network, data_root() / file, s.backbone, "weights_file", "backbone"
            )
    return body.requires_grad_(False).to(memory_format=torch.channels_last)


def lacking_weights(s: ActivationSettings) -> str:
    """Return how to place the file of weights that settings name; empty if none is missing."""
    file = perceptual.FILES["mobilenet"] if s.backbone == "mobilenet" else s.weights_file
    if file is None or (path := data_root() / file).exists():
        return ""
    return f"{path} is missing: place the weights of {s.backbone} there, or name another `backbone`"


def _known(s: ActivationSettings, layers: nn.Sequential) -> Body:
    network = NETWORKS[s.backbone]
    end = network.layers[s.layer] + 1
    return Body(layers[:end], network.channels[s.layer], *IMAGENET_MEAN_STD)


def _of_timm(name: str) -> Body:
    network = timm_networks.create(name)
    about = network.pretrained_cfg
    fixed = about.get("fixed_input_size", False)
    side = about["input_size"][-1] if fixed else None
    return Body(TimmMaps(network), network.num_features, about["mean"], about["std"], side)


class Backbone:
    """The frozen network of some settings, which is loaded at its first use.

    It is not a module, so that its parameters are not trained, counted or saved with a method's.
    """

    def __init__(self, settings: ActivationSettings) -> None:
        self.settings = settings
        self.network: Body | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Return the activations of images [B, 3, H, W] in [0, 1]: [B, C, h, w], no gradient.

        Raises:
            BadInput: a file of weights is missing or holds something else.
        """
        if self.network is None:
            self.network = (build if images.is_meta else load)(self.settings)
        with torch.no_grad(), without_tf32():
            return self.network.to(images.device, images.dtype)(images)


def describe(maps: Tensor, block_norm: float | None, pyramid: bool) -> Tensor:
    """Return the descriptors of activations.

    Args:
        maps: [B, C, h, w].
        block_norm: L2 norm to which each image's activations are scaled; None: as they are.
        pyramid: pool by maxima to 36, 9, 4 and 1 cells.

    Returns:
        [B, M, C], cells in row-major order: M is 50 of a pyramid, else h w.
    """
    if block_norm is not None:
        norms = maps.flatten(1).norm(dim=1).clamp_min(1e-10)
        maps = maps * (block_norm / norms).view(-1, 1, 1, 1)
    if not pyramid:
        return maps.flatten(2).transpose(1, 2)
    # Adaptive windows of 7 x 7 cells are the paper's, and there are 50 whatever h and w.
    cells = [F.adaptive_max_pool2d(maps, n).flatten(2) for n in PYRAMID]
    return torch.cat(cells, 2).transpose(1, 2)


def cut_window(images: Tensor, window: int | None, at_random: bool) -> Tensor:
    """Return squares cut out of images [B, 3, H, W], in the middle or each at a random place."""
    if window is None or images.shape[-2:] == (window, window):
        return images
    if not at_random:
        return center_crop(images, window)
    rooms = [side - window + 1 for side in images.shape[-2:]]
    size = (whole(len(images)),)
    rows, columns = (own(torch.randint(n, size, device="cpu")).tolist() for n in rooms)
    return torch.stack(
        [
            i[:, y : y + window, x : x + window]
            for i, y, x in zip(images, rows, columns, strict=True)
        ]
    )
