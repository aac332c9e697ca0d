"""Charts: intervals, training curves, lines and heat maps, drawn with the page's own colours."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.ticker import LogLocator, MaxNLocator

from partbench.report.svg import MARKERS, Axis, Drawing, Ticks

COLOURS = 8
"""Colours for methods; the style sheet holds them, safe for colour-blind readers."""
SHAPES = tuple(MARKERS)
"""One shape per colour, so that colour never stands alone."""
DASHES = ((), (4, 2), (1, 1.5), (6, 1.5, 1, 1.5))
"""For lines of one colour, in units of their width: variants of a method, and controls."""
CONTROL = (4, 3)
"""Dashes of what carries a control across a chart."""
POINTS = 120
"""A curve's points at most: more cannot be seen, and make the page heavy."""
OUTLYING = 4.0
"""Times the middle half of all means; one that lies farther beyond it is an arrow."""
WIDTH = 390
LETTER = 0.6
"""Mean width of a letter over its size: enough to tell columns of a legend apart."""


class Bar(NamedTuple):
    """One row of an interval chart."""

    label: str
    role: str
    colour: int
    mean: float
    low: float
    high: float
    seeds: Sequence[float]
    text: str
    across: bool = False
    """Whether it is carried across the chart, for all other rows to be held against."""


class Point(NamedTuple):
    """One mark of a scatter plot."""

    label: str
    role: str
    colour: int
    x: float
    y: float


class Line(NamedTuple):
    """One line of a line chart."""

    label: str
    role: str
    colour: int
    x: Sequence[float]
    y: Sequence[float]
    sd: Sequence[float] | None = None
    """Bars around `y`, 0 where there is none."""


def colour(index: int) -> str:
    """Return the style sheet's variable of the colour `index`."""
    return f"c{index % COLOURS}"


def colour_of(role: str, index: int) -> str:
    """Return the variable of a method's colour, or of the role of a control."""
    return role if role in ("floor", "ceiling") else colour(index)


def intervals(bars: Sequence[Bar], axis: str, title: str) -> Markup:
    """Draw mean, 95 % interval and seeds of each row, and some controls across all of them.

    Args:
        bars: the rows, top first.
        axis: label of the value axis.
        title: what the chart says, for those who cannot see it.
    """
    pitch, foot, left, right = 44, 46, 4.68, 375.18
    bottom = pitch * len(bars)
    drawing = Drawing(WIDTH, bottom + foot)
    step = bottom / (len(bars) + 0.37)
    heights = [(i + 0.72) * step for i in range(len(bars))]
    shown = [(bar, y) for bar, y in zip(bars, heights, strict=True) if np.isfinite(bar.mean)]
    near = _near([bar.mean for bar, _ in shown])
    values = [
        v
        for (bar, _), is_near in zip(shown, near, strict=True)
        if is_near
        for v in (bar.mean, bar.low, bar.high, *bar.seeds)
    ]
    x = Axis(values, (left, right), margin=0.06)

    def inside(value: float) -> float:
        return min(max(x(value), left), right)

    for y in heights:
        drawing.line([(left, y), (right, y)], "rule", 0.8, square=True)
    for bar, _ in shown:
        if bar.across:
            shade = colour_of(bar.role, bar.colour)
            if np.isfinite([bar.low, bar.high]).all():
                reach = inside(bar.high) - inside(bar.low)
                drawing.box((inside(bar.low), 0), reach, bottom, shade, 0.13)
            if left <= x(bar.mean) <= right:
                at = x(bar.mean)
                drawing.line([(at, bottom), (at, 0)], shade, 1, dashes=CONTROL)
    ticks = x.ticks(MaxNLocator(5))
    for place, label in zip(ticks.places, ticks.labels, strict=True):
        drawing.line([(place, bottom), (place, bottom + 3)], "rule", 0.8)
        drawing.text((place, bottom + 15.62), label, 12, "muted", "middle")
    drawing.text((right, bottom + 31.24), ticks.factor, 12, "muted", "end")
    drawing.text(((left + right) / 2, bottom + 31.24), axis, 11.5, "muted", "middle")
    drawing.line([(left, bottom), (right, bottom)], "rule", 0.8, square=True)
    for bar, y in shown:
        shade = colour_of(bar.role, bar.colour)
        if not left <= x(bar.mean) <= right:
            _arrow(drawing, (inside(bar.mean), y), shade)
            continue
        drawing.line([(inside(bar.low), y), (inside(bar.high), y)], shade, 3)
        for seed in bar.seeds:
            if left <= x(seed) <= right:
                drawing.marker((x(seed), y + 0.2 * step), "circle", 4.4, shade, opacity=0.7)
        shape = {"floor": "square", "ceiling": "diamond"}.get(bar.role)
        shape = shape or SHAPES[bar.colour % len(SHAPES)]
        drawing.marker((x(bar.mean), y), shape, 8.5, shade, outline="paper")
    for bar, y in zip(bars, heights, strict=True):
        drawing.text((left, y - 0.24 * step), _short(bar.label), 12.5, "ink")
        drawing.text((right, y - 0.24 * step), bar.text, 11.5, "muted", "end")
    return drawing.markup(title)


