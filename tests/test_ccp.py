"""The reader of Clothing Co-Parsing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from partbench.data.ccp import CCP
from partbench.data.matlab import read_mat
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.errors import BadInput

LABELS = ["null", "hair", "shoes", "skin"]


def reader(root: Path, **settings: Any) -> CCP:
    return CCP(root, CCP.Settings.parse(settings, "test"))


def save_pair(root: Path, number: int, labels: Any) -> None:
    """Write a photo in which the red of a pixel is 50 times its label, and its annotation."""
    labels = np.asarray(labels)
    image = np.zeros((*labels.shape, 3), np.uint8)
    image[..., 0] = 50 * labels
    for folder in ("photos", "annotations/pixel-level"):
        (root / "ccp" / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(root / "ccp" / "photos" / f"{number:04d}.jpg", quality=100)
    annotation = root / "ccp" / "annotations" / "pixel-level" / f"{number:04d}.mat"
    savemat(annotation, {"groundtruth": labels.astype(np.uint8)})


def save_labels(root: Path, names: list[str]) -> None:
    (root / "ccp").mkdir(exist_ok=True)
    savemat(root / "ccp" / "label_list.mat", {"label_list": np.array(names, object)[None]})


def make(root: Path) -> Path:
    """Photos 4, 5, 7 and 1,000 of the miniature's four labels, 8 x 8."""
    for number in (4, 5, 7, 1_000):
        save_pair(root, number, np.roll(np.kron(np.arange(4), np.ones((8, 2))), number, 1))
    save_labels(root, LABELS)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path)


def test_the_split_follows_from_the_number(tmp_path: Path) -> None:
    splits = reader(tmp_path).splits()
    assert {split: len(names) for split, names in splits.items()} == CCP.counts
    assert sum(CCP.counts.values()) == 1_004
    assert splits["train"][:5] == ["0001.jpg", "0002.jpg", "0003.jpg", "0004.jpg", "0006.jpg"]
    assert splits["train"][-1] == "1004.jpg"
    assert splits["test"][:2] == ["0005.jpg", "0010.jpg"]
    assert splits["test"][-1] == "1000.jpg"


def test_labels_become_parts_and_foreground(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(reader(root, size=8, subset=True), "ccp", out, workers=1)
    data = Prepared(out)
    assert data.meta["part_names"] == LABELS[1:]
    assert {s: (e["n"], e["missing"]) for s, e in data.meta["splits"].items()} == {
        "train": (2, 802),
        "test": (2, 198),
    }
    assert (out / "train.names.txt").read_text().split() == ["0004.jpg", "0007.jpg"]
    assert (out / "test.names.txt").read_text().split() == ["0005.jpg", "1000.jpg"]
    for split, numbers in (("train", (4, 7)), ("test", (5, 1_000))):
        parts = data.split(split).annotation("parts")
        assert parts.dtype == np.uint8
        for row, number in zip(parts, numbers, strict=True):
            expected = np.roll([0, 0, 1, 1, 2, 2, 3, 3], number)
            np.testing.assert_array_equal(row, np.tile(expected, (8, 1)))
        np.testing.assert_array_equal(data.split(split).annotation("mask"), parts > 0)


def test_a_missing_photo_is_named_unless_a_subset_is_allowed(root: Path) -> None:
    with pytest.raises(BadInput, match=r"802 of 804 .*'train' are missing, the first is 0001.jpg"):
        prepare(reader(root), "ccp", root / "out", workers=1)


def test_annotations_that_do_not_fit(root: Path) -> None:
    data_set = reader(root, subset=True)
    annotations = root / "ccp" / "annotations" / "pixel-level"
    first = data_set.present("test")[0]
    savemat(annotations / "0005.mat", {"groundtruth": np.zeros((8, 7), np.uint8)})
    with pytest.raises(BadInput, match=r"0005.mat: the labels are \(8, 7\), the photo is \(8, 8\)"):
        data_set.sample("test", first)
    savemat(annotations / "0005.mat", {"groundtruth": np.full((8, 8), 4, np.uint8)})
    with pytest.raises(BadInput, match=r"0005.mat: label 4, but label_list.mat ends at 3"):
        data_set.sample("test", first)
    savemat(annotations / "0005.mat", {"groundtruth": np.full((8, 8), 3, np.uint8)})
    assert data_set.sample("test", first).parts is not None
    (annotations / "0005.mat").unlink()
    with pytest.raises(BadInput, match=r"0005.mat is missing; .* github.com/bearpaw"):
        data_set.sample("test", first)


def test_a_label_list_that_does_not_begin_with_the_background(root: Path) -> None:
    save_labels(root, LABELS[1:])
    with pytest.raises(
        BadInput, match=r"label_list.mat: the first label is \['hair'\], not 'null'"
    ):
        prepare(reader(root, subset=True), "ccp", root / "out", workers=1)
    (root / "ccp" / "label_list.mat").unlink()
    with pytest.raises(BadInput, match=r"label_list.mat is missing; .* github.com/bearpaw"):
        prepare(reader(root, subset=True), "ccp", root / "out", workers=1)


def test_files_that_are_not_matlab(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"a": np.arange(1_000)}, do_compression=True)
    assert read_mat(path, "a", "example.org").shape == (1_000,)
    good = path.read_bytes()
    with pytest.raises(BadInput, match=r"a.mat: not a complete MATLAB file with 'b'"):
        read_mat(path, "b", "example.org")
    damaged = {
        "cut short": good[: len(good) // 2],
        "empty": b"",
        "a page": b"<html>quota exceeded</html>" * 20,
        "overwritten": good[:200] + b"\xff" * 20 + good[220:],
        "version 7.3": good[:124] + b"\x00\x02IM" + good[128:],
    }
    for content in damaged.values():
        path.write_bytes(content)
        with pytest.raises(
            BadInput,
            match=r"a.mat: not a complete MATLAB file .*place the file .* from example.org",
        ):
            read_mat(path, "a", "example.org")


def test_the_real_sample(shared_data: Path, tmp_path: Path) -> None:
    data_set = reader(
        shared_data, size=64, subset=True, crop="stretch", limit={"train": 8, "test": 8}
    )
    present = {split: len(data_set.present(split)) for split in data_set.splits()}
    assert present == {"train": 192, "test": 48}
    assert len(data_set.part_names) == 58
    assert (data_set.part_names[0], data_set.part_names[-1]) == ("accessories", "wedges")
    prepare(data_set, "ccp", tmp_path / "out", workers=1)
    data = Prepared(tmp_path / "out")
    assert data.meta["subset"] is True
    hair, skin = (data_set.part_names.index(name) + 1 for name in ("hair", "skin"))
    shoes = [
        data_set.part_names.index(n) + 1 for n in ("boots", "flats", "heels", "shoes", "sandals")
    ]
    for split in ("train", "test"):
        for parts, mask in zip(
            data.split(split).annotation("parts"), data.split(split).annotation("mask"), strict=True
        ):
            assert 0.05 < mask.mean() < 0.5
            np.testing.assert_array_equal(mask, parts > 0)
            assert mask[parts == skin].all()
            rows = [np.nonzero(np.isin(parts, numbers))[0] for numbers in ([hair], shoes)]
            if rows[0].size and rows[1].size:
                assert rows[0].mean() < 32 < rows[1].mean()  # people stand upright


def test_a_person_is_cut_out(tmp_path: Path) -> None:
    labels = np.zeros((60, 40), int)
    labels[10:50, 25:35] = 1  # 40 high and 10 wide: a square of 44 about (30, 30)
    save_labels(tmp_path, LABELS)
    save_pair(tmp_path, 1, labels)
    save_pair(tmp_path, 2, np.zeros((8, 8)))
    data_set = reader(tmp_path, crop="box", size=44, subset=True)
    sample = data_set.sample("train", 0)
    assert data_set.crop_box(sample) == pytest.approx((8, 8, 52, 52))
    assert reader(tmp_path, crop="pad").crop_box(sample) == (-10, 0, 50, 60)
    with pytest.raises(BadInput, match=r"no pixel of 0002\.jpg has a label.*another `crop`"):
        data_set.crop_box(data_set.sample("train", 1))
    (tmp_path / "ccp" / "photos" / "0002.jpg").unlink()
    save_pair(tmp_path, 5, labels)
    prepare(data_set, "ccp", tmp_path / "out", workers=1)
    prepared = Prepared(tmp_path / "out").split("train")
    np.testing.assert_array_equal(prepared.annotation("parts")[0, 2:42, 17:27], 1)
    assert prepared.annotation("mask")[0].sum() == 400
    assert (prepared.images[0, :, 32:] == 0).all()  # black, beyond the photo
