"""COCO 2017 (Lin et al., ECCV 2014): scenes with boxes and masks of objects of 80 classes."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle
from pydantic import Field

from partbench.data.image import read_image
from partbench.data.reader import UNSURE, DataSettings, Reader, Sample
from partbench.errors import BadInput

CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)
FOLDERS = {"train": "train2017", "test": "val2017"}
"""Split -> its folder, with the default settings."""
TEST_IMAGES = {"val2017": 5_000, "test2017": 40_670}
TRAIN_IMAGES = {(0, 0): 118_287, (4, 200): 67_773}
"""Fewest boxes and shortest side of training images -> how many there are; the second number is
Zbinden's (2019)."""
COPIES = {
    "none": ("",),
    "flip": ("", "-flip"),
    "five": ("", "-flip", "-0.6", "-flip-0.7", "-flip-0.95"),
}
"""Value of `copies` -> what is added to the names of an image's copies: whether it is mirrored, and
the share of both sides that a crop at a random place has."""
SOURCE = "images.cocodataset.org"
AGAIN = "unpack annotations_trainval2017.zip again"


class Scene(NamedTuple):
    """One image's entry in the list and its annotations, without its pixels."""

    name: str
    image: int
    """The image's id."""
    width: int
    height: int
    box: NDArray[np.float32]
    """[n, 4], (x, y, width, height) in pixels, pixel centres at integers; largest object first."""
    objects: NDArray[np.int64]
    """[n], the class of each box."""
    regions: list[tuple[int, Any]]
    """What to paint, in this order: the value in `Sample.parts`, and either polygons or a
    run-length code. A polygon is float64 [2 k]: k corners (x, y, x, y, ...), with pixel edges at
    integers."""


class COCOSettings(DataSettings):
    """Which scenes are in the splits.

    Of the data sets of LORBMS (Zbinden 2019), tr_v4 is `min_boxes: 4, min_side: 200, copies: flip`,
    tr_v5 the same with `copies: five`, tr_v6 a part of `min_side: 200`, and te_v2 a part of `test:
    test2017, test_min_side: 200`.
    """

    min_boxes: int = Field(
        0, ge=0, description="exclude training images with fewer boxes; crowds do not count"
    )
    min_side: int = Field(
        0, ge=0, description="exclude training images with a shorter side, pixels"
    )
    copies: Literal["none", "flip", "five"] = Field(
        "none",
        description="training images that are samples besides; flip: each image mirrored; five: "
        "that, a crop of 0.6 of both sides, and mirrored crops of 0.7 and 0.95",
    )
    test: Literal["val2017", "test2017"] = Field(
        "val2017", description="the split `test`; test2017 has no annotations"
    )
    test_min_side: int = Field(
        0, ge=0, description="exclude test images with a shorter side, pixels"
    )
    boxes: int = Field(100, ge=1, description="boxes to keep of each image, largest first")


