"""The report's pages as files: links, sizes, states, and what a browser makes of them."""

import html
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
from browser import CHROMIUM, Browser, browser
from fake_grid import KILLED
from fake_grid import make as make_grid
from fake_results import HOSTILE, SCRIPT, make

from partbench import published
from partbench.references import library
from partbench.report.page import FIGURES, GENERATOR, write
from partbench.report.references import PAPERS

WIDTHS = (390, 1024, 1440)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


class Links(HTMLParser):
    """The places and the addresses of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            elif key in ("href", "src", "action", "srcset", "poster"):
                self.addresses.append(value or "")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report's folder, `report/`, beside its results, `fake/`."""
    root = tmp_path_factory.mktemp("small")
    write(make(root / "fake", comparable=True), root / "report/index.html", published.load())
    return root / "report"


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 1,050 cells in all states."""
    root = tmp_path_factory.mktemp("grid")
    results = make_grid(root / "grid", methods=16, data=3, seeds=5)
    write(results, root / "report/index.html", published.load())
    return root / "report"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def pages_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.html"))


def words(page: str) -> str:
    page = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


@pytest.mark.parametrize("name", ["small", "grid"])
def test_every_link_leads_somewhere(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    pages = {path.name: Links(path.read_text()) for path in pages_of(folder)}
    assert {"index.html", "numbers.html", "papers.html", "cost.html", "failures.html"} <= set(pages)
    results = next(path for path in folder.parent.iterdir() if path.name != "report")
    ids = [place for page in pages.values() for place in page.ids if place != "content"]
    assert len(ids) == len(set(ids))
    made = {"summary.csv", "summary.json", "summary.schema.json", "metrics.csv", "comparisons.csv"}
    assert all("#content" in page.addresses for page in pages.values())
    charts = (folder / FIGURES).read_bytes().count(b"/Type /Page ")
    linked = set()
    for own, page in pages.items():
        for address in page.addresses:
            file, _, place = address.partition("#")
            if address.startswith("data:"):
                continue
            if file == FIGURES:
                linked.add(place)
                continue
            if file.startswith("../"):
                assert (folder / unquote(file)).resolve().is_relative_to(results)
                known = (folder / unquote(file)).exists() or Path(file).name in made
                # The small results have no cells' files, and neither has samples or logs.
                assert known or name == "small" or file.endswith((".parquet", ".log")), file
            else:
                assert (file or own) in pages
                assert not place or place in pages[file or own].ids
    assert charts > 3
    assert linked - {""} == {f"page={number}" for number in range(1, charts + 1)}


def test_pages_are_small(grid: Path) -> None:
    assert (grid / "index.html").stat().st_size < 300_000
    assert all(path.stat().st_size < 3_000_000 for path in grid.iterdir())


def test_hostile_text_is_escaped_everywhere(small: Path, grid: Path) -> None:
    for path in (*pages_of(small), *pages_of(grid)):
        page = path.read_text()
        assert SCRIPT not in page
        assert HOSTILE not in page
        assert page.count("<script>") == 1


def test_a_later_report_removes_stale_pages_and_nothing_else(tmp_path: Path) -> None:
    results, out = make(tmp_path / "fake", seeds=1), tmp_path / "report/index.html"
    write(results, out, published.load())
    (out.parent / "demo").mkdir()
    (out.parent / "demo/index.html").write_text(GENERATOR)
    (out.parent / "mine.html").write_text("mine")
    assert (out.parent / "method-bigan.html").exists()
    for table in ("metrics", "summary", "comparisons"):
        rows = pd.read_parquet(results / f"{table}.parquet")
        rows[rows["method"] != "bigan"].to_parquet(results / f"{table}.parquet")
    for path in (results / "runs/bigan").rglob("*.json*"):
        path.unlink()
    for folder in sorted((results / "runs/bigan").rglob("*"), reverse=True):
        folder.rmdir()
    write(results, out, published.load())
    assert not (out.parent / "method-bigan.html").exists()
    assert (out.parent / "mine.html").read_text() == "mine"
    assert (out.parent / "demo/index.html").exists()


def test_one_file_has_what_the_pages_have(small: Path, tmp_path: Path) -> None:
    results = small.parent / "fake"
    write(results, tmp_path / "all.html", published.load(), single=True)
    assert [path.name for path in tmp_path.iterdir()] == ["all.html"]
    one = (tmp_path / "all.html").read_text()
    found = Links(one)
    assert len(found.ids) == len(set(found.ids))
    for path in pages_of(small):
        assert set(Links(path.read_text()).ids) <= set(found.ids)
    inside = [a for a in found.addresses if a.startswith("#")]
    assert inside
    assert {a[1:] for a in inside} <= set(found.ids)


def test_a_failed_method_stays_in_chart_table_and_grid(grid: Path) -> None:
    index = (grid / "index.html").read_text()
    task = (grid / "task-linear-data0.html").read_text()
    for name in ("method_4", "method_5", "method_7"):
        row = re.search(rf'<tr><th scope="row"><a [^>]*>{name}</a>.*?</tr>', index, re.DOTALL)
        assert row
        assert (
            len(re.findall(r'href="failures.html#failure-[^"]+">(failed|missing)<', row[0])) == 15
        )
        chart = re.search(r"<svg.*?</svg>", task, re.DOTALL)
        assert chart
        assert f">{name}</text>" in chart[0]
        assert re.search(rf'<tr><th scope="row">{name}</th>.*?failures.html#failure', task)
    assert "1 failed" in words(index)  # of method 11, which has numbers too
    assert "cells failed" in words(index)


def test_a_traceback_of_several_seeds_is_shown_once(grid: Path) -> None:
    page = (grid / "failures.html").read_text()
    shown = re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    assert sum("loss is NaN after" in text for text in shown) == 1  # of methods 4 and 11
    assert sum("step 90, loss" in text for text in shown) == 1
    first = re.search(r'<section class="hole".*?</section>', page, re.DOTALL)
    assert first
    assert "method_4 on data0, seeds 0, 1, 2, 3, 4: linear on data0" in words(first[0])
    assert first[0].count("<pre") == 1


def test_every_failure_names_its_log_and_how_it_ended(grid: Path) -> None:
    page = (grid / "failures.html").read_text()
    holes = re.findall(r'<section class="hole".*?</section>', page, re.DOTALL)
    failed = [hole for hole in holes if 'class="chip failed"' in hole]
    assert len(failed) == 2
    for hole in failed:
        [*logs] = re.findall(r'href="(\.\./grid/logs/train/[^"]+\.log)"', hole)
        assert logs
        assert all((grid / unquote(log)).exists() for log in logs)
    killed = [hole for hole in holes if "step 90" in hole]
    assert [KILLED in words(hole) for hole in killed] == [True]


def test_every_run_shows_the_way_to_its_numbers(grid: Path) -> None:
    page = (grid / "method-method_3.html").read_text()
    runs = re.findall(r'<details class="run".*?</details>', page, re.DOTALL)
    assert len(runs) == 15
    for run in runs:
        said = words(run)
        for what in ("partbench train --note", "c0ffee", "Made-up", "torch 2.9.0", '"epochs": 9'):
            assert what in said
        for probe in ("linear", "landmarks", "parts", "reconstruction", "generation"):
            assert f"partbench probe {probe}" in said
        assert "data 0f0f0f0f0f0f" in said
        assert run.count('.json">numbers<') == 5
        assert run.count('.parquet">samples<') == 5
        assert run.count('.log">log<') == 5


def test_every_method_has_its_work(small: Path) -> None:
    assert {claim.paper for claim in published.load()} == set(PAPERS)
    assert set(PAPERS.values()) < set(library())
    page = words((small / "method-vae.html").read_text())
    assert "Auto-Encoding Variational Bayes Kingma and Welling" in page
    assert "@inproceedings{kingma2014vae," in page
    assert "No publication" in words((small / "method-raw_pixels.html").read_text())


def test_the_run_is_cited_by_configuration_commit_and_data(small: Path, grid: Path) -> None:
    page = (grid / "numbers.html").read_text()
    said = re.search(r'<blockquote id="cite">(.*?)</blockquote>', page, re.DOTALL)
    assert said
    data = ", ".join(f"data{i} (checksum 0f0f0f0f0f0f)" for i in range(3))
    assert said[1] == (
        f"Measured with partbench, configuration grid, commit c0ffeec0ff, on {data}."
    )
    assert 'id="cite"' in (small / "numbers.html").read_text()


def test_papers_of_which_nothing_ran_take_one_line(small: Path) -> None:
    page = (small / "papers.html").read_text()
    folded = re.findall(
        r'<details class="paper" id="paper-(\w+)"><summary>(.*?)</summary>', page, re.S
    )
    assert {name for name, _ in folded} == set(PAPERS) - {"patchvae"}
    assert (
        "Unsupervised Part Discovery from Contrastive Reconstruction" in dict(folded)["unsup_parts"]
    )
    assert "(NeurIPS), 2021" in dict(folded)["unsup_parts"]


@needs_chromium
@pytest.mark.parametrize("name", ["small", "grid"])
def test_pages_in_a_browser(name: str, tab: Browser, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    kinds: dict[str, Path] = {}
    for path in pages_of(folder):
        kinds.setdefault(re.sub(r"^(task-\w+?|method|pictures)-.*", r"\1", path.stem), path)
    assert len(kinds) > 10
    for path in kinds.values():
        for width in WIDTHS:
            tab.open(path, width=width)
            assert tab.complaints() == [], path.name
            assert tab.requests() == [path.as_uri()]
            assert tab.run("document.documentElement.scrollWidth") <= width, (path.name, width)
            cut = tab.run(
                "[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect()"
                ".right > innerWidth + 1 && !e.closest('.scroll, svg, pre')).length"
            )
            assert cut == 0, (path.name, width)
            assert tab.run("document.querySelector('nav').getBoundingClientRect().height") > 20
            assert tab.run("[...document.images].every((i) => i.naturalWidth || !i.complete)")


SHOWN = "[...document.querySelectorAll('table.all tbody tr')].filter((r) => !r.hidden)"
MEANS = f"{SHOWN}.map((r) => parseFloat(r.cells[8].dataset.value))"


def type_filter(tab: Browser, wanted: str) -> None:
    tab.run(
        "(() => { const f = document.querySelector('.tools input[type=search]');"
        f"f.value = {json.dumps(wanted)}; f.dispatchEvent(new Event('input')); }})()"
    )


@needs_chromium
def test_numbers_are_sorted_filtered_and_kept_in_the_address(small: Path, tab: Browser) -> None:
    page = small / "numbers.html"
    tab.open(page)
    rows = tab.run(f"{SHOWN}.length")
    assert rows > 100
    type_filter(tab, "PatchVAE linear accuracy")
    assert tab.run(f"{SHOWN}.length") == 2
    assert tab.run("document.querySelector('.tools .count').textContent") == f"2 of {rows}"
    type_filter(tab, "toy linear accuracy")
    head = "document.querySelectorAll('table.all th')[8].firstChild.click()"
    tab.run(head)
    up = tab.run(MEANS)
    assert up == sorted(up)
    tab.run(head)
    assert tab.run(MEANS) == up[::-1]
    tab.run("document.querySelectorAll('.columns input')[1].click()")
    place = tab.run("location.search + location.hash")
    assert place == "?rows=toy+linear+accuracy&sort=-8&hide=2"
    tab.open(page, place)
    assert tab.run(MEANS) == up[::-1]
    assert (
        tab.run("getComputedStyle(document.querySelectorAll('table.all th')[2]).display") == "none"
    )
    address = tab.run(f"{SHOWN}[1].id")
    tab.open(page, f"#{address}")
    assert tab.run("document.querySelector('tr:target').id") == address


@needs_chromium
def test_rows_are_copied_as_tables_and_citations(small: Path, tab: Browser) -> None:
    tab.open(small / "numbers.html")
    type_filter(tab, "toy linear accuracy")

    def copied(what: str) -> str:
        tab.run(f"document.querySelector('[data-copy={what}]').click()")
        tab.run("new Promise((done) => setTimeout(done, 50))")
        return str(tab.run("document.querySelector('.copied').dataset.text"))

    head, *rows = copied("csv").split("\r\n")
    assert head.startswith("Method,Variant,Role")
    assert len(rows) == 9
    assert f"{HOSTILE},paper,method" in "\n".join(rows)
    table = copied("latex")
    assert table.splitlines()[1:5] == [
        r"\begin{tabular}{llllllllrrrlrr}",
        r"\toprule",
        head.replace(",", " & ").replace("_", r"\_") + r" \\",
        r"\midrule",
    ]
    assert r"\textless{}img src=x onerror=alert(1)\textgreater{}" in table
    assert r"\%" in table
    body = table.split("\\midrule\n")[1].split("\\bottomrule")[0].strip().splitlines()
    assert len(body) == 9
    assert {line.count("&") for line in body} == {13}
    assert not re.search(r"(?<!\\)[%_#$]", "".join(body))
    cited = copied("bibtex")
    assert "@inproceedings{gupta2020patchvae," in cited
    assert "@inproceedings{hung2019scops," not in cited


@needs_chromium
def test_links_into_folded_places_unfold_them(small: Path, tab: Browser) -> None:
    page = (small / "method-vae.html").read_text()
    place = re.search(r'<details class="run" id="([^"]+)"', page)
    assert place
    tab.open(small / "method-vae.html", f"#{place[1]}")
    assert tab.run(f"document.getElementById({json.dumps(place[1])}).open")


@needs_chromium
@pytest.mark.parametrize("name", ["small", "grid"])
def test_the_index_prints_on_four_sheets(
    name: str, tab: Browser, request: pytest.FixtureRequest
) -> None:
    tab.open(request.getfixturevalue(name) / "index.html")
    assert 1 <= tab.sheets() <= 4


@needs_chromium
def test_the_index_is_there_within_a_second(grid: Path, tab: Browser) -> None:
    tab.open(grid / "index.html")
    took = tab.run("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert 0 < took < 1000


def contrast(tab: Browser, selector: str) -> Any:
    """Return the contrast of an element's text with the page's ground."""
    return tab.run(
        "(() => { const c = (s) => s.match(/[\\d.]+/g).slice(0, 3).map((v) => { v /= 255;"
        "return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });"
        "const l = (s) => { const [r, g, b] = c(s); return .2126 * r + .7152 * g + .0722 * b; };"
        f"const e = document.querySelector({json.dumps(selector)});"
        "const [a, b] = [l(getComputedStyle(e).color), l(getComputedStyle(document.body)"
        ".backgroundColor)]; return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); })()"
    )


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_in_both_schemes(small: Path, tab: Browser, dark: bool) -> None:
    tab.open(small / "index.html", dark=dark)
    for selector in ("main p", "main a", "small", ".warn", ".role", "nav a", ".chip"):
        assert contrast(tab, selector) > 4.5, selector


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing(small: Path, tab: Browser, dark: bool) -> None:
    """The rules of axe-core, which its Python package carries as JavaScript."""
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text()
    found = {}
    for path in pages_of(small):
        tab.open(path, dark=dark)
        tab.run(f"{axe}; 0")
        found[path.name] = tab.run(
            "axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations.map((v) =>"
            "[v.id, v.help, ...v.nodes.slice(0, 3).map((n) => n.html.slice(0, 200))]))"
        )
    assert {name: faults for name, faults in found.items() if faults} == {}


@needs_chromium
def test_everything_has_a_name_for_those_who_cannot_see(small: Path, tab: Browser) -> None:
    for path in pages_of(small):
        tab.open(path)
        unnamed = tab.run(
            "[...document.querySelectorAll('a, button, input, svg, img, [role=region], nav')]"
            ".filter((e) => !(e.textContent.trim() || e.getAttribute('aria-label') || e.alt"
            " || (e.labels && e.labels.length))).map((e) => e.outerHTML.slice(0, 90))"
        )
        assert unnamed == [], path.name
        assert tab.run("document.querySelectorAll('main').length") == 1
        assert tab.run("[...document.querySelectorAll('th')].every((h) => h.scope)")


def test_ten_thousand_cells_take_less_than_two_minutes(tmp_path: Path) -> None:
    """Of processor time, which other jobs on the machine change less than the clock's."""
    make_grid(tmp_path / "grid")
    code = (
        "import os, sys; from pathlib import Path; from partbench import published;"
        "from partbench.report.page import write; began = sum(os.times()[:4]);"
        "write(Path(sys.argv[1]), Path(sys.argv[2]), published.load());"
        "print(sum(os.times()[:4]) - began)"
    )
    out = tmp_path / "report/index.html"
    command = [sys.executable, "-c", code, str(tmp_path / "grid"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 120
    assert out.stat().st_size < 300_000
    assert all(path.stat().st_size < 3_000_000 for path in out.parent.iterdir())
