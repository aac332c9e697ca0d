"""Charts as SVG: their axes beside matplotlib's own, and what stands in the drawings."""

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from partbench.report import figures
from partbench.report.figures import Bar, Line
from partbench.report.svg import MARKERS, Axis, Drawing

HOSTILE = "<b>&\"'"


def parse(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup)


def words(markup: str) -> list[str]:
    return ["".join(element.itertext()) for element in parse(markup).iter("text")]


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5),
    scale=st.sampled_from([1e-5, 1e-2, 1.0]),
    bins=st.sampled_from([4, 5]),
)
@settings(max_examples=60)
def test_a_linear_axis_is_that_of_matplotlib(values: list[float], scale: float, bins: int) -> None:
    values = [scale * value for value in values]
    plain = Figure(figsize=(4, 1)).add_axes((0, 0, 1, 1))
    plain.plot(values, np.zeros(len(values)))
    plain.margins(x=0.06)
    plain.xaxis.set_major_locator(MaxNLocator(bins))
    axis = Axis(values, (0, 1), margin=0.06)
    assert axis.limits == pytest.approx(plain.get_xlim(), rel=1e-9, abs=1e-12)
    ticks = axis.ticks(MaxNLocator(bins))
    limits = np.array(plain.get_xlim())
    slack = 1e-9 * np.ptp(limits)
    places = plain.get_xticks()
    inside = (places >= limits[0] - slack) & (places <= limits[1] + slack)
    expected = plain.xaxis.get_major_formatter().format_ticks(places)
    assert ticks.labels == [label for label, shown in zip(expected, inside, strict=True) if shown]
    assert ticks.factor == plain.xaxis.get_major_formatter().get_offset()
    assert ticks.places == pytest.approx((places[inside] - limits[0]) / np.ptp(limits), abs=1e-9)


@given(values=st.lists(st.floats(1e-5, 1e5), min_size=2, max_size=5))
@settings(max_examples=60)
def test_a_logarithmic_axis_is_that_of_matplotlib(values: list[float]) -> None:
    values = [*values, 2 * max(values)]
    plain = Figure(figsize=(4, 1)).add_axes((0, 0, 1, 1))
    plain.plot(values, np.ones(len(values)))
    plain.set_xscale("log")
    axis = Axis(values, (0, 1), log=True)
    assert axis.limits == pytest.approx(plain.get_xlim(), rel=1e-6)
    middle = float(np.sqrt(np.prod(axis.limits)))
    assert axis(middle) == pytest.approx(0.5)
    ticks = axis.ticks(LogLocator(subs=(1, 2, 5), numticks=12), lambda value: f"{value:g}")
    shown = [float(label) for label in ticks.labels]
    low, high = axis.limits
    assert all(low * 0.999 <= value <= high * 1.001 for value in shown)
    assert ticks.places == pytest.approx([axis(value) for value in shown], abs=1e-6)


@pytest.mark.parametrize("values", [[], [float("nan")], [3.0, 3.0], [0.0]])
@pytest.mark.parametrize("log", [False, True])
def test_an_axis_of_one_value_or_none_has_room(values: list[float], log: bool) -> None:
    low, high = Axis(values, (0, 1), log=log).limits
    assert low < high
    assert all(low < value < high for value in values if value > 0)


def test_a_line_breaks_where_a_value_is_missing() -> None:
    drawing = Drawing(10, 10)
    drawing.line([(0, 1), (1, 2.456), (2, float("nan")), (3, 4)], "ink", 1)
    [path] = parse(drawing.markup("t")).iter("path")
    assert path.get("d") == "M0 1L1 2.46M3 4"


@pytest.mark.parametrize("shape", MARKERS)
def test_markers_lie_around_their_place(shape: str) -> None:
    drawing = Drawing(10, 10)
    drawing.marker((20, 30), shape, 8, "c0", outline="paper")
    drawing.marker((20, float("nan")), shape, 8, "c0")
    [_, *shapes] = parse(drawing.markup("t")).iter()
    assert len(shapes) == 1
    if shape == "circle":
        assert [shapes[0].get(key) for key in ("cx", "cy", "r")] == ["20", "30", "4"]
    else:
        corners = np.array(re.findall(r"[-\d.]+", shapes[0].get("points") or ""), float)
        corners = corners.reshape(-1, 2) - [20, 30]
        assert 3.9 < np.abs(corners).max() < 5.7
        assert np.abs(corners.mean(0)).max() < 1.5


