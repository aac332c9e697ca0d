"""The hourglass, which processes a map at all scales at once (Newell, Yang, Deng, ECCV 2016).

The paper's residual blocks are plain convolutions here.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution with BatchNorm and ReLU.

    [B, inputs, h, w] -> [B, outputs, h / stride, w / stride], rounded up.
    """
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Hourglass(nn.Module):
    """Convolutions down to 1 / 2^depth of the size and up again, with a skip branch at every scale.

    [B, channels, h, w] -> [B, channels, h, w], of any size: the map is padded inside, by repeating
    its border, to the next multiple of 2^depth.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.multiple = 2**depth
        self.scales = _Scale(channels, depth)

    def forward(self, x: Tensor) -> Tensor:
        """Return the processed map."""
        height, width = x.shape[2:]
        top, bottom = _halves(-height % self.multiple)
        left, right = _halves(-width % self.multiple)
        padded = F.pad(x, (left, right, top, bottom), mode="replicate")
        return self.scales(padded)[:, :, top : top + height, left : left + width]


class _Scale(nn.Module):
    """One scale of the hourglass, with the coarser scales nested inside."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.across = block(channels, channels)
        self.down = block(channels, channels)
        self.inside = _Scale(channels, depth - 1) if depth > 1 else block(channels, channels)
        self.up = block(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.up(self.inside(self.down(F.max_pool2d(x, 2))))
        return self.across(x) + F.interpolate(coarse, scale_factor=2, mode="nearest")


def _halves(n: int) -> tuple[int, int]:
    """Return the two halves of n, of which the second is the larger where n is odd."""
    return n // 2, n - n // 2
