"""The stages that the workflow's rules call, as commands of `partbench`."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from partbench.errors import BadInput
from partbench.settings import json_object

CODE = "fingerprint of the code, to be written into the result; default: computed"
SLURM_PATIENCE = 900.0
"""Seconds that a stopped training waits for Slurm to end its job; grace times are shorter."""


def add_stages(commands: Any) -> None:
    """Add the stages to the subparsers of the command line."""

    def stage(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        new: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        new.set_defaults(run=run, stage=True)
        return new

    configuration = stage("configuration", _configuration, "Stage: write down a configuration.")
    configuration.add_argument("--json", required=True)
    configuration.add_argument("--out", type=Path, required=True)

    fetch = stage("fetch", _fetch, "Stage: get a data set's official files.")
    fetch.add_argument("--data-set", required=True)
    fetch.add_argument("--reader", required=True)
    fetch.add_argument("--settings", required=True)
    fetch.add_argument("--files", default="", help="digest of the files placed by hand")
    fetch.add_argument("--out", type=Path, required=True)

    fetch_weights = stage("fetch-weights", _fetch_weights, "Stage: get a trained network.")
    fetch_weights.add_argument("--name", required=True)
    fetch_weights.add_argument("--files", default="", help="digest of the files placed by hand")
    fetch_weights.add_argument("--out", type=Path, required=True)

    prepare = stage("prepare", _prepare, "Stage: decode a data set into arrays.")
    prepare.add_argument("--data-set", required=True)
    prepare.add_argument("--reader", required=True)
    prepare.add_argument("--settings", required=True)
    prepare.add_argument("--out", type=Path, required=True)
    prepare.add_argument("--workers", type=int, default=1)
    prepare.add_argument("--code", help=CODE)

    foreground = stage(
        "foreground",
        _foreground,
        "Stage: repeat a data set with the foreground that a run predicts.",
    )
    foreground.add_argument("--data-set", required=True)
    foreground.add_argument("--model", type=Path, required=True)
    foreground.add_argument("--data", type=Path, required=True)
    foreground.add_argument("--found-in", default="", help="the same images, not yet cut")
    foreground.add_argument("--runtime", default="{}")
    foreground.add_argument("--code", help=CODE)
    foreground.add_argument("--out", type=Path, required=True)

    scenes = stage("scenes", _scenes, "Stage: repeat a data set with the neighbours of its images.")
    scenes.add_argument("--data-set", required=True)
    scenes.add_argument("--data", type=Path, required=True)
    scenes.add_argument("--settings", default="{}")
    scenes.add_argument("--runtime", default="{}")
    scenes.add_argument("--code", help=CODE)
    scenes.add_argument("--out", type=Path, required=True)

    clusters = stage("clusters", _clusters, "Stage: repeat a data set with clusters of features.")
    clusters.add_argument("--data-set", required=True)
    clusters.add_argument("--model", type=Path, required=True)
    clusters.add_argument("--data", type=Path, required=True)
    clusters.add_argument("--settings", default="{}")
    clusters.add_argument("--runtime", default="{}")
    clusters.add_argument("--code", help=CODE)
    clusters.add_argument("--out", type=Path, required=True)

    flow = stage("flow", _flow, "Stage: repeat a data set with pictures of optical flow.")
    flow.add_argument("--data-set", required=True)
    flow.add_argument("--data", type=Path, required=True)
    flow.add_argument("--settings", default="{}")
    flow.add_argument("--runtime", default="{}")
    flow.add_argument("--code", help=CODE)
    flow.add_argument("--out", type=Path, required=True)

    second = stage(
        "second-stream",
        _second_stream,
        "Stage: repeat a data set with a run's features of another stream.",
    )
    second.add_argument("--data-set", required=True)
    second.add_argument("--model", type=Path, required=True)
    second.add_argument("--data", type=Path, required=True)
    second.add_argument("--stream", type=Path, required=True, help="the same clips, seen otherwise")
    second.add_argument("--runtime", default="{}")
    second.add_argument("--code", help=CODE)
    second.add_argument("--out", type=Path, required=True)

    train = stage("train", _train, "Stage: train one run, or resume it.")
    train.add_argument("--run", dest="key", required=True, help="method/variant/train/seed")
    train.add_argument("--settings", required=True)
    train.add_argument("--runtime", default="{}")
    train.add_argument("--code", help=CODE)
    train.add_argument("--data", type=Path, required=True)
    train.add_argument("--out", type=Path, required=True)

    extract = stage("extract", _extract, "Stage: write a run's outputs on a data set.")
    extract.add_argument("--model", type=Path, required=True)
    extract.add_argument("--data", type=Path, required=True)
    extract.add_argument("--needs", default="", help="what the probes read, separated by commas")
    extract.add_argument("--outputs", type=Path, required=True)
    extract.add_argument("--pictures", type=Path, required=True)
    extract.add_argument("--runtime", default="{}")

    probe = stage("probe", _probe, "Stage: measure one cell.")
    probe.add_argument("probe")
    probe.add_argument("--run", dest="key", required=True, help="method/variant/train/seed")
    probe.add_argument("--source", type=Path, required=True)
    probe.add_argument("--data", type=Path, required=True)
    probe.add_argument("--settings", required=True)
    probe.add_argument("--runtime", default="{}")
    probe.add_argument("--code", help=CODE)
    probe.add_argument("--out", type=Path, required=True)

    report = stage("report", _report, "Gather a results folder into tables and pages.")
    report.add_argument("--results", type=Path, required=True)
    report.add_argument("--out", type=Path, required=True)
    report.add_argument("--single", action="store_true", help="one file with everything in it")
    report.add_argument("--ended", type=Path, help="Snakemake's log of a workflow that failed")


# Each stage imports what it needs, so that none waits for torch without need.


def _configuration(args: argparse.Namespace) -> None:
    from partbench import config
    from partbench.integrity import write_record

    values = json_object(args.json, "--json")
    folders = config.check(values, "--json").plugins
    here = args.out.parent
    write_record(args.out, values | {"plugins": [os.path.relpath(path, here) for path in folders]})


def _fetch(args: argparse.Namespace) -> None:
    from partbench.data import catalogue
    from partbench.integrity import write_record

    write_record(args.out, catalogue.provide(args.reader, _reader(args), args.files))


def _fetch_weights(args: argparse.Namespace) -> None:
    from partbench.data import catalogue
    from partbench.files import data_root
    from partbench.integrity import write_record

    write_record(args.out, catalogue.provide_weights(args.name, data_root(), args.files))


def _prepare(args: argparse.Namespace) -> None:
    from partbench import fingerprint, plugins
    from partbench.data.prepare import prepare
    from partbench.data.prepared import Prepared
    from partbench.data.sheet import write_sheet
    from partbench.integrity import write_record
    from partbench.provenance import READER, origin

    _compute_until_slurm_ends_it()
    code = args.code or fingerprint.of_preparation(args.reader)
    prepare(_reader(args), args.data_set, args.out, args.workers, code)
    write_sheet(Prepared(args.out), args.out / "sheet.png")
    for plugin in plugins.used():
        write_record(args.out / READER, origin(plugin))


def _foreground(args: argparse.Namespace) -> None:
    from partbench import fingerprint, names
    from partbench.data.prepared import Prepared
    from partbench.data.sheet import write_sheet
    from partbench.foreground import find_foreground

    device, threads = _device(args)
    names.check(args.data_set, "--data-set")
    code = args.code or fingerprint.of_foreground()
    found_in = Path(args.found_in) if args.found_in else None
    find_foreground(args.data_set, args.model, args.data, args.out, device, threads, code, found_in)
    write_sheet(Prepared(args.out), args.out / "sheet.png")


def _scenes(args: argparse.Namespace) -> None:
    from partbench import fingerprint, names
    from partbench.data.prepared import Prepared
    from partbench.data.sheet import write_neighbour_sheet
    from partbench.scenes import find_neighbours
    from partbench.search import SearchSettings

    device, threads = _device(args)
    names.check(args.data_set, "--data-set")
    where = f"data.{args.data_set}.neighbours"
    settings = SearchSettings.parse(json_object(args.settings, "--settings"), where)
    code = args.code or fingerprint.of_scenes(Prepared(args.data).meta["reader"])
    find_neighbours(args.data_set, args.data, args.out, settings, device, threads, code)
    write_neighbour_sheet(Prepared(args.out), args.out / "neighbours.png")


def _clusters(args: argparse.Namespace) -> None:
    from partbench import fingerprint, names
    from partbench.clustering import ClusterSettings
    from partbench.data.prepared import Prepared
    from partbench.data.sheet import write_cluster_sheet
    from partbench.model import load_model
    from partbench.pseudo_labels import find_clusters

    device, threads = _device(args)
    names.check(args.data_set, "--data-set")
    where = f"data.{args.data_set}"
    settings = ClusterSettings.parse(json_object(args.settings, "--settings"), where)
    code = args.code or fingerprint.of_clusters(load_model(args.model, "cpu")[0].method)
    find_clusters(args.data_set, args.model, args.data, args.out, settings, device, threads, code)
    write_cluster_sheet(Prepared(args.out), args.out / "clusters.png")


def _flow(args: argparse.Namespace) -> None:
    from partbench import fingerprint, names
    from partbench.data.prepared import Prepared
    from partbench.data.sheet import write_sheet
    from partbench.derivations import FlowSettings
    from partbench.flow import find_flow

    device, threads = _device(args)
    names.check(args.data_set, "--data-set")
    where = f"data.{args.data_set}.flow"
    settings = FlowSettings.parse(json_object(args.settings, "--settings"), where)
    code = args.code or fingerprint.of_flow(Prepared(args.data).meta["reader"])
    find_flow(args.data_set, args.data, args.out, settings, device, threads, code)
    write_sheet(Prepared(args.out), args.out / "sheet.png")


def _second_stream(args: argparse.Namespace) -> None:
    from partbench import fingerprint, names
    from partbench.model import load_model
    from partbench.second_stream import describe_stream

    device, threads = _device(args)
    names.check(args.data_set, "--data-set")
    code = args.code or fingerprint.of_second_stream(load_model(args.model, "cpu")[0].method)
    describe_stream(
        args.data_set, args.model, args.data, args.stream, args.out, device, threads, code
    )


def _train(args: argparse.Namespace) -> None:
    from partbench import launch

    runtime = _runtime(args, every=True)
    if not launch.is_placed(runtime):
        command = [sys.executable, "-m", "partbench", *sys.argv[1:]]
        if status := launch.launch(runtime, command):
            raise SystemExit(status)
        return

    from partbench import fingerprint, method
    from partbench.run import Run
    from partbench.train import Stopped, train

    run = Run.parse(args.key, "--run")
    settings = method.load(run.method).Settings.parse(
        json_object(args.settings, "--settings"), args.key
    )
    code = args.code or fingerprint.of_training(run.method)
    try:
        train(run, settings, runtime, args.data, args.out, code)
    except Stopped as stopped:
        print(stopped, file=sys.stderr, flush=True)
        if "SLURM_JOB_ID" in os.environ:  # as `_compute_until_slurm_ends_it`, with nothing to do
            time.sleep(SLURM_PATIENCE)
        raise SystemExit(launch.STOPPED) from None


def _runtime(args: argparse.Namespace, gpu: bool = True, every: bool = False) -> Any:
    """Return how a stage is to compute.

    If it computes on GPUs, it holds some of its own from here on: nothing may ask CUDA before.

    Args:
        args: the stage's, with `runtime`.
        gpu: whether it computes on GPUs where the runtime has any.
        every: whether on all of the machine's that the runtime counts, else on one.
    """
    from partbench import gpus
    from partbench.run import Runtime

    runtime = Runtime.parse(json_object(args.runtime, "--runtime"), "runtime")
    if gpu and runtime.device != "cpu":
        gpus.claim(runtime.devices if every else 1)
    return runtime


def _device(args: argparse.Namespace) -> tuple[str, int]:
    """Begin a stage that computes on one device to its end; return the device and the threads."""
    from partbench.model import device_of

    _compute_until_slurm_ends_it()
    runtime = _runtime(args)
    return device_of(runtime), runtime.threads


def _compute_until_slurm_ends_it() -> None:
    """Ignore SIGTERM in a job of Slurm, which kills later what it means to end.

    A job that ends by itself while Slurm preempts it counts as failed and is not queued again.
    """
    if "SLURM_JOB_ID" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _extract(args: argparse.Namespace) -> None:
    from partbench.extract import extract

    device, threads = _device(args)
    needs = args.needs.split(",")
    extract(args.model, args.data, needs, args.outputs, args.pictures, device, threads)


def _probe(args: argparse.Namespace) -> None:
    from partbench import fingerprint, plugins
    from partbench.probe import Probe, measure
    from partbench.run import Run

    _compute_until_slurm_ends_it()
    cls = plugins.load("probes", args.probe, Probe)  # type: ignore[type-abstract]
    settings = cls.Settings.parse(json_object(args.settings, "--settings"), f"probes.{args.probe}")
    runtime = _runtime(args, gpu=cls.reads == "model")
    code = args.code or fingerprint.of_probe(cls)
    run = Run.parse(args.key, "--run")
    measure(cls(), run, args.source, args.data, settings, runtime, args.out, code)


def _report(args: argparse.Namespace) -> None:
    from partbench import config, gather, jobs, published
    from partbench.integrity import read_record
    from partbench.report import page

    if args.ended:
        jobs.record_ends(args.results, args.ended)
    where = args.results / "config.json"
    settings = config.check(read_record(where), str(where), args.results)
    tables = gather.gather(settings, args.results)
    gather.write(tables, args.results)
    page.write(args.results, args.out, published.load(), single=args.single)
    if tables.damage:
        asides = [damage.set_aside() for damage in tables.damage]
        raise BadInput("\n".join(dict.fromkeys([*map(str, tables.damage), *asides])))


def _reader(args: argparse.Namespace) -> Any:
    from partbench import names, plugins
    from partbench.data.reader import Reader
    from partbench.files import data_root

    names.check(args.data_set, "--data-set")
    cls = plugins.load("data", args.reader, Reader)  # type: ignore[type-abstract]
    settings = cls.Settings.parse(json_object(args.settings, "--settings"), f"data.{args.data_set}")
    return cls(data_root(), settings)
