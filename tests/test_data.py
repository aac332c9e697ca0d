"""Readers of official layouts, and their preparation into arrays."""

import hashlib
import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, prepare_toy
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import CIFAR100 as Archive

from partbench.data import prepare as preparing
from partbench.data.celeba import CelebA, partition, read_landmarks, read_mafl_list
from partbench.data.cifar100 import CIFAR100
from partbench.data.folder import Folder
from partbench.data.image import move_points, read_image, resize
from partbench.data.imagenet import ImageNet
from partbench.data.indoor67 import Indoor67
from partbench.data.mafl import MAFL
from partbench.data.places205 import Places205
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.data.reader import DataSettings, Reader, Sample
from partbench.data.toy import Toy
from partbench.errors import BadInput
from partbench.files import sha256

RED, BLUE = (200, 30, 30), (30, 30, 200)


def reader(cls: type[Reader], root: Path, **settings: Any) -> Any:
    return cls(root, cls.Settings.parse(settings, "test"))


def prepare_one(made: Reader, out: Path, workers: int = 1) -> Prepared:
    prepare(made, "mine", out, workers)
    return Prepared(out)


def save(path: Path, colour: Any = RED, size: tuple[int, int] = (12, 10), **options: Any) -> Path:
    """Write an image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = "RGB" if isinstance(colour, tuple) else "L"
    Image.new(mode, size, colour).save(path, **options)
    return path


# Image files.


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("L", "grey.png"),
        ("1", "bits.png"),
        ("P", "palette.png"),
        ("RGBA", "alpha.png"),
        ("LA", "grey_alpha.png"),
        ("CMYK", "print.jpg"),
        ("RGB", "upper.JPG"),
        ("RGB", "plain.webp"),
        ("RGB", "plain.bmp"),
        ("RGB", "plain.tiff"),
    ],
)
def test_images_of_any_mode_become_rgb(mode: str, name: str, tmp_path: Path) -> None:
    source = Image.new("RGB", (12, 10), RED).convert(mode)
    source.save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.shape == (10, 12, 3)
    assert image.dtype == np.uint8
    expected = np.asarray(source.convert("RGB"), int)
    assert abs(image.astype(int) - expected).max() <= 6  # lossy formats


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
@pytest.mark.parametrize("options", [{}, {"quality": 30, "subsampling": 2}, {"progressive": True}])
def test_jpegs_have_pils_pixels(mode: str, options: dict[str, Any], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    image = Image.fromarray(noise).resize((53, 47)).convert(mode)
    path = tmp_path / "a.jpg"
    image.save(path, **options)
    with Image.open(path) as opened:
        expected = opened.convert("RGB")
    image = read_image(path)
    np.testing.assert_array_equal(image, np.asarray(expected))
    box = (3.5, 1, 40, 44.25)
    for nearest, method in ((True, Image.Resampling.NEAREST), (False, Image.Resampling.BILINEAR)):
        resized = np.asarray(expected.resize((16, 16), method, box))
        np.testing.assert_array_equal(resize(image, (16, 16), box, nearest), resized)
        np.testing.assert_array_equal(
            resize(np.ascontiguousarray(image), (16, 16), box, nearest), resized
        )
        other = np.asarray(Image.fromarray(image[:, ::-1].copy()).resize((16, 16), method, box))
        np.testing.assert_array_equal(resize(image[:, ::-1], (16, 16), box, nearest), other)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BadInput, match=r"a\.jpg: cannot be decoded"):
        read_image(path)


def test_real_jpegs_have_pils_pixels(shared_data: Path) -> None:
    for folder in ("celeba/img_align_celeba", "coco/val2017", "ccp/photos"):
        for path in sorted((shared_data / folder).glob("*.jpg"))[:20]:
            with Image.open(path) as opened:
                np.testing.assert_array_equal(read_image(path), np.asarray(opened.convert("RGB")))


def test_a_photo_taken_sideways_is_turned(tmp_path: Path) -> None:
    image = Image.new("RGB", (12, 10), RED)
    image.paste(BLUE, (0, 0, 12, 5))  # blue above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    image.save(tmp_path / "photo.png", exif=exif)
    turned = read_image(tmp_path / "photo.png")
    assert turned.shape == (12, 10, 3)
    assert (turned[:, 5:] == BLUE).all()  # blue on the right
    assert (turned[:, :5] == RED).all()


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    good = save(tmp_path / "good.jpg", size=(64, 64)).read_bytes()
    broken = {
        "cut.jpg": good[: len(good) // 2],
        "empty.png": b"",
        "page.jpg": b"<html>quota exceeded</html>",
        "header.png": b"\x89PNG\r\n\x1a\n" + bytes(20),
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=rf"{name}: cannot be decoded .*`broken: skip`"):
            read_image(tmp_path / name)
    with pytest.raises(BadInput, match=r"absent.png: no such image"):
        read_image(tmp_path / "absent.png")


@pytest.mark.parametrize(("dtype", "name"), [(np.uint16, "deep.png"), (np.float32, "deep.tiff")])
def test_images_of_more_than_8_bits_are_refused(dtype: type, name: str, tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 999, dtype)).save(tmp_path / name)
    with pytest.raises(BadInput, match=r"more than 8 bits a channel; convert it"):
        read_image(tmp_path / name)


# The folder reader.


def make_folder(root: Path) -> Path:
    """Two classes, three training images and one test image each, all of different greys."""
    for split, count in (("train", 3), ("test", 1)):
        for c, name in enumerate(("bird", "cat")):
            for i in range(count):
                save(root / split / name / f"{i}.png", 10 + 100 * c + 20 * i)
    return root


def greys(data: Prepared, split: str) -> list[int]:
    return [int(image[0, 0, 0]) for image in data.split(split).images]


def test_folder_of_classes(tmp_path: Path) -> None:
    made = reader(Folder, make_folder(tmp_path / "in"), size=8)
    data = prepare_one(made, tmp_path / "out")
    assert data.meta["class_names"] == ["bird", "cat"]
    assert data.classes == 2
    assert data.size == 8
    assert greys(data, "train") == [10, 30, 50, 110, 130, 150]
    assert data.split("train").annotation("labels").tolist() == [0, 0, 0, 1, 1, 1]
    assert greys(data, "test") == [10, 110]
    names = (tmp_path / "out" / "train.names.txt").read_text().splitlines()
    assert names == [f"{c}/{i}.png" for c in ("bird", "cat") for i in range(3)]
    assert data.meta["subset"] is False
    assert data.training_split("labels").name == "train"
    assert data.training_split("images").name == "train"


def test_folder_without_classes_beside_one_with(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in")
    for i in range(2):
        save(root / "more" / f"{i}.jpg", 77)
    splits = {"train": "train", "test": "test", "unlabeled": "more"}
    data = prepare_one(reader(Folder, root, size=8, splits=splits), tmp_path / "out")
    assert not data.split("unlabeled").has("labels")
    assert data.training_split("images").name == "unlabeled"
    assert data.training_split("labels").name == "train"
    with pytest.raises(BadInput, match=r"split 'unlabeled' has no labels"):
        data.split("unlabeled").annotation("labels")
    with pytest.raises(BadInput, match=r"no split 'val', only \['test', 'train', 'unlabeled'\]"):
        data.split("val")


def test_a_class_of_one_split_only_counts_in_both(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in")
    save(root / "test" / "ant" / "0.png", 200)
    data = prepare_one(reader(Folder, root, size=8), tmp_path / "out")
    assert data.meta["class_names"] == ["ant", "bird", "cat"]
    assert data.split("train").annotation("labels").tolist() == [1, 1, 1, 2, 2, 2]
    assert data.split("test").annotation("labels").tolist() == [0, 1, 2]


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"in/train: no such folder; split 'train' .*PARTBENCH_DATA"):
        reader(Folder, tmp_path / "in").splits()
    root = make_folder(tmp_path / "in")
    (root / "train" / "dog").mkdir()
    (root / "train" / "dog" / "notes.txt").touch()
    with pytest.raises(BadInput, match=r"train/dog: class folder without images; fill or remove"):
        reader(Folder, root).splits()
    shutil.rmtree(root / "train" / "dog")
    save(root / "train" / "stray.png")
    with pytest.raises(BadInput, match=r"train: some images lie in class folders and some beside"):
        reader(Folder, root).splits()
    (root / "none").mkdir()
    with pytest.raises(BadInput, match=r"split 'train' has no images"):
        prepare_one(reader(Folder, root, splits={"train": "none"}), tmp_path / "out")


def test_a_broken_image_stops_or_is_left_out_and_listed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in")
    (root / "train" / "bird" / "0.png").write_bytes(b"broken")  # also the first one
    (root / "train" / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(BadInput, match=r"bird/0.png: cannot be decoded"):
        prepare_one(reader(Folder, root, size=8), tmp_path / "out")
    assert not (tmp_path / "out").exists()

    data = prepare_one(reader(Folder, root, size=8, broken="skip"), tmp_path / "out")
    train = data.meta["splits"]["train"]
    assert train == {"n": 4, "missing": 0, "skipped": ["bird/0.png", "cat/1.png"]}
    assert greys(data, "train") == [30, 50, 110, 150]
    assert data.split("train").annotation("labels").tolist() == [0, 0, 1, 1]
    names = (tmp_path / "out" / "train.names.txt").read_text().splitlines()
    assert names == ["bird/1.png", "bird/2.png", "cat/0.png", "cat/2.png"]
    assert not (tmp_path / "out" / "compact.npy").exists()

    for path in (root / "test").glob("*/*"):
        path.write_bytes(b"broken")
    with pytest.raises(BadInput, match=r"no image of split 'test' can be decoded"):
        prepare_one(reader(Folder, root, size=8, broken="skip"), tmp_path / "out")
    assert greys(Prepared(tmp_path / "out"), "train") == [30, 50, 110, 150]  # the old one stands


# Preparation.


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def checksum(folder: Path) -> str:
    """Return what meta.json must say: the sha256 of the arrays' own ones, by name."""
    files = content(folder)
    digests = {
        name: hashlib.sha256(files[name]).hexdigest()
        for name in sorted(files)
        if name.endswith(".npy")
    }
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def test_the_prepared_bytes_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"size": 32, **TINY}
    prepare(reader(Toy, tmp_path, **settings), "toy", tmp_path / "whole", 1)
    monkeypatch.setattr(preparing, "CHUNK", 5)
    for workers in (1, 3):
        prepare(reader(Toy, tmp_path, **settings), "toy", tmp_path / str(workers), workers)
    one, three = content(tmp_path / "1"), content(tmp_path / "3")
    assert one == three
    assert one == content(tmp_path / "whole")  # nor on where the chunks end
    assert Prepared(tmp_path / "whole").meta["checksum"] == checksum(tmp_path / "whole")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_checksum_is_read_while_the_arrays_are_filled(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "CHUNK", 1)
    again: list[Path] = []

    def rehash(*paths: Path) -> str:
        again.extend(paths)
        return sha256(*paths)

    monkeypatch.setattr("partbench.integrity.sha256", rehash)
    made = reader(Folder, make_folder(tmp_path / "in"), size=8)
    prepare(made, "mine", tmp_path / "out", workers)
    assert Prepared(tmp_path / "out").meta["checksum"] == checksum(tmp_path / "out")
    assert again
    assert not [path for path in again if path.name.endswith(".images.npy")]


