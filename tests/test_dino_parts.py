"""Co-segmentation on DINO: the transformer against torchvision's, planted parts found again."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.vision_transformer import VisionTransformer as Reference

from partbench import method as methods
from partbench.errors import BadInput
from partbench.method import Batch, DataInfo
from partbench.methods.dino_parts import DinoParts
from partbench.nn.vit import Tokens, VisionTransformer


def build(size: int = 32, **changes: Any) -> DinoParts:
    torch.manual_seed(0)
    return DinoParts(methods.resolve(DinoParts, "demo", changes, "test"), DataInfo(size, 0)).eval()


def passes_over(images: torch.Tensor, size: int = 4) -> Any:
    def passes() -> Iterator[Batch]:
        return (Batch(part, None) for part in images.split(size))

    return passes


# The transformer.


def theirs_named(network: VisionTransformer) -> dict[str, torch.Tensor]:
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


@pytest.fixture
def networks() -> tuple[VisionTransformer, Reference]:
    torch.manual_seed(0)
    ours = VisionTransformer(8, width=24, depth=3, heads=3, side=32).double().eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs = Reference(32, 8, 3, 3, 24, 96).double().eval()
    missing = theirs.load_state_dict(theirs_named(ours), strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("heads.") for key in missing.missing_keys)
    return ours, theirs


@torch.no_grad()
def test_keys_and_saliency_are_those_of_torchvision_s_transformer(networks: Any) -> None:
    ours, theirs = networks
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    found = ours(images, 8)
    layers = theirs.encoder.layers
    seen = []
    layers[-1].ln_1.register_forward_hook(lambda *a: seen.append(a[2]))
    theirs(images)
    attention = layers[-1].self_attention
    _, weights = attention(seen[0], seen[0], seen[0], need_weights=True)
    torch.testing.assert_close(found.saliency, weights[:, 0, 1:].view(2, 4, 4))
    key = seen[0] @ attention.in_proj_weight[24:48].T + attention.in_proj_bias[24:48]
    expected = key[:, 1:].transpose(1, 2).reshape(2, 24, 4, 4)
    torch.testing.assert_close(found.keys, expected)


@torch.no_grad()
def test_overlapping_patches(networks: Any) -> None:
    """At half the stride, every other patch is one of the plain ones."""
    ours, _ = networks
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    plain, height, width = ours.embed(images, 8)
    fine, more, across = ours.embed(images, 4)
    assert (height, width, more, across) == (4, 4, 7, 7)
    ours.pos_embed.zero_()
    plain, fine = ours.embed(images, 8)[0], ours.embed(images, 4)[0]
    torch.testing.assert_close(fine[:, 1:].view(7, 7, 24)[::2, ::2], plain[:, 1:].view(4, 4, 24))
    assert ours(images, 4).keys.shape == (1, 24, 7, 7)


def test_the_small_transformer_has_dino_s_parameters() -> None:
    with torch.device("meta"):
        network = VisionTransformer(8)
    assert sum(p.numel() for p in network.parameters()) == 21_670_272
    assert network.pos_embed.shape == (1, 785, 384)


# The method.


def plant(monkeypatch: pytest.MonkeyPatch, salient: float = 1.0) -> torch.Tensor:
    """Descriptors of three kinds in quadrants, one twice; two kinds are salient. Returns labels."""
    kinds = torch.nn.functional.normalize(torch.randn(3, 384), dim=1)
    labels = torch.tensor([[0, 1], [0, 2]]).repeat_interleave(4, 0).repeat_interleave(4, 1)

    def describe(self: DinoParts, images: torch.Tensor) -> Tokens:
        noise = 0.01 * torch.randn(len(images), 8, 8, 384)
        keys = torch.nn.functional.normalize(kinds[labels] + noise, dim=3).permute(0, 3, 1, 2)
        return Tokens(keys, salient * (labels > 0).float().expand(len(images), 8, 8))

    monkeypatch.setattr(DinoParts, "describe", describe)
    return labels.repeat_interleave(4, 0).repeat_interleave(4, 1)


def test_planted_parts_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(k=2, votes=0.75)
    labels = plant(monkeypatch)
    method.fit(passes_over(torch.rand(10, 3, 32, 32)))
    found = method.part_maps(torch.rand(3, 3, 32, 32))
    assert found.foreground is not None
    torch.testing.assert_close(found.foreground, (labels > 0).expand(3, -1, -1))
    for kind in (1, 2):
        (part,) = found.labels[:, labels == kind].unique()
        assert torch.equal(found.labels[0][labels > 0] == part, (labels == kind)[labels > 0])
    assert torch.equal(found.weights.sum(1), found.foreground.float())
    assert 2 <= int(method.clusters) <= 14


def test_only_some_images_are_clustered(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    method = build(k=2, images=4, every=1, votes=0.75)
    plant(monkeypatch)
    describe = DinoParts.describe
    monkeypatch.setattr(
        DinoParts, "describe", lambda self, x: (seen.append(x), describe(self, x))[1]
    )
    images = torch.arange(10.0).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    method.fit(passes_over(images))
    assert torch.cat(seen)[:, 0, 0, 0].tolist() == 3 * [0, 3, 6, 9]


def test_fit_repeats_itself() -> None:
    images, made = torch.rand(6, 3, 32, 32), []
    for _ in range(2):
        method = build()
        torch.manual_seed(5)
        method.fit(passes_over(images))
        made.append(method.state_dict())
    assert [key for key in made[0] if not torch.equal(made[0][key], made[1][key])] == []
    assert not any(key.startswith("_network") for key in made[0])


def test_bad_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = torch.rand(4, 3, 32, 32)
    broken = images.clone()
    broken[0, 0, 0, 0] = math.nan
    with pytest.raises(BadInput, match="descriptors are not finite"):
        build().fit(passes_over(broken))
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=r"vit\.pth is missing, DINO's ViT-S/8; place it there"):
        build(weights_file="vit.pth").fit(passes_over(images))
    (tmp_path / "vit.pth").write_bytes(b"no weights")
    with pytest.raises(BadInput, match="does not hold the weights of DINO's ViT-S/8"):
        build(weights_file="vit.pth").fit(passes_over(images))
    plant(monkeypatch, salient=0.01)
    with pytest.raises(BadInput, match="no cluster is salient in enough images; lower"):
        build(votes=0.75).fit(passes_over(images))
    plant(monkeypatch)
    with pytest.raises(BadInput, match=r"90 parts of \d+ descriptors of the foreground"):
        build(k=90, votes=0.75).fit(passes_over(images))
