"""What is behind the landmark probe's numbers: keypoints on images, error curves, faces."""

from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from markupsafe import Markup
from pydantic import BaseModel, Field, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

from partbench.outputs.keypoints import Pictures
from partbench.probes.landmarks import INTERCEPT, PLAIN, LandmarkSetting
from partbench.report import figures, raster, text
from partbench.report.figures import Line
from partbench.report.keypoint_tiles import Point, keypoint_tile, landmark_tile
from partbench.report.read import CellRecord
from partbench.report.section import MethodRecord, Reference, Section, Task, View

PICTURED, TOGETHER = 20, 5
"""Images with keypoints, and how many share a file: they break into lines as the page narrows."""
NUMBERS = ("equivariance", "equivariance_over_staying", "failure_rate", "implicit_intercept")


class LandmarkSection(Section):
    """Keypoints on images, a table, error curves, the best and the worst faces."""

    name = "Landmarks"
    title = "Keypoints"
    order = 30
    headline = ("iod_error", "box_error", "image_error")
    headline_settings = {
        INTERCEPT: "honest: with intercept",
        PLAIN: "papers\N{RIGHT SINGLE QUOTATION MARK} protocol: no intercept",
    }
    labels: ClassVar = {
        "iod_error": "Error by inter-ocular distance",
        "box_error": "Error by box",
        "image_error": "Error by image side",
        "few_shot_iod_error": "Error by inter-ocular distance, few annotated images",
        "few_shot_box_error": "Error by box, few annotated images",
        "few_shot_image_error": "Error by image side, few annotated images",
        "failure_rate": "Failure rate",
        "implicit_intercept": "Implicit intercept",
        "mean_shape": "Error of the mean shape",
        "equivariance": "Equivariance error",
        "equivariance_over_staying": "Equivariance error over staying put",
    }
    references: ClassVar = {
        "mean_shape": [Reference(error, "floor", "Mean shape") for error in headline]
    }

    def view(self, task: Task) -> View | None:
        """Return what the section shows of one task."""
        compared = [subject for method in task.methods if (subject := subject_of(method))]
        key = text.address("keypoints", task.train, task.eval)
        tiles = [(s.role, view) for s in compared if (view := tiles_view(s))]
        view = {
            "id": key,
            "train": task.train,
            "eval": task.eval,
            "pictures": [view for role, view in tiles if role == "method"],
            "controls": [view for role, view in tiles if role != "method"],
            "charts": charts(compared),
            "faces": faces_views(compared, task.data.images if task.data else None),
            **table(compared),
        }
        shown = ("pictures", "controls", "charts", "faces", "table")
        return view if any(view[part] for part in shown) else None


class Number(BaseModel):
    """One metric of a cell."""

    metric: str
    setting: LandmarkSetting
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

    k: int
    background: bool
    errors: dict[str, ErrorCurve] = Field({}, alias="cumulative errors")
    few_shot: dict[str, dict[PositiveInt, FewShot]] = Field({}, alias="few-shot")
    faces: dict[str, list[Face]] = {}


class Measured(BaseModel):
    """What the report reads of a cell."""

    metrics: list[Number]
    details: Details

    def number(self, metric: str, setting: LandmarkSetting = PLAIN) -> Number | None:
        """Return a number, None where it was not measured."""
        same = (n for n in self.metrics if (n.metric, n.setting) == (metric, setting))
        return next(same, None)

    @property
    def error(self) -> Number | None:
        """The headline error of the regression with an intercept."""
        errors = (self.number(metric, INTERCEPT) for metric in LandmarkSection.headline)
        return next(filter(None, errors), None)


class Subject(NamedTuple):
    """A method with keypoints: its pictures of the first seed that has any, its cells by seed."""

    name: str
    role: str
    colour: int
    pictures: Pictures | None
    seed: str
    """Of the pictures."""
    cells: list[Measured]
    perceptual: str
    """The network of its loss, if it has one."""


def subject_of(method: MethodRecord) -> Subject | None:
    """Return what the section needs of a method, None if it has no keypoints."""
    cells = [measured for cell in method.cells if (measured := parse(cell))]
    drawn = ((Pictures.read(record.arrays), record.seed) for record in method.pictures)
    pictures, seed = next(((p, seed) for p, seed in drawn if p), (None, ""))
    if not cells and not pictures:
        return None
    settings = [run.record.get("settings") for run in method.runs if run.record]
    last = settings[-1] if settings else None
    perceptual = str(last.get("perceptual", "")) if isinstance(last, dict) else ""
    return Subject(method.name, method.role, method.colour, pictures, seed, cells, perceptual)


def parse(cell: CellRecord) -> Measured | None:
    """Return what a cell holds, None if its file is damaged or from another version."""
    try:
        return Measured.model_validate(cell.record)
    except ValidationError:
        return None


