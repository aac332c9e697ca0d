"""The contract of a probe, and the file in which a cell's result is kept."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.files import atomic, write_json
from partbench.outputs.capability import capabilities
from partbench.provenance import provenance
from partbench.run import Run, Runtime
from partbench.settings import Settings

if TYPE_CHECKING:  # methods need torch, and most probes do not
    from partbench.method import Method


class Metric(NamedTuple):
    """One number of a cell."""

    metric: str
    setting: str
    """What tells it from the probe's other numbers of that metric; empty if nothing does."""
    value: float
    unit: str
    better: Literal["higher", "lower"]
    n: int
    """Test samples behind it."""
    samples: str = ""
    """Column of the per-sample table whose mean (times `scale`) is the value, if any; NaN where a
    sample does not count."""
    scale: float = 1.0
    note: str = ""


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


class Probe(ABC):
    """A standard measurement: one subclass in one module of `partbench.probes`.

    `run` reads a run's outputs (or the model itself, where the probe trains on top of it) and
    the prepared data it is measured on.
    """

    Settings: ClassVar[type[Settings]]
    PAPER: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Data set -> the settings its protocol has there, where they are not the defaults."""
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
    def training_images(cls, settings: Any, n_train: int) -> int:
        """Return how many images the probe trains the method's encoder on, for the plan."""
        return 0

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

    Raises:
        BadInput: what the probe raises, or a number is not finite.
    """
    if runtime.device == "cpu" or probe.reads == "outputs":
        device = "cpu"
    else:
        from partbench.model import device_of

        device = device_of(runtime)
    meta = Prepared(data).meta
    began = time.monotonic()
    with threadpool_limits(runtime.threads):
        result = probe.run(source, data, settings, run.seed, device)
    for metric in result.metrics:
        if not math.isfinite(metric.value):
            raise BadInput(f"{run} on {meta['data_set']}: {metric.metric} is {metric.value}")
    with atomic(out.with_suffix(".parquet")) as path:
        result.samples.to_parquet(path)
    if result.pictures:
        with atomic(out.with_suffix(".npz")) as path, path.open("wb") as file:
            np.savez_compressed(file, **result.pictures)  # type: ignore[arg-type]
    write_json(
        out,
        {
            "run": run._asdict(),
            "eval": meta["data_set"],
            "probe": out.stem,
            "version": probe.version,
            "metrics": [metric._asdict() for metric in result.metrics],
            "details": result.details,
            "settings": settings.model_dump(mode="json"),
            "data_checksum": meta["checksum"],
            "subset": meta["subset"],
            "seconds": round(time.monotonic() - began, 3),
            "provenance": provenance(device),
        },
    )
    for path in result.scratch:
        path.unlink(missing_ok=True)
