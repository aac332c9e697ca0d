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
