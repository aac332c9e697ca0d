"""Parts: tables by K, the same images through every method, what parts lie on, landmark errors."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field, PositiveInt, ValidationError

from partbench import published as literature
from partbench.metrics.parts import Counts, contingency, matched_iou
from partbench.report import figures, raster, text
from partbench.report.compare import ordered
from partbench.report.figures import Bar
from partbench.report.panels import View, row_view
from partbench.report.read import Cell, Data, Pictures, Results, found_on, records

COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#56b4e9", "#d55e00", "#7f3c8d"),
    *("#b7e3a1", "#5b3a1e", "#00d5d5", "#ffb6a8", "#3c4fd8", "#8a8f00", "#ff5fb0", "#ffffff"),
)
"""Of parts: Okabe and Ito's first, then others that differ from them in lightness too."""
ACROSS, TILE, GAP = 10, 120, 4
"""Test images in a row, side of one and the gap between two, pixels."""
BACKGROUND = 255
"""In pictures.npz."""
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
CHARTS = (("fg_nmi", "NMI on the foreground"), ("fg_ari", "ARI on the foreground"))
ERROR, CONSTANT = "landmark_error", "constant_landmark_error"
LEGACY = "legacy"


class Details(BaseModel):
    """What the report reads of the parts probe's details."""

    k: PositiveInt = Field(alias="K")
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
    """A method on a data set: its pictures of the first seed that has any, and a cell."""

    name: str
    role: str
    pictures: Pictures | None
    cell: Measured | None
    """Of the seed of the pictures, else the first."""
    pictured: Measured | None
    """The cell, if it is of the seed of the pictures: parts of another seed are others."""


def part_views(results: Results, colours: Mapping[str, int], published: pd.DataFrame) -> list[View]:
    """Return, by training and evaluation data, what the section Parts shows."""
    numbers = results.summary[results.summary["probe"] == "parts"]
    pictures = [p for p in results.pictures if "parts" in p.arrays]
    groups = dict.fromkeys(
        [*((c.train, c.eval) for c in results.parts), *((p.train, p.eval) for p in pictures)]
    )
    data = {one.name: one for one in results.data}
    views = []
    for train, evaluated in groups:
        found = subjects(results, colours, train, evaluated)
        same = numbers[(numbers["train"] == train) & (numbers["eval"] == evaluated)]
        key = text.address("part-maps", train, evaluated)
        view = {
            "id": key,
            "train": train,
            "eval": evaluated,
            "tables": tables(same, found, colours),
            "strips": strips(found, data.get(evaluated)),
            "labelled": any(s.cell is not None and s.cell.details.at == "pixels" for s in found),
            "confusions": confusions(found),
            "landmarks": landmark_table(same, published, evaluated, found),
        }
        if any(view[part] for part in ("tables", "strips", "confusions", "landmarks")):
            views.append(view)
    return views


def subjects(
    results: Results, colours: Mapping[str, int], train: str, evaluated: str
) -> list[Subject]:
    """Return the methods with parts on a data set: trained ones in the page's order first."""
    subjects = []
    for found in found_on(results, results.parts, "parts", train, evaluated, colours):
        cells = {cell.seed: measured for cell in found.cells if (measured := parse(cell))}
        pictured = cells.get(found.pictures.seed) if found.pictures else None
        cell = pictured or next(iter(cells.values()), None)
        if cell or found.pictures:
            name = text.name(found.method, found.variant)
            subjects.append(Subject(name, found.role, found.pictures, cell, pictured))
    return subjects


def parse(cell: Cell) -> Measured | None:
    """Return what a cell holds, None if its file is damaged or from another version."""
    try:
        measured = Measured.model_validate(cell.record)
        fits = measured.table.shape == (len(measured.names), measured.details.k)
    except (ValidationError, ValueError, IndexError):
        return None
    return measured if fits else None


# ---------------------------------------------------------------------------- numbers


def of_k(setting: str) -> int:
    """Return the K that a setting names, 0 if it names none."""
    found = re.search(r"\bK = (\d+)", setting)
    return int(found[1]) if found else 0


def tables(
    numbers: pd.DataFrame, found: Sequence[Subject], colours: Mapping[str, int]
) -> list[View]:
    """Return a table and charts for each K: numbers of different K are never held together."""
    cells = {subject.name: subject.cell for subject in found if subject.cell}
    kept = numbers[~numbers["setting"].str.contains(LEGACY)]
    views = []
    for k, same in kept.groupby(kept["setting"].map(of_k)):
        names = same["method"].combine(same["variant"], text.name)
        rows = []
        for name in dict.fromkeys(
            [*(s.name for s in found), *names]  # the page's order
        ):
            own = same[names == name]
            if own.empty:
                continue
            by_metric = {row["metric"]: row_view(row, float("nan"), {}) for row in records(own)}
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
        oracle = [means.get(f"oracle_{metric}") for metric, _ in COLUMNS]
        groups = [cell.details.groups for cell in cells.values() if cell.details.k == k]
        shown = [any(row["values"][i] for row in rows) for i in range(len(COLUMNS))]
        views.append(
            {
                "k": k,
                "columns": [
                    title for (_, title), there in zip(COLUMNS, shown, strict=True) if there
                ],
                "rows": [
                    row
                    | {
                        "values": [
                            v for v, there in zip(row["values"], shown, strict=True) if there
                        ]
                    }
                    for row in rows
                ],
                "oracle": [value for value, there in zip(oracle, shown, strict=True) if there],
                "on": measured_on(same, found),
                "groups": groups[0] if groups else [],
                "charts": [
                    (title, chart)
                    for metric, title in CHARTS
                    if (chart := interval_chart(same, metric, title, int(k), colours))
                ],
            }
        )
    return views


