"""Charts as inline SVG that takes the page's font and colours, and pictures as data URIs.

Matplotlib draws with stand-in colours; in the SVG they become CSS variables of the page, so that
one chart serves the light scheme, the dark one and print.
"""

import base64
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from PIL import Image

INK, MUTED, RULE, FLOOR, CEILING, PAPER = (f"#0102{i:02x}" for i in range(6))
VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", FLOOR: "floor", CEILING: "ceiling"} | {
    PAPER: "paper"
}
COLOURS = 8
"""Colours for methods; the style sheet holds them, safe for colour-blind readers."""
MARKERS = "osD^vPXp"
"""One shape per colour, so that colour never stands alone."""
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)))
"""For lines of one colour: the variants of a method, and the controls."""
POINTS = 120
"""A curve's points at most: more cannot be seen, and make the page heavy."""

UNWANTED = (
    r"<metadata>.*?</metadata>",
    r'<style type="text/css">.*?</style>',
    r' xmlns(:\w+)?="[^"]*"',
    r'(?<=<g) id="[^"]*"',
    r"font-family: [^;]*; ",
    r' transform="rotate\(-0 [^"]*"',
)
"""What matplotlib writes that the page has no use for: addresses, fonts, ids of groups."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "partbench",
    "font.family": "sans-serif",
    "font.size": 12,
    "text.parse_math": False,
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "text.color": INK,
}


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
    """Return the stand-in for the page's colour `index`, 0 to COLOURS - 1."""
    return f"#0103{index % COLOURS:02x}"


def intervals(bars: Sequence[Bar], axis: str, title: str, key: str) -> Markup:
    """Draw mean, 95 % interval and seeds of each row, and the controls across all of them.

    Args:
        bars: the rows, top first.
        axis: label of the value axis.
        title: what the chart says, for those who cannot see it.
        key: names this chart in the page; unique.
    """
    with mpl.rc_context(STYLE):
        width, pitch, bottom = 390, 44, 46
        height = pitch * len(bars) + bottom
        fig = Figure(figsize=(width / 72, height / 72), facecolor="none")
        ax = fig.add_axes((0.012, bottom / height, 0.95, 1 - bottom / height))
        for i, bar in enumerate(bars):
            _bar(ax, -float(i), bar)
        ax.set_ylim(-len(bars) + 0.35, 0.72)
        ax.set_yticks([])
        ax.margins(x=0.06)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_xlabel(axis, fontsize=11.5)
        ax.tick_params(axis="x", length=3)
        return _svg(fig, title, key)


def _bar(ax: Axes, y: float, bar: Bar) -> None:
    shade = {"floor": FLOOR, "ceiling": CEILING}.get(bar.role, colour(bar.colour))
    across = ax.get_yaxis_transform()
    ax.axhline(y, color=RULE, linewidth=0.8, zorder=0)
    ax.text(0, y + 0.24, _short(bar.label), transform=across, fontsize=12.5)
    ax.text(1, y + 0.24, bar.text, transform=across, ha="right", fontsize=11.5, color=MUTED)
    if not np.isfinite(bar.mean):
        return
    if bar.role != "method":
        ax.axvspan(bar.low, bar.high, color=shade, alpha=0.13, linewidth=0, zorder=0)
        ax.axvline(bar.mean, color=shade, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    marker = {"floor": "s", "ceiling": "D"}.get(bar.role) or MARKERS[bar.colour % len(MARKERS)]
    ax.plot([bar.low, bar.high], [y, y], color=shade, linewidth=3, solid_capstyle="butt")
    ax.plot(
        bar.seeds, [y - 0.2] * len(bar.seeds), "o", color=shade, markersize=4.4, alpha=0.7, mew=0
    )
    ax.plot(bar.mean, y, marker, color=shade, markersize=8.5, mec=PAPER, mew=1.4, zorder=3)


def curve(seeds: Sequence[pd.Series], index: int, title: str, key: str) -> Markup:
    """Draw one term of a loss against images seen: each seed thin, their mean thick.

    Args:
        seeds: a series of values over images seen for each seed.
        index: the method's colour.
        title: what the chart says, for those who cannot see it.
        key: names this chart in the page; unique.
    """
    table = pd.concat([s[~s.index.duplicated(keep="last")] for s in seeds], axis=1).sort_index()
    table = table.iloc[:: max(1, len(table) // POINTS)]
    values = table.to_numpy(dtype=float)
    finite = values[np.isfinite(values)]
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(270 / 72, 150 / 72), facecolor="none")
        ax = fig.add_axes((0.17, 0.2, 0.8, 0.73))
        ax.plot(table.index, values, color=colour(index), linewidth=0.9, alpha=0.45)
        ax.plot(table.index, table.mean(axis=1), color=colour(index), linewidth=2)
        if len(finite) and finite.min() > 0 and finite.max() > 20 * finite.min():
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())
        else:
            ax.yaxis.set_major_locator(MaxNLocator(4))
            ax.ticklabel_format(axis="y", scilimits=(-3, 4))
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}")
        ax.yaxis.get_offset_text().set_fontsize(10)
        ax.grid(axis="y", color=RULE, linewidth=0.6)
        ax.tick_params(length=0, labelsize=11)
        return _svg(fig, title, key)


