"""What a configuration would take, and whether this machine has it, before anything starts."""

import os
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from partbench import method as methods
from partbench import plugins
from partbench.config import (
    Config,
    cells,
    data_settings,
    load_reader,
    method_settings,
    predicted_foreground,
    probe_settings,
    runs,
)
from partbench.data.archives import files_read
from partbench.data.batch import Batch
from partbench.data.catalogue import prepared_bytes
from partbench.data.loader import Schedule
from partbench.errors import BadInput
from partbench.files import data_root
from partbench.method import DataInfo
from partbench.probe import Probe
from partbench.run import Run

GIB = 2**30


def plan(config: Config, tflops: float) -> str:
    """Return a text: cells, GPU hours and disk.

    GPU hours are the multiplications and additions of training (a forward pass of one batch
    counted by torch, times three for the backward pass, times the steps), at an assumed
    sustained rate. They are a lower bound of the right order: reading data and small kernels
    take their own time.

    Args:
        config: the configuration.
        tflops: assumed sustained TFLOP/s of the device.
    """
    hours: dict[str, float] = {}
    counts: dict[str, list[int]] = {}
    unknown: set[str] = set()
    for run in runs(config):
        key = f"{run.method} {run.variant} on {run.train}"
        counts.setdefault(key, [0, 0])[0] += 1
        if "train" in _counts(config, run.train):
            hours[key] = hours.get(key, 0) + _work(config, run) / tflops / 3.6e15
        else:
            unknown.add(run.train)
    skipped = 0
    for cell in cells(config):
        if cell.skip:
            skipped += 1
            continue
        key = f"{cell.run.method} {cell.run.variant} on {cell.run.train}"
        counts[key][1] += 1
        probe = plugins.load("probes", cell.probe, Probe)  # type: ignore[type-abstract]
        settings = probe_settings(config, cell.probe, cell.eval)
        splits = _counts(config, cell.eval)
        if "train" not in _counts(config, cell.run.train):
            continue  # the sum would be a part of the whole
        if "train" in splits:
            images = probe.training_images(settings, splits["train"])
            hours[key] = hours.get(key, 0) + _work(config, cell.run, images) / tflops / 3.6e15
        elif probe.training_images(settings, 1):
            unknown.add(cell.eval)

    width = max(len(key) for key in counts)
    lines = [f"{'':{width}}  {'runs':>5} {'cells':>5} {'GPU hours':>10}"]
    for key, (n_runs, n_cells) in counts.items():
        time = _hours(hours[key]) if key in hours else "unknown"
        lines.append(f"{key:{width}}  {n_runs:5} {n_cells:5} {time:>10}")
    total_runs, total_cells = (sum(c[i] for c in counts.values()) for i in (0, 1))
    total = _hours(sum(hours.values()))
    lines.append(f"{'total':{width}}  {total_runs:5} {total_cells:5} {total:>10}")
    lines.append("")
    lines.append(
        f"GPU hours assume {tflops:g} TFLOP/s sustained (--tflops) and count arithmetic only: a "
        "lower bound of the right order."
    )
    if skipped:
        which = "1 cell does" if skipped == 1 else f"{skipped} cells do"
        lines.append(f"{which} not apply: the method lacks what the probe needs.")
    if unknown:
        lines.append(f"Without {', '.join(sorted(unknown))}: its size is not known yet.")
    disk = {name: _disk(config, name) for name in config.data}
    sizes = [size for size in disk.values() if size is not None]
    lines.append(
        f"Disk for prepared data: {sum(sizes) / GIB:.1f} GiB ("
        + ", ".join(f"{k} {'?' if v is None else f'{v / GIB:.1f}'}" for k, v in disk.items())
        + ")."
    )
    return "\n".join(lines)


def _hours(hours: float) -> str:
    return f"{hours:.2f}" if hours >= 0.01 or hours == 0 else "< 0.01"


