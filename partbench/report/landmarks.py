"""What is behind the landmark probe's numbers: keypoints on images, error curves, faces."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageDraw
from pydantic import BaseModel, Field, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

from partbench.data.sheet import COLOURS
from partbench.report import figures, raster, text
from partbench.report.figures import Line
from partbench.report.panels import HEADLINE_SETTINGS, HEADLINES, View
from partbench.report.read import Cell, Pictures, Results, found_on

HONEST = "intercept"
"""The setting whose numbers the section opens with."""
PICTURED, TOGETHER = 20, 5
"""Images with keypoints, and how many share a file: they break into lines as the page narrows."""
TILE, FINE, GAP = 160, 2, 4
"""Side of an image, how many times finer it is drawn, and the gap between two; pixels."""
OUTLINE, PAIR = "#111111", "white"
ENCODING = {"quality": 85, "effort": 4}
"""Many pictures: neither the page nor the wait for it should grow with them."""
NUMBERS = ("equivariance", "failure_rate", "implicit_intercept")

Point = tuple[float, float]


def _polygon(corners: int, turn: float, inner: float = 1.0) -> list[Point]:
    """Return a regular polygon, or with `inner` below 1 a star, around the origin."""
    angles = (math.pi * (i / corners + turn) for i in range(2 * corners))
    radii = (1.0, inner) if inner < 1 else (1.0, math.cos(math.pi / corners))
    return [
        (radii[i % 2] * math.sin(angle), -radii[i % 2] * math.cos(angle))
        for i, angle in enumerate(angles)
    ]


SHAPES = (
    _polygon(24, 0),
    _polygon(4, 1 / 4),
    _polygon(3, 0),
    _polygon(4, 0),
    _polygon(3, 1),
    _polygon(5, 0, 0.42),
    _polygon(4, 0, 0.36),
    _polygon(4, 1 / 4, 0.36),
)
"""Shapes of keypoints: with the colours, 56 that differ."""


class Number(BaseModel):
    """One metric of a cell."""

    metric: str
    setting: str
    value: FiniteFloat
    unit: str


class ErrorCurve(BaseModel):
    """The share of images whose error is at most each threshold."""

    thresholds: list[FiniteFloat]
    share: list[FiniteFloat]
    area: FiniteFloat
    failure_at: FiniteFloat = Field(alias="area up to")


class FewShot(BaseModel):
    """Error and its SD over draws, with one number of annotations."""

    mean: FiniteFloat
    sd: FiniteFloat | None


class Face(BaseModel):
    """One test image with landmarks [L, 2] in pixels; they may be NaN where not visible."""

    index: NonNegativeInt
    error: FiniteFloat
    predicted: list[Point]
    true: list[Point]
    visible: list[bool]


class Details(BaseModel):
    """What the report reads of the landmark probe's details."""

    K: int
    background: bool
    errors: dict[str, ErrorCurve] = Field({}, alias="cumulative errors")
    few_shot: dict[str, dict[PositiveInt, FewShot]] = Field({}, alias="few-shot")
    faces: dict[str, list[Face]] = {}


class Measured(BaseModel):
    """What the report reads of a cell."""

    metrics: list[Number]
    details: Details

    def number(self, metric: str, setting: str = "") -> Number | None:
        """Return a number, None where it was not measured."""
        same = (n for n in self.metrics if (n.metric, n.setting) == (metric, setting))
        return next(same, None)

    @property
    def error(self) -> Number | None:
        """The headline error of the regression with an intercept."""
        return next(filter(None, (self.number(metric, HONEST) for metric in HEADLINES)), None)


class Subject(NamedTuple):
    """A method on a data set: its pictures of the first seed that has any, its cells by seed."""

    method: str
    variant: str
    role: str
    colour: int
    pictures: Pictures | None
    cells: list[Measured]
    perceptual: str

    @property
    def name(self) -> str:
        """The method's name and variant, as everywhere in the page."""
        return text.name(self.method, self.variant)


