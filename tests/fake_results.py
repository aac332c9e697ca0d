"""A made-up results folder with cells in every state, for the tests of the report.

`python tests/fake_results.py FOLDER` writes one to look at.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from partbench.comparisons import comparisons
from partbench.files import sha256
from partbench.integrity import write_record
from partbench.probe import Setting
from partbench.probes.classify import ClassifySetting, Freeze
from partbench.probes.landmarks import INTERCEPT, PLAIN, LandmarkSetting
from partbench.probes.parts import FOREGROUNDS, Foreground, PartSetting

SCRIPT = "<script>alert(1)</script>"
HOSTILE = "<img src=x onerror=alert(1)>"
"""Without a slash, so that it can be a folder's name."""
LOG = f"step 400 loss nan\nTraceback (most recent call last):\n  {SCRIPT}\nBadInput: loss is NaN"


class Fake(NamedTuple):
    """A method that is made up."""

    method: str
    variant: str
    role: str
    level: float
    """Its accuracy on toy, in %."""


FAKES = (
    Fake("patchvae", "demo", "method", 63.0),
    Fake("patchvae", "lw+demo", "method", 65.5),
    Fake("vae", "demo", "method", 57.0),
    Fake("vae", "beta+demo", "method", 49.0),
    Fake("bigan", "demo", "method", 46.0),
    Fake(HOSTILE, "paper", "method", 30.0),
    Fake("random_init", "demo", "floor", 45.0),
    Fake("raw_pixels", "paper", "floor", 38.0),
    Fake("supervised", "demo", "ceiling", 88.0),
)
FROZEN: tuple[Freeze, ...] = ("conv1", "conv1-3", "conv1-5")
KEYPOINTS = {
    ("patchvae", "demo"): 4.0,
    ("patchvae", "lw+demo"): 6.0,
    ("vae", "demo"): 5.0,
    ("random_init", "demo"): 9.0,
}
"""Methods with keypoints, and their error on toy, in % of the inter-ocular distance."""
PART_NAMES = ("head", "torso", "arms", "legs", "tail")
PARTS = {
    ("patchvae", "demo"): 0.8,
    ("vae", "demo"): 0.5,
    ("bigan", "demo"): 0.65,
    ("random_init", "demo"): 0.1,
}
"""Methods with parts, and the share of pixels whose part is that of their label. BiGAN has six
parts and a foreground of its own, the others have four and are told the foreground."""
COMMON = ("role", "random", "n", "unit", "better", "reduced", "subset", "note", "reference")
"""Columns that all seeds of a number share."""
REFERENCES = ("oracle_", "constant_", "mean_shape")
TERMS = ("loss", "reconstruction", "kl_occurrence")


def make(folder: Path, *, comparable: bool = False, seeds: int = 3, extra: int = 0) -> Path:
    """Write a results folder.

    Args:
        folder: where; made if it is not there.
        comparable: also a full-size classification on cifar100, held against the paper's.
        seeds: how many.
        extra: further made-up methods, to fill long tables.
    """
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    fakes = [*FAKES, *(Fake(f"extra_{i}", "paper", "method", 50.0 + i % 9) for i in range(extra))]
    for fake in fakes:
        for seed in range(1 if fake.method == "supervised" else seeds):
            rows += _cells(folder, fake, seed, rng)
    if comparable:
        for fake, level in ((FAKES[0], 43.2), (FAKES[1], 47.0), (FAKES[2], 40.0)):
            extra = fake.variant.removesuffix("demo").rstrip("+")
            full = fake._replace(variant="+".join(filter(None, ["cifar100", extra])))
            for seed in range(seeds):
                rows += _classify(folder, full, seed, level, rng)
    metrics = pd.DataFrame(rows)
    folder.mkdir(parents=True, exist_ok=True)
    metrics.to_parquet(folder / "metrics.parquet")
    summarise(metrics).to_parquet(folder / "summary.parquet")
    comparisons(metrics, folder).to_parquet(folder / "comparisons.parquet")
    names = ["toy", *(["cifar100"] if comparable else [])]
    _write(
        folder / "config.json",
        {
            "name": "fake",
            "seeds": list(range(seeds)),
            "comparable": comparable,
            "runtime": {"device": "cpu"},
            "data": {name: {"reader": name} for name in names},
            "probes": {},
            "runs": [{"train": "toy", "methods": {f.method: [f.variant] for f in fakes}}],
        },
    )
    for name in names:
        _data(folder / "data" / name, name, rng)
    return folder


