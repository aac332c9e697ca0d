"""Every number of the summary in one table, each row with an address of its own."""

from typing import Any

from partbench.report import text
from partbench.report.read import Results
from partbench.report.references import references_of
from partbench.report.section import View

ROWS = 6000
"""Of a page at most: more would weigh over 3 MB."""


def number_pages(panels: list[View], results: Results) -> list[View]:
    """Return the pages of all numbers: one, or as many as keep each below `ROWS` rows."""
    groups = [group for panel in panels for group in (*panel["first"], *panel["more"])]
    parts: list[list[View]] = [[]]
    count = 0
    for group in groups:
        if parts[-1] and count + len(group["rows"]) > ROWS:
            parts.append([])
            count = 0
        parts[-1].append(group)
        count += len(group["rows"])
    return [
        {
            "id": "numbers" if number == 1 else f"numbers-{number}",
            "title": "All numbers" if len(parts) == 1 else f"All numbers, part {number}",
            "groups": part,
            "parts": [
                ("numbers" if i == 1 else f"numbers-{i}", i) for i in range(1, len(parts) + 1)
            ],
            "number": number,
            "tables": tables(results) if number == 1 else [],
            "cited": cited(results) if number == 1 else [],
            "measured": measured(results),
            "works": {
                text.name(method): [work.key for work in references_of(method)]
                for method in sorted(set(results.metrics["method"]))
            },
        }
        for number, part in enumerate(parts, start=1)
    ]


def tables(results: Results) -> list[tuple[str, str, list[str]]]:
    """Return the tables of the results folder: file, what a row is, and its formats."""
    formats = ["csv", "parquet"]
    return [
        ("summary", "one row a number over its seeds: what stands here", [*formats, "json"]),
        ("metrics", "one row a number of a seed, and the cells without numbers", formats),
        ("comparisons", "one row a test of two methods", formats),
    ]


def cited(results: Results) -> list[Any]:
    """Return the works behind the methods that were measured, each once."""
    measured = sorted(set(results.metrics["method"]))
    works = {work.key: work for method in measured for work in references_of(method)}
    return list(works.values())


def measured(results: Results) -> View:
    """Return what tells these numbers from those of another run: to be named with them."""
    done = results.metrics[results.metrics["status"] == "done"]
    of_cells = done[["commit", "dirty"]].drop_duplicates().itertuples(index=False)
    commits = {text.commit(name, bool(dirty)) for name, dirty in of_cells if name}
    of_data = done[["eval", "data_checksum"]].drop_duplicates().itertuples(index=False)
    return {
        "configuration": results.config.get("name", ""),
        "commits": sorted(commits),
        "data": sorted((name, checksum[:12]) for name, checksum in of_data if checksum),
    }
