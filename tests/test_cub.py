"""CUB-200-2011: the official lists, a miniature of the layout, and real images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from partbench.data.cub import CUB, LANDMARKS, SWAP, read_birds
from partbench.data.prepare import convert, prepare
from partbench.data.prepared import Prepared
from partbench.data.reader import Sample
from partbench.errors import BadInput

CLASSES = ("001.Black_Rail", "002.Red_Kite")
WIDTH, HEIGHT = 24, 16
BOX = (3, 2, 18, 11)
BEAK, THROAT = LANDMARKS.index("beak"), LANDMARKS.index("throat")


def reader(root: Path, **settings: Any) -> CUB:
    return CUB(root, CUB.Settings.parse(settings, "test"))


def prepare_one(data_set: CUB, out: Path, workers: int = 1) -> Prepared:
    prepare(data_set, "mine", out, workers)
    return Prepared(out)


def write(path: Path, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))


def points(image: int) -> np.ndarray:
    """Landmarks (x, y, visible) of an image, counted from 1; later images have more of them."""
    rows = np.array([(4 + part, 3 + part % 9, 1.0) for part in range(15)])
    rows[2 + 3 * image :] = 0
    return rows


def make(root: Path) -> Path:
    """Four images in two classes, each class with one training image, the first image's mask."""
    folder = root / "CUB_200_2011"
    names = [f"{CLASSES[i // 2]}/bird_{i + 1}.jpg" for i in range(4)]
    write(folder / "images.txt", [f"{i} {name}" for i, name in enumerate(names, 1)])
    write(folder / "classes.txt", [f"{i} {name}" for i, name in enumerate(CLASSES, 1)])
    write(folder / "image_class_labels.txt", ["1 1", "2 1", "3 2", "4 2"])
    write(folder / "train_test_split.txt", ["1 0", "2 1", "3 1", "4 0"])
    box = " ".join(f"{value}.0" for value in BOX)
    write(folder / "bounding_boxes.txt", [f"{i} {box}" for i in range(1, 5)])
    write(folder / "parts" / "parts.txt", [f"{i} {name}" for i, name in enumerate(LANDMARKS, 1)])
    rows = [
        f"{i} {part} {x} {y} {visible:.0f}"
        for i in range(1, 5)
        for part, (x, y, visible) in enumerate(points(i), 1)
    ]
    write(folder / "parts" / "part_locs.txt", rows)
    for i, name in enumerate(names):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (50 * i, 0, 0)).save(path)
    (folder / "images" / CLASSES[0] / "bird_1_rgb.jpg").write_bytes(b"stray")
    return root


