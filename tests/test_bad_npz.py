"""Files of numbers that a user gets wrong: one clear message of `partbench score`, no traceback."""

import io
import json
import os
import pickle
import struct
import subprocess
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from numpy.lib import format as npy

from partbench import cli
from partbench.score import npz


def write_features(path: Path, n: int, seed: int, **changes: Any) -> Path:
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    features = draw.normal(size=(n, 3)) + 4 * labels[:, None]
    np.savez(path, **{"features": features, "labels": labels} | changes)
    return path


def test_score_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_file = write_features(tmp_path / "train.npz", 60, 0)
    test_file = write_features(tmp_path / "test.npz", 40, 1)
    assert cli.main(["score", "linear", str(train_file), str(test_file)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert any(value > 90 for value in numbers(result))


def numbers(value: Any) -> Iterator[float]:
    """Yield every number inside a json value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float):
        yield value


def test_score_with_wrong_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_features(tmp_path / "good.npz", 60, 0)
    crater = tmp_path / "crater"
    bomb = np.empty(60, object)
    bomb[:] = [Bomb(crater)] * 60
    (tmp_path / "text.npz").write_text("features")
    wrong = {
        write_features(tmp_path / "objects.npz", 60, 0, labels=bomb): "labels",
        write_features(tmp_path / "short.npz", 60, 0, labels=np.arange(5)): "labels",
        tmp_path / "text.npz": "npz",
        tmp_path / "absent.npz": "absent.npz",
    }
    for path, part in wrong.items():
        for files in ([path, good], [good, path]):
            assert cli.main(["score", "linear", *map(str, files)]) == 1
            message = capsys.readouterr().err
            assert str(path) in message
            assert part in message
    assert not crater.exists()
    nan = write_features(tmp_path / "nan.npz", 60, 0, features=np.full((60, 3), np.nan))
    for files in ([nan, good], [good, nan]):
        assert cli.main(["score", "linear", *map(str, files)]) == 1
        assert f"{nan}: features: row 0" in capsys.readouterr().err
    assert cli.main(["score", "linear", str(good)]) == 1
    assert "two files: TRAIN.npz TEST.npz" in capsys.readouterr().err
    settings = ["--settings", '{"css": [1]}']
    assert cli.main(["score", "linear", str(good), str(good), *settings]) == 1
    assert "did you mean 'cs'?" in capsys.readouterr().err


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_the_bomb_goes_off(tmp_path: Path) -> None:
    """Else the tests that it is not set off would prove nothing."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "crater")))
    assert (tmp_path / "crater").is_dir()


def said_by_score(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """Return the message of `partbench score`, which must fail."""
    assert cli.main(["score", *map(str, arguments)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("partbench: ")
    assert "Traceback" not in captured.err
    assert len(captured.err) < 3000
    return captured.err


# Archives.


def array_bytes(values: Any, **header: Any) -> bytes:
    """Return an npy file, with some of its header as given."""
    values = np.asarray(values)
    file = io.BytesIO()
    fields = npy.header_data_from_array_1_0(values) | header
    npy.write_array_header_1_0(file, fields)
    return file.getvalue() + values.tobytes()


def archive(path: Path, method: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    """Write a zip archive of good features, some members as given."""
    labels = np.arange(60) % 2
    good = {
        "features.npy": array_bytes(labels[:, None] + np.random.default_rng(0).random((60, 3))),
        "labels.npy": array_bytes(labels),
    }
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in (good | members).items():
            file.writestr(name, content)
    return path


def features(content: bytes, method: int = zipfile.ZIP_STORED) -> Callable[[Path], Any]:
    return lambda path: archive(path, method, **{"features.npy": content})


def patched(old: bytes, new: bytes) -> Callable[[Path], Any]:
    """Return a writer of a good archive in which the first `old` is `new`."""

    def write(path: Path) -> None:
        content = archive(path).read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))

    return write


def cut(path: Path) -> None:
    content = archive(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def twice(*names: str) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(archive(path), "a") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in names:
                file.writestr(name, array_bytes(np.zeros((60, 3))))

    return write


def renamed(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../features.npy", array_bytes(np.zeros((60, 3))))
        file.writestr("/labels.npy", array_bytes(np.zeros(60, int)))


def flags(local: int, central: int, value: int) -> Callable[[Path], Any]:
    """Return a writer of an archive with a field of its first member's two headers replaced."""

    def write(path: Path) -> None:
        content = bytearray(archive(path).read_bytes())
        for start, offset in ((0, local), (content.index(b"PK\1\2"), central)):
            content[start + offset : start + offset + 2] = struct.pack("<H", value)
        path.write_bytes(content)

    return write


def shorter(path: Path) -> None:
    """An archive whose directory says that the first member is shorter than it is."""
    archive(path, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\1\2") + 24
    size = struct.unpack("<I", content[start : start + 4])[0]
    content[start : start + 4] = struct.pack("<I", size - 8)
    path.write_bytes(content)


def text(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def header(content: str, version: bytes = b"\1\0") -> bytes:
    """Return an npy file of no values with a header as given."""
    return npy.MAGIC_PREFIX + version + struct.pack("<H", len(content)) + content.encode("latin-1")


ONES = np.ones((60, 3))
UNREADABLE = "cannot read the array 'features'"
ARCHIVES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "absent": (lambda path: None, ["no such file", "give an npz file"]),
    "a folder": (lambda path: path.mkdir(), ["not a file", "give an npz file"]),
    "empty": (text(b""), ["not an npz file", "write it with numpy.savez"]),
    "text": (text(b"features"), ["not an npz file", "write it with numpy.savez"]),
    "a single array": (text(array_bytes(ONES)), ["a single npy array", "numpy.savez"]),
    "a pickle": (text(pickle.dumps([1, 2])), ["not an npz file", "write it with numpy.savez"]),
    "cut in the middle": (cut, ["not an npz file", "write it with numpy.savez"]),
    "an empty archive": (text(b"PK\5\6" + bytes(18)), ["no array named features, labels"]),
    "an array twice": (
        twice("features.npy"),
        ["holds the array 'features' twice", "write it once"],
    ),
    "an array by two names": (twice("features"), ["holds the array 'features' twice"]),
    "names that are paths": (renamed, ["no array named features", "'../features': did you mean"]),
    "encrypted": (flags(6, 8, 1), [UNREADABLE, "it is encrypted", "numpy.savez"]),
    "an unknown compression": (flags(8, 10, 99), [UNREADABLE, "compression", "numpy.savez"]),
    "a flipped bit": (patched(b"\x3f", b"\x3e"), [UNREADABLE, "Bad CRC-32", "numpy.savez"]),
    "a directory that lies": (shorter, [UNREADABLE, "Bad CRC-32", "numpy.savez"]),
    "no npy inside": (features(b"1, 2, 3"), [UNREADABLE, "magic string", "numpy.savez"]),
    "nothing inside": (features(b""), [UNREADABLE, "numpy.savez"]),
    "an unknown version": (features(header("{}", b"\x09\0")), [UNREADABLE, "version"]),
    "a header that is no mapping": (features(header("[1]")), [UNREADABLE, "numpy.savez"]),
    "a header that never ends": (features(header("{" * 500)), [UNREADABLE, "numpy.savez"]),
    "a header of many bytes": (features(header(" " * 60_000)), [UNREADABLE, "numpy.savez"]),
    "a header that is code": (
        features(header("__import__('os').mkdir('crater')")),
        [UNREADABLE, "numpy.savez"],
    ),
    "1e15 numbers": (
        features(array_bytes(ONES, shape=(10**15, 1))),
        [UNREADABLE, "promises 1000000000000000 numbers of float64", "there are 1,440 bytes"],
    ),
    "numbers beyond all memory": (
        features(array_bytes(ONES, shape=(10**400, 1))),
        [UNREADABLE, "promises 1000000", "there are 1,440 bytes"],
    ),
    "fewer numbers than there are": (
        features(array_bytes(ONES, shape=(60, 2))),
        [UNREADABLE, "promises 120 numbers of float64, and there are 1,440 bytes"],
    ),
    "negative axes": (
        features(array_bytes(ONES, shape=(-60, -3))),
        [UNREADABLE, "promises 180 numbers"],
    ),
    "an axis too long and one of nothing": (
        features(array_bytes(ONES[:0], shape=(2**80, 0))),
        [UNREADABLE, "numpy.savez"],
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_bad_archive_ends_in_one_message(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, parts = ARCHIVES[name]
    monkeypatch.chdir(tmp_path)
    good, bad = write_features(tmp_path / "good.npz", 60, 0), tmp_path / "bad.npz"
    write(bad)
    for files in ([bad, good], [good, bad]):
        message = said_by_score(capsys, "linear", *files)
        for part in (f"{bad}: ", *parts):
            assert part in message
    assert not Path("crater").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"good.npz", "bad.npz"}


def test_good_archives(tmp_path: Path) -> None:
    """Else the tests that they are refused would prove nothing."""
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        arrays, names = npz.read(archive(tmp_path / "a.npz", method), ["features", "folds"])
        assert list(arrays) == ["features"]
        assert names == ["features", "labels"]
    expected = {"a": np.asfortranarray(np.random.default_rng(0).random((3, 2))), "b": np.array(3)}
    np.savez_compressed(tmp_path / "b.npz", **expected)
    arrays, _ = npz.read(tmp_path / "b.npz", ["a", "b"])
    for name, values in expected.items():
        np.testing.assert_array_equal(arrays[name], values, strict=True)


def test_a_bomb_is_not_unpacked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays are read where a share of the memory holds all of them, however small the file."""

    class Memory(NamedTuple):
        available: int

    good, bomb = write_features(tmp_path / "good.npz", 60, 0), tmp_path / "bomb.npz"
    np.savez_compressed(bomb, features=np.zeros((2**17, 16)), labels=np.zeros(2**17, int))
    assert bomb.stat().st_size < 100_000
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(2**26))
    unpacked = []
    read_array = npy.read_array
    monkeypatch.setattr(
        npy, "read_array", lambda *a, **k: unpacked.append(1) or read_array(*a, **k)
    )
    message = said_by_score(capsys, "linear", bomb, good)
    assert f"{bomb}: unpacked, its arrays take 0.02 GiB or more" in message
    assert "no more than 0.02 GiB may be taken, 1/4 of the memory that is available" in message
    assert not unpacked
    arrays, _ = npz.read(bomb, ["labels"])  # what is not asked for counts for nothing
    assert unpacked == [1]
    assert len(arrays["labels"]) == 2**17


# Values.


Arrays = dict[str, Any]


def labelled(n: int = 60, seed: int = 0) -> Arrays:
    labels = np.arange(n) % 2
    return {
        "features": np.random.default_rng(seed).normal(size=(n, 3)) + 4 * labels[:, None],
        "labels": labels,
    }


def faces(n: int = 60, seed: int = 0) -> Arrays:
    draw = np.random.default_rng(seed)
    return {"points": draw.normal(size=(n, 4, 2)), "landmarks": draw.normal(size=(n, 3, 2))}


def birds(n: int = 60, seed: int = 0) -> Arrays:
    return faces(n, seed) | {"box": np.tile([0.0, 0, 5, 5], (n, 1))}


def parts_of_images(n: int = 4) -> Arrays:
    draw = np.random.default_rng(0)
    return {"pred": draw.integers(3, size=(n, 8)), "true": draw.integers(2, size=(n, 8))}


def at(place: Any, value: Any, array: Any) -> Any:
    """Return an array with one value replaced."""
    array = np.array(array)
    array[place] = value
    return array


LABELLED, FACES = labelled(), faces()
F, L, P, M = LABELLED["features"], LABELLED["labels"], FACES["points"], FACES["landmarks"]
SEEN = np.ones((60, 3))
LINEAR: dict[str, tuple[Arrays, list[str]]] = {
    "no features": ({"features": None}, ["no array named features"]),
    "no labels": ({"labels": None, "label": L}, ["no array named labels", "'label': did you mean"]),
    "not a number": (
        {"features": at((7, 1), np.nan, F)},
        ["features: row 7 holds nan (feature 1)"],
    ),
    "infinite": ({"features": at((7, 1), -np.inf, F)}, ["features: row 7 holds -inf (feature 1)"]),
    "1e300": (
        {"features": at((7, 1), -1e300, F)},
        ["features: row 7 holds -1e+300", "values beyond 1e+100 overflow", "another unit"],
    ),
    "complex": ({"features": F + 1j}, ["features: expected numbers", "complex128"]),
    "truths": ({"features": F > 0}, ["features: expected numbers", "got bool"]),
    "texts": ({"features": F.astype(str)}, ["features: expected numbers", "<U32"]),
    "objects": ({"features": F.astype(object)}, ["'features'", "Python objects are refused"]),
    "records": ({"features": np.zeros((60, 3), "f8,f8")}, ["features: expected numbers"]),
    "dates": ({"features": F.astype("M8[s]")}, ["features: expected numbers", "datetime64"]),
    "one axis": (
        {"features": F[:, 0]},
        ["features: expected numbers of shape [samples, features]"],
    ),
    "three axes": ({"features": F[None]}, ["features: expected numbers", "[1, 60, 3]"]),
    "no axis": ({"features": np.array(1.0)}, ["features: expected numbers", "shape []"]),
    "no samples": ({"features": F[:0], "labels": L[:0]}, ["features: empty, shape [0, 3]"]),
    "no values": ({"features": F[:, :0]}, ["features: empty, shape [60, 0]"]),
    "float labels": ({"labels": L * 1.0}, ["labels: float64", "must be integers"]),
    "truths as labels": ({"labels": L > 0}, ["labels: bool", "must be integers"]),
    "a negative label": (
        {"labels": at(7, -1, L)},
        ["labels: row 7 is -1", "number the classes from 0"],
    ),
    "fewer labels": ({"labels": L[:59]}, ["labels: shape [59]", "there are 60 samples"]),
    "one-hot labels": ({"labels": np.eye(2, dtype=int)[L]}, ["labels: shape [60, 2]"]),
}


def said_by_both(
    capsys: pytest.CaptureFixture[str], folder: Path, good: Arrays, changes: Arrays, *ruler: str
) -> tuple[Path, list[str]]:
    """Return a bad file, and the messages where it is the training file and the test file."""
    np.savez(folder / "good.npz", **good)
    values = {key: value for key, value in (good | changes).items() if value is not None}
    np.savez(folder / "bad.npz", **values)
    files = [folder / "bad.npz", folder / "good.npz"]
    return files[0], [said_by_score(capsys, *ruler, *order) for order in (files, files[::-1])]


@pytest.mark.parametrize("name", LINEAR)
def test_bad_features(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, parts = LINEAR[name]
    path, messages = said_by_both(capsys, tmp_path, LABELLED, changes, "linear")
    for message in messages:
        for part in (f"{path}: ", *parts):
            assert part in message


LANDMARKS: dict[str, tuple[Arrays, list[str]]] = {
    "a share of visible": (
        {"visible": at((7, 1), 0.5, SEEN)},
        ["visible holds 0.5", "give true or 1 for a landmark that is visible"],
    ),
    "a negative visible": ({"visible": at((7, 1), -1, SEEN)}, ["visible holds -1", "true or 1"]),
    "COCO's visible": ({"visible": at((7, 1), 2, SEEN.astype(int))}, ["visible holds 2"]),
    "visible is no number": ({"visible": at((7, 1), np.nan, SEEN)}, ["visible holds nan"]),
    "visible as text": ({"visible": SEEN.astype(str)}, ["visible is <U32; give plain numbers"]),
    "visible of one axis": ({"visible": SEEN[:, 0]}, ["visible has shape [60]"]),
    "no keypoints": ({"points": P[:, :0]}, ["points: float64 of shape [60, 0, 2]", "expected"]),
    "no images": ({"points": P[:0], "landmarks": M[:0]}, ["points: float64 of shape [0, 4, 2]"]),
    "points in space": ({"points": np.ones((60, 4, 3))}, ["points: float64 of shape [60, 4, 3]"]),
    "points without axes": ({"points": np.array(1.0)}, ["points: float64 of shape []"]),
    "truths as points": ({"points": P > 0}, ["points: bool", "expected numbers"]),
    "complex points": ({"points": P + 1j}, ["points is complex128; give plain numbers"]),
    "points of 1e300": ({"points": at((7, 1), 1e300, P)}, ["points: row 7 holds 1e+300", "unit"]),
    "an infinite point": ({"points": at((7, 1), np.inf, P)}, ["points: row 7, keypoint 1 is [inf"]),
    "landmarks of 1e300": ({"landmarks": at((7, 1), 1e300, M)}, ["landmarks: row 7 holds 1e+300"]),
    "landmarks that are none": ({"landmarks": at((7, 1), np.nan, M)}, ["row 7 has landmark 1 at"]),
    "landmarks without axes": ({"landmarks": np.array(1.0)}, ["landmarks have shape []"]),
    "no landmarks": ({"landmarks": M[:, :0]}, ["landmarks have shape [60, 0, 2]"]),
    "fewer landmarks": ({"landmarks": M[:59]}, ["60 rows of points, 59 of landmarks"]),
    "extra values of nothing": ({"extra": np.ones((60, 4, 0))}, ["extra: float64", "[60, 4, 0]"]),
}


@pytest.mark.parametrize("protocol", ["mafl", "cub"])
@pytest.mark.parametrize("name", LANDMARKS)
def test_bad_landmarks(
    name: str, protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, parts = LANDMARKS[name]
    ruler = ("landmarks", "--protocol", protocol)
    path, messages = said_by_both(capsys, tmp_path, birds(), changes, *ruler)
    for message in messages:
        for part in (f"{path}: ", *parts):
            assert part in message


BOXES: dict[str, tuple[Any, list[str]]] = {
    "no box": (None, ["no array named box"]),
    "a box of nothing": (
        np.zeros((60, 4)),
        ["box: row 0 is [0.0, 0.0, 0.0, 0.0]", "positive area"],
    ),
    "corners": (np.ones((60, 2, 2)), ["box: shape [60, 2, 2]", "(x, y, width, height)"]),
    "an endless box": (np.full((60, 4), np.inf), ["box: row 0 is [inf", "correct the row"]),
    "a box of 1e300": (np.full((60, 4), 1e300), ["box: row 0 holds 1e+300"]),
    "a negative box": (np.full((60, 4), -5.0), ["box: row 0 is [-5.0", "positive area"]),
}


@pytest.mark.parametrize("options", [["--protocol", "cub"], ["--normaliser", "box"]])
@pytest.mark.parametrize("name", BOXES)
def test_bad_boxes(
    name: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box, parts = BOXES[name]
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    np.savez(good, **birds())
    np.savez(bad, **{k: v for k, v in (birds() | {"box": box}).items() if v is not None})
    message = said_by_score(capsys, "landmarks", *options, good, bad)
    for part in (f"{bad}: ", *parts):
        assert part in message


def test_a_box_of_nearly_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shares of it overflow."""
    np.savez(tmp_path / "good.npz", **birds())
    np.savez(tmp_path / "bad.npz", **birds() | {"box": np.full((60, 4), 1e-150)})
    files = tmp_path / "good.npz", tmp_path / "bad.npz"
    message = said_by_score(capsys, "landmarks", "--protocol", "cub", *files)
    assert f"{files[1]}: box: row 0 is [1e-150" in message
    assert "too small; correct the row" in message


PARTS: dict[str, tuple[Arrays, list[str]]] = {
    "no predictions": ({"pred": None, "predicted": L}, ["no array named pred", "did you mean"]),
    "float labels": ({"pred": np.ones((4, 8))}, ["pred is float64; labels must be integers"]),
    "1e300": ({"pred": np.full((4, 8), 1e300)}, ["pred: row 0 holds 1e+300"]),
    "complex": ({"true": np.ones((4, 8), complex)}, ["true is complex128"]),
    "texts": ({"true": np.full((4, 8), "a")}, ["true is <U1; labels must be integers"]),
    "objects": ({"true": np.full((4, 8), None)}, ["'true'", "Python objects are refused"]),
    "other shapes": ({"true": np.ones((4, 7), int)}, ["true has shape [4, 7], pred [4, 8]"]),
    "nothing": (
        {"true": np.ones((0, 8), int), "pred": np.ones((0, 8), int)},
        ["shape [0, 8]", "nothing is left to count"],
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_bad_parts(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, expected = PARTS[name]
    values = {k: v for k, v in (parts_of_images() | changes).items() if v is not None}
    np.savez(tmp_path / "bad.npz", **values)
    message = said_by_score(capsys, "parts", tmp_path / "bad.npz")
    for part in (f"{tmp_path / 'bad.npz'}: ", *expected):
        assert part in message


# Two files that do not fit, and options.


def test_files_of_two_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ruler, good, other in (
        ("linear", LABELLED, {"features": F[:, :2]}),
        ("landmarks", FACES, {"points": P[:, :3]}),
        ("landmarks", FACES, {"landmarks": M[:, :2]}),
    ):
        path, messages = said_by_both(capsys, tmp_path, good, other, ruler)
        for message in messages:
            assert str(path) in message
            assert str(tmp_path / "good.npz") in message
            assert "both with the same model" in message


def test_classes_that_training_never_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = tmp_path / "train.npz", tmp_path / "test.npz"
    np.savez(train, **LABELLED)
    np.savez(test, **LABELLED | {"labels": np.where(np.arange(60) < 3, 9, L)})
    message = said_by_score(capsys, "linear", train, test)
    assert f"{test}: 3 of 60 samples have a class that {train} lacks, such as 9" in message
    assert "leave them out, or number the classes of both files alike" in message
    # Of training, a class may be more than the test samples have.
    assert cli.main(["score", "linear", str(test), str(train)]) == 0
    capsys.readouterr()
    np.savez(test, **LABELLED)
    np.savez(train, **LABELLED, folds=np.array([np.arange(10), 2 * np.arange(10)]))
    message = said_by_score(capsys, "linear", train, test)
    assert f"30 of 60 samples have a class that fold 1 of {train} lacks, such as 1" in message


def test_too_few_to_train_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for changes, part in (
        ({"labels": 0 * L}, "only the class 0; a classifier needs at least two"),
        ({"features": 0 * F + 1}, "all 3 features are constant over the 60 samples"),
        ({"features": F[:2], "labels": L[:2]}, "every class has a single sample"),
    ):
        np.savez(tmp_path / "train.npz", **LABELLED | changes)
        np.savez(tmp_path / "test.npz", features=F[:1], labels=L[:1])
        message = said_by_score(capsys, "linear", tmp_path / "train.npz", tmp_path / "test.npz")
        assert str(tmp_path / "train.npz") in message
        assert part in message


OPTIONS: dict[str, tuple[str, list[str], list[str]]] = {
    "a negative seed": ("linear", ["--seed", "-1"], ["--seed is -1", "from 0 to 4294967295"]),
    "a huge seed": ("linear", ["--seed", "9" * 99], ["--seed is 999", "from 0 to 4294967295"]),
    "landmarks' seed": ("landmarks", ["--seed", "-1"], ["--seed is -1", "from 0 to"]),
    "CUB's seed": ("landmarks", ["--protocol", "cub", "--seed", "-1"], ["--seed is -1"]),
    "a side of no use": (
        "landmarks",
        ["--side", "64"],
        ["--side is 64, which the normaliser 'iod' does not use", "--normaliser image"],
    ),
    "a side of no use to boxes": (
        "landmarks",
        ["--side", "64", "--normaliser", "box"],
        ["--side is 64, which the normaliser 'box' does not use"],
    ),
    "no side": ("landmarks", ["--normaliser", "image"], ["--side is None", "needs"]),
    "a negative side": (
        "landmarks",
        ["--normaliser", "image", "--side", "-3"],
        ["--side is -3.0", "needs"],
    ),
    "a side that is no number": (
        "landmarks",
        ["--normaliser", "image", "--side", "nan"],
        ["--side is nan", "needs"],
    ),
    "a side of nearly nothing": (
        "landmarks",
        ["--normaliser", "image", "--side", "1e-320"],
        ["test.npz: an error is infinite", "in another unit"],
    ),
    "settings that are no json": ("linear", ["--settings", "{"], ["--settings is not json"]),
    "settings too deep": ("linear", ["--settings", "[" * 99_999], ["--settings is not json"]),
    "settings of no number": (
        "linear",
        ["--settings", '{"held_out": NaN}'],
        ["--settings: 'held_out' is nan"],
    ),
    "settings of many digits": (
        "linear",
        ["--settings", f'{{"cs": [{"9" * 5000}]}}'],
        ["--settings is not json"],
    ),
    "no such setting": ("linear", ["--settings", '{"css": [1]}'], ["did you mean 'cs'?"]),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_bad_options(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ruler, options, parts = OPTIONS[name]
    for file in ("train.npz", "test.npz"):
        np.savez(tmp_path / file, **LABELLED, **birds())
    message = said_by_score(capsys, ruler, tmp_path / "train.npz", tmp_path / "test.npz", *options)
    for part in parts:
        assert part in message


def test_a_result_that_is_no_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """json has no word for it."""
    monkeypatch.setattr("partbench.score.parts.score", lambda *_, **__: {"nmi": float("nan")})
    message = said_by_score(capsys, "parts", tmp_path / "a.npz")
    assert f"{tmp_path / 'a.npz'}: a number of the result is not finite" in message


def test_the_files_are_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else the tests that they are refused would prove nothing."""
    path = tmp_path / "all.npz"
    np.savez(path, **LABELLED, **birds(), **parts_of_images(), visible=SEEN)
    two = [str(path), str(path)]
    for command in (
        ["linear", *two],
        ["landmarks", *two],
        ["landmarks", *two, "--normaliser", "box", "--seed", "4294967295"],
        ["landmarks", *two, "--normaliser", "image", "--side", "64"],
        ["landmarks", *two, "--protocol", "cub"],
        ["parts", str(path), "--ignore", "-1"],
    ):
        assert cli.main(["score", *command]) == 0
        json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["1e15 numbers", "text"])
def test_a_process_ends_with_one_message_and_status_1(
    name: str, tmp_path: Path, python: list[str]
) -> None:
    path = tmp_path / "bad.npz"
    ARCHIVES[name][0](path)
    done = subprocess.run([*python, "score", "linear", path, path], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"partbench: {path}: ")
    assert "Traceback" not in done.stderr
