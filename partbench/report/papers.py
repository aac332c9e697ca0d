"""Every published number beside ours, with its verdict."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from partbench import published as literature
from partbench.report import text
from partbench.report.panels import row_view
from partbench.report.read import Results, records
from partbench.report.section import View


def paper_views(results: Results, published: pd.DataFrame) -> list[View]:
    """Return each paper's published rows beside ours, with verdicts; papers that ran first."""
    comparable = bool(results.config.get("comparable"))
    failed = results.metrics[results.metrics["status"] == "failed"].assign(metric="", setting="")
    summary_of, failed_of = _by_number(results.summary), _by_number(failed)
    changes = {(r.method, r.variant, r.train): r.record.get("changes", {}) for r in results.runs}
    papers = []
    for paper, rows in published.groupby("paper", sort=False):
        variants = {m: set(same["variant"]) for m, same in rows.groupby("method")}
        views = []
        for row in records(rows):
            cell = (row["method"], row["probe"], row["dataset"])
            ours_of_metric = summary_of((*cell, row["metric"]))
            ours = literature.match(row, ours_of_metric, variants[row["method"]])
            failed_cells = failed_of((*cell, ""))
            failure = "" if ours else _failure(row, failed_cells, variants[row["method"]])
            key = (ours["method"], ours["variant"], ours["train"]) if ours else ("", "", "")
            verdict = literature.verdict(
                row,
                ours,
                comparable=comparable,
                overrides=results.config.get("probes", {}).get(row["probe"], {}),
                changes=changes.get(key),
                failure=failure,
            )
            views.append(
                {
                    **row,
                    "id": text.address("published", *(row[c] for c in literature.KEY)),
                    "name": text.name(row["method"], row["variant"]),
                    "ours": row_view(ours, float("nan"), {}) if ours else None,
                    "verdict": verdict,
                }
            )
        counts = Counter(view["verdict"].label for view in views)
        papers.append(
            {
                "id": text.address("paper", paper),
                "name": text.NAMES.get(str(paper), str(paper)),
                "counts": counts,
                "ran": counts["not run"] < len(views),
                "tables": [source_view(name, same) for name, same in _by(views, "source").items()],
            }
        )
    return sorted(papers, key=lambda paper: not paper["ran"])


def source_view(source: str, rows: list[View]) -> View:
    """Return one published table; what all rows share is said once."""
    notes = {row["note"] for row in rows}
    return {
        "source": source,
        "note": rows[0]["note"] if len(notes) == 1 else "",
        "notes": len(notes) > 1,
        "rows": rows,
    }


def _by_number(table: pd.DataFrame) -> Callable[[tuple[str, ...]], pd.DataFrame]:
    """Return what gives the rows of a method, a probe, a published data set and a metric.

    Hundreds of published rows ask for theirs; most find nothing.
    """
    of_dataset = table["eval"].map(literature.version_of)
    keys = [table["method"], table["probe"], of_dataset, table["metric"]]
    groups = {tuple(map(str, key)): same for key, same in table.groupby(keys)}
    nothing = table.head(0)
    return lambda key: groups.get(key, nothing)


def _failure(row: Mapping[str, Any], failed: pd.DataFrame, variants: Iterable[str]) -> str:
    """Return the last line of the log of the failed cell that should have been this row's."""
    cell = literature.match(row, failed, variants)
    if cell is None:
        return ""
    lines = [line for line in text.plain(cell["reason"]).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was recorded"


def _by(rows: list[View], key: str) -> dict[str, list[View]]:
    groups: dict[str, list[View]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups
