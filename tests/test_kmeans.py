"""K-means on features: the sample, the clustering and the labels against slow versions."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, prepare_toy
from sklearn.cluster import KMeans as Reference

from partbench import method as methods
from partbench.data.batch import Batch
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.method import DataInfo
from partbench.methods.kmeans import KMeans
from partbench.model import load_model
from partbench.nn import perceptual
from partbench.run import Run, Runtime
from partbench.train import train

CPU = Runtime(device="cpu", threads=1, precision="32-true")
SMALL = {"perceptual": "mobilenet", "side": None}
pytestmark = pytest.mark.usefixtures("eyes")


@pytest.fixture
def eyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained MobileNet, the same whenever it is opened."""

    def opened(name: str) -> torch.nn.Sequential:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return perceptual.untrained(name).requires_grad_(False).eval()

    monkeypatch.setattr(perceptual, "load", opened)


def build(size: int = 64, **changes: Any) -> KMeans:
    torch.manual_seed(0)
    settings = methods.resolve(KMeans, "paper", {**SMALL, **changes}, "test")
    return KMeans(settings, DataInfo(size, 0)).eval()


def pictures(n: int = 20, size: int = 64) -> torch.Tensor:
    """Noise that is brighter and coarser from one image to the next."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    fine = torch.rand(n, 3, size, size, generator=generator)
    return (torch.nn.functional.interpolate(coarse, (size, size)) + 0.3 * fine) / 1.3


def discs(n: int = 20, size: int = 64) -> torch.Tensor:
    line = torch.arange(size) - size / 2
    return ((line.square() + line.square().view(-1, 1)).sqrt() < size / 3).float().expand(n, -1, -1)


def passes_over(images: torch.Tensor, masks: torch.Tensor, size: int = 8) -> Any:
    def passes() -> Iterator[Batch]:
        pairs = zip(images.split(size), masks.split(size), strict=True)
        return (Batch(part, None, masks=mask) for part, mask in pairs)

    return passes


def foreground(method: KMeans, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the descriptors of foreground cells one by one, [N, C]."""
    found = method.describe(images)
    cells = found.shape[-1]
    px = masks.shape[-1] // cells
    return torch.stack(
        [
            found[b, :, i, j]
            for b in range(len(images))
            for i in range(cells)
            for j in range(cells)
            if masks[b, px * i : px * i + px, px * j : px * j + px].mean() >= 0.5
        ]
    )


def test_all_foreground_cells_are_taken_where_they_are_few() -> None:
    method, images, masks = build(), pictures(), discs()
    expected = foreground(method, images, masks)
    assert 20 * 10 < len(expected) < 20 * 40  # of 64 cells an image
    torch.testing.assert_close(method._sample(passes_over(images, masks)), expected)


