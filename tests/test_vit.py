"""Transformers of timm, read at their last block, against timm's own forward and torchvision's."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor
from torchvision.models.vision_transformer import VisionTransformer as Reference

from partbench.errors import BadInput
from partbench.nn.vit import WIDTHS, Transformer, embed, load, read


def narrow(name: str = "vit_small_patch8_224") -> Any:
    """A transformer of few channels, for images of 4 x 4 patches; no weight is small."""
    side = 4 * int(name.partition("patch")[2].partition("_")[0])
    shape = {"img_size": side, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 0}
    network = timm.create_model(name, pretrained=False, **shape).double().eval()
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def noise(n: int, side: int) -> Tensor:
    return torch.randn(n, 3, side, side, dtype=torch.float64)


# Keys and saliency.


@torch.no_grad()
@pytest.mark.parametrize("name", WIDTHS)
def test_keys_and_saliency_are_those_of_timm_s_own_forward(name: str) -> None:
    network = narrow(name)
    side = network.patch_embed.img_size[0]
    images = noise(2, side)
    found = read(network, images, side // 4)
    last, seen = network.blocks[-1].attn, []
    last.fused_attn = False  # the fused one keeps no weights
    last.qkv.register_forward_hook(lambda *a: seen.append(a[2]))
    last.attn_drop.register_forward_hook(lambda *a: seen.append(a[2]))
    network(images)
    qkv, attention = seen
    first = network.num_prefix_tokens
    assert first == (5 if "reg4" in name else 1)
    keys = qkv[:, first:, 24:48].transpose(1, 2).reshape(2, 24, 4, 4)
    torch.testing.assert_close(found.keys, keys)
    saliency = attention[:, :, 0, first:].mean(1).reshape(2, 4, 4)
    torch.testing.assert_close(found.saliency, saliency)


@pytest.mark.parametrize("name", WIDTHS)
def test_widths_are_timm_s(name: str) -> None:
    with torch.device("meta"):
        assert timm.create_model(name, num_classes=0).embed_dim == WIDTHS[name]


def theirs_named(network: Any) -> dict[str, Tensor]:
    """Return the parameters by torchvision's names."""
    found = {}
    for name, value in network.state_dict().items():
        name = name.replace("patch_embed.proj", "conv_proj").replace("cls_token", "class_token")
        name = name.replace("pos_embed", "encoder.pos_embedding")
        name = name.replace("blocks.", "encoder.layers.encoder_layer_")
        name = name.replace("norm1", "ln_1").replace("norm2", "ln_2")
        name = name.replace("attn.qkv.", "self_attention.in_proj_")
        name = name.replace("attn.proj", "self_attention.out_proj")
        name = name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")
        found["encoder.ln" + name[4:] if name.startswith("norm.") else name] = value
    return found


@torch.no_grad()
def test_keys_and_saliency_are_those_of_torchvision_s_transformer() -> None:
    network = narrow()
    theirs = Reference(32, 8, 3, 3, 24, 96).double().eval()
    missing = theirs.load_state_dict(theirs_named(network), strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("heads.") for key in missing.missing_keys)
    images = noise(2, 32)
    found = read(network, images, 8)
    last, seen = theirs.encoder.layers[-1], []
    last.ln_1.register_forward_hook(lambda *a: seen.append(a[2]))
    theirs(images)
    attention = last.self_attention
    _, weights = attention(seen[0], seen[0], seen[0], need_weights=True)
    torch.testing.assert_close(found.saliency, weights[:, 0, 1:].view(2, 4, 4))
    key = seen[0] @ attention.in_proj_weight[24:48].T + attention.in_proj_bias[24:48]
    expected = key[:, 1:].transpose(1, 2).reshape(2, 24, 4, 4)
    torch.testing.assert_close(found.keys, expected)


# Overlapping patches and their places.


@torch.no_grad()
def test_overlapping_patches() -> None:
    """At half the stride, every other patch is one of the plain ones."""
    network, images = narrow(), noise(1, 32)
    network.pos_embed.zero_()
    plain, height, width = embed(network, images, 8)
    fine, more, across = embed(network, images, 4)
    assert (height, width, more, across) == (4, 4, 7, 7)
    torch.testing.assert_close(fine[:, 1:].view(7, 7, 24)[::2, ::2], plain[:, 1:].view(4, 4, 24))
    assert read(network, images, 4).keys.shape == (1, 24, 7, 7)
    wide = torch.cat([images, images[..., :13]], 3)
    assert read(network, wide, 4).keys.shape == (1, 24, 7, 10)


