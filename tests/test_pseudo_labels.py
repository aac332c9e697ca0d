"""Clusters of a run's features, and the network that learns them as if they were labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import prepare_toy
from sealed import reseal
from sklearn.metrics import homogeneity_score

from partbench.clustering import ClusterSettings
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.integrity import read_record
from partbench.method import load, resolve
from partbench.model import load_model
from partbench.pseudo_labels import find_clusters
from partbench.run import Run, Runtime
from partbench.train import train

CPU = Runtime(device="cpu", threads=1)


def clustered(model: Path, data: Path, out: Path, **settings: Any) -> Path:
    chosen = ClusterSettings.parse({"clusters": 8} | settings, "test")
    find_clusters("clusters", model, data, out / "clusters", chosen, "cpu", 1)
    return out / "clusters"


@pytest.fixture(scope="module")
def model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained encoder, which learnt nothing at 32 px."""
    out = tmp_path_factory.mktemp("model")
    chosen = resolve(load("random_init"), "demo", {"encoder_width": 4}, "test")
    train(Run("random_init", "demo", "toy", 0), chosen, CPU, tiny, out)
    return out / "model.pt"


@pytest.fixture(scope="module")
def patterns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 48 px, each the pattern of its class and some noise."""
    data = prepare_toy(tmp_path_factory.mktemp("patterns"), size=48)
    draw = np.random.default_rng(0)
    kinds = draw.integers(0, 256, (8, 6, 6, 3)).repeat(8, 1).repeat(8, 2)
    for split in ("train", "val", "test"):
        labels = np.load(data / f"{split}.labels.npy")
        noise = draw.integers(-5, 6, (len(labels), 48, 48, 3))
        np.save(data / f"{split}.images.npy", (kinds[labels] + noise).clip(0, 255).astype(np.uint8))
    return reseal(data)


def test_images_that_look_alike_get_the_same_cluster(
    model: Path, patterns: Path, tmp_path: Path
) -> None:
    # All components would be mostly noise: there are hardly more images.
    data = Prepared(clustered(model, patterns, tmp_path, clusters=16, dimensions=7))
    names: dict[int, set[int]] = {}
    for split in ("train", "val", "test"):
        labels = np.array(data.split(split).annotation("clusters"))
        truth = np.array(Prepared(patterns).split(split).annotation("labels"))
        assert labels.dtype == np.int64
        assert homogeneity_score(truth, labels) == pytest.approx(1)
        for label, true in zip(labels.tolist(), truth.tolist(), strict=True):
            names.setdefault(label, set()).add(true)
    assert all(len(kinds) == 1 for kinds in names.values())  # the same in all splits


def test_what_is_not_new_is_the_old_data_set_s(model: Path, patterns: Path, tmp_path: Path) -> None:
    out = clustered(model, patterns, tmp_path)
    new, old = Prepared(out).meta, Prepared(patterns).meta
    assert new["data_set"] == "clusters"
    assert (Prepared(out).clusters, Prepared(patterns).clusters) == (8, 0)
    assert new["checksum"] != old["checksum"]
    about = new["clusters"]
    assert (about["by"], about["of"], about["part"]) == ("random_init/demo/toy/0", "toy", "encoder")
    kept = set(old) - {"data_set", "checksum", "code"}
    assert {key: new[key] for key in kept} == {key: old[key] for key in kept}
    assert (out / "train.images.npy").samefile(patterns / "train.images.npy")
    assert not (out / "work").exists()
    again = clustered(model, patterns, tmp_path / "again")
    assert read_record(again / "meta.json")["checksum"] == new["checksum"]


def test_labels_are_nearest_centroids_of_whitened_features(
    model: Path, tiny: Path, tmp_path: Path
) -> None:
    out = clustered(model, tiny, tmp_path, clusters=5, dimensions=6)
    _, method = load_model(model, "cpu")
    images = torch.from_numpy(np.array(Prepared(tiny).split("train").images)).movedim(-1, 1) / 255
    with torch.inference_mode():
        x = method.features(images).double().numpy()  # type: ignore[operator]
    centred = x - x.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    along = centred @ axes[:6].T
    white = along / along.std(0)
    white /= np.linalg.norm(white, axis=1, keepdims=True)
    labels = np.load(out / "train.clusters.npy")
    centroids = np.stack([white[labels == k].mean(0) for k in range(5)])
    nearest = ((white[:, None] - centroids) ** 2).sum(2).argmin(1)
    assert (nearest == labels).mean() > 0.95  # k-means stopped before its last assignment
    spread = sum(((white[labels == k] - centroids[k]) ** 2).sum() for k in range(5))
    assert spread < 0.8 * ((white - white.mean(0)) ** 2).sum()


def test_alexnet_learns_the_clusters(model: Path, patterns: Path, tmp_path: Path) -> None:
    data = clustered(model, patterns, tmp_path)
    settings = resolve(load("knowledge_transfer"), "demo", {"epochs": 1, "batch_size": 8}, "test")
    run = Run("knowledge_transfer", "demo", "clusters", 0)
    train(run, settings, CPU, data, tmp_path / "run")
    _, method = load_model(tmp_path / "run" / "model.pt", "cpu")
    assert method.head[1].out_features == 8  # type: ignore[index, union-attr]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clusters": 65}, "64 training images for 65 clusters; lower `clusters`"),
        ({"part": "encodr"}, "there is no part 'encodr'; .*encoder"),
    ],
)
def test_settings_that_do_not_fit(
    settings: dict[str, Any], message: str, model: Path, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        clustered(model, tiny, tmp_path, **settings)
    assert not (tmp_path / "clusters").exists()


def test_a_run_without_trunks(tiny: Path, tmp_path: Path) -> None:
    chosen = resolve(load("raw_pixels"), "paper", {}, "test")
    train(Run("raw_pixels", "paper", "toy", 0), chosen, CPU, tiny, tmp_path)
    with pytest.raises(BadInput, match="raw_pixels has no trunks, hence no features to cluster"):
        clustered(tmp_path / "model.pt", tiny, tmp_path)


def test_whole_images_are_refused(model: Path, tmp_path: Path) -> None:
    data = prepare_toy(tmp_path, crop="whole")
    with pytest.raises(BadInput, match="clusters are of square images"):
        clustered(model, data, tmp_path)
