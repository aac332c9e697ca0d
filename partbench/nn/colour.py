"""Colours of whole batches on the device: CIE-LAB, and photometric jitter image by image."""

import torch
from torch import Tensor

XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
"""Rows X, Y and Z of linear sRGB."""
WHITE = (0.95047, 1.0, 1.08883)
"""D65, 2 degree observer."""
GREY = (0.2989, 0.587, 0.114)
"""Luma, as torchvision has it."""


def rgb_to_lab(images: Tensor) -> Tensor:
    """Return sRGB images [B, 3, H, W] in [0, 1] as CIE-LAB: L is 0 to 100, a and b as they are."""
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
    """Return the luma of images [B, 3, H, W], [B, 1, H, W]."""
    return torch.einsum("c,bchw->bhw", images.new_tensor(GREY), images).unsqueeze(1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Return images times `factor` [B], in [0, 1]."""
    return _blend(images, torch.zeros_like(images[:, :1]), factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Return images `factor` [B] times as far from their mean grey, in [0, 1]."""
    return _blend(images, grey(images).mean((1, 2, 3), keepdim=True), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Return images `factor` [B] times as far from their own grey, in [0, 1]."""
    return _blend(images, grey(images), factor)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Return images whose hue is turned by `turn` [B], 1 being the whole circle."""
    high, low = images.amax(1), images.amin(1)
    span = high - low
    r, g, b = ((high.unsqueeze(1) - images) / span.where(span > 0, 1).unsqueeze(1)).unbind(1)
    red, green, _ = (images == high.unsqueeze(1)).unbind(1)
    angle = torch.where(red, b - g, torch.where(green, 2 + r - b, 4 + g - r)) / 6
    angle = (angle.where(span > 0, 0) + turn.view(-1, 1, 1)).remainder(1)
    # Of each channel, how far it is below the largest, as a piecewise linear function of the hue.
    place = 6 * angle.unsqueeze(1) + angle.new_tensor([5.0, 3.0, 1.0]).view(3, 1, 1)
    place = place.remainder(6)
    below = torch.minimum(place, 4 - place).clamp(0, 1)
    return high.unsqueeze(1) - span.unsqueeze(1) * below


def jitter(
    images: Tensor,
    amounts: tuple[float, float, float, float],
    probability: float,
    grey_probability: float,
) -> Tensor:
    """Return images with other brightness, contrast, saturation and hue, some of them grey.

    The definitions are torchvision's, with factors drawn for each image; the order of the four is
    drawn once for the batch.

    Args:
        images: [B, 3, H, W] in [0, 1].
        amounts: the first three factors are uniform in 1 - amount to 1 + amount, but at least 0;
            the turn of the hue in -amount to amount.
        probability: of the jitter, for an image.
        grey_probability: of losing the colours afterwards.
    """
    n, device = len(images), images.device
    drawn = 2 * torch.rand(4, n, device=device) - 1
    chance = torch.rand(2, n, 1, 1, 1, device=device)
    changed = images
    for i in torch.randperm(4, device="cpu").tolist():
        change = (brightness, contrast, saturation, hue)[i]
        amount = amounts[i] * drawn[i]
        changed = change(changed, amount if change is hue else (1 + amount).clamp_min(0))
    changed = changed.where(chance[0] < probability, images)
    return grey(changed).where(chance[1] < grey_probability, changed)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = factor.view(-1, 1, 1, 1)
    return (factor * images + (1 - factor) * other).clamp(0, 1)
