"""What waits for a file that a person must place, and what does not."""

import copy
from pathlib import Path
from typing import Any

import pytest

from partbench.absent import absent_cells
from partbench.config import check
from partbench.data.archives import archives

BY_HAND = "indoorCVPR_09.tar"
CONFIG: dict[str, Any] = {
    "name": "test",
    "seeds": [0],
    "data": {
        "toy": {"reader": "toy", "size": 32},
        "stl10": {"reader": "stl10", "size": 32},
        "rooms": {"reader": "indoor67", "size": 32},
        "folder": {"reader": "folder", "path": "mistyped", "size": 32},
        "scenes": {"reader": "places205", "size": 32},
        "found": {"of": "toy", "by": "principal_foreground/demo/rooms/0"},
    },
    "runs": [
        {"train": train, "methods": {method: [variant]}, "probes": {probe: [measured]}}
        for train, method, variant, probe, measured in (
            ("toy", "random_init", "demo", "linear", "toy"),
            ("stl10", "random_init", "demo", "linear", "stl10"),
            ("rooms", "random_init", "demo", "linear", "toy"),
            ("toy", "random_init", "demo", "linear", "rooms"),
            ("found", "random_parts", "demo", "parts", "found"),
            ("toy", "dino_parts", "paper", "parts", "toy"),
            ("toy", "dino_parts", "demo", "parts", "toy"),
            ("toy", "dlp", "k30+released", "landmarks", "toy"),
            ("folder", "random_init", "demo", "linear", "folder"),
            ("scenes", "random_init", "demo", "linear", "scenes"),
        )
    ],
}
ROOMS = {
    "random_init/demo/rooms/0/toy/linear",
    "random_init/demo/toy/0/rooms/linear",
    "random_parts/demo/found/0/found/parts",
}
OTHERS = {
    "dino_parts/paper/toy/0/toy/parts",
    "dlp/k30+released/toy/0/toy/landmarks",
    "random_init/demo/scenes/0/scenes/linear",
}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PARTBENCH_MIRROR", "PARTBENCH_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def absent(results: Path, **data: Any) -> dict[str, str]:
    config = copy.deepcopy(CONFIG)
    for name, settings in data.items():
        config["data"][name] |= settings
    return absent_cells(check(config, "test"), results)


def test_only_what_a_person_must_place_is_waited_for(tmp_path: Path) -> None:
    reasons = absent(tmp_path)
    assert set(reasons) == ROOMS | OTHERS
    first = reasons["random_init/demo/rooms/0/toy/linear"]
    assert first.startswith(f"the data set rooms lacks {BY_HAND}: get {BY_HAND}")
    assert "TrainImages.txt" in first  # all that is lacking, at once
    assert reasons["random_parts/demo/found/0/found/parts"] == first
    assert reasons["dlp/k30+released/toy/0/toy/landmarks"].startswith(
        "the weights dlp_celeba lacks"
    )
    assert "dino_deitsmall8_pretrain.pth is missing" in reasons["dino_parts/paper/toy/0/toy/parts"]
    assert "train_places205.csv is missing" in reasons["random_init/demo/scenes/0/scenes/linear"]


def test_a_placed_archive_is_enough(root: Path, tmp_path: Path) -> None:
    (root / "archives").mkdir(parents=True)
    for file in archives("indoor67"):
        (root / "archives" / file.name).touch()
    assert set(absent(tmp_path)) == OTHERS


@pytest.mark.parametrize("stage", ["rooms.files.json", "rooms/meta.json"])
def test_what_was_made_needs_no_archive(stage: str, tmp_path: Path) -> None:
    (tmp_path / "data" / stage).parent.mkdir(parents=True)
    (tmp_path / "data" / stage).touch()
    assert set(absent(tmp_path)) == OTHERS


def test_a_trained_run_needs_its_data_no_more(tmp_path: Path) -> None:
    cell = "random_init/demo/rooms/0/toy/linear"
    model = tmp_path / "runs/random_init/demo/rooms/0/model.pt"
    model.parent.mkdir(parents=True)
    model.touch()
    assert set(absent(tmp_path)) == (ROOMS | OTHERS) - {cell}


def test_a_subset_takes_what_is_there(tmp_path: Path) -> None:
    assert set(absent(tmp_path, rooms={"subset": True})) == OTHERS


