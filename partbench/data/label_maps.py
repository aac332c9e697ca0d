"""Masks and part maps that a person drew: PNG files beside the images, with numbers as pixels.

They are in the pixels of the upright image, as viewers show it: a photo that its camera marked as
taken sideways is turned before its masks are laid on it.
"""

import io
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, StringConstraints, model_validator

from partbench.data.image import PIXELS
from partbench.data.reader import UNSURE
from partbench.errors import BadInput
from partbench.settings import Settings
from partbench.strict_yaml import read_mapping

Label = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$")]
MODES = ("1", "L", "P")
"""Pillow's names of pictures whose pixels are one number of at most 8 bits."""
PNG = b"\x89PNG\r\n\x1a\n"
GREY = 0
"""PNG's number of pictures in grey."""
SPREAD = {2: 85, 4: 17}
"""Bits of a grey pixel -> the factor by which Pillow spreads its numbers over 0 to 255."""


class Labels(Settings):
    """What a file of label names holds."""

    parts: dict[Annotated[int, Field(ge=1, lt=UNSURE)], Label] = Field(
        default_factory=dict,
        description="number in the part maps -> name; 0 is background, 255 unsure",
    )
    landmarks: list[Label] = Field(
        default_factory=list,
        description="the landmarks in their order; empty: as they first stand in the annotations",
    )
    mirrored: list[tuple[Label, Label]] = Field(
        default_factory=list,
        description="pairs of landmarks that change places in a mirrored image, such as the eyes",
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = (*self.parts.values(),), self.landmarks, [n for pair in self.mirrored for n in pair]
        for key, listed in zip(("parts", "landmarks", "mirrored"), names, strict=True):
            if twice := [name for name in listed if listed.count(name) > 1]:
                raise ValueError(f"`{key}` names '{twice[0]}' twice")
        return self


def read_labels(path: Path) -> Labels:
    """Read the names of labels from a YAML file.

    Raises:
        BadInput: see `strict_yaml.read_mapping` and `Settings.parse`.
    """
    return Labels.parse(read_mapping(path), str(path))


def read_mask(path: Path, image: Path, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the foreground of an image, [H, W]: the pixels that are 1, or those that are 255.

    Args:
        path: the mask.
        image: the file that it belongs to, for messages.
        shape: height and width of the upright image.

    Raises:
        BadInput: see `_numbers`; a pixel that is neither 0 nor the one other number.
    """
    numbers = _numbers(path, image, shape)
    found = np.unique(numbers).tolist()
    if unknown := [number for number in found if number not in (0, 1, 255)]:
        raise BadInput(
            f"{path}: {_first(numbers, unknown[0])}; a mask holds 0 (background) and either 1 or "
            "255 (foreground). Save it without soft edges, or name the file's ending as `parts`"
        )
    if {1, 255} <= set(found):
        raise BadInput(
            f"{path}: holds both 1 and 255, so which of them is foreground is unknown; a mask "
            "holds 0 and one of the two, and has no unsure pixels: only part maps have"
        )
    return numbers > 0


def read_parts(
    path: Path, image: Path, shape: tuple[int, ...], labels: Labels, where: Path
) -> NDArray[np.uint8]:
    """Return the part of each pixel, [H, W]: 0 is background, the n-th of `labels.parts` is n.

    Args:
        path: the part map.
        image: the file that it belongs to, for messages.
        shape: height and width of the upright image.
        labels: the names of its numbers.
        where: the file of these names, for messages.

    Raises:
        BadInput: see `_numbers`; a number without a name.
    """
    numbers = _numbers(path, image, shape)
    known = np.zeros(256, bool)
    known[[0, *labels.parts, UNSURE]] = True
    if (unknown := np.unique(numbers[~known[numbers]])).size:
        raise BadInput(
            f"{path}: {_first(numbers, int(unknown[0]))}, which has no name in {where}; name it "
            "there under `parts`, or correct the map (0 is background, 255 unsure)"
        )
    order = np.zeros(256, np.uint8)
    order[sorted(labels.parts)] = np.arange(1, len(labels.parts) + 1)
    order[UNSURE] = UNSURE
    return order[numbers]


def _numbers(path: Path, image: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the numbers of a PNG's pixels, [H, W].

    Raises:
        BadInput: the file is missing, no PNG, damaged, of colours, of more than 8 bits, of several
            frames, or of another size than the upright image.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(
            f"{image}: there is no {path.name} beside it; draw it, or set `broken: skip` for this "
            "data set to leave such images out and list them"
        ) from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    if not content.startswith(PNG):
        raise BadInput(f"{path}: is no PNG file; formats such as JPEG change the numbers of labels")
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
            width, height, mode = opened.width, opened.height, opened.mode
            deep, moving = ";16" in str(opened.tile), getattr(opened, "is_animated", False)
            plain = mode in MODES and not deep and not moving and width * height <= PIXELS
            numbers = np.asarray(opened).astype(np.uint8) if plain else np.zeros(0, np.uint8)
            if content[25] == GREY and content[24] in SPREAD:
                numbers //= SPREAD[content[24]]
    except MemoryError:
        raise
    except Exception as error:  # a decoder may raise anything on broken bytes
        raise BadInput(f"{path}: cannot be decoded ({error}); save it again") from None
    if moving:
        raise BadInput(f"{path}: holds several frames; save the one you want")
    if deep or mode.startswith("I"):
        raise BadInput(
            f"{path}: has more than 8 bits a pixel; save it with numbers up to 255 in 8 bits"
        )
    if mode not in MODES:
        raise BadInput(
            f"{path}: its pixels are colours (mode '{mode}'), not numbers of labels; save it as "
            "a grey or palette PNG"
        )
    if (height, width) == shape:
        return numbers
    if (width, height) == shape:
        raise BadInput(
            f"{path}: is {width} x {height}, and {image.name} is {shape[1]} x {shape[0]} once it "
            "is upright; annotate the photo as viewers show it, or turn this file as well"
        )
    raise BadInput(
        f"{path}: is {width} x {height}, but {image.name} is {shape[1]} x {shape[0]}; save it at "
        "the size of the image"
    )


def _first(numbers: NDArray[np.uint8], number: int) -> str:
    """Return in words where a number stands first."""
    row, column = np.argwhere(numbers == number)[0]
    return f"the pixel in row {row}, column {column} (counted from 0) is {number}"
