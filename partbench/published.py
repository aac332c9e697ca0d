"""Claims: numbers from the literature, each with the address of the number here that answers it.

`published.csv` has one claim a row. The address of a claim is typed: method, variant, training
data, evaluation data, probe, metric and setting, by the names of `config/paper.yaml`. A number of
ours belongs to a claim only if all of them are equal. A claim that no number here may be held
against has one of `REASONS` instead. Notes are for readers; none of them decides anything.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
from pydantic import Field, model_validator

from partbench import plugins
from partbench.errors import BadInput
from partbench.probe import Direction, Probe, Setting
from partbench.settings import Settings
from partbench.verdict import Published, Verdict, judge

FILE = Path(__file__).with_name("published.csv")

Status = Literal["verified", "reported", "unverified"]
STATUSES: tuple[Status, ...] = get_args(Status)
Reason = Literal["", "no method of ours", "data private", "protocol unknown", "differs"]
REASONS: Mapping[Reason, str] = {
    "no method of ours": "a reference only: no method here is theirs",
    "data private": "its data cannot be had",
    "protocol unknown": "how it was measured is not known",
    "differs": "what we measure differs",
}
"""Why no number of ours is held against a claim, in words."""
SELECTIONS = ("freeze", "few_shot", "training")
"""Probe settings that choose which numbers are made, not how: they make nothing incomparable."""


class Address(NamedTuple):
    """What tells a number from all others: a row of the summary, over its seeds."""

    method: str
    variant: str
    train: str
    eval: str
    probe: str
    metric: str
    settings: str
    """The setting as sorted json, as `partbench.gather` writes it."""


class CellAddress(NamedTuple):
    """The cells, one a seed, that a number is read from."""

    method: str
    variant: str
    train: str
    eval: str
    probe: str


class Claim(Settings):
    """One published number."""

    paper: str = Field(min_length=1, description="the paper whose table it is, a short key")
    origin: str = Field(min_length=1, description="where it was printed")
    quoted_from: str = Field("", description="who printed it first, if that was somebody else")
    name: str = Field(min_length=1, description="what it was measured on, for readers")
    method: str = Field(min_length=1, description="a method here, or theirs")
    variant: str = ""
    train: str = ""
    eval: str = Field(min_length=1, description="evaluation data")
    split: str = Field("", description="of the evaluation data, as it was printed")
    probe: str = Field(min_length=1)
    metric: str = Field(min_length=1)
    setting: dict[str, Any] = Field(default_factory=dict, description="of the metric, typed")
    value: float
    rounding: float = Field(ge=0, description="half a unit of the value's last printed digit")
    sd: float | None = Field(None, ge=0, description="printed beside it")
    sd_over: Literal["", "seeds", "folds", "SDs within folds", "draws", "checkpoints"] = Field(
        "", description="what that SD is of"
    )
    seeds: int | None = Field(None, ge=1, description="trainings behind it; none: not known")
    unit: str = ""
    better: Direction
    status: Status = Field(
        description="verified: read in its source; reported: printed by a third party; "
        "unverified: remembered"
    )
    reason: Reason = Field("", description="why no number of ours is held against it")
    differs: str = Field("", description="in what ours differs, where that is the reason")
    note: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.reason and not (self.variant and self.train):
            raise ValueError("a claim has a variant and training data, or a reason")
        if bool(self.differs) != (self.reason == "differs"):
            raise ValueError("`differs` says in what ours differs, where that is the reason")
        if bool(self.sd_over) != (self.sd is not None):
            raise ValueError("`sd` and `sd_over` belong together")
        return self

    @property
    def address(self) -> Address:
        """The number of ours that answers it."""
        return Address(*self.cells, self.metric, json.dumps(self.setting, sort_keys=True))

    @property
    def cells(self) -> CellAddress:
        """The cells behind that number."""
        return CellAddress(self.method, self.variant, self.train, self.eval, self.probe)

    @property
    def has_run(self) -> bool:
        """Whether a run here answers it, even if its reason forbids a verdict."""
        return bool(self.variant)

    @property
    def is_judged(self) -> bool:
        """Whether a number of ours at its address gets a verdict."""
        return not self.reason and self.status != "unverified"

    @property
    def words(self) -> str:
        """The setting in words."""
        return str(_setting(self.probe).parse(self.setting, str(FILE)))

    @property
    def why(self) -> str:
        """The reason in words, empty if there is none."""
        if not self.reason:
            return ""
        return f"{REASONS[self.reason]}{f': {self.differs}' if self.differs else ''}"


@cache
def _setting(probe: str) -> type[Setting]:
    """Return the type of a probe's settings of numbers; of a probe not here, the empty one."""
    if probe not in plugins.names("probes", Probe):
        return Setting
    return plugins.load("probes", probe, Probe).Setting  # type: ignore[type-abstract]