def test_a_mirror_has_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    monkeypatch.setenv("PARTBENCH_MIRROR", str(mirror))
    assert set(absent(tmp_path)) == ROOMS | OTHERS
    for file in archives("indoor67"):
        (mirror / file.name).touch()
    assert set(absent(tmp_path)) == OTHERS
    # An address may have everything that has a name.
    monkeypatch.setenv("PARTBENCH_MIRROR", "http://mirror.example")
    assert set(absent(tmp_path)) == OTHERS - {"dlp/k30+released/toy/0/toy/landmarks"}


def test_without_internet_every_file_that_is_not_there_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_OFFLINE", "1")
    assert set(absent(tmp_path)) == ROOMS | OTHERS | {"random_init/demo/stl10/0/stl10/linear"}


DERIVED: dict[str, dict[str, Any]] = {
    "found": {"of": "tight", "by": "foreground/demo/whole/0", "found_in": "birds"},
    "clusters": {"of": "stl10", "by": "random_init/demo/rooms/0", "clusters": 2},
    "scenes": {"of": "stl10", "neighbours": {}},
    "whole-scenes": {"of": "whole", "neighbours": {"network": "random"}},
    "placed-scenes": {"of": "toy", "neighbours": {"network": "mobilenet"}},
    "timm-scenes": {"of": "toy", "neighbours": {"network": "timm:resnet18", "weights": "a.pth"}},
}
"""Data sets that repeat others."""


def derived(results: Path, **generation: Any) -> dict[str, str]:
    """Return what is absent of cells on data sets that repeat others, and of generated images."""
    base: dict[str, dict[str, Any]] = {
        name: CONFIG["data"][name] for name in ("toy", "stl10", "rooms")
    }
    cut = {
        "birds": {"reader": "cub", "size": 32, "crop": "whole", "border": "kept"},
        "tight": {"reader": "cub", "size": 32, "crop": "tight"},
        "whole": base["rooms"] | {"crop": "whole"},
    }
    values = {
        "name": "test",
        "seeds": [0],
        "data": base | cut | DERIVED,
        "probes": {"generation": generation},
        "runs": [
            {
                "train": "toy",
                "methods": {"random_init": ["demo"]},
                "probes": {"linear": sorted(DERIVED)},
            },
            {"train": "toy", "methods": {"vae": ["demo"]}, "probes": {"generation": ["toy"]}},
        ],
    }
    reasons = absent_cells(check(values, "test"), results)
    return {cell.split("/", 4)[4].removesuffix("/linear"): why for cell, why in reasons.items()}


def made(results: Path, *places: str) -> None:
    for place in places:
        (results / place).parent.mkdir(parents=True, exist_ok=True)
        (results / place).touch()


