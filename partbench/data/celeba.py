"""CelebA, aligned and cropped: 202,599 faces of 178 x 218 (Liu et al., ICCV 2015).

By default the training split excludes the test faces of MAFL. CelebA's own training split holds 808
of them, and a method that has trained on them must not be measured on MAFL.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from partbench.data.image import read_image
from partbench.data.reader import DataSettings, Reader, Sample
from partbench.errors import BadInput

T = TypeVar("T")
LANDMARKS = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")
SWAP = (1, 0, 2, 4, 3)
LAST_TRAIN, LAST_VAL, LAST_TEST = 162_770, 182_637, 202_599
SIZE = (218, 178)
DLP_BOX = (0, 30, 178, 208)
LANDMARK_FILE, ATTRIBUTE_FILE = "list_landmarks_align_celeba.txt", "list_attr_celeba.txt"
SOURCE = "mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
MAFL_SOURCE = "github.com/zhzhanp/TCDCN-face-alignment"


def partition(number: int) -> str:
    """Return the official split of an image, which depends only on its number, 1 to 202,599."""
    return "train" if number <= LAST_TRAIN else "val" if number <= LAST_VAL else "test"


def read_mafl_list(root: Path, name: Literal["training", "testing"]) -> list[str]:
    """Return the file names of MAFL's training (19,000) or testing (1,000) faces.

    Raises:
        BadInput: the list is missing.
    """
    path = root / "MAFL" / f"{name}.txt"
    if not path.exists():
        raise BadInput(f"{path} is missing; get the list from {MAFL_SOURCE} and place it there")
    return path.read_text().split()


def read_landmarks(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return file name -> landmarks, float32 [5, 2], (x, y) in pixels.

    Raises:
        BadInput: the file is missing, or a row is not a name and ten whole numbers.
    """
    _, rows = _read_table(path, 10)
    return {name: values.reshape(5, 2).astype(np.float32) for name, values in rows.items()}


def read_attributes(path: Path) -> tuple[list[str], dict[str, NDArray[np.bool_]]]:
    """Return the names of the 40 attributes, and file name -> whether each holds, bool [40].

    Raises:
        BadInput: the file is missing, or a row is not a name and forty numbers, each 1 or -1.
    """
    names, rows = _read_table(path, 40)
    for name, values in rows.items():
        if not np.isin(values, (-1, 1)).all():
            raise BadInput(f"{path}: the row of {name} holds values other than 1 and -1")
    return names, {name: values == 1 for name, values in rows.items()}


def _read_table(path: Path, width: int) -> tuple[list[str], dict[str, NDArray[np.int64]]]:
    """Return the names in the second line, and file name -> the numbers of its row."""
    if not path.exists():
        raise BadInput(
            f"{path} is missing; run `partbench data fetch celeba_annotations`, or get the file "
            f"from {SOURCE} and place it there"
        )
    lines = path.read_text().splitlines()
    rows: dict[str, NDArray[np.int64]] = {}
    for number, line in enumerate(lines[2:], start=3):
        name, *values = line.split()
        try:
            rows[name] = np.array([int(v) for v in values]).reshape(width)
        except ValueError:
            raise BadInput(
                f"{path}, line {number}: expected a file name and {width} whole numbers, "
                f"got {line!r}"
            ) from None
    return lines[1].split() if len(lines) > 1 else [], rows


class FaceSettings(DataSettings):
    """How the aligned faces of 178 x 218 become squares.

    Keypoint methods warp the prepared image in training, then crop its centre:

    - DLP: `crop: dlp`, `size: 160`, central 128 pixels. This is evaluate_lin_reg_on_mafl in its
      code: a landmark moves to (x, y - 30) * 160 / 178, to within half a pixel.
    - KeyNet: `crop: stretch`, `size: 160`, central 128 pixels.
    - Zhang: `crop: stretch`, `size: 100`, central 80 pixels.
    """

    crop: Literal["center", "stretch", "dlp"] = Field(  # type: ignore[assignment]
        "center",
        description="center: the largest centred square, rows 20 to 197; dlp: DLP's square, rows "
        "30 to 207; stretch: the whole face, its aspect ratio not kept",
    )


class CelebASettings(FaceSettings):
    """Which faces are in the training split, and which annotations are read."""

    exclude: Literal["mafl_test", "mafl", "none"] = Field(
        "mafl_test",
        description="faces to exclude from the training split: MAFL's test faces, all of MAFL's "
        "faces, or none (which leaks 80.8 % of MAFL's test faces)",
    )
    landmarks: bool = Field(False, description="read the five landmarks as well")
    attributes: bool = Field(False, description="read the forty attributes as well")


