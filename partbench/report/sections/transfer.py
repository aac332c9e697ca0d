"""What is behind the transfer probe's numbers: accuracies by fold, and both readings' SDs."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from partbench.probes.transfer import Training, TransferSetting
from partbench.report import text
from partbench.report.read import CellRecord
from partbench.report.section import MethodRecord, Section, Task, View

NETWORKS: tuple[Training, ...] = ("frozen", "fine-tuned")


class TransferSection(Section):
    """A table of both readings with their SDs, by method, network and what was trained."""

    name = "Transfer"
    title = "Transfer to few labels"
    order = 25
    headline = ("top1",)
    labels: ClassVar = {"top1": "Accuracy"}
    headline_settings = {
        TransferSetting(part=part, network=network): f"{part}, {network}"
        for part in ("encoder", "discriminator")
        for network in NETWORKS
    }

    def view(self, task: Task) -> View | None:
        """Return the rows of one task's table."""
        rows = [row for method in task.methods for row in rows_of(method)]
        if not rows:
            return None
        return {
            "id": text.address("transfer", task.train, task.eval),
            "train": task.train,
            "eval": task.eval,
            "rows": rows,
        }


class Details(BaseModel):
    """What the report reads of the transfer probe's details of one network."""

    features: int
    head: int
    per_fold: list[FiniteFloat] = Field(alias="per fold", min_length=1)
    sd: FiniteFloat | None = Field(alias="sd over folds")
    running: list[FiniteFloat] = Field(alias="running mean per fold", min_length=1)
    sd_of_thesis: FiniteFloat | None = Field(alias="sd of the thesis")


def rows_of(method: MethodRecord) -> list[View]:
    """Return a row for each network of a method, frozen and fine-tuned: means over seeds."""
    found: dict[str, list[Details]] = {}
    for cell in method.cells:
        for what, details in details_of(cell).items():
            found.setdefault(what, []).append(details)
    return [
        {
            "name": method.name,
            "role": method.role,
            "network": what,
            "features": details[0].features,
            "head": details[0].head,
            "folds": len(details[0].per_fold),
            "accuracy": float(np.mean([one.per_fold for one in details])),
            "sd": mean([one.sd for one in details]),
            "running": float(np.mean([one.running for one in details])),
            "sd_of_thesis": mean([one.sd_of_thesis for one in details]),
        }
        for what, details in found.items()
    ]


def details_of(cell: CellRecord) -> dict[str, Details]:
    """Return a cell's details by network, without those that are damaged or of another version."""
    given = cell.record.get("details")
    found = {}
    for what, values in (given if isinstance(given, dict) else {}).items():
        try:
            found[what] = Details.model_validate(values)
        except ValidationError:
            continue
    return found


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
