"""The linear probe in the report: its charts and tables, and a note."""

from typing import ClassVar

from partbench.report.section import Section


class LinearSection(Section):
    """No section of its own."""

    name = "Linear classification"
    order = 10
    headline: ClassVar = ("top1",)
    labels: ClassVar = {"top1": "Accuracy", "top5": "Accuracy, top 5"}
