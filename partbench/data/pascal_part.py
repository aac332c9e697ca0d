"""PASCAL-Part (Chen et al., CVPR 2014): the parts of the objects in VOC 2010.

Objects are selected and painted as by Choudhury et al. (NeurIPS 2021), who train one model per
category.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from partbench.data.image import read_image
from partbench.data.matlab import read_mat
from partbench.data.reader import DataSettings, Reader, Sample
from partbench.errors import BadInput

SOURCE = "roozbehm.info/pascal-parts/pascal-parts.html (trainval.tar.gz)"
VOC = "host.robots.ox.ac.uk/pascal/VOC/voc2010 (VOCtrainval_03-May-2010.tar)"
LISTS = {"train": "train", "test": "val"}

_HORNED = (
    "head lblleg lbuleg lear leye lflleg lfuleg lhorn muzzle neck rblleg rbuleg rear reye rflleg "
    "rfuleg rhorn tail torso"
)
_CAR = (
    "backside bliplate door fliplate frontside headlight leftmirror leftside rightmirror "
    "rightside roofside wheel window"
)
# Left and right are different parts, and so are front and back. All wheels of an object are one
# part; so are its doors, windows, headlights and engines. The alphabetical order is that of the
# paper's code.
PARTS = {
    category: tuple(names.split())
    for category, names in {
        "sheep": _HORNED,
        "horse": "head lbho lblleg lbuleg lear leye lfho lflleg lfuleg muzzle neck rbho rblleg "
        "rbuleg rear reye rfho rflleg rfuleg tail torso",
        "cow": _HORNED,
        "motorbike": "bwheel fwheel handlebar headlight saddle",
        "aeroplane": "body engine lwing rwing stern tail wheel",
        "bus": _CAR,
        "car": _CAR,
        "bicycle": "bwheel chainwheel fwheel handlebar headlight saddle",
        "dog": "head lbleg lbpa lear leye lfleg lfpa muzzle neck nose rbleg rbpa rear reye rfleg "
        "rfpa tail torso",
        "cat": "head lbleg lbpa lear leye lfleg lfpa neck nose rbleg rbpa rear reye rfleg rfpa "
        "tail torso",
    }.items()
}


class Object(NamedTuple):
    """One object of an annotation file."""

    mask: NDArray[np.bool_]
    """[H, W], the whole object."""
    parts: list[tuple[str, NDArray[np.bool_]]]
    """Name and mask [H, W] of each part, in the file's order; wheel_1 and wheel_2 are `wheel`."""

    def extent(self) -> tuple[int, int, int, int]:
        """Return the first column and row, then the last ones; zeros for an empty mask."""
        rows, columns = (np.flatnonzero(self.mask.any(axis)) for axis in (1, 0))
        if not rows.size:
            return 0, 0, 0, 0
        return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def read_objects(path: Path, category: str) -> dict[int, Object]:
    """Return the objects of a category: place in the file, counted from 0 -> object.

    Raises:
        BadInput: the file is missing, damaged or not an annotation of PASCAL-Part, or the masks of
            an object differ in size.
    """
    annotation = read_mat(path, "anno", SOURCE)
    try:
        objects = {
            place: Object(
                np.asarray(entry.mask) != 0,
                [
                    (part.part_name.split("_")[0].strip(), np.asarray(part.mask) != 0)
                    for part in np.atleast_1d(entry.parts)
                ],
            )
            for place, entry in enumerate(np.atleast_1d(annotation.objects))
            if str(getattr(entry, "class")) == category
        }
    except AttributeError as error:
        raise BadInput(
            f"{path}: not an annotation of PASCAL-Part ({error}); get the file from {SOURCE}"
        ) from None
    for place, item in objects.items():
        for name, mask in [("the object", item.mask), *item.parts]:
            if mask.ndim != 2 or mask.shape != item.mask.shape:
                raise BadInput(
                    f"{path}: object {place}: the mask of {name} is {mask.shape}, not the "
                    f"image's size (rows, columns); unpack the file again, from {SOURCE}"
                )
    return objects


class PascalPartSettings(DataSettings):
    """Which objects are samples, and how they are prepared."""

    category: Literal[
        "sheep", "horse", "cow", "motorbike", "aeroplane", "bus", "car", "bicycle", "dog", "cat"
    ] = Field("horse", description="class of the objects, as VOC names it")
    crop: Literal["center", "stretch", "pad", "whole", "box"] = Field(  # type: ignore[assignment]
        "center",
        description="as for every reader, or box: the object's tight box, 5 % wider on each side, "
        "its short side extended to make a square, black outside the image (training of "
        "unsup-parts)",
    )
    train_area: float = Field(
        0.1, ge=0, lt=1, description="keep training objects whose box is larger, share of the image"
    )
    test_area: float = Field(
        0.2, ge=0, lt=1, description="keep test objects whose box is larger, share of the image"
    )
    foreground: Literal["parts", "object"] = Field(
        "parts", description="the mask: the union of the parts, or the mask of the whole object"
    )


