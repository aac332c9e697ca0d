"""Spectral normalisation (Miyato et al., ICLR 2018): a convolution of largest gain about 1."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partbench.nn.precision import exact


class SpectralConv2d(nn.Conv2d):
    """A convolution whose weights are divided by their spectral norm, as one power step finds it.

    The weights count as a matrix [outputs, inputs * k * k]. torch's own `spectral_norm` moves its
    estimate at every forward pass in training; here `advance` alone does, so that all passes
    between two calls see the same estimate. Gradients flow through the power step too.
    """

    u: Tensor
    """[outputs], the left singular vector as far as it is known."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, bias=bias)
        self.register_buffer("u", nn.init.trunc_normal_(torch.empty(outputs), a=-2, b=2))

    def power_step(self) -> Tensor:
        """Return the next `u` before it is normalised; its length is the spectral norm."""
        with exact(self.weight):
            matrix = self.weight.flatten(1)
            return matrix @ F.normalize(self.u @ matrix, dim=0)

    def divided_weight(self) -> Tensor:
        """Return the weights divided by their spectral norm."""
        return self.weight / self.power_step().norm()

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of [B, inputs, h, w] with the divided weights."""
        return self._conv_forward(x, self.divided_weight(), self.bias)

    @torch.no_grad()
    def advance(self) -> None:
        """Take one step of the power iteration."""
        self.u.copy_(F.normalize(self.power_step(), dim=0))


def advance(module: nn.Module) -> None:
    """Take one step of the power iteration in every `SpectralConv2d` of a module."""
    for layer in module.modules():
        if isinstance(layer, SpectralConv2d):
            layer.advance()
