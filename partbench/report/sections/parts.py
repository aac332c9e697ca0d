"""Parts: tables by K, the same images through every method, what parts lie on, landmark errors."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field, PositiveInt, ValidationError

from partbench.metrics.parts import contingency, matched_iou
from partbench.outputs.part_maps import BACKGROUND, Pictures
from partbench.probes.parts import PartSetting
from partbench.published import Claim
from partbench.report import figures, raster, text
from partbench.report.figures import Bar
from partbench.report.panels import row_view
from partbench.report.papers import address
from partbench.report.part_tiles import RGB, TILE, label_colours, legend, palette, part_tile
from partbench.report.read import CellRecord, Data, records
from partbench.report.section import MethodRecord, Reference, Section, Task, View

ACROSS = 10
"""Test images in a row."""
ROWS = 16
"""True labels in a heat map at most, the most frequent ones."""
COLUMNS = (
    ("fg_nmi", "NMI"),
    ("fg_ari", "ARI"),
    ("fg_mean_iou", "Mean IoU"),
    ("nmi", "NMI, full"),
    ("ari", "ARI, full"),
    ("part_consistency", "Consistency"),
    ("equivariance_agreement", "Under warps"),
)
"""Metrics of the table, and what they are called."""
CHARTS = (("fg_ari", "ARI on the foreground"),)
"""Metrics that have a chart beside that of the headline."""
LABELS = {
    "fg_nmi": "NMI on the foreground",
    "fg_ari": "ARI on the foreground",
    "fg_mean_iou": "Mean IoU on the foreground",
    "nmi": "NMI, background included",
    "ari": "ARI, background included",
    "mean_iou": "Mean IoU, background included",
    "part_consistency": "Consistency of parts",
    "equivariance_agreement": "Agreement under warps",
    "landmark_error": "Landmark error from part centres",
    "constant_landmark_error": "Error of each landmark\N{RIGHT SINGLE QUOTATION MARK}s mean",
}
"""Metrics, and what they are called."""
ERROR, CONSTANT = "landmark_error", "constant_landmark_error"


class PartSection(Section):
    """Tables and charts for each K, parts on images, heat maps, landmark errors."""

    name = "Parts"
    title = "Parts"
    order = 40
    headline = ("fg_nmi",)
    labels: ClassVar = {
        **LABELS,
        **{f"oracle_{metric}": f"{label}, of the oracle" for metric, label in LABELS.items()},
        **{f"{metric}_per_image": f"{label}, by image" for metric, label in LABELS.items()},
    }
    references: ClassVar = {
        **{f"oracle_{metric}": [Reference(metric, "ceiling", "Oracle")] for metric in LABELS},
        CONSTANT: [Reference(ERROR, "floor", "Each landmark\N{RIGHT SINGLE QUOTATION MARK}s mean")],
    }

    def view(self, task: Task) -> View | None:
        """Return what the section shows of one task."""
        compared = [subject for method in task.methods if (subject := subject_of(method))]
        colours = {method.method: method.colour for method in task.methods}
        key = text.address("part-maps", task.train, task.eval)
        view = {
            "id": key,
            "train": task.train,
            "eval": task.eval,
            "tables": tables(task.numbers, compared, colours),
            "strips": strips(compared, task.data),
            "labelled": any(s.cell is not None and s.cell.details.at == "pixels" for s in compared),
            "confusions": confusions(compared),
            "landmarks": landmark_table(task.numbers, task.claims, task.eval, compared),
        }
        shown = ("tables", "strips", "confusions", "landmarks")
        return view if any(view[part] for part in shown) else None


class Details(BaseModel):
    """What the report reads of the parts probe's details."""

    k: PositiveInt
    at: str
    foreground: str
    labels: list[str]
    background: bool = Field(alias="background column")
    table: list[list[int]]
    groups: list[list[str]] = Field([], alias="oracle groups")


