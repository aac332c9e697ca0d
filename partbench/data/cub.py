"""CUB-200-2011: 11,788 birds of 200 species with 15 landmarks, boxes and masks (Wah et al., 2011).

Landmarks and boxes keep the coordinates of the files, whose origin is the centre of the first
pixel, as in `Sample`, except where images keep their aspect (setting `points`). Two facts show this
origin: boxes begin at 0 and end at the image's width - 1, and the dark discs of eyes then lie
within a third of a pixel of their landmarks on average. All 141,407 visible landmarks lie inside
their boxes, hence inside their images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from partbench.data.image import Box, read_image
from partbench.data.prepared import WHOLE
from partbench.data.reader import DataSettings, Reader, Sample
from partbench.data.whole import cut_border, scale_points
from partbench.errors import BadInput

LANDMARKS = (
    "back",
    "beak",
    "belly",
    "breast",
    "crown",
    "forehead",
    "left eye",
    "left leg",
    "left wing",
    "nape",
    "right eye",
    "right leg",
    "right wing",
    "tail",
    "throat",
)
SWAP = (0, 1, 2, 3, 4, 5, 10, 11, 12, 9, 6, 7, 8, 13, 14)
TRAIN = {0: 5_994, 7: 5_965}
"""`min_visible` -> number of training images of all classes, as counted."""
SOURCE = "unpack CUB_200_2011.tgz (data.caltech.edu/records/65de6-vp158) into {root}"
MASKS = "unpack segmentations.tgz (data.caltech.edu/records/w9d68-gec53) into {root}"

Values = NDArray[np.float64]
RowTest = Callable[[Values], NDArray[np.bool_]]


class CUBSettings(DataSettings):
    """Which birds are used, and what counts as foreground."""

    classes: list[Annotated[int, Field(ge=1, le=200)]] = Field(
        default_factory=list,
        description="official numbers of the classes to use, 1 to 200 (1 is CUB-001); empty: all",
    )
    min_visible: int = Field(
        0,
        ge=0,
        le=len(LANDMARKS),
        description="exclude training images with fewer visible landmarks, but no test images; "
        "CMR uses 7",
    )
    crop: Literal["center", "stretch", "pad", "whole", "box", "tight"] = Field(  # type: ignore[assignment]
        "center",
        description="as for every reader, or box: the bird's box, 5 % wider on each side, its "
        "short side extended to make a square, black outside the image (training of unsup-parts); "
        "tight: the box truncated to whole pixels, its aspect ratio kept as by `whole` (FG "
        "measurements of unsup-parts)",
    )
    foreground: Literal["none", "masks", "box"] = Field(
        "none",
        description="what counts as foreground: the masks (segmentations.tgz), or the whole box of "
        "the bird",
    )
    mask_threshold: int = Field(
        255,
        ge=1,
        le=255,
        description="grey level of a mask from which a pixel is foreground. At 255 all annotators "
        "agree (code of unsup-parts); at 128, the usual choice, half of them do",
    )
    points: Literal["legacy", "exact"] = Field(
        "legacy",
        description="landmarks and boxes of images at their own aspect (whole, tight). legacy: "
        "multiplied by the factor of the shorter side, counted in a tight crop from the box's "
        "untruncated corner and none below 0, as by unsup-parts; exact: where they are",
    )
    mask_resize: Literal["bilinear", "nearest"] = Field(
        "bilinear",
        description="how masks of images at their own aspect are resized; of a bilinear one, half "
        "counts as foreground (unsup-parts)",
    )
    border: Literal["cut", "kept"] = Field(
        "cut",
        description="cut: images at their own aspect lose the border that keeps their sides from "
        "being multiples of 16, and the landmarks in it (Huang and Li, unsup-parts)",
    )


@dataclass(frozen=True)
class Birds:
    """The lists of all N = 11,788 images, in the order of images.txt."""

    names: list[str]
    """Paths below images/."""
    classes: list[str]
    """Names of the classes, without their numbers."""
    labels: NDArray[np.int64]
    """[N], the class of each image, counted from 0 over all classes."""
    train: NDArray[np.bool_]
    """[N], whether an image belongs to the training split."""
    boxes: NDArray[np.float32]
    """[N, 4], (x, y, width, height), pixels."""
    landmarks: NDArray[np.float32]
    """[N, 15, 2], (x, y), pixels; (0, 0) for invisible landmarks."""
    visible: NDArray[np.bool_]
    """[N, 15], whether each landmark is visible."""


class CUB(Reader):
    """The official split. Labels count only the classes in use, in the order of their numbers."""

    Settings = CUBSettings
    landmark_names = LANDMARKS
    landmark_swap = SWAP
    licence = "non-commercial research and education"
    references = ("wah2011cub",)
    counts = {"train": TRAIN[0], "test": 5_794}

    def __init__(self, root: Path, settings: Any) -> None:
        super().__init__(root, settings)
        if settings.classes or settings.min_visible not in TRAIN:
            self.counts = {}
        else:
            self.counts = {**self.counts, "train": TRAIN[settings.min_visible]}
        self.blends_masks = self._whole and settings.mask_resize == "bilinear"

    @property
    def _whole(self) -> bool:
        """Whether images keep their aspect, as the authors measure them."""
        return self.settings.crop in WHOLE

    @property
    def _scales(self) -> bool:
        """Whether points are moved as the authors do."""
        return self._whole and self.settings.points == "legacy"

    @cached_property
    def _birds(self) -> Birds:
        return read_birds(self.root)

    @cached_property
    def _classes(self) -> list[int]:
        """The classes in use, counted from 0."""
        last = len(self._birds.classes)
        if unknown := [number for number in self.settings.classes if number > last]:
            raise BadInput(
                f"{self.root}/CUB_200_2011/classes.txt has {last} classes, but `classes` asks for "
                f"{unknown[0]}"
            )
        return sorted({number - 1 for number in self.settings.classes}) or list(range(last))

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]
        """The classes in use, without their numbers, in the official order."""
        return [self._birds.classes[c] for c in self._classes]

    @cached_property
    def _rows(self) -> dict[str, list[int]]:
        """Split -> indices of its images in the lists."""
        birds = self._birds
        in_use = np.isin(birds.labels, self._classes)
        enough_visible = birds.visible.sum(1) >= self.settings.min_visible
        return {
            "train": np.flatnonzero(in_use & birds.train & enough_visible).tolist(),
            "test": np.flatnonzero(in_use & ~birds.train).tolist(),
        }

    def splits(self) -> dict[str, Sequence[str]]:
        """Return train and test in the order of images.txt.

        Raises:
            BadInput: the folder of masks is missing where it is needed; see also `read_birds`.
        """
        if (
            self.settings.foreground == "masks"
            and not (masks := self.root / "segmentations").is_dir()
        ):
            raise BadInput(
                f"{masks} is missing; {MASKS.format(root=self.root)}, or set `foreground: box`"
            )
        names = self._birds.names
        return {split: [names[row] for row in rows] for split, rows in self._rows.items()}

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the images that are present."""
        images, names = self.root / "CUB_200_2011" / "images", self._birds.names
        return [i for i, row in enumerate(self._rows[split]) if (images / names[row]).exists()]

    def crop_box(self, sample: Sample) -> tuple[float, float, float, float]:
        """Return the region of an image to prepare: (left, top, right, bottom) in pixels."""
        if self.settings.crop != "tight":
            return super().crop_box(sample)
        assert sample.box is not None
        left, top, width, height = (int(value) for value in sample.box)
        return left, top, left + width, top + height

    def move_points(
        self, sample: Sample, points: NDArray[np.float32], shape: tuple[int, int], box: Box
    ) -> NDArray[np.float32]:
        """Return where points lie in the prepared image; see `Reader.move_points`."""
        if not self._scales:
            return super().move_points(sample, points, shape, box)
        factor = min(shape) / min(box[2] - box[0], box[3] - box[1])
        if self.settings.crop == "whole":
            return scale_points(points, factor)
        assert sample.box is not None
        return scale_points(points, factor, sample.box[:2].tolist())

    def in_view(self, points: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which points the prepared image shows; see `Reader.in_view`."""
        if not self._scales:
            return super().in_view(points, shape)
        return np.asarray(((points >= 0) & (points < shape)).all(-1))

    def finish(self, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return a bird's arrays without its image's border, if that is to be cut.

        Raises:
            BadInput: see `cut_border`.
        """
        if not self._whole or self.settings.border == "kept":
            return arrays
        width, height = arrays["extent"].tolist()
        window, landmarks, visible, box = cut_border(
            (height, width), arrays["landmarks"], arrays["visible"], arrays["box"]
        )
        cut = arrays | {"landmarks": landmarks, "visible": visible, "box": box}
        for kind in {"images", "mask"} & arrays.keys():
            inside = arrays[kind][window]
            cut[kind] = np.zeros_like(arrays[kind])
            cut[kind][: inside.shape[0], : inside.shape[1]] = inside
            cut["extent"] = np.array(inside.shape[1::-1], np.int64)
        return cut

    def sample(self, split: str, index: int) -> Sample:
        """Return a bird with its class, landmarks and box, and a mask unless `foreground` is none.

        Raises:
            BadInput: the image or its mask is missing or cannot be decoded, or they differ in size.
        """
        row, birds = self._rows[split][index], self._birds
        name = birds.names[row]
        image = read_image(self.root / "CUB_200_2011" / "images" / name)
        return Sample(
            name,
            image,
            label=self._classes.index(birds.labels[row]),
            landmarks=birds.landmarks[row],
            visible=birds.visible[row],
            box=birds.boxes[row],
            mask=self._foreground(row, image.shape[:2]),
        )

    def _foreground(self, row: int, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        if self.settings.foreground == "none":
            return None
        if self.settings.foreground == "masks":
            return self._mask(self._birds.names[row], shape)
        left, top, width, height = self._birds.boxes[row].astype(float)
        y, x = np.ogrid[: shape[0], : shape[1]]
        return (x >= left) & (x <= left + width) & (y >= top) & (y <= top + height)

    def _mask(self, name: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        path = (self.root / "segmentations" / name).with_suffix(".png")
        if not path.exists():
            raise BadInput(f"{path} is missing; {MASKS.format(root=self.root)} again")
        grey = read_image(path)[..., 0]
        if grey.shape != shape:
            raise BadInput(
                f"{path} is {grey.shape[1]} x {grey.shape[0]}, but its image is {shape[1]} x "
                f"{shape[0]}; {MASKS.format(root=self.root)} again"
            )
        return grey >= self.settings.mask_threshold


def read_birds(root: Path) -> Birds:
    """Return the lists below `root`/CUB_200_2011; no image is needed.

    Raises:
        BadInput: a file is missing, or a row is invalid or contradicts the other files. The
            message names the file, the line and the remedy.
    """
    source = SOURCE.format(root=root)

    def rows(file: str, keys: Sequence[str] | None, width: int) -> list[list[str]]:
        """Return the `width` values of each row after its key; the keys default to 1, 2, ..."""
        path = root / "CUB_200_2011" / file
        lines = path.read_text().rstrip().splitlines() if path.exists() else []
        if not lines:
            raise BadInput(f"{path} is missing or empty; {source}")
        keys = keys or _keys(len(lines))
        values = []
        for number, (line, key) in enumerate(zip(lines, keys, strict=False), start=1):
            prefix, fields = key.split(), line.split()
            if fields[: len(prefix)] != prefix or len(fields) != len(prefix) + width:
                raise BadInput(
                    f"{path}, line {number}: {line!r} is not '{key}' followed by {width} "
                    f"value{'s' * (width > 1)}; {source} again"
                )
            values.append(fields[len(prefix) :])
        if len(lines) != len(keys):
            raise BadInput(
                f"{path} has {len(lines)} rows, but the other files require {len(keys)}; {source} "
                "again"
            )
        return values

    def numbers(
        file: str, keys: Sequence[str], width: int, are_valid: RowTest, fault: str
    ) -> Values:
        """Return `rows` as numbers, float64 [rows, width]; raise at the first invalid row."""
        texts = rows(file, keys, width)
        values = np.array([[_number(text) for text in row] for row in texts])
        if invalid := np.flatnonzero(~are_valid(values)).tolist():
            raise BadInput(
                f"{root / 'CUB_200_2011' / file}, line {invalid[0] + 1}: "
                f"{' '.join(texts[invalid[0]])} is {fault}; {source} again"
            )
        return values

    names = [name for (name,) in rows("images.txt", None, 1)]
    folders = [name for (name,) in rows("classes.txt", None, 1)]
    _check_parts(root)
    images = _keys(len(names))
    number_of = {name: number for number, name in enumerate(folders, start=1)}
    expected = np.array([number_of.get(name.partition("/")[0], 0) for name in names])
    classes = numbers(
        "image_class_labels.txt",
        images,
        1,
        lambda v: (v[:, 0] == expected) & (expected > 0),
        "not the class of the image's folder",
    )
    train = numbers(
        "train_test_split.txt",
        images,
        1,
        lambda v: np.isin(v[:, 0], (0, 1)),
        "neither 1 (train) nor 0 (test)",
    )
    boxes = numbers(
        "bounding_boxes.txt",
        images,
        4,
        lambda v: np.isfinite(v.sum(1)) & (v[:, 2:].min(1) > 0),
        "not a box (x, y, width, height)",
    )
    points = numbers(
        "parts/part_locs.txt",
        [f"{image} {part}" for image in images for part in _keys(len(LANDMARKS))],
        3,
        lambda v: np.isfinite(v.sum(1)) & np.isin(v[:, 2], (0, 1)),
        "not a landmark (x, y, visible: 1 or 0)",
    ).reshape(len(names), len(LANDMARKS), 3)
    return Birds(
        names=names,
        classes=[name.partition(".")[2] or name for name in folders],
        labels=classes[:, 0].astype(np.int64) - 1,
        train=train[:, 0] == 1,
        boxes=boxes.astype(np.float32),
        landmarks=points[..., :2].astype(np.float32),
        visible=points[..., 2] == 1,
    )


def _check_parts(root: Path) -> None:
    path = root / "CUB_200_2011" / "parts" / "parts.txt"
    lines = path.read_text().rstrip().splitlines() if path.exists() else []
    expected = [f"{number} {name}" for number, name in enumerate(LANDMARKS, start=1)]
    for number, (line, row) in enumerate(zip_longest(lines, expected, fillvalue=""), start=1):
        if line.strip() != row:
            raise BadInput(
                f"{path}, line {number}: {line!r} instead of {row!r}; {SOURCE.format(root=root)} "
                "again"
            )


def _keys(n: int) -> list[str]:
    """Return the keys of n rows: 1 to n."""
    return [str(i) for i in range(1, n + 1)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan
