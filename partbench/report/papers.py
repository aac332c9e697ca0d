"""Every published number beside ours, with its verdict."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from partbench import published as literature
from partbench import verdict as verdicts
from partbench.names import split_of
from partbench.published import Address, CellAddress, Claim
from partbench.report import text
from partbench.report.panels import row_view
from partbench.report.read import Results, records
from partbench.report.references import reference_of
from partbench.report.section import View


def papers_view(results: Results, claims: Sequence[Claim]) -> View:
    """Return the page of papers: their numbers beside ours, and the counts of verdicts."""
    papers = paper_views(results, claims)
    return {
        "papers": [paper for paper in papers if paper["ran"]],
        "others": [paper for paper in papers if not paper["ran"]],
        "labels": verdicts.LABELS,
        "margin": verdicts.MARGIN,
        "counts": sum((paper["counts"] for paper in papers), Counter()),
    }


def paper_views(results: Results, claims: Sequence[Claim]) -> list[View]:
    """Return each paper's published numbers beside ours, with verdicts; papers that ran first."""
    numbers = {address_of(row): row for row in records(results.summary)}
    failed = results.metrics[results.metrics["status"] == "failed"]
    failures = {CellAddress(*(row[f] for f in CellAddress._fields)): row for row in records(failed)}
    trained = {(run.method, run.variant, run.train): run.record for run in results.runs}
    # A number over the official splits of a data set is that of the runs on each.
    for row in records(failed):
        own = row["train"] == row["eval"]
        train, evaluated = (split_of(row[key]) for key in ("train", "eval"))
        train = train if own else row["train"]
        of_mean = CellAddress(row["method"], row["variant"], train, evaluated, row["probe"])
        failures.setdefault(of_mean, row)
    for (method, variant, train), record in list(trained.items()):
        trained.setdefault((method, variant, split_of(train)), record)
    by_paper: dict[str, list[View]] = {}
    for claim in claims:
        ours = numbers.get(claim.address) if claim.has_run else None
        record = trained.get((claim.method, claim.variant, claim.train), {})
        verdict = literature.verdict(
            claim,
            ours,
            comparable=bool(results.config.get("comparable")),
            changes=record.get("changes"),
            overrides=results.config.get("probes", {}).get(claim.probe, {}),
            failure=_last_line(failures.get(claim.cells)),
        )
        view = {
            "claim": claim,
            "id": address(claim),
            "ours": row_view(ours) if ours else None,
            "verdict": verdict,
            "deviations": record.get("deviations", []) if ours else [],
        }
        by_paper.setdefault(claim.paper, []).append(view)
    papers = [paper_view(paper, views) for paper, views in by_paper.items()]
    return sorted(papers, key=lambda paper: not paper["ran"])


def address_of(row: Mapping[Any, Any]) -> Address:
    """Return the address of a row of the summary."""
    return Address(*(str(row[field]) for field in Address._fields))


def address(claim: Claim) -> str:
    """Return the id of a claim's row in the page."""
    return text.address("published", *literature.identity(claim))


def paper_view(paper: str, views: list[View]) -> View:
    """Return one paper: its tables, and how often each verdict was given."""
    counts = Counter(view["verdict"].label for view in views)
    tables: dict[str, list[View]] = {}
    for view in views:
        tables.setdefault(view["claim"].origin, []).append(view)
    return {
        "id": text.address("paper", paper),
        "name": text.NAMES.get(paper, paper),
        "reference": reference_of(paper),
        "counts": counts,
        "ran": counts["not run"] + counts["reference only"] < len(views),
        "tables": [table_view(origin, rows) for origin, rows in tables.items()],
    }


def table_view(origin: str, rows: list[View]) -> View:
    """Return one published table; what all rows share is said once."""
    notes = {row["claim"].note for row in rows}
    return {
        "origin": origin,
        "note": rows[0]["claim"].note if len(notes) == 1 else "",
        "notes": len(notes) > 1,
        "rows": rows,
    }


def _last_line(cell: Mapping[Any, Any] | None) -> str:
    """Return the last line of the log of a failed cell, empty if there is none."""
    if cell is None:
        return ""
    lines = [line for line in text.plain(cell["reason"]).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was recorded"