def make_masks(root: Path) -> None:
    """Write masks: all annotators mark the left part of the box, half of them mark the rest."""
    x, y, width, height = BOX
    grey = np.zeros((HEIGHT, WIDTH), np.uint8)
    grey[y : y + height, x : x + width] = 128
    grey[y : y + height, x : x + 5] = 255
    for i in range(4):
        path = root / "segmentations" / CLASSES[i // 2] / f"bird_{i + 1}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey).save(path)


def edit(path: Path, line: int, text: str | None) -> None:
    """Replace or remove a line, counted from 1."""
    lines = path.read_text().splitlines()
    lines[line - 1 : line] = [] if text is None else [text]
    write(path, lines)


def test_a_miniature_from_files_to_arrays(tmp_path: Path) -> None:
    make_masks(make(tmp_path))
    data = prepare_one(
        reader(tmp_path, size=48, crop="stretch", foreground="masks"), tmp_path / "out"
    )
    assert data.meta["class_names"] == ["Black_Rail", "Red_Kite"]
    assert data.meta["landmark_names"] == list(LANDMARKS)
    assert data.meta["subset"] is False
    names = {s: (tmp_path / "out" / f"{s}.names.txt").read_text() for s in ("train", "test")}
    assert names["train"] == f"{CLASSES[0]}/bird_2.jpg\n{CLASSES[1]}/bird_3.jpg\n"
    assert names["test"] == f"{CLASSES[0]}/bird_1.jpg\n{CLASSES[1]}/bird_4.jpg\n"
    for split, rows in (("train", (1, 2)), ("test", (0, 3))):
        prepared = data.split(split)
        assert prepared.annotation("labels").tolist() == [0, 1]
        reds = [int(image[5, 5, 0]) for image in prepared.images]
        np.testing.assert_allclose(reds, [50 * row for row in rows], atol=3)
        # From 24 x 16 to 48 x 48, pixel centres stay pixel centres.
        scale = np.array([2, 3])
        expected = np.stack([points(row + 1) for row in rows])
        visible = prepared.annotation("visible")
        np.testing.assert_array_equal(visible, expected[..., 2] == 1)
        moved = (expected[..., :2] + 0.5) * scale - 0.5
        np.testing.assert_allclose(prepared.annotation("landmarks")[visible], moved[visible])
        x, y, width, height = BOX
        box = [(x + 0.5) * 2 - 0.5, (y + 0.5) * 3 - 0.5, width * 2, height * 3]
        np.testing.assert_allclose(prepared.annotation("box"), [box, box])
        mask = np.zeros((48, 48), bool)
        mask[3 * y : 3 * (y + height), 2 * x : 2 * (x + 5)] = True
        np.testing.assert_array_equal(prepared.annotation("mask"), [mask, mask])


def test_what_a_sample_holds(tmp_path: Path) -> None:
    sample = reader(make(tmp_path)).sample("test", 1)
    assert sample.name == f"{CLASSES[1]}/bird_4.jpg"
    assert sample.image.shape == (HEIGHT, WIDTH, 3)
    assert sample.landmarks is not None
    assert sample.visible is not None
    assert sample.box is not None
    assert (sample.landmarks.dtype, sample.box.dtype) == (np.float32, np.float32)
    assert sample.visible.dtype == np.bool_
    assert sample.landmarks[BEAK].tolist() == [5, 4]
    assert sample.landmarks[THROAT].tolist() == [0, 0]
    assert sample.visible.tolist() == [True] * 14 + [False]
    assert sample.box.tolist() == list(BOX)
    assert sample.mask is None


def test_landmarks_swap_left_for_right() -> None:
    for name, other in zip(LANDMARKS, SWAP, strict=True):
        sides = {"left": "right", "right": "left"}
        side, _, part = name.partition(" ")
        assert LANDMARKS[other] == (f"{sides[side]} {part}" if side in sides else name)


def test_mask_threshold(tmp_path: Path) -> None:
    make_masks(make(tmp_path))
    x, y, width, height = BOX
    for threshold, columns in ((255, 5), (129, 5), (128, width), (1, width)):
        mask = (
            reader(tmp_path, foreground="masks", mask_threshold=threshold).sample("train", 0).mask
        )
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[y : y + height, x : x + columns] = True
        np.testing.assert_array_equal(mask, expected)


def test_masks_that_are_not_there(tmp_path: Path) -> None:
    make(tmp_path)
    assert not prepare_one(reader(tmp_path, size=8), tmp_path / "out").split("train").has("mask")
    with pytest.raises(
        BadInput, match=r"segmentations is missing; unpack segmentations.tgz .*or set"
    ):
        reader(tmp_path, foreground="masks").splits()
    make_masks(tmp_path)
    masked = reader(tmp_path, size=8, foreground="masks")
    assert prepare_one(masked, tmp_path / "out").split("train").has("mask")
    path = tmp_path / "segmentations" / CLASSES[0] / "bird_2.png"
    Image.new("L", (HEIGHT, WIDTH)).save(path)
    with pytest.raises(
        BadInput, match=r"bird_2.png is 16 x 24, but its image is 24 x 16; unpack segm"
    ):
        masked.sample("train", 0)
    path.unlink()
    with pytest.raises(BadInput, match=r"bird_2.png is missing; unpack segmentations.tgz .*again"):
        masked.sample("train", 0)


def test_classes_are_counted_among_those_in_use(tmp_path: Path) -> None:
    make(tmp_path)
    data_set = reader(tmp_path, classes=[2])
    assert data_set.splits() == {
        "train": [f"{CLASSES[1]}/bird_3.jpg"],
        "test": [f"{CLASSES[1]}/bird_4.jpg"],
    }
    assert data_set.class_names == ["Red_Kite"]
    assert data_set.sample("train", 0).label == 0
    both = reader(tmp_path, classes=[2, 1, 2])
    assert both.class_names == ["Black_Rail", "Red_Kite"]
    assert [both.sample("test", i).label for i in (0, 1)] == [0, 1]
    with pytest.raises(BadInput, match=r"classes.txt has 2 classes, but `classes` asks for 3"):
        reader(tmp_path, classes=[1, 3]).splits()
    for number in (0, 201):
        with pytest.raises(BadInput, match=rf"'classes.0' is {number}: Input should be"):
            reader(tmp_path, classes=[number])


def test_min_visible_leaves_training_images_out(tmp_path: Path) -> None:
    make(tmp_path)
    counts = [int(points(i)[:, 2].sum()) for i in (1, 2, 3, 4)]
    assert counts == [5, 8, 11, 14]  # images 2 and 3 are trained on
    for least, train in ((8, 2), (9, 1), (12, 0)):
        splits = reader(tmp_path, min_visible=least).splits()
        assert len(splits["train"]) == train
        assert len(splits["test"]) == 2


def test_known_counts_are_those_of_the_whole() -> None:
    assert reader(Path()).counts == {"train": 5_994, "test": 5_794}
    assert reader(Path(), min_visible=7).counts == {"train": 5_965, "test": 5_794}
    assert reader(Path(), min_visible=8).counts == {}
    assert reader(Path(), classes=[1]).counts == {}


def test_missing_images(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "CUB_200_2011" / "images" / CLASSES[0] / "bird_2.jpg").unlink()
    with pytest.raises(
        BadInput, match=r"1 of 2 images of split 'train' .*first is 001.*bird_2.jpg"
    ):
        prepare_one(reader(tmp_path, size=8), tmp_path / "out")
    data = prepare_one(reader(tmp_path, size=8, subset=True), tmp_path / "out")
    assert data.meta["subset"] is True
    assert data.meta["splits"]["train"] == {"n": 1, "missing": 1, "skipped": []}
    assert data.split("train").annotation("labels").tolist() == [1]


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        ("images.txt", 2, None, r"line 2: '3 002.Red_Kite/bird_3.jpg' is not '2' followed by 1 va"),
        (
            "images.txt",
            4,
            None,
            r"image_class_labels.txt has 4 rows, but the .* require 3; unpack",
        ),
        ("images.txt", 1, "1 a b", r"line 1: '1 a b' is not '1' followed by 1 value; unpack"),
        ("classes.txt", 1, "001.Black_Rail", r"line 1: '001.Black_Rail' is not '1' followed by 1"),
        ("classes.txt", 2, None, r"image_class_labels.txt, line 3: 2 is not the class of the imag"),
        ("image_class_labels.txt", 2, "2 2", r"line 2: 2 is not the class of the image's folder"),
        ("image_class_labels.txt", 4, "4 x", r"line 4: x is not the class of the image's folder"),
        ("image_class_labels.txt", 3, "4 2", r"line 3: '4 2' is not '3' followed by 1 value; unp"),
        ("train_test_split.txt", 4, None, r"has 3 rows, but the other files require 4; unpack CUB"),
        ("train_test_split.txt", 4, "4 2", r"line 4: 2 is neither 1 \(train\) nor 0 \(test\); unp"),
        ("train_test_split.txt", 1, "1 yes", r"line 1: yes is neither 1 \(train\) nor 0 \(test\)"),
        ("bounding_boxes.txt", 3, "3 1 2 3", r"line 3: '3 1 2 3' is not '3' followed by 4 values"),
        ("bounding_boxes.txt", 3, "3 1 2 3 0", r"line 3: 1 2 3 0 is not a box \(x, y, width, h"),
        ("bounding_boxes.txt", 3, "3 1 x 3 4", r"line 3: 1 x 3 4 is not a box \(x, y, width, h"),
        ("bounding_boxes.txt", 3, "3 1 inf 3 4", r"line 3: 1 inf 3 4 is not a box \(x, y, width"),
        ("parts/parts.txt", 7, "7 eye", r"line 7: '7 eye' instead of '7 left eye'; unpack CUB_200"),
        ("parts/parts.txt", 15, None, r"line 15: '' instead of '15 throat'; unpack CUB_200_2011"),
        ("parts/part_locs.txt", 16, None, r"line 16: '2 2 .*' is not '2 1' followed by 3 values"),
        ("parts/part_locs.txt", 60, None, r"has 59 rows, but the other files require 60; unpack"),
        ("parts/part_locs.txt", 17, "2 2 1 2 2", r"line 17: 1 2 2 is not a landmark \(x, y, vis"),
        ("parts/part_locs.txt", 17, "2 2 1 ? 1", r"line 17: 1 \? 1 is not a landmark \(x, y, vi"),
    ],
)
def test_lists_that_do_not_agree(
    file: str, line: int, text: str | None, message: str, tmp_path: Path
) -> None:
    path = make(tmp_path) / "CUB_200_2011" / file
    edit(path, line, text)
    with pytest.raises(BadInput, match=message) as error:
        reader(tmp_path).splits()
    named = path if "has 4" not in message and "line 3: 2 is" not in message else path.parent
    assert str(named) in str(error.value)
    assert "data.caltech.edu/records/65de6-vp158" in str(error.value)


