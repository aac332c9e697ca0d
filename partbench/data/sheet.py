"""A contact sheet, by which a person checks that a reader is right."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from partbench.data.neighbours import NEIGHBOURS, PLACES, QUADRANTS
from partbench.data.prepared import Prepared, Split
from partbench.data.reader import UNSURE
from partbench.files import atomic

COLUMNS, ROWS = 12, 4
SAMPLES = COLUMNS * ROWS
TILE = 112
REFERENCES = 10
"""Images whose neighbours are shown."""
# The palette of Okabe and Ito, whose colours remain distinct to colour-blind readers.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


def write_sheet(prepared: Prepared, path: Path) -> None:
    """Write a png of samples spread evenly over a split: test, or the first if there is no test.

    The background of a mask is darkened, parts are tinted, and unsure pixels are white. Visible
    landmarks are dots, each in its own colour. Boxes are drawn as white outlines, and the class is
    written below the image. A clip shows its middle frame.
    """
    name = "test" if "test" in prepared.meta["splits"] else next(iter(prepared.meta["splits"]))
    split = prepared.split(name)
    count = min(SAMPLES, len(split))
    labels = prepared.meta["class_names"] if split.has("labels") else []
    height = TILE + (14 if labels else 0)
    rows = -(-count // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (TILE + 4) - 4, rows * (height + 4) - 4), "white")
    for position, index in enumerate(np.linspace(0, len(split) - 1, count).astype(int).tolist()):
        x, y = position % COLUMNS * (TILE + 4), position // COLUMNS * (height + 4)
        sheet.paste(_tile(split, index), (x, y))
        if labels:
            text = labels[split.annotation("labels")[index]].rpartition("/")[2]
            ImageDraw.Draw(sheet).text((x, y + TILE), text[:18], fill="black")
    with atomic(path) as aside:
        sheet.save(aside, format="png", optimize=True)


def write_neighbour_sheet(prepared: Prepared, path: Path) -> None:
    """Write a png of images with neighbours of their quadrants, of the split that trainings use.

    A row shows an image, then for each quadrant the nearest, a middle and the last neighbour, with
    its rank and the squared distance below. A neighbour's other quadrants are darkened.
    """
    split = prepared.split("unlabeled" if "unlabeled" in prepared.meta["splits"] else "train")
    rows, distances = split.annotation("neighbours"), split.annotation("distances")
    images = split.annotation("squashed") if split.has("squashed") else split.images
    ranks = (0, NEIGHBOURS // 2, NEIGHBOURS - 1)
    count = min(REFERENCES, len(split))
    side, between, line_height, head = TILE + 4, 16, TILE + 26, 24
    group = len(ranks) * side + between  # the columns of a quadrant
    size = (side + QUADRANTS * group - 4, head + count * line_height)
    sheet, half = Image.new("RGB", size, "white"), prepared.size // 2
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    for quadrant, place in enumerate(PLACES):
        draw.text((side + quadrant * group + between, 0), place, "black", font)
    for line, index in enumerate(np.linspace(0, len(split) - 1, count).astype(int).tolist()):
        y = head + line * line_height
        sheet.paste(_enlarged(images[index]), (0, y))
        for quadrant in range(QUADRANTS):
            for column, rank in enumerate(ranks):
                image = images[rows[index, quadrant, rank]]
                shown = image // 3
                top, left = half * (quadrant // 2), half * (quadrant % 2)
                part = slice(top, top + half), slice(left, left + half)
                shown[part] = image[part]
                x = side + quadrant * group + between + column * side
                sheet.paste(_enlarged(shown), (x, y))
                distance = distances[index, quadrant, rank]
                draw.text((x, y + TILE), f"{rank + 1}: {distance:.3g}", "black", font)
    with atomic(path) as aside:
        sheet.save(aside, format="png")


def write_cluster_sheet(prepared: Prepared, path: Path) -> None:
    """Write a png of the first images of some clusters, a row each, by decreasing size.

    They are of the split that trainings use.
    """
    split = prepared.training_split("clusters")
    clusters = np.array(split.annotation("clusters"))
    sizes = np.bincount(clusters, minlength=prepared.clusters)
    by_size = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    shown = by_size[np.linspace(0, len(by_size) - 1, min(REFERENCES, len(by_size))).astype(int)]
    side = TILE + 4
    sheet = Image.new("RGB", (COLUMNS * side - 4, len(shown) * (TILE + 18)), "white")
    draw = ImageDraw.Draw(sheet)
    for line, cluster in enumerate(shown.tolist()):
        y = line * (TILE + 18)
        for column, index in enumerate(np.flatnonzero(clusters == cluster)[:COLUMNS].tolist()):
            picture = Image.fromarray(split.images[index])
            sheet.paste(picture.resize((TILE, TILE), Image.Resampling.BOX), (column * side, y))
        draw.text((0, y + TILE), f"cluster {cluster}: {sizes[cluster]} images", fill="black")
    with atomic(path) as aside:
        sheet.save(aside, format="png")


def _enlarged(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image).resize((TILE, TILE), Image.Resampling.NEAREST)


def _tile(split: Split, index: int) -> Image.Image:
    frame = split.images[index].ndim == 4 and split.images.shape[1] // 2
    image = _at(split.images, index, frame)
    if split.has("mask"):
        image = np.where(_at(split.annotation("mask"), index, frame)[..., None], image, image // 3)
    if split.has("parts"):
        image = _tint(image, _at(split.annotation("parts"), index, frame))
    tile = Image.fromarray(image).resize((TILE, TILE), Image.Resampling.NEAREST)
    draw, scale = ImageDraw.Draw(tile), TILE / image.shape[0]
    if split.has("box"):
        for left, top, width, height in np.atleast_2d(_at(split.annotation("box"), index, frame)):
            if np.isfinite(left):
                corners = (left + 0.5, top + 0.5, left + width + 0.5, top + height + 0.5)
                draw.rectangle(tuple(scale * float(c) for c in corners), outline="white")
    if split.has("landmarks"):
        points = (_at(split.annotation("landmarks"), index, frame) + 0.5) * scale
        visible = _at(split.annotation("visible"), index, frame)
        for number, (x, y) in enumerate(points):
            if visible[number]:
                colour = COLOURS[number % len(COLOURS)]
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline="black")
    return tile


def _at(array: NDArray, index: int, frame: int | bool) -> NDArray:
    return array[index] if frame is False else array[index, frame]


def _tint(image: NDArray[np.uint8], parts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    palette = np.array([[0, 0, 0], *(list(bytes.fromhex(c[1:])) for c in COLOURS)], np.uint8)
    numbers = np.where(parts == 0, 0, (parts - 1) % len(COLOURS) + 1)
    mixed = (0.55 * image + 0.45 * palette[numbers]).astype(np.uint8)
    tinted = np.where(parts[..., None] > 0, mixed, image)
    return np.where(parts[..., None] == UNSURE, np.uint8(255), tinted)
