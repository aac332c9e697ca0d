"""From the cells' files to one long table and its summary.

`metrics.parquet` (and .csv) has one row a number: what was run, the number, where it comes from.
Cells that failed, were skipped, are missing or do not apply are rows too, with the reason. What
tells a number from others of its metric stands in two columns: `setting`, in words, and `settings`,
as json that the probe's `Setting` parses. `pretrained_on` says what a network that the method reads
or starts from was trained on. `summary.parquet` (and .csv) has one row for each number over all its
seeds: mean and 95 % interval; one more for the mean over the official splits of a data set, where
all were measured.
`comparisons.parquet` (and .csv) tests trained methods against floor controls.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from partbench import method as methods
from partbench import plugins
from partbench.comparisons import Outcomes, comparisons, outcomes_by_seed
from partbench.config import (
    Cell,
    Config,
    cells,
    method_settings,
    probe_settings,
)
from partbench.errors import BadInput
from partbench.files import atomic, write_json
from partbench.integrity import Damaged, read_record
from partbench.jobs import Jobs
from partbench.metrics.intervals import over_seeds, over_seeds_and_samples
from partbench.official_splits import split_means, trained_on
from partbench.probe import FORMAT, Probe, read_cell

COLUMNS: dict[str, Any] = {
    "method": str,
    "variant": str,
    "train": str,
    "seed": int,
    "eval": str,
    "probe": str,
    "metric": str,
    "setting": str,
    "settings": str,
    "value": float,
    "unit": str,
    "better": str,
    "n": int,
    "note": str,
    "reference": bool,
    "status": str,
    "reason": str,
    "role": str,
    "random": bool,
    "pretrained_on": str,
    "reduced": bool,
    "subset": bool,
    "version": int,
    "data_checksum": str,
    "train_checksum": str,
    "code": str,
    "train_code": str,
    "commit": str,
    "dirty": bool,
    "device": str,
    "seconds": float,
    "peak_memory_mb": float,
    "path": str,
    "samples": str,
    "scale": float,
}
KEYS = ["method", "variant", "train", "eval", "probe", "metric", "setting", "settings"]
"""What tells the numbers of the summary apart."""
DEFAULTS: dict[type, Any] = {str: "", int: 0, float: float("nan"), bool: False}


class Tables(NamedTuple):
    """What stands in a results folder."""

    metrics: pd.DataFrame
    """One row a number, or a cell without one."""
    summary: pd.DataFrame
    """One row a number over its seeds."""
    damage: list[Damaged]
    """What is wrong with files that are not as partbench wrote them; their cells failed."""
    comparisons: pd.DataFrame
    """One row a trained method and a floor control, see `partbench.comparisons`."""


def gather(config: Config, results: Path) -> Tables:
    """Return the tables of what stands in a results folder.

    A cell failed if a job on the way to it did, with the last lines of its log, or if one of its
    files is damaged.

    Args:
        config: whose cells are looked for.
        results: its results folder.

    Raises:
        BadInput: cells of one metric were made by different definition versions, or measured or
            trained on data with different checksums.
    """
    jobs = Jobs(results)
    damage: list[Damaged] = []
    rows = [row for cell in cells(config) for row in _rows(config, results, jobs, damage, cell)]
    table = pd.DataFrame(
        [{c: row.get(c, DEFAULTS[t]) for c, t in COLUMNS.items()} for row in rows]
    ).astype(COLUMNS)
    _refuse_mixtures(table)
    summary = summarize(table, results, split_means(config))
    return Tables(table, summary, damage, comparisons(table, results))


def _rows(
    config: Config, results: Path, jobs: Jobs, damage: list[Damaged], cell: Cell
) -> list[dict[str, Any]]:
    cls = methods.load(cell.run.method)
    settings = method_settings(config, cell.run.method, cell.run.variant)
    probe = plugins.load("probes", cell.probe, Probe)  # type: ignore[type-abstract]
    random = methods.is_random(cls, settings)
    base = {
        **cell.run._asdict(),
        "eval": cell.eval,
        "probe": cell.probe,
        "role": methods.role_of(cls, settings),
        "random": random or probe.random(""),
        "pretrained_on": cls.pretrained_on(settings),
        "reduced": bool(methods.changes(cls, cell.run.variant, settings)),
    }
    if cell.skip:
        return [base | {"status": "not applicable", "reason": cell.skip}]
    state, reason = jobs.state(str(cell), str(cell.run))
    if state != "done":
        return [base | {"status": state, "reason": reason}]
    path = results / "cells" / f"{cell}.json"
    model = results / "runs" / str(cell.run) / "model.pt"
    try:
        record = read_cell(path)
        train = read_record(model.with_name("train.json"), model)
        columns_of_numbers = _settings(probe, record)
        if columns_of_numbers is None:
            reason = "made by an earlier version; run again"
            return [base | {"status": "missing", "reason": reason}]
    except Damaged as error:
        damage.append(error)
        return [base | {"status": "failed", "reason": str(error)}]
    measure = probe_settings(config, cell.probe, cell.eval)
    for written, now in ((train, settings), (record, measure)):
        if written["settings"] != now.model_dump(mode="json"):
            reason = "made with other settings than the configuration's; run again"
            return [base | {"status": "missing", "reason": reason}]
    common = base | {
        "status": "done",
        "subset": record["subset"] or train["subset"],
        "version": record["version"],
        "data_checksum": record["data_checksum"],
        "train_checksum": train["data_checksum"],
        "code": record["provenance"].get("code", ""),
        "train_code": train["provenance"].get("code", ""),
        "commit": record["provenance"]["commit"],
        "dirty": record["provenance"]["dirty"],
        "device": train["provenance"]["device"],
        "seconds": train["seconds"],
        "peak_memory_mb": train["peak_memory_mb"],
        "path": str(path.relative_to(results)),
    }
    return [
        common | metric | columns | {"random": random or probe.random(metric["metric"])}
        for metric, columns in zip(record["metrics"], columns_of_numbers, strict=True)
    ]


def _settings(probe: type[Probe], record: dict[str, Any]) -> list[dict[str, str]] | None:
    """Return for each number of a cell `setting`, in words, and `settings`, as sorted json.

    None if the cell was written by a version whose settings this one cannot read.
    """
    if record.get("format") != FORMAT:
        return None
    try:
        settings = [probe.Setting.parse(metric["setting"], "") for metric in record["metrics"]]
    except BadInput:
        return None
    return [
        {"setting": str(s), "settings": json.dumps(s.record(), sort_keys=True)} for s in settings
    ]


def _refuse_mixtures(table: pd.DataFrame) -> None:
    done = table[table["status"] == "done"]
    for key, column, what, again in (
        ("probe", "version", "versions of the definition", "cells (snakemake -R probe_{})"),
        ("eval", "data_checksum", "data checksums", "cells (delete their files)"),
        ("train", "train_checksum", "checksums of the training data", "runs (delete them)"),
    ):
        for name, group in done.groupby(key):
            if group[column].nunique() > 1:
                first = group.drop_duplicates(column)
                listed = "; ".join(f"{r[column]} in {r['path']}" for _, r in first.iterrows())
                raise BadInput(
                    f"{key} {name}: cells with different {what} cannot stand in one table: "
                    f"{listed}. Repeat the older {again.format(name)}"
                )


def summarize(
    table: pd.DataFrame, results: Path, means: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> pd.DataFrame:
    """Return one row per number over its seeds, with the 95 % interval of its mean.

    The interval covers seeds and test samples together where the probe kept per-sample outcomes,
    else the seeds alone; it is missing where there is one seed and no per-sample outcome. Where
    test samples come in groups, it covers groups.

    Args:
        table: rows of the metrics table.
        results: the results folder, whose cells have the outcomes.
        means: data set -> its official splits. A number that was measured on all of them has a
            row for their mean, too, if each run was trained on the split of the same number or all
            on one data set; a seed counts if it has all splits.
    """
    done = table[table["status"] == "done"]
    rows = [
        _number(key, group, group["value"], outcomes_by_seed(group, results))
        for key, group in done.groupby(KEYS, sort=False)
    ]
    for whole, splits in means.items():
        of_splits = done[done["eval"].isin(splits)]
        pairs = zip(of_splits["train"], of_splits["eval"], strict=True)
        train = [trained_on(*pair, means) for pair in pairs]
        renamed = of_splits.assign(split=of_splits["eval"], eval=whole, train=train)
        for key, group in renamed.groupby(KEYS, sort=False):
            whole_seeds = group.groupby("seed")["split"].transform("nunique") == len(splits)
            group = group[whole_seeds].sort_values("seed", kind="stable")
            if len(group):
                parts = [group[group["split"] == split] for split in splits]
                values = group.groupby("seed")["value"].mean()
                rows.append(_number(key, group, values, _joined(parts, results)))
    columns = [
        *KEYS,
        *("role", "random", "pretrained_on", "mean", "low", "high", "sd_seeds", "seeds"),
        *("values", "n", "unit", "better", "reduced", "subset", "note", "reference"),
    ]
    return pd.DataFrame(rows, columns=columns)


def _number(
    key: Sequence[Hashable], rows: pd.DataFrame, values: pd.Series, outcomes: Outcomes | None
) -> dict[str, Any]:
    """Return a row of the summary.

    Args:
        key: what `KEYS` names.
        rows: of the metrics table, of all its seeds.
        values: [S], by seed.
        outcomes: behind them, if they were kept.
    """
    first = rows.iloc[0]
    # A sample without an outcome (NaN) in some seed cannot be compared between seeds.
    draws = None
    if outcomes is not None and outcomes.counted.any():
        draws = outcomes.draws(outcomes.counted)
    if draws is not None and draws.shape[1] > 1:
        interval = over_seeds_and_samples(draws)
    else:
        interval = over_seeds(values)
    return dict(zip(KEYS, key, strict=True)) | {
        "role": first["role"],
        "random": bool(rows["random"].any()),
        "pretrained_on": first["pretrained_on"],
        **interval._asdict(),
        "sd_seeds": values.std(ddof=1) if len(values) > 1 else float("nan"),
        "seeds": len(values),
        "values": values.tolist(),
        "n": int(rows.loc[rows["seed"] == first["seed"], "n"].sum()),
        "unit": first["unit"],
        "better": first["better"],
        "reduced": bool(rows["reduced"].any()),
        "subset": bool(rows["subset"].any()),
        "note": first["note"],
        "reference": first["reference"],
    }


def _joined(parts: Sequence[pd.DataFrame], results: Path) -> Outcomes | None:
    """Return the outcomes of several splits side by side, weighted so that splits count alike."""
    kept = [outcomes_by_seed(part, results) for part in parts]
    outcomes = [one for one in kept if one is not None and one.counted.any()]
    if len(outcomes) < len(parts):
        return None
    counts = [int(one.counted.sum()) for one in outcomes]
    weights = [sum(counts) / (len(counts) * count) for count in counts]
    values = [weight * one.values for weight, one in zip(weights, outcomes, strict=True)]
    groups, first = [], 0
    for one in outcomes:
        # A sample without a group is one of its own.
        own = np.arange(one.values.shape[1]) if one.groups is None else one.groups
        groups.append(np.unique(own, return_inverse=True)[1] + first)
        first = int(groups[-1].max()) + 1
    return Outcomes(np.concatenate(values, axis=1), np.concatenate(groups))


JSON_TYPES = {"b": "boolean", "i": "integer", "f": ["number", "null"]}


def write(tables: Tables, results: Path) -> None:
    """Write the tables as parquet and csv, and the summary as json with its schema, too."""
    frames = {
        "metrics": tables.metrics,
        "summary": tables.summary,
        "comparisons": tables.comparisons,
    }
    for name, frame in frames.items():
        with atomic(results / f"{name}.parquet") as path:
            frame.to_parquet(path)
        flat = frame.copy()
        if "values" in flat:
            flat["values"] = [json.dumps(v) for v in flat["values"]]
        with atomic(results / f"{name}.csv") as path:
            flat.to_csv(path, index=False)
    rows = json.loads(tables.summary.to_json(orient="records", double_precision=15))
    write_json(results / "summary.json", rows)
    write_json(results / "summary.schema.json", schema(tables.summary))


def schema(summary: pd.DataFrame) -> dict[str, Any]:
    """Return the JSON Schema of the summary as json: a list of objects, one a number."""
    properties: dict[str, Any] = {}
    for column, dtype in summary.dtypes.items():
        properties[str(column)] = {"type": JSON_TYPES.get(dtype.kind, "string")}
    properties["values"] = {"type": "array", "items": {"type": ["number", "null"]}}
    for ends in ("mean", "low", "high", "sd_seeds"):
        properties[ends] = {"type": ["number", "null"]}
    properties["better"] = {"enum": ["higher", "lower"]}
    properties["role"] = {"enum": ["method", "floor", "ceiling"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Numbers over their seeds",
        "type": "array",
        "items": {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        },
    }
