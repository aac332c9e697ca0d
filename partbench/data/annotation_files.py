"""Landmarks and boxes of a person's own images, from CSV files and COCO's json.

Both count pixels of the upright image, as viewers show it. A landmark at (0, 0) is the centre of
the first pixel. A box is (x, y, width, height) between the edges of pixels, so that (0, 0, W, H)
is the whole image.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from partbench.data.label_maps import Labels
from partbench.errors import BadInput, shown
from partbench.settings import nearest

POINTS = ("image", "landmark", "x", "y")
BOXES = ("image", "x", "y", "width", "height")
VISIBLE = {"1": True, "true": True, "0": False, "false": False}
HEADERS = (
    "image,landmark,x,y,visible (`visible` may be left out), or image,x,y,width,height for boxes"
)
LONGEST_HEADER = 1000
"""Bytes of a first line."""
MOST_FAULTS = 20
"""Faults of a file that one message lists."""
OCCLUDED, SHOWN = 1, 2
"""COCO's numbers of landmarks that are placed but hidden, and of visible ones."""


class Mark(NamedTuple):
    """One line of a file: a landmark of an image, or with an empty name its box."""

    image: str
    name: str
    values: tuple[float, ...]
    """(x, y), or (x, y, width, height)."""
    visible: bool
    file: Path
    number: int
    """The line of a CSV, the id of an annotation of COCO's."""

    @property
    def where(self) -> str:
        """The file and the line, in words."""
        return where(self.file, self.number)


def where(file: Path, number: int) -> str:
    """Return where a mark stands, in words."""
    return f"{file}: annotation {number}" if is_coco(file) else f"{file}, line {number}"


def is_coco(file: Path) -> bool:
    """Whether a file of annotations is COCO's json, and not a CSV."""
    return file.suffix == ".json"


class Places(NamedTuple):
    """The landmarks and boxes of the N images of a split."""

    landmarks: NDArray[np.float32]
    """[N, L, 2], (x, y), with pixel centres at integers."""
    visible: NDArray[np.bool_]
    """[N, L]."""
    box: NDArray[np.float32]
    """[N, 4], (x, y, width, height) in the same frame."""
    files: NDArray[np.int16]
    """[N, L + 1], which file each landmark and, last, the box is from; -1: there is none."""
    numbers: NDArray[np.int64]
    """[N, L + 1], where it stands there; see `Mark.number`."""
    has_landmarks: bool
    """Whether any image of the split has."""
    has_boxes: bool


def may_hold(path: Path, what: str) -> bool | None:
    """Return whether a file has landmarks or boxes, by its first line; None if that does not tell.

    Args:
        path: the file, which may be missing.
        what: `landmarks` or `box`.
    """
    if is_coco(path):
        return None
    try:
        with path.open("rb") as file:
            header = file.readline(LONGEST_HEADER).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    columns = {column.strip() for column in header.split(",")}
    return ("landmark" if what == "landmarks" else "width") in columns


def read_marks(path: Path, occluded: bool) -> list[Mark]:
    """Read the landmarks and boxes of a CSV or of COCO's json.

    Args:
        path: the file; the suffix .json tells COCO's, any other one is a CSV.
        occluded: whether landmarks that COCO calls labelled but not visible count as visible.

    Raises:
        BadInput: the file is missing or is neither; a line or an annotation is impossible: all
            such are listed, up to `MOST_FAULTS`.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: is not UTF-8 ({error}); save it as UTF-8") from None
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read ({error.strerror}); place it there, or correct `annotations` "
            "of this data set"
        ) from None
    marks: list[Mark] = []
    faults: list[str] = []
    for mark in _coco(path, text, occluded) if is_coco(path) else _csv(path, text):
        if isinstance(mark, Mark):
            marks.append(mark)
        else:
            faults.append(mark)
    stop_at(faults)
    if not marks:
        raise BadInput(f"{path}: holds no landmark and no box")
    return marks


def stop_at(faults: Sequence[str]) -> None:
    """Raise `BadInput` with what is wrong, if anything is."""
    if faults:
        more = len(faults) - MOST_FAULTS
        rest = [f"and {more} more faults of this kind"] if more > 0 else []
        raise BadInput("\n".join([*faults[:MOST_FAULTS], *rest]))


def _csv(path: Path, text: str) -> Iterator[Mark | str]:
    """Yield the marks of a CSV, or in words what is wrong with a line."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = tuple(column.strip() for column in next(rows, []))
        of_boxes = set(header) == set(BOXES)
        if len(set(header)) < len(header) or not (
            of_boxes or set(POINTS) <= set(header) <= {*POINTS, "visible"}
        ):
            raise BadInput(f"{path}, line 1: the columns are {shown(','.join(header))}; {HEADERS}")
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                yield f"{where(path, rows.line_num)}: {len(row)} values, but {len(header)} columns"
                continue
            values = dict(zip(header, (value.strip() for value in row), strict=True))
            yield _mark_of(values, BOXES[1:] if of_boxes else POINTS[2:], path, rows.line_num)
    except csv.Error as error:
        raise BadInput(f"{path}, line {rows.line_num}: no CSV ({error})") from None


