"""A person's own images: landmarks, boxes, masks, parts and clips, and what is wrong with them."""

import csv
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from partbench.commands import data as command
from partbench.data.catalogue import show
from partbench.data.clips import read_clip
from partbench.data.coco import read_scenes
from partbench.data.folder import Folder
from partbench.data.placed import look
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.run import Runtime

CPU = Runtime(device="cpu", threads=1)
WIDTH, HEIGHT = 24, 16
NAMES = ("eye", "tail")
YAML = "parts: {7: wing, 3: head}\n"


def folder(root: Path, **settings: Any) -> Folder:
    return Folder(root, Folder.Settings.parse({"size": 16} | settings, "data.mine"))


def prepared(root: Path, **settings: Any) -> Prepared:
    prepare(folder(root, **settings), "mine", root / "out", workers=1)
    return Prepared(root / "out")


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(size[0]).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).save(path, **options)


def images(root: Path) -> Path:
    """Two classes, of two training images and one test image each; names repeat."""
    for split, numbers in (("train", (0, 1)), ("test", (2,))):
        for name in ("bird", "cat"):
            for number in numbers:
                picture(root / split / name / f"{number}.png")
    return root


ALL = [f"{s}/{c}/{i}.png" for s, n in (("train", (0, 1)), ("test", (2,))) for c in ("bird", "cat")
       for i in n]  # fmt: skip


def landmark_rows() -> list[list[Any]]:
    """A line for each image and landmark: eyes at (4 + i, 5), tails at (20.5, 10), one hidden."""
    rows: list[list[Any]] = []
    for i, name in enumerate(ALL):
        rows.append([name, "eye", 4 + i, 5, 1])
        rows.append([name, "tail", "" if i == 1 else 20.5, "" if i == 1 else 10, int(i != 1)])
    return rows


POINTS = ["image", "landmark", "x", "y", "visible"]
BOXES = ["image", "x", "y", "width", "height"]


