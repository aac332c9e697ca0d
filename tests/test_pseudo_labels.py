"""Clusters of a run's features, and the network that learns them as if they were labels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import prepare_toy
from sealed import reseal
from sklearn.metrics import homogeneity_score

from partbench import cli
from partbench import config as grid
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


# In a configuration, and as a stage.

CONFIG: dict[str, Any] = {
    "name": "told",
    "seeds": [0, 1],
    "data": {
        "toy": {"reader": "toy", "size": 32, "train": 64, "val": 1, "test": 16},
        "large": {"reader": "toy", "size": 48, "train": 64, "val": 1, "test": 16},
        "told": {"of": "large", "by": "random_init/demo/toy/0", "clusters": 8, "dimensions": 7},
    },
    "runs": [
        {
            "train": "told",
            "methods": {"knowledge_transfer": ["demo"]},
            "probes": {"transfer": ["toy"]},
        }
    ],
}


def test_the_grid_holds_the_run_whose_features_are_clustered() -> None:
    config = grid.check(CONFIG, "test")
    assert set(grid.runs(config)) == {
        Run("knowledge_transfer", "demo", "told", 0),
        Run("knowledge_transfer", "demo", "told", 1),
        Run("random_init", "demo", "toy", 0),
    }
    assert grid.data_settings(config, "told").size == 48
    assert grid.predicted_foreground(config, "told") is None
    asked = grid.pseudo_labels(config, "told")
    assert asked is not None
    assert asked.clustering == ClusterSettings(clusters=8, dimensions=7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"of": "toys"}, "no data set 'toys' .*toy"),
        ({"of": "told"}, "no data set 'told'"),
        ({"by": "random_init/demo/other/0"}, "no data set 'other'"),
        ({"by": "random_init/demo/told/0"}, "no data set 'told'"),
        ({"by": "random_init/demo/toy"}, "by"),
        ({"by": "random_int/demo/toy/0"}, "no 'random_int'"),
        ({"by": "random_init/dem/toy/0"}, "no variant 'dem'"),
        ({"by": "raw_pixels/paper/toy/0"}, "raw_pixels offers no trunks"),
        ({"part": "encodr"}, r"data\.told\.part: random_init has no part 'encodr'; .*encoder"),
        ({"part": "discriminator"}, "random_init has no part 'discriminator'; .*encoder"),
        ({"clusters": 1}, "clusters"),
        ({"size": 3}, "size"),
    ],
)
def test_what_cannot_be_clustered(change: dict[str, Any], message: str) -> None:
    entry = {**CONFIG["data"]["told"], **change}
    with pytest.raises(BadInput, match=message):
        grid.check({**CONFIG, "data": {**CONFIG["data"], "told": entry}}, "test")


def test_a_data_set_without_clusters_is_refused_before_anything_runs() -> None:
    block = {**CONFIG["runs"][0], "train": "large"}
    message = (
        r"knowledge_transfer learns from clusters of features, but the data set 'large' has none; "
        r".*make one of it: `\{of: large, by: METHOD/VARIANT/DATA/SEED, clusters: 2000\}`"
    )
    with pytest.raises(BadInput, match=message):
        grid.check({**CONFIG, "runs": [block]}, "test")


def test_the_stage_writes_a_sheet(model: Path, patterns: Path, tmp_path: Path) -> None:
    arguments = ["--data-set", "told", "--model", str(model), "--data", str(patterns)]
    arguments += ["--settings", '{"clusters": 4}', "--out", str(tmp_path / "told")]
    assert cli.main(["clusters", *arguments, "--runtime", CPU.model_dump_json()]) == 0
    assert (tmp_path / "told" / "clusters.png").exists()
    about = json.loads((tmp_path / "told" / "meta.json").read_text())["clusters"]
    assert (about["clusters"], about["by"]) == (4, "random_init/demo/toy/0")
