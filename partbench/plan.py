"""What a configuration would take, and whether this machine has it, before anything starts."""

import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

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
    optical_flow,
    predicted_foreground,
    probe_settings,
    pseudo_labels,
    runs,
    scene_neighbours,
    second_stream,
)
from partbench.data.archives import files_read
from partbench.data.batch import UNSUPERVISED, Batch
from partbench.data.catalogue import prepared_bytes
from partbench.data.loader import Schedule
from partbench.data.neighbours import QUADRANTS
from partbench.errors import BadInput
from partbench.files import data_root
from partbench.method import DataInfo
from partbench.probe import Probe
from partbench.published import Claim
from partbench.run import Run

GIB = 2**30


TFLOPS = {"GPU": 10.0, "CPU": 0.05}
"""Assumed sustained TFLOP/s of a GPU and of a core; the demo's trainings sustain 0.065 a core."""
SEEDS_TO_JUDGE = 3
"""With fewer, a verdict is nearly always `undecided`, see `partbench.verdict`."""

Trained = tuple[str, str, str]
"""Method, variant and training data: what the seeds of a run share."""


class SeedCost(NamedTuple):
    """What is missing for a verdict on a run."""

    method: str
    variant: str
    train: str
    seeds: int
    """That the configuration has."""
    hours: float | None
    """GPU or core hours of those that are missing; None where they are not known."""