def landmark_views(results: Results, colours: Mapping[str, int]) -> list[View]:
    """Return, by training and evaluation data, what the section Keypoints shows."""
    pictures = [p for p in results.pictures if "keypoints" in p.arrays]
    groups = dict.fromkeys(
        [*((c.train, c.eval) for c in results.landmarks), *((p.train, p.eval) for p in pictures)]
    )
    images = {data.name: data.images for data in results.data}
    views = []
    for train, evaluated in groups:
        found = subjects(results, colours, train, evaluated)
        key = text.address("keypoints", train, evaluated)
        tiles = [
            (s.role, view) for s in found if s.pictures and (view := tiles_view(s, s.pictures))
        ]
        view = {
            "id": key,
            "train": train,
            "eval": evaluated,
            "pictures": [view for role, view in tiles if role == "method"],
            "controls": [view for role, view in tiles if role != "method"],
            "charts": charts(found),
            "faces": faces_views(found, images.get(evaluated)),
            **table(found),
        }
        if any(view[part] for part in ("pictures", "controls", "charts", "faces", "table")):
            views.append(view)
    return views


def subjects(
    results: Results, colours: Mapping[str, int], train: str, evaluated: str
) -> list[Subject]:
    """Return the methods with keypoints on a data set: trained ones in the page's order first."""
    settings = {
        (run.method, run.variant): run.record.get("settings")
        for run in results.runs
        if run.train == train and run.record
    }
    subjects = []
    for found in found_on(results, results.landmarks, "keypoints", train, evaluated, colours):
        cells = [measured for cell in found.cells if (measured := parse(cell))]
        known = settings.get((found.method, found.variant))
        perceptual = str(known.get("perceptual", "")) if isinstance(known, dict) else ""
        if cells or found.pictures:
            colour = colours.get(found.method, 0)
            subjects.append(Subject(*found[:3], colour, found.pictures, cells, perceptual))
    return subjects


def parse(cell: Cell) -> Measured | None:
    """Return what a cell holds, None if its file is damaged or from another version."""
    try:
        return Measured.model_validate(cell.record)
    except ValidationError:
        return None


def tiles_view(subject: Subject, pictures: Pictures) -> View | None:
    """Return the first test images with a method's keypoints, a few a file; None if damaged."""
    images, points = pictures.arrays["originals"], pictures.arrays["keypoints"]
    pictured = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
    if not pictured or points.ndim != 3 or points.shape[2] != 2 or points.dtype.kind != "f":
        return None
    background = any(cell.details.background for cell in subject.cells)
    points = points[:, :-1] if background else points
    shown = min(PICTURED, len(images), len(points))
    tiles = [keypoint_tile(images[i], points[i]) for i in range(shown)]
    return {
        "title": subject.name,
        "note": f"{points.shape[1]} keypoints{' and the background' if background else ''}, "
        f"seed {pictures.seed}",
        "images": [
            (
                raster.uri(side_by_side(tiles[i : i + TOGETHER]), **ENCODING),
                f"Test images {i + 1} to {min(i + TOGETHER, shown)} with the "
                f"{points.shape[1]} keypoints of {subject.name} drawn on",
            )
            for i in range(0, shown, TOGETHER)
        ],
    }


