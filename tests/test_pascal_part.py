"""The reader of PASCAL-Part."""

import pickle
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from partbench import config as grid
from partbench.data.crop import square_around
from partbench.data.pascal_part import LISTS, PARTS, PascalPart, PascalPartSettings
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.errors import BadInput

H, W = 20, 40


def reader(root: Path, **settings: Any) -> PascalPart:
    return PascalPart(root, PascalPart.Settings.parse(settings, "test"))


def area(left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
    """A rectangle of ones, [H, W]."""
    mask = np.zeros((H, W), np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def thing(
    mask: NDArray[np.uint8], *parts: tuple[str, NDArray[np.uint8]], category: str = "horse"
) -> dict[str, Any]:
    structs = np.zeros((1, len(parts)), [("part_name", object), ("mask", object)])
    for i, part in enumerate(parts):
        structs[0, i] = part
    # The official files hold an empty matrix where an object has no parts.
    return {"class": category, "class_ind": 13, "mask": mask, "parts": structs if parts else []}


def annotation_file(root: Path, image: str) -> Path:
    return root / "VOCdevkit_2010" / "Annotations_Part" / f"{image}.mat"


def image_file(root: Path, image: str) -> Path:
    return root / "VOCdevkit_2010" / "VOC2010" / "JPEGImages" / f"{image}.jpg"


def save_image(root: Path, image: str, *things: dict[str, Any]) -> None:
    """Write a photo and its annotation: a 1 x 1 struct of a 1 x N struct of 1 x M structs."""
    for path in (annotation_file(root, image), image_file(root, image)):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (W, H), (90, 90, 90)).save(image_file(root, image))
    names = ("class", "class_ind", "mask", "parts")
    objects = np.zeros((1, len(things)), [(name, object) for name in names])
    for i, values in enumerate(things):
        objects[0, i] = tuple(values[name] for name in names)
    annotation = {"imname": image, "objects": objects}
    savemat(annotation_file(root, image), {"anno": annotation}, do_compression=True)


def save_list(root: Path, part: str, lines: list[str], category: str = "horse") -> Path:
    folder = root / "VOCdevkit_2010" / "VOC2010" / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{category}_{part}.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def make(root: Path) -> Path:
    """A training image with a cow and two horses, and a test image with one horse."""
    body = ("torso", area(2, 2, 30, 16))
    save_image(
        root,
        "2008_000001",
        thing(area(0, 0, 40, 20), ("lhorn", area(0, 0, 2, 2)), category="cow"),
        thing(area(1, 1, 32, 18), ("head", area(2, 2, 8, 8)), ("leye", area(4, 4, 2, 2)), body),
        thing(area(0, 0, 20, 20), ("lfho_1", area(5, 9, 4, 4)), ("lfho_2", area(7, 11, 4, 4))),
    )
    save_image(root, "2008_000002", thing(area(0, 0, 30, 20), body))
    save_list(root, "train", ["2008_000001  1"])
    save_list(root, "val", ["2008_000002  1"])
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path)


def number(name: str, category: str = "horse") -> int:
    return PARTS[category].index(name) + 1


def test_vocabularies() -> None:
    counts = {category: len(names) for category, names in PARTS.items()}
    assert counts == {
        "sheep": 19,
        "horse": 21,
        "cow": 19,
        "motorbike": 5,
        "aeroplane": 7,
        "bus": 13,
        "car": 13,
        "bicycle": 6,
        "dog": 18,
        "cat": 17,
    }
    assert tuple(PARTS) == get_args(PascalPartSettings.model_fields["category"].annotation)
    for names in PARTS.values():
        assert list(names) == sorted(set(names))