def measured_on(numbers: pd.DataFrame, found: Sequence[Subject]) -> str:
    """Return in words what the foreground's numbers were measured on."""
    first = numbers[numbers["metric"] == CHARTS[0][0]]
    if first.empty:
        return ""
    at = next((s.cell.details.at for s in found if s.cell), "pixels")
    what = "all pixels" if at == "pixels" else "the visible landmarks"
    _, _, made = first["setting"].iloc[0].partition(", ")
    most = first["n"].max()
    images = f"{what} of {f'{most:.0f} ' if most > 0 else 'the '}test images"
    return f"{images}, {made}" if made else images


def interval_chart(
    numbers: pd.DataFrame, metric: str, title: str, k: int, colours: Mapping[str, int]
) -> Markup | None:
    """Draw a metric of all methods at one K, and above them the oracle's."""
    group = ordered(numbers[numbers["metric"] == metric])
    if group.empty:
        return None
    bars = []
    ceiling = numbers[numbers["metric"] == f"oracle_{metric}"]
    if len(ceiling):
        oracle = ceiling.iloc[0]
        said = text.number(oracle["mean"], "%")
        ends = (oracle["mean"], oracle["low"], oracle["high"])
        bars.append(Bar(f"Oracle, K = {k}", "ceiling", 0, *ends, [], said))
    order = {"ceiling": 0, "method": 1, "floor": 2}
    for row in sorted(records(group), key=lambda row: order.get(str(row["role"]), 1)):
        view = row_view(row, float("nan"), {})
        said = f"{text.number(view['mean'], '%')}   [{view['interval']}]"
        ends = (view["mean"], view["low"], view["high"])
        colour = colours.get(view["method"], 0)
        bars.append(Bar(view["name"], view["role"], colour, *ends, view["values"], said))
    spoken = "; ".join(f"{bar.label}: {bar.text}" for bar in bars)
    full = f"{title}, K = {k}"
    return figures.intervals(
        bars,
        f"{title} (%), higher is better",
        f"{full}. {spoken}",
    )


def landmark_table(
    numbers: pd.DataFrame,
    published: pd.DataFrame,
    evaluated: str,
    found: Sequence[Subject] = (),
) -> View | None:
    """Return the errors of the landmark regression, ours and under them the published ones.

    Args:
        numbers: of the parts probe on the data set.
        published: the rows of the papers.
        evaluated: the data set.
        found: the methods, in the page's order.
    """
    errors = numbers[numbers["metric"] == ERROR]
    if errors.empty:
        return None
    theirs = published[
        (published["metric"] == ERROR) & (published["dataset"] == literature.version_of(evaluated))
    ]
    names = list(dict.fromkeys(errors["setting"].str.partition(",")[0]))
    rows: dict[tuple[str, int], View] = {}
    for row in records(errors):
        view = row_view(row, float("nan"), {})
        k = of_k(view["setting"])
        entry = rows.setdefault(
            (view["name"], k), {"name": view["name"], "role": view["role"], "k": k, "values": {}}
        )
        entry["values"][view["setting"].partition(",")[0]] = view
    constant = numbers[numbers["metric"] == CONSTANT]
    floor = dict(zip(constant["setting"].str.partition(",")[0], constant["mean"], strict=True))
    papers: dict[tuple[str, int], View] = {}
    for row in records(theirs):
        name, k = text.name(str(row["method"]), str(row["variant"])), int(str(row["k"] or 0))
        entry = papers.setdefault(
            (name, k), {"name": name, "k": k, "status": row["status"], "values": {}}
        )
        address = text.address("published", *(row[c] for c in literature.KEY))
        entry["values"][str(row["setting"]).partition(",")[0]] = (address, row["value"])
    kept = [paper for paper in papers.values() if any(name in paper["values"] for name in names)]
    places = {subject.name: i for i, subject in enumerate(found)}
    known = {s.name: s.cell.details.foreground for s in found if s.cell}
    own = [
        row | {"foreground": known.get(row["name"], "")}
        for row in sorted(rows.values(), key=lambda row: places.get(row["name"], len(places)))
    ]
    return {"columns": names, "rows": own, "constant": floor, "published": kept}


# ---------------------------------------------------------------------------- pictures


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


