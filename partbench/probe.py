"""The contract of a probe, and the file in which a cell's result is kept."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.files import atomic, sha256
from partbench.integrity import Damaged, read_record, write_record
from partbench.outputs.capability import capabilities
from partbench.provenance import provenance
from partbench.run import Run, Runtime
from partbench.settings import Settings

if TYPE_CHECKING:  # methods need torch, and most probes do not
    from torch import nn

    from partbench.method import Method

FORMAT = 3
"""Of a cell's json file. Since 2 the setting of a number is an object, no longer text; since 3 the
file carries its own checksum and that of the per-sample table."""
ROUNDING = 1e-5
"""By which a number may differ from the mean of its samples: some are taken in float32."""
GROUP_COLUMN = "group"
"""Column of the per-sample table: the group of each sample, where the data have groups."""
Direction = Literal["higher", "lower"]


class Setting(Settings):
    """What tells a number from the probe's other numbers of the same metric.

    A probe whose metrics have one number each uses this empty one. Any other subclasses it: one
    field for each thing that tells its numbers apart.
    """

    def __str__(self) -> str:
        """Return the setting in words, for a table: each field that is not its default."""
        return ", ".join(f"{name} {value}" for name, value in self.record().items())

    def record(self) -> dict[str, Any]:
        """Return the fields that are not their defaults, plain json; `parse` reads it back."""
        return self.model_dump(mode="json", exclude_defaults=True)


class Metric(NamedTuple):
    """One number of a cell."""

    metric: str
    setting: Setting
    """An instance of the probe's own `Setting`."""
    value: float
    unit: str
    better: Direction
    n: int
    """Test samples behind it."""
    samples: str = ""
    """Column of the per-sample table whose mean (times `scale`) is the value, if any; NaN where a
    sample does not count."""
    scale: float = 1.0
    note: str = ""
    reference: bool = False
    """Whether it is a constant of the data, to read other numbers by: no method is judged by it."""


class Result(NamedTuple):
    """What a probe returns."""

    metrics: list[Metric]
    samples: pd.DataFrame
    """One row a test sample, in the order of the split."""
    details: dict[str, Any]
    """Anything else worth keeping: choices made, curves; plain json."""
    scratch: Sequence[Path] = ()
    """Files to take up after a crash, of no more use once the result is written."""
    pictures: Mapping[str, NDArray[Any]] = MappingProxyType({})
    """Arrays that the report shows."""


class Numbers:
    """Collects a probe's numbers and, for each, its outcomes by test sample."""

    def __init__(self, unit: str, better: Direction) -> None:
        """Start with no number.

        Args:
            unit: of the numbers for which `add` names no other.
            better: their direction, likewise.
        """
        self.unit, self.better = unit, better
        self.metrics: list[Metric] = []
        self.samples: dict[str, NDArray[Any]] = {}
        """Column -> outcomes [N]."""
        self.intervals: dict[str, list[float]] = {}
        """Column -> the two ends of a bootstrap's 95 % interval."""

    def add(
        self,
        metric: str,
        setting: Setting,
        outcomes: NDArray[Any],
        *,
        unit: str = "",
        better: Direction | None = None,
        scale: float = 1.0,
        interval: tuple[float, float] | None = None,
        note: str = "",
        reference: bool = False,
    ) -> None:
        """Add a number: the mean of its finite outcomes times `scale`.

        Args:
            metric: its name.
            setting: what tells it from others of that name.
            outcomes: [N], by test sample, NaN where a sample does not count; for a statistic that
                is no mean, see `partbench.metrics.intervals.jackknife`.
            unit: of the number; empty: the collector's.
            better: the direction; None: the collector's.
            scale: from the outcomes' unit to the number's.
            interval: of a bootstrap over test samples, kept where at least two samples count.
            note: what a reader should know.
            reference: see `Metric.reference`.
        """
        column = ", ".join(filter(None, [metric, str(setting)]))
        counted = outcomes[np.isfinite(outcomes)]
        self.samples[column] = outcomes
        if interval is not None and len(counted) > 1:
            self.intervals[column] = list(interval)
        self.metrics.append(
            Metric(
                metric=metric,
                setting=setting,
                value=scale * float(counted.mean()),
                unit=unit or self.unit,
                better=better or self.better,
                n=len(counted),
                samples=column,
                scale=scale,
                note=note,
                reference=reference,
            )
        )

    def result(self, details: dict[str, Any], **others: Any) -> Result:
        """Return the numbers with their outcomes; `others` are the remaining fields of `Result`."""
        return Result(self.metrics, pd.DataFrame(self.samples), details, **others)


