"""Numbers from the literature, and verdicts that compare ours with them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

FILE = Path(__file__).with_name("published.csv")
KEY = ["paper", "method", "variant", "dataset", "split", "probe", "metric", "setting", "k"]
STATUSES = ("verified", "reported", "unverified")

Label = Literal[
    "reproduced",
    "better",
    "worse",
    "not comparable",
    "unverified reference",
    "failed",
    "not run",
]
LABELS: tuple[Label, ...] = (
    "reproduced",
    "better",
    "worse",
    "not comparable",
    "unverified reference",
    "failed",
    "not run",
)

TRANSFERS: Mapping[str, tuple[str, ...]] = {"mafl": ("celeba",), "stl10": ("coco",)}
"""Evaluation data -> what else the papers train on before they measure there. Everywhere else a
published row means training and evaluation on the same data set."""

SELECTIONS = ("freeze", "few_shot")
"""Probe settings that choose which numbers are made, not how: they make nothing incomparable."""

UNMATCHED = (
    "protocol not fully recoverable",
    "could not be reconstructed",
    "not the keypoint least-squares protocol",
    "contrast-stretched",
    "probably without 10 crops",
)
"""What a published row's note says where no run here can follow that row's protocol."""


class Verdict(NamedTuple):
    """What may be said about one published number."""

    label: Label
    reason: str


def load(path: Path = FILE) -> pd.DataFrame:
    """Return the published rows: text columns (empty where unknown), `value` and `sd` floats."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.assign(
        value=table["value"].astype(float), sd=pd.to_numeric(table["sd"], errors="coerce")
    )


def version_of(name: str) -> str:
    """Return the data set that a configuration's is a version of: `mafl-stretch` is of mafl."""
    return name.partition("-")[0]


def words(variant: str) -> frozenset[str]:
    """Return the parts of a variant: `lw+demo` -> {lw, demo}; `paper` says nothing."""
    return frozenset(variant.split("+")) - {"", "paper"}


def match(
    row: Mapping[str, Any], ours: pd.DataFrame, variants: Iterable[str] = ()
) -> Mapping[str, Any] | None:
    """Return the row of ours that is meant to be the published one, or None.

    Method, probe, evaluation data, metric and setting must be equal (metric and setting only
    where `ours` has a metric: a failed cell has none). Of our variant, the published variant's
    parts must be there, `k<k>` too where the row has a k that its setting does not name, and
    nothing else but that and the data set's name; a reduced run may have further parts (`demo`),
    as it is never comparable, but none that belongs to another published row. The nearest to the
    paper is returned: not reduced, complete data, trained on the evaluation data.

    Args:
        row: a published row.
        ours: rows of the summary, or failed rows of the metrics table.
        variants: all published variants of this paper's method.
    """
    ours = ours[ours["method"] == row["method"]]
    if ours.empty:
        return None
    of_k = {f"k{row['k']}"} if row["k"] else frozenset()
    named = f"K = {row['k']}" in row["setting"].split(", ")
    wanted = words(row["variant"]) | (frozenset() if named else of_k)
    others = frozenset().union(*map(words, variants)) - wanted
    best: tuple[tuple[bool, ...], Mapping[str, Any]] | None = None
    same = (
        (ours["probe"] == row["probe"])
        & (ours["eval"].map(version_of) == row["dataset"])
        & ours["metric"].isin([row["metric"], ""])
        & ((ours["setting"] == row["setting"]) | (ours["metric"] == ""))
    )
    for candidate in ours[same].to_dict("records"):
        has = words(candidate["variant"])
        extra = has - wanted - of_k - {row["dataset"]}
        if not wanted <= has or extra & others or (extra and not candidate["reduced"]):
            continue
        distance = (
            bool(candidate["reduced"]),
            bool(candidate["subset"]),
            version_of(candidate["train"]) != row["dataset"],
        )
        if best is None or distance < best[0]:
            best = distance, {str(key): value for key, value in candidate.items()}
    return best[1] if best else None