class Measured(BaseModel):
    """What the report reads of a cell."""

    details: Details

    @property
    def table(self) -> NDArray[np.int64]:
        """The table [T, K] of the foreground's labels and the parts."""
        rows = np.array(self.details.table, np.int64)
        first_row = len(rows) - len(self.names)
        return rows[first_row:, 1:] if self.details.background else rows[first_row:]

    @property
    def names(self) -> list[str]:
        """The true labels, without the background."""
        pixels = self.details.at == "pixels" and self.details.background
        return self.details.labels[1:] if pixels else self.details.labels


class Subject(NamedTuple):
    """A method with parts: its pictures of the first seed that has any, and a cell."""

    name: str
    role: str
    colour: int
    pictures: Pictures | None
    seed: str
    """Of the pictures."""
    cell: Measured | None
    """Of the seed of the pictures, else the first."""
    pictured: Measured | None
    """The cell, if it is of the seed of the pictures: parts of another seed are others."""


def subject_of(method: MethodRecord) -> Subject | None:
    """Return what the section needs of a method, None if it has no parts."""
    cells = {cell.seed: measured for cell in method.cells if (measured := parse(cell))}
    drawn = ((Pictures.read(record.arrays), record.seed) for record in method.pictures)
    pictures, seed = next(((p, seed) for p, seed in drawn if p), (None, ""))
    pictured = cells.get(seed)
    cell = pictured or next(iter(cells.values()), None)
    if not cell and not pictures:
        return None
    return Subject(method.name, method.role, method.colour, pictures, seed, cell, pictured)


def parse(cell: CellRecord) -> Measured | None:
    """Return what a cell holds, None if its file is damaged or from another version."""
    try:
        measured = Measured.model_validate(cell.record)
        fits = measured.table.shape == (len(measured.names), measured.details.k)
    except (ValidationError, ValueError, IndexError):
        return None
    return measured if fits else None


def tables(
    numbers: pd.DataFrame, compared: Sequence[Subject], colours: Mapping[str, int]
) -> list[View]:
    """Return a table and charts for each K: numbers of different K are never held together."""
    cells = {subject.name: subject.cell for subject in compared if subject.cell}
    legacy = numbers["settings"].map(lambda setting: setting.legacy).astype(bool)
    kept = numbers[~legacy]
    views = []
    for k, same in kept.groupby(kept["settings"].map(lambda setting: setting.k)):
        names = same["method"].combine(same["variant"], text.name)
        rows = []
        for name in dict.fromkeys([*(s.name for s in compared), *names]):  # the page's order
            own = same[names == name]
            if own.empty:
                continue
            by_metric = {row["metric"]: row_view(row) for row in records(own)}
            cell = cells.get(name)
            rows.append(
                {
                    "name": name,
                    "role": own["role"].iloc[0],
                    "foreground": cell.details.foreground if cell else "",
                    "values": [by_metric.get(metric) for metric, _ in COLUMNS],
                }
            )
        means = {row["metric"]: row["mean"] for row in records(same)}
        groups = [cell.details.groups for cell in cells.values() if cell.details.k == k]
        shown = [i for i in range(len(COLUMNS)) if any(row["values"][i] for row in rows)]
        views.append(
            {
                "k": k,
                "columns": [COLUMNS[i][1] for i in shown],
                "rows": [row | {"values": [row["values"][i] for i in shown]} for row in rows],
                "oracle": [means.get(f"oracle_{COLUMNS[i][0]}") for i in shown],
                "on": measured_on(same, compared),
                "groups": groups[0] if groups else [],
                "charts": [
                    (title, chart)
                    for metric, title in CHARTS
                    if (chart := interval_chart(same, metric, title, int(k), colours))
                ],
            }
        )
    return views


def measured_on(numbers: pd.DataFrame, compared: Sequence[Subject]) -> str:
    """Return in words what the foreground's numbers were measured on."""
    first = numbers[numbers["metric"] == COLUMNS[0][0]]
    if first.empty:
        return ""
    at = next((s.cell.details.at for s in compared if s.cell), "pixels")
    what = "all pixels" if at == "pixels" else "the visible landmarks"
    most = first["n"].max()
    images = f"{what} of {f'{most:.0f} ' if most > 0 else 'the '}test images"
    return ", ".join(filter(None, [images, first["settings"].iloc[0].seen]))


