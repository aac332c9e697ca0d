"""DINO's and DINOv2's features: keys and attention in the last block of timm's transformers.

Weights come from the authors' files and are never downloaded. DINO is by Caron et al., ICCV 2021,
DINOv2 by Oquab et al., TMLR 2024, and registers are by Darcet et al., ICLR 2024.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from partbench.files import data_root
from partbench.nn.weights import open_file, wrong_content
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
"""timm's names of the networks: DINO trained the first four, DINOv2 the others."""
WIDTHS: dict[str, int] = {name: 384 if "small" in name else 768 for name in get_args(Backbone)}
"""Channels of each network, stated here because importing timm takes seconds."""
SOURCES = (
    "https://github.com/facebookresearch/dino and https://github.com/facebookresearch/dinov2 "
    "provide them"
)

VITS16 = {
    "backbone": "vit_small_patch16_224",
    "stride": 8,
    "weights_file": "weights/dino_deitsmall16_pretrain.pth",
}
"""Settings for DINO's network with the larger patches."""


class TransformerSettings(Settings):
    """The transformer that describes images; the defaults are those of Amir et al. (2021)."""

    backbone: Backbone = Field(
        "vit_small_patch8_224", description="transformer, by its name in timm"
    )
    stride: int = Field(4, ge=1, description="pixels from patch to patch")
    weights_file: str = Field(
        "weights/dino_deitsmall8_pretrain.pth",
        description="path below the data root of a state_dict as its authors publish it; random: "
        "fixed random weights",
    )
    side: int = Field(224, ge=32, description="pixels that the network sees")


class Tokens(NamedTuple):
    """Keys and saliency of the h x w patches of images, from the last block."""

    keys: Tensor
    """[B, C, h, w], the keys of all heads, concatenated."""
    saliency: Tensor
    """[B, h, w], at least 0: the class token's attention to each patch, averaged over heads."""


class Transformer:
    """A frozen transformer, which is loaded at its first use.

    It is not a module, so that its parameters are not trained, counted or saved with the method's.

    Args:
        name: the network's name in timm.
        weights_file: path below the data root of a state_dict as its authors publish it;
            `random` stands for fixed random weights.
        stride: pixels from patch to patch; patches overlap if it is less than their side.
    """

    def __init__(self, name: Backbone, weights_file: str, stride: int) -> None:
        self.name, self.weights_file, self.stride = name, weights_file, stride
        self.network: Any = None

    def __call__(self, images: Tensor) -> Tokens:
        """Return the keys and the saliency of normalised images [B, 3, H, W].

        Raises:
            BadInput: the file of weights is missing or holds something else.
        """
        if self.network is None:
            self.network = load(self.name, self.weights_file)
        return read(self.network.to(images.device), images, self.stride)


def load(name: str, weights_file: str) -> Any:
    """Return a transformer of timm, by its name there, without its head, frozen, in eval mode.

    Raises:
        BadInput: the file of weights is missing from the data root or holds something else.
    """
    # Imported here because it takes seconds, which reading a configuration need not wait for.
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    path, what, state = data_root() / weights_file, f"the weights of {name}", None
    if weights_file != "random":
        state = open_file(path, what, f"place it there ({SOURCES})")
    # Keep the generator's state: a step's draws must not depend on which step loads the network.
    with torch.random.fork_rng(devices=[]):
        network: Any = timm.create_model(name, pretrained=False, num_classes=0)
    if state is None:
        _draw(network)
        return network.requires_grad_(False).eval()
    try:
        if "mask_token" in state:  # DINOv2's files use other names for some tokens than timm
            state = checkpoint_filter_fn(state, network)
        network.load_state_dict(state)
    except Exception as error:  # the file can hold anything
        remedy = ", or set `backbone` to what it holds"
        raise wrong_content(path, what, error, remedy) from None
    return network.requires_grad_(False).eval()


def _draw(network: Any) -> None:
    """Draw all weights and position embeddings from a normal of SD 0.02, seed 0; biases are 0."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02, generator=generator)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)


def embed(network: Any, images: Tensor, stride: int) -> tuple[Tensor, int, int]:
    """Return the tokens of normalised images [B, 3, H, W], and the grid of their patches.

    Position embeddings are interpolated bicubically from the trained ones, as DINO does. timm's
    own rule is not used: it takes another kernel, because it also serves fewer patches, and it
    needs sides that are multiples of the patch.

    Returns:
        The tokens [B, N, C], those of the patches last; the height and the width of the grid.
    """
    proj = network.patch_embed.proj
    patches = F.conv2d(images, proj.weight, proj.bias, stride)
    height, width = patches.shape[2:]
    prefix = [token for token in (network.cls_token, network.reg_token) if token is not None]
    first = torch.cat(prefix, 1)
    positions = network.pos_embed
    if not network.no_embed_class:  # otherwise `pos_embed` covers only the patches
        own, positions = positions.split([first.shape[1], positions.shape[1] - first.shape[1]], 1)
        first = first + own
    if (height, width) != network.patch_embed.grid_size:
        square = positions.unflatten(1, network.patch_embed.grid_size).permute(0, 3, 1, 2)
        square = F.interpolate(square, (height, width), mode="bicubic")
        positions = square.flatten(2).transpose(1, 2)
    tokens = patches.flatten(2).transpose(1, 2) + positions
    return torch.cat([first.expand(len(images), -1, -1), tokens], 1), height, width


def read(network: Any, images: Tensor, stride: int) -> Tokens:
    """Return the last block's keys and saliency of normalised images [B, 3, H, W].

    Queries and keys are computed here because timm's fused attention does not return its weights.
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
