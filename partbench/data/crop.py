"""What is cut out of an image: the square around an object, and crops drawn anew at every step.

Preparation decodes an image once, so crops that change from step to step are made of a wider square
that is kept beside the usual one (the setting `wide` of a data set). Where it lies, and how crops
are drawn from it, is here; `resample` makes the images of them.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from partbench.data.image import Box
from partbench.errors import BadInput
from partbench.settings import Settings

MARGIN = 0.05
"""Added on each side, as a share of the box's width and height."""
JITTER = 0.05
"""The most by which a side of a training crop moves, as a share of the box's width and height."""
WIDEST = MARGIN + 2 * JITTER
"""Margin of the wide square: crops of any jitter lie within it. A side moves by `JITTER` at most,
and as much again where the crop grows to a square about its new middle."""
WIDE_SIDES = 2
"""Side of a wide square that shows a whole image, in units of `size`: a crop of half of the image
is then as sharp as the prepared image."""
TRAINED = ("train", "unlabeled")
"""Splits that trainings read, and which have wide squares."""
TRIES = 10
"""Draws of a random crop before the middle of the image is taken, as in torchvision."""

TrainingCrop = Literal["fixed", "box", "random", "window"]


class TrainingCropSettings(Settings):
    """What a training sees of each image."""

    training_crop: TrainingCrop = Field(
        "fixed",
        description="fixed: the prepared image; box: around the object's box, whose sides move at "
        "random; random: any part of the image, resized to the prepared size (both need `wide` "
        "data); window: a square of the prepared size at a random place of data with `crop: whole`",
    )
    box_jitter: float = Field(
        JITTER,
        ge=0,
        le=JITTER,
        description="training_crop box: the most by which each side of the box, padded by 5 %, "
        "moves, as a share of the box's width and height",
    )
    crop_area: tuple[float, float] = Field(
        (0.5, 1.0), description="training_crop random: range of its area, share of the image's"
    )
    crop_aspect: tuple[float, float] = Field(
        (3 / 4, 4 / 3), description="training_crop random: range of its width by height"
    )


class CropSettings(Protocol):
    """`TrainingCropSettings`, as a part of any settings."""

    @property
    def training_crop(self) -> TrainingCrop: ...  # noqa: D102
    @property
    def box_jitter(self) -> float: ...  # noqa: D102
    @property
    def crop_area(self) -> tuple[float, float]: ...  # noqa: D102
    @property
    def crop_aspect(self) -> tuple[float, float]: ...  # noqa: D102


class Cut(NamedTuple):
    """How a data set cuts out its images: two of its settings."""

    crop: str
    wide: bool


class Wide(NamedTuple):
    """The wide square of an image; places are pixel edges, (left, top, right, bottom)."""

    square: Box
    """Of the image, in its pixels; it may reach beyond the image."""
    region: Box
    """What crops are drawn from: the object's box, or the image, in pixels of the wide square."""
    side: int
    """Of the wide square as it is kept, pixels."""


def square_around(box: NDArray[Any], margin: float = MARGIN) -> Box:
    """Return the square around an object: (left, top, right, bottom) in pixels.

    The box grows by a margin on each side. Its short side then extends about its middle until the
    box is a square, which may reach beyond the image. The code of Choudhury et al. (NeurIPS 2021)
    cuts objects out in the same way.

    Args:
        box: [4], (x, y, width, height) in pixels, with pixel centres at integers.
        margin: on each side, as a share of the box's width and height.
    """
    left, top, width, height = (float(value) for value in box)
    side = max(width, height) * (1 + 2 * margin)
    # A crop is measured from pixel edges, which lie half a pixel from the centres.
    x, y = left + width / 2 + 0.5, top + height / 2 + 0.5
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2


def wide_side(size: int, crop: str) -> int:
    """Return the side of a wide square, pixels.

    Args:
        size: side of the prepared square, pixels.
        crop: of the data set: box, or what starts from the whole image.
    """
    if crop == "box":
        return round(size * (1 + 2 * WIDEST) / (1 + 2 * MARGIN))  # of the same scale
    return WIDE_SIDES * size


def wide_around(box: NDArray[Any], size: int) -> Wide:
    """Return the wide square around an object, at the scale of the prepared square.

    Args:
        box: [4], see `square_around`.
        size: side of the prepared square, pixels.
    """
    square = square_around(box, WIDEST)
    left, top, width, height = (float(value) for value in box)
    inside = (left + 0.5, top + 0.5, left + width + 0.5, top + height + 0.5)
    side = wide_side(size, "box")
    return Wide(square, _within(inside, square, side), side)


def wide_of_image(width: int, height: int, size: int) -> Wide:
    """Return the wide square that shows a whole image of `width` x `height` pixels in its middle.

    Args:
        width: of the image, pixels.
        height: of the image, pixels.
        size: side of the prepared square, pixels.
    """
    longer, side = max(width, height), wide_side(size, "pad")
    left, top = (width - longer) / 2, (height - longer) / 2
    square = (left, top, left + longer, top + longer)
    return Wide(square, _within((0, 0, width, height), square, side), side)


def _within(inside: Box, square: Box, side: int) -> Box:
    """Return a place in an image as a place in its wide square of `side` pixels."""
    scale = side / (square[2] - square[0])
    left, top, right, bottom = (scale * (edge - square[i % 2]) for i, edge in enumerate(inside))
    return left, top, right, bottom


