"""The contract of a data set: what a reader offers and what a sample holds."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from partbench.data.crop import Wide, square_around, wide_around, wide_of_image
from partbench.data.image import Box, move_points
from partbench.errors import BadInput
from partbench.names import Name
from partbench.settings import Settings, nearest

UNSURE = 255
"""Part of pixels that are left out of every measurement."""
NAMED = {
    "landmarks": "landmark_names",
    "visible": "landmark_names",
    "attributes": "attribute_names",
    "parts": "part_names",
}
"""Annotations whose names a reader lists: it has the annotation if the list is not empty."""


@dataclass(frozen=True)
class Sample:
    """One image (or clip) of a data set with its annotations, in pixels of that image.

    Points are (x, y) with pixel centres at integers. What a data set does not annotate is None.
    """

    name: str
    """Unique within its split: a file's path below the data set's folder, a drawing's number."""
    image: NDArray[np.uint8]
    """[H, W, 3], or [T, H, W, 3] for a clip; RGB."""
    label: int | None = None
    """Class, counted from 0."""
    landmarks: NDArray[np.float32] | None = None
    """[L, 2] (or [T, L, 2]), (x, y)."""
    visible: NDArray[np.bool_] | None = None
    """[L] (or [T, L]); None means that every landmark is visible."""
    box: NDArray[np.float32] | None = None
    """[4] (or [T, 4] of a clip, [M, 4] of a scene), (x, y, width, height); M is the same for all
    samples, rows without an object are NaN."""
    objects: NDArray[np.int64] | None = None
    """[M], the class of each box of a scene, -1 where there is none."""
    attributes: NDArray[np.bool_] | None = None
    """[A], whether each of `Reader.attribute_names` holds."""
    mask: NDArray[np.bool_] | None = None
    """[H, W], the foreground."""
    parts: NDArray[np.uint8] | None = None
    """[H, W] (or [T, H, W]), 0 is background, part p of `Reader.part_names` is p + 1; `UNSURE`
    pixels are to be left out of every measurement."""
    group: int | None = None
    """Samples of one group, such as clips cut from one film, are not independent: held-out samples
    are whole groups, and intervals are over groups."""


Side = Annotated[int, Field(ge=8, le=4096)]
"""Of square images, pixels; at more, a batch of images would fill a GPU."""


class DataSettings(Settings):
    """Settings that every data set has."""

    size: Side = Field(64, description="side of the prepared square images, pixels")
    crop: Literal["center", "stretch", "pad", "whole"] = Field(
        "center",
        description="center: the largest centred square; stretch: the whole image, aspect broken; "
        "pad: the whole image in the middle of a square, its border repeated around it; whole: the "
        "image at its own aspect, its shorter side `size`, to measure parts on and nothing else",
    )
    resample: Literal["bilinear", "area"] = Field(
        "bilinear",
        description="how images are resized; bilinear: with antialiasing; area: a pixel is the "
        "mean of the area that it covers, as TensorFlow's AREA has it",
    )
    wide: bool = Field(
        False,
        description="keep a wider square of each training image too, of which trainings draw "
        "another crop at every step (`training_crop`): around the object where `crop` is box, "
        "else of the whole image",
    )
    subset: bool = Field(
        False,
        description="allow images to be missing: only those present are prepared, and every "
        "table that uses them says so",
    )
    broken: Literal["error", "skip"] = Field(
        "error", description="an image that cannot be decoded: stop, or leave it out and list it"
    )
    limit: dict[Name, Annotated[int, Field(strict=True, ge=1)]] = Field(
        default_factory=dict,
        description="split -> number of samples to keep, a seeded draw in the official order",
    )

    @model_validator(mode="after")
    def _squares(self) -> Self:
        if self.wide and self.crop in ("whole", "tight"):
            raise ValueError(
                f"`wide` makes squares, and `crop: {self.crop}` keeps every image's aspect; leave "
                "one of them out"
            )
        return self


