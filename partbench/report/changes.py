"""What changed between two runs, as text and as one self-contained page."""

import json
import math
from pathlib import Path
from typing import Any

from partbench.changes import Change, Changes, State
from partbench.files import atomic
from partbench.report import text
from partbench.report.page import environment

WORDS: dict[State, str] = {
    "worse": "significantly worse in B",
    "lost": "lost: A has a number, B failed or is not done",
    "better": "significantly better in B",
    "found": "found: B has a number, A failed or is not done",
    "untested": "without a verdict",
    "same": "not told apart",
    "identical": "identical",
    "not compared": "not compared",
    "only in A": "only in A",
    "only in B": "only in B",
}
LISTED: tuple[State, ...] = ("worse", "lost", "better", "found", "untested")
"""States whose numbers the text lists one by one."""
MOST = 20
"""Numbers of a state, settings and fingerprints that the text lists; the page lists all."""


def written(changes: Changes) -> str:
    """Return the changes as text, for a terminal or a log."""
    lines = [f"A: {changes.a.path}", f"B: {changes.b.path}"]
    for name, commits in zip("AB", changes.commits, strict=True):
        lines.append(f"commit of {name}: {', '.join(commits) or 'none'}")
    lines += [
        f"definition of {probe}: version {a} in A, {b} in B; its numbers are not compared"
        for probe, a, b in changes.versions
    ]
    code = [f"  {name}: {a or 'none'} -> {b or 'none'}" for name, a, b in changes.code]
    settings = [f"  {s.where}: {s.key}: {_value(s.a)} -> {_value(s.b)}" for s in changes.settings]
    for title, rows in (("code that differs", code), ("settings that differ", settings)):
        lines += [f"{title}: {len(rows)}", *_cut(rows)]
    lines.append("numbers:")
    lines += [f"  {n} {WORDS[state]}" for state, n in changes.counts.items()]
    for state in LISTED:
        rows = [f"  {_sentence(c)}" for c in changes.numbers if c.state == state]
        lines += [f"{WORDS[state]}:", *_cut(rows)] if rows else []
    reasons: dict[str, int] = {}
    for change in changes.numbers:
        if change.state == "not compared":
            why = f"{change.key['probe']}: {change.reason}"
            reasons[why] = reasons.get(why, 0) + 1
    rows = [f"  {why} ({n} {'number' if n == 1 else 'numbers'})" for why, n in reasons.items()]
    lines += [f"{WORDS['not compared']}:", *_cut(rows)] if rows else []
    return "\n".join(lines)


def write(changes: Changes, out: Path) -> None:
    """Write the changes as one self-contained page, whole or not at all."""
    page = (
        environment()
        .get_template("changes.html")
        .render(changes=changes, words=WORDS, rows=[row(change) for change in changes.numbers])
    )
    with atomic(out) as path:
        path.write_text(page, encoding="utf-8")


def row(change: Change) -> dict[str, Any]:
    """Return a number of the page's table."""
    key = change.key
    return {
        "state": change.state,
        "name": text.name(key["method"], key["variant"]),
        "train": key["train"],
        "task": f"{key['probe']} on {key['eval']}",
        "metric": key["metric"] + (f", {key['setting']}" if key["setting"] else ""),
        "unit": change.unit,
        "a": text.number(change.a, change.unit),
        "b": text.number(change.b, change.unit),
        "difference": _difference(change),
        "p": text.p_value(change.p) if math.isfinite(change.p) else text.NOTHING,
        "seeds": change.seeds,
        "samples": change.samples or text.NOTHING,
        "reason": change.reason,
    }


def _sentence(change: Change) -> str:
    key = change.key
    setting = f" ({key['setting']})" if key["setting"] else ""
    where = "/".join(key[column] for column in ("method", "variant", "train"))
    unit = f" {change.unit}" if change.unit else ""
    said = f"{where} on {key['eval']}, {key['probe']} {key['metric']}{setting}: "
    said += f"{text.number(change.a, change.unit)} -> {text.number(change.b, change.unit)}{unit}"
    if math.isfinite(change.difference):
        said += f", {_difference(change)}"
    if math.isfinite(change.p):
        said += f", {text.p_value(change.p)}"
    return f"{said}; {change.reason}" if change.reason else said


def _difference(change: Change) -> str:
    """Return `+0.9 [0.3, 1.5]`."""
    if not math.isfinite(change.difference):
        return text.NOTHING
    sign = "+" if change.difference > 0 else ""
    size = f"{sign}{text.number(change.difference, change.unit)}"
    if not math.isfinite(change.low):
        return size
    ends = (text.number(end, change.unit) for end in (change.low, change.high))
    return f"{size} [{', '.join(ends)}]"


def _value(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)


def _cut(rows: list[str]) -> list[str]:
    more = [f"  and {len(rows) - MOST} more"] if len(rows) > MOST else []
    return [*rows[:MOST], *more]
