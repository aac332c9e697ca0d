"""Read a results folder: whatever is there, in any state of completeness."""

import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

METRICS = [
    "method",
    "variant",
    "train",
    "seed",
    "eval",
    "probe",
    "metric",
    "setting",
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
    "role",
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
]
RUN = ["method", "variant", "train", "seed"]


class Run(NamedTuple):
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


class Pictures(NamedTuple):
    """What one run makes of the pictured images of a data set; uint8 [n, S, S, 3] each."""

    method: str
    variant: str
    train: str
    seed: str
    eval: str
    arrays: dict[str, np.ndarray]


class Cell(NamedTuple):
    """What one probe found of one run on a data set."""

    method: str
    variant: str
    train: str
    seed: str
    eval: str
    record: dict[str, Any]
    """Its json file."""
    arrays: dict[str, np.ndarray]
    """Its npz file, empty where there is none."""


class Results(NamedTuple):
    """All that the page is made of."""

    config: dict[str, Any]
    metrics: pd.DataFrame
    summary: pd.DataFrame
    runs: list[Run]
    data: list[Data]
    pictures: list[Pictures]
    landmarks: list[Cell]
    """The cells of the landmark probe."""
    videos: list[Cell]
    """The cells of the video probe."""
    parts: list[Cell]
    """The cells of the parts probe."""


def read(folder: Path) -> Results:
    """Read `results/<name>/`; what is missing or unreadable is empty, never an error."""
    runs = []
    for path in sorted((folder / "runs").glob("*/*/*/*/")):
        method, variant, train, seed = path.parts[-4:]
        record, log = _json(path / "train.json"), _log(path / "log.jsonl")
        runs.append(Run(method, variant, train, seed, record, log))
    data = []
    for path in sorted((folder / "data").glob("*/meta.json")):
        sheet = path.with_name("sheet.png")
        images = _opened(path.with_name("test.images.npy"), (3,))
        parts = _opened(path.with_name("test.parts.npy"), ())
        shown = sheet if sheet.exists() else None
        data.append(Data(path.parent.name, _json(path), shown, images, parts))
    pictures = []
    for path in sorted((folder / "cells").glob("*/*/*/*/*/pictures.npz")):
        arrays = _arrays(path)
        if "originals" in arrays:
            method, variant, train, seed, evaluated = path.parts[-6:-1]
            pictures.append(Pictures(method, variant, train, seed, evaluated, arrays))
    return Results(
        _json(folder / "config.json"),
        _table(folder / "metrics.parquet", METRICS),
        _table(folder / "summary.parquet", SUMMARY),
        runs,
        data,
        pictures,
        _cells(folder, "landmarks"),
        _cells(folder, "video"),
        _cells(folder, "parts"),
    )


class Found(NamedTuple):
    """What the results have of a method on a data set."""

    method: str
    variant: str
    role: str
    pictures: Pictures | None
    """Of the first seed that has any."""
    cells: list[Cell]
    """By seed."""


def found_on(
    results: Results,
    cells: Sequence[Cell],
    array: str,
    train: str,
    evaluated: str,
    methods: Iterable[str],
) -> list[Found]:
    """Return the methods with cells or pictures on a data set, trained ones first.

    Args:
        results: the results.
        cells: those of one probe.
        array: what pictures must hold.
        train: the training data.
        evaluated: the evaluation data.
        methods: in the page's order.
    """
    roles = {
        (str(row.method), str(row.variant)): str(row.role)
        for row in results.metrics[["method", "variant", "role"]].drop_duplicates().itertuples()
    }
    of: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if (cell.train, cell.eval) == (train, evaluated):
            of.setdefault((cell.method, cell.variant), []).append(cell)
    pictures: dict[tuple[str, str], Pictures] = {}
    for item in results.pictures:
        if (item.train, item.eval) == (train, evaluated) and array in item.arrays:
            pictures.setdefault((item.method, item.variant), item)
    found = [
        Found(*key, roles.get(key, "method"), pictures.get(key), of.get(key, []))
        for key in dict.fromkeys([*of, *pictures])
    ]
    places = {method: i for i, method in enumerate(methods)}
    return sorted(found, key=lambda f: (f.role != "method", places.get(f.method, len(places))))


def _cells(folder: Path, probe: str) -> list[Cell]:
    """Return the cells of one probe."""
    cells = []
    for path in sorted((folder / "cells").glob(f"*/*/*/*/*/{probe}.json")):
        method, variant, train, seed, evaluated = path.parts[-6:-1]
        arrays = _arrays(path.with_suffix(".npz"))
        cells.append(Cell(method, variant, train, seed, evaluated, _json(path), arrays))
    return cells


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries; `to_dict` takes four times as long."""
    names = [str(column) for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in table.to_numpy(object).tolist()]


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _log(path: Path) -> pd.DataFrame:
    """Return a log; a resumed run may have written a step twice, a killed one half a line."""
    lines = []
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
        with np.load(path) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile):
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
    for column in columns:
        if column in ("reduced", "subset", "dirty"):
            table[column] = table[column].fillna(False).astype(bool)
        elif column in numeric | {"seeds", "version"}:
            table[column] = pd.to_numeric(table[column])
        elif column != "values":
            table[column] = table[column].fillna("").astype(str)
    return table