@pytest.mark.parametrize(
    "file",
    [
        "images.txt",
        "classes.txt",
        "image_class_labels.txt",
        "train_test_split.txt",
        "bounding_boxes.txt",
        "parts/part_locs.txt",
    ],
)
def test_missing_lists(file: str, tmp_path: Path) -> None:
    path = make(tmp_path) / "CUB_200_2011" / file
    path.write_text("\n")
    with pytest.raises(BadInput, match=rf"{path} is missing or empty; unpack CUB_200_2011.tgz"):
        reader(tmp_path).splits()
    path.unlink()
    with pytest.raises(BadInput, match=rf"{path} is missing or empty; unpack CUB_200_2011.tgz"):
        reader(tmp_path).splits()


def test_missing_parts(tmp_path: Path) -> None:
    (make(tmp_path) / "CUB_200_2011" / "parts" / "parts.txt").unlink()
    with pytest.raises(BadInput, match=r"parts.txt, line 1: '' instead of '1 back'; unpack CUB"):
        reader(tmp_path).splits()


def test_a_landmark_outside_its_image_is_an_error(tmp_path: Path) -> None:
    path = make(tmp_path) / "CUB_200_2011" / "parts" / "part_locs.txt"
    edit(path, 17, f"2 2 {WIDTH} 3 1")
    with pytest.raises(BadInput, match=r"bird_2.jpg: landmark beak at \[24.0, 3.0\] lies outside"):
        prepare_one(reader(tmp_path, size=8), tmp_path / "out")


