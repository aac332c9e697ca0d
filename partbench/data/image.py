"""Decode image files: any mode, any orientation, or an error that names the file."""

import io
import math
import os
import re
import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from partbench.errors import BadInput

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""Suffix -> Pillow's name of its format. A file may hold any of these, whatever its suffix."""
SUFFIXES = frozenset(FORMATS)
DECODERS = tuple(dict.fromkeys(FORMATS.values()))
"""No other of Pillow's decoders runs: its EPS plugin, for one, starts another program."""
PIXELS = 178_956_970
"""The most that an image may have; from there on Pillow takes it for an attack on the memory."""
CORRUPT = re.compile(
    r"remature end|bad Huffman code|bad arithmetic code|found marker|Inconsistent progression|"
    r"([3-9]|\d\d+) extraneous bytes"
)
"""libjpeg's warnings of data that are not those that were written. Some cameras pad theirs with a
byte or two. Damage after which a decoder gets back into step at the right pixel brings no warning,
and JPEG has no checksum."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return an image file as RGB, [H, W, 3]; grey, palette, CMYK and rotated ones are handled.

    Transparency is dropped.

    Raises:
        BadInput: the file is missing, unreadable, empty, truncated, corrupt or no image, or has
            more than `PIXELS` pixels, more than 8 bits a channel or several frames.
    """
    content = _read(path)
    try:
        plain = _decode_plain_jpeg(content)
        return _decode(content) if plain is None else plain
    except MemoryError:
        raise
    except Exception as error:  # a decoder may raise anything on broken bytes
        raise BadInput(
            f"{path}: cannot be decoded ({error}); replace the file, or set `broken: skip` for "
            "this data set to leave such images out and list them"
        ) from None


def _read(path: Path) -> bytes:
    try:
        # A buffer costs as much as the reading.
        with io.FileIO(path, opener=_open_at_once) as file:
            content = file.read()
    except FileNotFoundError:
        if path.is_symlink():
            raise BadInput(
                f"{path}: a link to {path.readlink()}, which does not exist; mend or remove it"
            ) from None
        raise BadInput(f"{path}: no such image; place it, or set `subset: true`") from None
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read ({error.strerror}); let it be a file that you may read, or "
            "remove it"
        ) from None
    return content or b""


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would be waited for


def _decode_plain_jpeg(content: bytes) -> NDArray[np.uint8] | None:
    """Return PIL's pixels in two thirds of its time; None for what is not an everyday JPEG.

    Both decode by libjpeg-turbo. CMYK, orientation and every doubt are left to PIL.
    """
    if content[:2] != b"\xff\xd8" or content.find(b"Exif\0\0", 0, 1 << 16) >= 0:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray") or height * width > PIXELS:
            return None
        return simplejpeg.decode_jpeg(content)
    except ValueError:
        return None


def _decode(content: bytes) -> NDArray[np.uint8]:
    """Return PIL's pixels; raise any `Exception` where there are none."""
    if not content:
        raise ValueError("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata; what concerns pixels is an error here
        try:
            image = Image.open(io.BytesIO(content), formats=DECODERS)
        except UnidentifiedImageError:
            raise ValueError(
                f"its content begins with {content[:8]!r} and is none of {', '.join(DECODERS)}, "
                "or its header is broken"
            ) from None
        with image:
            _refuse(image)
            if content[:2] == b"\xff\xd8":
                _check_jpeg(content)
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _refuse(image: ImageFile.ImageFile) -> None:
    """Raise ValueError for an image that could be decoded, but not without a choice."""
    if image.width * image.height > PIXELS:
        raise ValueError(f"{image.width} x {image.height} is more than {PIXELS:,} pixels")
    # Pillow cuts channels of 16 bits to their upper 8 without a word.
    cut = image.format in ("PNG", "TIFF") and ";16" in str(image.tile)
    if cut or image.mode.startswith(("I", "F")):
        raise ValueError(
            f"mode '{image.mode}' has more than 8 bits a channel; convert it to 8 bits first, so "
            "that you choose how its range is cut"
        )
    # A JPEG of several pictures (MPO) is a camera's photo, followed by its previews.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise ValueError("it holds several frames; save the one you want as a file of its own")


def _check_jpeg(content: bytes) -> None:
    """Raise ValueError where libjpeg finds the compressed data corrupt; PIL passes over that.

    Decoding at an eighth of the size reads all of the data.
    """
    try:
        colours = simplejpeg.decode_jpeg_header(content, strict=False)[2]
        colours = "CMYK" if colours in ("CMYK", "YCCK") else "GRAY"
        simplejpeg.decode_jpeg(content, colours, min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        if CORRUPT.search(str(error)):
            raise


Box = tuple[float, float, float, float]


def resize(
    image: NDArray[np.uint8],
    shape: tuple[int, int],
    box: Box,
    nearest: bool,
    edge: bool = False,
    area: bool = False,
) -> NDArray[np.uint8]:
    """Return the part `box` (left, top, right, bottom) of an image at another size.

    Args:
        image: [H, W, 3] or [H, W].
        shape: width and height to return, pixels.
        box: may have fractions; pixel edges, not centres.
        nearest: for label maps; else bilinear with antialiasing, as torchvision's Resize.
        edge: what lies outside the image repeats its border; else it is 0.
        area: each new pixel is the mean of the area that it covers, as TensorFlow's AREA has it;
            of images [H, W, 3].
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
    if area:
        return _mean_of_area(image, shape, box)
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize(shape, method, box=box))


def _mean_of_area(image: NDArray[np.uint8], shape: tuple[int, int], box: Box) -> NDArray[np.uint8]:
    """Return a part of an image of which each new pixel is the mean of the area that it covers."""
    left, top, right, bottom = box
    down = _shares(top, bottom, image.shape[0], shape[1])
    across = _shares(left, right, image.shape[1], shape[0])
    mixed = np.einsum("yh,hwc->ywc", down, image.astype(np.float32), optimize=True)
    mixed = np.einsum("xw,ywc->yxc", across, mixed, optimize=True)
    return np.rint(mixed).astype(np.uint8)


def _shares(start: float, end: float, before: int, after: int) -> NDArray[np.float32]:
    """Return by which shares the pixels of a line make those of its part, [after, before]."""
    edges = np.linspace(start, end, after + 1)
    pixels = np.arange(before)
    low = np.maximum(edges[:-1, None], pixels)
    high = np.minimum(edges[1:, None], pixels + 1)
    covered = np.maximum(high - low, 0)
    return (covered / covered.sum(1, keepdims=True)).astype(np.float32)


def move_points(
    points: NDArray[np.float32], shape: tuple[int, int], box: Box
) -> NDArray[np.float32]:
    """Return points (x, y), pixel centres at integers, where `resize` moves them. [..., 2]."""
    left, top, right, bottom = box
    scale = np.array(shape) / (right - left, bottom - top)
    return ((points + 0.5 - (left, top)) * scale - 0.5).astype(np.float32)


def resize_frames(
    image: NDArray[np.uint8],
    shape: tuple[int, int],
    box: Box,
    nearest: bool,
    edge: bool,
    area: bool,
) -> NDArray[np.uint8]:
    """Return what `resize` does of an image, or of each frame of a clip."""
    if image.ndim == (3 if nearest else 4):
        return np.stack([resize(frame, shape, box, nearest, edge, area) for frame in image])
    return resize(image, shape, box, nearest, edge, area)
