"""What a configuration would take, and whether this machine has it, before anything starts."""

import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from partbench import fingerprint, plugins, step_cost, unprepared
from partbench import method as methods
from partbench.config import (
    Cell,
    Config,
    cells,
    data_settings,
    load_probe,
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
from partbench.data.batch import UNSUPERVISED
from partbench.data.loader import Schedule
from partbench.errors import BadInput
from partbench.files import data_root
from partbench.method import DataInfo
from partbench.probe import Probe
from partbench.published import Claim
from partbench.run import Run
from partbench.settings import dump
from partbench.throughput import Kind, Rate, Throughput

GIB = 2**30
OVERHEAD = GIB
"""What a card holds beside tensors: its context, the workspaces of cuDNN."""
TFLOPS: dict[Kind, float] = {"GPU": 10.0, "CPU": 0.05}
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


class RunPlan(NamedTuple):
    """What a run and its cells take."""

    flops: float | None
    """Multiplications and additions; None where the size of the data is not known."""
    bytes: int | None
    """The peak of its training's tensors, 0 if it has no steps; None where it is not known."""
    rates: Mapping[Kind, Rate]
    """Of a GPU or of a core."""

    def hours(self, kind: Kind) -> float | None:
        """Return the hours of a GPU or of a core."""
        return None if self.flops is None else self.flops / self.rates[kind].flops / 3600


def plan(
    config: Config,
    tflops: float | None = None,
    judged: Collection[Trained] = (),
    gpu_memory: float = 24.0,
    results: Path = Path("results"),
) -> str:
    """Return a text: cells, hours, memory and disk, and what missing seeds would cost.

    Hours are those of a GPU or, where trainings run on the CPU, of a core; of both if there is no
    GPU here and there may be one where trainings run. They are the multiplications and additions
    of trainings, counted by torch on a step without content, at the rate at which the method's
    runs at hand computed, or at an assumed one. An assumed rate gives a lower bound of the right
    order: reading data and small kernels take their own time.

    Args:
        config: the configuration.
        tflops: assumed sustained TFLOP/s of what the first column of hours counts; default: see
            `TFLOPS`.
        judged: what published numbers are compared with.
        gpu_memory: of the card, GiB.
        results: the folder of all results, whose runs' rates are known.
    """
    kinds = _kinds(config)
    assumed = TFLOPS if tflops is None else TFLOPS | {kinds[0]: tflops}
    by_run, unknown = run_plans(config, assumed, Throughput(results))
    groups: dict[str, list[RunPlan]] = {}
    n_cells: Counter[str] = Counter()
    skipped = 0
    for run, of_run in by_run.items():
        groups.setdefault(_named(run), []).append(of_run)
    for cell in cells(config):
        skipped += bool(cell.skip)
        n_cells[_named(cell.run)] += not cell.skip

    on_gpu = "GPU" in kinds
    width = max(len(key) for key in groups)
    title = f"{'':{width}}  {'runs':>5} {'cells':>5}"
    title += "".join(f" {f'{kind} hours':>10}" for kind in kinds)
    lines = [f"{title} {'GiB':>6}{' fits' if on_gpu else ''}  rate"]
    for key, plans in groups.items():
        first = plans[0]
        line = f"{key:{width}}  {len(plans):5} {n_cells[key]:5}"
        line += "".join(f" {_sum(each.hours(kind) for each in plans):>10}" for kind in kinds)
        line += f" {_gib(first.bytes):>6}"
        line += f" {_fits(first.bytes, gpu_memory):4}" if on_gpu else ""
        lines.append(f"{line}  {first.rates[kinds[0]].source}")
    every = list(by_run.values())
    total = f"{'total':{width}}  {len(every):5} {sum(n_cells.values()):5}"
    lines.append(
        total + "".join(f" {_sum(each.hours(kind) for each in every):>10}" for kind in kinds)
    )
    lines.append("")
    for kind in kinds:
        core = " by a core" if kind == "CPU" else ""
        option = " (--tflops)" if kind == kinds[0] else ""
        lines.append(
            f"{kind} hours assume {assumed[kind]:g} TFLOP/s sustained{core}{option} where no run "
            "in results/ tells, and count arithmetic only: a lower bound of the right order."
        )
    lines.append(
        "GiB is the peak of a training step's tensors in 32 bits"
        + (
            f"; `fits` adds {OVERHEAD / GIB:g} GiB for the context and workspaces, on a card of "
            f"{gpu_memory:g} GiB (--gpu-memory). No card has confirmed it."
            if on_gpu
            else "."
        )
    )
    if skipped:
        which = "1 cell does" if skipped == 1 else f"{skipped} cells do"
        lines.append(f"{which} not apply: the method lacks what the probe needs.")
    if unknown:
        lines.append(f"Without {', '.join(sorted(unknown))}: its size is not known yet.")
    disk = _disk(config)
    sizes = [size for size in disk.values() if size is not None]
    lines.append(
        f"Disk for prepared data: {sum(sizes) / GIB:.1f} GiB ("
        + ", ".join(f"{k} {'?' if v is None else f'{v / GIB:.1f}'}" for k, v in disk.items())
        + ")."
    )
    hours = {run: of_run.hours(kinds[0]) for run, of_run in by_run.items()}
    lines += seed_lines(cost_of_seeds(hours, judged), kinds[0])
    return "\n".join(lines)


def run_plans(
    config: Config, tflops: Mapping[Kind, float], throughput: Throughput
) -> tuple[dict[Run, RunPlan], set[str]]:
    """Return what each run and its cells take, and the data sets of unknown size.

    Args:
        config: the configuration.
        tflops: assumed sustained TFLOP/s, see `TFLOPS`.
        throughput: what ran before.
    """
    work: dict[Run, float | None] = {}
    unknown: set[str] = set()
    counts = {name: unprepared.counts(config, name) for name in config.data}
    for run in runs(config):
        known = "train" in counts[run.train]
        work[run] = _training(config, run, counts[run.train]) if known else None
        if not known:
            unknown.add(run.train)
    for cell in cells(config):
        of_run = work[cell.run]
        if cell.skip or of_run is None:  # the sum would be a part of the whole
            continue
        splits = counts[cell.eval]
        if "train" in splits:
            work[cell.run] = of_run + _probing(config, cell, splits["train"])
        elif _probing(config, cell, 1):
            unknown.add(cell.eval)
    return {
        run: RunPlan(
            flops,
            _memory(config, run, flops is not None),
            {kind: throughput.rate(kind, run.method, tflops[kind] * 1e12) for kind in tflops},
        )
        for run, flops in work.items()
    }, unknown


def _kinds(config: Config) -> tuple[Kind, ...]:
    """Return whose hours count: of what the configuration asks for, or of either."""
    if config.runtime.device == "cpu":
        return ("CPU",)
    if config.runtime.device == "cuda" or torch.cuda.is_available():
        return ("GPU",)
    return ("GPU", "CPU")


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / GIB:.2f}" if size else "-"


