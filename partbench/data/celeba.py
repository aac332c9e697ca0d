"""CelebA, aligned and cropped: 202,599 faces of 178 x 218 (Liu et al., ICCV 2015).

The training split leaves out the test faces of MAFL, 808 of which stand in CelebA's training
part: a method that has seen them must not be measured on MAFL.
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
SOURCE = (
    "CelebA comes from mmlab.ie.cuhk.edu.hk/projects/CelebA.html, MAFL's lists from "
    "github.com/zhzhanp/TCDCN-face-alignment"
)


def partition(number: int) -> str:
    """Return the official split of image `number`, 1 to 202,599: it follows from the number."""
    return "train" if number <= LAST_TRAIN else "val" if number <= LAST_VAL else "test"


def read_mafl_list(root: Path, name: Literal["training", "testing"]) -> list[str]:
    """Return the file names of MAFL's training (19,000) or testing (1,000) faces."""
    path = root / "MAFL" / f"{name}.txt"
    if not path.exists():
        raise BadInput(f"{path} is missing; {SOURCE}: place the list there")
    return path.read_text().split()


def read_landmarks(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return file name -> landmarks [5, 2], (x, y) in pixels.

    Raises:
        BadInput: the file is missing, or a row does not hold a name and ten whole numbers.
    """
    _, rows = _read_table(path, 10)
    return {name: values.reshape(5, 2).astype(np.float32) for name, values in rows.items()}


def read_attributes(path: Path) -> tuple[list[str], dict[str, NDArray[np.bool_]]]:
    """Return the names of the 40 attributes, and file name -> whether each holds, [40].

    Raises:
        BadInput: the file is missing, or a row does not hold a name and forty times 1 or -1.
    """
    names, rows = _read_table(path, 40)
    for name, values in rows.items():
        if not np.isin(values, (-1, 1)).all():
            raise BadInput(f"{path}: the row of {name} holds other values than 1 and -1")
    return names, {name: values == 1 for name, values in rows.items()}


def _read_table(path: Path, width: int) -> tuple[list[str], dict[str, NDArray[np.int64]]]:
    """Return the names in the second line, and file name -> the numbers of its row."""
    if not path.exists():
        raise BadInput(
            f"{path} is missing; run `partbench data fetch celeba_annotations`, or, since {SOURCE},"
            " place the file there"
        )
    lines = path.read_text().splitlines()
    rows: dict[str, NDArray[np.int64]] = {}
    for number, line in enumerate(lines[2:], start=3):
        name, *values = line.split()
        try:
            rows[name] = np.array([int(v) for v in values]).reshape(width)
        except ValueError:
            raise BadInput(
                f"{path}, line {number}: not a file name and {width} whole numbers: {line!r}"
            ) from None
    return lines[1].split() if len(lines) > 1 else [], rows


class FaceSettings(DataSettings):
    """How the aligned faces of 178 x 218 become squares.

    Keypoint methods cut the centre out of what is prepared, after their training warps:

    - DLP: `crop: dlp`, `size: 160`, of which the central 128 (evaluate_lin_reg_on_mafl in its
      code; a landmark moves to (x, y - 30) * 160 / 178, up to half a pixel);
    - KeyNet: `crop: stretch`, `size: 160`, of which the central 128;
    - Zhang: `crop: stretch`, `size: 100`, of which the central 80.
    """

    crop: Literal["center", "stretch", "dlp"] = Field(  # type: ignore[assignment]
        "center",
        description="center: the largest centred square, rows 20 to 197; dlp: DLP's square, rows "
        "30 to 207; stretch: the whole face, aspect broken",
    )


class CelebASettings(FaceSettings):
    """Which faces are trained on, and what is read of them."""

    exclude: Literal["mafl_test", "mafl", "none"] = Field(
        "mafl_test",
        description="faces left out of the training split: MAFL's test faces, all of MAFL's, "
        "or none (which leaks 80.8 % of MAFL's test faces)",
    )
    landmarks: bool = Field(False, description="read the five landmarks too")
    attributes: bool = Field(False, description="read the forty attributes too")


class CelebA(Reader):
    """CelebA's official partition, without labels; landmarks and attributes if asked for."""

    Settings = CelebASettings
    landmark_names: Sequence[str] = LANDMARKS
    landmark_swap: Sequence[int] = SWAP
    licence = "non-commercial research"
    counts = {"train": 161_962, "val": 19_867, "test": 19_962}

    def __init__(self, root: Path, settings: CelebASettings) -> None:
        super().__init__(root, settings)
        if not settings.landmarks:
            self.landmark_names = self.landmark_swap = ()

    def crop_box(self, sample: Sample) -> tuple[float, float, float, float]:
        """Return the part (left, top, right, bottom) of a face that is prepared, pixels."""
        return DLP_BOX if self.settings.crop == "dlp" else super().crop_box(sample)

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        lists = {"none": (), "mafl_test": ("testing",), "mafl": ("testing", "training")}
        left_out = {
            name
            for which in lists[self.settings.exclude]
            for name in read_mafl_list(self.root / "celeba", which)  # type: ignore[arg-type]
        }
        names: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        for number in range(1, LAST_TEST + 1):
            name = f"{number:06d}.jpg"
            split = partition(number)
            if split != "train" or name not in left_out:
                names[split].append(name)
        if self.settings.subset:
            names = {s: n for s, n in names.items() if any(self._there(name) for name in n)}
        return names

    @cached_property
    def _files(self) -> frozenset[str]:
        folder = self.root / "celeba" / "img_align_celeba"
        if not folder.is_dir():
            raise BadInput(f"{folder} is missing; {SOURCE}: unpack img_align_celeba.zip there")
        return frozenset(path.name for path in folder.iterdir())

    def _there(self, name: str) -> bool:
        return name in self._files

    def splits(self) -> dict[str, Sequence[str]]:
        """Return train, val and test; of a subset, those of which something is there."""
        return dict(self._names)

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the images that are there."""
        return [i for i, name in enumerate(self._names[split]) if self._there(name)]

    @cached_property
    def _landmarks(self) -> dict[str, NDArray[np.float32]]:
        return read_landmarks(self.root / "celeba" / LANDMARK_FILE)

    @cached_property
    def _attributes(self) -> tuple[list[str], dict[str, NDArray[np.bool_]]]:
        return read_attributes(self.root / "celeba" / ATTRIBUTE_FILE)

    @property
    def attribute_names(self) -> Sequence[str]:  # type: ignore[override]
        """The forty attributes, if they are asked for."""
        return self._attributes[0] if self.settings.attributes else ()

    def sample(self, split: str, index: int) -> Sample:
        """Return a face, with its landmarks and attributes if they are asked for."""
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
    """Return the row of a face; raises BadInput if the file lacks it."""
    if name not in rows:
        raise BadInput(f"celeba/{file} has no row for {name}; use the official file, whole")
    return rows[name]


def read_face(root: Path, name: str) -> NDArray[np.uint8]:
    """Return an aligned face, [218, 178, 3]; raises BadInput if it has another size."""
    path = root / "celeba" / "img_align_celeba" / name
    image = read_image(path)
    if image.shape[:2] != SIZE:
        raise BadInput(
            f"{path} is {image.shape[1]} x {image.shape[0]}, aligned CelebA faces are 178 x 218; "
            "unpack img_align_celeba.zip again (img_celeba.7z holds the unaligned images)"
        )
    return image
