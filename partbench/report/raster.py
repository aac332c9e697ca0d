"""Pictures as data URIs, in WebP: every browser reads it, and it is a tenth of a PNG."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image


def strip(images: np.ndarray, most: int = 8) -> Markup:
    """Return the first images of an array uint8 [n, S, S, 3] side by side, as a data URI."""
    images = images[:most]
    size, gap = images.shape[1], max(1, images.shape[1] // 24)
    canvas = np.zeros((size, len(images) * (size + gap) - gap, 4), dtype=np.uint8)
    for i, image in enumerate(images):
        left = i * (size + gap)
        canvas[:, left : left + size, :3] = image
        canvas[:, left : left + size, 3] = 255
    return uri(Image.fromarray(canvas))


def row(tiles: Sequence[Image.Image], gap: int = 4) -> Markup:
    """Return pictures of one size in a row, with transparent gaps, as a data URI.

    There are many of these: neither the page nor the wait for it should grow with them.
    """
    width, height = tiles[0].size
    whole = Image.new("RGBA", (len(tiles) * (width + gap) - gap, height))
    for i, tile in enumerate(tiles):
        whole.paste(tile, (i * (width + gap), 0))
    return uri(whole, quality=85, effort=4)


def animation(frames: np.ndarray, scale: int = 3, duration: int = 80) -> Markup:
    """Return frames uint8 [T, H, W, 3] as an endless animation, as a data URI.

    Args:
        frames: the pictures.
        scale: how many times larger they are shown.
        duration: of a frame, milliseconds.
    """
    height, width = (scale * side for side in frames.shape[1:3])
    images = [Image.fromarray(frame).resize((width, height)) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(
        buffer, "webp", save_all=True, append_images=images[1:], duration=duration, loop=0
    )
    return Markup("data:image/webp;base64,") + base64.b64encode(buffer.getvalue()).decode()


def sheet(path: Path, most: int = 1100) -> Markup:
    """Return a contact sheet, at most `most` pixels wide, as a data URI."""
    with Image.open(path) as image:
        image.thumbnail((most, most * 4))
        return uri(image.convert("RGB"))


def uri(image: Image.Image, quality: int = 92, effort: int = 6) -> Markup:
    """Encode as WebP, which every browser reads, keeps transparency and is a tenth of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=quality, method=effort)
    return Markup("data:image/webp;base64,") + base64.b64encode(buffer.getvalue()).decode()
