"""STL-10 (Coates et al., AISTATS 2011): 100,000 unlabelled, 5,000 + 8,000 labelled images, 96 px.

The protocol: unsupervised training on `unlabeled`, supervised on each of the ten folds of `train`,
the mean accuracy of the ten on the whole of `test`.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from partbench.data.reader import DataSettings, Reader, Sample
from partbench.errors import BadInput

SIDE, CLASSES = 96, 10
IMAGE_BYTES = 3 * SIDE * SIDE
FOLDS, FOLD_IMAGES = 10, 1_000
SOURCE = "unpack stl10_binary.tar.gz (cs.stanford.edu/~acoates/stl10)"


class STL10Settings(DataSettings):
    """Native resolution."""

    size: int = Field(SIDE, ge=8, description="side of the prepared square images, pixels")


class STL10(Reader):
    """The official binary files, of which one image is read at a time."""

    Settings = STL10Settings
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
    def _held(self) -> dict[str, int]:
        """The number of images in each file; the official one unless a subset is allowed."""
        held = {}
        for split, official in self.counts.items():
            name = f"{split}_X.bin"
            absent = not (self.folder / name).exists()
            if absent and split == "unlabeled" and self.settings.subset and self.folder.is_dir():
                continue
            path = self._file(name)
            size = path.stat().st_size
            n, rest = divmod(size, IMAGE_BYTES)
            if rest or n > official or (n < official and not self.settings.subset):
                more = "" if rest or n > official else ", or set `subset: true` to use what it has"
                raise BadInput(
                    f"{path} has {size:,} bytes, that is {size / IMAGE_BYTES:,.10g} images of "
                    f"{IMAGE_BYTES:,} and not {official:,}: it is cut or damaged; {SOURCE} again "
                    f"into {self.root}{more}"
                )
            held[split] = n
        return held

    @cached_property
    def _labels(self) -> dict[str, NDArray[np.int64]]:
        """The classes of train and test, counted from 0."""
        labels = {}
        for split in ("train", "test"):
            path = self._file(f"{split}_y.bin")
            # Signed and wide before anything is subtracted: a 0 would become 255.
            values = np.fromfile(path, np.uint8).astype(np.int64)
            if len(values) != self._held[split]:
                raise BadInput(
                    f"{path} has {len(values):,} labels, {split}_X.bin {self._held[split]:,} "
                    f"images; {SOURCE} again into {self.root}"
                )
            if bad := np.flatnonzero((values < 1) | (values > CLASSES)).tolist():
                raise BadInput(
                    f"{path}, row {bad[0]} (from 0): label {values[bad[0]]} is not within 1 to "
                    f"{CLASSES}; {SOURCE} again into {self.root}"
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
        """Return unlabeled (of a subset, only if it is there), train and test; names are numbers.

        All official names, so that images missing from the end of a file are counted as missing.
        """
        return {split: [f"{i:05d}" for i in range(self.counts[split])] for split in self._held}

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the images that the file holds."""
        return range(self._held[split])

    def folds(self, split: str) -> Sequence[Sequence[int]]:
        """Return the ten official folds of train, 1,000 indices each; none of an incomplete one.

        Folds are draws from the same 5,000 images, so they overlap.

        Raises:
            BadInput: the file is missing, or a line does not hold 1,000 indices into train.
        """
        n = self.counts["train"]
        if split != "train" or self._held["train"] < n:
            return ()
        path = self._file("fold_indices.txt")
        lines = path.read_text().splitlines()
        if len(lines) != FOLDS:
            raise BadInput(
                f"{path} has {len(lines)} lines, not {FOLDS}; {SOURCE} again into {self.root}"
            )
        folds = []
        for number, line in enumerate(lines, start=1):
            # Python's integers: in 8 bits, indices would be taken modulo 256 without a word.
            fold = [int(word) for word in line.split() if word.isdecimal() and int(word) < n]
            if not len(set(fold)) == len(line.split()) == FOLD_IMAGES:
                raise BadInput(
                    f"{path}, line {number}: not {FOLD_IMAGES:,} different whole numbers from 0 to "
                    f"{n - 1:,}; {SOURCE} again into {self.root}"
                )
            folds.append(fold)
        return folds

    def sample(self, split: str, index: int) -> Sample:
        """Return an image; its class only where the split has labels."""
        # Mapped anew each time, because a map kept in `self` would be copied, whole, to every
        # process. The files hold channels, columns, rows.
        columns = np.memmap(
            self._file(f"{split}_X.bin"), np.uint8, "r", index * IMAGE_BYTES, (3, SIDE, SIDE)
        )
        image = np.array(columns.transpose(2, 1, 0), order="C")
        label = None if split == "unlabeled" else int(self._labels[split][index])
        return Sample(f"{index:05d}", image, label=label)
