"""Drawings as inline SVG that take the page's font and colours.

Colours are the page's CSS variables, so that one drawing serves the light scheme, the dark one and
print. Drawings have no ids and no addresses: none can clash with another in the page.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import Locator, ScalarFormatter

Point = tuple[float, float]
ROUNDING = 1e-9
"""Share of an axis by which a tick may lie beyond its ends."""

_TURNS = np.arange(5) * 2 * math.pi / 5
_PLUS = ((-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1))
_CROSS = ((-1, -2), (0, -1), (1, -2), (2, -1), (1, 0), (2, 1), (1, 2), (0, 1), (-1, 2), (-2, 1))
MARKERS: dict[str, Sequence[Point]] = {
    "circle": (),
    "square": ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)),
    "diamond": ((0, -(0.5**0.5)), (0.5**0.5, 0), (0, 0.5**0.5), (-(0.5**0.5), 0)),
    "up": ((0, -0.5), (0.5, 0.5), (-0.5, 0.5)),
    "down": ((0, 0.5), (0.5, -0.5), (-0.5, -0.5)),
    "plus": tuple((x / 6, y / 6) for x, y in (*_PLUS, (-3, -1), (-1, -1))),
    "cross": tuple((x / 4, y / 4) for x, y in (*_CROSS, (-1, 0), (-2, -1))),
    "pentagon": tuple((math.sin(t) / 2, -math.cos(t) / 2) for t in _TURNS.tolist()),
}
"""Corners of shapes of size 1; those of a circle are none."""


class Drawing:
    """Lines, shapes and words on a canvas whose origin is at the top left; lengths in units."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._elements: list[str] = []

    def line(
        self,
        points: Iterable[Point],
        colour: str,
        width: float,
        *,
        dashes: Sequence[float] = (),
        opacity: float = 1.0,
        square: bool = False,
    ) -> None:
        """Draw a line through points; where one is not finite, it breaks.

        Args:
            points: (x, y) each.
            colour: a variable of the style sheet.
            width: of the line.
            dashes: lengths of dashes and gaps.
            opacity: from 0 to 1.
            square: whether its ends reach out by half its width.
        """
        path, pen = [], "M"
        for x, y in points:
            if math.isfinite(x) and math.isfinite(y):
                path.append(f"{pen}{_written(x)} {_written(y)}")
                pen = "L"
            else:
                pen = "M"
        if path:
            style = f"fill:none;stroke:var(--{colour});stroke-width:{width:g}"
            style += f";stroke-dasharray:{' '.join(f'{d:g}' for d in dashes)}" if dashes else ""
            style += f";stroke-opacity:{opacity:g}" if opacity < 1 else ""
            style += ";stroke-linecap:square" if square else ""
            self._elements.append(f'<path d="{"".join(path)}" style="{style}"/>')

    def box(self, corner: Point, width: float, height: float, colour: str, opacity: float) -> None:
        """Fill a rectangle, its top left corner given."""
        place = f'x="{_written(corner[0])}" y="{_written(corner[1])}"'
        size = f'width="{_written(width)}" height="{_written(height)}"'
        style = f"fill:var(--{colour});opacity:{opacity:.3g}"
        self._elements.append(f'<rect {place} {size} style="{style}"/>')

    def marker(
        self,
        place: Point,
        shape: str,
        size: float,
        colour: str,
        *,
        outline: str = "",
        opacity: float = 1.0,
    ) -> None:
        """Draw one of `MARKERS` around a place; with an outline in another variable's colour."""
        if not all(math.isfinite(value) for value in place):
            return
        x, y = place
        style = f"fill:var(--{colour})" + (f";fill-opacity:{opacity:g}" if opacity < 1 else "")
        style += f";stroke:var(--{outline});stroke-width:1.4" if outline else ""
        if shape == "circle":
            where = f'cx="{_written(x)}" cy="{_written(y)}" r="{size / 2:g}"'
            self._elements.append(f'<circle {where} style="{style}"/>')
            return
        corners = ((x + size * u, y + size * v) for u, v in MARKERS[shape])
        points = " ".join(f"{_written(u)},{_written(v)}" for u, v in corners)
        self._elements.append(f'<polygon points="{points}" style="{style}"/>')

    def text(
        self,
        place: Point,
        words: str,
        size: float,
        colour: str,
        anchor: str = "start",
        *,
        upwards: bool = False,
    ) -> None:
        """Write words, their baseline at a place; `anchor` is start, middle or end."""
        if not words:
            return
        x, y = (_written(value) for value in place)
        turned = f' transform="rotate(-90 {x} {y})"' if upwards else ""
        style = f"font-size:{size:g}px;text-anchor:{anchor};fill:var(--{colour})"
        element = f'<text x="{x}" y="{y}" style="{style}"{turned}>{escape(words)}</text>'
        self._elements.append(element)

    def markup(self, title: str) -> Markup:
        """Return the drawing; `title` says the same, for those who cannot see it."""
        head = f'viewBox="0 0 {self.width:g} {self.height:g}" role="img"'
        label = f'aria-label="{escape(title)}" style="max-width:{1.25 * self.width:.0f}px"'
        # Nothing is in it but numbers, names of variables and what is escaped above.
        return Markup("<svg {} {}>\n{}\n</svg>\n").format(
            Markup(head), Markup(label), Markup("\n".join(self._elements))
        )


