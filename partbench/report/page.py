"""The report: a results folder and the literature's numbers as small pages that link each other."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from partbench.files import atomic
from partbench.published import Claim
from partbench.report import figures, text
from partbench.report import sections as fragments
from partbench.report.agreement import agreement_view
from partbench.report.answers import answers_view
from partbench.report.cost import cost_view
from partbench.report.failures import Failures
from partbench.report.material import data_views, picture_views
from partbench.report.numbers import number_pages
from partbench.report.panels import panel_views
from partbench.report.papers import papers_view
from partbench.report.pdf import write_pdf
from partbench.report.read import PictureRecord, Results, RunRecord, read
from partbench.report.section import View, sections
from partbench.report.tasks import fragments_of, task_views
from partbench.report.trainings import method_views

TEMPLATES = Path(__file__).parent / "templates"
GENERATOR = '<meta name="generator" content="partbench">'
"""In each page: by it, a later report knows pages of an earlier one, and removes what is stale."""
LINK = re.compile(r'href="#([^"]*)"')
ID = re.compile(r'\bid="([^"]*)"')
CHART = re.compile(r'<div class="chart">(<svg.*?</svg>)', re.DOTALL)
"""The charts that open the pages of tasks; `task_views` counts them in this order."""
FIGURES = "figures.pdf"
"""The same charts in a file beside the pages, one a page."""
Item = TypeVar("Item", RunRecord, PictureRecord)


class Page(NamedTuple):
    """One page."""

    id: str
    """Of its place in a single file, and the name of its own file, but for the index."""
    title: str
    template: str
    view: View


def write(results: Path, out: Path, claims: Sequence[Claim], *, single: bool = False) -> None:
    """Write the report of `results/<name>/`.

    Nothing is written unless all pages could be made, and the index is written last.

    Args:
        results: the results folder; anything in it may be missing.
        out: the html file of the index; the other pages stand beside it.
        claims: the published numbers, see `partbench.published.load`.
        single: one file with everything in it, instead of pages and a PDF of their charts.
    """
    where = os.path.relpath(results, out.parent)
    files = render(read(results), claims, index=out.name, where=where, single=single)
    if (
        drawings := []
        if single
        else [svg for page in files.values() for svg in CHART.findall(page)]
    ):
        with atomic(out.parent / FIGURES) as path:
            write_pdf(drawings, (TEMPLATES / "style.css").read_text(), path)
    for name, page in sorted(files.items(), key=lambda file: file[0] == out.name):
        with atomic(out.parent / name) as path:
            path.write_text(page, encoding="utf-8")
    for path in out.parent.glob("*.html"):
        if path.name not in files and path != out and not single and _is_ours(path):
            path.unlink()


def render(
    results: Results,
    claims: Sequence[Claim],
    *,
    index: str = "index.html",
    where: str = "",
    single: bool = False,
) -> dict[str, str]:
    """Return the pages by the names of their files.

    Args:
        results: the results.
        claims: the published numbers.
        index: the file of the index.
        where: path from the pages to the results folder.
        single: see `write`.
    """
    templates = environment(where)
    pages = pages_of(results, claims, templates)
    files = {page.id: index if page.id == "answers" else f"{page.id}.html" for page in pages}
    common = {
        "name": results.config.get("name", ""),
        "files": set(files),
        "css": Markup((TEMPLATES / "style.css").read_text()),
        "js": Markup((TEMPLATES / "script.js").read_text()),
        "generator": Markup(GENERATOR),
    }
    figures_file = "" if single else FIGURES
    bodies = [
        (
            page,
            Markup(
                templates.get_template(page.template).render(
                    **page.view, page=page, figures=figures_file
                )
            ),
        )
        for page in pages
    ]
    layout = templates.get_template("layout.html")
    if single:
        return {index: layout.render(**common, bodies=bodies)}
    rendered = {
        files[page.id]: layout.render(**common, bodies=[(page, body)]) for page, body in bodies
    }
    return linked(rendered, files)


def linked(pages: Mapping[str, str], files: Mapping[str, str]) -> dict[str, str]:
    """Return pages whose links to places in other pages name their files.

    Args:
        pages: file -> page, whose links all are to places.
        files: page -> file; a link to a page itself needs no place in it.
    """
    own = {name: set(ID.findall(page)) for name, page in pages.items()}
    places = {place: name for name, found in own.items() for place in found}

    def resolve(page: str, name: str) -> str:
        def target(match: re.Match[str]) -> str:
            place = match[1]
            file = places.get(place, name)
            if place in own[name] or file == name:  # such as the content, which each page has
                return match[0]
            return f'href="{file}"' if place in files else f'href="{file}#{place}"'

        return LINK.sub(target, page)

    return {name: resolve(page, name) for name, page in pages.items()}


def pages_of(results: Results, claims: Sequence[Claim], templates: Environment) -> list[Page]:
    """Return all pages, the index first."""
    colours = palette(results)
    by_probe = sections()
    failures = Failures(results)
    panels = panel_views(results, colours, by_probe, failures)
    papers = papers_view(results, claims)
    methods = method_views(in_order(results.runs, colours), colours, results, failures, panels)
    shown = fragments_of(results, colours, claims, by_probe, templates)
    pictures = picture_views(in_order(results.pictures, colours))
    tasks = task_views(panels, shown, pictures, by_probe)
    return [
        Page("answers", "Answers", "index.html", answers_view(results, tasks, papers, failures)),
        *(Page(task["id"], task["title"], "task.html", task) for task in tasks),
        *(Page(method["id"], method["title"], "method.html", method) for method in methods),
        Page("papers", "Against the papers", "papers.html", papers),
        *(
            Page(part["id"], part["title"], "numbers.html", part)
            for part in number_pages(panels, results)
        ),
        Page("cost", "Cost", "cost.html", cost_view(results, panels, colours)),
        Page(
            "agreement",
            "Do the rulers agree?",
            "agreement.html",
            agreement_view(results, panels, colours),
        ),
        *(Page(view["id"], view["title"], "pictures.html", view) for view in pictures),
        Page("data", "Data sets", "data.html", {"data": data_views(results)}),
        Page("failures", "Failed, skipped and missing", "failures.html", failures.view()),
    ]


def environment(where: str = "") -> Environment:
    """Return the templates; a section's own is `sections/<probe>.html`, wherever it lies.

    Args:
        where: path from the pages to the results folder.
    """
    of_sections = PrefixLoader({"sections": FileSystemLoader(list(fragments.__path__))})
    templates = Environment(
        loader=ChoiceLoader([of_sections, FileSystemLoader(TEMPLATES)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "number": text.number,
        "share": text.share,
        "duration": text.duration,
        "listed": text.listed,
        "json": lambda value: json.dumps(value, ensure_ascii=False),
        "file": lambda path: quote(f"{where}/{path}" if where else path),
    }
    return templates


def palette(results: Results) -> dict[str, int]:
    """Return each trained method's colour: the same in every chart, whatever else ran."""
    blocks = [name for block in results.config.get("runs", []) for name in block["methods"]]
    names = [*blocks, *results.summary["method"], *(run.method for run in results.runs)]
    metrics = results.metrics  # an untrained run of a method is a control, the method is not
    controls = set(metrics["method"]) - set(metrics.loc[metrics["role"] == "method", "method"])
    methods = [method for method in dict.fromkeys(names) if method not in controls]
    return {method: i % figures.COLOURS for i, method in enumerate(methods)}


def in_order(items: list[Item], colours: Mapping[str, int]) -> list[Item]:
    """Return runs or pictures in the configuration's order of methods, controls last."""
    places = {method: i for i, method in enumerate(colours)}
    return sorted(items, key=lambda item: places.get(item.method, len(places)))


def _is_ours(page: Path) -> bool:
    """Return whether an earlier report wrote a page."""
    try:
        with page.open(encoding="utf-8", errors="replace") as file:
            return GENERATOR in file.read(2000)
    except OSError:
        return False
