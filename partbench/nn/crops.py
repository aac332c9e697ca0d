"""Crops of frames at which a network is applied, and whose outputs are averaged."""

import torch
from torch import Tensor


def center_crop(images: Tensor, side: int) -> Tensor:
    """Return the middle square of images [..., H, W], [..., side, side].

    Raises:
        ValueError: the images are smaller.
    """
    height, width = _fits(images, side)
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]


def ten_crops(images: Tensor, side: int) -> Tensor:
    """Return the four corners and the centre of images, then those of their mirror images.

    This is Krizhevsky et al.'s (NIPS 2012) way to measure a network; action recognition took it
    over. The order is that of torchvision's `TenCrop`.

    Args:
        images: [..., C, H, W].
        side: of the crops, pixels.

    Returns:
        [..., 10, C, side, side].

    Raises:
        ValueError: the images are smaller.
    """
    return torch.cat([_five_crops(images, side), _five_crops(images.flip(-1), side)], -4)


def _five_crops(images: Tensor, side: int) -> Tensor:
    ends = slice(None, side), slice(-side, None)
    corners = [images[..., rows, columns] for rows in ends for columns in ends]
    return torch.stack([*corners, center_crop(images, side)], -4)


def _fits(images: Tensor, side: int) -> tuple[int, int]:
    height, width = images.shape[-2:]
    if not 0 < side <= min(height, width):
        raise ValueError(f"crops of {side} x {side} do not fit images of {height} x {width}")
    return height, width
