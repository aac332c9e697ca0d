"""Frozen networks whose activations measure perceptual similarity.

- `vgg16` and `vgg19` are torchvision's, trained on ImageNet's labels. A method that uses them has
  therefore seen labels, if not those of its own data.
- `mobilenet` is MobileNetV1 x 0.25, also trained on ImageNet's labels, for machines on which VGG
  is too slow.
- `random` is a narrow VGG with fixed random weights. It needs no file.

None of them is saved in a model's file.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partbench.files import data_root
from partbench.nn.normalization import IMAGENET_MEAN_STD
from partbench.nn.weights import open_file, wrong_content

Name = Literal["pixels", "vgg16", "vgg19", "mobilenet"]
Features = Literal["vgg16", "vgg19", "mobilenet", "random"]
"""Networks whose activations can distinguish parts."""
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
"""Widths of VGG's 3x3 convolutions; M is max pooling (Simonyan and Zisserman, ICLR 2015)."""
DLP_LAYERS = {
    "pixels": (),
    # The ReLUs after conv1_2, conv2_2, conv3_2 and conv4_3, and the last pooling.
    "vgg16": (3, 8, 13, 22, 30),
    "vgg19": (3, 8, 13, 24, 36),
    "mobilenet": (1, 3, 5, 11, 13),
}
"""Activations that the reconstruction loss of Deep Latent Particles compares."""
assert set(get_args(Name)) == {"pixels", *FILES}


class Perceptual:
    """The activations of a frozen network, which is loaded at its first use.

    It is not a module, so that its parameters are not trained, counted or saved with the method's.

    Args:
        name: the network; `pixels` has no activations.
        layers: indices of those modules of `vgg(name)` or `mobilenet()` whose outputs are
            returned.
        normalize: whether to normalise images by ImageNet's mean and SD first.
    """

    def __init__(self, name: Name | Features, layers: tuple[int, ...], normalize: bool) -> None:
        self.name, self.layers, self.normalize = name, layers, normalize
        self.network: nn.Sequential | None = None

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the activations of images [B, 3, H, W] in [0, 1], [B, C_l, H_l, W_l] each.

        Raises:
            BadInput: the file of weights is missing or damaged.
        """
        if self.name == "pixels":
            return []
        if self.network is None:
            network = _frozen(untrained(self.name)) if images.is_meta else load(self.name)
            assert max(self.layers) < len(network)
            self.network = network[: max(self.layers) + 1]
        network = self.network.to(images.device)
        if self.normalize:
            mean, std = (images.new_tensor(v).view(3, 1, 1) for v in IMAGENET_MEAN_STD)
            images = (images - mean) / std
        activations = []
        for i, layer in enumerate(network):
            images = layer(images)
            if i in self.layers:
                activations.append(images)
        return activations


def squared_distance(network: Perceptual, output: Tensor, target: Tensor) -> Tensor:
    """Return the squared error in pixels and activations, summed per image: a scalar.

    Images below 32 px are enlarged for the network, as in the code of Deep Latent Particles. The
    targets' activations take no gradient.

    Args:
        network: the network, or `pixels`.
        output: [B, 3, S, S].
        target: [B, 3, S, S].

    Raises:
        BadInput: the file of weights is missing or damaged.
    """
    error = F.mse_loss(output, target, reduction="sum")
    if network.name != "pixels":
        if target.shape[-1] < 32:
            output, target = (F.interpolate(t, 32, mode="bilinear") for t in (output, target))
        with torch.no_grad():
            targets = network(target)
        for actual, expected in zip(network(output), targets, strict=True):
            error = error + F.mse_loss(actual, expected, reduction="sum")
    return error / len(target)


def fetched(name: Name | Features) -> tuple[str, ...]:
    """Return the archives to fetch for a network.

    There are none for `mobilenet`, which the user places by hand, and `random`.
    """
    return (name,) if name in ("vgg16", "vgg19") else ()


def load(name: str, setting: str = "perceptual") -> nn.Sequential:
    """Return a trained network, or the random one, frozen, in eval mode, channels last.

    Args:
        name: the network.
        setting: that names it, for messages.

    Raises:
        BadInput: its file is missing from the data root, or damaged.
    """
    # Keep the generator's state: a step's draws must not depend on which step loads the network.
    with torch.random.fork_rng(devices=[]):
        network = untrained(name)
    if name == "random":
        return _frozen(_seeded(network))
    path, what = data_root() / FILES[name], f"the weights of {name}"
    content = open_file(path, what, _remedy(name, setting))
    try:
        prefix = "module.stage" if name == "mobilenet" else "features."
        named = content.get("state_dict", content)
        state = {k: v for k, v in named.items() if k.startswith(prefix)}
        network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    except Exception as error:  # the file can hold anything
        raise wrong_content(path, what, error) from None
    return _frozen(network)


def _frozen(network: nn.Sequential) -> nn.Sequential:
    return network.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def _seeded(network: nn.Sequential) -> nn.Sequential:
    """Draw weights that preserve the spread of activations (He et al., ICCV 2015), with seed 0.

    Biases are 0.
    """
    generator = torch.Generator().manual_seed(0)
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            spread = (2 / layer.weight[0].numel()) ** 0.5
            weight = spread * torch.randn(layer.weight.shape, generator=generator, device="cpu")
            layer.weight.data.copy_(weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return network


def untrained(name: str) -> nn.Sequential:
    """Return the convolutional part of a network, without trained weights."""
    return mobilenet() if name == "mobilenet" else vgg(name)


def _remedy(name: str, setting: str) -> str:
    fetch = f"run `partbench data fetch {name}`" if name.startswith("vgg") else "place it there"
    pixels = " or to `pixels`" if setting == "perceptual" else ""
    return f"{fetch}, or set `{setting}` to another network{pixels}"


def vgg(name: str) -> nn.Sequential:
    """Return the convolutional part of an untrained VGG, with torchvision's order of modules."""
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
    """Return the convolutional part of an untrained MobileNetV1 x 0.25, 14 blocks.

    Blocks 1, 3, 5, 11 and 13 are the last at strides 2, 4, 8, 16 and 32 (Howard et al., 2017). The
    activations are LeakyReLU(0.1) instead of ReLU, because the trained file's are.
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
