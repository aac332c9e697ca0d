"""DeepFashion In-shop (Liu et al., CVPR 2016): studio photos of people, with clothes as parts."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from partbench.data.image import read_image
from partbench.data.reader import DataSettings, Reader, Sample
from partbench.errors import BadInput
from partbench.files import read_json

SOURCE = "mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html"
LISTS = {"train": ("train",), "test": ("query", "gallery")}
BACKGROUND = (0, 0, 0)
# From the README of the data set.
LEGEND = {
    "top": (255, 250, 250),
    "skirt": (250, 235, 215),
    "leggings": (70, 130, 180),
    "dress": (16, 78, 139),
    "outer": (255, 250, 205),
    "pants": (255, 140, 0),
    "bag": (50, 205, 50),
    "neckwear": (220, 220, 220),
    "headwear": (255, 0, 0),
    "eyeglass": (127, 255, 212),
    "belt": (0, 100, 0),
    "footwear": (255, 255, 0),
    "hair": (211, 211, 211),
    "skin": (144, 238, 144),
    "face": (245, 222, 179),
}


def _pack(colours: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return colours, uint8 [..., 3], as one number each, int32 [...]."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


CODES = _pack(np.array([BACKGROUND, *LEGEND.values()], np.uint8))
ORDER = np.argsort(CODES).astype(np.uint8)


def read_parts(path: Path) -> NDArray[np.uint8]:
    """Return the part of each pixel of a colour-coded image, uint8 [H, W].

    0 is the background; the other numbers follow the order of the legend.

    Raises:
        BadInput: the image is missing, cannot be decoded or has a colour outside the legend.
    """
    if not path.exists():
        raise BadInput(
            f"{path} is missing; unpack img_highres_seg.zip, not img.zip (both from {SOURCE})"
        )
    colours = read_image(path)
    codes = _pack(colours)
    parts = ORDER[np.searchsorted(CODES, codes, sorter=ORDER).clip(max=len(ORDER) - 1)]
    unknown = CODES[parts] != codes
    if unknown.any():
        colour = tuple(colours[unknown][0].tolist())
        count = int((codes[unknown] == codes[unknown][0]).sum())
        raise BadInput(
            f"{path}: {count} pixels have colour {colour}, which is not in the legend; unpack "
            "img_highres_seg.zip again, or set `broken: skip` for this data set"
        )
    return parts


class DeepFashionSettings(DataSettings):
    """How part labels are resized."""

    legacy_labels: Literal["none", "bilinear"] = Field(
        "none",
        description="bilinear: interpolate the numbers of labels like grey levels, so that other "
        "labels appear between two labels; the notebook of unsup-parts does this where it counts "
        "the background",
    )


class DeepFashion(Reader):
    """The In-shop images with a segmentation; the split `test` is query and gallery together.

    The benchmark's folder lies directly below the root. Images and their `_segment.png` files are
    in `Img/img_highres`, where the benchmark keeps its images. Only the file names in the lists
    are used.
    """

    Settings = DeepFashionSettings
    part_names = tuple(LEGEND)
    licence = "non-commercial research, by agreement"
    references = ("liu2016deepfashion",)
    counts = {"test": 6_922}

    def __init__(self, root: Path, settings: Any) -> None:
        super().__init__(root, settings)
        self.blends_parts = settings.legacy_labels == "bilinear"

    @property
    def _folder(self) -> Path:
        return self.root / "In-shop Clothes Retrieval Benchmark"

    @property
    def _images(self) -> Path:
        return self._folder / "Img" / "img_highres"

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        return {
            split: [name for part in parts for name in self._list(part)]
            for split, parts in LISTS.items()
        }

    def _list(self, part: str) -> list[str]:
        path = self._folder / "Anno" / "segmentation" / f"DeepFashion_segmentation_{part}.json"
        if not path.exists():
            raise BadInput(f"{path} is missing; get the list from {SOURCE} and place it there")
        try:
            names = [str(image["file_name"]) for image in read_json(path)["images"]]
        except (KeyError, TypeError):
            names = []
        if not names:
            raise BadInput(
                f"{path} lists no images (`images`, `file_name`); get the list again from {SOURCE}"
            )
        return [name.removeprefix("img_highres/") for name in names]

    def splits(self) -> dict[str, Sequence[str]]:
        """Return train and test in the order of the lists, as paths below `img_highres`.

        Raises:
            BadInput: a list is missing, is not json or lists no images.
        """
        return dict(self._names)

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the images that are present."""
        return [i for i, name in enumerate(self._names[split]) if (self._images / name).exists()]

    def sample(self, split: str, index: int) -> Sample:
        """Return an image with its parts.

        Raises:
            BadInput: the image is missing or cannot be decoded, or its segmentation differs in
                size; see also `read_parts`.
        """
        name = self._names[split][index]
        path = self._images / name
        image = read_image(path)
        parts = read_parts(path.with_name(f"{path.stem}_segment.png"))
        if parts.shape != image.shape[:2]:
            raise BadInput(
                f"{path}: the image is {image.shape[:2]}, its segmentation is {parts.shape} "
                "(rows, columns); unpack img_highres_seg.zip again"
            )
        return Sample(name, image, mask=parts != 0, parts=parts)
