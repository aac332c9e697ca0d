"""STL-10: sparse files of the official sizes, and damaged files."""

import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.data.stl10 import STL10
from partbench.errors import BadInput

BYTES = 3 * 96 * 96
NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
OFFICIAL = {"unlabeled": 100_000, "train": 5_000, "test": 8_000}


def reader(root: Path, **settings: Any) -> STL10:
    return STL10(root, STL10.Settings.parse(settings, "test"))


def prepare_one(data_set: STL10, out: Path, workers: int = 1) -> Prepared:
    prepare(data_set, "mine", out, workers)
    return Prepared(out)


def labels(n: int) -> NDArray[np.uint8]:
    return (np.arange(n) * 7 % 10 + 1).astype(np.uint8)


def folds() -> NDArray[np.int64]:
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(5_000)[:1_000] for _ in range(10)])


def write_folds(root: Path, indices: Any) -> None:
    lines = (" ".join(str(i) for i in fold) for fold in indices)
    path = root / "stl10_binary" / "fold_indices.txt"
    path.write_text("".join(f"{line} \n" for line in lines))


def make(root: Path, **counts: int) -> Path:
    """Write the layout; the images are zeros that take no space on the disk."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for split, n in counts.items():
        (folder / f"{split}_X.bin").touch()
        os.truncate(folder / f"{split}_X.bin", n * BYTES)
        if split != "unlabeled":
            (folder / f"{split}_y.bin").write_bytes(labels(n).tobytes())
    (folder / "class_names.txt").write_text("\n".join(NAMES) + "\n")
    write_folds(root, folds())
    return root


def put(root: Path, split: str, index: int, image: NDArray[np.uint8]) -> None:
    """Write an image [96, 96, 3] as the official files store it: plane by plane, in columns."""
    with (root / "stl10_binary" / f"{split}_X.bin").open("rb+") as file:
        file.seek(index * BYTES)
        for channel in range(3):
            for column in range(96):
                file.write(image[:, column, channel].tobytes())


def noise(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (96, 96, 3), np.uint8)


def test_pixels_of_official_files(tmp_path: Path) -> None:
    make(tmp_path, **OFFICIAL)
    data_set = reader(tmp_path)
    for seed, (split, index) in enumerate(
        [("unlabeled", 0), ("unlabeled", 99_999), ("train", 4_999), ("test", 7_999)]
    ):
        put(tmp_path, split, index, noise(seed))
        sample = data_set.sample(split, index)
        np.testing.assert_array_equal(sample.image, noise(seed))
        assert sample.image.dtype == np.uint8
        assert sample.name == f"{index:05d}"
        assert sample.label == (None if split == "unlabeled" else labels(8_000)[index] - 1)
    assert (
        {split: len(names) for split, names in data_set.splits().items()}
        == OFFICIAL
        == data_set.counts
    )
    assert data_set.splits()["unlabeled"][99_999] == "99999"


def test_a_file_is_never_read_whole(tmp_path: Path) -> None:
    make(tmp_path, **OFFICIAL)
    data_set = reader(tmp_path)
    tracemalloc.start()
    for index in range(0, 100_000, 9_999):
        data_set.sample("unlabeled", index)
    assert data_set.present("unlabeled") == range(100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * BYTES


def test_from_files_to_arrays(tmp_path: Path) -> None:
    make(tmp_path, train=5_000, test=8)
    images = {("train", 300): noise(1), ("test", 5): noise(2)}
    for (split, index), image in images.items():
        put(tmp_path, split, index, image // 8 * 8)
    with pytest.raises(BadInput, match=r"unlabeled_X.bin is missing; unpack stl10_binary.tar.gz"):
        reader(tmp_path, size=8).splits()
    data = prepare_one(reader(tmp_path, size=8, subset=True), tmp_path / "small")
    assert data.meta["splits"] == {
        "train": {"n": 5_000, "missing": 0, "skipped": []},
        "test": {"n": 8, "missing": 7_992, "skipped": []},
    }
    assert data.meta["class_names"] == list(NAMES)
    train = data.split("train")
    assert [i for i, image in enumerate(train.images) if image.any()] == [300]
    classes = train.annotation("labels")
    assert classes.dtype == np.int64
    np.testing.assert_array_equal(classes, labels(5_000).astype(int) - 1)
    assert set(classes.tolist()) == set(range(10))
    np.testing.assert_array_equal(train.annotation("folds"), folds())
    assert train.annotation("folds").dtype == np.int64
    assert train.annotation("folds").max() > 255
    assert not data.split("test").has("folds")
    names = (tmp_path / "small" / "train.names.txt").read_text().split()
    assert names == [f"{i:05d}" for i in range(5_000)]


@pytest.mark.parametrize("workers", [1, 2])
def test_native_pixels_are_kept(workers: int, tmp_path: Path) -> None:
    counts = {"unlabeled": 300, "train": 2, "test": 2}
    make(tmp_path, **counts)
    for split in counts:
        for index in (0, counts[split] - 1):
            put(tmp_path, split, index, noise(index))
    data = prepare_one(reader(tmp_path, subset=True), tmp_path / "out", workers)
    assert data.size == 96
    assert data.meta["subset"] is True
    for split, n in counts.items():
        assert data.meta["splits"][split] == {"n": n, "missing": OFFICIAL[split] - n, "skipped": []}
        for index in (0, n - 1):
            np.testing.assert_array_equal(data.split(split).images[index], noise(index))
    assert not data.split("unlabeled").has("labels")
    assert not data.split("train").has("folds")  # they index a train of 5,000
    assert data.training_split("images").name == "unlabeled"


@pytest.mark.parametrize("split", ["unlabeled", "train", "test"])
def test_files_of_another_size(split: str, tmp_path: Path) -> None:
    make(tmp_path, **OFFICIAL)
    path = tmp_path / "stl10_binary" / f"{split}_X.bin"
    n = OFFICIAL[split]

    os.truncate(path, (n - 1) * BYTES)
    images = rf"which is {n - 1:,} images of 27,648 bytes instead of {n:,}: .*unpack"
    message = rf"{split}_X.bin has [\d,]+ bytes, {images} .*, or set `subset: true`"
    with pytest.raises(BadInput, match=message):
        reader(tmp_path).splits()

    for size, images in ((3 * BYTES + BYTES // 2, "3.5"), ((n + 1) * BYTES, f"{n + 1:,}")):
        os.truncate(path, size)
        for subset in (False, True):
            with pytest.raises(BadInput, match=rf"which is {images} images .*unpack") as error:
                reader(tmp_path, subset=subset).splits()
            assert "subset: true" not in str(error.value)  # it would not help


@pytest.mark.parametrize("label", [0, 11, 255])
def test_labels_out_of_range(label: int, tmp_path: Path) -> None:
    make(tmp_path, **OFFICIAL)
    values = labels(8_000)
    values[[7, 90]] = label
    (tmp_path / "stl10_binary" / "test_y.bin").write_bytes(values.tobytes())
    message = (
        rf"test_y.bin, row 7 \(from 0\): label {label} is not between 1 and 10; unpack stl10_binary"
    )
    with pytest.raises(BadInput, match=message):
        reader(tmp_path).sample("train", 0)


def test_labels_of_another_number(tmp_path: Path) -> None:
    make(tmp_path, **OFFICIAL)
    (tmp_path / "stl10_binary" / "train_y.bin").write_bytes(labels(4_999).tobytes())
    with pytest.raises(
        BadInput, match=r"train_y.bin has 4,999 labels, but train_X.bin has 5,000 images; u"
    ):
        reader(tmp_path).sample("train", 0)


def test_folds(tmp_path: Path) -> None:
    make(tmp_path, **OFFICIAL)
    data_set = reader(tmp_path)
    assert data_set.folds("train") == folds().tolist()
    for split in ("test", "unlabeled"):
        assert data_set.folds(split) == ()


@pytest.mark.parametrize("value", [5_000, -1, 1.5, "one", 256 + 1_000_000])
def test_folds_with_a_wrong_index(value: Any, tmp_path: Path) -> None:
    make(tmp_path, **OFFICIAL)
    indices = folds().tolist()
    indices[3][999] = value
    write_folds(tmp_path, indices)
    with pytest.raises(
        BadInput, match=r"indices.txt, line 4: expected 1,000 different .*to 4,999; unp"
    ):
        reader(tmp_path).folds("train")


def test_folds_of_another_shape(tmp_path: Path) -> None:
    make(tmp_path, **OFFICIAL)
    indices = folds().tolist()
    wrapped = [*indices[:1], [i % 256 for i in indices[1]], *indices[2:]]
    short = [*indices[:1], indices[1][:-1], *indices[2:]]
    for wrong in (wrapped, short):
        write_folds(tmp_path, wrong)
        with pytest.raises(BadInput, match=r"fold_indices.txt, line 2: expected 1,000 different"):
            reader(tmp_path).folds("train")
    write_folds(tmp_path, indices[:9])
    with pytest.raises(BadInput, match=r"fold_indices.txt has 9 lines, not 10; unpack stl10_bin"):
        reader(tmp_path).folds("train")


@pytest.mark.parametrize("subset", [False, True])
def test_missing_files(subset: bool, tmp_path: Path) -> None:
    data_set = reader(tmp_path, subset=subset)
    with pytest.raises(BadInput, match=r"_X.bin is missing; unpack stl10_binary.tar.gz \(cs.stan"):
        data_set.splits()
    make(tmp_path, **OFFICIAL)
    readings = {
        "train_X.bin": lambda data_set: data_set.splits(),
        "test_X.bin": lambda data_set: data_set.splits(),
        "train_y.bin": lambda data_set: data_set.sample("train", 0),
        "test_y.bin": lambda data_set: data_set.sample("test", 0),
        "class_names.txt": lambda data_set: data_set.class_names,
        "fold_indices.txt": lambda data_set: data_set.folds("train"),
    }
    for name, read in readings.items():
        path = tmp_path / "stl10_binary" / name
        path.rename(tmp_path / name)
        with pytest.raises(BadInput, match=rf"{path} is missing; unpack stl10_binary.tar.gz"):
            read(reader(tmp_path, subset=subset))
        (tmp_path / name).rename(path)
        read(reader(tmp_path, subset=subset))


def test_class_names_of_another_number(tmp_path: Path) -> None:
    make(tmp_path, **OFFICIAL)
    (tmp_path / "stl10_binary" / "class_names.txt").write_text("airplane\nbird\n")
    with pytest.raises(BadInput, match=r"class_names.txt has 2 names, not 10; unpack stl10_binary"):
        _ = reader(tmp_path).class_names