def _mark_of(values: dict[str, str], columns: Sequence[str], path: Path, line: int) -> Mark | str:
    """Return the mark of a line of a CSV, or in words what is wrong with it."""
    image, name = values["image"], values.get("landmark", "")
    place = f"{where(path, line)}: {image}" + (f": landmark {name}" if name else "")
    if not image or ("landmark" in values and not name):
        return f"{where(path, line)}: names no {'landmark' if image else 'image'}"
    visible = VISIBLE.get(values.get("visible", "1").lower())
    if visible is None:
        return f"{place}: visible is {shown(values['visible'])}; give 1 or 0"
    numbers = []
    for column in columns:
        try:
            number = float(values[column]) if visible or values[column] else 0.0
        except ValueError:
            return f"{place}: {column} is {shown(values[column])}, which is no number"
        if not math.isfinite(number):
            return f"{place}: {column} is {number}; a landmark without a place has visible 0"
        numbers.append(number)
    return _checked(Mark(image, name, tuple(numbers), visible, path, line))


def _checked(mark: Mark) -> Mark | str:
    """Return a mark unless it is a box without area."""
    if not mark.name and min(mark.values[2:]) <= 0:
        sides = f"{mark.values[2]:g} x {mark.values[3]:g}"
        return f"{mark.where}: {mark.image}: the box is {sides}; both must be above 0"
    return mark


def _coco(path: Path, text: str, occluded: bool) -> Iterator[Mark | str]:
    """Yield the marks of COCO's json, or in words what is wrong with an annotation.

    Crowds do not count.
    """
    try:
        document = json.loads(text)
        images = {image["id"]: str(image["file_name"]) for image in document["images"]}
        names = {
            category["id"]: [str(name) for name in category.get("keypoints", ())]
            for category in document["categories"]
        }
        rows = [row for row in document["annotations"] if not row.get("iscrowd")]
        first: dict[Any, Any] = {}
        for row in rows:
            image, number = row["image_id"], int(row["id"])
            if image not in images or row["category_id"] not in names:
                key = "category_id" if image in images else "image_id"
                yield f"{where(path, number)}: {key} {shown(row[key])} is not listed in the file"
                continue
            of, place = images[image], f"{where(path, number)}: {images[image]}"
            if first.setdefault(image, number) != number:
                yield (
                    f"{place}: the image also has annotation {first[image]}; a sample is one "
                    "object, so cut out each object as an image of its own, or keep one"
                )
                continue
            if "bbox" in row:
                yield _numbers_of(Mark(of, "", tuple(row["bbox"]), True, path, number), 4)
            if "keypoints" in row:
                keypoints, expected = row["keypoints"], names[row["category_id"]]
                if len(keypoints) != 3 * len(expected):
                    yield (
                        f"{place}: {len(keypoints)} numbers of keypoints, but its category "
                        f"names {len(expected)} landmarks, of three numbers each"
                    )
                    continue
                least = OCCLUDED if occluded else SHOWN
                for name, x, y, v in zip(
                    expected, keypoints[::3], keypoints[1::3], keypoints[2::3], strict=True
                ):
                    if v not in (0, OCCLUDED, SHOWN):
                        yield f"{place}: landmark {name} has visibility {shown(v)}; 0, 1 or 2"
                        continue
                    yield _numbers_of(Mark(of, name, (x, y), v >= least, path, number), 2)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadInput(
            f"{path} is not a COCO annotation file ({type(error).__name__}: {error})"
        ) from None


def _numbers_of(mark: Mark, count: int) -> Mark | str:
    """Return a mark of COCO's if its values are `count` finite numbers, else what is wrong."""
    what = f"landmark {mark.name}" if mark.name else "bbox"
    plain = all(isinstance(v, int | float) and abs(v) < 1e9 for v in mark.values)
    if len(mark.values) != count or not plain:
        values = shown(list(mark.values))
        return f"{mark.where}: {mark.image}: {what} is {values}; give {count} numbers, pixels"
    return _checked(mark)