def test_one_sample_an_object_with_the_first_part_on_top(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(reader(root, size=W, crop="stretch"), "horses", out, workers=1)
    data = Prepared(out)
    assert data.meta["part_names"] == list(PARTS["horse"])
    assert (out / "train.names.txt").read_text().split() == ["2008_000001_1", "2008_000001_2"]
    assert (out / "test.names.txt").read_text().split() == ["2008_000002_0"]

    first = np.zeros((H, W), np.uint8)
    first[2:18, 2:32] = number("torso")
    first[2:10, 2:10] = number("head")  # hides the eye, listed after it, and covers the torso
    second = np.zeros((H, W), np.uint8)
    second[9:13, 5:9] = number("lfho")
    second[11:15, 7:11] = number("lfho")
    expected = np.stack([first, second]).repeat(2, axis=1)  # stretched to a square
    parts = data.split("train").annotation("parts")
    assert parts.dtype == np.uint8
    np.testing.assert_array_equal(parts, expected)
    np.testing.assert_array_equal(data.split("train").annotation("mask"), expected > 0)
    # Rows are stretched twofold; edges lie half a pixel outside the outermost centres.
    np.testing.assert_allclose(
        data.split("train").annotation("box"), [[0.5, 1.5, 32, 36], [-0.5, -0.5, 20, 40]]
    )


def test_a_category_has_its_own_list_objects_and_parts(root: Path) -> None:
    for part, image in (("train", "2008_000001"), ("val", "2008_000002")):
        save_list(root, part, [f"{image} 1"], "cow")
    data_set = reader(root, category="cow")
    assert data_set.splits() == {"train": ["2008_000001_0"], "test": []}
    sample = data_set.sample("train", 0)
    assert sample.parts is not None
    assert sample.parts[0, 0] == number("lhorn", "cow")
    assert np.count_nonzero(sample.parts) == 4


def test_the_foreground_is_the_parts_or_the_object(root: Path) -> None:
    by_parts = reader(root).sample("train", 0).mask
    whole = reader(root, foreground="object").sample("train", 0).mask
    np.testing.assert_array_equal(by_parts, area(2, 2, 30, 16) > 0)
    np.testing.assert_array_equal(whole, area(1, 1, 32, 18) > 0)


def test_an_object_without_parts_is_all_background(root: Path) -> None:
    save_image(root, "2008_000001", thing(area(0, 0, 30, 20)))
    sample = reader(root).sample("train", 0)
    assert sample.parts is not None
    assert not sample.parts.any()
    assert sample.mask is not None
    assert not sample.mask.any()
    np.testing.assert_allclose(sample.box, [-0.5, -0.5, 30, 20])


def test_objects_are_cut_out_as_squares(tmp_path: Path) -> None:
    """A 10 x 16 object at the top of a 40 x 20 image: its square, of 1.1 * 16, begins above."""
    body = area(6, 0, 10, 16)
    save_image(tmp_path, "2008_000001", thing(body, ("torso", area(6, 0, 10, 12))))
    save_list(tmp_path, "train", ["2008_000001"])
    save_list(tmp_path, "val", ["2008_000001"])
    size = 88  # five pixels for each
    data_set = reader(tmp_path, crop="box", size=size, test_area=0.1)
    prepare(data_set, "horses", tmp_path / "out", workers=1)
    prepared = Prepared(tmp_path / "out").split("train")
    image, parts, mask = (
        prepared.images[0],
        prepared.annotation("parts")[0],
        prepared.annotation("mask")[0],
    )
    # From 2.2 to 19.8 across and from -0.8 to 16.8 down; the object's middle in the square's.
    np.testing.assert_allclose(prepared.annotation("box")[0], [18.5, 3.5, 50, 80], atol=1e-4)
    expected = np.zeros((size, size), np.uint8)
    expected[4:64, 19:69] = number("torso")
    np.testing.assert_array_equal(parts, expected)
    np.testing.assert_array_equal(mask, expected > 0)
    assert not image[:2].any()  # black above the image
    assert (image[7:] == 90).all()
    again = Prepared(tmp_path / "out").split("test")
    np.testing.assert_array_equal(again.annotation("parts")[0], expected)


@given(
    st.tuples(*(st.floats(-50, 500),) * 2, *(st.floats(1, 500),) * 2),
    st.tuples(st.floats(-100, 100), st.floats(-100, 100)),
)
def test_the_square_around_a_box(box: tuple[float, ...], by: tuple[float, float]) -> None:
    x, y, width, height = box
    left, top, right, bottom = square_around(np.array(box))
    assert right - left == pytest.approx(bottom - top)
    # The longer side has its 5 % on both of its sides, the other at least as much.
    gaps = [x + 0.5 - left, right - x - 0.5 - width, y + 0.5 - top, bottom - y - 0.5 - height]
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-6)
    assert gaps[2] == pytest.approx(gaps[3], abs=1e-6)
    assert min(gaps) == pytest.approx(max(width, height) * 0.05, abs=1e-6)
    moved = square_around(np.array([x + by[0], y + by[1], width, height]))
    shift = np.subtract(moved, (left, top, right, bottom))
    np.testing.assert_allclose(shift, [*by, *by], atol=1e-6)