def check_crop(settings: CropSettings, data: Cut, where: str) -> None:
    """Refuse, with `BadInput`, a training crop that a data set cannot give.

    Args:
        settings: the method's.
        data: the data set's.
        where: the data set, for the message.
    """
    kind, crop = settings.training_crop, data.crop
    if kind == "box" and not (data.wide and crop == "box"):
        need = "the data set needs `crop: box` and `wide: true`"
    elif kind == "random" and not (data.wide and crop != "box"):
        need = "the data set needs `wide: true` and a `crop` that starts from the whole image"
    elif kind != "window" and crop in ("whole", "tight"):
        raise BadInput(
            f"{where}: `crop: {crop}` keeps every image's aspect, and trainings need squares; "
            "train on the same data with another `crop`, or set `training_crop: window`"
        )
    else:
        return
    raise BadInput(
        f"{where}: has `crop: {crop}` and `wide: {str(data.wide).lower()}`, but the method's "
        f"`training_crop` is {kind}; {need}, or set `training_crop: fixed`, which is not the "
        "paper's"
    )


def check_same_crop(learnt: str, shown: str, where: str) -> None:
    """Refuse, with `BadInput`, to find a foreground in other crops than those learnt on.

    A network that saw squares around objects alone takes the middle of a whole image for one.

    Args:
        learnt: `crop` of the data that the run was trained on; empty: not known.
        shown: `crop` of the data that the foreground is to be found in.
        where: the run and the data, for the message.
    """
    if learnt and learnt != shown:
        raise BadInput(
            f"{where}: learnt the foreground on `crop: {learnt}`, and the data have `crop: "
            f"{shown}`; name a run that is trained on the data set itself, or on one of its `crop`"
        )


def check_carried(cut: Mapping[str, Any], shown: Mapping[str, Any], where: str) -> None:
    """Refuse, with `BadInput`, to carry masks from images to crops of them that they do not cover.

    Args:
        cut: settings of the data set of the crops.
        shown: settings of the data set of the images.
        where: both, for the message.
    """
    if cut["crop"] != "tight":
        raise BadInput(
            f"{where}: `found_in` is for images that are cut by `crop: tight`, but the "
            f"data have `crop: {cut['crop']}`; leave `found_in` out"
        )
    if shown["crop"] != "whole" or shown.get("border", "kept") != "kept":
        raise BadInput(
            f"{where}: `found_in` names images with `crop: whole` and `border: kept`, not with "
            f"`crop: {shown['crop']}` and `border: {shown.get('border', 'kept')}`"
        )


def draw_crops(
    regions: NDArray[np.floating], settings: CropSettings, draw: np.random.Generator
) -> NDArray[np.float64]:
    """Draw one crop of each image.

    Args:
        regions: [B, 4], of `Wide`.
        settings: `training_crop` is box or random.
        draw: every crop takes as many numbers, whatever they are.

    Returns:
        [B, 4], (left, top, right, bottom), edges in pixels of the wide square.
    """
    if settings.training_crop == "box":
        return _jittered(regions, settings.box_jitter, draw)
    return random_parts(regions, settings.crop_area, settings.crop_aspect, draw)


def _jittered(
    regions: NDArray[np.floating], jitter: float, draw: np.random.Generator
) -> NDArray[np.float64]:
    """Return squares around boxes [B, 4] whose sides moved; see `square_around`."""
    near, far = regions[:, :2].astype(np.float64), regions[:, 2:].astype(np.float64)
    shares = MARGIN + jitter * draw.uniform(-1, 1, (len(regions), 2, 2))
    sides = far - near
    near, far = near - shares[:, 0] * sides, far + shares[:, 1] * sides
    middle, half = (near + far) / 2, (far - near).max(1, keepdims=True) / 2
    return np.concatenate([middle - half, middle + half], axis=1)


def random_parts(
    regions: NDArray[np.floating],
    area: tuple[float, float],
    aspect: tuple[float, float],
    draw: np.random.Generator,
) -> NDArray[np.float64]:
    """Return parts of images [B, 4]: area and the logarithm of the aspect are uniform.

    The first of `TRIES` that is no larger than the image counts, at a uniform place. If none is, it
    is the largest of an allowed aspect in the middle of the image.
    """
    n = len(regions)
    near, sides = regions[:, :2].astype(np.float64), (regions[:, 2:] - regions[:, :2])
    width, height = np.moveaxis(sides.astype(np.float64), 1, 0)
    areas = draw.uniform(*area, (n, TRIES)) * (width * height)[:, None]
    aspects = np.exp(draw.uniform(math.log(aspect[0]), math.log(aspect[1]), (n, TRIES)))
    place = draw.random((n, 2))
    drawn = np.stack([np.sqrt(areas * aspects), np.sqrt(areas / aspects)], 2)
    fits = np.all(drawn <= np.stack([width, height], 1)[:, None], axis=2)
    allowed = (width / height).clip(*aspect)
    across = np.minimum(width, height * allowed)
    middle = np.stack([across, across / allowed], 1)
    some = fits.any(1, keepdims=True)
    crop = np.where(some, drawn[np.arange(n), fits.argmax(1)], middle)
    start = near + np.where(some, place, 0.5) * (sides - crop)
    return np.concatenate([start, start + crop], axis=1)
