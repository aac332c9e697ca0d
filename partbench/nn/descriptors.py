"""Descriptors of the cells of an image: activations of a frozen network, for finding parts."""

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
"""The activations that SCOPS and the K-means baseline read.

- VGG19: relu5_2 and relu5_4.
- VGG16: the last two.
- MobileNet: the last blocks at strides 8 and 16.
- The random network: the last activations at strides 2 and 4.
"""
CHANNELS: dict[str, tuple[int, int]] = {
    "vgg16": (512, 512),
    "vgg19": (512, 512),
    "mobilenet": (64, 128),
    "random": (32, 64),
}
"""Channels of those two activations."""
AT_ONCE = 32
"""Images described at once: VGG's first activations take 16 MiB each for one image at 256 px."""


def describe(perceptual: Perceptual, images: Tensor, side: int | None) -> Tensor:
    """Return the activations of images, concatenated over the layers, without gradient.

    Args:
        perceptual: the network and its layers.
        images: [B, 3, S, S] in [0, 1].
        side: shorter side, in pixels, to which images are resized first; None: no resizing.

    Returns:
        [B, C, h, w] float32 on the grid of the finest layer. The others are upsampled bilinearly.
    """
    with torch.no_grad(), exact(images):
        return torch.cat([_describe(perceptual, some, side) for some in images.split(AT_ONCE)])


def to_side(images: Tensor, side: int) -> Tensor:
    """Resize images so that their shorter side is `side`, keeping their aspect: [B, 3, H, W]."""
    short = min(images.shape[2:])
    if short == side:
        return images
    shape = [round(n * side / short) for n in images.shape[2:]]
    return F.interpolate(images, shape, mode="bilinear", antialias=True)


def _describe(perceptual: Perceptual, images: Tensor, side: int | None) -> Tensor:
    maps = perceptual(images if side is None else to_side(images, side))
    finest = max(x.shape[-2:] for x in maps)
    return torch.cat([F.interpolate(x, finest, mode="bilinear") for x in maps], 1)