def verdict(
    row: Mapping[str, Any],
    ours: Mapping[str, Any] | None,
    *,
    comparable: bool = True,
    changes: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    failure: str = "",
) -> Verdict:
    """Compare a row of our summary with a published row.

    The rule, in this order; the first that applies decides:

    1. `failed` or `not run`: there is no number of ours. A row whose note says that its protocol
       cannot be followed is `not run`, with that reason, whatever failed here.
    2. `not comparable`: the configuration or the run is reduced, the probe's settings were
       changed, the data set is incomplete or another one was trained on, the unit differs, our
       number has no interval, or the note of the published row says that its protocol cannot
       be followed.
    3. `unverified reference`: nobody has checked the published number against its source.
    4. `reproduced`: the published value v lies inside our 95 % interval, or |mean - v| <= 1.96 SD
       where the row gives an SD and its note says that it is an SD "over seeds".
    5. `better` or `worse`, by the metric's direction.

    Args:
        row: a published row.
        ours: our row, see `match`.
        comparable: the configuration's own word on whether it may be compared.
        changes: key -> (paper's, used) of the run's settings.
        overrides: key -> value of the probe's settings that the configuration changes.
        failure: why the cell failed, if it did.
    """
    if ours is None:
        if _unmatched(row):
            return Verdict("not run", "no run can follow the published protocol")
        return Verdict("failed", failure) if failure else Verdict("not run", "")
    obstacles = _obstacles(row, ours, comparable, changes or {}, overrides or {})
    if obstacles:
        return Verdict("not comparable", "; ".join(obstacles))
    if row["status"] == "unverified":
        return Verdict(
            "unverified reference", "the published number was not checked against its source"
        )
    mean, low, high, value = ours["mean"], ours["low"], ours["high"], row["value"]
    caveats = []
    if row["status"] == "reported":
        caveats.append("the reference is reported by a third party")
    if ours["seeds"] == 1:
        caveats.append("one seed: our interval holds the test samples' spread only")
    ending = "".join(f"; {caveat}" for caveat in caveats)
    if low <= value <= high:
        return Verdict("reproduced", f"the published value lies in our 95 % interval{ending}")
    sd = row["sd"]
    if np.isfinite(sd) and "over seeds" in row["note"] and abs(mean - value) <= 1.96 * sd:
        return Verdict("reproduced", f"within 1.96 published SD over seeds{ending}")
    label: Label = "better" if (mean > value) == (row["better"] == "higher") else "worse"
    return Verdict(label, f"the published value lies outside our 95 % interval{ending}")


def _obstacles(
    row: Mapping[str, Any],
    ours: Mapping[str, Any],
    comparable: bool,
    changes: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> list[str]:
    """Return every reason why the two numbers must not be compared."""
    obstacles = []
    if not comparable:
        obstacles.append("the configuration is a reduced one")
    if ours["reduced"] or changes:
        listed = ", ".join(f"{key} {used} for {paper}" for key, (paper, used) in changes.items())
        obstacles.append(f"settings differ from the paper's{f' ({listed})' if listed else ''}")
    measured = [f"{key} {value}" for key, value in overrides.items() if key not in SELECTIONS]
    if measured:
        obstacles.append(f"the probe's settings were changed ({', '.join(measured)})")
    if ours["subset"]:
        obstacles.append("the data set is incomplete")
    if version_of(ours["train"]) not in (row["dataset"], *TRANSFERS.get(row["dataset"], ())):
        obstacles.append(f"trained on {ours['train']}")
    if ours["unit"] != row["unit"]:
        obstacles.append(f"our unit is {ours['unit'] or 'none'}, theirs is {row['unit'] or 'none'}")
    if not all(np.isfinite(ours[key]) for key in ("mean", "low", "high")):
        obstacles.append("our number has no interval")
    if _unmatched(row):
        obstacles.append(f"the published protocol differs: {row['note']}")
    return obstacles


def _unmatched(row: Mapping[str, Any]) -> bool:
    return any(phrase in row["note"].lower() for phrase in UNMATCHED)