# The real files.


def test_the_real_lists(shared_data: Path) -> None:
    birds = read_birds(shared_data)
    assert len(set(birds.names)) == 11_788
    assert len(set(birds.classes)) == 200
    assert birds.classes[0] == "Black_footed_Albatross"
    assert int(birds.train.sum()) == CUB.counts["train"] == 5_994
    assert int((~birds.train).sum()) == CUB.counts["test"] == 5_794
    assert int(birds.visible[birds.train].sum()) == 71_861
    test = birds.visible[~birds.train].sum(0).tolist()
    assert test == [  # in the order of the parts, back to throat
        *(4410, 5776, 5091, 5394, 5692, 5705, 2912, 4228),
        *(3255, 5551, 2955, 4197, 3263, 5397, 5720),
    ]
    assert sum(test) == 69_546
    assert (birds.landmarks[~birds.visible] == 0).all()
    # No visible landmark can lie outside its image: each lies inside its box.
    near, far = birds.boxes[:, None, :2], (birds.boxes[:, :2] + birds.boxes[:, 2:])[:, None]
    inside = (birds.landmarks > near) & (birds.landmarks < far)
    assert inside[birds.visible].all()
    assert birds.boxes[:, :2].min(0).tolist() == [0, 0]


def test_real_classes_and_min_visible(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    birds = read_birds(shared_data)
    monkeypatch.setattr("partbench.data.cub.read_birds", lambda root: birds)  # read once

    def counts(**settings: Any) -> tuple[int, int]:
        splits = reader(shared_data, **settings).splits()
        return len(splits["train"]), len(splits["test"])

    assert counts() == (5_994, 5_794)
    assert counts(min_visible=7) == (5_965, 5_794)
    assert [counts(classes=[c]) for c in (1, 2, 3)] == [(30, 30), (30, 30), (30, 28)]
    assert counts(classes=[3, 2, 1]) == (90, 88)


def test_real_images(shared_data: Path, tmp_path: Path) -> None:
    data_set = reader(shared_data, size=64, subset=True, crop="stretch")
    data = prepare_one(data_set, tmp_path / "out")
    assert data.meta["subset"] is True
    assert data.meta["splits"]["train"] == {"n": 180, "missing": 5_994 - 180, "skipped": []}
    assert data.meta["splits"]["test"] == {"n": 143, "missing": 5_794 - 143, "skipped": []}
    assert data.classes == 200
    for name in ("train", "test"):
        split = data.split(name)
        assert split.images.shape[1:] == (64, 64, 3)
        assert split.images.std() > 40  # pictures, not blanks
        assert set(split.annotation("labels").tolist()) == set(range(6))
        landmarks, visible = split.annotation("landmarks"), split.annotation("visible")
        assert landmarks[visible].min() > -0.5
        assert landmarks[visible].max() < 63.5
        box = split.annotation("box")
        assert (box[:, :2] > -0.5).all()
        assert (box[:, :2] + box[:, 2:] < 64).all()  # one official box ends beyond its image


def test_landmarks_of_real_eyes_lie_on_them(shared_data: Path) -> None:
    """A landmark near the middle of a dark disc lies within a fraction of a pixel of its centre."""
    data_set = reader(shared_data, subset=True)
    candidates = []
    for split in ("train", "test"):
        for index in data_set.present(split):
            sample = data_set.sample(split, index)
            assert sample.landmarks is not None
            assert sample.visible is not None
            for part in (LANDMARKS.index("left eye"), LANDMARKS.index("right eye")):
                if sample.visible[part]:
                    candidates.append(dark_disc(sample.image, sample.landmarks[part]))
    offsets = np.array([offset for offset in candidates if offset is not None])
    assert len(offsets) > 100
    # This would be -1 if the coordinates in the files counted from 1.
    np.testing.assert_allclose(np.mean(offsets, 0), 0, atol=0.5)


def dark_disc(image: np.ndarray, point: np.ndarray) -> np.ndarray | None:
    """Return the offset from `point` to the centre of a separate dark disc; None without one."""
    reach = 9
    x, y = point.astype(int)
    if min(x, y) < reach:
        return None
    grey = image[y - reach : y + reach + 1, x - reach : x + reach + 1].mean(-1)
    if grey.shape != (2 * reach + 1, 2 * reach + 1):
        return None
    darkest = grey[reach - 3 : reach + 4, reach - 3 : reach + 4].min()
    if np.median(grey) - darkest < 40:
        return None
    discs, _ = ndimage.label(grey < (darkest + np.median(grey)) / 2)
    middle = np.where(np.abs(np.indices(grey.shape) - reach).max(0) <= 3, grey, 256)
    disc = discs == discs.flat[middle.argmin()]
    edge = disc[[0, -1]].any() or disc[:, [0, -1]].any()
    row, column = ndimage.center_of_mass(disc)
    return None if edge or disc.sum() < 6 else np.array([column - reach, row - reach])


def test_birds_cut_out_by_their_boxes(tmp_path: Path) -> None:
    birds = reader(make(tmp_path), size=99, crop="box", foreground="box")
    prepared = prepare_one(birds, tmp_path / "out").split("train")
    x, y, width, height = BOX
    side = 1.1 * width
    scale = 99 / side
    box = prepared.annotation("box")[0]
    np.testing.assert_allclose(box[2:], [width * scale, height * scale], rtol=1e-5)
    np.testing.assert_allclose(box[:2] + box[2:] / 2, [49, 49], atol=1e-4)  # in the middle
    # In units of the box, landmarks do not depend on the crop.
    for row in range(2):
        visible = prepared.annotation("visible")[row]
        before = (points(row + 2)[:, :2] - (x, y)) / (width, height)
        after = (prepared.annotation("landmarks")[row] - box[:2]) / box[2:]
        np.testing.assert_allclose(after[visible], before[visible], atol=1e-5)
    mask = prepared.annotation("mask")[0]
    assert mask.mean() == pytest.approx((width + 1) * (height + 1) / side**2, rel=0.05)
    above = int((side / 2 - (y + height / 2 + 0.5)) * scale)  # rows above the image
    assert above > 5
    assert not prepared.images[1][: above - 3].any()  # bilinear between
    assert not mask[:above].any()
    assert prepared.images[1][above + 6 : -above - 6, 20:80, 0].min() > 60


def test_a_padded_image_repeats_its_border(tmp_path: Path) -> None:
    birds = reader(make(tmp_path), size=24, crop="pad", foreground="masks", mask_threshold=1)
    make_masks(tmp_path)
    for path in (tmp_path / "segmentations").rglob("*.png"):
        Image.new("L", (WIDTH, HEIGHT), 255).save(path)
    prepared = prepare_one(birds, tmp_path / "out").split("test")
    image, mask = prepared.images[1], prepared.annotation("mask")[1]
    assert mask[4:20].all()  # and repeated pixels are not foreground
    assert not mask[:4].any()
    assert not mask[20:].any()
    assert (image[:4] == image[4]).all()
    assert (image[20:] == image[19]).all()
    np.testing.assert_allclose(prepared.annotation("landmarks")[1, BEAK], [5, 4 + 4], atol=1e-5)


@pytest.mark.parametrize(("crop", "left"), [("whole", 0), ("tight", 9)])
def test_exact_points_stay_where_they_are_in_the_image(
    crop: str, left: int, tmp_path: Path
) -> None:
    """A dot keeps its landmark: within the rounding of a resize where exact, else half a pixel."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[20, 30] = 255
    sample = Sample(
        "a",
        image,
        landmarks=np.array([[30, 20]], np.float32),
        visible=np.ones(1, bool),
        box=np.array([9.75, 5.5, 40, 32], np.float32),
    )
    found = {}
    for points_ in ("exact", "legacy"):
        made = reader(tmp_path, size=160, crop=crop, points=points_, border="kept")
        arrays = convert(made, sample)
        bright = arrays["images"][..., 0].astype(float)
        dot = np.array([(bright.sum(axis) @ np.arange(320)) / bright.sum() for axis in (0, 1)])
        found[points_] = arrays["landmarks"][0] - dot
        # In units of the box, a landmark does not depend on where points are counted from.
        share = (arrays["landmarks"][0] - arrays["box"][:2]) / arrays["box"][2:]
        np.testing.assert_allclose(share, [20.25 / 40, 14.5 / 32], rtol=1e-5)
    np.testing.assert_allclose(found["exact"], 0, atol=0.02)
    factor = 160 / (40 if crop == "whole" else 32)
    shift = np.array([0.75, 0.5]) if left else np.zeros(2)
    np.testing.assert_allclose(found["legacy"], 0.5 - factor / 2 - shift * factor, atol=0.02)


def test_a_very_long_image_fits_its_canvas(tmp_path: Path) -> None:
    sample = Sample("a", np.full((10, 50, 3), 7, np.uint8), box=np.array([0, 0, 9, 9], np.float32))
    arrays = convert(reader(tmp_path, size=16, crop="whole", border="kept"), sample)
    assert arrays["extent"].tolist() == [32, 6]
    assert (arrays["images"][:6] == 7).all()


def test_nothing_is_trained_on_images_that_keep_their_aspect(tmp_path: Path) -> None:
    kept = reader(make(tmp_path), size=16, crop="whole", border="kept")
    data = prepare_one(kept, tmp_path / "out")
    assert data.split("train").annotation("extent").tolist() == [[24, 16], [24, 16]]
    assert (data.size, data.canvas) == (16, 32)
    with pytest.raises(BadInput, match="`crop: whole` keeps every image's aspect"):
        data.training_split("images")
