"""Parts drawn over images, and the colour that each part takes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from partbench.metrics.parts import Counts, matched_iou

COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#56b4e9", "#d55e00", "#7f3c8d"),
    *("#b7e3a1", "#5b3a1e", "#00d5d5", "#ffb6a8", "#3c4fd8", "#8a8f00", "#ff5fb0", "#ffffff"),
)
"""Of parts: Okabe and Ito's first, then others that differ from them in lightness too."""
RGB: NDArray[np.uint8] = np.array([list(bytes.fromhex(colour[1:])) for colour in COLOURS], np.uint8)
"""The same, uint8 [COLOURS, 3]."""
TILE = 120
"""Side of an image, pixels."""


def palette(
    k: int, table: Counts | None = None, colour_of: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
    """Return the numbers of the colours of K parts, [K].

    Parts are matched one to one with labels that have colours; a part without a label takes a
    colour that no other part has, while there are any.

    Args:
        k: parts.
        table: [T, K], how often a label meets a part; by default there are no labels.
        colour_of: [T], the number of each label's colour.
    """
    numbers = np.full(k, -1)
    if table is not None and colour_of is not None:
        for label, part in enumerate(matched_iou(table).partner.tolist()):
            if part >= 0 and colour_of[label] not in numbers:
                numbers[part] = colour_of[label]
    free = [c for c in range(len(COLOURS)) if c not in numbers] or list(range(len(COLOURS)))
    for i, part in enumerate(np.flatnonzero(numbers < 0)):
        numbers[part] = free[i % len(free)]
    return numbers


def label_colours(counts: NDArray[np.integer]) -> NDArray[np.intp]:
    """Return the number of each true label's colour, [T]; of many, all rare ones share the last.

    Args:
        counts: [T], how often each occurs.
    """
    if len(counts) <= len(COLOURS):
        return np.arange(len(counts))
    ranks = np.empty(len(counts), np.intp)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return np.minimum(ranks, len(COLOURS) - 1)


def legend(counts: NDArray[np.integer], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the colours and names of the true labels that occur, those that share one together.

    Args:
        counts: [T], how often each occurs.
        names: of the labels, T.
    """
    colour_of, occurring = label_colours(counts), counts > 0
    shared = len(colour_of) > len(COLOURS)
    alone = [
        (COLOURS[colour], name)
        for colour, name, occurs in zip(colour_of, names, occurring, strict=True)
        if occurs and not (shared and colour == len(COLOURS) - 1)
    ]
    others = shared and bool(occurring[colour_of == len(COLOURS) - 1].any())
    return [*alone, (COLOURS[-1], "all others")] if others else alone


def part_tile(
    image: NDArray[np.uint8], labels: NDArray[np.integer], colours: NDArray[np.uint8]
) -> Image.Image:
    """Draw parts over an image: coloured, with its light and dark; the background in grey.

    Args:
        image: uint8 [S, S, 3].
        labels: [S, S], the part of each pixel; what is not a row of `colours` is background.
        colours: uint8 [K, 3].
    """
    grey = image.astype(np.float64).mean(2, keepdims=True)
    inside = (labels < len(colours))[..., None]
    tints = colours[np.where(inside[..., 0], labels, 0)]
    # Light and dark of the image show through, but never hide the colour.
    shown = np.where(inside, tints * (0.65 + 0.35 * grey / 255), 0.5 * grey)
    tile = Image.fromarray(shown.round().astype(np.uint8))
    return tile.resize((TILE, TILE), Image.Resampling.NEAREST)
