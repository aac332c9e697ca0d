"""Colour operations on batches: conversion to CIE-LAB, and photometric jitter per image."""

import torch
from torch import Tensor

from partbench.nn.shared_batch import own, whole

XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
"""The matrix from linear sRGB to XYZ: rows X, Y and Z."""
WHITE = (0.95047, 1.0, 1.08883)
"""The white point D65 in XYZ, 2 degree observer."""
GREY = (0.2989, 0.587, 0.114)
"""Luma weights of red, green and blue; torchvision uses the same."""


def rgb_to_lab(images: Tensor) -> Tensor:
    """Convert sRGB images in [0, 1] to CIE-LAB, [B, 3, H, W] -> [B, 3, H, W].

    L runs from 0 to 100; a and b are not rescaled.
    """
    linear = torch.where(
        images > 0.04045, ((images.clamp_min(0) + 0.055) / 1.055) ** 2.4, images / 12.92
    )
    matrix = images.new_tensor(XYZ) / images.new_tensor(WHITE).unsqueeze(1)
    xyz = torch.einsum("dc,bchw->bdhw", matrix, linear)
    x, y, z = torch.where(
        xyz > 0.008856, xyz.clamp_min(1e-8) ** (1 / 3), 7.787 * xyz + 16 / 116
    ).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def grey(images: Tensor) -> Tensor:
    """Return the luma of images, [B, 3, H, W] -> [B, 1, H, W]."""
    return torch.einsum("c,bchw->bhw", images.new_tensor(GREY), images).unsqueeze(1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply each image [B, 3, H, W] by its `factor` [B], and clamp to [0, 1]."""
    return _blend(images, torch.zeros_like(images[:, :1]), factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance of each image from its mean grey by `factor` [B]; clamp to [0, 1]."""
    return _blend(images, grey(images).mean((1, 2, 3), keepdim=True), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance of each pixel from its own grey by `factor` [B]; clamp to [0, 1]."""
    return _blend(images, grey(images), factor)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Rotate the hue of each image [B, 3, H, W] by its `turn` [B]; 1 is the full circle."""
    high, low = images.amax(1), images.amin(1)
    span = high - low
    r, g, b = ((high.unsqueeze(1) - images) / span.where(span > 0, 1).unsqueeze(1)).unbind(1)
    red, green, _ = (images == high.unsqueeze(1)).unbind(1)
    angle = torch.where(red, b - g, torch.where(green, 2 + r - b, 4 + g - r)) / 6
    angle = (angle.where(span > 0, 0) + turn.view(-1, 1, 1)).remainder(1)
    # How far each channel lies below the largest is a piecewise linear function of the hue.
    sector = 6 * angle.unsqueeze(1) + angle.new_tensor([5.0, 3.0, 1.0]).view(3, 1, 1)
    sector = sector.remainder(6)
    below = torch.minimum(sector, 4 - sector).clamp(0, 1)
    return high.unsqueeze(1) - span.unsqueeze(1) * below


def jitter(
    images: Tensor,
    amounts: tuple[float, float, float, float],
    probability: float,
    grey_probability: float,
) -> Tensor:
    """Jitter brightness, contrast, saturation and hue at random, and turn some images grey.

    The four changes are defined as in torchvision. Their factors are drawn for each image, their
    order once for the batch.

    Args:
        images: [B, 3, H, W] in [0, 1].
        amounts: of brightness, contrast, saturation and hue. A factor of one of the first three is
            uniform in [1 - amount, 1 + amount], but at least 0. The turn of the hue is uniform in
            [-amount, amount].
        probability: that an image is jittered.
        grey_probability: that an image loses its colours afterwards.

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    n, device = len(images), images.device
    draws = 2 * own(torch.rand(4, whole(n), device=device), 1) - 1
    chance = own(torch.rand(2, whole(n), 1, 1, 1, device=device), 1)
    changed = images
    for i in torch.randperm(4, device="cpu").tolist():
        change = (brightness, contrast, saturation, hue)[i]
        amount = amounts[i] * draws[i]
        changed = change(changed, amount if change is hue else (1 + amount).clamp_min(0))
    changed = changed.where(chance[0] < probability, images)
    return grey(changed).where(chance[1] < grey_probability, changed)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = factor.view(-1, 1, 1, 1)
    return (factor * images + (1 - factor) * other).clamp(0, 1)
