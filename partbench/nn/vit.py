"""Vision transformers of timm, read at their last block: DINO's and DINOv2's features.

Weights come from the authors' files, never from the network. DINO: Caron et al., ICCV 2021;
DINOv2: Oquab et al., TMLR 2024; with registers: Darcet et al., ICLR 2024.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from partbench.files import data_root
from partbench.nn.weights import misplaced, open_file
from partbench.settings import Settings

Backbone = Literal[
    "vit_small_patch8_224",
    "vit_small_patch16_224",
    "vit_base_patch8_224",
    "vit_base_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_base_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch14_reg4_dinov2",
]
"""Names of timm: the first four as DINO trained them, the others as DINOv2 did."""
WIDTHS: dict[str, int] = {name: 384 if "small" in name else 768 for name in get_args(Backbone)}
"""Channels, known without timm, whose import takes seconds."""
SOURCES = (
    "https://github.com/facebookresearch/dino and https://github.com/facebookresearch/dinov2 "
    "have them"
)


VITS16 = {
    "backbone": "vit_small_patch16_224",
    "stride": 8,
    "weights_file": "weights/dino_deitsmall16_pretrain.pth",
}
"""Settings of DINO's coarser network."""


class TransformerSettings(Settings):
    """Which transformer describes images, and how finely: ViT-S/8 as Amir et al. (2021) have it."""

    backbone: Backbone = Field("vit_small_patch8_224", description="transformer, named as in timm")
    stride: int = Field(4, ge=1, description="pixels from patch to patch")
    weights_file: str = Field(
        "weights/dino_deitsmall8_pretrain.pth",
        description="below the data root; a state_dict as its authors publish it. random: weights "
        "that were never trained, the same every time",
    )
    side: int = Field(224, ge=32, description="pixels that the network sees")


class Tokens(NamedTuple):
    """What the last block makes of an image's h x w patches."""

    keys: Tensor
    """[B, C, h, w], of all heads together."""
    saliency: Tensor
    """[B, h, w], at least 0: how much the class token attends to each patch, a mean over heads."""


class Transformer:
    """A frozen transformer, opened at its first use.

    Not a module, so that it is neither trained, nor counted, nor saved with the method.

    Args:
        name: which.
        weights_file: below the data root, a state_dict as its authors publish it; `random`:
            weights that were never trained, the same every time.
        stride: pixels from patch to patch; below the patch's side, patches overlap.
    """

    def __init__(self, name: Backbone, weights_file: str, stride: int) -> None:
        self.name, self.weights_file, self.stride = name, weights_file, stride
        self.network: Any = None

    def __call__(self, images: Tensor) -> Tokens:
        """Return the keys and the saliency of normalised images [B, 3, H, W].

        Raises:
            BadInput: the file of weights is missing, or holds something else.
        """
        if self.network is None:
            self.network = load(self.name, self.weights_file)
        return read(self.network.to(images.device), images, self.stride)


def load(name: Backbone, weights_file: str) -> Any:
    """Return a transformer of timm without its head, frozen, in eval mode.

    Raises:
        BadInput: the file of weights is missing from the data root, or holds something else.
    """
    # Here, not above: whoever only reads a configuration need not wait for it.
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    with torch.random.fork_rng(devices=[]):  # what a step draws must not depend on the first use
        network: Any = timm.create_model(name, pretrained=False, num_classes=0)
    if weights_file == "random":
        _draw(network)
        return network.requires_grad_(False).eval()
    path, what = data_root() / weights_file, f"the weights of {name}"
    state = open_file(path, what, f"place it there ({SOURCES})")
    try:
        if "mask_token" in state:  # DINOv2's files name some tokens otherwise than timm
            state = checkpoint_filter_fn(state, network)
        network.load_state_dict(state)
    except Exception as error:  # whatever else the file holds
        remedy = ", or set `backbone` to what it holds"
        raise misplaced(path, what, error, remedy) from None
    return network.requires_grad_(False).eval()


def _draw(network: Any) -> None:
    """Draw all weights and places from N(0, 0.02), seed 0; biases are 0."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02, generator=generator)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)


def embed(network: Any, images: Tensor, stride: int) -> tuple[Tensor, int, int]:
    """Return the tokens of normalised images, the patches' last, and the patches' grid.

    Places are interpolated bicubically from those trained, as DINO does. timm's own rule takes
    another kernel, as it is made for fewer patches too, and wants sides that patches divide.
    """
    proj = network.patch_embed.proj
    patches = F.conv2d(images, proj.weight, proj.bias, stride)
    height, width = patches.shape[2:]
    prefix = [token for token in (network.cls_token, network.reg_token) if token is not None]
    first = torch.cat(prefix, 1)
    places = network.pos_embed
    if not network.no_embed_class:  # registers have no place, and the class token where they are
        own, places = places.split([first.shape[1], places.shape[1] - first.shape[1]], 1)
        first = first + own
    if (height, width) != network.patch_embed.grid_size:
        square = places.unflatten(1, network.patch_embed.grid_size).permute(0, 3, 1, 2)
        square = F.interpolate(square, (height, width), mode="bicubic")
        places = square.flatten(2).transpose(1, 2)
    tokens = patches.flatten(2).transpose(1, 2) + places
    return torch.cat([first.expand(len(images), -1, -1), tokens], 1), height, width


def read(network: Any, images: Tensor, stride: int) -> Tokens:
    """Return the last block's keys and saliency of normalised images [B, 3, H, W].

    Queries and keys are computed here: the fused attention of timm keeps no weights.
    """
    x, height, width = embed(network, images, stride)
    x = network.blocks[:-1](x)
    last = network.blocks[-1]
    attention = last.attn
    q, k, _ = attention.qkv(last.norm1(x)).unflatten(2, (3, attention.num_heads, -1)).unbind(2)
    q, k = q.transpose(1, 2), k.transpose(1, 2)  # [B, heads, N, C / heads]
    patches = slice(network.num_prefix_tokens, None)
    scores = q[:, :, :1] @ k.transpose(2, 3) * attention.scale
    saliency = scores.softmax(3)[:, :, 0, patches].mean(1).unflatten(1, (height, width))
    keys = k[:, :, patches].transpose(2, 3).flatten(1, 2).unflatten(2, (height, width))
    return Tokens(keys, saliency)