def summarise(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return one row a number over seeds, with a rough interval: only its form matters here."""
    key = ["method", "variant", "train", "eval", "probe", "metric", "setting", "settings"]
    rows = []
    for names, same in metrics[metrics["status"] == "done"].groupby(key, sort=False):
        first, values = same.iloc[0], same["value"].to_numpy()
        spread = float(np.std(values)) / np.sqrt(len(values)) + 0.025 * abs(values.mean())
        rows.append(
            dict(zip(key, names, strict=True))
            | {k: first[k] for k in COMMON}
            | {
                "mean": values.mean(),
                "low": values.mean() - 1.96 * spread,
                "high": values.mean() + 1.96 * spread,
                "sd_seeds": float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
                "seeds": len(values),
                "values": values.tolist(),
            }
        )
    return pd.DataFrame(rows)


def _row(
    fake: Fake, train: str, seed: int, probe: str, setting: Setting | None = None, **values: Any
) -> dict[str, Any]:
    setting = setting or Setting()
    run = f"{fake.method}/{fake.variant}/{train}/{seed}"
    return {
        "method": fake.method,
        "variant": fake.variant,
        "train": train,
        "seed": seed,
        "eval": train,
        "probe": probe,
        "metric": "",
        "setting": str(setting),
        "settings": json.dumps(setting.record(), sort_keys=True),
        "value": np.nan,
        "unit": "",
        "better": "higher",
        "n": 1000,
        "note": "",
        "reference": values.get("metric", "").startswith(REFERENCES),
        "status": "done",
        "reason": "",
        "role": fake.role,
        "random": True,
        "reduced": "demo" in fake.variant,
        "subset": False,
        "version": 1,
        "data_checksum": "0f" * 32,
        "commit": "c0ffee" * 6,
        "dirty": seed == 1,
        "device": "cpu",
        "seconds": 61.5,
        "peak_memory_mb": 812.0,
        "path": f"cells/{run}/{train}/{probe}.json",
        "samples": "",
        "scale": 1.0,
    } | values


def _cells(folder: Path, fake: Fake, seed: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    def row(probe: str, **values: Any) -> dict[str, Any]:
        return _row(fake, "toy", seed, probe, **values)

    failed = {"status": "failed", "reason": LOG}
    if fake.method == "bigan" and seed == 2:
        _log(folder, fake, "toy", seed, rng)
        return [row("linear", **failed), row("reconstruction", **failed)]
    if fake.variant == "beta+demo" and seed == 1:
        missing = {"status": "missing", "reason": "not run yet"}
        return [row("linear", **missing), row("reconstruction", **missing)]
    _run(folder, fake, "toy", seed, rng)
    note = f"C = 0.1 {SCRIPT}" if fake.method == HOSTILE else ""
    accuracy = fake.level + float(rng.normal(0, 1.2))
    error = 2.2 - accuracy / 60
    rows = [
        row("linear", metric="accuracy", value=accuracy, unit="%", note=note),
        row("linear", metric="log_loss", value=error, unit="nat", better="lower"),
        *_landmarks(folder, fake, seed),
        *_parts(folder, fake, seed),
    ]
    if fake.role != "method":
        why = "the method offers no reconstructions"
        return [*rows, row("reconstruction", status="not applicable", reason=why)]
    psnr = np.nan if fake.method == HOSTILE else 14 + fake.level / 20 + float(rng.normal(0, 0.1))
    return [*rows, row("reconstruction", metric="psnr", value=psnr, unit="dB")]


def _landmarks(folder: Path, fake: Fake, seed: int) -> list[dict[str, Any]]:
    """Write the cell of the landmark probe, of three landmarks of 60 images, and its pictures."""
    level = KEYPOINTS.get((fake.method, fake.variant))
    if level is None:
        return []
    rng = np.random.default_rng((seed, int(level)))
    errors = np.sort(rng.gamma(4, level / 4, 60))
    true = np.array([[8.0, 10.0], [22.0, 10.0], [15.0, 20.0]])
    without = LandmarkSetting(background=False)
    lower = {
        PLAIN: 1.2,
        INTERCEPT: 1.0,
        without: 1.3,
        LandmarkSetting(background=False, intercept=True): 1.1,
    }
    unit = "% inter-ocular"
    failed = float(100 * (errors > 10).mean())
    numbers: list[tuple[str, LandmarkSetting, float, str]] = [
        *(("iod_error", s, float(errors.mean() * factor), unit) for s, factor in lower.items()),
        *(("failure_rate", s, failed, "%") for s in (PLAIN, INTERCEPT)),
        *([("implicit_intercept", PLAIN, 0.31, unit)] if fake.method == "vae" else []),
        ("mean_shape", PLAIN, 9.5, unit),
        ("equivariance", PLAIN, level / 3, "% of window side"),
        ("equivariance_over_staying", PLAIN, 8 * level, "% of staying put"),
    ]
    thresholds = np.linspace(0, 15, 31)
    curves: dict[str, Any] = {"cumulative errors": {}, "few-shot": {}}
    for setting in (PLAIN, INTERCEPT):
        scaled = errors * lower[setting]
        shares = [float((scaled <= threshold).mean()) for threshold in thresholds]
        area = float(np.maximum(0, 1 - scaled / 10).mean())
        curves["cumulative errors"][str(setting)] = {
            "thresholds": thresholds.tolist(),
            "share": shares,
            "area": area,
            "area up to": 10.0,
        }
        curves["few-shot"][str(setting)] = {
            str(n): {"mean": level * (1 + 20 / n), "sd": None if n == 2000 else level / n}
            for n in (2000, 1, 10, 100)
        }
    faces = [
        {
            "index": int(i),
            "error": float(errors[i]),
            "predicted": (true + rng.normal(0, errors[i] / 6, true.shape)).tolist(),
            "true": [*true[:2].tolist(), [float("nan")] * 2],
            "visible": [True, True, False],
        }
        for i in range(60)
    ]
    background = fake.method == "patchvae"
    points = np.concatenate([np.tile(true, (8, 1, 1)), rng.normal(15, 6, (8, 8, 2))], axis=1)
    run = f"{fake.method}/{fake.variant}/toy/{seed}"
    cells = folder / "cells" / run / "toy"
    cells.mkdir(parents=True, exist_ok=True)
    details = {"k": points.shape[1], "background": background, **curves}
    details["faces"] = {"best": faces[:8], "worst": faces[:-9:-1]}
    keys = ("metric", "setting", "value", "unit")
    metrics = [dict(zip(keys, number, strict=True)) for number in numbers]
    _write(cells / "landmarks.json", {"metrics": _recorded(metrics), "details": details})
    if seed == 0:
        path = cells / "linear.pictures.npz"
        arrays = dict(np.load(path)) if path.exists() else {}
        images = {"originals": _images(np.random.default_rng(7), 8)}
        np.savez(path, **(images | arrays), keypoints=points.astype(np.float32))
    return [
        _row(fake, "toy", seed, "landmarks", **metric, better="lower", n=60) for metric in metrics
    ]


def _parts(folder: Path, fake: Fake, seed: int) -> list[dict[str, Any]]:
    """Write the cell of the parts probe, and parts on the pictured images."""
    level = PARTS.get((fake.method, fake.variant))
    if level is None:
        return []
    rng = np.random.default_rng((seed, int(100 * level)))
    own = fake.method == "bigan"
    k = 6 if own else 4
    known: Foreground = "own" if own else "mask"
    true = part_map()
    named = rng.permutation(k)  # the same for all images of a seed: parts have no names
    parts = np.where(
        rng.random((8, *true.shape)) < level,
        named[np.minimum(np.maximum(true, 1) - 1, k - 1)],
        rng.integers(0, k, (8, *true.shape)),
    )
    inside = true > 0
    table = np.zeros((len(PART_NAMES) + 1, k + 1), int)
    for image in parts:
        np.add.at(table, (true, np.where(inside, image + 1, 0)), 1)
    nmi = 100 * level**2 + float(rng.normal(0, 1.5))
    of_k, full = PartSetting(k=k), PartSetting(k=k, foreground=known)
    numbers: list[tuple[str, PartSetting, float]] = [
        ("fg_nmi", of_k, nmi),
        ("fg_ari", of_k, 0.8 * nmi),
        ("fg_mean_iou", of_k, 0.7 * nmi),
        ("oracle_fg_nmi", of_k, 88.0 + k),
        ("oracle_fg_ari", of_k, 82.0 + k),
        ("oracle_fg_mean_iou", of_k, 60.0 + k),
        ("nmi", full, 60 + nmi / 3),
        ("ari", full, 80 + nmi / 6),
        ("part_consistency", of_k, 30 + 0.7 * nmi),
        ("equivariance_agreement", of_k, 20 + 0.8 * nmi),
    ]
    run = f"{fake.method}/{fake.variant}/toy/{seed}"
    cells = folder / "cells" / run / "toy"
    cells.mkdir(parents=True, exist_ok=True)
    details = {
        "k": k,
        "at": "pixels",
        "foreground": FOREGROUNDS[known],
        "labels": ["background", *PART_NAMES],
        "background column": True,
        "table": table.tolist(),
        "oracle groups": [["head"], ["torso", "tail"], ["arms"], ["legs"]],
    }
    keys = ("metric", "setting", "value")
    metrics = [dict(zip(keys, number, strict=True)) for number in numbers]
    if fake.method != "vae":
        metrics += [
            {"metric": metric, "setting": PartSetting(on=name, k=k, crop="whole"), "value": value}
            for name, value in (("CUB-001", 15.0), ("all", 11.0))
            for metric, value in (
                ("landmark_error", value + float(rng.normal())),
                ("constant_landmark_error", value + 12),
            )
        ]
    _write(cells / "parts.json", {"metrics": _recorded(metrics), "details": details})
    if seed == 0:
        path = cells / "linear.pictures.npz"
        arrays = dict(np.load(path)) if path.exists() else {}
        images = {"originals": _images(np.random.default_rng(7), 8)}
        shown = np.where(inside, parts, 255).astype(np.uint8)
        np.savez(path, **(images | arrays), parts=shown)
    return [
        _row(
            fake,
            *("toy", seed, "parts"),
            **metric,
            unit="% of box" if "error" in metric["metric"] else "%",
            better="lower" if "error" in metric["metric"] else "higher",
            n=60,
        )
        for metric in metrics
    ]


def _recorded(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return metrics as they stand in a cell's json file."""
    return [metric | {"setting": metric["setting"].record()} for metric in metrics]


def part_map(size: int = 32) -> np.ndarray:
    """Return the parts of every made-up image, [size, size]: a head above a torso and so on."""
    parts = np.zeros((size, size), np.intp)
    parts[3:10, 11:21] = 1
    parts[10:20, 9:23] = 2
    parts[10:14, 3:9] = parts[10:14, 23:29] = 3
    parts[20:30, 10:14] = parts[20:30, 18:22] = 4
    parts[15:18, 23:31] = 5
    return parts


def _classify(
    folder: Path, fake: Fake, seed: int, level: float, rng: np.random.Generator
) -> list[dict[str, Any]]:
    _run(folder, fake, "cifar100", seed, rng)
    return [
        _row(
            fake,
            "cifar100",
            seed,
            "classify",
            metric=metric,
            setting=ClassifySetting(frozen=frozen),
            unit="%",
            value=level - 4 * depth - lost + float(rng.normal(0, 0.3)),
        )
        for metric, lost in (("top1", 0.0), ("top1 held-out epoch", 0.8))
        for depth, frozen in enumerate(FROZEN)
    ]


def _run(folder: Path, fake: Fake, train: str, seed: int, rng: np.random.Generator) -> None:
    """Write a finished run: its record, its log, and pictures."""
    path = _log(folder, fake, train, seed, rng)
    reduced = "demo" in fake.variant
    changes = {"epochs": [30, 12], "encoder_width": [64, 32], "note": [None, SCRIPT]}
    _write(
        path / "train.json",
        {
            "run": {"method": fake.method, "variant": fake.variant, "train": train, "seed": seed},
            "settings": {"epochs": 12, "perceptual": "mobilenet"}
            if fake.method == "vae"
            else {"epochs": 12},
            "changes": changes if reduced else {},
            "runtime": {"device": "cpu", "threads": 2},
            "steps": 400,
            "images": 25600,
            "parameters": 412_345,
            "seconds": 61.5,
            "images_per_second": 416.3,
            "peak_memory_mb": 812.0,
            "final": {"all/loss": 101.5, "all/reconstruction": 93.25},
            "log": sha256(log) if (log := path / "log.jsonl").exists() else "",
            "provenance": {
                "commit": "c0ffee" * 6,
                "dirty": seed == 1,
                "versions": {"torch": "2.9.0", "python": "3.11.2"},
                "device": "cpu",
                "cpu": "Made-up CPU, 2 cores",
                "command": f"partbench train --note '{SCRIPT}'",
                "finished": f"2025-01-0{seed + 1}T12:34:56+00:00",
            },
        },
    )
    if fake.role == "method" and seed == 0:
        images = _images(np.random.default_rng(7), 8)
        noise = rng.normal(0, 12, images.shape)
        cells = folder / "cells" / fake.method / fake.variant / train / str(seed) / train
        cells.mkdir(parents=True, exist_ok=True)
        np.savez(
            cells / "linear.pictures.npz",
            originals=images if fake.method != "bigan" else images[::-1],
            reconstructions=np.clip(images + noise, 0, 255).astype(np.uint8),
            generated=_images(rng, 8),
        )


def _log(folder: Path, fake: Fake, train: str, seed: int, rng: np.random.Generator) -> Path:
    """Write a run's log: falling losses, a resumed step, and half a line at the end."""
    path = folder / "runs" / fake.method / fake.variant / train / str(seed)
    path.mkdir(parents=True, exist_ok=True)
    if fake.role == "floor":
        return path
    lines = []
    for step in [*range(0, 260, 10), *range(240, 401, 10)]:
        line = {"step": step, "images": step * 64, "seconds": step * 0.15}
        for i, term in enumerate(TERMS):
            fall = np.exp(-step / 90) * (900 if i < 2 else 1) + 100 / (i + 1)
            line[f"all/{term}"] = float(fall * (1 + rng.normal(0, 0.01)))
        lines.append(json.dumps(line))
    (path / "log.jsonl").write_text("\n".join([*lines, '{"step": 4']))
    return path


def _data(path: Path, name: str, rng: np.random.Generator) -> None:
    _write(
        path / "meta.json",
        {
            "data_set": name,
            "reader": name,
            "settings": {"size": 32},
            "class_names": [f"class {i}" for i in range(10)],
            "splits": {
                "train": {"n": 4000, "missing": 0, "skipped": []},
                "test": {"n": 1000, "missing": 2, "skipped": [SCRIPT, "b.png"]},
            },
            "checksum": "0f" * 32,
            "subset": name == "toy",
            "licence": f"made up {SCRIPT}",
        },
    )
    if name == "toy":
        np.save(path / "test.images.npy", _images(rng, 60))
        np.save(path / "test.parts.npy", np.tile(part_map(), (60, 1, 1)).astype(np.uint8))
    tiles = _images(rng, 40).reshape(4, 10, 32, 32, 3).transpose(0, 2, 1, 3, 4)
    Image.fromarray(tiles.reshape(128, 320, 3)).save(path / "sheet.png")


def _images(rng: np.random.Generator, n: int, size: int = 32) -> np.ndarray:
    """Draw soft coloured blobs, uint8 [n, size, size, 3]."""
    y, x = np.mgrid[:size, :size] / size
    images = np.empty((n, size, size, 3))
    for image in images:
        image[:] = rng.uniform(40, 200, 3)
        for _ in range(4):
            cx, cy, r = rng.uniform(0.2, 0.8, 3)
            mask = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (0.02 + r * 0.03))[..., None]
            image[:] = image * (1 - mask) + rng.uniform(0, 255, 3) * mask
    return images.astype(np.uint8)


def _write(path: Path, values: dict[str, Any]) -> None:
    write_record(path, values)


if __name__ == "__main__":
    make(Path(sys.argv[1]), comparable=True)
