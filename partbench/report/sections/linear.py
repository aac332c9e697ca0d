"""The linear probe in the report: its charts and tables, and a note."""

from typing import ClassVar

from partbench.report.section import Section


class LinearSection(Section):
    """No section of its own."""

    order = 10
    headline: ClassVar = ("accuracy",)