class PascalPart(Reader):
    """One sample per object: the whole image, with the parts and the box of one object in it.

    VOC's list of a category names every image of VOC's train or val half, and whether it has an
    object of the category. Only the names are used: every image is searched, even where VOC says
    that it has none.
    """

    Settings = PascalPartSettings
    licence = "research, images under Flickr's terms"
    references = ("chen2014pascalpart", "everingham2010voc")

    @property
    def part_names(self) -> Sequence[str]:  # type: ignore[override]
        """Names of the parts that objects of the category may have."""
        return PARTS[self.settings.category]

    @property
    def _folder(self) -> Path:
        return self.root / "VOCdevkit_2010"

    def _annotation(self, image: str) -> Path:
        return self._folder / "Annotations_Part" / f"{image}.mat"

    def _image(self, image: str) -> Path:
        return self._folder / "VOC2010" / "JPEGImages" / f"{image}.jpg"

    @cached_property
    def _objects(self) -> dict[str, list[tuple[str, int]]]:
        """Split -> image and place of each object in its file. Reads every annotation file."""
        least = {"train": self.settings.train_area, "test": self.settings.test_area}
        return {
            split: [
                (image, place)
                for image in self._list(part)
                for place, item in read_objects(
                    self._annotation(image), self.settings.category
                ).items()
                if _share(item) > least[split]
            ]
            for split, part in LISTS.items()
        }

    def _list(self, part: str) -> list[str]:
        folder = self._folder / "VOC2010" / "ImageSets" / "Main"
        path = folder / f"{self.settings.category}_{part}.txt"
        if not path.exists():
            raise BadInput(
                f"{path} is missing; get the archive from {VOC} and unpack its folder VOC2010 "
                f"into {self._folder}"
            )
        images = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        if self.settings.subset:
            return [image for image in images if self._annotation(image).exists()]
        return images

    def splits(self) -> dict[str, Sequence[str]]:
        """Return train and test; for a subset, only the objects whose annotation is present.

        The first call reads every annotation file in the lists, because only these files say which
        objects an image has and how large they are.

        Raises:
            BadInput: a list is missing; see also `read_objects`.
        """
        return {
            split: [f"{image}_{place}" for image, place in objects]
            for split, objects in self._objects.items()
        }

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the objects whose image is present."""
        return [i for i, (name, _) in enumerate(self._objects[split]) if self._image(name).exists()]

    def sample(self, split: str, index: int) -> Sample:
        """Return an image with one of its objects.

        Where parts overlap, a pixel belongs to the first of them in the file.

        Raises:
            BadInput: the image is missing, cannot be decoded or differs in size from the masks, or
                the category has no part of that name; see also `read_objects`.
        """
        name, place = self._objects[split][index]
        image, path = read_image(self._image(name)), self._annotation(name)
        item = read_objects(path, self.settings.category)[place]
        parts = np.zeros(image.shape[:2], np.uint8)
        if item.mask.shape != parts.shape:
            raise BadInput(
                f"{path}: object {place}: the masks are {item.mask.shape}, the image is "
                f"{parts.shape} (rows, columns); unpack the file again, from {SOURCE}"
            )
        for part, mask in reversed(item.parts):
            if part not in self.part_names:
                raise BadInput(
                    f"{path}: object {place}: '{part}' is not a part of a "
                    f"{self.settings.category}, which has: {', '.join(self.part_names)}; unpack "
                    f"the file again, from {SOURCE}"
                )
            parts[mask] = self.part_names.index(part) + 1
        left, top, right, bottom = item.extent()
        return Sample(
            f"{name}_{place}",
            image,
            box=np.array([left - 0.5, top - 0.5, right - left + 1, bottom - top + 1], np.float32),
            mask=item.mask if self.settings.foreground == "object" else parts != 0,
            parts=parts,
        )


def _share(item: Object) -> float:
    """Return the share of the image that an object's box covers, by the paper's rule.

    The rule measures between the centres of the outermost pixels, so it counts one row and one
    column fewer than the box covers.
    """
    left, top, right, bottom = item.extent()
    return (right - left) * (bottom - top) / item.mask.size