class CelebA(Reader):
    """CelebA in its official partition, without class labels.

    The settings `landmarks` and `attributes` add these annotations.
    """

    Settings = CelebASettings
    landmark_names: Sequence[str] = LANDMARKS
    landmark_swap: Sequence[int] = SWAP
    licence = "non-commercial research"
    references = ("liu2015celeba",)
    counts = {"train": 161_962, "val": 19_867, "test": 19_962}

    def __init__(self, root: Path, settings: CelebASettings) -> None:
        super().__init__(root, settings)
        if not settings.landmarks:
            self.landmark_names = self.landmark_swap = ()

    def crop_box(self, sample: Sample) -> tuple[float, float, float, float]:
        """Return the region of a face to prepare: (left, top, right, bottom) in pixels."""
        return DLP_BOX if self.settings.crop == "dlp" else super().crop_box(sample)

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        lists = {"none": (), "mafl_test": ("testing",), "mafl": ("testing", "training")}
        excluded = {
            name
            for part in lists[self.settings.exclude]
            for name in read_mafl_list(self.root / "celeba", part)  # type: ignore[arg-type]
        }
        names: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        for number in range(1, LAST_TEST + 1):
            name = f"{number:06d}.jpg"
            split = partition(number)
            if split != "train" or name not in excluded:
                names[split].append(name)
        if self.settings.subset:
            names = {s: n for s, n in names.items() if any(self._is_present(name) for name in n)}
        return names

    @cached_property
    def _files(self) -> frozenset[str]:
        folder = self.root / "celeba" / "img_align_celeba"
        if not folder.is_dir():
            raise BadInput(
                f"{folder} is missing; get img_align_celeba.zip from {SOURCE} and unpack it there"
            )
        return frozenset(path.name for path in folder.iterdir())

    def _is_present(self, name: str) -> bool:
        return name in self._files

    def splits(self) -> dict[str, Sequence[str]]:
        """Return train, val and test; for a subset, only splits with images that are present."""
        return dict(self._names)

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the images that are present."""
        return [i for i, name in enumerate(self._names[split]) if self._is_present(name)]

    def own_files(self) -> Sequence[Path]:
        """Return the annotation files that the settings ask for."""
        asked = {LANDMARK_FILE: self.settings.landmarks, ATTRIBUTE_FILE: self.settings.attributes}
        return [self.root / "celeba" / name for name, read in asked.items() if read]

    @cached_property
    def _landmarks(self) -> dict[str, NDArray[np.float32]]:
        return read_landmarks(self.root / "celeba" / LANDMARK_FILE)

    @cached_property
    def _attributes(self) -> tuple[list[str], dict[str, NDArray[np.bool_]]]:
        return read_attributes(self.root / "celeba" / ATTRIBUTE_FILE)

    @property
    def attribute_names(self) -> Sequence[str]:  # type: ignore[override]
        """Names of the forty attributes; empty unless the setting `attributes` is true."""
        return self._attributes[0] if self.settings.attributes else ()

    def sample(self, split: str, index: int) -> Sample:
        """Return a face, with landmarks and attributes where the settings ask for them.

        Raises:
            BadInput: see `read_face`, `read_landmarks`, `read_attributes` and `row_of`.
        """
        name = self._names[split][index]
        return Sample(
            name,
            read_face(self.root, name),
            landmarks=row_of(name, self._landmarks, LANDMARK_FILE)
            if self.settings.landmarks
            else None,
            attributes=row_of(name, self._attributes[1], ATTRIBUTE_FILE)
            if self.settings.attributes
            else None,
        )


def row_of(name: str, rows: Mapping[str, T], file: str) -> T:
    """Return the row of a face.

    Raises:
        BadInput: the file lacks the face.
    """
    if name not in rows:
        raise BadInput(f"celeba/{file} has no row for {name}; use the complete official file")
    return rows[name]


def read_face(root: Path, name: str) -> NDArray[np.uint8]:
    """Return an aligned face, uint8 [218, 178, 3].

    Raises:
        BadInput: the image is missing, cannot be decoded or has another size.
    """
    path = root / "celeba" / "img_align_celeba" / name
    image = read_image(path)
    if image.shape[:2] != SIZE:
        raise BadInput(
            f"{path} is {image.shape[1]} x {image.shape[0]}, but aligned CelebA faces are "
            "178 x 218; unpack img_align_celeba.zip again (img_celeba.7z holds unaligned images)"
        )
    return image