@pytest.mark.parametrize(
    ("crop", "wanted"), [("center", (10, 0, 30, 20)), ("pad", (0, -10, 40, 30))]
)
def test_other_crops_are_every_reader_s(crop: str, wanted: tuple[float, ...], root: Path) -> None:
    data_set = reader(root, crop=crop)
    assert data_set.crop_box(data_set.sample("train", 0)) == wanted


# Of 800 pixels, 80 are a tenth and 160 a fifth; the paper counts a row and a column less.
@pytest.mark.parametrize(
    ("part", "split", "width", "height", "kept"),
    [
        ("train", "train", 11, 9, False),  # 10 x 8 = 80: not more than a tenth
        ("train", "train", 10, 10, True),  # 9 x 9 = 81
        ("train", "train", 40, 3, False),  # 39 x 2 = 78, although 120 pixels
        ("val", "test", 21, 9, False),  # 20 x 8 = 160: not more than a fifth
        ("val", "test", 24, 8, True),  # 23 x 7 = 161
        ("val", "test", 11, 10, False),  # enough for training
    ],
)
def test_small_objects_are_left_out(
    part: str, split: str, width: int, height: int, kept: bool, root: Path
) -> None:
    save_image(root, "2008_000003", thing(area(0, 1, width, height)))
    save_list(root, part, ["2008_000003  1"])
    assert reader(root).splits()[split] == (["2008_000003_0"] if kept else [])
    assert reader(root, train_area=0, test_area=0).splits()[split] == ["2008_000003_0"]
    assert reader(root, train_area=0.9, test_area=0.9).splits()[split] == []


def test_the_box_counts_not_the_object_s_pixels(root: Path) -> None:
    corners = area(0, 0, 1, 1) + area(W - 1, H - 1, 1, 1)
    save_image(root, "2008_000001", thing(corners), thing(area(0, 0, 0, 0)))
    assert reader(root, train_area=0).splits()["train"] == ["2008_000001_0"]


def test_images_that_the_list_calls_negative_are_searched(root: Path) -> None:
    save_list(root, "train", ["2008_000002 -1", "2008_000001  0", ""])
    names = reader(root).splits()["train"]
    assert names == ["2008_000002_0", "2008_000001_1", "2008_000001_2"]


def test_an_unknown_part_is_named(root: Path) -> None:
    save_image(root, "2008_000001", thing(area(0, 0, 30, 20), ("wing_1", area(0, 0, 2, 2))))
    with pytest.raises(
        BadInput, match=r"000001.mat: object 0: 'wing' is not a part of a horse, .*lf"
    ):
        reader(root).sample("train", 0)


def test_masks_of_another_size_than_the_image(root: Path) -> None:
    data_set = reader(root)
    Image.new("RGB", (W, H + 1)).save(image_file(root, "2008_000002"))
    data_set.splits()
    with pytest.raises(BadInput, match=r"the masks are \(20, 40\), the image is \(21, 40\)"):
        data_set.sample("test", 0)
    save_image(
        root, "2008_000002", thing(area(0, 0, 30, 20), ("head", np.ones((H, W + 1), np.uint8)))
    )
    with pytest.raises(BadInput, match=r"mask of head is \(20, 41\), not the image's"):
        reader(root).splits()
    save_image(root, "2008_000002", thing(np.ones((1, W), np.uint8)))
    with pytest.raises(BadInput, match=r"mask of the object is \(40,\), not the image's"):
        reader(root).splits()