def load(path: Path = FILE) -> tuple[Claim, ...]:
    """Return the claims in the order of the table.

    Args:
        path: a csv table with the fields of `Claim` as columns, but for `rounding`, which follows
            from the value's digits; empty fields are left out.

    Raises:
        BadInput: a row is not valid, or stands twice.
    """
    claims: list[Claim] = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            claims.append(_claim(row, f"{path}: line {len(claims) + 2}"))
    for key, n in Counter(map(identity, claims)).items():
        if n > 1:
            raise BadInput(f"{path}: a claim stands twice: {', '.join(filter(None, key))}")
    return tuple(claims)


def identity(claim: Claim) -> tuple[str, ...]:
    """Return what no two claims share: where it was printed, of what, and its address."""
    return (claim.paper, claim.origin, claim.name, claim.split, *claim.address)


def _claim(row: Mapping[str, str], where: str) -> Claim:
    values: dict[str, Any] = {key: value for key, value in row.items() if value}
    if "setting" in values:
        values["setting"] = json.loads(values["setting"])
    decimals = len(row["value"].partition(".")[2])
    return Claim.parse(values | {"rounding": 0.5 * 10.0**-decimals}, where)


def verdict(
    claim: Claim,
    ours: Mapping[str, Any] | None,
    *,
    comparable: bool = True,
    changes: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    failure: str = "",
) -> Verdict:
    """Compare the number at a claim's address with the claim.

    The rule, in this order; the first that applies decides:

    1. `reference only`, `failed` or `not run`: there is no number of ours.
    2. `not comparable`: the claim has a reason against it, the configuration or the run is
       reduced, the probe's settings were changed, the data set is incomplete, or the unit differs.
    3. `unverified reference`: nobody has checked the published number against its source.
    4. `reproduced`, `better`, `worse` or `undecided`: see `partbench.verdict.judge`.

    Args:
        claim: the published number.
        ours: the summary's row at its address.
        comparable: the configuration's own word on whether it may be compared.
        changes: key -> (paper's, used) of the run's settings.
        overrides: key -> value of the probe's settings that the configuration changes.
        failure: why the cell failed, if it did.
    """
    if not claim.has_run:
        return Verdict("reference only", claim.why)
    if ours is None:
        return Verdict("failed", failure) if failure else Verdict("not run", claim.why)
    obstacles = _obstacles(claim, ours, comparable, changes or {}, overrides or {})
    if obstacles:
        return Verdict("not comparable", "; ".join(obstacles))
    if claim.status == "unverified":
        return Verdict(
            "unverified reference", "the published number was not checked against its source"
        )
    theirs = Published(claim.value, claim.rounding, claim.seeds or 1, claim.better)
    judged = judge(ours["values"], theirs, random=bool(ours["random"]))
    if claim.status == "reported":
        return Verdict(judged.label, f"{judged.reason}; the reference is reported by a third party")
    return judged


def _obstacles(
    claim: Claim,
    ours: Mapping[str, Any],
    comparable: bool,
    changes: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> list[str]:
    """Return every reason why the two numbers must not be compared."""
    obstacles = [claim.why] if claim.reason else []
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
    if ours["unit"] != claim.unit:
        obstacles.append(f"our unit is {ours['unit'] or 'none'}, theirs is {claim.unit or 'none'}")
    if not np.isfinite(ours["mean"]):
        obstacles.append("our number is not finite")
    return obstacles


def coverage(claims: Sequence[Claim], cells: Iterable[CellAddress]) -> str:
    """Return a text: how many claims of each paper get a verdict, and why the others do not.

    Args:
        claims: the published numbers.
        cells: those of the configuration that are not left out.
    """
    planned = set(cells)
    missing = [c for c in claims if c.has_run and c.cells not in planned]
    columns = ("rows", "run", "judged", *REASONS, "unverified", "no cell")
    counts: dict[str, Counter[str]] = {}
    for claim in claims:
        kinds = ["rows"]
        kinds += ["run"] * (claim.has_run and claim.cells in planned)
        if claim.reason:
            kinds.append(claim.reason)
        elif claim.status == "unverified":
            kinds.append("unverified")
        else:
            kinds.append("judged" if claim.cells in planned else "no cell")
        counts.setdefault(claim.paper, Counter()).update(kinds)
    counts["total"] = sum(counts.values(), Counter())
    width = max(map(len, counts))
    lines = [f"{'':{width}}  " + "  ".join(columns)]
    for paper, of_paper in counts.items():
        numbers = (f"{of_paper[column] or '-':>{len(column)}}" for column in columns)
        lines.append(f"{paper:{width}}  " + "  ".join(numbers))
    lines += [
        "",
        "run: the configuration measures a number at the row's address. judged: that number gets a "
        "verdict. The other columns say why not:",
        *(f"  {reason}: {words}" for reason, words in REASONS.items()),
        "  unverified: nobody has checked the row against its source",
        "  no cell: the configuration does not measure it",
    ]
    if missing:
        lines += ["", "Cells that the configuration lacks:"]
        absent = Counter("/".join(claim.cells) for claim in missing)
        lines += [f"  {cell} ({n} {'row' if n == 1 else 'rows'})" for cell, n in absent.items()]
    return "\n".join(lines)
