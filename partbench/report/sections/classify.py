"""Fine-tuned classification in the report: its charts and tables, and a note."""

from typing import ClassVar

import pandas as pd

from partbench.report.section import Section, View

BEST, HONEST = "top1", "top1 held-out epoch"
"""Accuracy of the best test epoch, and of the epoch chosen without the test set."""


class ClassifySection(Section):
    """No section of its own."""

    name = "Fine-tuned classification"
    order = 20
    headline = (HONEST, BEST)
    labels: ClassVar = {
        f"top{k} {epoch}".strip(): f"{title}, {words}"
        for k, title in ((1, "Accuracy"), (5, "Accuracy, top 5"))
        for epoch, words in (
            ("held-out epoch", "epoch chosen on held-out data"),
            ("last epoch", "last epoch"),
            ("", "best epoch on the test set"),
        )
    }

    def note(self, numbers: pd.DataFrame) -> View:
        """Return the least and the most points that choosing the epoch on the test set adds."""
        return {"optimism": optimism(numbers)}


def optimism(numbers: pd.DataFrame) -> tuple[float, float] | None:
    """Return the least and the most that choosing the epoch on the test set adds, in points."""
    key = ["method", "variant", "train", "eval", "setting"]
    best, honest = (
        numbers[numbers["metric"] == metric].set_index(key)["mean"] for metric in (BEST, HONEST)
    )
    added = (best - honest).dropna()
    return (float(added.min()), float(added.max())) if len(added) else None
