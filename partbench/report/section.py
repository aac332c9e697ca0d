"""The contract of a probe's section in the report: see `Section`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import pandas as pd
from pydantic import ValidationError

from partbench import plugins
from partbench.probe import Probe, Setting
from partbench.published import Claim
from partbench.report import text
from partbench.report.read import CellRecord, Data, PictureRecord, Results, RunRecord

View = dict[str, Any]
"""What a template reads of one thing."""
Record = TypeVar("Record", RunRecord, CellRecord, PictureRecord)


class MethodRecord(NamedTuple):
    """What the results hold of a method on a task."""

    method: str
    variant: str
    role: str
    colour: int
    """See `partbench.report.figures.colour`."""
    runs: list[RunRecord]
    """The trainings, by seed."""
    cells: list[CellRecord]
    """By seed."""
    pictures: list[PictureRecord]
    """By seed."""

    @property
    def name(self) -> str:
        """The method's name and variant, as everywhere in the page."""
        return text.name(self.method, self.variant)


class Task(NamedTuple):
    """A probe on one data set, of methods that were trained on one data set."""

    probe: str
    train: str
    eval: str
    methods: list[MethodRecord]
    """Those with cells or pictures: trained methods in the page's order, then controls."""
    numbers: pd.DataFrame
    """The rows of the summary; `settings` holds instances of the probe's `Setting`."""
    data: Data | None
    """The evaluation data."""
    claims: Sequence[Claim]
    """All published numbers, see `partbench.published.load`."""


class Reference(NamedTuple):
    """A metric, such as an oracle's, that shows what another one is worth."""

    metric: str
    """In whose chart it is drawn."""
    role: str
    """floor or ceiling."""
    name: str


class Section:
    """What the report shows of one probe: how its numbers are called, and what is behind them.

    A section is two files in `partbench/report/sections/`: `<probe>.py` with one subclass of
    this, and `<probe>.html` with up to three Jinja macros:

    - `intro()`: what the section opens with;
    - `task(view)`: what it shows of one task, from the view that `view` returns;
    - `note(view)`: what a reader of the task's numbers must know, from the view that `note`
      returns.

    All three stand on the page of each task of the probe. A link to a place (`#...`) may lead to
    any page. A section with a title has at least `task`. A probe without these files still has
    its charts and tables.
    """

    name: ClassVar[str] = ""
    """What the probe is called: "Landmarks"; without it, by its file."""
    title: ClassVar[str] = ""
    """The heading; without one there is no section, only the note."""
    order: ClassVar[int] = 100
    """Tasks stand in this order, and those of one number by name."""
    headline: ClassVar[tuple[str, ...]] = ()
    """The first of these metrics that was measured opens the task's page; the others are folded
    away. Where none was, the probe's first metric does."""
    headline_settings: ClassVar[Mapping[Setting, str]] = {}
    """The settings of that metric that are not folded away, the honest one first, and what they
    are called; without any, all are shown."""
    labels: ClassVar[Mapping[str, str]] = {}
    """Metrics, and what they are called; one that is not here goes by its key."""
    references: ClassVar[Mapping[str, Sequence[Reference]]] = {}
    """Metrics that show what others are worth, drawn as controls in the charts of those."""

    def task_name(self, probe: str) -> str:
        """Return what the probe is called."""
        return self.name or probe.replace("_", " ").capitalize()

    def label(self, metric: str) -> str:
        """Return what a metric is called."""
        words = metric.replace("_", " ")
        return self.labels.get(metric, words[:1].upper() + words[1:])

    gains: ClassVar[Mapping[str, str]] = {}
    """Metrics that are gains over a floor, sample by sample, and what that floor is. They say
    whether a method beats it where the headline has no floor control of its own."""

    def view(self, task: Task) -> View | None:
        """Return what the macro `task` is given, or None where there is nothing to show."""
        return None

    def note(self, numbers: pd.DataFrame) -> View:
        """Return what the macro `note` is given, from the task's numbers."""
        return {}


def sections() -> dict[str, Section]:
    """Return the sections by probe, in their order."""
    package = "report.sections"
    names = plugins.names(package, Section)
    by_probe = {probe: plugins.load(package, probe, Section)() for probe in names}
    return dict(sorted(by_probe.items(), key=lambda item: item[1].order))


def tasks(
    results: Results, probe: str, colours: Mapping[str, int], claims: Sequence[Claim]
) -> Iterator[Task]:
    """Yield the tasks of a probe that have cells, or data that have pictures.

    Args:
        results: the results.
        probe: its name.
        colours: of the methods, in the page's order.
        claims: the published numbers.
    """
    summary = results.summary
    numbers = typed(summary[summary["probe"] == probe], probe)
    roles = {
        (str(row.method), str(row.variant)): str(row.role)
        for row in results.metrics[["method", "variant", "role"]].drop_duplicates().itertuples()
    }
    data = {one.name: one for one in results.data}
    places = {method: i for i, method in enumerate(colours)}
    runs = _grouped(results.runs, "method", "variant", "train")
    cells = _grouped(results.cells.get(probe, []), "train", "eval", "method", "variant")
    pictures = _grouped(results.pictures, "train", "eval", "method", "variant")
    names: dict[tuple[str, str], dict[tuple[str, str], None]] = {}
    for train, evaluated, *name in [*cells, *pictures]:
        names.setdefault((train, evaluated), {})[name[0], name[1]] = None
    for (train, evaluated), of_task in names.items():
        methods = [
            MethodRecord(
                *name,
                roles.get(name, "method"),
                colours.get(name[0], 0),
                runs.get((*name, train), []),
                cells.get((train, evaluated, *name), []),
                pictures.get((train, evaluated, *name), []),
            )
            for name in of_task
        ]
        methods.sort(key=lambda m: (m.role != "method", places.get(m.method, len(places))))
        same = numbers[(numbers["train"] == train) & (numbers["eval"] == evaluated)]
        yield Task(probe, train, evaluated, methods, same, data.get(evaluated), claims)


def _grouped(records: Iterable[Record], *fields: str) -> dict[tuple[str, ...], list[Record]]:
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(getattr(record, field) for field in fields), []).append(record)
    return groups


def typed(numbers: pd.DataFrame, probe: str) -> pd.DataFrame:
    """Return rows of a table with the probe's `Setting` in `settings`, parsed from its json.

    Rows of another version, whose setting cannot be parsed, are left out.
    """
    setting = plugins.load("probes", probe, Probe).Setting  # type: ignore[type-abstract]
    parsed = {}
    for written in numbers["settings"].unique():
        try:
            parsed[written] = setting.model_validate_json(written)
        except ValidationError:
            continue
    return numbers.assign(settings=numbers["settings"].map(parsed)).dropna(subset=["settings"])