def plan(config: Config, tflops: float | None = None, judged: Collection[Trained] = ()) -> str:
    """Return a text: cells, hours and disk, and what missing seeds would cost.

    Hours are those of a GPU or, where trainings run on the CPU, of a core: the multiplications
    and additions of training (a forward pass of one batch counted by torch, times three for the
    backward pass, times the steps), at an assumed sustained rate. They are a lower bound of the
    right order: reading data and small kernels take their own time.

    Args:
        config: the configuration.
        tflops: assumed sustained TFLOP/s of a GPU or a core; default: see `TFLOPS`.
        judged: what published numbers are compared with.
    """
    on_cpu = config.runtime.device == "cpu"
    if config.runtime.device == "auto":
        on_cpu = not torch.cuda.is_available()
    device = "CPU" if on_cpu else "GPU"
    tflops = TFLOPS[device] if tflops is None else tflops
    by_run, unknown = run_hours(config, tflops)
    hours: dict[str, float] = {}
    counts: dict[str, list[int]] = {}
    for run, of_run in by_run.items():
        key = _named(run)
        counts.setdefault(key, [0, 0])[0] += 1
        if of_run is not None:
            hours[key] = hours.get(key, 0) + of_run
    skipped = 0
    for cell in cells(config):
        if cell.skip:
            skipped += 1
        else:
            counts[_named(cell.run)][1] += 1

    width = max(len(key) for key in counts)
    lines = [f"{'':{width}}  {'runs':>5} {'cells':>5} {f'{device} hours':>10}"]
    for key, (n_runs, n_cells) in counts.items():
        time = _hours(hours[key]) if key in hours else "unknown"
        lines.append(f"{key:{width}}  {n_runs:5} {n_cells:5} {time:>10}")
    total_runs, total_cells = (sum(c[i] for c in counts.values()) for i in (0, 1))
    total = _hours(sum(hours.values()))
    lines.append(f"{'total':{width}}  {total_runs:5} {total_cells:5} {total:>10}")
    lines.append("")
    lines.append(
        f"{device} hours assume {tflops:g} TFLOP/s sustained{' by a core' if on_cpu else ''} "
        "(--tflops) and count arithmetic only: a lower bound of the right order."
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
    lines += seed_lines(cost_of_seeds(by_run, judged), device)
    return "\n".join(lines)


def run_hours(config: Config, tflops: float) -> tuple[dict[Run, float | None], set[str]]:
    """Return the hours of each run and its cells, and the data sets of unknown size.

    None stands for a run whose training data have an unknown size.

    Args:
        config: the configuration.
        tflops: see `plan`.
    """
    hours: dict[Run, float | None] = {}
    unknown: set[str] = set()
    for run in runs(config):
        known = "train" in _counts(config, run.train)
        hours[run] = _work(config, run) / tflops / 3.6e15 if known else None
        if not known:
            unknown.add(run.train)
    for cell in cells(config):
        of_run = hours[cell.run]
        if cell.skip or of_run is None:  # the sum would be a part of the whole
            continue
        probe = plugins.load("probes", cell.probe, Probe)  # type: ignore[type-abstract]
        settings = probe_settings(config, cell.probe, cell.eval)
        splits = _counts(config, cell.eval)
        if "train" in splits:
            images = probe.training_images(settings, splits["train"])
            hours[cell.run] = of_run + _work(config, cell.run, images) / tflops / 3.6e15
        elif probe.training_images(settings, 1):
            unknown.add(cell.eval)
    return hours, unknown


def cost_of_seeds(hours: Mapping[Run, float | None], judged: Collection[Trained]) -> list[SeedCost]:
    """Return what three seeds would cost of each run that has fewer and is judged.

    Args:
        hours: of the configuration's runs, see `run_hours`.
        judged: what published numbers are compared with, as far as the seed changes it.
    """
    by_trained: dict[Trained, list[float | None]] = {}
    for run, of_run in hours.items():
        by_trained.setdefault((run.method, run.variant, run.train), []).append(of_run)
    return [
        SeedCost(*trained, len(of_seeds), _times(SEEDS_TO_JUDGE - len(of_seeds), of_seeds))
        for trained, of_seeds in by_trained.items()
        if trained in judged and len(of_seeds) < SEEDS_TO_JUDGE
    ]


def draws(claim: Claim) -> bool:
    """Return whether the seed changes the number that answers a published one."""
    cls = methods.load(claim.method)
    settings = methods.resolve(cls, claim.variant, {}, "published.csv")
    probe = plugins.load("probes", claim.probe, Probe)  # type: ignore[type-abstract]
    return methods.is_random(cls, settings) or probe.random(claim.metric)


def seed_lines(costs: Iterable[SeedCost], device: str = "GPU") -> list[str]:
    """Return the lines of the plan that say what missing seeds would cost; none if none miss."""
    rows = list(costs)
    if not rows:
        return []
    names = [_named(row) for row in rows]
    title = f"compared with published numbers, fewer than {SEEDS_TO_JUDGE} seeds"
    width = max(map(len, [title, *names]))
    lines = ["", f"{title:{width}}  {'seeds':>5} {f'{device} hours more':>14}"]
    for name, row in zip(names, rows, strict=True):
        more = "unknown" if row.hours is None else _hours(row.hours)
        lines.append(f"{name:{width}}  {row.seeds:5} {more:>14}")
    total = _hours(sum(row.hours for row in rows if row.hours is not None))
    lines.append(f"{'total':{width}}  {'':5} {total:>14}")
    return lines


def _times(missing: int, hours: list[float | None]) -> float | None:
    known = [of_seed for of_seed in hours if of_seed is not None]
    return missing * sum(known) / len(known) if known else None


def _named(run: Run | SeedCost) -> str:
    return f"{run.method} {run.variant} on {run.train}"


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
    if scenes := scene_neighbours(config, name):
        return [f"ok    {name}: {scenes.of} with the neighbours of its images"]
    if clusters := pseudo_labels(config, name):
        return [f"ok    {name}: {clusters.of} with clusters of what {clusters.by} sees"]
    if flow := optical_flow(config, name):
        return [f"ok    {name}: optical flow of {flow.of} by {flow.flow.network}"]
    if second := second_stream(config, name):
        return [f"ok    {name}: {second.of} with what {second.by} sees of {second.stream}"]
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
    """Return the bytes of a prepared data set; None if they are not known."""
    if second_stream(config, name):  # links, and features as long as the method makes them
        return None
    reader = load_reader(config, name)(data_root(), data_settings(config, name))
    return prepared_bytes(reader) or None


@cache
def _flops(method: str, settings: Any, data: DataInfo, trunk: bool) -> float:
    """Return the operations of training on one image: the method, or its trunks alone."""
    cls = methods.load(method)
    n = 8 * cls.parts()
    several = cls.learns_from == "attributes"
    clip = [data.frames] if data.frames and cls.reads == "clips" else []
    with torch.device("meta"):
        net: Any = cls(settings, data)
        batch = Batch(
            torch.zeros(n, *clip, 3, data.size, data.size),
            torch.zeros(n, *([data.attributes] if several else []), dtype=torch.long),
            torch.zeros(n, data.landmarks, 3),
            torch.ones(n, data.size, data.size),
            torch.zeros(n, data.size, data.size, dtype=torch.uint8),
            torch.zeros(n, QUADRANTS, 3, data.size, data.size),
            torch.zeros(n, QUADRANTS),
        )
        with FlopCounterMode(display=False) as counter:
            if trunk:
                for network in net.trunks().values():
                    network(batch.images)
            else:
                for phase, seen in net.updates(batch):
                    net(seen, phase)
    return 3 * counter.get_total_flops() / n


def _work(config: Config, run: Run, images: int | None = None) -> float:
    """Return the operations of a run's training, or of training its trunks on `images` more."""
    settings = method_settings(config, run.method, run.variant)
    reader = load_reader(config, run.train)(data_root(), data_settings(config, run.train))
    # Few classes or attributes or many make no difference, and their names may stand in files.
    frames = reader.frames if reader.frames > 1 else 0
    data = DataInfo(
        reader.settings.size,
        1000,
        len(reader.landmark_names),
        frames,
        attributes=1000,
        clusters=1000,
    )
    if images is not None:
        return images * _flops(run.method, settings, data, trunk=True) if images else 0
    splits = _counts(config, run.train)
    annotated = methods.load(run.method).learns_from not in UNSUPERVISED
    n = splits["train"] if annotated else splits.get("unlabeled", splits["train"])
    steps = Schedule(n, settings, run.seed).steps
    per_image = _flops(run.method, settings, data, trunk=False) if steps else 0
    return steps * settings.batch_size * per_image