def test_a_bounded_sample_is_drawn_evenly() -> None:
    method, images, masks = build(descriptors=60), pictures(), discs()
    everything = foreground(method, images, masks)
    first, drawn = everything[: len(everything) // 2], torch.zeros(len(everything))
    for seed in range(40):
        torch.manual_seed(seed)
        rows = method._sample(passes_over(images, masks))
        assert rows.shape == (60, 192)
        match = (rows.unsqueeze(1) - everything).abs().amax(2).argmin(1)
        assert len(match.unique()) == 60
        drawn[match] += 1
    share = drawn[: len(first)].sum() / drawn.sum()
    assert abs(share.item() - 0.5) < 4 * 0.5 / math.sqrt(40 * 60)  # batches that come first or last
    assert drawn.max() < 20


@pytest.mark.parametrize("l2", [False, True])
def test_centroids_are_as_good_as_scikit_learn_s(l2: bool) -> None:
    method, images, masks = build(l2=l2), pictures(), discs()
    method.fit(passes_over(images, masks))
    rows = foreground(method, images, masks)
    if l2:
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
    reference = Reference(4, n_init=20, random_state=0).fit(rows.numpy())
    inertia = torch.cdist(rows, method.centroids).amin(1).square().sum().item()
    assert inertia <= 1.001 * reference.inertia_


def test_fit_repeats_itself_and_obeys_the_seed() -> None:
    images, masks, made = pictures(), discs(), []
    for seed in (5, 5, 6):
        method = build(restarts=1, iterations=2)
        torch.manual_seed(seed)
        method.fit(passes_over(images, masks))
        made.append(method.centroids)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_labels_are_the_nearest_centroids_of_upsampled_descriptors() -> None:
    method, images, masks = build(), pictures(), discs()
    method.fit(passes_over(images, masks))
    found = method.part_maps(images[:4])
    up = torch.nn.functional.interpolate(method.describe(images[:4]), (64, 64), mode="bilinear")
    distances = torch.cdist(up.permute(0, 2, 3, 1).double(), method.centroids.double())
    near = distances.topk(2, 3, largest=False).values
    sure = near[..., 1] > (1 + 1e-4) * near[..., 0]
    assert sure.float().mean() > 0.99
    assert torch.equal(found.labels[sure], distances.argmin(3)[sure])
    assert found.foreground is None
    assert found.weights.dtype == torch.float32
    assert torch.equal(found.weights.argmax(1), found.labels)
    assert torch.equal(found.weights.sum(1), torch.ones(4, 64, 64))
    assert len(found.labels.unique()) == 4
    torch.testing.assert_close(method.part_maps(images[:1]).labels, found.labels[:1])


def test_one_cluster_is_the_mean_and_takes_everything() -> None:
    method, images, masks = build(k=1), pictures(), discs()
    method.fit(passes_over(images, masks))
    mean = foreground(method, images, masks).mean(0, keepdim=True)
    torch.testing.assert_close(method.centroids, mean, rtol=1e-3, atol=1e-5)
    assert not method.part_maps(images[:1]).labels.any()


def test_as_many_clusters_as_descriptors() -> None:
    """Each is its own centroid."""
    images, masks = pictures(1), torch.zeros(1, 64, 64)
    masks[:, :16, :8] = 1
    method = build(k=2)
    method.fit(passes_over(images, masks))
    rows = foreground(method, images, masks)
    assert len(rows) == 2
    assert torch.cdist(rows, method.centroids).amin(1).max() < 1e-3


def test_bad_input() -> None:
    images, masks = pictures(4), discs(4)
    with pytest.raises(BadInput, match=r"4 clusters of 0 descriptors.*check its masks"):
        build().fit(passes_over(images, torch.zeros_like(masks)))
    with pytest.raises(BadInput, match=r"500 clusters of \d+ descriptors.*lower `k`"):
        build(k=500).fit(passes_over(images, masks))
    with pytest.raises(BadInput, match="30 clusters of 20 descriptors"):
        build(k=30, descriptors=20).fit(passes_over(images, masks))
    images[1, 0, 32, 32] = math.inf
    with pytest.raises(BadInput, match="activations of mobilenet are not finite"):
        build().fit(passes_over(images, masks))
    with pytest.raises(BadInput, match="'k' is 0"):
        build(k=0)


def test_the_paper_s_descriptors_have_the_paper_s_shape() -> None:
    """Of 256 px, 256 cells of 1024 channels, whatever the size of the prepared images."""
    with torch.device("meta"):
        method = KMeans(methods.resolve(KMeans, "paper", {}, "test"), DataInfo(128, 0))
        assert method.describe(torch.zeros(2, 3, 128, 128)).shape == (2, 1024, 16, 16)
        assert method.centroids.shape == (4, 1024)


def test_the_run_trained_by_the_loop_is_found_again(tmp_path: Path) -> None:
    data = prepare_toy(tmp_path, size=64)
    states = []
    for name in ("first", "second"):
        settings = methods.resolve(KMeans, "paper", SMALL, "test")
        train(Run("kmeans", "paper", "toy", 0), settings, CPU, data, tmp_path / name)
        method = load_model(tmp_path / name / "model.pt", "cpu")[1]
        assert isinstance(method, KMeans)
        states.append(method.centroids)
    assert torch.equal(*states)
    split = Prepared(data).split("test")
    images = torch.from_numpy(np.array(split.images)).permute(0, 3, 1, 2) / 255
    masks = torch.from_numpy(np.array(split.annotation("mask"))).float()
    assert len(images) == TINY["test"]
    rows = foreground(method, images, masks)
    explained = torch.cdist(rows, method.centroids).amin(1).square().mean()
    assert explained < 0.8 * (rows - rows.mean(0)).square().sum(1).mean()
    assert methods.role_of(KMeans, settings) == "method"
