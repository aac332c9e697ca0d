"""Decode image files: any mode, any orientation, or an error that names the file."""

import io
import math
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from partbench.errors import BadInput

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return an image file as RGB, [H, W, 3]; grey, palette, CMYK and rotated ones are handled.

    Raises:
        BadInput: the file is missing, truncated, no image, or has more than 8 bits a channel.
    """
    try:
        with path.open("rb", buffering=0) as file:  # a buffer costs as much as the reading
            content = file.read()
        if (plain := _decode_plain_jpeg(content)) is not None:
            return plain
        with Image.open(io.BytesIO(content)) as image:
            if image.mode.startswith(("I", "F")):
                raise BadInput(
                    f"{path}: mode '{image.mode}' has more than 8 bits a channel; convert it to "
                    "8 bits first, so that you choose how its range is cut"
                )
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such image; place it, or set `subset: true`") from None
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise BadInput(
            f"{path}: cannot be decoded ({error}); replace the file, or set `broken: skip` for "
            "this data set to leave such images out and list them"
        ) from None


def _decode_plain_jpeg(content: bytes) -> NDArray[np.uint8] | None:
    """Return PIL's pixels in two thirds of its time; None for what is not an everyday JPEG.

    Both decode by libjpeg-turbo. CMYK, orientation and every doubt are left to PIL.
    """
    if content[:2] != b"\xff\xd8" or b"Exif\0\0" in content[: 1 << 16]:
        return None
    try:
        if simplejpeg.decode_jpeg_header(content)[2] not in ("YCbCr", "Gray"):
            return None
        return simplejpeg.decode_jpeg(content)
    except ValueError:
        return None


Box = tuple[float, float, float, float]


def resize(
    image: NDArray[np.uint8], shape: tuple[int, int], box: Box, nearest: bool, edge: bool = False
) -> NDArray[np.uint8]:
    """Return the part `box` (left, top, right, bottom) of an image at another size.

    Args:
        image: [H, W, 3] or [H, W].
        shape: width and height to return, pixels.
        box: may have fractions; pixel edges, not centres.
        nearest: for label maps; else bilinear with antialiasing, as torchvision's Resize.
        edge: what lies outside the image repeats its border; else it is 0.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = box
    before = (math.ceil(max(0, -top)), math.ceil(max(0, -left)))
    after = (math.ceil(max(0, bottom - height)), math.ceil(max(0, right - width)))
    if any(before + after):
        around = [*zip(before, after, strict=True), (0, 0)][: image.ndim]
        image = np.pad(image, around, "edge" if edge else "constant")
        box = (left + before[1], top + before[0], right + before[1], bottom + before[0])
    if image.shape[1::-1] == shape and box == (0, 0, *shape):
        return image
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize(shape, method, box=box))


def move_points(
    points: NDArray[np.float32], shape: tuple[int, int], box: Box
) -> NDArray[np.float32]:
    """Return points (x, y), pixel centres at integers, where `resize` moves them. [..., 2]."""
    left, top, right, bottom = box
    scale = np.array(shape) / (right - left, bottom - top)
    return ((points + 0.5 - (left, top)) * scale - 0.5).astype(np.float32)
