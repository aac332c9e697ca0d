"""Networks whose activations stand in for the eye: frozen, and never part of a model's file.

`vgg16` and `vgg19` are torchvision's, trained with ImageNet's labels: a method that uses them has
seen labels, if not those of its own data. `mobilenet` is MobileNetV1 x 0.25, trained likewise, for
machines on which VGG is too slow. `random` is a narrow VGG that was never trained, the same every
time: what can be had without any file.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from partbench.files import data_root
from partbench.nn.normalization import IMAGENET_MEAN_STD
from partbench.nn.weights import misplaced, open_file

Name = Literal["pixels", "vgg16", "vgg19", "mobilenet"]
Features = Literal["vgg16", "vgg19", "mobilenet", "random"]
"""Networks whose activations parts can be told by."""
FILES = {
    "vgg16": "weights/vgg16-397923af.pth",
    "vgg19": "weights/vgg19-dcbb9e9d.pth",
    "mobilenet": "weights/mobilenetV1X0.25_pretrain.tar",
}
CONFIGURATION = {
    "vgg16": (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", *2 * (512, 512, 512, "M")),
    "vgg19": (64, 64, "M", 128, 128, "M", *4 * (256,), "M", *2 * (*4 * (512,), "M")),
    "random": (16, "M", 32, "M", 64),
}
"""Widths of VGG's 3x3 convolutions, M for max pooling (Simonyan and Zisserman, ICLR 2015)."""
assert set(get_args(Name)) == {"pixels", *FILES}


class Perceptual:
    """A frozen network as a list of activations, opened at its first use.

    Not a module, so that it is neither trained, nor counted, nor saved with the method.

    Args:
        name: which network; `pixels` has no activations.
        layers: indices of the modules of `vgg(name)` or `mobilenet()` after which activations
            are taken.
        normalize: whether images are brought to ImageNet's mean and SD first.
    """

    def __init__(self, name: Name | Features, layers: tuple[int, ...], normalize: bool) -> None:
        self.name, self.layers, self.normalize = name, layers, normalize
        self.network: nn.Sequential | None = None

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the activations of images in [0, 1], [B, C_l, H_l, W_l] each.

        Raises:
            BadInput: the weights are missing or damaged.
        """
        if self.name == "pixels":
            return []
        if self.network is None:
            network = untrained(self.name) if images.is_meta else load(self.name)
            assert max(self.layers) < len(network)
            self.network = network[: max(self.layers) + 1]
        network = self.network.to(images.device)
        if self.normalize:
            mean, std = (images.new_tensor(v).view(3, 1, 1) for v in IMAGENET_MEAN_STD)
            images = (images - mean) / std
        found = []
        for i, layer in enumerate(network):
            images = layer(images)
            if i in self.layers:
                found.append(images)
        return found


def fetched(name: Name | Features) -> tuple[str, ...]:
    """Return what is to be fetched for a network: `mobilenet` is placed by hand, `random` made."""
    return (name,) if name in ("vgg16", "vgg19") else ()


def load(name: str) -> nn.Sequential:
    """Return a trained network, or the random one, frozen, in eval mode, channels last.

    Raises:
        BadInput: its file is missing from the data root, or damaged.
    """
    with torch.random.fork_rng(devices=[]):  # what a step draws must not depend on the first use
        network = untrained(name)
    if name == "random":
        return _frozen(_seeded(network))
    path, what = data_root() / FILES[name], f"the weights of {name}"
    content = open_file(path, what, _remedy(name))
    try:
        prefix = "module.stage" if name == "mobilenet" else "features."
        found = content.get("state_dict", content)
        state = {k: v for k, v in found.items() if k.startswith(prefix)}
        network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    except Exception as error:  # whatever else the file holds
        raise misplaced(path, what, error) from None
    return _frozen(network)


def _frozen(network: nn.Sequential) -> nn.Sequential:
    return network.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def _seeded(network: nn.Sequential) -> nn.Sequential:
    """Draw weights that keep the spread of activations (He et al., ICCV 2015), seed 0; no bias."""
    generator = torch.Generator().manual_seed(0)
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            spread = (2 / layer.weight[0].numel()) ** 0.5
            drawn = spread * torch.randn(layer.weight.shape, generator=generator, device="cpu")
            layer.weight.data.copy_(drawn)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return network


def untrained(name: str) -> nn.Sequential:
    """Return the convolutional part of a network before its weights are read."""
    return mobilenet() if name == "mobilenet" else vgg(name)


def _remedy(name: str) -> str:
    fetch = f"run `partbench data fetch {name}`" if name.startswith("vgg") else "place it there"
    return f"{fetch}, or set `perceptual` to another network or to `pixels`"


def vgg(name: str) -> nn.Sequential:
    """Return the convolutional part of a VGG, untrained, numbered as torchvision's."""
    layers: list[nn.Module] = []
    channels = 3
    for width in CONFIGURATION[name]:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def mobilenet() -> nn.Sequential:
    """Return the convolutional part of MobileNetV1 x 0.25, untrained: 14 blocks.

    Blocks 1, 3, 5, 11 and 13 are the last at strides 2, 4, 8, 16 and 32 (Howard et al., 2017;
    LeakyReLU(0.1) in place of ReLU, as the trained file has it).
    """

    def block(before: int, after: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            *_conv(before, before, 3, stride, before),
            *_conv(before, after, 1, 1, 1),
        )

    widths = (8, 16, 32, 32, 64, 64, *6 * (128,), 256, 256)
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    return nn.Sequential(
        nn.Sequential(*_conv(3, 8, 3, 2, 1)),
        *(block(widths[i], widths[i + 1], stride) for i, stride in enumerate(strides)),
    )


def _conv(before: int, after: int, kernel: int, stride: int, groups: int) -> list[nn.Module]:
    padding = kernel // 2
    conv = nn.Conv2d(before, after, kernel, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(after), nn.LeakyReLU(0.1)]