def interval_chart(
    numbers: pd.DataFrame, metric: str, title: str, k: int, colours: Mapping[str, int]
) -> Markup | None:
    """Draw a metric of all methods at one K, and above them the oracle's."""
    group = numbers[numbers["metric"] == metric].sort_values("mean", ascending=False)
    if group.empty:
        return None
    bars = []
    ceiling = numbers[numbers["metric"] == f"oracle_{metric}"]
    if len(ceiling):
        oracle = ceiling.iloc[0]
        written = text.number(oracle["mean"], "%")
        ends = (oracle["mean"], oracle["low"], oracle["high"])
        bars.append(Bar(f"Oracle, K = {k}", "ceiling", 0, *ends, [], written))
    order = {"ceiling": 0, "method": 1, "floor": 2}
    for row in sorted(records(group), key=lambda row: order.get(str(row["role"]), 1)):
        view = row_view(row)
        written = f"{text.number(view['mean'], '%')}   [{view['interval']}]"
        ends = (view["mean"], view["low"], view["high"])
        colour = colours.get(view["method"], 0)
        bars.append(Bar(view["name"], view["role"], colour, *ends, view["values"], written))
    spoken = "; ".join(f"{bar.label}: {bar.text}" for bar in bars)
    full = f"{title}, K = {k}"
    return figures.intervals(
        bars,
        f"{title} (%), higher is better",
        f"{full}. {spoken}",
    )


def landmark_table(
    numbers: pd.DataFrame,
    claims: Sequence[Claim],
    evaluated: str,
    compared: Sequence[Subject] = (),
) -> View | None:
    """Return the errors of the landmark regression, ours and under them the published ones.

    Args:
        numbers: of the parts probe on the data set; `settings` holds instances of `PartSetting`.
        claims: the published numbers.
        evaluated: the data set.
        compared: the methods, in the page's order.
    """
    errors = numbers[numbers["metric"] == ERROR]
    if errors.empty:
        return None
    columns = list(dict.fromkeys(setting.on for setting in errors["settings"]))
    rows: dict[tuple[str, int], View] = {}
    for row in records(errors):
        view, setting = row_view(row), row["settings"]
        entry = {"name": view["name"], "role": view["role"], "k": setting.k, "values": {}}
        rows.setdefault((view["name"], setting.k), entry)["values"][setting.on] = view
    constant = numbers[numbers["metric"] == CONSTANT]
    classes = (setting.on for setting in constant["settings"])
    floor = dict(zip(classes, constant["mean"], strict=True))
    papers: dict[tuple[str, int], View] = {}
    for claim in claims:
        if (claim.metric, claim.eval) == (ERROR, evaluated):
            setting = PartSetting.parse(claim.setting, "a published number")
            entry = {"name": claim.name, "k": setting.k, "status": claim.status, "values": {}}
            paper = papers.setdefault((claim.name, setting.k), entry)
            paper["values"][setting.on] = (address(claim), claim.value)
    kept = [paper for paper in papers.values() if any(on in paper["values"] for on in columns)]
    places = {subject.name: i for i, subject in enumerate(compared)}
    foregrounds = {s.name: s.cell.details.foreground for s in compared if s.cell}
    own = [
        row | {"foreground": foregrounds.get(row["name"], "")}
        for row in sorted(rows.values(), key=lambda row: places.get(row["name"], len(places)))
    ]
    return {"columns": columns, "rows": own, "constant": floor, "published": kept}


