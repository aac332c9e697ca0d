"""Clothing Co-Parsing (Yang, Luo & Lin, CVPR 2014): street photos with a label for each pixel."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from partbench.data.image import read_image
from partbench.data.matlab import read_mat
from partbench.data.reader import DataSettings, Reader, Sample
from partbench.errors import BadInput

SOURCE = "github.com/bearpaw/clothing-co-parsing"
LABELLED = 1_004
EVERY = 5
BACKGROUND = "null"


class CCPSettings(DataSettings):
    """Which region of a photo is prepared."""

    crop: Literal["center", "stretch", "pad", "whole", "box"] = Field(  # type: ignore[assignment]
        "center",
        description="as for every reader, or box: the tight box around all labelled pixels, 5 % "
        "wider on each side, its short side extended to make a square, black outside the photo",
    )


class CCP(Reader):
    """Photos 0001 to 1004 of 2,098: those with pixel labels.

    There is no official split. Every fifth photo by number is a test photo, whichever photos are
    present. Every labelled pixel is foreground: garments and accessories, but also skin and hair.
    """

    Settings = CCPSettings
    licence = "Apache 2.0 (the annotations)"
    references = ("yang2014ccp",)
    counts = {"train": LABELLED - LABELLED // EVERY, "test": LABELLED // EVERY}

    @property
    def _folder(self) -> Path:
        return self.root / "ccp"

    @cached_property
    def part_names(self) -> Sequence[str]:  # type: ignore[override]
        """The 58 labels other than the background, in the order of their numbers."""
        path = self._folder / "label_list.mat"
        names = [str(name) for name in np.atleast_1d(read_mat(path, "label_list", SOURCE))]
        if names[:1] != [BACKGROUND]:
            raise BadInput(
                f"{path}: the first label is {names[:1]}, not '{BACKGROUND}' (the background); get "
                f"the official file from {SOURCE} and place it there"
            )
        return names[1:]

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {"train": [], "test": []}
        for number in range(1, LABELLED + 1):
            names["train" if number % EVERY else "test"].append(f"{number:04d}.jpg")
        return names

    def splits(self) -> dict[str, Sequence[str]]:
        """Return train and test, by number."""
        return dict(self._names)

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the photos that are present."""
        folder = self._folder / "photos"
        files = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        return [i for i, name in enumerate(self._names[split]) if name in files]

    def object_box(self, sample: Sample) -> NDArray[Any]:
        """Return the tight box of the person.

        Raises:
            BadInput: no pixel of the photo has a label.
        """
        assert sample.mask is not None
        columns, rows = (np.flatnonzero(sample.mask.any(axis)) for axis in (0, 1))
        if not rows.size:
            raise BadInput(
                f"{self._folder}: no pixel of {sample.name} has a label, so the photo has no box; "
                "set another `crop`, or remove the photo and its annotation"
            )
        first = np.array([columns[0], rows[0]])
        extent = np.array([columns[-1], rows[-1]]) - first + 1
        return np.concatenate([first - 0.5, extent])

    def sample(self, split: str, index: int) -> Sample:
        """Return a photo with the label of each pixel.

        Raises:
            BadInput: a file is missing or damaged, or the labels do not fit the photo or the list
                of labels.
        """
        name = self._names[split][index]
        image = read_image(self._folder / "photos" / name)
        path = (self._folder / "annotations" / "pixel-level" / name).with_suffix(".mat")
        labels = np.asarray(read_mat(path, "groundtruth", SOURCE))
        if labels.shape != image.shape[:2]:
            raise BadInput(
                f"{path}: the labels are {labels.shape}, the photo is {image.shape[:2]} (rows, "
                f"columns); get both files again from {SOURCE}"
            )
        if unknown := set(np.unique(labels)) - set(range(len(self.part_names) + 1)):
            raise BadInput(
                f"{path}: label {min(unknown)}, but label_list.mat ends at "
                f"{len(self.part_names)}; get both files again from {SOURCE}"
            )
        parts = labels.astype(np.uint8)
        return Sample(name, image, mask=parts != 0, parts=parts)