def _near(means: Sequence[float]) -> list[bool]:
    """Return which means share the axis: a lone one far off would press all others together."""
    if len(means) < 4:
        return [True] * len(means)
    low, middle, high = np.percentile(means, [25, 50, 75])
    reach = OUTLYING * max(high - low, 1e-3 * abs(middle))
    return [bool(low - reach <= mean <= high + reach) for mean in means]


def _arrow(drawing: Drawing, tip: tuple[float, float], shade: str) -> None:
    """Draw an arrow that points out of the chart, to where a value lies."""
    x, y = tip
    inwards = 14 if x < WIDTH / 2 else -14
    drawing.line([(x + inwards, y), (x, y)], shade, 2)
    barb = 0.4 * inwards
    drawing.line([(x + barb, y - 4), (x, y), (x + barb, y + 4)], shade, 2)


def curve(seeds: Sequence[pd.Series], index: int, title: str) -> Markup:
    """Draw one term of a loss against images seen: each seed thin, their mean thick.

    Args:
        seeds: a series of values over images seen for each seed.
        index: the method's colour.
        title: what the chart says, for those who cannot see it.
    """
    table = pd.concat([s[~s.index.duplicated(keep="last")] for s in seeds], axis=1).sort_index()
    table = table.iloc[:: max(1, len(table) // POINTS)]
    values = table.to_numpy(dtype=float)
    finite = values[np.isfinite(values)]
    log = bool(len(finite) and finite.min() > 0 and finite.max() > 20 * finite.min())
    left, right, top, bottom = 45.9, 261.9, 10.5, 120.0
    drawing = Drawing(270, 150)
    images = table.index.to_numpy(float)
    x = Axis(images[np.isfinite(values).any(1)], (left, right))
    y = Axis(finite, (bottom, top), log=log)
    ticks = x.ticks(MaxNLocator(4), lambda n: f"{n / 1000:g}k" if n >= 1000 else f"{n:g}")
    for place, label in zip(ticks.places, ticks.labels, strict=True):
        drawing.text((place, bottom + 11.86), label, 11, "muted", "middle")
    if log:
        ticks = y.ticks(LogLocator(numticks=4), _plain)
    else:
        ticks = y.ticks(MaxNLocator(4), powers=(-3, 4))
    _graduate(drawing, ticks, left, right)
    drawing.text((left, top - 3), ticks.factor, 10, "muted")
    for column in values.T:
        points = [(x(a), y(b)) for a, b in zip(images, column, strict=True)]
        drawing.line(points, colour(index), 0.9, opacity=0.45, square=True)
    means = table.mean(axis=1).to_numpy(float)
    points = [(x(a), y(b)) for a, b in zip(images, means, strict=True)]
    drawing.line(points, colour(index), 2, square=True)
    drawing.line([(left, bottom), (right, bottom)], "rule", 0.8, square=True)
    return drawing.markup(title)


def lines(
    lines: Sequence[Line],
    axes: tuple[str, str],
    title: str,
    *,
    threshold: tuple[float, str] | None = None,
    level: tuple[float, str] | None = None,
    within: tuple[float, float] | None = None,
    log: bool = False,
) -> Markup:
    """Draw one line a method, with the legend below.

    Args:
        lines: the lines.
        axes: labels of the x and y axes.
        title: what the chart says, for those who cannot see it.
        threshold: x of a dashed line across the chart, and its label.
        level: y of such a line.
        within: limits of the y axis; without them the lines decide.
        log: whether the axes are logarithmic.
    """
    columns = 2
    rows = -(-len(lines) // columns)
    left, right, top, bottom = 46.8, 382.2, 18.0, 240.0
    drawing = Drawing(WIDTH, bottom + 42 + 17 * rows)
    bars = [_bars(line, log) for line in lines]
    x_values = [v for line in lines for v in line.x] + ([threshold[0]] if threshold else [])
    y_values = [v for line in lines for v in line.y] + ([level[0]] if level else [])
    y_values += [end for ends in bars for pair in ends for end in pair]
    x = Axis(x_values, (left, right), log=log)
    y = Axis(y_values, (bottom, top), log=log, limits=within)
    if log:
        x_ticks = x.ticks(LogLocator(subs=(1,), numticks=12), _plain)
        y_ticks = y.ticks(LogLocator(subs=(1, 2, 3, 5, 7), numticks=12), _plain)
    else:
        x_ticks, y_ticks = (axis.ticks(MaxNLocator(6, steps=[1, 2, 5, 10])) for axis in (x, y))
    for place, label in zip(x_ticks.places, x_ticks.labels, strict=True):
        drawing.text((place, bottom + 11.86), label, 11, "muted", "middle")
    _graduate(drawing, y_ticks, left, right)
    widest = max((len(label) for label in y_ticks.labels), default=0)
    drawing.text(((left + right) / 2, bottom + 27.24), axes[0], 11.5, "muted", "middle")
    beside = (left - 9.7 - widest * 11 * LETTER, (top + bottom) / 2)
    drawing.text(beside, axes[1], 11.5, "muted", "middle", upwards=True)
    if threshold is not None:
        at, words = x(threshold[0]), threshold[1]
        drawing.line([(at, bottom), (at, top)], "muted", 1, dashes=CONTROL)
        drawing.text((at, top - 4.44), words, 11, "muted", "middle")
    if level is not None:
        at, words = y(level[0]), level[1]
        drawing.line([(left, at), (right, at)], "muted", 1, dashes=CONTROL)
        drawing.text((right - 3.35, at - 2.64), words, 11, "muted", "end")
    names = [_short(line.label, 31) for line in lines]
    across = 46 + max(map(len, names[:rows])) * 10 * LETTER
    nth: Counter[str] = Counter()
    for i, (line, ends) in enumerate(zip(lines, bars, strict=True)):
        shade, control = colour_of(line.role, line.colour), line.role != "method"
        shape = SHAPES[(nth[shade] if control else line.colour) % len(SHAPES)]
        width = 1.2 if control else 2.0
        dashes = [width * d for d in DASHES[(nth[shade] + control) % len(DASHES)]]
        nth[shade] += 1
        points = [(x(a), y(b)) for a, b in zip(line.x, line.y, strict=True)]
        every = 1 if log else max(1, len(points) // 12)
        below = bottom + 51.1 + 15 * (i % rows)
        start = 4 + (i // rows) * across
        handle = [(start + reach, below) for reach in (0, 13, 26)]
        for path, marks in ((points, points[::every]), (handle, handle[1:2])):
            drawing.line(path, shade, width, dashes=dashes, square=not dashes)
            for mark in marks:
                drawing.marker(mark, shape, 4.5, shade)
        for a, (low, high) in zip(line.x, ends, strict=bool(ends)):
            drawing.line([(x(a), y(low)), (x(a), y(high))], shade, 1.2, opacity=0.7)
        drawing.text((start + 34, below + 3.5), names[i], 10, "ink")
    drawing.line([(left, bottom), (right, bottom)], "rule", 0.8, square=True)
    return drawing.markup(title)


def scatter(
    points: Sequence[Point],
    axes: tuple[str, str],
    title: str,
    *,
    front: Sequence[bool] | None = None,
    log: bool = False,
) -> Markup:
    """Draw a mark for each point, those of one label alike, with the legend below.

    Args:
        points: the points.
        axes: labels of the x and y axes.
        title: what the chart says, for those who cannot see it.
        front: which points a line joins, in the order of x.
        log: whether the x axis is logarithmic.
    """
    labels = list(dict.fromkeys(point.label for point in points))
    rows = -(-len(labels) // 2)
    left, right, top, bottom = 46.8, 382.2, 12.0, 240.0
    drawing = Drawing(WIDTH, bottom + 42 + 17 * rows)
    x = Axis([point.x for point in points], (left, right), log=log)
    y = Axis([point.y for point in points], (bottom, top))
    locator = LogLocator(subs=(1,), numticks=12) if log else MaxNLocator(6, steps=[1, 2, 5, 10])
    ticks = x.ticks(locator, _plain if log else None)
    for at, label in zip(ticks.places, ticks.labels, strict=True):
        drawing.line([(at, bottom), (at, bottom + 3)], "rule", 0.8)
        drawing.text((at, bottom + 14.5), label, 11, "muted", "middle")
    ticks = y.ticks(MaxNLocator(6, steps=[1, 2, 5, 10]))
    _graduate(drawing, ticks, left, right)
    widest = max((len(label) for label in ticks.labels), default=0)
    middle = ((left + right) / 2, bottom + 29)
    drawing.text(middle, _short(axes[0], 56), 11.5, "muted", "middle")
    beside = (left - 9.7 - widest * 11 * LETTER, (top + bottom) / 2)
    drawing.text(beside, _short(axes[1], 38), 11.5, "muted", "middle", upwards=True)
    drawing.line([(left, bottom), (right, bottom)], "rule", 0.8, square=True)
    if front is not None:
        joined = sorted((p.x, p.y) for p, on in zip(points, front, strict=True) if on)
        drawing.line([(x(a), y(b)) for a, b in joined], "muted", 1.2, dashes=CONTROL)
    styles = {}
    nth: Counter[str] = Counter()
    for point in points:
        if point.label not in styles:
            shade = colour_of(point.role, point.colour)
            control = point.role != "method"
            start = 0 if control else point.colour
            styles[point.label] = (shade, SHAPES[(start + nth[shade]) % len(SHAPES)])
            nth[shade] += 1
        shade, shape = styles[point.label]
        drawing.marker((x(point.x), y(point.y)), shape, 7, shade, outline="paper", opacity=0.85)
    names = [_short(label, 31) for label in labels]
    across = 30 + max((len(name) for name in names[:rows]), default=0) * 10 * LETTER
    for i, (label, name) in enumerate(zip(labels, names, strict=True)):
        place = (10 + (i // rows) * across, bottom + 53 + 15 * (i % rows))
        shade, shape = styles[label]
        drawing.marker(place, shape, 7, shade)
        drawing.text((place[0] + 12, place[1] + 3.5), name, 10, "ink")
    return drawing.markup(title)


def _bars(line: Line, log: bool) -> list[tuple[float, float]]:
    """Return the two ends of each bar of a line, none where it has no SD."""
    if line.sd is None:
        return []
    pairs = zip(line.y, line.sd, strict=True)
    # On a logarithmic axis a bar that reaches below zero has no end.
    return [(max(y - sd, y / 10) if log else y - sd, y + sd) for y, sd in pairs]


def heat(shares: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str) -> Markup:
    """Draw shares as a heat map with the percentages written in.

    Args:
        shares: [R, C], from 0 to 1.
        rows: their names, top first.
        columns: their names.
        title: what the chart says, for those who cannot see it.
    """
    width, height, left, top = 30, 17, 104, 20
    right, bottom = left + width * len(columns), top + height * len(rows)
    drawing = Drawing(right + 2, bottom + 2)
    for (i, j), share in np.ndenumerate(shares):
        x, y = left + width * j, top + height * i
        if share > 0:
            drawing.box((x, y), width, height, colour(0), 0.75 * float(share))
        if share >= 0.005:
            drawing.text((x + width / 2, y + 11.61), f"{100 * share:.0f}", 10, "ink", "middle")
    for i, name in enumerate(rows):
        label = _short(name, 16)
        drawing.text((left - 6, top + height * i + 11.74), label, 10.5, "muted", "end")
    for j, name in enumerate(columns):
        drawing.text((left + width * (j + 0.5), top - 7.62), name, 10.5, "muted", "middle")
    drawing.line([(left, bottom), (right, bottom)], "rule", 0.8, square=True)
    return drawing.markup(title)


def _graduate(drawing: Drawing, ticks: Ticks, left: float, right: float) -> None:
    """Draw the lines of a y axis across a chart, and their labels to the left of it."""
    for place, label in zip(ticks.places, ticks.labels, strict=True):
        drawing.line([(left, place), (right, place)], "rule", 0.6, square=True)
        drawing.text((left - 3.5, place + 4.18), label, 11, "muted", "end")


def _plain(value: float) -> str:
    return f"{value:g}"


def _short(label: str, most: int = 34) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"