class Images:
    """The images of all splits, found by the end of their paths.

    Args:
        names: split -> its images, paths below the split's folder.
        folders: split -> its folder.
    """

    def __init__(self, names: Mapping[str, Sequence[str]], folders: Mapping[str, str]) -> None:
        self.names = names
        self._by_file: dict[str, list[tuple[str, str, int]]] = {}
        for split, listed in names.items():
            for index, name in enumerate(listed):
                path = (Path(folders[split]) / name).as_posix()
                place = (f"/{path}", split, index)
                self._by_file.setdefault(path.rpartition("/")[2], []).append(place)

    def find(self, text: str) -> list[tuple[str, int]] | str:
        """Return split and index of an image, of each split that has it; or what is wrong.

        Args:
            text: its path, or as much of the end of it as no other image has.
        """
        wanted = text.removeprefix("./")
        file = wanted.rpartition("/")[2]
        found = [p for p in self._by_file.get(file, ()) if p[0].endswith(f"/{wanted}")]
        if len({path for path, _, _ in found}) > 1:
            one, other = sorted({path[1:] for path, _, _ in found})[:2]
            return f"{shown(text)} may be {one} or {other}; name its folder, too"
        if not found:
            hint = "" if len(self._by_file) > 10_000 else _question(file, self._by_file)
            return f"no split has the image {shown(text)}{hint}; place it, or leave it out here"
        return [(split, index) for _, split, index in found]


def _question(word: str, valid: Mapping[str, Any]) -> str:
    """Return a question for a mistyped word, empty where nothing is like it."""
    question, _, _ = nearest(word, valid).partition("? ")
    return f" ({question}?)" if question.startswith("did you mean") else ""


def landmark_names(marks: Sequence[Mark], labels: Labels, file: Path) -> list[str]:
    """Return the landmarks in their order.

    Args:
        marks: of all files.
        labels: of the data set.
        file: that holds the labels, for the messages.

    Raises:
        BadInput: a landmark, or one of a mirrored pair, that the list does not have.
    """
    found = list(dict.fromkeys(mark.name for mark in marks if mark.name))
    if not found:
        return []
    names = labels.landmarks or found
    first = {mark.name: mark for mark in reversed(marks)}
    stop_at(
        [
            f"{first[name].where}: {first[name].image}: the landmark '{name}' is not one of "
            f"{file}; {nearest(name, names)}"
            for name in found
            if name not in names
        ]
    )
    if unknown := [name for pair in labels.mirrored for name in pair if name not in names]:
        raise BadInput(
            f"{file}: `mirrored` names '{unknown[0]}', which is no landmark; "
            f"{nearest(unknown[0], names)}"
        )
    return names


def place(marks: Sequence[Mark], images: Images, names: Sequence[str]) -> dict[str, Places]:
    """Return the landmarks and boxes of each split.

    An annotated image has a mark for every landmark or for none.

    Args:
        marks: of all files.
        images: of all splits.
        names: of the landmarks.

    Raises:
        BadInput: a mark of no image or of several, two marks of the same, an image of which some
            landmarks have a mark and some do not.
    """
    column = {name: i for i, name in enumerate(names)} | {"": len(names)}
    files = list(dict.fromkeys(mark.file for mark in marks))
    number_of = {file: i for i, file in enumerate(files)}
    places = {split: _none(len(listed), len(names)) for split, listed in images.names.items()}
    faults: dict[str, str] = {}
    for mark in marks:
        found = images.find(mark.image)
        if isinstance(found, str):
            faults.setdefault(mark.image, f"{mark.where}: {found}")
            continue
        for split, index in found:
            of_split, key = places[split], (index, column[mark.name])
            if of_split.files[key] >= 0:
                what = f"the landmark {mark.name}" if mark.name else "the box"
                other = where(files[of_split.files[key]], of_split.numbers[key])
                faults[mark.where] = f"{mark.where}: {mark.image}: {what} stands already in {other}"
                continue
            of_split.files[key], of_split.numbers[key] = number_of[mark.file], mark.number
            if mark.name:
                of_split.landmarks[key], of_split.visible[key] = mark.values, mark.visible
            else:
                x, y, width, height = mark.values
                of_split.box[index] = (x - 0.5, y - 0.5, width, height)
    stop_at(list(faults.values()))
    for split, of_split in places.items():
        there = of_split.files[:, : len(names)] >= 0
        for index in np.flatnonzero(there.any(1) & ~there.all(1)).tolist():
            first = int(there[index].argmax())
            stands = where(files[of_split.files[index, first]], of_split.numbers[index, first])
            lacking = [
                name for name, is_there in zip(names, there[index], strict=True) if not is_there
            ]
            faults[f"{split} {index}"] = (
                f"{stands}: {images.names[split][index]} has the landmark {names[first]}, but none "
                f"of {', '.join(lacking)}; add a line for each, with visible 0 if it is hidden"
            )
    stop_at(list(faults.values()))
    return {
        split: each._replace(
            has_landmarks=bool((each.files[:, : len(names)] >= 0).any()),
            has_boxes=bool((each.files[:, len(names)] >= 0).any()),
        )
        for split, each in places.items()
    }


def _none(images: int, landmarks: int) -> Places:
    """Return the places of a split without any."""
    return Places(
        np.zeros((images, landmarks, 2), np.float32),
        np.zeros((images, landmarks), bool),
        np.zeros((images, 4), np.float32),
        np.full((images, landmarks + 1), -1, np.int16),
        np.zeros((images, landmarks + 1), np.int64),
        has_landmarks=False,
        has_boxes=False,
    )
