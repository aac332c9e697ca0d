"""The pyramid decoder of PatchVAE."""

import math
from itertools import pairwise

from torch import nn


def pyramid_decoder(
    channels: int, stride: int, width: int = 64, bn_momentum: float = 0.1
) -> nn.Sequential:
    """Return transposed convolutions that undo a stride s: [B, channels, h, w] -> [B, 3, sh, sw].

    A 1x1 layer gives width * stride / 2 channels. 4x4 layers of stride 2 halve them down to
    `width`, and one more maps to RGB, with Tanh. No layer has a bias; BatchNorm and LeakyReLU(0.2)
    stand between them.

    Args:
        channels: channels of the latent map.
        stride: a power of two, at least 4.
        width: channels before the last layer.
        bn_momentum: momentum of the BatchNorm running statistics.
    """
    doublings = int(math.log2(stride)) - 1
    widths = [width * 2**i for i in range(doublings, -1, -1)]

    def block(conv: nn.ConvTranspose2d) -> list[nn.Module]:
        norm = nn.BatchNorm2d(conv.out_channels, momentum=bn_momentum)
        return [conv, norm, nn.LeakyReLU(0.2, inplace=True)]

    layers = block(nn.ConvTranspose2d(channels, widths[0], 1, bias=False))
    for wide, narrow in pairwise(widths):
        layers += block(nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False))
    return nn.Sequential(
        *layers,
        nn.ConvTranspose2d(widths[-1], 3, 4, stride=2, padding=1, bias=False),
        nn.Tanh(),
    )
