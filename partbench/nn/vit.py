"""The vision transformer of DINO (Caron et al., ICCV 2021), read at its last block.

Parameters are named as in the authors' files, such as dino_deitsmall8_pretrain.pth.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Tokens(NamedTuple):
    """What the last block makes of an image's h x w patches."""

    keys: Tensor
    """[B, C, h, w], of all heads together."""
    saliency: Tensor
    """[B, h, w], at least 0: how much the class token attends to each patch, a mean over heads."""


class Attention(nn.Module):
    """Multi-head self-attention on tokens [B, N, C]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, [B, heads, N, C / heads] each."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """Return what the tokens gather."""
        return self.proj(F.scaled_dot_product_attention(*self.split(x)).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        layers = {"fc1": nn.Linear(width, 4 * width), "act": nn.GELU()}
        self.mlp = nn.Sequential(OrderedDict(layers, fc2=nn.Linear(4 * width, width)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens [B, N, C] one block on."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """ViT-S by default: 384 channels, 12 blocks of 6 heads.

    Args:
        patch: pixels along a patch, 8 or 16.
        width: channels.
        depth: blocks.
        heads: of attention.
        side: of the images it was trained with, which gives the grid of `pos_embed`.
    """

    def __init__(
        self, patch: int, width: int = 384, depth: int = 12, heads: int = 6, side: int = 224
    ) -> None:
        super().__init__()
        self.patch, self.grid = patch, side // patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def draw_(self) -> None:
        """Draw all weights and places from N(0, 0.02), seed 0; biases stay 0."""
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02, generator=generator)

    def embed(self, images: Tensor, stride: int) -> tuple[Tensor, int, int]:
        """Return the tokens of normalised images, the class's first, and the patches' grid.

        A stride below `patch` makes patches overlap; their places are interpolated bicubically
        from those trained.
        """
        proj: nn.Conv2d = self.patch_embed.proj  # type: ignore[assignment]
        patches = F.conv2d(images, proj.weight, proj.bias, stride)
        height, width = patches.shape[2:]
        first, places = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        if (height, width) != (self.grid, self.grid):
            square = places.unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
            square = F.interpolate(square, (height, width), mode="bicubic")
            places = square.flatten(2).transpose(1, 2)
        tokens = patches.flatten(2).transpose(1, 2) + places
        start = (self.cls_token + first).expand(len(images), -1, -1)
        return torch.cat([start, tokens], 1), height, width

    def forward(self, images: Tensor, stride: int) -> Tokens:
        """Return the keys and the saliency of normalised images [B, 3, S, S]."""
        x, height, width = self.embed(images, stride)
        for block in self.blocks[:-1]:
            x = block(x)
        last: Block = self.blocks[-1]  # type: ignore[assignment]
        q, k, _ = last.attn.split(last.norm1(x))
        scores = q[:, :, :1] @ k.transpose(2, 3) * k.shape[3] ** -0.5
        saliency = scores.softmax(3)[:, :, 0, 1:].mean(1).unflatten(1, (height, width))
        keys = k[:, :, 1:].transpose(2, 3).flatten(1, 2).unflatten(2, (height, width))
        return Tokens(keys, saliency)
