"""PASCAL-Part (Chen et al., CVPR 2014): the parts of the objects in VOC 2010.

Objects are chosen and painted as by Choudhury et al. (NeurIPS 2021), who train one model for
each category.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from partbench.data.crop import square_around
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
# Left and right, front and back differ; the wheels, doors, windows, headlights and engines of an
# object are one part each. In the alphabetical order of the paper's code.
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
    """An object of an annotation file."""

    mask: NDArray[np.bool_]
    """[H, W], the whole object."""
    parts: list[tuple[str, NDArray[np.bool_]]]
    """Name, without the number of wheel_1 and the like, and mask [H, W], in the file's order."""

    def extent(self) -> tuple[int, int, int, int]:
        """Return the first column and row and the last column and row; zeros if it is empty."""
        rows, columns = (np.flatnonzero(self.mask.any(axis)) for axis in (1, 0))
        if not rows.size:
            return 0, 0, 0, 0
        return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def read_objects(path: Path, category: str) -> dict[int, Object]:
    """Return the objects of a category in an annotation file, by their place in it, from 0.

    Raises:
        BadInput: the file is missing, damaged, or of another form.
    """
    annotation = read_mat(path, "anno", SOURCE)
    try:
        objects = {
            place: Object(
                np.asarray(thing.mask) != 0,
                [
                    (part.part_name.split("_")[0].strip(), np.asarray(part.mask) != 0)
                    for part in np.atleast_1d(thing.parts)
                ],
            )
            for place, thing in enumerate(np.atleast_1d(annotation.objects))
            if str(getattr(thing, "class")) == category
        }
    except AttributeError as error:
        raise BadInput(f"{path}: not an annotation of PASCAL-Part ({error}); {SOURCE}") from None
    for place, thing in objects.items():
        for name, mask in [("the object", thing.mask), *thing.parts]:
            if mask.ndim != 2 or mask.shape != thing.mask.shape:
                raise BadInput(
                    f"{path}: object {place}: the mask of {name} is {mask.shape}, not the "
                    f"image's (rows, columns); {SOURCE}: unpack it again"
                )
    return objects


class PascalPartSettings(DataSettings):
    """Which objects are samples."""

    category: Literal[
        "sheep", "horse", "cow", "motorbike", "aeroplane", "bus", "car", "bicycle", "dog", "cat"
    ] = Field("horse", description="class of the objects, as VOC names it")
    crop: Literal["center", "stretch", "pad", "whole", "box"] = Field(  # type: ignore[assignment]
        "center",
        description="as every reader's, or box: the object's tight box, 5 % wider on each side, "
        "its short side grown to a square, black outside the image (unsup-parts' training)",
    )
    train_area: float = Field(
        0.1, ge=0, lt=1, description="training objects have a larger box, share of the image"
    )
    test_area: float = Field(
        0.2, ge=0, lt=1, description="test objects have a larger box, share of the image"
    )
    foreground: Literal["parts", "object"] = Field(
        "parts", description="the mask is the union of the parts, or the whole object's own"
    )


class PascalPart(Reader):
    """One sample an object: the whole image, the parts and the box of one object in it.

    VOC's list of a category names every image of VOC's train or val half, and whether it has such
    an object. Only the names are used: an image is searched even where VOC says no.
    """

    Settings = PascalPartSettings
    licence = "research, images under Flickr's terms"

    @property
    def part_names(self) -> Sequence[str]:  # type: ignore[override]
        """The parts that objects of the category may have."""
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
        """Split -> image and place of the object in its file. Reads every annotation file."""
        least = {"train": self.settings.train_area, "test": self.settings.test_area}
        return {
            split: [
                (image, place)
                for image in self._list(part)
                for place, thing in read_objects(
                    self._annotation(image), self.settings.category
                ).items()
                if _share(thing) > least[split]
            ]
            for split, part in LISTS.items()
        }

    def _list(self, part: str) -> list[str]:
        folder = self._folder / "VOC2010" / "ImageSets" / "Main"
        path = folder / f"{self.settings.category}_{part}.txt"
        if not path.exists():
            raise BadInput(f"{path} is missing; {VOC}: unpack it there")
        images = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        if self.settings.subset:
            return [image for image in images if self._annotation(image).exists()]
        return images

    def splits(self) -> dict[str, Sequence[str]]:
        """Return train and test; of a subset, the objects whose annotation is there.

        The first call reads every annotation of the lists, because the files alone say which
        objects there are and how large.
        """
        return {
            split: [f"{image}_{place}" for image, place in objects]
            for split, objects in self._objects.items()
        }

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the objects whose image is there."""
        return [i for i, (name, _) in enumerate(self._objects[split]) if self._image(name).exists()]

    def crop_box(self, sample: Sample) -> tuple[float, float, float, float]:
        """Return the part (left, top, right, bottom) of an image that is prepared, pixels."""
        if self.settings.crop != "box":
            return super().crop_box(sample)
        assert sample.box is not None
        return square_around(sample.box)

    def sample(self, split: str, index: int) -> Sample:
        """Return an image with one of its objects; where parts overlap, the first in the file."""
        name, place = self._objects[split][index]
        image, path = read_image(self._image(name)), self._annotation(name)
        thing = read_objects(path, self.settings.category)[place]
        parts = np.zeros(image.shape[:2], np.uint8)
        if thing.mask.shape != parts.shape:
            raise BadInput(
                f"{path}: object {place}: masks of {thing.mask.shape} for an image of "
                f"{parts.shape} (rows, columns); {SOURCE}: unpack it again"
            )
        for part, mask in reversed(thing.parts):
            if part not in self.part_names:
                raise BadInput(
                    f"{path}: object {place}: '{part}' is no part of a {self.settings.category}, "
                    f"these are: {', '.join(self.part_names)}; {SOURCE}: unpack it again"
                )
            parts[mask] = self.part_names.index(part) + 1
        left, top, right, bottom = thing.extent()
        return Sample(
            f"{name}_{place}",
            image,
            box=np.array([left - 0.5, top - 0.5, right - left + 1, bottom - top + 1], np.float32),
            mask=thing.mask if self.settings.foreground == "object" else parts != 0,
            parts=parts,
        )


def _share(thing: Object) -> float:
    """Return the share of the image that an object's box takes, by the paper's rule.

    Between the centres of the outermost pixels, so a row and a column less than the box covers.
    """
    left, top, right, bottom = thing.extent()
    return (right - left) * (bottom - top) / thing.mask.size