def cubic(n: int, to: int) -> np.ndarray:
    """Weights of cubic convolution with a = -0.75, [to, n]; the border's value goes on outside."""
    a, weights = -0.75, np.zeros((to, n))
    for i in range(to):
        x = (i + 0.5) * n / to - 0.5
        for j in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
            d = abs(x - j)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            weights[i, min(max(j, 0), n - 1)] += near if d <= 1 else far
    return weights


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_small_patch8_224", "vit_small_patch14_reg4_dinov2"])
@pytest.mark.parametrize("cells", [7, 3])
def test_places_are_interpolated_bicubically(name: str, cells: int) -> None:
    """For more patches and for fewer, without antialiasing."""
    network = narrow(name)
    patch = network.patch_embed.patch_size[0]
    for parameter in network.patch_embed.parameters():
        parameter.zero_()
    places = network.pos_embed[0, -16:].view(4, 4, 24).numpy()
    side = patch + (cells - 1) * patch // 2
    found, *grid = embed(network, noise(1, side), patch // 2)
    assert grid == [cells, cells]
    expected = np.einsum("iy,jx,yxc->ijc", cubic(4, cells), cubic(4, cells), places)
    np.testing.assert_allclose(found[0, -(cells**2) :].view(cells, cells, 24), expected, atol=1e-9)
    first = network.cls_token[0, 0]
    first = first if "reg4" in name else first + network.pos_embed[0, 0]
    torch.testing.assert_close(found[0, 0], first)


# Weights.


def published(patch: int, cells: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes in DINO's files of ViT-S, such as dino_deitsmall8_pretrain.pth."""
    found: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 384),
        "pos_embed": (1, 1 + cells**2, 384),
        "patch_embed.proj.weight": (384, 3, patch, patch),
        "patch_embed.proj.bias": (384,),
        "norm.weight": (384,),
        "norm.bias": (384,),
    }
    inner: dict[str, tuple[int, ...]] = {"attn.qkv": (1152, 384), "attn.proj": (384, 384)}
    inner |= {"mlp.fc1": (1536, 384), "mlp.fc2": (384, 1536), "norm1": (384,), "norm2": (384,)}
    for i in range(12):
        for name, shape in inner.items():
            found[f"blocks.{i}.{name}.weight"] = shape
            found[f"blocks.{i}.{name}.bias"] = shape[:1]
    return found


def write(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, float]:
    """Write a small file: the i-th tensor is i everywhere. Returns the numbers."""
    numbers = {name: float(i) for i, name in enumerate(shapes)}
    torch.save({n: torch.full((1,), numbers[n]).expand(shapes[n]) for n in shapes}, path)
    return numbers


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root, on a machine without network."""

    def connect(*_: Any) -> None:
        raise AssertionError("the network is asked")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    return tmp_path


def test_a_file_of_dino(root: Path) -> None:
    numbers = write(root / "s8.pth", published(8, 28))
    state = load("vit_small_patch8_224", "s8.pth").state_dict()
    assert sorted(state) == sorted(numbers)
    assert all(bool((state[name] == number).all()) for name, number in numbers.items())
    assert sum(value.numel() for value in state.values()) == 21_670_272


def test_a_file_of_dinov2(root: Path) -> None:
    """The class token holds its place, and what hides patches in training is left out."""
    shapes = published(14, 37)
    shapes |= {"mask_token": (1, 384), "register_tokens": (1, 4, 384)}
    for i in range(12):
        shapes |= {f"blocks.{i}.ls{j}.gamma": (384,) for j in (1, 2)}
    numbers = write(root / "s14.pth", shapes)
    state = load("vit_small_patch14_reg4_dinov2", "s14.pth").state_dict()
    numbers["reg_token"] = numbers.pop("register_tokens")
    numbers["cls_token"] += numbers["pos_embed"]
    del numbers["mask_token"]
    assert sorted(state) == sorted(numbers)
    assert all(bool((state[name] == number).all()) for name, number in numbers.items())
    assert state["pos_embed"].shape == (1, 37**2, 384)


def test_other_files(root: Path) -> None:
    write(root / "s16.pth", published(16, 14))
    torch.save([1, 2], root / "list.pth")
    message = r"does not hold the weights of vit_small_patch8_224 .*; replace it, or set `backbone`"
    for name in ("s16.pth", "list.pth"):
        with pytest.raises(BadInput, match=message):
            load("vit_small_patch8_224", name)
    with pytest.raises(BadInput, match=r"no\.pth \(the weights of .*\) is missing; place it there"):
        load("vit_small_patch8_224", "no.pth")


def test_random_weights_are_the_same_every_time_and_draw_nothing() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = load("vit_small_patch16_224", "random").state_dict()
    assert torch.equal(torch.rand(3), expected)
    second = load("vit_small_patch16_224", "random").state_dict()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert not first["blocks.3.mlp.fc1.bias"].any()
    assert abs(float(first["blocks.3.mlp.fc1.weight"].std()) - 0.02) < 1e-4


def test_it_is_opened_at_its_first_use_and_is_no_module() -> None:
    transformer = Transformer("vit_small_patch16_224", "random", 16)
    assert transformer.network is None
    with torch.no_grad():
        found = transformer(torch.rand(2, 3, 32, 48))
    assert found.keys.shape == (2, 384, 2, 3)
    assert found.saliency.shape == (2, 2, 3)
    assert not isinstance(transformer, torch.nn.Module)
    assert not any(parameter.requires_grad for parameter in transformer.network.parameters())