def bar(**changes: Any) -> Bar:
    values = {"label": "One", "role": "method", "colour": 2, "mean": 5.0, "low": 4.0, "high": 6.0}
    return Bar(**({**values, "seeds": [4.5, 5.5], "text": "5.0"} | changes))


def test_what_people_name_is_escaped_everywhere() -> None:
    line = Line(HOSTILE, "method", 0, [1.0, 2.0], [1.0, 2.0])
    charts = [
        figures.intervals([bar(label=HOSTILE, text=HOSTILE)], HOSTILE, HOSTILE),
        figures.lines([line], (HOSTILE, HOSTILE), HOSTILE, level=(1.5, HOSTILE)),
        figures.heat(np.ones((1, 1)), [HOSTILE], [HOSTILE], HOSTILE),
    ]
    for chart in charts:
        assert words(chart).count(HOSTILE) >= 2
        assert parse(chart).get("aria-label") == HOSTILE
        assert " id=" not in chart
        assert not re.search("href|url", chart)


def test_a_row_without_a_number_keeps_its_label() -> None:
    nan = float("nan")
    gone = bar(label="Gone", mean=nan, low=nan, high=nan, seeds=[], text="no value")
    floor = bar(label="Floor", role="floor", mean=9.0, low=8.0, high=nan, seeds=[9.0])
    chart = figures.intervals([bar(), gone, floor], "axis", "title")
    assert [word for word in words(chart) if word in ("One", "Gone", "no value", "Floor")] == [
        *("One", "Gone", "no value", "Floor")
    ]
    assert "nan" not in chart
    assert len(list(parse(chart).iter("circle"))) == 3  # the seeds; markers have corners
    alone = figures.intervals([gone], "axis", "title")
    assert "nan" not in alone


def test_a_control_is_carried_across_the_chart() -> None:
    ceiling = bar(role="ceiling", mean=8, low=7, high=9)
    untrained = bar(role="floor", mean=2, low=1, high=3)  # a row of its own, and no more
    rows = [bar(), ceiling._replace(across=True), untrained]
    chart = parse(figures.intervals(rows, "", ""))
    [band] = chart.iter("rect")
    assert "var(--ceiling)" in band.get("style", "")
    across = [p for p in chart.iter("path") if "dasharray:4 3" in p.get("style", "")]
    assert len(across) == 1
    places = re.findall(r"[\d.]+", across[0].get("d") or "")
    left, width = float(band.get("x", "")), float(band.get("width", ""))
    assert float(places[0]) == pytest.approx(left + width / 2, abs=0.02)


def test_a_curve_that_falls_far_is_logarithmic() -> None:
    images = np.arange(10) * 1000.0
    far = pd.Series(np.geomspace(1000, 1, 10), index=images)
    near = pd.Series(np.linspace(30000, 10000, 10), index=images)
    assert {"1", "10", "100", "1000"} <= set(words(figures.curve([far, far], 0, "t")))
    assert "1e4" in words(figures.curve([near], 0, "t"))
    assert {"2.5k", "5k"} <= set(words(figures.curve([near], 0, "t")))
    paths = [p.get("style", "") for p in parse(figures.curve([far, near], 0, "t")).iter("path")]
    assert sum("stroke-width:0.9" in style for style in paths) == 2
    assert sum("stroke-width:2" in style for style in paths) == 1


def test_variants_of_a_method_differ_in_their_dashes() -> None:
    made = [Line(name, "method", 3, [1, 2], [1, 2]) for name in ("one", "other")]
    floors = [Line(name, "floor", 0, [1, 2], [2, 3], [0.1, 0]) for name in ("a", "b")]
    chart = parse(figures.lines([*made, *floors], ("x", "y"), "t"))
    styles = [p.get("style", "") for p in chart.iter("path")]
    own = [style for style in styles if "var(--c3)" in style]
    assert len(set(own)) == 2  # each twice: the line, and in the legend
    assert len(own) == 4
    assert sum("stroke-opacity:0.7" in style for style in styles) == 4
    marks = {m.tag for m in chart.iter() if "var(--floor)" in m.get("style", "")} - {"path"}
    assert marks == {"circle", "polygon"}
