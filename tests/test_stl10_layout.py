"""Other images in STL-10's layout, read back by its own reader."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from partbench import cli
from partbench.data.stl10 import STL10
from partbench.data.stl10_layout import write_as_stl10
from partbench.errors import BadInput


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 links to one image of each of ten classes, and some test and unlabelled images."""
    folder = tmp_path_factory.mktemp("images") / "ten"
    for c in range(10):
        for split, n in (("train", 500), ("test", 2 + c % 2)):
            of_class = folder / split / f"class{c}"
            of_class.mkdir(parents=True)
            rows = np.arange(64)[:, None] * [[2]] + np.zeros((64, 64), int)
            image = np.stack([rows, rows.T, np.full((64, 64), 20 * c)], 2).astype(np.uint8)
            Image.fromarray(image).save(of_class / "0000.png")
            for i in range(1, n):
                (of_class / f"{i:04d}.png").symlink_to(of_class / "0000.png")
    (folder / "unlabeled").mkdir()
    for name in ("a", "b", "c"):
        (folder / "unlabeled" / f"{name}.png").symlink_to(folder / "train" / "class3" / "0000.png")
    return folder


@pytest.fixture(scope="module")
def root(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    assert write_as_stl10(images, root) == root / "stl10_binary"
    return root


def test_its_reader_reads_it(root: Path) -> None:
    reader = STL10(root, STL10.Settings.parse({"subset": True}, "test"))
    counts = {split: len(reader.present(split)) for split in reader.splits()}
    assert counts == {"unlabeled": 3, "train": 5000, "test": 25}
    assert list(reader.class_names) == [f"class{c}" for c in range(10)]
    for split, index in (("train", 0), ("train", 499), ("train", 4999), ("test", 7), ("test", 24)):
        sample = reader.sample(split, index)
        c = sample.label
        assert c is not None
        assert sample.image.shape == (96, 96, 3)
        assert abs(int(sample.image[48, 48, 2]) - 20 * c) <= 1
        assert np.diff(sample.image[:, 48, 0].astype(int)).min() >= 0  # rows stay rows
        assert np.ptp(sample.image[48, :, 0]) <= 1
    assert reader.sample("unlabeled", 0).label is None


def test_the_folds_have_100_images_of_each_class(root: Path) -> None:
    reader = STL10(root, STL10.Settings.parse({"subset": True}, "test"))
    labels = np.fromfile(root / "stl10_binary" / "train_y.bin", np.uint8) - 1
    assert np.bincount(labels).tolist() == [500] * 10
    assert np.mean(labels[1:] == labels[:-1]) < 0.2  # not class by class
    folds = reader.folds("train")
    assert len(folds) == 10
    for fold in folds:
        assert np.bincount(labels[fold]).tolist() == [100] * 10
    assert len({tuple(fold) for fold in folds}) == 10


def test_what_is_not_as_stl10_is_refused(root: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="stl10_binary is there already"):
        write_as_stl10(images, root)
    few = tmp_path / "few"
    for split in ("train", "test"):
        (few / split / "a").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(few / split / "a" / "1.png")
    with pytest.raises(BadInput, match=r"\[1, 0, .*training images by class; STL-10 has 500"):
        write_as_stl10(few, tmp_path)
    (images / "train" / "class0" / "0001.png").rename(tmp_path / "0001.png")
    try:
        with pytest.raises(BadInput, match=r"\[499, 500, "):
            write_as_stl10(images, tmp_path)
    finally:
        (tmp_path / "0001.png").rename(images / "train" / "class0" / "0001.png")
    with pytest.raises(BadInput, match="no such folder"):
        write_as_stl10(tmp_path / "nothing", tmp_path)
    assert not (tmp_path / "stl10_binary").exists()


def test_the_command(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    (tmp_path / "stl10_binary").mkdir()
    assert cli.main(["data", "as-stl10", str(images)]) == 1
    (tmp_path / "stl10_binary").rmdir()
    assert cli.main(["data", "as-stl10", str(images)]) == 0
    assert (tmp_path / "stl10_binary" / "fold_indices.txt").exists()
