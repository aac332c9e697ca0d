"""Conversion of heat maps to keypoints and back, shared by DLP, KeyNet and Zhang's method.

Coordinates are (x, y) in [-1, 1], where -1 and 1 are the centres of the outermost cells of a map.
"""

import torch
from torch import Tensor


def cell_centres(cells: int, like: Tensor) -> Tensor:
    """Return the coordinates of the cells along one side, [cells].

    Dtype and device are those of `like`.
    """
    return torch.linspace(-1, 1, cells, dtype=like.dtype, device=like.device)


def marginal_softmax(maps: Tensor) -> Tensor:
    """Return the keypoint of each heat map, axis by axis, [B, K, H, W] -> [B, K, 2].

    x is the expectation under the softmax of the map's mean over rows, y that over columns (Jakab
    et al., NeurIPS 2018, section 3.1).
    """
    # Here and below, sums of products: autocast would round a matrix product to bfloat16.
    x = (maps.mean(2).softmax(-1) * cell_centres(maps.shape[3], maps)).sum(-1)
    y = (maps.mean(3).softmax(-1) * cell_centres(maps.shape[2], maps)).sum(-1)
    return torch.stack([x, y], -1)


def expectation(weights: Tensor) -> Tensor:
    """Return the mean coordinates under maps of weights, [B, K, H, W] -> [B, K, 2].

    The weights of a map sum to 1.
    """
    x = (weights.sum(2) * cell_centres(weights.shape[3], weights)).sum(-1)
    y = (weights.sum(3) * cell_centres(weights.shape[2], weights)).sum(-1)
    return torch.stack([x, y], -1)


def gaussian_maps(points: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """Return exp(-d^2 / (2 sigma^2)) around each point, [B, K, 2] -> [B, K, height, width].

    It is computed as the outer product of a factor per row and a factor per column.
    """
    x = (cell_centres(width, points) - points[..., :1]).square()
    y = (cell_centres(height, points) - points[..., 1:]).square()
    scale = -0.5 / sigma**2
    return (y * scale).exp().unsqueeze(-1) * (x * scale).exp().unsqueeze(-2)
