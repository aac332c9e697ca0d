"""Crops of a batch of images, resized on the device that trains."""

import torch
from torch import Tensor


def resample(images: Tensor, crops: Tensor, size: int, cubic: Tensor | None = None) -> Tensor:
    """Return crops of images, resized bilinearly with antialiasing, as Pillow does.

    Rows and columns are mixed one after the other, by matrices that differ from image to image.
    Pillow rounds to whole grey levels after each; this does not.

    Args:
        images: [B, H, W, 3] uint8.
        crops: [B, 4] float64, (left, top, right, bottom), pixel edges; within the images.
        size: side of the result, pixels.
        cubic: [B] bool, which crops are resized bicubically instead; none by default.

    Returns:
        [B, 3, size, size] float32 in [0, 1], channels last in memory.
    """
    height, width = images.shape[1:3]
    down = _mixing(crops[:, 1], crops[:, 3], height, size, cubic).unsqueeze(1)
    across = _mixing(crops[:, 0], crops[:, 2], width, size, cubic).unsqueeze(1)
    planes = images.movedim(-1, 1).float()
    mixed = down @ (planes @ across.transpose(2, 3)) / 255
    return mixed.clamp(0, 1).contiguous(memory_format=torch.channels_last)


def _mixing(
    start: Tensor, end: Tensor, before: int, after: int, cubic: Tensor | None = None
) -> Tensor:
    """Return by which shares the pixels of a line make those of its crop, [B, after, before].

    A triangle around each new pixel's centre, as wide as two new pixels, or two old ones where
    those are wider; its part beyond the line does not count. Where `cubic` is true, Keys's cubic
    instead, twice as wide.
    """
    scale = ((end - start) / after).view(-1, 1, 1)
    steps = torch.arange(after, dtype=start.dtype, device=start.device).view(1, -1, 1)
    centres = start.view(-1, 1, 1) + (steps + 0.5) * scale
    places = torch.arange(before, dtype=start.dtype, device=start.device) + 0.5
    away = (places - centres).abs() / scale.clamp(min=1)
    shares = (1 - away).clamp(min=0)
    if cubic is not None:
        shares = torch.where(cubic.view(-1, 1, 1), _keys(away), shares)
    return (shares / shares.sum(2, keepdim=True)).float()


def _keys(x: Tensor, a: float = -0.75) -> Tensor:
    """Return the cubic convolution kernel of Keys (1981) at distances x, 0 from 2 on.

    With a = -0.75, as in TensorFlow and torch.
    """
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def resample_labels(labels: Tensor, crops: Tensor, size: int) -> Tensor:
    """Return crops of label maps or masks, each pixel the nearest one.

    Args:
        labels: [B, H, W], any dtype.
        crops: [B, 4] float64, see `resample`.
        size: side of the result, pixels.

    Returns:
        [B, size, size].
    """
    steps = (torch.arange(size, dtype=crops.dtype, device=crops.device) + 0.5) / size
    near, far = crops[:, :2, None], crops[:, 2:, None]
    places = (near + (far - near) * steps).floor().long()  # [B, 2, size]
    column = places[:, 0].clamp(0, labels.shape[2] - 1)
    row = places[:, 1].clamp(0, labels.shape[1] - 1)
    which = torch.arange(len(labels), device=labels.device).view(-1, 1, 1)
    return labels[which, row.unsqueeze(2), column.unsqueeze(1)]


def move_landmarks(landmarks: Tensor, crops: Tensor, size: int) -> Tensor:
    """Return landmarks where `resample` moves them; those outside of the crop become invisible.

    Args:
        landmarks: [B, L, 3], x, y and visibility, pixel centres at integers.
        crops: [B, 4] float64.
        size: side of the result, pixels.
    """
    near, far = crops[:, None, :2], crops[:, None, 2:]
    points = (landmarks[..., :2] + 0.5 - near) * (size / (far - near)) - 0.5
    inside = ((points >= -0.5) & (points <= size - 0.5)).all(-1)
    visible = landmarks[..., 2] * inside
    return torch.cat([points, visible.unsqueeze(-1)], -1).to(landmarks.dtype)
