"""Read a results folder: whatever is there, in any state of completeness."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from partbench import comparisons
from partbench.data.catalogue import have_changed
from partbench.errors import BadInput
from partbench.files import data_root, sha256
from partbench.integrity import check_archive, read_record
from partbench.jobs import Jobs
from partbench.outputs.arrays import read_images
from partbench.provenance import READER

METRICS = [
    "method",
    "variant",
    "train",
    "seed",
    "eval",
    "probe",
    "metric",
    "setting",
    "settings",
    "value",
    "unit",
    "better",
    "n",
    "note",
    "status",
    "reason",
    "role",
    "reduced",
    "subset",
    "version",
    "data_checksum",
    "commit",
    "dirty",
    "device",
    "seconds",
    "peak_memory_mb",
    "path",
]
SUMMARY = [
    "method",
    "variant",
    "train",
    "eval",
    "probe",
    "metric",
    "setting",
    "settings",
    "role",
    "random",
    "pretrained_on",
    "mean",
    "low",
    "high",
    "sd_seeds",
    "seeds",
    "values",
    "n",
    "unit",
    "better",
    "reduced",
    "subset",
    "note",
    "reference",
]
RUN = ["method", "variant", "train", "seed"]


class RunRecord(NamedTuple):
    """One training."""

    method: str
    variant: str
    train: str
    seed: str
    record: dict[str, Any]
    """Its train.json; empty while it is not finished, or if it failed."""
    log: pd.DataFrame
    """Its log, one row a logged step; may be empty."""

    @property
    def path(self) -> str:
        """Its folder below `runs/`."""
        return f"{self.method}/{self.variant}/{self.train}/{self.seed}"


class Data(NamedTuple):
    """One prepared data set."""

    name: str
    meta: dict[str, Any]
    sheet: Path | None
    images: np.ndarray | None
    """Of its test split, uint8 [N, S, S, 3], opened and not read."""
    parts: np.ndarray | None = None
    """Of its test split, uint8 [N, S, S], likewise."""
    changed: bool = False
    """Whether the files that it was prepared from have changed since."""
    reader: Mapping[str, Any] = {}
    """Where its reader comes from, see `partbench.provenance.origin`; empty of partbench's own."""
    neighbours: Path | None = None
    """A picture of its images' neighbours, if they were searched for."""


class PictureRecord(NamedTuple):
    """What one run makes of the pictured images of a data set.

    Each capability reads its own of it: `partbench.outputs.<capability>.Pictures.read(arrays)`.
    """

    method: str
    variant: str
    train: str
    seed: str
    eval: str
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class CellRecord:
    """What one probe measured of one run on a data set; its files are read when asked for."""

    method: str
    variant: str
    train: str
    seed: str
    eval: str
    path: Path
    """Its json file."""

    @cached_property
    def record(self) -> dict[str, Any]:
        """Its json file's content."""
        return _json(self.path)

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Its npz file's content, empty where there is none."""
        return _arrays(self.path.with_suffix(".npz"))


class Ending(NamedTuple):
    """How the job ended that left a cell without numbers."""

    log: str = ""
    """Its log; the path counts from the results folder."""
    end: str = ""
    """The state in which Slurm ended it, in words; empty if that is not known."""


class Results(NamedTuple):
    """All that the pages are made of."""

    config: dict[str, Any]
    metrics: pd.DataFrame
    summary: pd.DataFrame
    runs: list[RunRecord]
    data: list[Data]
    pictures: list[PictureRecord]
    cells: dict[str, list[CellRecord]]
    """By probe."""
    comparisons: pd.DataFrame
    """See `partbench.comparisons`."""
    jobs: Jobs | None = None
    by_name: Mapping[tuple[str, ...], CellRecord] = {}
    """Cells by method, variant, training data, seed, evaluation data and probe."""

    def ending(self, cell: Mapping[str, Any]) -> Ending:
        """Return how the job ended that failed a cell, given its row of the metrics."""
        if self.jobs is None:
            return Ending()
        path = "/".join(str(cell[key]) for key in (*RUN, "eval", "probe"))
        failure = self.jobs.failure(f"cells/{path}.json")
        return Ending(failure.log, failure.end) if failure else Ending()

    def log_of(self, product: str) -> str:
        """Return the log of the job that makes a product; empty if that is not known."""
        return self.jobs.log_of(product) if self.jobs else ""

    def cell(self, row: Mapping[str, Any]) -> CellRecord | None:
        """Return the cell of a row of the metrics, None if its file is missing."""
        key = tuple(str(row[name]) for name in (*RUN, "eval", "probe"))
        return self.by_name.get(key)