def write(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def annotated(root: Path, change: Callable[[list[list[Any]]], None] = lambda rows: None) -> Path:
    """Images with landmarks.csv; `change` may spoil its rows."""
    rows = landmark_rows()
    change(rows)
    write(images(root) / "landmarks.csv", POINTS, rows)
    return root


CSV = {"annotations": ["landmarks.csv"]}


# ---------------------------------------------------------------------------- what is read


def test_landmarks_of_a_csv(tmp_path: Path) -> None:
    mine = folder(annotated(tmp_path), **CSV, crop="stretch")
    data = prepared(tmp_path, **mine.settings.model_dump(mode="json"))  # as the workflow gives them
    assert data.meta["landmark_names"] == list(NAMES)
    train, test = data.split("train"), data.split("test")
    assert train.annotation("labels").tolist() == [0, 0, 1, 1]
    # Stretched from 24 x 16 to 16 x 16; centres of pixels are at integers.
    eyes = [(4 + i + 0.5) * 16 / 24 - 0.5 for i in range(4)]
    np.testing.assert_allclose(train.annotation("landmarks")[:, 0, 0], eyes, rtol=1e-6)
    assert (train.annotation("landmarks")[:, 0, 1] == 5).all()
    assert train.annotation("visible").tolist() == [[1, 1], [1, 0], [1, 1], [1, 1]]
    np.testing.assert_allclose(test.annotation("landmarks")[0, 1], (21 * 2 / 3 - 0.5, 10))


def test_boxes_of_a_csv_count_between_the_edges_of_pixels(tmp_path: Path) -> None:
    rows = [[name, 0, 0, WIDTH, HEIGHT] for name in ALL]
    rows[1] = [ALL[1], 8, 4, 8, 8]
    write(images(tmp_path) / "boxes.csv", BOXES, rows)
    mine = folder(tmp_path, annotations=["boxes.csv"], crop="box")
    assert mine.has("box") is not False
    assert mine.has("landmarks") is False
    assert mine.sample("train", 0).box.tolist() == [-0.5, -0.5, 24, 16]  # type: ignore[union-attr]
    assert mine.crop_box(mine.sample("train", 1)) == pytest.approx((7.6, 3.6, 16.4, 12.4))
    data = prepared(tmp_path, annotations=["boxes.csv"], crop="box")
    x, y, width, height = data.split("train").annotation("box")[1]
    assert (x, y) == pytest.approx((-0.5 + 16 * 0.4 / 8.8,) * 2, abs=1e-4)
    assert (width, height) == pytest.approx((16 * 8 / 8.8,) * 2, abs=1e-4)


def coco(root: Path, change: Callable[[dict[str, Any]], None] = lambda document: None) -> Path:
    """The annotations of `landmark_rows` and whole boxes, as COCO has them; the tail occluded."""
    document: dict[str, Any] = {
        "images": [
            {"id": 10 + i, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for i, name in enumerate(ALL)
        ],
        "categories": [{"id": 3, "name": "animal", "keypoints": list(NAMES)}],
        "annotations": [
            {
                "id": 100 + i,
                "image_id": 10 + i,
                "category_id": 3,
                "iscrowd": 0,
                "area": 9.0,
                "bbox": [2, 3, 10, 8],
                "segmentation": [[2, 3, 12, 3, 12, 11]],
                "keypoints": [4 + i, 5, 2, 20.5, 10, 1 if i != 1 else 0],
            }
            for i in range(len(ALL))
        ],
    }
    change(document)
    (images(root) / "coco.json").write_text(json.dumps(document))
    return root


@pytest.mark.parametrize("occluded", [True, False])
def test_landmarks_and_boxes_of_coco(occluded: bool, tmp_path: Path) -> None:
    mine = folder(coco(tmp_path), annotations=["coco.json"], occluded=occluded)
    assert mine.splits().keys() == {"train", "test"}
    assert list(mine.landmark_names) == list(NAMES)
    sample = mine.sample("train", 0)
    assert sample.landmarks.tolist() == [[4, 5], [20.5, 10]]  # type: ignore[union-attr]
    assert sample.visible.tolist() == [True, occluded]  # type: ignore[union-attr]
    assert mine.sample("train", 1).visible.tolist() == [True, False]  # type: ignore[union-attr]
    assert sample.box.tolist() == [1.5, 2.5, 10, 8]  # type: ignore[union-attr]


def test_boxes_lie_where_the_coco_reader_puts_them(tmp_path: Path) -> None:
    def as_person(document: dict[str, Any]) -> None:
        document["categories"][0]["name"] = "person"

    root = coco(tmp_path, as_person)
    scene = read_scenes(root / "coco.json", 0, 0, 0)[0]
    mine = folder(root, annotations=["coco.json"]).sample("train", 0)
    np.testing.assert_array_equal(mine.box, scene.box[0])


def maps(root: Path, **changes: Any) -> Path:
    """Images with part maps, masks and names: a head in the upper left, a wing, an unsure row."""
    for name in ALL:
        path = images(root) / name
        parts = np.zeros((HEIGHT, WIDTH), np.uint8)
        parts[:8, :8], parts[8:, :8], parts[15] = 3, 7, 255
        Image.fromarray(parts).save(path.with_name(f"{path.stem}.parts.png"))
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:, :10] = 255
        Image.fromarray(mask).save(path.with_name(f"{path.stem}.mask.png"))
    (root / "labels.yaml").write_text(YAML)
    return root


MAPS = {"masks": ".mask.png", "parts": ".parts.png"}


def test_masks_and_part_maps_beside_the_images(tmp_path: Path) -> None:
    mine = folder(maps(tmp_path), **MAPS)
    assert [len(names) for names in mine.splits().values()] == [4, 2]
    assert mine.remarks() == []  # maps are no images, and nobody forgot them
    assert mine.part_names == ["head", "wing"]
    sample = mine.sample("test", 0)
    assert sample.parts is not None
    assert sample.mask is not None
    assert np.unique(sample.parts[:8, :8]).tolist() == [1]
    assert np.unique(sample.parts[8:15, :8]).tolist() == [2]
    assert np.unique(sample.parts[15]).tolist() == [255]
    assert sample.mask[:, :10].all()
    assert not sample.mask[:, 10:].any()
    # Without masks, the parts are the foreground, and unsure pixels are not.
    for path in tmp_path.glob("*/*/*.mask.png"):
        path.unlink()
    alone = folder(tmp_path, parts=".parts.png")
    mask = alone.sample("test", 0).mask
    assert alone.has("mask")
    assert mask is not None
    assert mask.sum() == 8 * 8 + 7 * 8


@pytest.mark.parametrize(
    ("mode", "bits"), [("P", 8), ("P", 4), ("P", 2), ("L", 2), ("L", 4), ("1", 1)]
)
def test_numbers_are_those_of_the_file_whatever_its_depth(
    mode: str, bits: int, tmp_path: Path
) -> None:
    images(tmp_path)
    numbers = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % min(2**bits, 4)
    (tmp_path / "labels.yaml").write_text("parts: {1: a, 2: b, 3: c}")
    for name in ALL:
        path = tmp_path / name
        file = path.with_name(f"{path.stem}.parts.png")
        if mode == "L":  # Pillow writes grey in 8 bits alone
            rows = [np.packbits(_bits(row, bits)).tobytes() for row in numbers]
            file.write_bytes(png(WIDTH, HEIGHT, bits, b"".join(b"\0" + row for row in rows)))
        else:
            image = Image.fromarray(numbers * (255 if mode == "1" else 1)).convert(mode)
            if mode == "P":
                image.putpalette(np.random.default_rng(0).bytes(768))
                image.putdata(numbers.ravel().tolist())
            image.save(file, bits=bits)
    sample = folder(tmp_path, parts=".parts.png").sample("train", 0)
    np.testing.assert_array_equal(sample.parts, numbers)


def _bits(row: np.ndarray, bits: int) -> np.ndarray:
    return (row[:, None] >> np.arange(bits)[::-1] & 1).ravel().astype(np.uint8)


def png(width: int, height: int, bits: int, data: bytes, kind: int = 0) -> bytes:
    import zlib

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def test_names_of_landmarks_give_their_order_and_pairs(tmp_path: Path) -> None:
    root = annotated(tmp_path)
    (root / "labels.yaml").write_text("landmarks: [tail, eye]\nmirrored: [[eye, tail]]\n")
    mine = folder(root, **CSV)
    assert list(mine.landmark_names) == ["tail", "eye"]
    assert list(mine.landmark_swap) == [1, 0]
    assert mine.sample("test", 0).landmarks[1].tolist() == [8, 5]  # type: ignore[index]


def test_images_are_named_by_as_much_of_their_path_as_tells_them_apart(tmp_path: Path) -> None:
    def shorten(rows: list[list[Any]]) -> None:
        for row in rows:
            row[0] = row[0].removeprefix("train/").removeprefix("test/")

    mine = folder(annotated(tmp_path, shorten), **CSV)
    assert mine.sample("test", 1).landmarks[0].tolist() == [9, 5]  # type: ignore[index]

    def shortest(rows: list[list[Any]]) -> None:
        for row in rows:
            row[0] = row[0].rpartition("/")[2]

    with pytest.raises(BadInput, match=r"'0.png' may be train/bird/0.png or train/cat/0.png; name"):
        folder(annotated(tmp_path, shortest), **CSV).splits()


def test_a_photo_taken_sideways_has_annotations_of_the_upright_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    root = maps(annotated(tmp_path))
    path = root / ALL[0]
    sideways = np.zeros((WIDTH, HEIGHT, 3), np.uint8)  # as the sensor saw it
    sideways[-1 - 4, 5] = 255  # upright at (x, y) = (5, 4)... after the turn, see below
    Image.fromarray(sideways).save(path, exif=exif)
    sample = folder(root, **CSV, **MAPS).sample("train", 0)
    assert sample.image.shape == (HEIGHT, WIDTH, 3)
    # A quarter clockwise takes row r, column c to row c, column (rows - 1 - r).
    assert sample.image[5, 4].tolist() == [255] * 3
    assert sample.landmarks[0].tolist() == [4, 5]  # type: ignore[index]


def test_the_sheet_draws_what_is_annotated(tmp_path: Path) -> None:
    root = maps(annotated(tmp_path))
    for name in ALL:
        Image.new("RGB", (64, 64), (90, 90, 90)).save(root / name)
        parts = np.zeros((64, 64), np.uint8)
        parts[10:20, 10:20], parts[40:44] = 3, 255
        Image.fromarray(parts).save((root / name).with_suffix(".parts.png"))
        Image.fromarray((parts > 0).astype(np.uint8)).save((root / name).with_suffix(".mask.png"))
    write(root / "landmarks.csv", POINTS, [[n, k, 30, 30, 1] for n in ALL for k in NAMES])
    write(root / "boxes.csv", BOXES, [[n, 48, 48, 8, 8] for n in ALL])
    out = tmp_path / "sheet.png"
    settings = {"annotations": ["landmarks.csv", "boxes.csv"], **MAPS, "size": 112}
    show("folder", root, settings, out)
    sheet = np.asarray(Image.open(out).convert("RGB")).astype(int)
    scale = 112 / 64

    def pixel(x: float, y: float) -> list[int]:
        return sheet[round(y * scale), round(x * scale)].tolist()

    assert pixel(5, 5) == [30, 30, 30]  # the background, darkened
    assert pixel(25, 42) == [255, 255, 255]  # unsure
    assert np.ptp(pixel(15, 15)) > 30  # a part, tinted
    assert np.ptp(pixel(30.5, 30.5)) > 100  # a landmark
    assert pixel(48, 52) == [255, 255, 255]  # the left side of a box
    assert pixel(52, 52) == [30, 30, 30]


def test_the_command_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import argparse

    monkeypatch.setenv("PARTBENCH_DATA", str(maps(annotated(tmp_path))))
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    args = parser.parse_args(["show", "folder", "--settings", json.dumps({**CSV, **MAPS})])
    args.run(args)
    assert capsys.readouterr().out == "folder.png\n"
    assert Image.open("folder.png").size[0] > 112


def test_files_of_annotations_are_looked_at_for_changes(tmp_path: Path) -> None:
    mine = folder(maps(annotated(tmp_path)), **CSV, **MAPS)
    before = look(mine).sizes
    for name in ("landmarks.csv", "labels.yaml", "train/bird/0.mask.png"):
        with (tmp_path / name).open("ab") as file:
            file.write(b" ")
        after = look(mine).sizes
        assert after != before, name
        before = after


# ---------------------------------------------------------------------------- clips


def clip(path: Path, turned: bool = False) -> None:
    """Write a clip whose upper half is white; its header may say that it lies on its side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        image = np.zeros((48, 64, 3), np.uint8)
        image[:24] = 255
        for _ in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    if turned:
        content = bytearray(path.read_bytes())
        start = content.index(b"tkhd") + 44
        one = 1 << 16
        quarter = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)  # clockwise
        content[start : start + 36] = quarter
        path.write_bytes(content)


def test_clips_are_read_frame_by_frame(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("jump", "run"):
            clip(tmp_path / split / name / "a.mp4")
    data = prepared(tmp_path, frames=4)
    assert data.split("train").images.shape == (2, 4, 16, 16, 3)
    assert data.split("train").annotation("labels").tolist() == [0, 1]
    assert folder(tmp_path, frames=4).has("frames") is True
    assert folder(tmp_path, frames=4).frames == 4
    with pytest.raises(BadInput, match=r"jump: class folder without images; .* or set `frames` of"):
        prepared(tmp_path)
    (tmp_path / "train" / "run" / "a.mp4").write_bytes(b"no video")
    with pytest.raises(BadInput, match=r"train/run/a.mp4: cannot be decoded"):
        prepared(tmp_path, frames=4)


def test_a_clip_taken_sideways_is_turned(tmp_path: Path) -> None:
    clip(tmp_path / "up.mp4")
    clip(tmp_path / "side.mp4", turned=True)
    assert read_clip(tmp_path / "up.mp4", 2)[:, :20].min() > 200
    frames = read_clip(tmp_path / "side.mp4", 2)
    assert frames.shape == (2, 64, 48, 3)
    assert frames[:, :, 28:].min() > 200  # a quarter clockwise: what was above is on the right
    assert frames[:, :, :20].max() < 50


# ---------------------------------------------------------------------------- what is wrong


def change(row: int, column: int, value: Any) -> Callable[[list[list[Any]]], None]:
    def changed(rows: list[list[Any]]) -> None:
        rows[row][column] = value

    return changed


def of(image: str) -> Callable[[list[list[Any]]], None]:
    def removed(rows: list[list[Any]]) -> None:
        rows[:] = [row for row in rows if row[0] != image]

    return removed


WRONG_ROWS = {
    "unknown image": (
        change(3, 0, "train/bird/9.png"),
        r"csv, line 5: no split has the image 'train/bird/9.png' \(did you mean '.*png'\?\); place",
    ),
    "unknown landmark": (
        change(2, 1, "eey"),
        r"landmarks.csv, line 4: train/bird/1.png: the landmark 'eey' is not one of .*labels.yaml; "
        r"did you mean 'eye'\? Valid: eye, tail.",
    ),
    "no number": (
        change(0, 2, "4,5"),
        r"landmarks.csv, line 2: train/bird/0.png: landmark eye: x is '4,5', which is no number",
    ),
    "no place": (
        change(0, 3, ""),
        r"landmarks.csv, line 2: train/bird/0.png: landmark eye: y is '', which is no number",
    ),
    "not finite": (
        change(0, 3, "nan"),
        r"line 2: train/bird/0.png: landmark eye: y is nan; a landmark without a place has visib",
    ),
    "visible": (
        change(1, 4, "2"),
        r"line 3: train/bird/0.png: landmark tail: visible is '2'; give 1 or 0",
    ),
    "no name": (change(1, 1, ""), r"landmarks.csv, line 3: names no landmark"),
    "no image": (change(1, 0, " "), r"landmarks.csv, line 3: names no image"),
    "twice": (
        change(1, 1, "eye"),
        r"line 3: train/bird/0.png: the landmark eye stands already in .*landmarks.csv, line 2",
    ),
    "columns": (lambda rows: rows[4].append(1), r"landmarks.csv, line 6: 6 values, but 5 columns"),
    "missing landmark": (
        lambda rows: rows.pop(1),
        r"landmarks.csv, line 2: bird/0.png has the landmark eye, but none of tail; add a line for",
    ),
    "no line": (
        of("train/cat/1.png"),
        r"train/cat/1.png: landmarks.csv has no landmarks of this image, but of others in the split"
        r" 'train'; add its lines, or set `broken: skip`",
    ),
    "outside": (
        change(6, 2, 24),
        r"landmarks.csv, line 8: 1.png: the landmark eye at \(24, 5\) lies outside the image, which"
        r" is 24 x 16 once it is upright",
    ),
    "empty": (lambda rows: rows.clear(), r"landmarks.csv: holds no landmark and no box"),
}


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_lines_that_are_wrong(name: str, tmp_path: Path) -> None:
    spoil, message = WRONG_ROWS[name]
    annotated(tmp_path, spoil)  # type: ignore[arg-type]
    if name == "unknown landmark":
        (tmp_path / "labels.yaml").write_text("landmarks: [eye, tail]")
    with pytest.raises(BadInput, match=message) as caught:
        prepared(tmp_path, **CSV)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_all_wrong_lines_are_named_at_once_and_no_flood(tmp_path: Path) -> None:
    def spoil(rows: list[list[Any]]) -> None:
        for row in rows:
            row[2] = "?"

    with pytest.raises(BadInput) as caught:
        folder(annotated(tmp_path, spoil), **CSV).splits()
    lines = str(caught.value).splitlines()
    assert [re.search(r"line (\d+)", line)[1] for line in lines[:3]] == ["2", "3", "4"]  # type: ignore[index]
    assert len(lines) == 12
    write(tmp_path / "landmarks.csv", POINTS, [["a.png", "eye", "?", 1, 1]] * 50)
    with pytest.raises(BadInput, match=r"and 30 more faults of this kind$"):
        folder(tmp_path, **CSV).splits()


def test_images_without_annotation_can_be_skipped(tmp_path: Path) -> None:
    data = prepared(annotated(tmp_path, of("train/cat/1.png")), **CSV, broken="skip")
    assert data.meta["splits"]["train"]["skipped"] == ["cat/1.png"]
    # A split without any has none, such as images to train on without labels.
    rows = [row for row in landmark_rows() if row[0].startswith("test")]
    write(tmp_path / "landmarks.csv", POINTS, rows)
    data = prepared(tmp_path, **CSV)
    assert not data.split("train").has("landmarks")
    assert data.split("test").has("landmarks")


HEADERS = {
    "image,landmark,x": r"line 1: the columns are 'image,landmark,x'; image,landmark,x,y,visible",
    "image,landmark,x,y,visable": r"line 1: the columns are .*visable",
    "image,landmark,x,y,x": r"line 1: the columns are",
    "image;landmark;x;y": r"line 1: the columns are",
    "": r"line 1: the columns are ''",
    'image,landmark,x,y\n"a.png,eye,1,2': r"line 2: no CSV \(unexpected end",
}


@pytest.mark.parametrize("header", HEADERS)
def test_headers_that_are_wrong(header: str, tmp_path: Path) -> None:
    (images(tmp_path) / "landmarks.csv").write_text(f"{header}\n")
    with pytest.raises(BadInput, match=HEADERS[header]):
        folder(tmp_path, **CSV).splits()


def test_files_that_are_missing_or_of_another_encoding(tmp_path: Path) -> None:
    images(tmp_path)
    with pytest.raises(BadInput, match=r"landmarks.csv: cannot be read \(No such file.*`annotatio"):
        folder(tmp_path, **CSV).splits()
    assert folder(tmp_path, **CSV).has("landmarks") is None  # it may come
    (tmp_path / "landmarks.csv").write_bytes("image,landmark,x,y\ncafé,eye,1,2\n".encode("latin1"))
    with pytest.raises(BadInput, match=r"landmarks.csv: is not UTF-8"):
        folder(tmp_path, **CSV).splits()
    text = "\ufeff" + "image,landmark,x,y\n" + "".join(f"{n},eye,1,2\n" for n in ALL)
    (tmp_path / "landmarks.csv").write_text(text, encoding="utf-8")  # as Excel saves it
    assert folder(tmp_path, **CSV).sample("train", 0).visible.tolist() == [True]  # type: ignore[union-attr]


def test_what_a_data_set_has_is_known_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration is checked at the start of each job, so nothing long may be read."""
    write(coco(annotated(tmp_path)) / "boxes.csv", BOXES, [[name, 0, 0, 9, 9] for name in ALL])

    def read(*arguments: Any) -> None:
        raise AssertionError("read")

    monkeypatch.setattr("partbench.data.folder.read_marks", read)

    def has(*files: str) -> list[bool | None]:
        mine = folder(tmp_path, annotations=list(files))
        return [mine.has(name) for name in ("landmarks", "visible", "box", "mask", "parts")]

    assert has() == [False, False, False, False, False]
    assert has("landmarks.csv") == [True, True, False, False, False]
    assert has("boxes.csv") == [False, False, True, False, False]
    assert has("boxes.csv", "landmarks.csv")[:3] == [True, True, True]
    assert has("coco.json")[:3] == [None, None, None]
    assert has("boxes.csv", "absent.csv")[:3] == [None, None, True]
    assert folder(tmp_path, masks=".mask.png").has("mask") is True


def spoil_coco(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def changed(document: dict[str, Any]) -> None:
        at: Any = document
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return changed


OTHER = {"id": 500, "image_id": 10, "category_id": 3, "bbox": [1, 1, 2, 2]}
WRONG_COCO = {
    "no json": (None, r"coco.json is not a COCO annotation file"),
    "no images": (lambda d: d.pop("images"), r"is not a COCO annotation file \(KeyError: 'images'"),
    "image id": (
        spoil_coco("annotations", 0, "image_id", value=1),
        r"coco.json: annotation 100: image_id 1 is not listed",
    ),
    "category id": (
        spoil_coco("annotations", 0, "category_id", value=1),
        r"coco.json: annotation 100: category_id 1 is not listed",
    ),
    "file name": (
        spoil_coco("images", 0, "file_name", value="gone.png"),
        r"coco.json: annotation 100: no split has the image 'gone.png'",
    ),
    "two objects": (
        lambda d: d["annotations"].append(OTHER),
        r"annotation 500: train/bird/0.png: the image also has annotation 100; a sample is one",
    ),
    "length": (
        spoil_coco("annotations", 2, "keypoints", value=[1, 2]),
        r"annotation 102: train/cat/0.png: 2 numbers of keypoints, but its category names 2 landm",
    ),
    "visibility": (
        spoil_coco("annotations", 2, "keypoints", value=[1, 2, 3, 1, 2, 0]),
        r"annotation 102: train/cat/0.png: landmark eye has visibility 3; 0, 1 or 2",
    ),
    "text": (
        spoil_coco("annotations", 2, "keypoints", value=["a", 2, 2, 1, 2, 0]),
        r"annotation 102: train/cat/0.png: landmark eye is \['a', 2\]; give 2 numbers, pixels",
    ),
    "box": (
        spoil_coco("annotations", 2, "bbox", value=[1, 2, 3]),
        r"annotation 102: train/cat/0.png: bbox is \[1, 2, 3\]; give 4 numbers",
    ),
    "no area": (
        spoil_coco("annotations", 2, "bbox", value=[1, 2, 0, 5]),
        r"annotation 102: train/cat/0.png: the box is 0 x 5; both must be above 0",
    ),
    "outside": (
        spoil_coco("annotations", 2, "bbox", value=[24, 2, 1, 5]),
        r"annotation 102: 0.png: the box from \[24.0, 2.0\] to \[25.0, 7.0\] lies outside the im",
    ),
    "no box": (
        lambda d: d["annotations"][2].pop("bbox"),
        r"train/cat/0.png: coco.json has no box of this image, but of others in the split 'train'",
    ),
}


@pytest.mark.parametrize("name", WRONG_COCO)
def test_coco_that_is_wrong(name: str, tmp_path: Path) -> None:
    spoil, message = WRONG_COCO[name]
    coco(tmp_path, spoil or (lambda document: None))
    if spoil is None:
        (tmp_path / "coco.json").write_text("{")
    with pytest.raises(BadInput, match=message) as caught:
        prepared(tmp_path, annotations=["coco.json"])
    assert len(str(caught.value).splitlines()) == 1


def test_a_crop_around_boxes_needs_them(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="`crop: box` needs boxes; name their file in `annotations`"):
        folder(tmp_path, crop="box")
    with pytest.raises(BadInput, match=r"`crop: box` needs a box of each image, and landmarks.csv"):
        prepared(annotated(tmp_path), **CSV, crop="box")


MASK, PARTS = "train/cat/0.mask.png", "train/cat/0.parts.png"
GREY = np.zeros((HEIGHT, WIDTH), np.uint8)


def drawn(array: np.ndarray, **options: Any) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(array).save(path, **options)


WRONG_MAPS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "missing": (MASK, lambda path: path.unlink(), r"cat/0.png: there is no 0.mask.png beside it"),
    "size": (
        MASK,
        drawn(GREY[:-1]),
        r"cat/0.mask.png: is 24 x 15, but 0.png is 24 x 16; save it at the size of the image",
    ),
    "sideways": (
        PARTS,
        drawn(GREY.T.copy()),
        r"cat/0.parts.png: is 16 x 24, and 0.png is 24 x 16 once it is upright; annotate the pho",
    ),
    "soft edges": (
        MASK,
        drawn(np.where(np.arange(WIDTH) == 5, 128, GREY).astype(np.uint8)),
        r"cat/0.mask.png: the pixel in row 0, column 5 \(counted from 0\) is 128; a mask holds 0",
    ),
    "unsure mask": (
        MASK,
        drawn((np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 2 * 254 + 1).astype(np.uint8)),
        r"cat/0.mask.png: holds both 1 and 255, so which of them is foreground is unknown",
    ),
    "unknown label": (
        PARTS,
        drawn(np.where(np.arange(WIDTH) == 5, 4, GREY).astype(np.uint8)),
        r"cat/0.parts.png: the pixel in row 0, column 5 .* is 4, which has no name in .*labels.ya",
    ),
    "colours": (
        PARTS,
        drawn(np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
        r"cat/0.parts.png: its pixels are colours \(mode 'RGB'\), not numbers of labels",
    ),
    "transparent": (
        PARTS,
        drawn(np.zeros((HEIGHT, WIDTH, 4), np.uint8)),
        r"cat/0.parts.png: its pixels are colours \(mode 'RGBA'\)",
    ),
    "16 bits": (
        PARTS,
        drawn(GREY.astype(np.uint16)),
        r"cat/0.parts.png: has more than 8 bits a pixel",
    ),
    "animated": (
        PARTS,
        drawn(GREY, save_all=True, append_images=[Image.fromarray(GREY + 1)]),
        r"cat/0.parts.png: holds several frames",
    ),
    "jpeg": (
        PARTS,
        drawn(GREY, format="JPEG"),
        r"cat/0.parts.png: is no PNG file; formats such as JPEG change the numbers",
    ),
    "half": (
        PARTS,
        lambda path: path.write_bytes(path.read_bytes()[:60]),
        r"cat/0.parts.png: cannot be decoded",
    ),
}


@pytest.mark.parametrize("name", WRONG_MAPS)
def test_maps_that_are_wrong(name: str, tmp_path: Path) -> None:
    file, spoil, message = WRONG_MAPS[name]
    spoil(maps(tmp_path) / file)
    with pytest.raises(BadInput, match=message) as caught:
        prepared(tmp_path, **MAPS)
    assert len(str(caught.value).splitlines()) == 1


YAMLS = {
    "parts: {0: sky}": r"labels.yaml: 'parts.* has the key 0|labels.yaml: .*greater than or equal",
    "parts: {255: sky}": r"labels.yaml: .*less than 255",
    "parts: {1: a, 2: a}": r"labels.yaml: .*`parts` names 'a' twice",
    "parst: {1: a}": r"labels.yaml: unknown key 'parst'; did you mean 'parts'",
    "landmarks: [a, a]": r"labels.yaml: .*`landmarks` names 'a' twice",
    "parts: {}": r"labels.yaml names no parts, and part maps hold numbers; write, for example",
    "mirrored: [[eye, nose]]": r"labels.yaml: `mirrored` names 'nose', which is no landmark; Valid",
}


@pytest.mark.parametrize("text", YAMLS)
def test_names_that_are_wrong(text: str, tmp_path: Path) -> None:
    (annotated(maps(tmp_path)) / "labels.yaml").write_text(text)
    parts = {} if "mirrored" in text else {"parts": ".parts.png"}
    with pytest.raises(BadInput, match=YAMLS[text]):
        folder(tmp_path, **CSV, **parts, masks=".mask.png").splits()


def test_a_file_of_names_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"labels.yaml names no parts"):
        folder(images(tmp_path), parts=".parts.png").splits()
    with pytest.raises(BadInput, match=r"names.yml: cannot be read"):
        folder(annotated(tmp_path), **CSV, labels="names.yml").splits()


SETTINGS = {
    "same ending": (
        {"masks": ".a.png", "parts": ".a.png"},
        "`masks` and `parts` have the same end",
    ),
    "clips": ({"frames": 4, "masks": ".mask.png"}, "`frames` makes the files clips"),
    "one frame": ({"frames": 1}, "a clip has at least 2 `frames`"),
    "no png": ({"masks": ".mask.jpg"}, "should match pattern"),
    "outside": ({"annotations": ["../a.csv"]}, "give a folder below the data root"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_are_wrong(name: str, tmp_path: Path) -> None:
    settings, message = SETTINGS[name]
    with pytest.raises(BadInput, match=message):
        folder(tmp_path, **settings)
