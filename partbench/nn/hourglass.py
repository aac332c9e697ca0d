"""The hourglass: a map seen at all scales at once (Newell, Yang, Deng, ECCV 2016).

Plain convolutions stand where the paper has residual blocks.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution with BatchNorm and ReLU, [B, inputs, h, w] -> [B, outputs, ...]."""
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Hourglass(nn.Module):
    """Down to a 2^depth-th of the size and up again, with a branch across at every scale.

    Takes and returns [B, channels, h, w] of any size: inside, the border is repeated up to the
    next multiple of 2^depth.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.multiple = 2**depth
        self.scales = _Scale(channels, depth)

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        height, width = x.shape[2:]
        top, bottom = _halves(-height % self.multiple)
        left, right = _halves(-width % self.multiple)
        padded = F.pad(x, (left, right, top, bottom), mode="replicate")
        return self.scales(padded)[:, :, top : top + height, left : left + width]


class _Scale(nn.Module):
    """One scale and, inside, the ones below it."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.across = block(channels, channels)
        self.down = block(channels, channels)
        self.inside = _Scale(channels, depth - 1) if depth > 1 else block(channels, channels)
        self.up = block(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        below = self.up(self.inside(self.down(F.max_pool2d(x, 2))))
        return self.across(x) + F.interpolate(below, scale_factor=2, mode="nearest")


def _halves(n: int) -> tuple[int, int]:
    return n // 2, n - n // 2