def keypoint_tile(image: np.ndarray, points: np.ndarray) -> Image.Image:
    """Draw keypoints [K, 2], in pixels, on an image uint8 [S, S, 3]: each its colour and shape."""
    tile, draw, scale = _canvas(image)
    for number, (x, y) in enumerate((points + 0.5) * scale):
        if np.isfinite([x, y]).all():
            shape = SHAPES[number // len(COLOURS) % len(SHAPES)]
            _mark(draw, (x, y), shape, COLOURS[number % len(COLOURS)])
    return tile.resize((TILE, TILE), Image.Resampling.LANCZOS)


def face_tile(image: np.ndarray, face: Face) -> Image.Image:
    """Draw predicted landmarks, filled, each joined to its true place, a ring."""
    tile, draw, scale = _canvas(image)
    pairs = [
        (number, (np.array([there, here]) + 0.5) * scale)
        for number, (there, here, seen) in enumerate(
            zip(face.predicted, face.true, face.visible, strict=False)
        )
        if seen and np.isfinite([there, here]).all()
    ]
    for _, ends in pairs:
        line = [tuple(end) for end in ends.tolist()]
        draw.line(line, fill=OUTLINE, width=5 * FINE // 2)
        draw.line(line, fill=PAIR, width=FINE)
    for number, (there, here) in pairs:
        radius = 4 * FINE
        for grow, fill, width in ((1, OUTLINE, 3 * FINE), (0, PAIR, 3 * FINE // 2)):
            reach = radius + grow
            box = (here[0] - reach, here[1] - reach, here[0] + reach, here[1] + reach)
            draw.ellipse(box, outline=fill, width=width)
        _mark(draw, (there[0], there[1]), SHAPES[0], COLOURS[number % len(COLOURS)])
    return tile.resize((TILE, TILE), Image.Resampling.LANCZOS)


def _canvas(image: np.ndarray) -> tuple[Image.Image, ImageDraw.ImageDraw, float]:
    """Return an image enlarged, what draws on it, and by how much it is larger."""
    side = TILE * FINE
    tile = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return tile, ImageDraw.Draw(tile), side / image.shape[1]


def _mark(
    draw: ImageDraw.ImageDraw, place: Point, shape: Sequence[Point], fill: str, size: float = 5.0
) -> None:
    """Draw a marker with a dark outline, which shows on light ground as on dark."""
    for radius, shade in ((size + 2, OUTLINE), (size, fill)):
        r = radius * FINE
        draw.polygon([(place[0] + r * u, place[1] + r * v) for u, v in shape], fill=shade)


def side_by_side(tiles: Sequence[Image.Image]) -> Image.Image:
    """Return tiles in a row, with transparent gaps."""
    row = Image.new("RGBA", (len(tiles) * (TILE + GAP) - GAP, TILE))
    for i, tile in enumerate(tiles):
        row.paste(tile, (i * (TILE + GAP), 0))
    return row


def charts(found: Sequence[Subject]) -> list[tuple[str, list[tuple[str, Markup]]]]:
    """Return the curves of the first seeds by setting, the honest one first."""
    first = [(subject, subject.cells[0]) for subject in found if subject.cells]
    titles = HEADLINE_SETTINGS["landmarks"]
    views = []
    for setting in sorted(titles, key=lambda name: name != HONEST):
        both = [
            ("Images below an error (first seed)", error_chart(first, setting)),
            ("Error with few annotations (first seed)", few_shot_chart(first, setting)),
        ]
        drawn = [(title, svg) for title, svg in both if svg is not None]
        if drawn:
            views.append((titles[setting], drawn))
    return views


def error_chart(first: Sequence[tuple[Subject, Measured]], setting: str) -> Markup | None:
    """Draw the cumulative error curves of one setting; None if there are none."""
    lines, spoken, failure_at = [], [], float("nan")
    for subject, cell in first:
        curve = cell.details.errors.get(setting)
        if curve is None or not curve.thresholds or len(curve.thresholds) != len(curve.share):
            continue
        shares = [100 * share for share in curve.share]
        lines.append(Line(subject.name, subject.role, subject.colour, curve.thresholds, shares))
        failure_at = curve.failure_at
        below = float(np.interp(failure_at, curve.thresholds, shares))
        spoken.append(f"{subject.name} {text.number(below, '%')} %")
    if not lines:
        return None
    return figures.lines(
        lines,
        (f"error ({_unit(first)})", "images (%)"),
        f"Images with an error of at most {failure_at:g} %: {'; '.join(spoken)}",
        within=(-2, 102),
        threshold=(failure_at, f"{failure_at:g} %"),
    )


def few_shot_chart(first: Sequence[tuple[Subject, Measured]], setting: str) -> Markup | None:
    """Draw error against annotations, with the mean shape's; None if there is nothing."""
    lines, spoken = [], []
    for subject, cell in first:
        curve = sorted(cell.details.few_shot.get(setting, {}).items())
        if not curve:
            continue
        means, spreads = [p.mean for _, p in curve], [p.sd or 0 for _, p in curve]
        counts = [n for n, _ in curve]
        lines.append(Line(subject.name, subject.role, subject.colour, counts, means, spreads))
        said = (f"{text.number(p.mean, '%')} with {n}" for n, p in (curve[0], curve[-1]))
        spoken.append(f"{subject.name} {' and '.join(said)}")
    if not lines or min(min(line.y) for line in lines) <= 0:
        return None
    shapes = [shape.value for _, cell in first if (shape := cell.number("mean_shape"))]
    unit = _unit(first)
    return figures.lines(
        lines,
        ("annotated images", f"error ({unit})"),
        f"Error in {unit} by number of annotations: {'; '.join(spoken)}",
        level=(shapes[0], "mean shape") if shapes and shapes[0] > 0 else None,
        log=True,
    )


def _unit(first: Sequence[tuple[Subject, Measured]]) -> str:
    """Return the unit of the errors."""
    return next((error.unit for _, cell in first if (error := cell.error)), "%")


def faces_views(found: Sequence[Subject], images: np.ndarray | None) -> list[View]:
    """Return best and worst images of the trained methods' first seeds, the best method first.

    Args:
        found: the methods.
        images: the evaluation data's test images, uint8 [N, S, S, 3]; without them nothing.
    """
    if images is None:
        return []
    trained = [subject for subject in found if subject.role == "method" and subject.cells]

    def mean_error(subject: Subject) -> float:
        value = _mean(cell.error for cell in subject.cells)
        return value if np.isfinite(value) else float("inf")

    views = []
    for subject in sorted(trained, key=mean_error):
        cell = subject.cells[0]
        unit = cell.error.unit if cell.error else "%"
        rows = [
            (
                f"Least error ({unit})" if kind == "best" else f"Greatest error ({unit})",
                [
                    (
                        raster.uri(face_tile(np.array(images[face.index]), face), **ENCODING),
                        f"Test image {face.index + 1}: {subject.name} is "
                        f"{text.number(face.error, '%')} {unit} off",
                        text.number(face.error, "%"),
                    )
                    for face in cell.details.faces.get(kind, [])
                    if face.index < len(images)
                ],
            )
            for kind in ("best", "worst")
        ]
        rows = [(title, tiles) for title, tiles in rows if tiles]
        if rows:
            views.append({"title": subject.name, "note": "first seed", "rows": rows})
    return views


def table(found: Sequence[Subject]) -> View:
    """Return the table's rows, means over seeds, and the units of its columns."""
    rows: list[View] = []
    units = dict.fromkeys(NUMBERS, "")
    for subject in found:
        if not subject.cells:
            continue
        row = {
            "name": subject.name,
            "role": subject.role,
            "k": subject.cells[0].details.K,
            "perceptual": subject.perceptual,
        }
        for metric in NUMBERS:
            setting = HONEST if metric == "failure_rate" else ""
            numbers = [cell.number(metric, setting) for cell in subject.cells]
            row[metric] = _mean(numbers)
            units[metric] = next((n.unit for n in numbers if n), units[metric])
        curves = [cell.details.errors.get(HONEST) for cell in subject.cells]
        areas = [curve.area for curve in curves if curve]
        row["area"] = float(np.mean(areas)) if areas else float("nan")
        rows.append(row)
    implicit = any(np.isfinite(row["implicit_intercept"]) for row in rows)
    return {"table": rows, "units": units, "implicit": implicit}


def _mean(numbers: Iterable[Number | None]) -> float:
    """Return the mean of the numbers that there are, or NaN."""
    known = [number.value for number in numbers if number is not None]
    return float(np.mean(known)) if known else float("nan")
