"""A configuration of 10,000 cells: what Snakemake and the tables take at that size.

The results folder is filled with files as finished runs leave them: models that are empty, records
of trainings, and cells with outcomes by sample. In it, a dry run finds nothing to do, one with
`-R train_vae` finds that method's jobs alone, `gather` makes the tables, and `report` the pages. A
dry run without results lists every job.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks import common
from partbench import published
from partbench.config import Config, cells, check, method_settings, probe_settings, runs
from partbench.files import sha256
from partbench.gather import gather, write
from partbench.integrity import write_record
from partbench.probe import FORMAT
from partbench.report import page

ROOT = Path(__file__).parent.parent
DATA_SETS = 5
VARIANTS = {"patchvae": ["demo", "demo+lw"], "vae": ["demo"], "bigan": ["demo"],
            "random_init": ["demo"]}  # fmt: skip
EVALS = 4
SAMPLES = 100
DRY_RUN_LIMIT, MEMORY_LIMIT, REPORT_LIMIT = 60.0, 4 * 2**30, 180.0
METHOD = "vae"
"""Whose cells are asked for again."""


def values(n: int) -> dict[str, Any]:
    """Return a configuration of at least `n` cells, as many as whole seeds give."""
    per_seed = DATA_SETS * sum(map(len, VARIANTS.values())) * EVALS
    names = [f"toy{i}" for i in range(DATA_SETS)]
    return {
        "name": "scale",
        "comparable": False,
        "seeds": list(range(-(-n // per_seed))),
        "runtime": {"device": "cpu", "threads": 1},
        "data": {name: {"reader": "toy", "size": 32, "test": SAMPLES} for name in names},
        "probes": {"linear": {"cs": [0.1]}},
        "runs": [
            {
                "train": name,
                "methods": VARIANTS,
                "probes": {"linear": [names[(i + j) % DATA_SETS] for j in range(EVALS)]},
            }
            for i, name in enumerate(names)
        ],
    }


def finish(config: Config, results: Path) -> None:
    """Write what finished runs leave in a results folder, older files first."""
    draw = np.random.default_rng(0)
    made_by = {"provenance": {"code": "", "commit": "", "dirty": False, "device": "cpu"}}
    for name in config.data:
        for file in (f"data/{name}.files.json", f"data/{name}/meta.json"):
            _touch(results / file)
    _touch(results / "config.json")
    for run in runs(config):
        model = results / "runs" / str(run) / "model.pt"
        settings = method_settings(config, run.method, run.variant)
        _touch(model)
        write_record(
            model.with_name("train.json"),
            {
                "settings": settings.model_dump(mode="json"),
                "subset": False,
                "data_checksum": run.train,
                "seconds": 1.0,
                "peak_memory_mb": 1.0,
                **made_by,
            },
        )
    for cell in cells(config):
        path = results / "cells" / f"{cell}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".pictures.npz").touch()
        outcomes = draw.random(SAMPLES) < 0.5
        pd.DataFrame({"top1": outcomes, "top1 C": ~outcomes}).to_parquet(
            path.with_suffix(".parquet")
        )
        metrics = [
            {
                **{"metric": metric, "setting": {}, "value": 100 * float(which.mean())},
                **{"unit": "%", "better": "higher", "n": SAMPLES, "samples": metric},
                **{"scale": 100.0, "note": "", "reference": False},
            }
            for metric, which in (("top1", outcomes), ("top1 C", ~outcomes))
        ]
        write_record(
            path,
            {
                "format": FORMAT,
                "version": 1,
                "metrics": metrics,
                "samples": sha256(path.with_suffix(".parquet")),
                "details": {},
                "settings": probe_settings(config, cell.probe, cell.eval).model_dump(mode="json"),
                "data_checksum": cell.eval,
                "subset": False,
                "seconds": 1.0,
                **made_by,
            },
        )


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def dry_run(folder: Path, *arguments: str) -> tuple[dict[str, Any], Counter[str], list[str]]:
    """Return what a dry run takes, how many jobs of each rule it lists, and what these make."""
    command = [
        *(sys.executable, "-m", "snakemake", "--dry-run", "--snakefile", str(ROOT / "Snakefile")),
        *("--configfile", "scale.yaml", "--rerun-triggers", "mtime", *arguments),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PARTBENCH_DATA": str(folder)}
    taken: list[Any] = []

    def run() -> None:
        with (folder / "listed.txt").open("w") as file:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file,
                                       stderr=subprocess.STDOUT)  # fmt: skip
            taken[:] = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(taken[1])

    seconds = common.timed(run)
    text = (folder / "listed.txt").read_text()
    if taken[1]:
        raise SystemExit(f"{' '.join(command)} failed:\n{text[-2000:]}")
    jobs = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", text, re.MULTILINE)
    makes = [line for _, block in jobs for line in block.splitlines() if "    output:" in line]
    memory = taken[2].ru_maxrss * 1024
    result = {**seconds.json(), "memory": memory, "jobs": len(jobs)}
    return result, Counter(rule for rule, _ in jobs), makes


def limits(name: str, measured: dict[str, Any]) -> dict[str, Any]:
    """Print a dry run against its limits; return both for the json."""
    print(f"{name}: {measured['jobs']} jobs, {measured['memory'] / 2**30:.2f} GiB")
    limit = common.report_limit(name, measured["cpu"], DRY_RUN_LIMIT)
    return {**measured, **limit, "memory_met": measured["memory"] <= MEMORY_LIMIT}


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.arguments(__doc__, "scale")
    parser.add_argument("--cells", type=int, default=10_000)
    args = parser.parse_args(argv)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scale.yaml").write_text(yaml.safe_dump(values(args.cells), sort_keys=False))
        config = check(values(args.cells), "scale.yaml")
        result["cells"] = len(cells(config))
        measured, of_rule, _ = dry_run(folder)
        assert of_rule["probe_linear"] == result["cells"]
        result["dry_run"] = limits("scale, dry run of all", measured)

        finish(config, folder / "results/scale")
        tables: list[Any] = []
        spent = common.timed(lambda: tables.append(gather(config, folder / "results/scale")))
        assert (tables[0].metrics["status"] == "done").all()
        written = common.timed(lambda: write(tables[0], folder / "results/scale"))
        index = folder / "report/scale/index.html"
        pages = common.timed(lambda: page.write(folder / "results/scale", index, published.load()))
        files = list(index.parent.glob("*.html"))
        result["tables_and_pages"] = {
            **{"gather": spent.json(), "write": written.json(), "pages": pages.json()},
            **{"html_files": len(files), "html_bytes": sum(p.stat().st_size for p in files)},
            **common.report_limit(
                "scale, tables and pages", spent.cpu + written.cpu + pages.cpu, REPORT_LIMIT
            ),
        }
        measured, of_rule, _ = dry_run(folder)
        assert not of_rule, of_rule
        result["nothing_to_do"] = limits("scale, dry run of nothing", measured)
        measured, of_rule, makes = dry_run(folder, "-R", f"train_{METHOD}")
        of_method = sum(cell.run.method == METHOD for cell in cells(config))
        assert of_rule["probe_linear"] == of_rule["extract"] == of_method, of_rule
        assert all(f"/{METHOD}/" in made for made in makes if "/cells/" in made)
        result["one_method"] = limits(f"scale, dry run of -R train_{METHOD}", measured)
    machine = common.machine("cpu", ("snakemake", "pandas"))
    common.write(args.out, "scale", {"machine": machine, **result})


if __name__ == "__main__":
    main()
