"""Heat maps to keypoints and back: what DLP, KeyNet and Zhang's method share.

Coordinates are (x, y) from -1 to 1, between the centres of the outermost cells of a map.
"""

import torch
from torch import Tensor


def cell_centres(cells: int, like: Tensor) -> Tensor:
    """Return the coordinates of the cells of one side, [cells], with the dtype of `like`."""
    return torch.linspace(-1, 1, cells, dtype=like.dtype, device=like.device)


def marginal_softmax(maps: Tensor) -> Tensor:
    """Return the expected place under softmax of each axis's mean, [B, K, H, W] -> [B, K, 2].

    The mean over rows is a distribution over columns, and the other way round (Jakab et al.,
    NeurIPS 2018, section 3.1).
    """
    # Sums of products here and below: under autocast a matrix product would round to bfloat16.
    x = (maps.mean(2).softmax(-1) * cell_centres(maps.shape[3], maps)).sum(-1)
    y = (maps.mean(3).softmax(-1) * cell_centres(maps.shape[2], maps)).sum(-1)
    return torch.stack([x, y], -1)


def expectation(weights: Tensor) -> Tensor:
    """Return the mean place under weights that sum to 1 over a map, [B, K, H, W] -> [B, K, 2]."""
    x = (weights.sum(2) * cell_centres(weights.shape[3], weights)).sum(-1)
    y = (weights.sum(3) * cell_centres(weights.shape[2], weights)).sum(-1)
    return torch.stack([x, y], -1)


def gaussian_maps(points: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """Return exp(-d^2 / (2 sigma^2)) around each point, [B, K, 2] -> [B, K, height, width].

    Made of one factor a row and one a column.
    """
    x = (cell_centres(width, points) - points[..., :1]).square()
    y = (cell_centres(height, points) - points[..., 1:]).square()
    scale = -0.5 / sigma**2
    return (y * scale).exp().unsqueeze(-1) * (x * scale).exp().unsqueeze(-2)