class Ticks(NamedTuple):
    """Places on an axis with their labels."""

    places: list[float]
    """In the drawing."""
    labels: list[str]
    factor: str
    """By which all labels are to be multiplied, and what is to be added, if anything."""


class Axis:
    """Where values lie on a drawing, along one of its sides."""

    def __init__(
        self,
        values: Iterable[float],
        ends: tuple[float, float],
        *,
        margin: float = 0.05,
        log: bool = False,
        limits: tuple[float, float] | None = None,
    ) -> None:
        """Choose the limits.

        Args:
            values: what must be seen; what is not finite, or on a logarithmic axis not above
                zero, does not count.
            ends: places of the lower and the upper limit in the drawing.
            margin: around the values, as a share of what they span.
            log: whether the axis is logarithmic.
            limits: instead of those that follow from the values.
        """
        self.ends, self.log = ends, log
        seen = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
        low, high = (min(seen), max(seen)) if seen else (0.1, 1.0)
        if not log:
            low, high = Locator().nonsingular(low, high)
        elif low == high:
            low, high = low / 10, high * 10
        self.limits = limits or self._with_margin(low, high, margin)

    def _with_margin(self, low: float, high: float, margin: float) -> tuple[float, float]:
        low, high = self._scaled(low), self._scaled(high)
        space = margin * (high - low)
        ends = low - space, high + space
        return (10 ** ends[0], 10 ** ends[1]) if self.log else ends

    def _scaled(self, value: float) -> float:
        if not self.log:
            return value
        return math.log10(value) if value > 0 else float("nan")

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        return self.ends[0] + self._share(value) * (self.ends[1] - self.ends[0])

    def _share(self, value: float) -> float:
        """Return how far up the axis a value lies, from 0 to 1."""
        low, high, at = (self._scaled(v) for v in (*self.limits, float(value)))
        return (at - low) / (high - low)

    def ticks(
        self,
        locator: Locator,
        written: Callable[[float], str] | None = None,
        powers: tuple[int, int] = (-5, 6),
    ) -> Ticks:
        """Return the ticks within the limits.

        Args:
            locator: which chooses them.
            written: value -> its label; without it all labels have the same number of decimals.
            powers: of ten; outside of them `factor` is a power of ten, where `written` is None.
        """
        values = np.asarray(locator.tick_values(*self.limits), float).tolist()
        inside = [v for v in values if -ROUNDING <= self._share(v) <= 1 + ROUNDING]
        places = [self(v) for v in inside]
        if written is not None:
            return Ticks(places, [written(v) for v in inside], "")
        formatter: Any = ScalarFormatter()
        formatter.set_powerlimits(powers)
        formatter.create_dummy_axis()
        formatter.axis.set_view_interval(*self.limits)
        formatter.set_locs(values)
        return Ticks(places, [formatter(v) for v in inside], formatter.get_offset())


def _written(value: float) -> str:
    """Return a length with two decimals: a hundredth of a pixel is enough."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