def tiles_view(subject: Subject) -> View | None:
    """Return the first test images with a method's keypoints, a few a file."""
    if subject.pictures is None:
        return None
    images, points = subject.pictures
    background = any(cell.details.background for cell in subject.cells)
    points = points[:, :-1] if background else points
    shown = min(PICTURED, len(images), len(points))
    tiles = [keypoint_tile(images[i], points[i]) for i in range(shown)]
    return {
        "title": subject.name,
        "note": f"{points.shape[1]} keypoints{' and the background' if background else ''}, "
        f"seed {subject.seed}",
        "images": [
            (
                raster.row(tiles[i : i + TOGETHER]),
                f"Test images {i + 1} to {min(i + TOGETHER, shown)} with the "
                f"{points.shape[1]} keypoints of {subject.name} drawn on",
            )
            for i in range(0, shown, TOGETHER)
        ],
    }


def charts(compared: Sequence[Subject]) -> list[tuple[str, list[tuple[str, Markup]]]]:
    """Return the curves of the first seeds by setting, the honest one first."""
    first = [(subject, subject.cells[0]) for subject in compared if subject.cells]
    views = []
    for setting in (INTERCEPT, PLAIN):
        both = [
            ("Images below an error (first seed)", error_chart(first, setting)),
            ("Error with few annotations (first seed)", few_shot_chart(first, setting)),
        ]
        drawn = [(title, svg) for title, svg in both if svg is not None]
        if drawn:
            views.append((LandmarkSection.headline_settings[setting], drawn))
    return views


def error_chart(
    first: Sequence[tuple[Subject, Measured]], setting: LandmarkSetting
) -> Markup | None:
    """Draw the cumulative error curves of one setting; None if there are none."""
    lines, spoken, failure_at = [], [], float("nan")
    for subject, cell in first:
        curve = cell.details.errors.get(str(setting))
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


def few_shot_chart(
    first: Sequence[tuple[Subject, Measured]], setting: LandmarkSetting
) -> Markup | None:
    """Draw error against annotations, with the mean shape's; None if there is nothing."""
    lines, spoken = [], []
    for subject, cell in first:
        curve = sorted(cell.details.few_shot.get(str(setting), {}).items())
        if not curve:
            continue
        means, spreads = [p.mean for _, p in curve], [p.sd or 0 for _, p in curve]
        counts = [n for n, _ in curve]
        lines.append(Line(subject.name, subject.role, subject.colour, counts, means, spreads))
        ends = (f"{text.number(p.mean, '%')} with {n}" for n, p in (curve[0], curve[-1]))
        spoken.append(f"{subject.name} {' and '.join(ends)}")
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


def faces_views(compared: Sequence[Subject], images: np.ndarray | None) -> list[View]:
    """Return best and worst images of the trained methods' first seeds, the best method first.

    Args:
        compared: the methods.
        images: the evaluation data's test images, uint8 [N, S, S, 3]; without them nothing.
    """
    if images is None:
        return []
    trained = [subject for subject in compared if subject.role == "method" and subject.cells]

    def mean_error(subject: Subject) -> float:
        value = _mean(cell.error for cell in subject.cells)
        return value if np.isfinite(value) else float("inf")

    views = []
    for subject in sorted(trained, key=mean_error):
        cell = subject.cells[0]
        unit = cell.error.unit if cell.error else "%"
        rows = [
            (
                f"{what} error ({unit})",
                [
                    face_view(subject.name, face, images[face.index], unit)
                    for face in cell.details.faces.get(kind, [])
                    if face.index < len(images)
                ],
            )
            for kind, what in (("best", "Least"), ("worst", "Greatest"))
        ]
        rows = [(title, tiles) for title, tiles in rows if tiles]
        if rows:
            views.append({"title": subject.name, "note": "first seed", "rows": rows})
    return views


def face_view(name: str, face: Face, image: np.ndarray, unit: str) -> tuple[Markup, str, str]:
    """Return one image with its landmarks, the same in words, and its error."""
    error = text.number(face.error, "%")
    tile = landmark_tile(image, face.predicted, face.true, face.visible)
    return raster.row([tile]), f"Test image {face.index + 1}: {name} is {error} {unit} off", error


def table(compared: Sequence[Subject]) -> View:
    """Return the table's rows, means over seeds, and the units of its columns."""
    rows: list[View] = []
    units = dict.fromkeys(NUMBERS, "")
    for subject in compared:
        if not subject.cells:
            continue
        row = {
            "name": subject.name,
            "role": subject.role,
            "k": subject.cells[0].details.k,
            "perceptual": subject.perceptual,
        }
        for metric in NUMBERS:
            setting = INTERCEPT if metric == "failure_rate" else PLAIN
            numbers = [cell.number(metric, setting) for cell in subject.cells]
            row[metric] = _mean(numbers)
            units[metric] = next((n.unit for n in numbers if n), units[metric])
        curves = [cell.details.errors.get(str(INTERCEPT)) for cell in subject.cells]
        areas = [curve.area for curve in curves if curve]
        row["area"] = float(np.mean(areas)) if areas else float("nan")
        rows.append(row)
    implicit = any(np.isfinite(row["implicit_intercept"]) for row in rows)
    return {"table": rows, "units": units, "implicit": implicit}


def _mean(numbers: Iterable[Number | None]) -> float:
    """Return the mean of the numbers that there are, or NaN."""
    values = [number.value for number in numbers if number is not None]
    return float(np.mean(values)) if values else float("nan")
