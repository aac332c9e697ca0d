"""The pages' drawings as a PDF, a drawing a page, in the colours of the light scheme."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.patches import Circle, PathPatch, Polygon, Rectangle
from matplotlib.path import Path as Outline

POINTS = 0.75
"""Of a unit of a drawing: a pixel."""
VARIABLE = re.compile(r"--([\w-]+): (#[0-9a-f]{3,6})")
STEP = re.compile(r"([ML])(-?[\d.]+) (-?[\d.]+)")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""Characters that HTML bears, and XML does not."""
ANCHORS = {"start": "left", "middle": "center", "end": "right"}
Element = ElementTree.Element


def write_pdf(drawings: Sequence[str], css: str, out: Path) -> None:
    """Write drawings of `partbench.report.svg.Drawing` to a PDF.

    Args:
        drawings: as they stand in the pages.
        css: the style sheet, which holds their colours; the first of each is the light scheme's.
        out: the file.
    """
    drawn = (CONTROL.sub("", drawing) for drawing in drawings)
    colours = dict(reversed(VARIABLE.findall(css)))
    # Without a date the same drawings make the same file.
    embedded = rc_context({"pdf.fonttype": 42})  # whole letters, as journals ask for
    with embedded, PdfPages(out, metadata={"CreationDate": None}) as pages:
        for drawing in drawn:
            pages.savefig(figure(ElementTree.fromstring(drawing), colours))


def figure(drawing: Element, colours: dict[str, str]) -> Figure:
    """Return a drawing as a figure of its size."""
    width, height = map(float, drawing.attrib["viewBox"].split()[2:])
    drawn = Figure(figsize=(width * POINTS / 72, height * POINTS / 72))
    axes = drawn.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for element in drawing:
        add(axes, element, colours)
    return drawn


def add(axes: Any, element: Element, colours: dict[str, str]) -> None:
    """Draw one element."""
    style = dict(part.split(":", 1) for part in element.attrib["style"].split(";"))
    opacity = float(style.get("opacity") or style.get("fill-opacity") or "1")

    def colour(what: str) -> str:
        found = re.fullmatch(r"var\(--([\w-]+)\)", style.get(what, ""))
        return colours[found[1]] if found else "none"

    at = {
        key: float(element.attrib[key])
        for key in ("x", "y", "cx", "cy", "r")
        if key in element.attrib
    }
    if element.tag == "text":
        axes.text(
            *(at["x"], at["y"], "".join(element.itertext())),
            fontsize=float(style["font-size"].removesuffix("px")) * POINTS,
            color=colour("fill"),
            ha=ANCHORS[style["text-anchor"]],
            va="baseline",
            rotation=90 if "transform" in element.attrib else 0,
            rotation_mode="anchor",
            parse_math=False,
        )
        return
    line: dict[str, Any] = {
        "linewidth": float(style.get("stroke-width", "0")) * POINTS,
        "edgecolor": colour("stroke"),
        "facecolor": colour("fill"),
        "clip_on": False,
    }
    if element.tag == "path":
        steps = STEP.findall(element.attrib["d"])
        codes = [Outline.MOVETO if pen == "M" else Outline.LINETO for pen, _, _ in steps]
        outline = Outline([(float(x), float(y)) for _, x, y in steps], codes)
        dashes = [POINTS * float(d) for d in style.get("stroke-dasharray", "").split()]
        line["linestyle"] = (0, dashes) if dashes else "solid"
        line["alpha"] = float(style.get("stroke-opacity", "1"))
        line["capstyle"] = "projecting" if "stroke-linecap" in style else "butt"
        axes.add_artist(PathPatch(outline, **line))
    elif element.tag == "rect":
        width, height = (float(element.attrib[key]) for key in ("width", "height"))
        axes.add_artist(Rectangle((at["x"], at["y"]), width, height, alpha=opacity, **line))
    elif element.tag == "circle":
        axes.add_artist(Circle((at["cx"], at["cy"]), at["r"], alpha=opacity, **line))
    else:
        pairs = (pair.split(",") for pair in element.attrib["points"].split())
        corners = [(float(x), float(y)) for x, y in pairs]
        axes.add_artist(Polygon(corners, closed=True, alpha=opacity, **line))
