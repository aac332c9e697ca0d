"""PASCAL VOC 2012 (Everingham et al., IJCV 2015): which of 20 classes a photo shows."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partbench.data.image import read_image
from partbench.data.reader import Reader, Sample
from partbench.errors import BadInput

SOURCE = "host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar)"
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


class VOC2012(Reader):
    """The photos of the classification task, each with the classes that it shows as attributes.

    The split `train` is VOC's `trainval`, since VOC keeps the labels of its test photos.
    """

    licence = "research, images under Flickr's terms"
    references = ("everingham2015voc",)
    attribute_names = CLASSES
    counts = {"train": 11_540}

    @property
    def _folder(self) -> Path:
        return self.root / "VOCdevkit" / "VOC2012"

    def _lines(self, name: str) -> tuple[Path, list[list[str]]]:
        """Return a list's path and the words of its lines."""
        path = self._folder / "ImageSets" / "Main" / f"{name}.txt"
        if not path.exists():
            raise BadInput(
                f"{path} is missing; get the archive from {SOURCE} and unpack it into {self.root}"
            )
        return path, [line.split() for line in path.read_text().splitlines() if line.strip()]

    @cached_property
    def _names(self) -> list[str]:
        """The photos, in VOC's order."""
        path, lines = self._lines("trainval")
        names = [words[0] for words in lines]
        if len(set(names)) != self.counts["train"] or len(names) != self.counts["train"]:
            raise BadInput(
                f"{path} names {len(set(names)):,} photos in {len(names):,} lines, not "
                f"{self.counts['train']:,}; unpack the archive from {SOURCE} again"
            )
        return names

    @cached_property
    def _shown(self) -> NDArray[np.bool_]:
        """Which classes each photo shows, [N, 20]; what is difficult does not count."""
        shown = np.zeros((len(self._names), len(CLASSES)), bool)
        for column, name in enumerate(CLASSES):
            path, lines = self._lines(f"{name}_trainval")
            marks = {words[0]: words[1] for words in lines if len(words) == 2}
            for row, photo in enumerate(self._names):
                mark = marks.get(photo, "")
                if mark not in ("1", "0", "-1"):
                    raise BadInput(
                        f"{path}: the photo {photo} is marked {mark!r}, not 1, 0 or -1; unpack the "
                        f"archive from {SOURCE} again"
                    )
                shown[row, column] = mark == "1"
        return shown

    def _image(self, name: str) -> Path:
        return self._folder / "JPEGImages" / f"{name}.jpg"

    def splits(self) -> dict[str, Sequence[str]]:
        """Return the photos of VOC's list `trainval`.

        Raises:
            BadInput: the list is missing or not whole.
        """
        return {"train": self._names}

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the photos that are present."""
        return [i for i, name in enumerate(self._names) if self._image(name).exists()]

    def sample(self, split: str, index: int) -> Sample:
        """Return a photo with its classes.

        Raises:
            BadInput: the photo is missing or cannot be decoded, or a list does not mark it.
        """
        name = self._names[index]
        image = read_image(self._image(name))
        return Sample(name, image, attributes=self._shown[index])
