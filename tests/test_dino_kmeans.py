"""K-means on DINO: its descriptors are the transformer's keys, its clusters those of kmeans."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from partbench import method as methods
from partbench.data.batch import Batch
from partbench.errors import BadInput
from partbench.method import DataInfo
from partbench.methods.dino_kmeans import DinoKMeans
from partbench.methods.kmeans import KMeans
from partbench.nn import vit
from partbench.nn.vit import Tokens, Transformer


def build(variant: str = "demo", **changes: Any) -> DinoKMeans:
    torch.manual_seed(0)
    settings = methods.resolve(DinoKMeans, variant, changes, "test")
    return DinoKMeans(settings, DataInfo(32, 0)).eval()


def passes_over(images: torch.Tensor, masks: torch.Tensor, size: int = 4) -> Any:
    def passes() -> Iterator[Batch]:
        pairs = zip(images.split(size), masks.split(size), strict=True)
        return (Batch(part, None, masks=mask) for part, mask in pairs)

    return passes


@torch.no_grad()
def test_descriptors_are_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    network = vit.load("vit_small_patch8_224", "random")
    monkeypatch.setattr(vit, "load", lambda *_: network)
    images = torch.rand(2, 3, 48, 64)
    small = torch.nn.functional.interpolate(images, (32, 43), mode="bilinear", antialias=True)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    keys = vit.read(network, (small - mean) / std, 4).keys
    assert keys.shape == (2, 384, 7, 9)
    torch.testing.assert_close(build().describe(images), keys)
    torch.testing.assert_close(build("l2+demo").describe(images), keys / keys.norm(dim=1)[:, None])


def plant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that say a patch's colour."""

    def called(self: Transformer, images: torch.Tensor) -> Tokens:
        colours = torch.nn.functional.avg_pool2d(images, 8, self.stride)
        keys = torch.nn.functional.pad(colours, (0, 0, 0, 0, 0, 381))
        return Tokens(keys, torch.zeros(len(keys), *keys.shape[2:]))

    monkeypatch.setattr(Transformer, "__call__", called)


def test_planted_parts_of_the_foreground_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third colour, on the background, is not clustered."""
    plant(monkeypatch)
    parts = torch.tensor([[0, 1], [2, 2]]).repeat_interleave(16, 0).repeat_interleave(16, 1)
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    images = colours[parts].permute(2, 0, 1).expand(10, 3, 32, 32)
    masks = (parts < 2).float().expand(10, 32, 32)
    method = build(k=2, stride=8, restarts=3)
    method.fit(passes_over(images, masks))
    described = method.describe(images[:1])[0, :, 0]
    expected = torch.stack([described[:, 0], described[:, 3]])
    nearest = torch.cdist(expected, method.centroids).argmin(1)
    torch.testing.assert_close(method.centroids[nearest], expected, rtol=1e-4, atol=1e-5)
    found = method.part_maps(images)
    assert found.foreground is None
    for x, part in zip((slice(0, 12), slice(20, 32)), nearest, strict=True):
        assert bool((found.labels[:, :12, x] == part).all())


def test_part_maps_do_not_depend_on_how_many_are_described_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    images, masks = torch.rand(7, 3, 32, 32), torch.ones(7, 32, 32)
    method = build(batch_size=3)
    method.fit(passes_over(images, masks))
    found, whole = method.part_maps(images), KMeans.part_maps(method, images)
    assert torch.equal(found.labels, whole.labels)
    assert torch.equal(found.weights, whole.weights)


def test_it_stands_beside_kmeans_at_the_same_terms() -> None:
    ours = methods.resolve(DinoKMeans, "paper", {}, "test")
    theirs = methods.resolve(KMeans, "paper", {}, "test")
    for key in ("k", "l2", "descriptors", "iterations", "restarts"):
        assert getattr(ours, key) == getattr(theirs, key), key
    assert DinoKMeans.learns_from == "mask"
    assert DinoKMeans.paper == ""
    assert DinoKMeans.weights(ours) == ()
    method = build("paper")
    assert list(method.state_dict()) == ["centroids"]
    assert method.centroids.shape == (4, 384)
    assert build("k8", backbone="vit_base_patch14_reg4_dinov2").centroids.shape == (8, 768)


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="'backbone' is 'vit_small'"):
        build(backbone="vit_small")
    plant(monkeypatch)
    images = torch.rand(4, 3, 32, 32)
    with pytest.raises(BadInput, match="4 clusters of 0 descriptors"):
        build().fit(passes_over(images, torch.zeros(4, 32, 32)))
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(BadInput, match="activations of vit_small_patch8_224 are not finite"):
        build().fit(passes_over(images, torch.ones(4, 32, 32)))
