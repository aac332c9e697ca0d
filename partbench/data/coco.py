"""COCO 2017 (Lin et al., ECCV 2014): scenes with boxes and masks of objects of 80 classes."""

import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

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
    """Which scenes are in the training split; LORBMS uses `min_boxes: 4, min_side: 200`."""

    min_boxes: int = Field(
        0, ge=0, description="exclude training images with fewer boxes; crowds do not count"
    )
    min_side: int = Field(
        0, ge=0, description="exclude training images with a shorter side, pixels"
    )
    boxes: int = Field(100, ge=1, description="boxes to keep of each image, largest first")


class COCO(Reader):
    """The official training images; the split `test` is the 5,000 images of val2017.

    The annotations of test2017 are not public, so nothing can be measured on it. The settings
    filter training images only. Crowds have no box, and their pixels are `UNSURE`.
    """

    Settings = COCOSettings
    class_names = CLASSES
    part_names = CLASSES
    licence = "annotations CC BY 4.0, images under Flickr's terms"
    counts = {"train": 118_287, "test": 5_000}

    @property
    def _folder(self) -> Path:
        return self.root / "coco"

    @cached_property
    def _splits(self) -> list[str]:
        if not self.settings.subset:
            return list(FOLDERS)
        splits = [split for split in FOLDERS if self.present(split)]
        if not splits:
            raise BadInput(
                f"{self._folder}: no image of train2017 or val2017; get train2017.zip and "
                f"val2017.zip from {SOURCE} and unpack them there"
            )
        return splits

    def _scenes(self, split: str) -> list[Scene]:
        path = self._folder / "annotations" / f"instances_{FOLDERS[split]}.json"
        try:
            stamp = path.stat().st_mtime_ns
        except OSError:
            raise BadInput(
                f"{path} is missing; get annotations_trainval2017.zip from {SOURCE} and unpack it "
                f"into {self._folder}"
            ) from None
        filters = (0, 0) if split == "test" else (self.settings.min_boxes, self.settings.min_side)
        return read_scenes(path, stamp, *filters)

    def splits(self) -> dict[str, Sequence[str]]:
        """Return train and test; for a subset, only splits with images that are present.

        Raises:
            BadInput: an annotation file is missing or invalid, or a subset has no image.
        """
        return {split: [scene.name for scene in self._scenes(split)] for split in self._splits}

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the images that are present."""
        folder = self._folder / FOLDERS[split]
        if not folder.is_dir():
            return []
        files = {path.name for path in folder.iterdir()}
        return [i for i, scene in enumerate(self._scenes(split)) if scene.name in files]

    def sample(self, split: str, index: int) -> Sample:
        """Return a scene with its largest boxes, their classes and the class of each pixel.

        `box` and `objects` always have as many rows as the setting `boxes`. Rows without an object
        are NaN in `box` and -1 in `objects`.

        Raises:
            BadInput: the image is missing, cannot be decoded or does not have the listed size.
        """
        scene, count = self._scenes(split)[index], self.settings.boxes
        path = self._folder / FOLDERS[split] / scene.name
        image = read_image(path)
        if image.shape[:2] != (scene.height, scene.width):
            raise BadInput(
                f"{path} is {image.shape[1]} x {image.shape[0]}, but the annotations of "
                f"image {scene.image} are for {scene.width} x {scene.height}; use the official file"
            )
        box = np.full((count, 4), np.nan, np.float32)
        objects = np.full(count, -1, np.int64)
        box[: len(scene.box)] = scene.box[:count]
        objects[: len(scene.objects)] = scene.objects[:count]
        return Sample(scene.name, image, box=box, objects=objects, parts=paint(scene))


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
def read_scenes(path: Path, stamp: int, min_boxes: int, min_side: int) -> list[Scene]:
    """Return the images of an `instances_*.json` file in its order.

    The scenes of train2017 take about 0.6 GB of memory, and reading them takes 2.2 GB.

    Args:
        path: the file.
        stamp: its modification time, a key of the cache: a changed file is read again.
        min_boxes: exclude images with fewer boxes.
        min_side: exclude images with a shorter side, pixels.

    Raises:
        BadInput: the file is not a COCO annotation file, or an annotation is invalid.
    """
    try:
        document = json.loads(path.read_bytes())
        numbers = {c["id"]: CLASSES.index(c["name"]) for c in document["categories"]}
        annotations: dict[int, list[Any]] = {image["id"]: [] for image in document["images"]}
        for row in document.pop("annotations"):
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