class Reader(ABC):
    """A reader of one official archive layout: one subclass in one module of `partbench.data`.

    Args:
        root: the folder that holds the data set's files.
        settings: an instance of the reader's own `Settings`.
    """

    Settings: ClassVar[type[DataSettings]] = DataSettings
    class_names: Sequence[str] = ()
    landmark_names: Sequence[str] = ()
    landmark_swap: Sequence[int] = ()
    """Landmark i of a mirrored image is landmark `landmark_swap[i]` of the original."""
    attribute_names: Sequence[str] = ()
    part_names: Sequence[str] = ()
    blends_parts: bool = False
    """Whether part numbers are resized as if they were grey levels: a fault that some published
    numbers have."""
    blends_masks: bool = False
    """Whether masks are resized as if they were grey levels, of which one half counts as one."""
    official_splits: ClassVar[int] = 0
    """How many official splits into training and test there are, of which the setting `fold` takes
    one; 0: one, and no such setting."""
    licence: ClassVar[str] = ""
    references: ClassVar[tuple[str, ...]] = ()
    """The works that it asks to be cited: keys of references.bib, or BibTeX itself."""
    counts: Mapping[str, int] = {}
    """Samples in each split, as far as they are known before the files are there."""

    def __init__(self, root: Path, settings: Any) -> None:
        self.root = root
        self.settings = settings

    @property
    def split_names(self) -> Collection[str] | None:
        """Names of the splits; None where only the files tell."""
        return None

    @property
    def frames(self) -> int:
        """Frames of a sample: 1, or T of clips."""
        return 1

    def has(self, annotation: str) -> bool | None:
        """Return whether samples have an annotation; None where only their files tell.

        Args:
            annotation: a field of `Sample`, or `frames` for clips.
        """
        if annotation == "frames":
            return self.frames > 1
        if annotation not in NAMED:
            return None
        try:
            return bool(getattr(self, NAMED[annotation]))
        except BadInput:  # the names lie in a file that is not there yet
            return None

    @property
    def prepared_shape(self) -> tuple[int, int]:
        """Width and height of prepared images that do not keep an aspect of their own."""
        return self.settings.size, self.settings.size

    def object_box(self, sample: Sample) -> NDArray[Any]:
        """Return the box (x, y, width, height) of the object that `crop: box` cuts out, pixels."""
        assert sample.box is not None
        return sample.box

    def wide(self, sample: Sample) -> Wide:
        """Return where the wide square of a training image lies."""
        size = self.settings.size
        if self.settings.crop == "box":
            return wide_around(self.object_box(sample), size)
        height, width = sample.image.shape[-3:-1]
        return wide_of_image(width, height, size)

    def crop_box(self, sample: Sample) -> Box:
        """Return the part (left, top, right, bottom) of an image that is prepared, pixels.

        It may reach beyond the image: what lies there is background, black unless `crop` is pad.
        """
        if self.settings.crop == "box":
            return square_around(self.object_box(sample))
        height, width = sample.image.shape[-3:-1]
        if self.settings.crop in ("stretch", "whole", "frame"):
            return 0, 0, width, height
        side = max(width, height) if self.settings.crop == "pad" else min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def move_points(
        self, sample: Sample, points: NDArray[np.float32], shape: tuple[int, int], box: Box
    ) -> NDArray[np.float32]:
        """Return where points of a sample lie once its part `box` has the size `shape`.

        Args:
            sample: the sample.
            points: [..., 2], (x, y), pixels of its image.
            shape: width and height, pixels.
            box: (left, top, right, bottom), see `crop_box`.
        """
        return move_points(points, shape, box)

    def in_view(self, points: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which points [..., 2] of a prepared image of the size `shape` it shows, [...]."""
        inside = (points >= -0.5) & (points <= np.array(shape) - 0.5)
        return np.asarray(inside.all(-1))

    def finish(self, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return a sample's prepared arrays after what a protocol does to them last."""
        return arrays

    def remarks(self) -> Sequence[str]:
        """Return lines to print before preparation, such as what is ignored; none by default."""
        return ()

    def own_files(self) -> Sequence[Path]:
        """Return the files and folders that a person makes or corrects; none by default.

        When they change, their data set is prepared again. What `archives` lists is not named.
        """
        return ()

    @abstractmethod
    def splits(self) -> dict[str, Sequence[str]]:
        """Return the names of the samples of each split, in the official order.

        Raises:
            BadInput: a file of the data set is missing: which, where it comes from, and where
                to put it.
        """

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the samples of `split` whose files are there; all by default."""
        return range(len(self.splits()[split]))

    def original(self, name: str) -> str:
        """Return of which image the sample `name` is a copy: a sample that has no copies is one."""
        return name

    def folds(self, split: str) -> Sequence[Sequence[int]]:
        """Return the official folds of a split, lists of indices into it; none by default."""
        return ()

    @abstractmethod
    def sample(self, split: str, index: int) -> Sample:
        """Return sample `index` of `split`.

        Raises:
            BadInput: the image cannot be decoded, or an annotation is missing or impossible;
                the message names the file.
        """

    def check_used(self, used: Mapping[str, Sequence[str]]) -> None:
        """Refuse, with `BadInput`, what is left once samples that cannot be used are left out.

        Nothing is refused by default.

        Args:
            used: split -> names of the samples that are prepared.
        """
        return None

    def pairs(self, split: str, index: int) -> NDArray[np.uint8]:
        """Return each frame of clip `index` with the next one of its video, [T, 2, H, W, 3].

        Of a video's last frame, it is the pair before.

        Raises:
            BadInput: as of `sample`; the video has a single frame; or samples are no clips.
        """
        raise BadInput(
            f"{type(self).__name__}: samples are single images; optical flow is of clips"
        )


def check_limit(settings: DataSettings, splits: Collection[str], where: str) -> None:
    """Refuse, with `BadInput`, a limit of a split that there is not.

    Args:
        settings: of the data set.
        splits: names of its splits.
        where: the data set, for the message.
    """
    for split in settings.limit:
        if split not in splits:
            raise BadInput(f"{where}: `limit` has no split '{split}'; {nearest(split, splits)}")