class Probe(ABC):
    """A standard measurement: one subclass in one module of `partbench.probes`.

    `run` reads a run's outputs (or the model itself, where the probe trains on top of it) and
    the prepared data it is measured on.
    """

    Settings: ClassVar[type[Settings]]
    Setting: ClassVar[type[Setting]] = Setting
    """Of its numbers; the empty one where no metric has two numbers."""
    PAPER: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Data set -> the settings its protocol has there, where they are not the defaults."""
    references: ClassVar[tuple[str, ...]] = ()
    """The works that its protocol comes from: keys of references.bib, or BibTeX itself."""
    version: ClassVar[int]
    """Of the definition: raised whenever a change could change a number."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Capabilities of a method, names of modules in `partbench.outputs`."""
    reads: ClassVar[Literal["outputs", "model"]] = "outputs"

    @classmethod
    def misfit(cls, method: "type[Method]") -> str:
        """Return why this probe does not apply to a method, or an empty string."""
        offered = capabilities()
        missing = [need for need in cls.needs if not offered[need].offered_by(method)]
        return f"the method offers no {' and no '.join(missing)}" if missing else ""

    @classmethod
    def random(cls, metric: str) -> bool:
        """Return whether the seed changes a metric even where the run's outputs stay the same.

        It does if the probe trains, or if a draw decides the number and not only its interval.

        Args:
            metric: its name; empty: any of the probe's.
        """
        return cls.reads == "model"

    @classmethod
    def annotations(cls, settings: Any) -> tuple[tuple[str, ...], ...]:
        """Return the annotations that the data must have: of each group at least one.

        They are named as by `Split.annotation`; `frames` stands for clips instead of images.

        Args:
            settings: an instance of the probe's own `Settings`.
        """
        return ()

    @classmethod
    def weights(cls, settings: Any) -> tuple[str, ...]:
        """Return the trained networks that it fetches, names of `partbench data list`.

        Args:
            settings: an instance of the probe's own `Settings`.
        """
        return ()

    @classmethod
    def trained(
        cls, settings: Any, method: "Method", n_train: int
    ) -> "Iterable[tuple[nn.Module, float]]":
        """Yield the networks that it trains, for the plan, and how many images pass through each.

        Args:
            settings: an instance of the probe's own `Settings`.
            method: that is measured, on the device "meta".
            n_train: images in the training split.
        """
        return ()

    @abstractmethod
    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        """Measure.

        Args:
            source: the folder of the run's outputs on `data`, or its model.pt (see `reads`).
            data: the folder of the prepared data set.
            settings: an instance of the probe's own `Settings`.
            seed: for every random draw.
            device: "cpu" or "cuda".

        Raises:
            BadInput: the data or the outputs do not fit.
        """


def measure(
    probe: Probe,
    run: Run,
    source: Path,
    data: Path,
    settings: Settings,
    runtime: Runtime,
    out: Path,
    code: str = "",
) -> None:
    """Measure one cell and write `out` (json) and, beside it, what else the probe returns.

    That is the per-sample outcomes (parquet) and, where there are any, the pictures (npz).

    Args:
        probe: what measures.
        run: what is measured.
        source: see `Probe.run`.
        data: folder of the prepared data set.
        settings: the probe's.
        runtime: device and threads.
        out: the cell's json file; it is written last, so a cell that has it is whole.
        code: fingerprint of the code that measures.

    Raises:
        BadInput: what the probe raises; a number is not finite, or its setting is not of the
            probe's type.
    """
    if runtime.device == "cpu" or probe.reads == "outputs":
        device = "cpu"
    else:
        from partbench.model import device_of

        device = device_of(runtime)
    prepared = Prepared(data)
    meta = prepared.meta
    began = time.monotonic()
    with threadpool_limits(runtime.threads):
        result = probe.run(source, data, settings, run.seed, device)
    for metric in result.metrics:
        if not math.isfinite(metric.value):
            raise BadInput(f"{run} on {meta['data_set']}: {metric.metric} is {metric.value}")
        if type(metric.setting) is not probe.Setting:
            raise BadInput(
                f"the probe {out.stem} gives {metric.metric} the setting {metric.setting!r}, which "
                f"is no {probe.Setting.__name__}; make it one, or set the probe's `Setting`"
            )
    samples = result.samples
    if len(samples.columns) and (test := prepared.split("test")).has("groups"):
        samples = samples.assign(**{GROUP_COLUMN: np.array(test.annotation("groups"))})
    with atomic(out.with_suffix(".parquet")) as path:
        samples.to_parquet(path)
        digest = sha256(path)
    if result.pictures:
        with atomic(out.with_suffix(".npz")) as path, path.open("wb") as file:
            np.savez_compressed(file, **result.pictures)  # type: ignore[arg-type]
    write_record(
        out,
        {
            "format": FORMAT,
            "run": run._asdict(),
            "eval": meta["data_set"],
            "probe": out.stem,
            "version": probe.version,
            "metrics": [
                metric._asdict() | {"setting": metric.setting.record()} for metric in result.metrics
            ],
            "samples": digest,
            "details": result.details,
            "settings": settings.model_dump(mode="json"),
            "data_checksum": meta["checksum"],
            "subset": meta["subset"],
            "seconds": round(time.monotonic() - began, 3),
            "provenance": provenance(device, code),
        },
    )
    for path in result.scratch:
        path.unlink(missing_ok=True)


def read_cell(path: Path) -> dict[str, Any]:
    """Return what `measure` wrote of a cell, compared with its per-sample table.

    Args:
        path: the cell's json file.

    Raises:
        BadInput: there is no such file.
        Damaged: the file or the table is not as it was written, or a number is not the mean of
            its samples.
    """
    record = read_record(path)
    if record.get("format") != FORMAT:
        return record
    samples = path.with_suffix(".parquet")
    if not samples.exists() or sha256(samples) != record["samples"]:
        raise Damaged(samples, "it is missing, or does not agree with the cell's checksum", path)
    table = pd.read_parquet(samples)
    for metric in record["metrics"]:
        if not metric.get("samples"):
            continue
        outcomes = table[metric["samples"]].to_numpy(np.float64)
        mean = metric["scale"] * float(outcomes[np.isfinite(outcomes)].mean())
        if not math.isclose(metric["value"], mean, rel_tol=ROUNDING, abs_tol=ROUNDING):
            raise Damaged(
                path, f"{metric['metric']} is {metric['value']}, the mean of its samples {mean}"
            )
    return record