def _fits(size: int | None, gpu_memory: float) -> str:
    if size is None:
        return "?"
    return "yes" if size + OVERHEAD <= gpu_memory * GIB else "no"


def _sum(hours: Iterable[float | None]) -> str:
    known = [of_run for of_run in hours if of_run is not None]
    return _hours(sum(known)) if known else "unknown"


def cost_of_seeds(hours: Mapping[Run, float | None], judged: Collection[Trained]) -> list[SeedCost]:
    """Return what three seeds would cost of each run that has fewer and is judged.

    Args:
        hours: of the configuration's runs, see `run_plans`.
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
    need = sum(size or 0 for size in _disk(config).values())
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


def _disk(config: Config) -> dict[str, int | None]:
    """Return the bytes of each prepared data set; None where they are not known."""
    return {
        name: unprepared.disk(config, name, unprepared.counts(config, name)) for name in config.data
    }


def _training(config: Config, run: Run, splits: Mapping[str, int]) -> float:
    """Return the operations of a run's training on splits of so many samples."""
    settings = method_settings(config, run.method, run.variant)
    annotated = methods.load(run.method).learns_from not in UNSUPERVISED
    n = splits["train"] if annotated else splits.get("unlabeled", splits["train"])
    steps = Schedule(n, settings, run.seed).steps
    return steps * step_cost.of_training(*_step(config, run)).flops if steps else 0


def _memory(config: Config, run: Run, known: bool) -> int | None:
    """Return the peak of a run's training, bytes; None if its data's annotations are missing."""
    if not method_settings(config, run.method, run.variant).epochs:
        return 0
    try:
        return step_cost.of_training(*_step(config, run)).bytes
    except BadInput:
        if known:
            raise
        return None


def _step(config: Config, run: Run) -> tuple[str, Any, DataInfo]:
    """Return what the cost of a step of a run depends on."""
    settings = method_settings(config, run.method, run.variant)
    return run.method, settings, unprepared.info(config, run.train)


def _probing(config: Config, cell: Cell, n_train: int) -> float:
    """Return the operations of what a cell trains."""
    probe = load_probe(cell.probe)
    if probe.trained.__func__ is Probe.trained.__func__:  # type: ignore[attr-defined]
        return 0.0  # nothing: without the method, which takes its time to build
    settings = probe_settings(config, cell.probe, cell.eval)
    size = data_settings(config, cell.eval).size
    method, of_method, data = _step(config, cell.run)
    return step_cost.of_networks(
        method,
        of_method,
        data,
        size,
        f"{_code_of(probe)} {dump(settings)} {n_train}",
        lambda net: probe.trained(settings, net, n_train),
    )


@cache
def _code_of(probe: type[Probe]) -> str:
    return f"{probe.__module__} {fingerprint.of_probe(probe)}"
