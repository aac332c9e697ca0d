"""A made-up results folder of many cells in every state, for the tests of the report's pages.

`python tests/fake_grid.py FOLDER` writes one of 10,000 cells to look at.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fake_results import HOSTILE, SCRIPT, summarise

from partbench.comparisons import comparisons
from partbench.files import sha256
from partbench.integrity import SEAL, _seal
from partbench.jobs import ENDS, FILE

PROBES = ("linear", "landmarks", "parts", "reconstruction", "generation")
METRICS = {
    "linear": (("top1", "%", "higher"), ("top5", "%", "higher")),
    "landmarks": (("iod_error", "% inter-ocular", "lower"), ("equivariance", "%", "lower")),
    "parts": (("fg_nmi", "%", "higher"), ("fg_ari", "%", "higher")),
    "reconstruction": (("psnr", "dB", "higher"), ("mean_image_psnr", "dB", "higher")),
    "generation": (("fd_random", "", "lower"), ("kd_random", "", "lower")),
}
TRACEBACK = (
    "Traceback (most recent call last):\n  File train.py, line 12, in step\n    {script}\n"
    "partbench: {run}: loss is NaN after {step} steps"
)
KILLED = "Slurm: OUT_OF_MEMORY"


def make(
    folder: Path, *, methods: int = 40, data: int = 10, seeds: int = 5, curves: bool = True
) -> Path:
    """Write a results folder of methods x data x seeds x five probes cells.

    Of the methods, the first two are floors and the third a ceiling; method 4 fails everywhere,
    method 5 is killed, method 6 has one seed, method 7 has not run, method 8 has NaN, method 9 has
    a hostile name, method 10 was not measured by everything, and method 11 comes with seeds lost.
    """
    rng = np.random.default_rng(0)
    names = [f"method_{i}" for i in range(methods)]
    names[9] = HOSTILE
    sets = [f"data{i}" for i in range(data)]
    rows: list[dict[str, Any]] = []
    jobs, ends = [], {}
    for number, method in enumerate(names):
        role = {0: "floor", 1: "floor", 2: "ceiling"}.get(number, "method")
        level = {"floor": 20.0, "ceiling": 90.0}.get(role, 30 + 50 * rng.random())
        for train in sets:
            for seed in range(1 if number == 6 else seeds):
                run = f"{method}/paper/{train}/{seed}"
                state, reason = _state(number, seed, run)
                log = f"logs/train/{method}/paper/{train}/{seed}.log"
                if state in ("done", "failed"):
                    jobs.append([log, [], [f"runs/{run}/model.pt"], []])
                    _text(folder / log, reason or "finished in 3 s")
                if state == "failed" and number == 5:
                    ends[log] = KILLED
                if state == "done" and number > 1:
                    _run(folder, run, seed, level, rng, curves=curves)
                for probe in PROBES:
                    cell = {
                        **{"method": method, "variant": "paper", "train": train, "seed": seed},
                        **{"eval": train, "probe": probe, "role": role},
                    }
                    product = f"cells/{run}/{train}/{probe}.json"
                    jobs.append(
                        [f"logs/{probe}/{run}.log", [f"runs/{run}/model.pt"], [product], []]
                    )
                    if state != "done":
                        rows.append(_row(**cell, status=state, reason=reason))
                    elif number == 10 and probe != "linear":
                        why = f"the method offers nothing for {probe}"
                        rows.append(_row(**cell, status="not applicable", reason=why))
                    else:
                        rows += _measure(folder, cell, product, level, number == 8, rng)
    metrics = pd.DataFrame(rows)
    metrics.to_parquet(folder / "metrics.parquet")
    summarise(metrics).to_parquet(folder / "summary.parquet")
    tested = metrics[metrics["value"].notna() | (metrics["status"] != "done")]
    comparisons(tested, folder).to_parquet(folder / "comparisons.parquet")
    _text(folder / FILE, json.dumps(jobs))
    _text(folder / ENDS, json.dumps(ends))
    config = {
        **{"name": "grid", "seeds": list(range(seeds)), "comparable": True, "probes": {}},
        "data": {name: {"reader": "toy"} for name in sets},
        "runs": [{"train": sets[0], "methods": {name: ["paper"] for name in names}}],
    }
    _record(folder / "config.json", config)
    return folder


def _state(number: int, seed: int, run: str) -> tuple[str, str]:
    if number == 4 or (number == 11 and seed == 1):
        return "failed", TRACEBACK.format(script=SCRIPT, run=run, step=100 + seed)
    if number == 5:
        return "failed", f"step 90, loss 2.{seed}"
    if number == 7:
        return "missing", ""
    return "done", ""


def _row(**values: Any) -> dict[str, Any]:
    empty = {
        **{"metric": "", "setting": "", "settings": "{}", "value": np.nan, "unit": ""},
        **{"better": "higher", "n": 500, "note": "", "status": "done", "reason": ""},
        **{"random": True, "reduced": False, "subset": False, "reference": False, "version": 1},
        **{"data_checksum": "0f" * 32, "commit": "c0ffee" * 6, "dirty": False, "device": "cpu"},
        **{"seconds": 61.5, "peak_memory_mb": 812.0, "path": "", "samples": "", "scale": 1.0},
        "pretrained_on": "",
    }
    return empty | values


def _measure(
    folder: Path,
    cell: dict[str, Any],
    product: str,
    level: float,
    undefined: bool,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    _record(
        folder / product,
        {
            **{"metrics": [], "details": {}, "settings": {"standardize": True}, "seconds": 1.25},
            "data_checksum": "0f" * 32,
            "provenance": {"command": f"partbench probe {cell['probe']}", "commit": "c0ffee" * 6},
        },
    )
    rows = []
    for metric, unit, better in METRICS[cell["probe"]]:
        value = level + float(rng.normal(0, 2))
        settings = {"k": 4} if cell["probe"] == "parts" else {}
        rows.append(
            _row(
                **cell,
                metric=metric,
                unit=unit,
                better=better,
                setting="K = 4" if settings else "",
                settings=json.dumps(settings),
                value=np.nan if undefined else value if better == "higher" else 100 - value,
                reference=metric == "mean_image_psnr",
                path=product,
            )
        )
    return rows


def _run(
    folder: Path, run: str, seed: int, level: float, rng: np.random.Generator, *, curves: bool
) -> None:
    path = folder / "runs" / run
    path.mkdir(parents=True, exist_ok=True)
    log = path / "log.jsonl"
    if curves:
        losses = level * np.exp(-np.arange(40) / 9) + rng.random(40)
        lines = (
            json.dumps({"step": i, "images": 64 * i, "all/loss": loss, "all/kl": loss / 3})
            for i, loss in enumerate(losses.tolist())
        )
        log.write_text("\n".join(lines))
    _record(
        path / "train.json",
        {
            **{"settings": {"epochs": 9}, "changes": {"note": [None, SCRIPT]}, "steps": 400},
            **{"images": 25600, "parameters": 412_345, "seconds": 61.5, "final": {"all/loss": 1.5}},
            **{"images_per_second": 416.3, "peak_memory_mb": 812.0},
            "log": sha256(log) if curves else "",
            "provenance": {
                **{"commit": "c0ffee" * 6, "dirty": seed == 1, "device": "cpu", "cpu": "Made-up"},
                "command": f"partbench train --note '{SCRIPT}'",
                "versions": {"torch": "2.9.0"},
                "finished": f"2025-01-0{seed + 1}T12:34:56+00:00",
            },
        },
    )


def _record(path: Path, values: dict[str, Any]) -> None:
    """Write a record at once: to write thousands safely takes minutes."""
    _text(path, json.dumps(values | {SEAL: _seal(values)}))


def _text(path: Path, words: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(words)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