def test_annotations_that_cannot_be_read(root: Path) -> None:
    path = annotation_file(root, "2008_000002")
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(BadInput, match=r"000002.mat: not a complete MATLAB file with 'anno'"):
        reader(root).splits()
    savemat(path, {"anno": {"objects": {"class": "horse"}}})
    with pytest.raises(BadInput, match=r"000002.mat: not an annotation of PASCAL-Part \(.*mask"):
        reader(root).splits()
    savemat(path, {"anno": np.zeros(3)})
    with pytest.raises(BadInput, match=r"000002.mat: not an annotation of PASCAL-Part"):
        reader(root).splits()


def test_missing_files(root: Path) -> None:
    annotation_file(root, "2008_000002").unlink()
    with pytest.raises(BadInput, match=r"2008_000002.mat is missing; .* roozbehm.info"):
        reader(root).splits()
    data_set = reader(root, subset=True)
    assert [len(names) for names in data_set.splits().values()] == [2, 0]
    image_file(root, "2008_000001").unlink()
    assert list(data_set.present("train")) == []
    save_list(root, "val", [])
    with pytest.raises(BadInput, match=r"2 of 2 images of split 'train'.*first is 2008_000001_1"):
        prepare(reader(root), "horses", root / "out", workers=1)
    save_list(root, "train", []).unlink()
    with pytest.raises(BadInput, match=r"horse_train.txt is missing; .* host.robots.*VOCtrainval"):
        reader(root).splits()


def test_annotations_are_searched_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_set = reader(root)
    first = data_set.splits()
    monkeypatch.setattr("partbench.data.pascal_part.read_objects", None)
    assert data_set.splits() == first
    assert pickle.loads(pickle.dumps(data_set)).splits() == first  # what a worker gets
    assert [len(data_set.present(split)) for split in first] == [2, 1]


def test_the_paper_s_configuration_has_a_model_for_each_category() -> None:
    paper = grid.read(Path(__file__).parents[1] / "config/paper.yaml")
    settings = {
        name: grid.data_settings(paper, name)
        for name, values in paper.data.items()
        if values.get("reader") == "pascal_part"
    }
    assert sorted(values.category for values in settings.values()) == sorted(PARTS)
    for values in settings.values():
        expected = {"category": values.category, "crop": "box", "size": 256, "wide": True}
        assert values == PascalPartSettings.parse(expected, "test")
    cells = [cell for cell in grid.cells(paper) if cell.run.train in settings]
    assert not any(cell.skip for cell in cells)
    assert {(cell.run.train, cell.eval, cell.probe) for cell in cells} == {
        (name, name, "parts") for name in settings
    }
    trained: dict[str, set[str]] = {name: set() for name in settings}
    for cell in cells:
        trained[cell.run.train].add(f"{cell.run.method} {cell.run.variant}")
        data_set: Any = grid.method_settings(paper, cell.run.method, cell.run.variant)
        assert data_set.k == 4
    assert set(map(frozenset, trained.values())) == {
        frozenset(
            {
                "unsup_parts pascal",
                "unsup_parts pascal+untrained",
                "scops pascal",
                "dff paper",
                "kmeans paper",
                "random_parts paper",
                "supervised_parts pascal",
            }
        )
    }


def test_training_and_test_objects_are_of_different_images(root: Path) -> None:
    splits = reader(root, crop="box").splits()
    assert LISTS == {"train": "train", "test": "val"}
    train, test = ({name.rpartition("_")[0] for name in splits[s]} for s in ("train", "test"))
    assert (train, test) == ({"2008_000001"}, {"2008_000002"})
