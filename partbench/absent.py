"""Cells that cannot be computed here, because a person has to place a file first.

They are left out of the workflow, and the tables and the page say why. A file that can be fetched
is no reason, nor is data that stand prepared already.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from partbench import method as methods
from partbench.config import (
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
    scene_neighbours,
    second_stream,
)
from partbench.data import fetch
from partbench.data.archives import Archive, archives, files_read
from partbench.data.prepared import WHOLE
from partbench.data.reader import Reader
from partbench.errors import BadInput
from partbench.files import data_root
from partbench.nn import activations
from partbench.nn.activations import ActivationSettings
from partbench.nn.deeplab import DeepLabSettings, placed_weights
from partbench.nn.feature_networks import DINOV2_FILE
from partbench.nn.perceptual import FILES
from partbench.nn.vit import TransformerSettings, lacking_weights
from partbench.run import Run

PLACED = {"dinov2": DINOV2_FILE, "mobilenet": FILES["mobilenet"]}
"""Network that a probe or a search describes images by -> its file, which a person places."""


def absent_cells(config: Config, results: Path) -> dict[str, str]:
    """Return cell -> the reason why it cannot be computed here, of those that cannot.

    Args:
        config: the configuration.
        results: its results folder; what stands there needs no file any more.

    Raises:
        BadInput: PARTBENCH_MIRROR is no folder and no address.
    """

    @cache
    def of_data(name: str) -> str:
        if (results / "data" / name / "meta.json").exists():
            return ""
        if predicted := predicted_foreground(config, name):
            used = filter(None, (predicted.of, predicted.found_in))
            return _first(*map(of_data, used), of_run(predicted.run))
        if clusters := pseudo_labels(config, name):
            return _first(of_data(clusters.of), of_run(clusters.run))
        if scenes := scene_neighbours(config, name):
            search = scenes.neighbours
            return _first(
                of_data(scenes.of),
                # Of images that keep their aspect the originals are read again.
                of_files(scenes.of) if data_settings(config, scenes.of).crop in WHOLE else "",
                *map(of_weights, search.fetched),
                _lacking_file(search.weights or PLACED.get(search.network)),
            )
        if flow := optical_flow(config, name):
            # The videos are read again.
            weights = map(of_weights, flow.flow.fetched)
            return _first(of_data(flow.of), of_files(flow.of), *weights)
        if second := second_stream(config, name):
            return _first(of_data(second.of), of_data(second.stream), of_run(second.run))
        return "" if (results / "data" / f"{name}.files.json").exists() else of_files(name)

    @cache
    def of_files(name: str) -> str:
        settings = data_settings(config, name)
        if settings.subset:
            return ""
        cls = load_reader(config, name)
        if files := files_read(cls.__module__.rpartition(".")[2], settings):
            return _reason(f"the data set {name}", files)
        return _lacking_folders(cls(data_root(), settings))

    @cache
    def of_weights(name: str) -> str:
        if (results / "weights" / f"{name}.files.json").exists():
            return ""
        return _reason(f"the weights {name}", archives(name))

    @cache
    def of_run(run: Run) -> str:
        if (results / "runs" / str(run) / "model.pt").exists():
            return ""
        settings = method_settings(config, run.method, run.variant)
        if isinstance(settings, TransformerSettings) and (lacking := lacking_weights(settings)):
            return lacking
        if isinstance(settings, ActivationSettings) and (
            lacking := activations.lacking_weights(settings)
        ):
            return lacking
        needed = methods.needed_weights(methods.load(run.method), settings)
        learns = settings.epochs > 0
        trunk = isinstance(settings, DeepLabSettings) and learns
        loss = getattr(settings, "perceptual_weights", None) if learns else None
        return _first(
            of_data(run.train),
            *map(of_weights, needed),
            _lacking_file(placed_weights(settings) if trunk else None, "weights"),
            _lacking_file(loss, "perceptual_weights"),
        )

    @cache
    def of_probe(name: str, data: str) -> str:
        settings = probe_settings(config, name, data)
        network = getattr(settings, "network", "")
        needed = load_probe(name).weights(settings)
        return _first(*map(of_weights, needed), _lacking_file(PLACED.get(network)))

    reasons = {
        str(cell): _first(of_data(cell.eval), of_run(cell.run), of_probe(cell.probe, cell.eval))
        for cell in cells(config)
        if not cell.skip and not (results / "cells" / f"{cell}.json").exists()
    }
    return {cell: reason for cell, reason in reasons.items() if reason}


def _first(*reasons: str) -> str:
    return next(filter(None, reasons), "")


def _lacking_file(place: str | None, setting: str = "network") -> str:
    """Return that a file below the data root, which settings ask for, is not there."""
    if place is None or (path := data_root() / place).exists():
        return ""
    return f"{path} is missing: place it there, or set `{setting}` to another one"


def _lacking_folders(reader: Reader) -> str:
    """Return what an official data set without archives lacks; empty if anything of it is there.

    A folder of the user's own is never waited for: more likely its path is mistyped.
    """
    places = reader.own_files()
    if not (reader.counts and places) or any(place.exists() for place in places):
        return ""
    try:
        reader.splits()
    except BadInput as error:
        return str(error)
    return ""


def _reason(what: str, files: Iterable[Archive]) -> str:
    """Return how to place what is lacking; empty if nothing is."""
    lacking = [file for file in files if fetch.lacks(file, data_root())]
    return "\n".join(f"{what} lacks {f.name}: {fetch.by_hand(f, data_root())}" for f in lacking)