def test_data_that_repeat_others_wait_for_what_their_making_reads(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand = {"placed-scenes", "timm-scenes"}
    assert derived(tmp_path).keys() == {"found", "clusters", "whole-scenes"} | by_hand
    monkeypatch.setenv("PARTBENCH_OFFLINE", "1")
    reasons = derived(tmp_path)
    assert reasons.keys() == {*DERIVED, "toy/generation"}
    for name in ("clusters", "scenes"):
        assert reasons[name].startswith("the data set stl10 lacks")
    assert reasons["found"].startswith("the data set tight lacks")
    assert reasons["whole-scenes"].startswith("the data set whole lacks")
    assert str(root / "weights/mobilenetV1X0.25_pretrain.tar") in reasons["placed-scenes"]
    assert str(root / "a.pth") in reasons["timm-scenes"]
    # Prepared data need no archive: the next thing that is lacking is named.
    made(tmp_path, "data/tight/meta.json")
    assert derived(tmp_path)["found"].startswith("the data set birds lacks")
    made(tmp_path, "data/birds/meta.json", "data/stl10/meta.json")
    reasons = derived(tmp_path)
    assert reasons["found"].startswith("the data set whole lacks")  # its run learns from them
    assert reasons["clusters"].startswith("the data set rooms lacks")
    assert reasons["scenes"].startswith("the weights deepcluster_alexnet lacks")
    made(tmp_path, "data/rooms/meta.json", "weights/deepcluster_alexnet.files.json")
    assert derived(tmp_path).keys() == {"found", "whole-scenes", "toy/generation"} | by_hand
    # The search reads images that keep their aspect once more.
    made(tmp_path, "data/whole.files.json", "data/whole/meta.json")
    reasons = derived(tmp_path)
    assert reasons.keys() == {"whole-scenes", "toy/generation"} | by_hand
    assert reasons["whole-scenes"].startswith("the data set whole lacks")
    made(root, *(f"archives/{file.name}" for file in archives("indoor67")))
    made(root, "a.pth", "weights/mobilenetV1X0.25_pretrain.tar")
    assert derived(tmp_path).keys() == {"toy/generation"}


def test_a_trained_run_is_enough_to_cluster_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_OFFLINE", "1")
    made(tmp_path, "data/stl10/meta.json")
    assert "clusters" in derived(tmp_path)
    made(tmp_path, "runs/random_init/demo/rooms/0/model.pt")
    assert "clusters" not in derived(tmp_path)


def test_what_was_derived_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTBENCH_OFFLINE", "1")
    made(tmp_path, *(f"data/{name}/meta.json" for name in DERIVED))
    assert derived(tmp_path).keys() == {"toy/generation"}


def test_a_probe_waits_for_its_network(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "toy/generation" not in derived(tmp_path)  # Inception can be fetched
    for network, file in (
        ("dinov2", "weights/dinov2_vitl14_pretrain.pth"),
        ("mobilenet", "weights/mobilenetV1X0.25_pretrain.tar"),
    ):
        assert str(root / file) in derived(tmp_path, network=network)["toy/generation"]
        made(root, file)
        assert "toy/generation" not in derived(tmp_path, network=network)
    monkeypatch.setenv("PARTBENCH_OFFLINE", "1")
    reason = derived(tmp_path)["toy/generation"]
    assert reason.startswith("the weights inception lacks pt_inception-2015-12-05-6726825d.pth")
    assert "toy/generation" not in derived(tmp_path, network="random")
    made(root, *(file.gives[""] for file in archives("inception")))
    assert "toy/generation" not in derived(tmp_path)


def test_a_run_waits_for_the_weights_of_its_activations(root: Path, tmp_path: Path) -> None:
    file = "weights/own.pth"
    timm = {"layer": "last", "weights_file": file, "pretrained_on": "no labels"}
    config = check(
        {
            "name": "test",
            "seeds": [0],
            "data": {"toy": {"reader": "toy", "size": 32}},
            "settings": {
                "pooling": {"backbone": "timm:vit_small_patch16_224", **timm},
                "vlad": {"backbone": "mobilenet", "layer": "stride32"},
            },
            "runs": [
                {
                    "train": "toy",
                    "methods": {
                        "pooling": ["demo"],
                        "vlad": ["demo"],
                        "random_init": ["demo"],
                    },
                    "probes": {"linear": ["toy"]},
                }
            ],
        },
        "test",
    )
    waiting = absent_cells(config, tmp_path)
    assert {cell.partition("/")[0] for cell in waiting} == {"pooling", "vlad"}
    assert str(root / file) in waiting["pooling/demo/toy/0/toy/linear"]
    made(root, file)
    made(root, "weights/mobilenetV1X0.25_pretrain.tar")
    assert absent_cells(config, tmp_path) == {}


@pytest.mark.parametrize(
    ("variant", "waits"), [("deepcluster", True), ("deepcluster+untrained", False)]
)
def test_a_run_waits_for_the_weights_of_its_loss(
    variant: str, waits: bool, root: Path, tmp_path: Path
) -> None:
    methods = {"unsup_parts": [variant]}
    config = check(
        {
            "name": "test",
            "seeds": [0],
            "data": {"toy": {"reader": "toy", "size": 64}},
            "settings": {"unsup_parts": {"weights": "none"}},
            "runs": [{"train": "toy", "methods": methods, "probes": {"parts": ["toy"]}}],
        },
        "test",
    )
    file = str(root / "weights/deepcluster_vgg16.pth.tar")
    assert any(file in why for why in absent_cells(config, tmp_path).values()) == waits
    made(root, "weights/deepcluster_vgg16.pth.tar")
    trunk = config.model_copy(update={"settings": {"unsup_parts": {"weights": "own.pth"}}})
    reasons = absent_cells(trunk, tmp_path).values()
    assert any(str(root / "own.pth") in why for why in reasons) == waits
