"""What a frozen network says of each cell of an image: the descriptors that parts are found in."""

import torch
import torch.nn.functional as F
from torch import Tensor

from partbench.nn.perceptual import Perceptual
from partbench.nn.precision import exact

LAYERS: dict[str, tuple[int, int]] = {
    "vgg16": (27, 29),
    "vgg19": (31, 35),
    "mobilenet": (5, 11),
    "random": (4, 7),
}
"""The activations of SCOPS and of the K-means baseline: VGG19's relu5_2 and relu5_4, of VGG16 its
last two, of MobileNet the last blocks at strides 8 and 16, of the random network the ends of
strides 2 and 4."""
CHANNELS: dict[str, tuple[int, int]] = {
    "vgg16": (512, 512),
    "vgg19": (512, 512),
    "mobilenet": (64, 128),
    "random": (32, 64),
}
"""Of the two."""
AT_ONCE = 32
"""Images: VGG's first activations of one at 256 px take 16 MiB each."""


def describe(perceptual: Perceptual, images: Tensor, side: int | None) -> Tensor:
    """Return the activations of images side by side, without gradient.

    Args:
        perceptual: the network and its layers.
        images: [B, 3, S, S] in [0, 1].
        side: the shorter side, in pixels, of what the network sees; none: as it is.

    Returns:
        [B, C, h, w] float32 on the grid of the finest of the layers, to which others are brought
        bilinearly.
    """
    with torch.no_grad(), exact(images):
        return torch.cat([_describe(perceptual, part, side) for part in images.split(AT_ONCE)])


def to_side(images: Tensor, side: int) -> Tensor:
    """Return images whose shorter side is `side`, their aspect kept: [B, 3, H, W]."""
    short = min(images.shape[2:])
    if short == side:
        return images
    shape = [round(n * side / short) for n in images.shape[2:]]
    return F.interpolate(images, shape, mode="bilinear", antialias=True)


def _describe(perceptual: Perceptual, images: Tensor, side: int | None) -> Tensor:
    maps = perceptual(images if side is None else to_side(images, side))
    finest = max(x.shape[-2:] for x in maps)
    return torch.cat([F.interpolate(x, finest, mode="bilinear") for x in maps], 1)