class COCO(Reader):
    """The official training images; the split `test` is the 5,000 images of val2017.

    The annotations of test2017 are not public, so only generated images can be held against it.
    Crowds have no box, and their pixels are `UNSURE`.
    """

    Settings = COCOSettings
    class_names = CLASSES
    part_names = CLASSES
    licence = "annotations CC BY 4.0, images under Flickr's terms"
    references = ("lin2014coco",)

    def __init__(self, root: Path, settings: Any) -> None:
        super().__init__(root, settings)
        self.folders = FOLDERS | {"test": settings.test}
        filters = (settings.min_boxes, settings.min_side)
        self.counts = {
            "train": TRAIN_IMAGES.get(filters, TRAIN_IMAGES[0, 0]) * len(COPIES[settings.copies]),
            "test": TEST_IMAGES[settings.test],
        }

    @property
    def _folder(self) -> Path:
        return self.root / "coco"

    @cached_property
    def _splits(self) -> list[str]:
        if not self.settings.subset:
            return list(self.folders)
        splits = [split for split in self.folders if self.present(split)]
        if not splits:
            raise BadInput(
                f"{self._folder}: no image of train2017 or {self.settings.test}; get "
                f"train2017.zip and {self.settings.test}.zip from {SOURCE} and unpack them there"
            )
        return splits

    def _scenes(self, split: str) -> list[Scene]:
        folder, settings = self.folders[split], self.settings
        archive = "annotations_trainval2017.zip"
        path = self._folder / "annotations" / f"instances_{folder}.json"
        if not self.annotated(split):
            archive = "image_info_test2017.zip"
            path = self._folder / "image_info_test2017.json"
        try:
            stamp = path.stat().st_mtime_ns
        except OSError:
            raise BadInput(
                f"{path} is missing; get {archive} from {SOURCE} and unpack it into {self._folder}"
            ) from None
        if split == "test":
            return read_scenes(path, stamp, 0, settings.test_min_side, self.annotated(split))
        return read_scenes(path, stamp, settings.min_boxes, settings.min_side)

    def annotated(self, split: str) -> bool:
        """Return whether a split has annotations."""
        return self.folders[split] != "test2017"

    def _copies(self, split: str) -> tuple[str, ...]:
        return COPIES[self.settings.copies if split == "train" else "none"]

    def original(self, name: str) -> str:
        """Return the file name of the image of which a sample is a copy."""
        return name.partition("-")[0]

    def splits(self) -> dict[str, Sequence[str]]:
        """Return train and test; for a subset, only splits with images that are present.

        Raises:
            BadInput: an annotation file is missing or invalid, or a subset has no image.
        """
        return {
            split: [s.name + copy for s in self._scenes(split) for copy in self._copies(split)]
            for split in self._splits
        }

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the images that are present, and of their copies."""
        folder = self._folder / self.folders[split]
        if not folder.is_dir():
            return []
        files = {path.name for path in folder.iterdir()}
        there = [scene.name in files for scene in self._scenes(split)]
        copies = len(self._copies(split))
        return [i for i in range(copies * len(there)) if there[i // copies]]

    def sample(self, split: str, index: int) -> Sample:
        """Return a scene with its largest boxes, their classes and the class of each pixel.

        `box` and `objects` always have as many rows as the setting `boxes`. Rows without an object
        are NaN in `box` and -1 in `objects`.

        Raises:
            BadInput: the image is missing, cannot be decoded or does not have the listed size.
        """
        copies = self._copies(split)
        scene, count = self._scenes(split)[index // len(copies)], self.settings.boxes
        path = self._folder / self.folders[split] / scene.name
        image = read_image(path)
        if image.shape[:2] != (scene.height, scene.width):
            raise BadInput(
                f"{path} is {image.shape[1]} x {image.shape[0]}, but the annotations of "
                f"image {scene.image} are for {scene.width} x {scene.height}; use the official file"
            )
        if not self.annotated(split):
            return Sample(scene.name, image)
        box = np.full((count, 4), np.nan, np.float32)
        objects = np.full(count, -1, np.int64)
        box[: len(scene.box)] = scene.box[:count]
        objects[: len(scene.objects)] = scene.objects[:count]
        sample = Sample(scene.name, image, box=box, objects=objects, parts=paint(scene))
        return changed(sample, copies[index % len(copies)], scene.image)


def changed(sample: Sample, copy: str, seed: int) -> Sample:
    """Return a copy of a scene.

    Args:
        sample: the scene.
        copy: how it is changed, a value of `COPIES`.
        seed: the image's id; with the copy it says where a crop lies.
    """
    image, box, parts = sample.image, sample.box, sample.parts
    assert box is not None
    assert parts is not None
    if "-flip" in copy:
        image, parts, box = image[:, ::-1], parts[:, ::-1], box.copy()
        box[:, 0] = image.shape[1] - 1 - box[:, 0] - box[:, 2]
    share = copy.removeprefix("-flip").removeprefix("-")
    if share:
        sides = np.array(image.shape[:2])
        kept = np.maximum(np.rint(sides * float(share)), 1).astype(int)
        draw = np.random.default_rng([seed, *copy.encode()])
        top, left = draw.integers(sides - kept + 1).tolist()
        window = slice(top, top + kept[0]), slice(left, left + kept[1])
        image, parts = image[window], parts[window]
        box = box - np.array([left, top, 0, 0], np.float32)
    name = f"{sample.name}{copy}"
    return replace(sample, name=name, image=image, box=box, parts=parts)


def paint(scene: Scene) -> NDArray[np.uint8]:
    """Return the class of each pixel, uint8 [H, W]: 0 is the background, class c is c + 1.

    Smaller objects cover larger ones. All objects cover crowds, whose pixels are `UNSURE`.
    """
    parts = np.zeros((scene.height, scene.width), np.uint8)
    for number, region in scene.regions:
        if isinstance(region, list):
            region = rle.merge(rle.frPyObjects(region, scene.height, scene.width))
        parts[rle.decode(region) > 0] = number
    return parts


# Cached outside the reader, because the reader is copied to each worker process. A worker inherits
# these lists or reads the file itself.
@lru_cache(maxsize=len(FOLDERS))
def read_scenes(
    path: Path, stamp: int, min_boxes: int, min_side: int, annotated: bool = True
) -> list[Scene]:
    """Return the images of an `instances_*.json` file in its order.

    The scenes of train2017 take about 0.6 GB of memory, and reading them takes 2.2 GB.

    Args:
        path: the file.
        stamp: its modification time, a key of the cache: a changed file is read again.
        min_boxes: exclude images with fewer boxes.
        min_side: exclude images with a shorter side, pixels.
        annotated: whether the file has annotations; the list of test2017 has none.

    Raises:
        BadInput: the file is not a COCO annotation file, or an annotation is invalid.
    """
    try:
        document = json.loads(path.read_bytes())
        numbers = {c["id"]: CLASSES.index(c["name"]) for c in document["categories"]}
        annotations: dict[int, list[Any]] = {image["id"]: [] for image in document["images"]}
        for row in document.pop("annotations") if annotated else ():
            if row["image_id"] not in annotations:
                raise BadInput(
                    f"{path}: annotation {row['id']} belongs to image {row['image_id']}, which is "
                    f"not listed; {AGAIN}"
                )
            annotations[row["image_id"]].append(row)
        scenes = [
            _scene(path, image, annotations.pop(image["id"]), numbers)
            for image in document["images"]
        ]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadInput(
            f"{path} is not a COCO annotation file ({type(error).__name__}: {error}); {AGAIN}"
        ) from None
    return [s for s in scenes if len(s.box) >= min_boxes and min(s.width, s.height) >= min_side]


def _scene(path: Path, image: Any, rows: list[Any], numbers: dict[int, int]) -> Scene:
    width, height = image["width"], image["height"]
    regions = []
    rows.sort(key=lambda row: (not row["iscrowd"], -row["area"]))
    for row in rows:
        number = UNSURE if row["iscrowd"] else numbers[row["category_id"]] + 1
        region = _region(row["segmentation"], width, height)
        if region is None:
            raise BadInput(
                f"{path}: annotation {row['id']} of image {image['id']} is neither polygons of "
                f"three or more corners nor a run-length code of {width} x {height} pixels; {AGAIN}"
            )
        regions.append((number, region))
    object_rows = [row for row in rows if not row["iscrowd"]]
    box = np.array([row["bbox"] for row in object_rows], np.float32).reshape(len(object_rows), 4)
    box[:, :2] -= 0.5  # COCO counts from the edge of the first pixel
    objects = np.array([numbers[row["category_id"]] for row in object_rows], np.int64)
    return Scene(image["file_name"], image["id"], width, height, box, objects, regions)


def _region(shape: Any, width: int, height: int) -> Any:
    """Return a segmentation as arrays of corners or as pycocotools' code; None if it is invalid."""
    if isinstance(shape, dict):
        if shape["size"] != [height, width] or sum(shape["counts"]) != width * height:
            return None
        return rle.frPyObjects(shape, height, width)
    if not shape or any(len(corners) < 6 or len(corners) % 2 for corners in shape):
        return None
    return [np.array(corners, np.float64) for corners in shape]
