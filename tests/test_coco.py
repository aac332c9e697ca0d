"""The reader of COCO: boxes, classes and masks of scenes, filters, broken annotations."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partbench.data import prepare as preparing
from partbench.data.coco import CLASSES, COCO, FOLDERS, read_scenes
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.errors import BadInput

# pycocotools's, on every mask it decodes.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIDE = 32
IDS = {"person": 1, "cat": 17, "dog": 18, "toothbrush": 90}
NAN = [np.nan] * 4


def reader(root: Path, **settings: Any) -> COCO:
    return COCO(root, COCO.Settings.parse({"size": SIDE, "boxes": 4} | settings, "test"))


def prepare_one(made: COCO, out: Path, workers: int = 1) -> Prepared:
    prepare(made, "mine", out, workers)
    return Prepared(out)


def rectangle(x: int, y: int, width: int, height: int) -> list[int]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def thing(image: int, name: str, *boxes: tuple[int, int, int, int]) -> dict[str, Any]:
    """An object made of rectangles that do not overlap."""
    low = np.min([box[:2] for box in boxes], 0)
    high = np.max([(x + w, y + h) for x, y, w, h in boxes], 0)
    return {
        "image_id": image,
        "category_id": IDS[name],
        "iscrowd": 0,
        "area": float(sum(w * h for _, _, w, h in boxes)),
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "segmentation": [rectangle(*box) for box in boxes],
    }


def crowd(image: int, name: str, columns: int) -> dict[str, Any]:
    """A crowd over the last columns of an image: run lengths go down the columns."""
    inside = SIDE * columns
    return {
        "image_id": image,
        "category_id": IDS[name],
        "iscrowd": 1,
        "area": float(inside),
        "bbox": [SIDE - columns, 0, columns, SIDE],
        "segmentation": {"size": [SIDE, SIDE], "counts": [SIDE * SIDE - inside, inside]},
    }


def name_of(image: int) -> str:
    return f"{image:012d}.jpg"


def write(
    root: Path,
    split: str,
    images: dict[int, tuple[int, int]],
    annotations: list[dict[str, Any]],
    change: Callable[[Any], Any] = lambda document: None,
) -> Path:
    """Write grey images, id -> (width, height), and their annotations; return the json file."""
    folder = root / "coco" / FOLDERS[split]
    folder.mkdir(parents=True, exist_ok=True)
    for image, size in images.items():
        Image.new("L", size, image % 256).save(folder / name_of(image))
    document = {
        "images": [
            {"id": i, "file_name": name_of(i), "width": w, "height": h}
            for i, (w, h) in images.items()
        ],
        "annotations": [{"id": 500 + i, **row} for i, row in enumerate(annotations)],
        "categories": [{"id": number, "name": name} for name, number in IDS.items()],
    }
    change(document)
    path = root / "coco" / "annotations" / f"instances_{FOLDERS[split]}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def write_both(root: Path, annotations: list[dict[str, Any]] | None = None) -> None:
    """One training image, 7, with the annotations, and one test image, 8, without any."""
    write(root, "train", {7: (SIDE, SIDE)}, annotations or [])
    write(root, "test", {8: (SIDE, SIDE)}, [])


def test_a_scene(tmp_path: Path) -> None:
    cat, brush = thing(7, "cat", (4, 4, 20, 10)), thing(7, "toothbrush", (10, 6, 4, 4))
    dog = thing(
        7, "dog", (0, 20, 6, 6), (8, 20, 6, 6)
    )  # its middle is hidden, so it is two polygons
    write_both(tmp_path, [brush, crowd(7, "person", 10), cat, dog])
    data = prepare_one(reader(tmp_path), tmp_path / "out")
    train = data.split("train")
    assert train.images.shape == (1, SIDE, SIDE, 3)
    parts = train.annotation("parts")[0]
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[:, SIDE - 10 :] = 255  # the crowd, whose pixels are unsure
    expected[4:14, 4:24] = 15 + 1  # over the crowd
    expected[20:26, 0:6] = expected[20:26, 8:14] = 16 + 1
    expected[6:10, 10:14] = 79 + 1  # the smaller over the larger
    np.testing.assert_array_equal(parts, expected)
    boxes = [[3.5, 3.5, 20, 10], [-0.5, 19.5, 14, 6], [9.5, 5.5, 4, 4], NAN]
    np.testing.assert_array_equal(train.annotation("box")[0], boxes)
    assert train.annotation("objects").tolist() == [[15, 16, 79, -1]]

    test = data.split("test")
    assert not test.annotation("parts").any()
    np.testing.assert_array_equal(test.annotation("box")[0], [NAN] * 4)
    assert test.annotation("objects").tolist() == [[-1] * 4]
    assert not test.has("labels")
    assert (tmp_path / "out" / "test.names.txt").read_text() == "000000000008.jpg\n"
    assert data.meta["class_names"] == data.meta["part_names"] == list(CLASSES)


def test_the_largest_boxes_are_kept_and_all_objects_painted(tmp_path: Path) -> None:
    things = [thing(7, "cat", (0, 4 * i, i + 1, 3)) for i in range(6)]
    write_both(tmp_path, things)
    train = prepare_one(reader(tmp_path), tmp_path / "out").split("train")
    assert train.annotation("box")[0, :, 2].tolist() == [6, 5, 4, 3]
    assert np.count_nonzero(train.annotation("parts")) == 3 * (1 + 2 + 3 + 4 + 5 + 6)


def test_boxes_and_masks_stay_together_when_an_image_is_resized(tmp_path: Path) -> None:
    write(tmp_path, "train", {7: (80, 60)}, [thing(7, "cat", (30, 20, 20, 12))])
    write(tmp_path, "test", {8: (80, 60)}, [])
    for crop in ("center", "stretch"):
        train = prepare_one(reader(tmp_path, size=120, crop=crop), tmp_path / crop).split("train")
        rows, columns = np.nonzero(train.annotation("parts")[0])
        x, y, width, height = train.annotation("box")[0, 0]
        assert [x + 0.5, x + width - 0.5] == [columns.min(), columns.max()]
        assert [y + 0.5, y + height - 0.5] == [rows.min(), rows.max()]


def test_training_images_are_filtered_and_test_images_are_not(tmp_path: Path) -> None:
    sizes = {1: (SIDE, SIDE), 2: (64, 20), 3: (64, 64), 4: (40, 40)}
    things = [thing(i, "cat", (i, k, 3, 3)) for i in (1, 2, 3) for k in range(i)]
    for split in FOLDERS:
        write(tmp_path, split, sizes, [crowd(1, "person", 2), *things])

    def kept(**settings: int) -> list[list[str]]:
        return [list(names) for names in reader(tmp_path, **settings).splits().values()]

    every = [name_of(i) for i in sizes]
    assert kept() == [every, every]
    assert kept(min_boxes=2) == [[name_of(2), name_of(3)], every]
    assert kept(min_side=40) == [[name_of(3), name_of(4)], every]
    assert kept(min_side=41, min_boxes=3) == [[name_of(3)], every]
    data = prepare_one(reader(tmp_path, min_boxes=3), tmp_path / "out")
    assert data.split("train").images[:, 0, 0, 0].tolist() == [3]
    np.testing.assert_array_equal(np.isfinite(data.split("train").annotation("box")).sum(), 12)


def textured(path: Path, width: int, height: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def five(tmp_path: Path) -> COCO:
    """Two textured images of 40 x 32 pixels, five samples each."""
    things = [thing(7, "cat", (4, 6, 10, 8)), thing(7, "dog", (30, 20, 10, 12))]
    for split in FOLDERS:
        write(tmp_path, split, {7: (40, 32), 9: (40, 32)}, things)
        for image in (7, 9):
            path = tmp_path / "coco" / FOLDERS[split] / name_of(image)
            textured(path.with_suffix(".png"), 40, 32, image)
            path.with_suffix(".png").rename(path)
    return reader(tmp_path, copies="five")


def place_of(part: Any, whole: Any) -> tuple[int, int]:
    """Return (top, left) of the only place of an image where a part of it lies."""
    height, width = part.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(whole, (height, width), (0, 1))
    ((top, left),) = np.argwhere((windows == part.transpose(2, 0, 1)).all((2, 3, 4)))
    return int(top), int(left)


def test_copies_are_samples_of_their_own(five: COCO) -> None:
    names = five.splits()["train"]
    suffixes = ("", "-flip", "-0.6", "-flip-0.7", "-flip-0.95")
    assert names == [name_of(i) + suffix for i in (7, 9) for suffix in suffixes]
    assert five.splits()["test"] == [name_of(7), name_of(9)]
    assert [five.original(name) for name in names] == 5 * [name_of(7)] + 5 * [name_of(9)]
    assert five.counts == {"train": 5 * 118_287, "test": 5_000}
    assert list(five.present("train")) == list(range(10))
    samples = [five.sample("train", i) for i in range(10)]
    assert [sample.name for sample in samples] == names
    original = samples[0]
    for sample, share, mirrored in zip(
        samples, (1, 1, 0.6, 0.7, 0.95), (False, True, False, True, True), strict=False
    ):
        assert sample.image.shape == (round(32 * share), round(40 * share), 3)
        whole = original.image[:, ::-1] if mirrored else original.image
        parts = original.parts[:, ::-1] if mirrored else original.parts  # type: ignore[index]
        top, left = place_of(sample.image, whole)
        window = np.s_[top : top + sample.image.shape[0], left : left + sample.image.shape[1]]
        np.testing.assert_array_equal(sample.parts, parts[window])
        # Each box encloses the pixels of its object; the larger one comes first.
        assert sample.box is not None
        for box, name in zip(sample.box, ("dog", "cat"), strict=False):
            rows, columns = np.nonzero(parts == CLASSES.index(name) + 1)
            near = np.array([columns.min() - left, rows.min() - top]) - 0.5
            far = np.array([columns.max() - left, rows.max() - top]) + 0.5
            np.testing.assert_allclose(box, [*near, *(far - near)], atol=1e-5)


def test_crops_differ_from_image_to_image_and_not_from_time_to_time(five: COCO) -> None:
    places = []
    for number in range(2):
        whole = five.sample("train", 5 * number).image
        places.append(place_of(five.sample("train", 5 * number + 2).image, whole))
    assert places[0] != places[1]
    again = five.sample("train", 2)
    np.testing.assert_array_equal(again.image, five.sample("train", 2).image)


def test_copies_are_prepared(five: COCO, tmp_path: Path) -> None:
    one = prepare_one(five, tmp_path / "1", workers=1)
    assert one.meta["splits"]["train"]["n"] == 10
    (tmp_path / "coco" / "train2017" / name_of(7)).unlink()
    parsed = five.settings.model_copy(update={"subset": True})
    few = prepare_one(COCO(five.root, parsed), tmp_path / "2")
    assert few.meta["splits"]["train"] == {"n": 5, "missing": 5, "skipped": []}
    np.testing.assert_array_equal(few.split("train").images, one.split("train").images[5:])
    flipped = reader(five.root, copies="flip", subset=True)
    assert flipped.splits()["train"][2:] == [name_of(9), f"{name_of(9)}-flip"]


def test_the_unannotated_test_images(tmp_path: Path) -> None:
    write_both(tmp_path)
    folder = tmp_path / "coco" / "test2017"
    folder.mkdir()
    listed = [{"id": i, "file_name": name_of(i), "width": 40, "height": 20 + i} for i in (3, 5)]
    for row in listed:
        Image.new("L", (40, row["height"])).save(folder / row["file_name"])  # type: ignore[call-overload]
    made = reader(tmp_path, test="test2017", test_min_side=24)
    with pytest.raises(BadInput, match=r"image_info_test2017.json is missing; get image_info"):
        made.splits()
    categories = [{"id": number, "name": name} for name, number in IDS.items()]
    text = json.dumps({"images": listed, "categories": categories})
    (tmp_path / "coco" / "image_info_test2017.json").write_text(text)
    data = prepare_one(made, tmp_path / "out")
    assert made.splits()["test"] == [name_of(5)]
    assert made.counts["test"] == 40_670
    assert data.split("test").images.shape == (1, SIDE, SIDE, 3)
    assert not data.split("test").has("parts")
    assert data.split("train").has("parts")


def test_images_that_are_not_there(tmp_path: Path) -> None:
    for split in FOLDERS:
        write(tmp_path, split, {1: (SIDE, SIDE), 2: (SIDE, SIDE)}, [])
    (tmp_path / "coco" / "train2017" / name_of(1)).unlink()
    with pytest.raises(BadInput, match=r"1 of 2 images .*'train'.*first is 000000000001.jpg"):
        prepare_one(reader(tmp_path), tmp_path / "out")
    data = prepare_one(reader(tmp_path, subset=True), tmp_path / "out")
    assert data.meta["splits"]["train"] == {"n": 1, "missing": 1, "skipped": []}
    assert data.split("train").images[:, 0, 0, 0].tolist() == [2]

    (tmp_path / "coco" / "train2017" / name_of(2)).unlink()
    assert list(reader(tmp_path, subset=True).splits()) == ["test"]
    (tmp_path / "coco" / "train2017").rmdir()
    (tmp_path / "coco" / "annotations" / "instances_train2017.json").unlink()
    assert list(reader(tmp_path, subset=True).splits()) == ["test"]
    with pytest.raises(
        BadInput, match=r"instances_train2017.json is missing; .* images.coco.*unpack"
    ):
        reader(tmp_path).splits()
    (tmp_path / "coco" / "val2017").rename(tmp_path / "away")
    with pytest.raises(
        BadInput, match=r"coco: no image of train2017 or val2017; get train20.* unpack"
    ):
        reader(tmp_path, subset=True).splits()


def first(key: str, value: Any) -> Callable[[Any], None]:
    """A change of the first annotation."""
    return lambda document: document["annotations"][0].update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first("image_id", 99), r"annotation 500 belongs to image 99, which is not listed"),
        (first("segmentation", [[1, 1, 2, 2]]), r"annotation 500 of image 7 is neither polygons"),
        (
            first("segmentation", [rectangle(0, 0, 2, 2), [1, 1, 5, 1, 5, 5, 1]]),
            r"annotation 500 of image 7 is neither polygons of three or more corners",
        ),
        (first("segmentation", []), r"annotation 500 of image 7 is neither polygons"),
        (
            first("segmentation", {"size": [SIDE, 9], "counts": [SIDE * SIDE]}),
            r"annotation 500 of image 7 .* nor a run-length code of 32 x 32 pixels",
        ),
        (
            first("segmentation", {"size": [SIDE, SIDE], "counts": [SIDE, SIDE]}),
            r"annotation 500 of image 7 .* nor a run-length code of 32 x 32 pixels",
        ),
        (first("category_id", 12), r"not a COCO annotation file \(KeyError: 12\)"),
        (first("bbox", [1, 2, 3]), r"not a COCO annotation file \(ValueError"),
        (lambda d: d["annotations"][0].pop("area"), r"annotation file \(KeyError: 'area'\)"),
        (lambda d: d.pop("annotations"), r"annotation file \(KeyError: 'annotations'\)"),
        (lambda d: d["categories"][0].update(name="elf"), r"annotation file \(ValueError"),
    ],
)
def test_annotations_that_are_impossible(
    change: Callable[[Any], Any], message: str, tmp_path: Path
) -> None:
    write_both(tmp_path)
    write(tmp_path, "train", {7: (SIDE, SIDE)}, [thing(7, "cat", (1, 1, 5, 5))], change)
    with pytest.raises(BadInput, match=rf"instances_train2017.json.*{message}.*unpack annotations"):
        reader(tmp_path).splits()


def test_a_file_that_is_not_json(tmp_path: Path) -> None:
    path = write(tmp_path, "train", {7: (SIDE, SIDE)}, [])
    for content in (path.read_bytes()[:-5], b"", b"[]", b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"train2017.json is not a COCO annotation file .*again"):
            read_scenes(path, len(content), 0, 0)


def test_an_image_of_another_size(tmp_path: Path) -> None:
    write_both(tmp_path)
    Image.new("L", (40, 30)).save(tmp_path / "coco" / "train2017" / name_of(7))
    message = r"000000000007.jpg is 40 x 30, but the annotations of image 7 are for 32 x 32"
    with pytest.raises(BadInput, match=message):
        prepare_one(reader(tmp_path), tmp_path / "out")


def test_annotations_do_not_travel_to_the_workers_and_do_not_differ_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    things = [thing(i, "cat", (i, k, 3, 3)) for i in range(1, 8) for k in range(20)]
    for split in FOLDERS:
        write(tmp_path, split, dict.fromkeys(range(1, 8), (SIDE, SIDE)), things)
    data_set = reader(tmp_path)
    before = len(pickle.dumps(data_set))
    data_set.splits()
    data_set.sample("train", 0)
    assert len(pickle.dumps(data_set)) < before + 100
    monkeypatch.setattr(preparing, "CHUNK", 3)
    one = prepare_one(data_set, tmp_path / "1", workers=1)
    two = prepare_one(data_set, tmp_path / "2", workers=2)
    assert one.meta["checksum"] == two.meta["checksum"]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    write_both(tmp_path)
    data_set = reader(tmp_path)
    assert data_set.splits()["train"] == [name_of(7)]
    write(tmp_path, "train", {9: (SIDE, SIDE)}, [])
    assert data_set.splits()["train"] == [name_of(9)]


def test_the_data_sets_of_lorbms_among_the_real_images(shared_data: Path) -> None:
    """Counts by the annotations alone: boxes that are no crowds, and the listed sides."""
    path = shared_data / "coco" / "annotations" / "instances_train2017.json"
    document = json.loads(path.read_text())
    boxes = [row["image_id"] for row in document["annotations"] if not row["iscrowd"]]
    sides = {row["id"]: min(row["width"], row["height"]) for row in document["images"]}
    large = {i for i, side in sides.items() if side >= 200}
    busy = {i for i in large if boxes.count(i) >= 4}
    assert 0 < len(busy) < len(large)
    for kept, settings in (
        (2 * len(busy), {"min_boxes": 4, "min_side": 200, "copies": "flip"}),
        (5 * len(busy), {"min_boxes": 4, "min_side": 200, "copies": "five"}),
        (len(large), {"min_side": 200}),
    ):
        made = reader(shared_data, subset=True, **settings)
        assert len(made.splits()["train"]) == len(made.present("train")) == kept
        assert len(made.splits()["test"]) == 80
    sizes = {made.sample("train", i).image.shape[:2] for i in range(len(busy))}
    assert min(min(size) for size in sizes) >= 200


def test_real_scenes(shared_data: Path, tmp_path: Path) -> None:
    for folder in FOLDERS.values():
        path = shared_data / "coco" / "annotations" / f"instances_{folder}.json"
        rows = json.loads(path.read_text())["categories"]
        assert tuple(row["name"] for row in sorted(rows, key=lambda row: row["id"])) == CLASSES

    settings = {"size": 128, "boxes": 100, "crop": "stretch", "subset": True}
    data_set = reader(shared_data, limit={"train": 10, "test": 30}, **settings)
    assert [len(data_set.present(split)) for split in data_set.splits()] == [80, 80]
    data = prepare_one(data_set, tmp_path / "out")
    test = data.split("test")
    assert test.images.shape == (30, 128, 128, 3)
    assert test.images.std() > 40  # pictures, not blanks
    rows, columns = np.indices((128, 128))
    filled = []
    arrays = (test.annotation(kind) for kind in ("parts", "box", "objects"))
    for parts, boxes, objects in zip(*arrays, strict=True):
        is_object = objects >= 0
        np.testing.assert_array_equal(np.isfinite(boxes).all(1), is_object)
        assert set(np.unique(parts)) <= {0, 255, *(objects[is_object] + 1)}
        for c in set(objects[is_object].tolist()):
            covered = np.zeros_like(parts, bool)
            for x, y, width, height in boxes[objects == c]:
                covered |= (
                    (columns > x - 1)
                    & (columns < x + width + 1)
                    & (rows > y - 1)
                    & (rows < y + height + 1)
                )
            assert covered[parts == c + 1].all()  # no pixel of a class outside its boxes
        x, y, width, height = boxes[0]
        if is_object.any() and width * height > 200:
            inside = (columns > x) & (columns < x + width) & (rows > y) & (rows < y + height)
            filled.append((parts[inside] > 0).mean())
    assert len(filled) > 20
    assert 0.5 < np.mean(filled) < 0.95

    lorbms = reader(shared_data, min_boxes=4, min_side=200, subset=True)
    assert 20 < len(lorbms.splits()["train"]) < 80