def read(folder: Path) -> Results:
    """Read `results/<name>/`; what is missing or unreadable is empty, never an error."""
    runs = []
    for path in sorted((folder / "runs").glob("*/*/*/*/")):
        method, variant, train, seed = path.parts[-4:]
        record = _json(path / "train.json")
        log = _log(path / "log.jsonl", record)
        runs.append(RunRecord(method, variant, train, seed, record, log))
    data = []
    for path in sorted((folder / "data").glob("*/meta.json")):
        sheet = path.with_name("sheet.png")
        images = _opened(path.with_name("test.images.npy"), (3,))
        parts = _opened(path.with_name("test.parts.npy"), ())
        shown = sheet if sheet.exists() else None
        changed = _has_changed(path.parent)
        reader = _json(path.with_name(READER))
        found = path.with_name("neighbours.png")
        near = found if found.exists() else None
        data.append(
            Data(path.parent.name, _json(path), shown, images, parts, changed, reader, near)
        )
    pictures: dict[Path, PictureRecord] = {}
    for path in sorted((folder / "cells").glob("*/*/*/*/*/*.pictures.npz")):
        # Each extraction draws all that the run offers, so one probe's pictures do for the others.
        if path.parent in pictures:
            continue
        arrays = _arrays(path)
        if read_images(arrays, "originals") is not None:
            method, variant, train, seed, evaluated = path.parts[-6:-1]
            pictures[path.parent] = PictureRecord(method, variant, train, seed, evaluated, arrays)
    cells: dict[str, list[CellRecord]] = {}
    by_name: dict[tuple[str, ...], CellRecord] = {}
    for path in sorted((folder / "cells").glob("*/*/*/*/*/*.json")):
        method, variant, train, seed, evaluated = path.parts[-6:-1]
        cell = CellRecord(method, variant, train, seed, evaluated, path)
        cells.setdefault(path.stem, []).append(cell)
        by_name[(method, variant, train, seed, evaluated, path.stem)] = cell
    return Results(
        _json(folder / "config.json"),
        _table(folder / "metrics.parquet", METRICS),
        _table(folder / "summary.parquet", SUMMARY),
        runs,
        data,
        list(pictures.values()),
        cells,
        _table(folder / "comparisons.parquet", list(comparisons.COLUMNS)),
        Jobs(folder),
        by_name,
    )


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries; `to_dict` takes four times as long."""
    names = [str(column) for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in table.to_numpy(object).tolist()]


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_record(path)
    except BadInput:
        return {}


def _has_changed(prepared: Path) -> bool:
    try:
        return have_changed(prepared, data_root())
    except (BadInput, KeyError):
        return False


def _log(path: Path, record: dict[str, Any]) -> pd.DataFrame:
    """Return a log; a resumed run may have written a step twice, a killed one half a line.

    Empty if it is not the log of which the finished run's record has the checksum.
    """
    lines = []
    if record and path.exists() and sha256(path) != record.get("log"):
        return pd.DataFrame()
    try:
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
    except OSError:
        pass
    log = pd.DataFrame(lines)
    return log.drop_duplicates("step", keep="last") if "step" in log else pd.DataFrame()


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        check_archive(path)
        with np.load(path) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, BadInput):
        return {}


def _opened(path: Path, channels: tuple[int, ...]) -> np.ndarray | None:
    """Open uint8 [N, S, S, *channels], not read; None if it is anything else."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = array.dtype == np.uint8 and array.ndim >= 3 and array.shape[3:] == channels
    return array if fits else None


def _table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Return a table with all its columns; text is never missing, flags are booleans."""
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError):
        table = pd.DataFrame()
    table = table.reindex(columns=columns)
    numeric = {"value", "n", "seconds", "peak_memory_mb", "mean", "low", "high", "sd_seeds"}
    numeric |= {name for name, kind in comparisons.COLUMNS.items() if kind is not str}
    for column in columns:
        if column in ("reduced", "subset", "dirty", "reference"):
            table[column] = table[column].fillna(False).astype(bool)
        elif column == "random":  # unless it is known that the seed changes nothing
            table[column] = table[column].fillna(True).astype(bool)
        elif column in numeric | {"seeds", "version"}:
            table[column] = pd.to_numeric(table[column])
        elif column != "values":
            table[column] = table[column].astype(object).fillna("").astype(str)
    return table
