"""COCO 2017 (Lin et al., ECCV 2014): scenes with boxes and masks of 80 classes of objects."""

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
    """An image's row and annotations, without its pixels."""

    name: str
    image: int
    """The image's id."""
    width: int
    height: int
    box: NDArray[np.float32]
    """[n, 4], (x, y, width, height) in pixels, pixel centres at integers; the largest first."""
    objects: NDArray[np.int64]
    """[n], class of each box."""
    regions: list[tuple[int, Any]]
    """What to paint, in that order: the number in `Sample.parts`, and either polygons, float64
    [2 k] of corners (x, y, x, y, ...; pixel edges at integers), or a run-length code."""


class COCOSettings(DataSettings):
    """Which scenes are trained on. LORBMS: `min_boxes: 4, min_side: 200`."""

    min_boxes: int = Field(
        0, ge=0, description="training images with fewer boxes are left out; crowds do not count"
    )
    min_side: int = Field(
        0, ge=0, description="training images with a shorter side are left out, pixels"
    )
    boxes: int = Field(100, ge=1, description="boxes kept of an image, the largest")


class COCO(Reader):
    """The official training images, and as `test` the 5,000 of val2017.

    The annotations of test2017 are not public, so nothing can be measured on it. Training images
    are filtered, test images are not. Crowds have no box; their pixels are unsure.
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
        there = [split for split in FOLDERS if self.present(split)]
        if not there:
            raise BadInput(
                f"{self._folder}: no image of train2017 or val2017; {SOURCE}: unpack "
                "train2017.zip and val2017.zip there"
            )
        return there

    def _scenes(self, split: str) -> list[Scene]:
        path = self._folder / "annotations" / f"instances_{FOLDERS[split]}.json"
        try:
            stamp = path.stat().st_mtime_ns
        except OSError:
            raise BadInput(
                f"{path} is missing; {SOURCE}: unpack annotations_trainval2017.zip there"
            ) from None
        least = (0, 0) if split == "test" else (self.settings.min_boxes, self.settings.min_side)
        return read_scenes(path, stamp, *least)

    def splits(self) -> dict[str, Sequence[str]]:
        """Return train and test; of a subset, those of which something is there."""
        return {split: [scene.name for scene in self._scenes(split)] for split in self._splits}

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the images that are there."""
        folder = self._folder / FOLDERS[split]
        if not folder.is_dir():
            return []
        files = {path.name for path in folder.iterdir()}
        return [i for i, scene in enumerate(self._scenes(split)) if scene.name in files]

    def sample(self, split: str, index: int) -> Sample:
        """Return a scene with `boxes` boxes, their classes and the class of each pixel."""
        scene, most = self._scenes(split)[index], self.settings.boxes
        path = self._folder / FOLDERS[split] / scene.name
        image = read_image(path)
        if image.shape[:2] != (scene.height, scene.width):
            raise BadInput(
                f"{path} is {image.shape[1]} x {image.shape[0]}, the annotations of image "
                f"{scene.image} are for {scene.width} x {scene.height}; use the official file"
            )
        box = np.full((most, 4), np.nan, np.float32)
        objects = np.full(most, -1, np.int64)
        box[: len(scene.box)] = scene.box[:most]
        objects[: len(scene.objects)] = scene.objects[:most]
        return Sample(scene.name, image, box=box, objects=objects, parts=paint(scene))


def paint(scene: Scene) -> NDArray[np.uint8]:
    """Return the class of each pixel, [H, W]: 0 is background, class c is c + 1.

    Smaller objects cover larger ones, and all cover crowds, which are unsure.
    """
    parts = np.zeros((scene.height, scene.width), np.uint8)
    for number, region in scene.regions:
        if isinstance(region, list):
            region = rle.merge(rle.frPyObjects(region, scene.height, scene.width))
        parts[rle.decode(region) > 0] = number
    return parts


# Not kept by the reader, which is copied to each worker process: a worker inherits these lists, or
# reads the file itself.
@lru_cache(maxsize=len(FOLDERS))
def read_scenes(path: Path, stamp: int, min_boxes: int, min_side: int) -> list[Scene]:
    """Return the images of an `instances_*.json` in its order.

    Of train2017 they take about 0.6 GB, and 2.2 GB while the file is read.

    Args:
        path: the file.
        stamp: when it was changed, so that it is read again after that.
        min_boxes: leave out images with fewer boxes.
        min_side: leave out images with a shorter side, pixels.

    Raises:
        BadInput: the file is not json or not COCO's, or an annotation is impossible.
    """
    try:
        document = json.loads(path.read_bytes())
        numbers = {c["id"]: CLASSES.index(c["name"]) for c in document["categories"]}
        annotations: dict[int, list[Any]] = {image["id"]: [] for image in document["images"]}
        for row in document.pop("annotations"):
            if row["image_id"] not in annotations:
                raise BadInput(
                    f"{path}: annotation {row['id']} is of image {row['image_id']}, which is not "
                    f"listed; {AGAIN}"
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
    things = [row for row in rows if not row["iscrowd"]]
    box = np.array([row["bbox"] for row in things], np.float32).reshape(len(things), 4)
    box[:, :2] -= 0.5  # COCO counts from the edge of the first pixel
    objects = np.array([numbers[row["category_id"]] for row in things], np.int64)
    return Scene(image["file_name"], image["id"], width, height, box, objects, regions)


def _region(shape: Any, width: int, height: int) -> Any:
    """Return a segmentation, packed: corners, or pycocotools's code; None if it is impossible."""
    if isinstance(shape, dict):
        if shape["size"] != [height, width] or sum(shape["counts"]) != width * height:
            return None
        return rle.frPyObjects(shape, height, width)
    if not shape or any(len(corners) < 6 or len(corners) % 2 for corners in shape):
        return None
    return [np.array(corners, np.float64) for corners in shape]
