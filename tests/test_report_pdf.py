"""The PDF of the charts: a page each, as large as the drawing, and readable text."""

import re
import zlib
from pathlib import Path

import pytest
from test_figures import bar

from partbench.report import figures
from partbench.report.page import TEMPLATES
from partbench.report.pdf import write_pdf

CSS = (TEMPLATES / "style.css").read_text()
NAMES = ("PatchVAE", "<b>& \x01$x^2$", "Größe ✓")


def drawings() -> list[str]:
    return [str(figures.intervals([bar(label=name), bar()], "error, %", "t")) for name in NAMES]


def test_each_drawing_is_a_page_of_its_size(tmp_path: Path) -> None:
    drawn = drawings()
    write_pdf(drawn, CSS, tmp_path / "charts.pdf")
    pdf = (tmp_path / "charts.pdf").read_bytes()
    assert pdf.count(b"/Type /Page ") == len(NAMES)
    sizes = [float(size) for size in re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) [\d.]+ \]", pdf)]
    boxes = [re.search(r'viewBox="0 0 ([\d.]+)', svg) for svg in drawn]
    assert sizes == pytest.approx([0.75 * float(box[1]) for box in boxes if box], abs=0.01)


def test_the_same_drawings_make_the_same_file(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf"):
        write_pdf(drawings(), CSS, tmp_path / name)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_rows_have_the_colours_of_the_page(tmp_path: Path) -> None:
    """Those of the light scheme, which the style sheet names first."""
    write_pdf(drawings()[:1], CSS, tmp_path / "charts.pdf")
    pdf = (tmp_path / "charts.pdf").read_bytes()
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    drawn = b"".join(zlib.decompress(s) for s in streams if s[:1] == b"\x78")
    hexadecimal = re.search(r"--c2: #([0-9a-f]{6})", CSS)  # of `bar`
    assert hexadecimal
    colour = [int(hexadecimal[1][i : i + 2], 16) / 255 for i in (0, 2, 4)]
    shown = {
        tuple(round(float(v), 3) for v in found)
        for found in re.findall(rb"([\d.]+) ([\d.]+) ([\d.]+) rg", drawn)
    }
    assert tuple(round(v, 3) for v in colour) in shown