def label_colours(cell: Measured) -> NDArray[np.intp]:
    """Return the number of each true label's colour, [T]; of many, all rare ones share the last."""
    counts = cell.table.sum(1)
    if len(counts) <= len(COLOURS):
        return np.arange(len(counts))
    ranks = np.empty(len(counts), np.intp)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return np.minimum(ranks, len(COLOURS) - 1)


def legend(cell: Measured) -> list[tuple[str, str]]:
    """Return the colours and names of the true labels that occur, those that share one together."""
    colour_of, occurring = label_colours(cell), cell.table.sum(1) > 0
    shared = len(colour_of) > len(COLOURS)
    alone = [
        (COLOURS[colour], name)
        for colour, name, there in zip(colour_of, cell.names, occurring, strict=True)
        if there and not (shared and colour == len(COLOURS) - 1)
    ]
    others = shared and bool(occurring[colour_of == len(COLOURS) - 1].any())
    return [*alone, (COLOURS[-1], "all others")] if others else alone


def _rgb() -> NDArray[np.uint8]:
    return np.array([list(bytes.fromhex(colour[1:])) for colour in COLOURS], np.uint8)


def tinted(
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


def row_of(tiles: Sequence[Image.Image]) -> Markup:
    """Return tiles in a row with transparent gaps, as a data URI."""
    row = Image.new("RGBA", (len(tiles) * (TILE + GAP) - GAP, TILE))
    for i, tile in enumerate(tiles):
        row.paste(tile, (i * (TILE + GAP), 0))
    return raster.uri(row, quality=85, effort=4)


def strips(found: Sequence[Subject], data: Data | None) -> list[View]:
    """Return the first test images through every method, one row each, below the true parts.

    Where pixels are labelled, a part has the colour of the label that it matches. Elsewhere the
    first method's parts have colours of their own, and a part of another method has that of the
    part it matches in the pictured images.
    """
    shown = [s for s in found if s.pictures is not None and _pictured(s.pictures)]
    if not shown:
        return []
    first = shown[0].pictures
    assert first is not None
    images = first.arrays["originals"][:ACROSS]
    resized = (TILE, TILE)
    originals = [Image.fromarray(i).resize(resized, Image.Resampling.BICUBIC) for i in images]
    rows: list[View] = [
        {"title": "Images", "note": "of the test split", "uri": row_of(originals), "legend": []}
    ]
    cell = next((s.cell for s in shown if s.cell and s.cell.details.at == "pixels"), None)
    if cell and data and data.parts is not None and data.parts.shape[1:] == images.shape[1:3]:
        colours = _rgb()[label_colours(cell)]
        truth = np.array(data.parts[: len(images)]).astype(np.intp)
        labels = np.where((truth > 0) & (truth <= len(colours)), truth - 1, BACKGROUND)
        tiles = [tinted(i, p, colours) for i, p in zip(images, labels, strict=False)]
        names = legend(cell)
        rows.append({"title": "Truth", "note": "annotated", "uri": row_of(tiles), "legend": names})
    first_parts: NDArray[np.intp] | None = None
    first_numbers = palette(0)
    for subject in shown:
        pictures, cell = subject.pictures, subject.pictured
        assert pictures is not None
        parts = pictures.arrays["parts"].astype(np.intp)
        k = cell.details.k if cell else _count(parts)
        if cell and cell.details.at == "pixels":
            numbers = palette(k, cell.table, label_colours(cell))
        elif first_parts is not None and first_parts.shape == parts.shape:
            n = len(first_numbers)
            overlap = contingency(first_parts, parts, n, k, (first_parts < n) & (parts < k))
            numbers = palette(k, overlap, first_numbers)
        else:
            numbers = palette(k)
        if first_parts is None:
            first_parts, first_numbers = parts, numbers
        own = pictures.arrays["originals"][:ACROSS]
        tiles = [tinted(i, p, _rgb()[numbers]) for i, p in zip(own, parts, strict=False)]
        rows.append(
            {
                "title": subject.name,
                "note": f"K = {k}, seed {pictures.seed}",
                "uri": row_of(tiles),
                "legend": [],
            }
        )
    return rows


def _count(parts: NDArray[np.intp]) -> int:
    inside = parts[parts != BACKGROUND]
    return int(inside.max()) + 1 if inside.size else 1


def _pictured(pictures: Pictures) -> bool:
    """Whether a run's pictures are what `strips` draws."""
    images, parts = pictures.arrays["originals"], pictures.arrays["parts"]
    return bool(
        images.dtype == parts.dtype == np.uint8
        and images.ndim == 4
        and images.shape[3] == 3
        and parts.shape == images.shape[:3]
        and len(images)
    )


def confusions(found: Sequence[Subject]) -> list[tuple[str, int, Markup]]:
    """Return heat maps of the methods' first seeds, each with its name and width in rem.

    A row says to which parts the pixels, or points, of a true label go.
    """
    views: list[tuple[str, int, Markup]] = []
    for subject in found:
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