def strips(compared: Sequence[Subject], data: Data | None) -> list[View]:
    """Return the first test images through every method, one row each, below the true parts.

    Where pixels are labelled, a part has the colour of the label that it matches. Elsewhere the
    first method's parts have colours of their own, and a part of another method has that of the
    part it matches in the pictured images.
    """
    shown = [(subject, subject.pictures) for subject in compared if subject.pictures]
    if not shown:
        return []
    images = shown[0][1].originals[:ACROSS]
    resized = (TILE, TILE)
    originals = [Image.fromarray(i).resize(resized, Image.Resampling.BICUBIC) for i in images]
    rows = [strip("Images", "of the test split", originals)]
    cell = next((s.cell for s, _ in shown if s.cell and s.cell.details.at == "pixels"), None)
    if cell and data and data.parts is not None and data.parts.shape[1:] == images.shape[1:3]:
        counts = cell.table.sum(1)
        numbers = label_colours(counts)
        truth = np.array(data.parts[: len(images)]).astype(np.intp)
        labels = np.where((truth > 0) & (truth <= len(numbers)), truth - 1, BACKGROUND)
        tiles = [part_tile(i, p, RGB[numbers]) for i, p in zip(images, labels, strict=False)]
        rows.append(strip("Truth", "annotated", tiles, legend(counts, cell.names)))
    first_parts: NDArray[np.intp] | None = None
    first_numbers = palette(0)
    for subject, pictures in shown:
        parts, cell = pictures.parts.astype(np.intp), subject.pictured
        k = cell.details.k if cell else _count(parts)
        if cell and cell.details.at == "pixels":
            numbers = palette(k, cell.table, label_colours(cell.table.sum(1)))
        elif first_parts is not None and first_parts.shape == parts.shape:
            n = len(first_numbers)
            overlap = contingency(first_parts, parts, n, k, (first_parts < n) & (parts < k))
            numbers = palette(k, overlap, first_numbers)
        else:
            numbers = palette(k)
        if first_parts is None:
            first_parts, first_numbers = parts, numbers
        pairs = zip(pictures.originals[:ACROSS], parts, strict=False)
        tiles = [part_tile(image, labels, RGB[numbers]) for image, labels in pairs]
        rows.append(strip(subject.name, f"K = {k}, seed {subject.seed}", tiles))
    return rows


def strip(
    title: str, note: str, tiles: Sequence[Image.Image], names: Sequence[tuple[str, str]] = ()
) -> View:
    """Return one row of pictures; `names` are colours and what they stand for."""
    return {"title": title, "note": note, "uri": raster.row(tiles), "legend": names}


def _count(parts: NDArray[np.intp]) -> int:
    inside = parts[parts != BACKGROUND]
    return int(inside.max()) + 1 if inside.size else 1


def confusions(compared: Sequence[Subject]) -> list[tuple[str, int, Markup]]:
    """Return heat maps of the methods' first seeds, each with its name and width in rem.

    A row says to which parts the pixels, or points, of a true label go.
    """
    views: list[tuple[str, int, Markup]] = []
    for subject in compared:
        if subject.cell is None:
            continue
        details, rows = subject.cell.details, np.array(subject.cell.details.table, np.float64)
        # Parts stand in the order of the labels they match.
        partner = matched_iou(subject.cell.table).partner
        matched = partner[partner >= 0]
        rest = np.setdiff1d(np.arange(details.k), matched)
        order = np.concatenate([matched, rest]).astype(np.intp)
        columns = [f"{part + 1}" for part in order]
        if details.background:
            order, columns = np.append(0, order + 1), ["bg", *columns]
        sums = rows.sum(1)
        kept = np.sort(np.argsort(-sums, kind="stable")[:ROWS])
        kept = kept[sums[kept] > 0]
        shares = rows[kept][:, order] / sums[kept, None]
        names = [details.labels[i] for i in kept]
        spoken = "; ".join(
            f"{name} mostly {'background' if columns[j] == 'bg' else f'part {columns[j]}'}"
            for name, j in zip(names, shares.argmax(1), strict=True)
        )
        title = f"Parts of {subject.name} on the true labels: {spoken}"
        chart = figures.heat(shares, names, columns, title)
        views.append((subject.name, 7 + 2 * len(columns), chart))
    return views
