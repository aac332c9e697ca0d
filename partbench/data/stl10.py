"""STL-10 (Coates et al., AISTATS 2011): 100,000 unlabelled, 5,000 + 8,000 labelled images, 96 px.

The protocol trains without labels on `unlabeled`, then with labels on each of the ten folds of
`train`. It reports the mean accuracy of the ten folds on the whole of `test`.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from partbench.data.reader import DataSettings, Reader, Sample, Side
from partbench.errors import BadInput

SIDE, CLASSES = 96, 10
IMAGE_BYTES = 3 * SIDE * SIDE
FOLDS, FOLD_IMAGES = 10, 1_000
SOURCE = "unpack stl10_binary.tar.gz (cs.stanford.edu/~acoates/stl10)"


class STL10Settings(DataSettings):
    """Settings of STL-10, by default at its native 96 x 96."""

    size: Side = Field(SIDE, description="side of the prepared square images, pixels")


class STL10(Reader):
    """The official binary files, read one image at a time."""

    Settings = STL10Settings
    references = ("coates2011stl",)
    counts = {"unlabeled": 100_000, "train": 5_000, "test": 8_000}

    def __init__(self, root: Path, settings: Any) -> None:
        super().__init__(root, settings)
        self.folder = root / "stl10_binary"

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            raise BadInput(f"{path} is missing; {SOURCE} into {self.root}")
        return path

    @cached_property
    def _image_counts(self) -> dict[str, int]:
        """Split -> number of images in its file: the official number unless `subset` is true."""
        image_counts = {}
        for split, official in self.counts.items():
            name = f"{split}_X.bin"
            absent = not (self.folder / name).exists()
            if absent and split == "unlabeled" and self.settings.subset and self.folder.is_dir():
                continue
            path = self._file(name)
            size = path.stat().st_size
            n, rest = divmod(size, IMAGE_BYTES)
            if rest or n > official or (n < official and not self.settings.subset):
                is_usable = not rest and n < official
                advice = ", or set `subset: true` to use the images it has" if is_usable else ""
                raise BadInput(
                    f"{path} has {size:,} bytes, which is {size / IMAGE_BYTES:,.10g} images of "
                    f"{IMAGE_BYTES:,} bytes instead of {official:,}: the file is truncated or "
                    f"damaged; {SOURCE} again into {self.root}{advice}"
                )
            image_counts[split] = n
        return image_counts

    @cached_property
    def _labels(self) -> dict[str, NDArray[np.int64]]:
        """Split -> class of each image of train and test, counted from 0."""
        labels = {}
        for split in ("train", "test"):
            path = self._file(f"{split}_y.bin")
            # Widened to signed integers before the subtraction, which would turn a 0 into 255.
            values = np.fromfile(path, np.uint8).astype(np.int64)
            if len(values) != self._image_counts[split]:
                raise BadInput(
                    f"{path} has {len(values):,} labels, but {split}_X.bin has "
                    f"{self._image_counts[split]:,} images; {SOURCE} again into {self.root}"
                )
            if invalid := np.flatnonzero((values < 1) | (values > CLASSES)).tolist():
                raise BadInput(
                    f"{path}, row {invalid[0]} (from 0): label {values[invalid[0]]} is not "
                    f"between 1 and {CLASSES}; {SOURCE} again into {self.root}"
                )
            labels[split] = values - 1
        return labels

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]
        """The ten classes, in the order of their numbers."""
        path = self._file("class_names.txt")
        names = path.read_text().split()
        if len(names) != CLASSES:
            raise BadInput(
                f"{path} has {len(names)} names, not {CLASSES}; {SOURCE} again into {self.root}"
            )
        return names

    def splits(self) -> dict[str, Sequence[str]]:
        """Return unlabeled, train and test; a sample's name is its number.

        A subset may lack unlabeled. Every split has all its official names, so that images missing
        from the end of a file count as missing.

        Raises:
            BadInput: a file is missing or does not hold the official number of images.
        """
        return {
            split: [f"{i:05d}" for i in range(self.counts[split])] for split in self._image_counts
        }

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the images that the split's file holds."""
        return range(self._image_counts[split])

    def folds(self, split: str) -> Sequence[Sequence[int]]:
        """Return the ten official folds of train, 1,000 indices each.

        Other splits and an incomplete train have no folds. The folds are draws from the same 5,000
        images, so they overlap.

        Raises:
            BadInput: the file is missing, or a line is not 1,000 different indices into train.
        """
        n = self.counts["train"]
        if split != "train" or self._image_counts["train"] < n:
            return ()
        path = self._file("fold_indices.txt")
        lines = path.read_text().splitlines()
        if len(lines) != FOLDS:
            raise BadInput(
                f"{path} has {len(lines)} lines, not {FOLDS}; {SOURCE} again into {self.root}"
            )
        folds = []
        for number, line in enumerate(lines, start=1):
            # As Python's integers, because 8 bits would silently take indices modulo 256.
            fold = [int(word) for word in line.split() if word.isdecimal() and int(word) < n]
            if not len(set(fold)) == len(line.split()) == FOLD_IMAGES:
                raise BadInput(
                    f"{path}, line {number}: expected {FOLD_IMAGES:,} different whole numbers "
                    f"from 0 to {n - 1:,}; {SOURCE} again into {self.root}"
                )
            folds.append(fold)
        return folds

    def sample(self, split: str, index: int) -> Sample:
        """Return an image, labelled with its class except in the split `unlabeled`.

        Raises:
            BadInput: a file is missing, or the labels are invalid.
        """
        # Mapped at each call, because every process would get a complete copy of a map in `self`.
        # The files store channels, then columns, then rows.
        columns = np.memmap(
            self._file(f"{split}_X.bin"), np.uint8, "r", index * IMAGE_BYTES, (3, SIDE, SIDE)
        )
        image = np.array(columns.transpose(2, 1, 0), order="C")
        label = None if split == "unlabeled" else int(self._labels[split][index])
        return Sample(f"{index:05d}", image, label=label)