def lines(
    lines: Sequence[Line],
    axes: tuple[str, str],
    title: str,
    key: str,
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
        key: names this chart in the page; unique.
        threshold: x of a dashed line across the chart, and its label.
        level: y of such a line.
        within: limits of the y axis; without them the lines decide.
        log: whether the axes are logarithmic.
    """
    columns = 2
    rows = -(-len(lines) // columns)
    width, plot, bottom = 390, 240, 42 + 17 * rows
    height = plot + bottom
    nth: Counter[str] = Counter()
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(width / 72, height / 72), facecolor="none")
        ax = fig.add_axes((0.12, bottom / height, 0.86, 1 - (bottom + 18) / height))
        if log:
            ax.set_xscale("log")
            ax.set_yscale("log")
        for line in lines:
            shade = {"floor": FLOOR, "ceiling": CEILING}.get(line.role, colour(line.colour))
            control = line.role != "method"
            marker = MARKERS[(nth[shade] if control else line.colour) % len(MARKERS)]
            style: Any = DASHES[(nth[shade] + control) % len(DASHES)]
            nth[shade] += 1
            every = 1 if log else max(1, len(line.x) // 12)
            ax.plot(
                *(line.x, line.y, marker),
                color=shade,
                linestyle=style,
                linewidth=1.2 if control else 2,
                markersize=4.5,
                mew=0,
                markevery=every,
                label=_short(line.label, 31),
            )
            if line.sd is not None:
                y, sd = np.array(line.y), np.array(line.sd)
                # On a logarithmic axis a bar that reaches below zero has no end.
                low = np.maximum(y - sd, y / 10) if log else y - sd
                ax.vlines(line.x, low, y + sd, color=shade, linewidth=1.2, alpha=0.7)
        if threshold is not None:
            x, text = threshold
            ax.axvline(x, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            inside = ax.get_xaxis_transform()
            ax.text(x, 1.02, text, transform=inside, ha="center", fontsize=11, color=MUTED)
        if level is not None:
            y0, text = level
            ax.axhline(y0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            right = ax.get_yaxis_transform()
            ax.text(
                *(0.99, y0, text),
                transform=right,
                ha="right",
                va="bottom",
                fontsize=11,
                color=MUTED,
            )
        for axis, subs in ((ax.xaxis, (1,)), (ax.yaxis, (1, 2, 3, 5, 7))):
            if log:
                axis.set_major_locator(LogLocator(subs=subs, numticks=12))
                axis.set_major_formatter(lambda value, _: f"{value:g}")
            else:
                axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        ax.minorticks_off()
        if within is not None:
            ax.set_ylim(*within)
        ax.set_xlabel(axes[0], fontsize=11.5)
        ax.set_ylabel(axes[1], fontsize=11.5)
        ax.grid(axis="y", color=RULE, linewidth=0.6)
        ax.tick_params(length=0, labelsize=11)
        fig.legend(
            loc="lower left",
            bbox_to_anchor=(0, 0),
            ncols=columns,
            frameon=False,
            fontsize=10,
            borderaxespad=0,
            columnspacing=1,
            handlelength=2.6,
        )
        return _svg(fig, title, key)


def heat(
    shares: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str, key: str
) -> Markup:
    """Draw shares as a heat map with the percentages written in.

    Args:
        shares: [R, C], from 0 to 1.
        rows: their names, top first.
        columns: their names.
        title: what the chart says, for those who cannot see it.
        key: names this chart in the page; unique.
    """
    cell, left, top = (30, 17), 104, 20
    width, height = left + cell[0] * len(columns) + 2, top + cell[1] * len(rows) + 2
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(width / 72, height / 72), facecolor="none")
        ax = fig.add_axes(
            (left / width, 2 / height, 1 - (left + 2) / width, 1 - (top + 2) / height)
        )
        for (i, j), share in np.ndenumerate(shares):
            ax.add_patch(
                Rectangle((j, i), 1, 1, facecolor=colour(0), alpha=0.75 * float(share), linewidth=0)
            )
            if share >= 0.005:
                place = (j + 0.5, i + 0.53, f"{100 * share:.0f}")
                ax.text(*place, ha="center", va="center", fontsize=10)
        for i, name in enumerate(rows):
            label = _short(name, 16)
            ax.text(-0.2, i + 0.53, label, ha="right", va="center", fontsize=10.5, color=MUTED)
        for j, name in enumerate(columns):
            ax.text(j + 0.5, -0.3, name, ha="center", va="bottom", fontsize=10.5, color=MUTED)
        ax.set_xlim(0, len(columns))
        ax.set_ylim(len(rows), 0)
        ax.set_xticks([])
        ax.set_yticks([])
        return _svg(fig, title, key)


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


def _short(label: str, most: int = 34) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _svg(fig: Figure, title: str, key: str) -> Markup:
    """Return a figure as SVG for inside the page: no ids shared, no address, no fixed colour."""
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for unwanted in UNWANTED:
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    # A hundredth of a pixel is enough; the digits behind it are a third of the file.
    text = re.sub(r' d="[^"]*"', lambda d: re.sub(r"(\.\d\d)\d+", r"\1", d[0]), text)
    text = re.sub(r"\s*\n\s*", "\n", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{key}.', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{key}.", text)
    for stand_in, variable in VARIABLES.items():
        text = text.replace(stand_in, f"var(--{variable})")
    for i in range(COLOURS):
        text = text.replace(colour(i), f"var(--c{i})")
    size = re.search(r'viewBox="0 0 ([\d.]+)', text)
    assert size is not None
    head = f'<svg viewBox="{text[size.start() + 9 :].split(chr(34))[0]}" role="img"'
    label = f'{head} aria-label="{escape(title)}" style="max-width:{float(size[1]) * 1.25:.0f}px">'
    return Markup(re.sub(r"<svg[^>]*>", lambda _: label, text, count=1))