def check(config: Config) -> str:
    """Return a text on device, memory, disk and data sets, with what to do where one lacks."""
    lines = []
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            lines.append(
                f"ok    GPU {i}: {properties.name}, {properties.total_memory / GIB:.0f} GiB"
            )
    else:
        state = "ok   " if config.runtime.device == "cpu" else "lacks"
        lines.append(f"{state} GPU: torch sees none; trainings run on the CPU")
    lines.append(
        f"ok    CPU: {os.cpu_count()} threads, {psutil.virtual_memory().total / GIB:.0f} GiB memory"
    )
    free = shutil.disk_usage(".").free
    need = sum(_disk(config, name) or 0 for name in config.data)
    state = "ok   " if free > need else "lacks"
    lines.append(
        f"{state} disk: {free / GIB:.0f} GiB free, prepared data take {need / GIB:.1f} GiB"
    )
    lines.append(f"      data root: {data_root().resolve()} (set by PARTBENCH_DATA)")
    for name in config.data:
        lines += _check_data(config, name)
    return "\n".join(lines)


def _check_data(config: Config, name: str) -> list[str]:
    if (Path("results") / config.name / "data" / name / "meta.json").exists():
        return [f"ok    {name}: prepared"]
    settings = data_settings(config, name)
    if predicted := predicted_foreground(config, name):
        return [f"ok    {name}: {predicted.of} with the foreground of {predicted.by}"]
    files = files_read(config.data[name]["reader"], settings)
    missing = [file for file in files if not file.ready(data_root())]
    if missing and not settings.subset and all(file.urls for file in missing):
        return [f"ok    {name}: {', '.join(f.name for f in missing)} will be fetched"]
    try:
        reader = load_reader(config, name)(data_root(), settings)
        splits = reader.splits()
        present = {split: len(reader.present(split)) for split in splits}
    except BadInput as error:
        return [f"lacks {name}: {error}"]
    complete = all(present[split] == len(names) for split, names in splits.items())
    state = "ok   " if complete or settings.subset else "lacks"
    counted = ", ".join(f"{s} {present[s]} of {len(splits[s])}" for s in splits)
    return [f"{state} {name}: {counted}"]


def _counts(config: Config, name: str) -> Mapping[str, int]:
    """Return the samples in each split, empty if they are not known without the files."""
    return load_reader(config, name)(data_root(), data_settings(config, name)).counts


def _disk(config: Config, name: str) -> int | None:
    reader = load_reader(config, name)(data_root(), data_settings(config, name))
    return prepared_bytes(reader) or None


@cache
def _flops(method: str, settings: Any, data: DataInfo, trunk: bool) -> float:
    """Return the operations of training on one image: the method, or its encoder alone."""
    with torch.device("meta"):
        net: Any = methods.load(method)(settings, data)
        batch = Batch(
            torch.zeros(8, *([data.frames] if data.frames else []), 3, data.size, data.size),
            torch.zeros(8, dtype=torch.long),
            torch.zeros(8, data.landmarks, 3),
            torch.ones(8, data.size, data.size),
            torch.zeros(8, data.size, data.size, dtype=torch.uint8),
        )
        with FlopCounterMode(display=False) as counter:
            if trunk:
                net.trunk()(batch.images)
            else:
                for phase in net.phases:
                    net(batch, phase)
    return 3 * counter.get_total_flops() / 8


def _work(config: Config, run: Run, images: int | None = None) -> float:
    """Return the operations of a run's training, or of training its encoder on `images` more."""
    settings = method_settings(config, run.method, run.variant)
    reader = load_reader(config, run.train)(data_root(), data_settings(config, run.train))
    # Few classes or many make no difference, and their names may stand in files.
    frames = reader.frames if reader.frames > 1 else 0
    data = DataInfo(reader.settings.size, 1000, len(reader.landmark_names), frames)
    if images is not None:
        return images * _flops(run.method, settings, data, trunk=True) if images else 0
    splits = _counts(config, run.train)
    annotated = methods.load(run.method).learns_from != "images"
    n = splits["train"] if annotated else splits.get("unlabeled", splits["train"])
    steps = Schedule(n, settings, run.seed).steps
    per_image = _flops(run.method, settings, data, trunk=False) if steps else 0
    return steps * settings.batch_size * per_image