def test_the_checksum_follows_the_data(tiny: Path, tmp_path: Path) -> None:
    other = prepare_toy(tmp_path, seed=1)
    assert Prepared(other).meta["checksum"] != Prepared(tiny).meta["checksum"]


@pytest.mark.fault
def test_a_killed_preparation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "toy"
    settings = {"size": 32, "train": 3000, "val": 4, "test": 4}
    script = (
        "import sys; from pathlib import Path; from partbench.data import prepare\n"
        "from partbench.data.toy import Toy\n"
        f"prepare.NOTE_SECONDS = 0; settings = Toy.Settings.parse({settings}, 'test')\n"
        "prepare.prepare(Toy(Path(), settings), 'toy', Path(sys.argv[1]), 1)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(out)], stderr=subprocess.DEVNULL)
    journal = tmp_path / ".toy.part" / "journal.jsonl"
    for _ in range(12_000):
        if journal.exists() and journal.read_bytes().count(b'{"split": "train", "chunk"') >= 2:
            break
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    assert not list(tmp_path.rglob("meta.json"))

    decoded = count_samples(monkeypatch, Toy)
    prepare(reader(Toy, tmp_path, **settings), "toy", out, 1)
    assert len(decoded) <= 3008 - 2 * preparing.CHUNK + 3  # a first sample of each split: shapes
    assert not (tmp_path / ".toy.part").exists()
    prepare(reader(Toy, tmp_path, **settings), "toy", tmp_path / "whole", 1)
    assert content(out) == content(tmp_path / "whole")
    assert Prepared(out).meta["checksum"] == checksum(out)


def count_samples(monkeypatch: pytest.MonkeyPatch, cls: type[Reader], stop: int = -1) -> list[Any]:
    """Note every sample that is read; be interrupted at number `stop`."""
    read: list[Any] = []
    sample = cls.sample

    def counting(self: Any, split: str, index: int) -> Sample:
        if len(read) == stop:
            raise KeyboardInterrupt
        read.append((split, index))
        return sample(self, split, index)

    monkeypatch.setattr(cls, "sample", counting)
    return read


@pytest.mark.fault
@pytest.mark.parametrize("stop", [0, 1, 5, 17, 26, 33])
def test_an_interrupted_preparation_goes_on(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "in"
    for i in range(32):
        save(root / ("train" if i < 24 else "test") / f"{i:02d}.png", i)
    (root / "train" / "07.png").write_bytes(b"broken")
    monkeypatch.setattr(preparing, "CHUNK", 4)
    monkeypatch.setattr(preparing, "NOTE_SECONDS", 0.0)
    made = reader(Folder, root, size=8, broken="skip")
    whole = prepare_one(made, tmp_path / "whole")

    with monkeypatch.context() as patch:
        count_samples(patch, Folder, stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_one(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    again = count_samples(monkeypatch, Folder)
    data = prepare_one(made, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert data.meta == whole.meta
    assert data.meta["checksum"] == checksum(tmp_path / "out")
    assert len(again) <= 32 + 2 - max(stop - 5, 0)


@pytest.mark.fault
def test_an_interrupted_move_of_rows_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(tmp_path / "in")
    (root / "train" / "cat" / "0.png").write_bytes(b"broken")
    made = reader(Folder, root, size=8, broken="skip")
    prepare_one(made, tmp_path / "whole")

    def interrupted(folder: Path, split: str, kept: Any) -> None:
        images = np.load(folder / f"{split}.images.npy")
        np.save(folder / f"{split}.images.npy", images[kept])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "_compact", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_one(made, tmp_path / "out")
    prepare_one(made, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_another_preparation_left_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(tmp_path / "in")
    monkeypatch.setattr(preparing, "NOTE_SECONDS", 0.0)
    monkeypatch.setattr(preparing, "CHUNK", 1)
    with monkeypatch.context() as patch:
        count_samples(patch, Folder, 4)
        with pytest.raises(KeyboardInterrupt):
            prepare_one(reader(Folder, root, size=8), tmp_path / "out")
    prepare_one(reader(Folder, root, size=16), tmp_path / "out")
    prepare_one(reader(Folder, root, size=16), tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    with monkeypatch.context() as patch:
        count_samples(patch, Folder, 4)
        with pytest.raises(KeyboardInterrupt):
            prepare_one(reader(Folder, root, size=8), tmp_path / "more")
    save(root / "train" / "cat" / "new.png", RED)
    data = prepare_one(reader(Folder, root, size=8), tmp_path / "more")
    assert "cat/new.png" in (tmp_path / "more" / "train.names.txt").read_text()
    assert len(data.split("train")) == len(
        (tmp_path / "more" / "train.names.txt").read_text().split()
    )


def test_a_failed_preparation_leaves_the_old_one(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in")
    prepare_one(reader(Folder, root, size=8), tmp_path / "out")
    before = content(tmp_path / "out")
    (root / "test" / "cat" / "0.png").write_bytes(b"broken")
    with pytest.raises(BadInput):
        prepare_one(reader(Folder, root, size=8), tmp_path / "out")
    assert content(tmp_path / "out") == before


def test_limit_is_a_seeded_draw_in_the_official_order(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for i in range(40):
        save(root / "train" / f"{i:02d}.png", i)
    splits = {"train": "train"}
    whole = prepare_one(reader(Folder, root, size=8, splits=splits), tmp_path / "whole")
    assert greys(whole, "train") == list(range(40))
    kept = [
        greys(
            prepare_one(
                reader(Folder, root, size=8, splits=splits, limit={"train": n}),
                tmp_path / f"{n}-{again}",
            ),
            "train",
        )
        for n in (10, 20)
        for again in (0, 1)
    ]
    assert kept[0] == kept[1] == sorted(set(kept[0]))
    assert len(kept[0]) == 10
    assert kept[0] != list(range(10))
    assert set(kept[0]) < set(kept[2])  # a larger limit adds images


class Marked(Reader):
    """Images with one bright square disc of side 9 around a landmark, its box and its part."""

    Settings = DataSettings
    landmark_names = ("centre", "hidden")
    part_names = ("disc",)
    shape = (60, 90)
    centre = (37.0, 24.0)
    visible: Sequence[bool] | None = None
    hidden = (1.0, 1.0)

    def splits(self) -> dict[str, Sequence[str]]:
        return {"train": ["one"]}

    def sample(self, split: str, index: int) -> Sample:
        image = np.zeros((*self.shape, 3), np.uint8)
        x, y = (round(c) for c in self.centre)
        image[y - 4 : y + 5, x - 4 : x + 5] = 255
        return Sample(
            "one",
            image,
            landmarks=np.array([self.centre, self.hidden], np.float32),
            visible=None if self.visible is None else np.array(self.visible),
            box=np.array([x - 4.5, y - 4.5, 9, 9], np.float32),
            parts=(image[..., 0] > 0).astype(np.uint8),
        )


def centre_of_mass(weights: NDArray[Any]) -> NDArray[np.float64]:
    rows, columns = np.indices(weights.shape)
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


@pytest.mark.parametrize("crop", ["center", "stretch"])
@pytest.mark.parametrize("size", [30, 47, 60, 128])
@pytest.mark.parametrize("shape", [(60, 90), (91, 60), (60, 60)])
def test_annotations_stay_on_what_they_mark(
    crop: str, size: int, shape: tuple[int, int], tmp_path: Path
) -> None:
    made = reader(Marked, tmp_path, crop=crop, size=size)
    made.shape = shape
    split = prepare_one(made, tmp_path / "out").split("train")
    image = split.images[0, :, :, 0].astype(float)
    assert image.shape == (size, size)
    centre = centre_of_mass(image)
    np.testing.assert_allclose(split.annotation("landmarks")[0, 0], centre, atol=0.1)
    x, y, width, height = split.annotation("box")[0]
    np.testing.assert_allclose([x + width / 2, y + height / 2], centre, atol=0.1)
    np.testing.assert_allclose(width * height, image.sum() / 255, rtol=0.02)
    parts = split.annotation("parts")[0]
    assert set(np.unique(parts)) == {0, 1}
    np.testing.assert_allclose(centre_of_mass(parts), centre, atol=0.6)


def test_crop_box_is_the_largest_centred_square(tmp_path: Path) -> None:
    face, banner = (Sample("a", np.zeros((h, w, 3), np.uint8)) for w, h in ((178, 218), (9, 4)))
    assert reader(Marked, tmp_path).crop_box(face) == (0, 20, 178, 198)
    assert reader(Marked, tmp_path).crop_box(banner) == (2.5, 0, 6.5, 4)
    assert reader(Marked, tmp_path, crop="stretch").crop_box(banner) == (0, 0, 9, 4)
    assert reader(Marked, tmp_path, crop="pad").crop_box(banner) == (0, -2.5, 9, 6.5)


def test_points_keep_to_pixel_centres() -> None:
    corners = np.array([[-0.5, -0.5], [9.5, 9.5], [4.5, 4.5]], np.float32)
    halved = move_points(corners, (5, 5), (0, 0, 10, 10))
    np.testing.assert_allclose(halved, [[-0.5, -0.5], [4.5, 4.5], [2, 2]])
    np.testing.assert_allclose(move_points(corners, (10, 10), (0, 0, 10, 10)), corners)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert resize(image, (16, 16), (0, 0, 16, 16), nearest=False) is image


def test_a_landmark_outside_its_image(tmp_path: Path) -> None:
    made = reader(Marked, tmp_path, size=16)
    made.hidden = (91.0, 5.0)
    with pytest.raises(BadInput, match=r"one: landmark hidden at \[91.0, 5.0\] lies outside"):
        prepare_one(made, tmp_path / "out")
    made.visible = (True, False)
    split = prepare_one(made, tmp_path / "out").split("train")
    assert split.annotation("visible").tolist() == [[True, False]]


# CelebA and MAFL.


def face(root: Path, number: int, size: tuple[int, int] = (178, 218)) -> Path:
    return save(root / "celeba" / "img_align_celeba" / f"{number:06d}.jpg", size=size)


def write_lists(root: Path, training: Sequence[int], testing: Sequence[int]) -> None:
    """Write MAFL's lists and the landmarks of their faces."""
    folder = root / "celeba" / "MAFL"
    folder.mkdir(parents=True, exist_ok=True)
    for name, numbers in (("training", training), ("testing", testing)):
        text = "\n".join(
            f"{n:06d}.jpg" for n in numbers
        )  # the official lists do not end in a newline either
        (folder / f"{name}.txt").write_text(text)
    rows = [f"{n:06d}.jpg  69 109 106 113 77 142 73 152 108 154" for n in (*training, *testing)]
    header = f"{len(rows)}\nlefteye_x lefteye_y righteye_x righteye_y nose_x nose_y\n"
    path = root / "celeba" / "list_landmarks_align_celeba.txt"
    path.write_text(header + "\n".join(rows) + "\n")


def test_the_partition_follows_from_the_number() -> None:
    lines = [
        f"{number:06d}.jpg {['train', 'val', 'test'].index(partition(number))}"
        for number in range(1, 202_600)
    ]
    counts = [sum(line.endswith(f" {part}") for line in lines) for part in range(3)]
    assert counts == [162_770, 19_867, 19_962]
    # The checksum that torchvision and tensorflow_datasets publish for list_eval_partition.txt.
    digest = hashlib.md5("".join(f"{line}\r\n" for line in lines).encode()).hexdigest()
    assert digest == "d32c9cbf5e040fd4025c592c306e6668"


def test_celeba_in_miniature(tmp_path: Path) -> None:
    write_lists(tmp_path, training=[3], testing=[2])
    for number in (1, 2, 3, 162_770, 162_771, 202_599):
        face(tmp_path, number)
    train = {
        exclude: prepare_names(tmp_path, CelebA, "train", exclude=exclude)
        for exclude in ("none", "mafl_test", "mafl")
    }
    assert train["none"] == ["000001.jpg", "000002.jpg", "000003.jpg", "162770.jpg"]
    assert train["mafl_test"] == ["000001.jpg", "000003.jpg", "162770.jpg"]
    assert train["mafl"] == ["000001.jpg", "162770.jpg"]
    data = Prepared(tmp_path / "out")
    assert data.meta["subset"] is True
    assert data.meta["splits"]["val"] == {"n": 1, "missing": 19_866, "skipped": []}
    assert data.split("test").images.shape == (1, 16, 16, 3)
    with pytest.raises(BadInput, match=r"162766 of 162770 .* missing, the first is 000004.jpg"):
        prepare_one(reader(CelebA, tmp_path, exclude="none"), tmp_path / "out")


def test_celeba_with_landmarks_and_attributes(tmp_path: Path) -> None:
    write_lists(tmp_path, training=[1, 2], testing=[202_599])
    for number in (1, 202_599):
        face(tmp_path, number)
    path = tmp_path / "celeba" / "list_attr_celeba.txt"
    names = [f"attribute_{i}" for i in range(40)]
    signs = {1: [1, -1] * 20, 202_599: [-1] * 40}
    rows = [f"{n:06d}.jpg  {' '.join(map(str, values))}" for n, values in signs.items()]
    path.write_text("\n".join(["2", " ".join(names), *rows]) + "\n")
    made = reader(CelebA, tmp_path, subset=True, size=16, landmarks=True, attributes=True)
    data = prepare_one(made, tmp_path / "out")
    assert data.meta["attribute_names"] == names
    assert data.split("train").annotation("attributes").tolist() == [[True, False] * 20]
    assert data.split("test").annotation("attributes").sum() == 0
    assert data.training_split("landmarks").annotation("landmarks").shape == (1, 5, 2)
    assert data.landmarks == 5
    plain = prepare_one(reader(CelebA, tmp_path, subset=True, size=16), tmp_path / "plain")
    assert plain.landmarks == 0
    with pytest.raises(BadInput, match=r"plain: split 'train' has no landmarks; .* a setting that"):
        plain.training_split("landmarks")
    path.write_text("\n".join(["1", " ".join(names), rows[0]]) + "\n")
    with pytest.raises(BadInput, match=r"list_attr_celeba.txt has no row for 202599.jpg"):
        prepare_one(reader(CelebA, tmp_path, subset=True, attributes=True), tmp_path / "out")
    for row, message in (
        (rows[0][:-3], "line 3: expected a file name and 40 whole"),
        (rows[0] + "5", "values other than 1 and -1"),
    ):
        path.write_text("\n".join(["1", " ".join(names), row]) + "\n")
        with pytest.raises(BadInput, match=message):
            prepare_one(reader(CelebA, tmp_path, subset=True, attributes=True), tmp_path / "out")
    path.unlink()
    with pytest.raises(BadInput, match="partbench data fetch celeba_annotations"):
        prepare_one(reader(CelebA, tmp_path, subset=True, attributes=True), tmp_path / "out")


def prepare_names(root: Path, cls: type[Reader], split: str, **settings: Any) -> list[str]:
    made = reader(cls, root, size=16, subset=True, **settings)
    prepare_one(made, root / "out")
    return (root / "out" / f"{split}.names.txt").read_text().splitlines()


def test_mafl_in_miniature(tmp_path: Path) -> None:
    write_lists(tmp_path, training=[3, 2], testing=[9])
    for number in (2, 3, 9):
        face(tmp_path, number)
    data = prepare_one(reader(MAFL, tmp_path, size=16, crop="stretch"), tmp_path / "out")
    names = (tmp_path / "out" / "train.names.txt").read_text().split()
    assert names == ["000003.jpg", "000002.jpg"]  # in the order of the list
    assert data.landmarks == 5
    assert [data.training_split(kind).name for kind in ("images", "landmarks")] == ["train"] * 2  # type: ignore[arg-type]
    landmarks = data.split("test").annotation("landmarks")[0]
    expected = [((69 + 0.5) * 16 / 178 - 0.5), ((109 + 0.5) * 16 / 218 - 0.5)]
    np.testing.assert_allclose(landmarks[0], expected, rtol=1e-6)
    assert data.meta["landmark_swap"] == [1, 0, 2, 4, 3]


@pytest.mark.parametrize("cls", [CelebA, MAFL])
def test_dlp_crops_rows_30_to_207_of_a_face(cls: type[Reader], tmp_path: Path) -> None:
    write_lists(tmp_path, training=[3], testing=[9])
    for number in (3, 9):
        face(tmp_path, number)
    pixels = np.random.default_rng(0).integers(0, 256, (218, 178, 3), np.uint8)
    path = tmp_path / "celeba" / "img_align_celeba" / "000003.jpg"
    Image.fromarray(pixels).save(path)
    extra = {"landmarks": True} if cls is CelebA else {}
    made = reader(cls, tmp_path, size=178, crop="dlp", subset=True, **extra)
    split = prepare_one(made, tmp_path / "out").split("train")
    np.testing.assert_array_equal(split.images[0], read_image(path)[30:208])
    landmarks = [[69, 79], [106, 83], [77, 112], [73, 122], [108, 124]]
    np.testing.assert_allclose(split.annotation("landmarks")[0], landmarks, atol=1e-5)


def test_only_faces_have_the_crop_of_dlp() -> None:
    with pytest.raises(BadInput, match="'crop' is 'dlp'"):
        Toy.Settings.parse({"crop": "dlp"}, "test")


def test_celeba_and_mafl_with_something_wrong(tmp_path: Path) -> None:
    celeba, mafl = reader(CelebA, tmp_path, subset=True), reader(MAFL, tmp_path, size=16)
    for made in (celeba, mafl):
        with pytest.raises(BadInput, match=r"MAFL/\w+.txt is missing; .*github.com.*and place it"):
            made.splits()
    write_lists(tmp_path, training=[3], testing=[9])
    with pytest.raises(BadInput, match=r"img_align_celeba is missing; .*celeba.zip .*unpack it"):
        reader(CelebA, tmp_path, subset=True).splits()
    with pytest.raises(BadInput, match=r"1 of 1 images of split 'train' are missing"):
        prepare_one(reader(MAFL, tmp_path), tmp_path / "out")
    face(tmp_path, 3)
    face(tmp_path, 9, size=(50, 60))
    with pytest.raises(BadInput, match=r"000009.jpg is 50 x 60, but aligned CelebA faces are 178"):
        prepare_one(reader(MAFL, tmp_path), tmp_path / "out")
    face(tmp_path, 9)

    path = tmp_path / "celeba" / "list_landmarks_align_celeba.txt"
    rows = path.read_text().splitlines()
    for row, message in (
        ("", r"has no row for 000009.jpg; use the complete official file"),
        (
            "000009.jpg 1 2 3",
            r"line 4: expected a file name and 10 whole numbers, got '000009.jpg 1 2 3'",
        ),
        ("000009.jpg 1 2 3 4 5 6 7 8 9 ten", r"line 4: expected a file name and 10 whole numbers"),
        (
            "000009.jpg 69 109 106 113 77 142 73 152 200 154",
            r"000009.jpg: landmark right mouth corner at \[200.0, 154.0\] lies outside the 178 x",
        ),
    ):
        path.write_text("\n".join([*rows[:3], *([row] if row else [])]) + "\n")
        with pytest.raises(BadInput, match=message):
            prepare_one(reader(MAFL, tmp_path), tmp_path / "out")
    path.unlink()
    with pytest.raises(BadInput, match=r"list_landmarks_align_celeba.txt is missing; .*place"):
        prepare_one(reader(MAFL, tmp_path), tmp_path / "out")


def test_the_real_lists_of_celeba_and_mafl(shared_data: Path) -> None:
    lines = (shared_data / "celeba" / "list_eval_partition.txt").read_text().splitlines()
    parts = ["train", "val", "test"]
    assert len(lines) == 202_599
    assert all(
        line == f"{number:06d}.jpg {parts.index(partition(number))}"
        for number, line in enumerate(lines, start=1)
    )
    training = read_mafl_list(shared_data / "celeba", "training")
    testing = read_mafl_list(shared_data / "celeba", "testing")
    assert (len(set(training)), len(set(testing))) == (19_000, 1_000)
    assert set(training).isdisjoint(testing)
    where = [partition(int(name[:6])) for name in testing]
    assert [where.count(part) for part in parts] == [808, 96, 96]


def test_real_faces(shared_data: Path, tmp_path: Path) -> None:
    limit = {"train": 40, "val": 2, "test": 2}
    made = reader(CelebA, shared_data, size=64, subset=True, limit=limit)
    names = made.splits()
    assert len(names["train"]) == CelebA.counts["train"] == 162_770 - 808
    testing = set(read_mafl_list(shared_data / "celeba", "testing"))
    assert testing.isdisjoint(names["train"])
    present = {split: len(made.present(split)) for split in names}
    assert present["train"] > 9000
    data = prepare_one(made, tmp_path / "faces")
    assert data.split("train").images.shape == (40, 64, 64, 3)
    assert data.split("train").images.std() > 40  # pictures, not blanks

    limit = {"train": 30, "test": 20}
    made = reader(MAFL, shared_data, size=64, subset=True, limit=limit)
    assert len(made.present("train")) == 4331
    assert len(made.present("test")) == 237
    data = prepare_one(made, tmp_path / "mafl")
    rows = read_landmarks(shared_data / "celeba" / "list_landmarks_align_celeba.txt")
    for split in ("train", "test"):
        landmarks = data.split(split).annotation("landmarks")
        assert landmarks.shape == (limit[split], 5, 2)
        assert (landmarks > -0.5).all()
        assert (landmarks < 63.5).all()
        left_eye, right_eye, nose, left_mouth, right_mouth = landmarks.transpose(1, 0, 2)
        assert (left_eye[:, 0] < right_eye[:, 0]).all()
        assert (left_mouth[:, 0] < right_mouth[:, 0]).all()
        assert (left_eye[:, 1] < nose[:, 1]).all()
        assert (nose[:, 1] < left_mouth[:, 1]).all()
        name = (tmp_path / "mafl" / f"{split}.names.txt").read_text().split()[0]
        expected = (rows[name] + 0.5 - (0, 20)) * 64 / 178 - 0.5
        np.testing.assert_allclose(landmarks[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("crop", "size", "formula"),
    [
        ("dlp", 160, lambda xy: (xy - (0, 30)) * 160 / 178),
        ("stretch", 160, lambda xy: xy * (160 / 178, 160 / 218)),
        ("stretch", 100, lambda xy: xy * (100 / 178, 100 / 218)),
    ],
)
def test_the_crops_of_the_keypoint_papers_on_real_faces(
    crop: str, size: int, formula: Any, shared_data: Path, tmp_path: Path
) -> None:
    limit = {"train": 30, "test": 30}
    made = reader(MAFL, shared_data, size=size, crop=crop, subset=True, limit=limit)
    data = prepare_one(made, tmp_path / "mafl")
    rows = read_landmarks(shared_data / "celeba" / "list_landmarks_align_celeba.txt")
    for split in ("train", "test"):
        names = (tmp_path / "mafl" / f"{split}.names.txt").read_text().split()
        published = formula(np.stack([rows[name] for name in names]))
        landmarks = data.split(split).annotation("landmarks")
        # The papers scale pixel coordinates directly; here the centres of pixels stay in place.
        scale = formula(np.ones(2)) - formula(np.zeros(2))
        np.testing.assert_allclose(landmarks, published + (scale - 1) / 2, atol=1e-3)
        assert np.abs(landmarks - published).max() < 0.35
        assert data.split(split).annotation("visible").all()
        # If image and landmarks moved together, an eye is darker than its surroundings.
        grey = data.split(split).images.mean(-1)
        darker = 0
        for image, (x, y) in zip(grey, landmarks[:, 0].round().astype(int), strict=True):
            reach = size // 16
            around = image[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach]
            darker += image[y - 1 : y + 2, x - 1 : x + 2].mean() < around.mean()
        assert darker >= 0.8 * len(landmarks)


# The other data sets.


def test_indoor67_in_miniature(tmp_path: Path) -> None:
    root = tmp_path / "indoor67"
    with pytest.raises(BadInput, match=r"TrainImages.txt is missing; .* web.mit.edu.*and place it"):
        reader(Indoor67, tmp_path).splits()
    root.mkdir()
    train = ["bar/a.jpg", "bar/some bar.jpg", "attic/c.jpg"]
    test = ["attic/d.jpg", "bar/e.jpg"]
    (root / "TrainImages.txt").write_text("\r\n".join(train))
    (root / "TestImages.txt").write_text("\n".join(test) + "\n\n")
    with pytest.raises(BadInput, match=r"Images is missing; .*indoorCVPR_09.tar .*unpack it"):
        reader(Indoor67, tmp_path).splits()
    for name in (*train, *test, "bar/more.jpg"):
        save(root / "Images" / name)
    data = prepare_one(reader(Indoor67, tmp_path, size=8), tmp_path / "out")
    counts = {split: entry["n"] for split, entry in data.meta["splits"].items()}
    assert counts == {"unlabeled": 4, "train": 3, "test": 2}
    names = (tmp_path / "out" / "unlabeled.names.txt").read_text().splitlines()
    assert names == ["attic/c.jpg", "bar/a.jpg", "bar/more.jpg", "bar/some bar.jpg"]
    assert data.split("train").annotation("labels").tolist() == [1, 1, 0]
    assert data.split("test").annotation("labels").tolist() == [0, 1]
    assert data.training_split("images").name == "unlabeled"
    (root / "Images" / train[1]).unlink()
    with pytest.raises(BadInput, match=r"1 of 3 images .*'train'.*first is bar/some bar.jpg"):
        prepare_one(reader(Indoor67, tmp_path, size=8), tmp_path / "out")


def test_the_real_lists_of_indoor67(shared_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "indoor67"
    (root / "Images").mkdir(parents=True)
    for name in ("TrainImages.txt", "TestImages.txt"):
        shutil.copy(shared_data / "indoor67" / name, root / name)
    made = reader(Indoor67, tmp_path)
    splits = made.splits()
    assert len(set(splits["train"])) == Indoor67.counts["train"] == 5_360
    assert len(set(splits["test"])) == Indoor67.counts["test"] == 1_340
    assert set(splits["train"]).isdisjoint(splits["test"])
    assert len(made.class_names) == 67
    assert all(name.endswith(".jpg") for split in ("train", "test") for name in splits[split])


def test_places205_in_miniature(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"train_places205.csv is missing; .* places.csail.mit.edu.* unpack"
    ):
        reader(Places205, tmp_path).splits()
    lists = tmp_path / "places205" / "trainvalsplit_places205"
    lists.mkdir(parents=True)
    rows = [("b/bar/1.jpg", 1), ("a/abbey/2.jpg", 0), ("b/bar/3.jpg", 1)]
    (lists / "train_places205.csv").write_text("".join(f"{n},{c}\n" for n, c in rows))
    (lists / "val_places205.csv").write_text("a/abbey/4.jpg,0\n")
    for name in (*(name for name, _ in rows), "a/abbey/4.jpg"):
        save(tmp_path / "places205" / "images256" / name, size=(32, 32))
    data = prepare_one(reader(Places205, tmp_path, size=8), tmp_path / "out")
    assert data.meta["class_names"] == ["a/abbey", "b/bar"]
    assert data.split("train").annotation("labels").tolist() == [1, 0, 1]
    assert len(data.split("test")) == 1
    (tmp_path / "places205" / "images256" / "a/abbey/2.jpg").unlink()
    with pytest.raises(BadInput, match=r"1 of 3 images of split 'train'.*first is a/abbey/2.jpg"):
        prepare_one(reader(Places205, tmp_path, size=8), tmp_path / "out")


def test_imagenet_in_miniature(tmp_path: Path) -> None:
    for name in ("train/n02/a.JPEG", "train/n01/b.JPEG", "val/n01/c.JPEG", "val/n02/d.JPEG"):
        save(tmp_path / "imagenet" / name)
    data = prepare_one(reader(ImageNet, tmp_path, size=16), tmp_path / "out")
    assert data.meta["class_names"] == ["n01", "n02"]
    assert (tmp_path / "out" / "test.names.txt").read_text() == "n01/c.JPEG\nn02/d.JPEG\n"
    assert reader(ImageNet, tmp_path).settings.size == 224


def test_cifar100_that_is_not_there(tmp_path: Path) -> None:
    made = reader(CIFAR100, tmp_path)
    message = r"cifar100: CIFAR-100 is missing or damaged .*partbench data fetch cifar100"
    with pytest.raises(BadInput, match=message):
        made.splits()
    folder = tmp_path / "cifar100" / "cifar-100-python"
    folder.mkdir(parents=True)
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(b"damaged")
    with pytest.raises(BadInput, match=message):
        made.splits()


def test_cifar100_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar100" / "cifar-100-python"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)
    batch = {"data": images.reshape(3, -1), "fine_labels": [1, 0, 1]}
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "bear"]}))
    monkeypatch.setattr(Archive, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)
    data = prepare_one(reader(CIFAR100, tmp_path), tmp_path / "out")
    assert data.meta["class_names"] == ["apple", "bear"]
    assert data.split("train").annotation("labels").tolist() == [1, 0, 1]
    np.testing.assert_array_equal(data.split("train").images, images.transpose(0, 2, 3, 1))
