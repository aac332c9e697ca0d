"""A configuration file, validated, and the grid of runs and cells that it asks for."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from partbench import method as methods
from partbench import plugins
from partbench.data.crop import Cut, check_carried, check_crop, check_same_crop
from partbench.data.reader import DataSettings, Reader, check_limit
from partbench.derivations import (
    OpticalFlow,
    PredictedForeground,
    PseudoLabels,
    SceneNeighbours,
    SecondStream,
)
from partbench.errors import BadInput, shown
from partbench.files import data_root
from partbench.names import ByName, Name, Once, Variant, version_of
from partbench.outputs.capability import capabilities, check_class
from partbench.probe import Probe
from partbench.run import Run, Runtime, Seed
from partbench.settings import Settings, nearest
from partbench.strict_yaml import read_mapping

WORDS = {
    "mask": "the foreground",
    "frames": "clips",
    "neighbours": "neighbours of images",
    "clusters": "clusters of features",
    "stream": "features of a second stream",
}
"""Annotations whose names in prose differ."""

Names = Annotated[Once[Name], Field(min_length=1)]
Variants = Annotated[Once[Variant], Field(min_length=1)]
Seeds = Annotated[Once[Seed], Field(min_length=1)]


class Block(Settings):
    """Some methods in some variants, trained on one data set and measured by some probes."""

    train: Name = Field(description="the data set to train on, a key of `data`")
    methods: dict[Name, Variants] = Field(
        min_length=1, description="method -> variants (`a+b` combines)"
    )
    probes: dict[Name, Names] = Field(min_length=1, description="probe -> data sets to measure on")
    seeds: Seeds | None = Field(None, description="instead of the configuration's")


class Config(Settings):
    """A whole configuration; each key is explained in config/README.md."""

    name: Name = Field(description="keeps results apart")
    seeds: Seeds
    comparable: bool = Field(
        True, description="false: a reduced configuration, never compared with published numbers"
    )
    plugins: Once[str] = Field(
        default_factory=list,
        description="folders of methods, readers and probes beside partbench's; relative paths "
        "count from the configuration file",
    )
    runtime: Runtime = Runtime()
    data: ByName[dict[str, Any]] = Field(
        min_length=1,
        description="name -> `reader` and the reader's settings, or `of` and either `by`, "
        "`neighbours`, `flow`, `by` and `clusters`, or `by` and `stream`",
    )
    settings: dict[Name, dict[str, Any]] = Field(
        default_factory=dict, description="method -> settings on top of every variant's"
    )
    probes: dict[Name, dict[str, Any]] = Field(
        default_factory=dict, description="probe -> settings"
    )
    runs: list[Block] = Field(min_length=1)


class Cell(NamedTuple):
    """One run measured by one probe on one data set."""

    run: Run
    eval: str
    probe: str
    skip: str
    """Why the probe does not fit the run, or empty."""

    def __str__(self) -> str:
        return f"{self.run}/{self.eval}/{self.probe}"


def read(path: Path) -> Config:
    """Read and validate a configuration file.

    Raises:
        BadInput: see `read_mapping` and `check`.
    """
    return check(read_mapping(path), str(path), path.parent)


def check(values: Mapping[str, Any], where: str, folder: Path | None = None) -> Config:
    """Validate a configuration down to every method's, reader's and probe's own settings.

    Its plugins are found from here on, in this process and in those that it starts.

    Args:
        values: the keys and values.
        where: the file they come from, for messages.
        folder: that the paths of `plugins` count from; default: the present one, which they count
            from in what is returned.

    Raises:
        BadInput: a key, method, variant, data set, reader or probe is unknown (the message names
            the nearest valid one); a value has the wrong type or range; a method has a part of a
            capability only; the data lack what a method learns from or a probe measures.
    """
    config = Config.parse(values, where)
    folders = [
        os.path.relpath((folder or Path()) / Path(path).expanduser()) for path in config.plugins
    ]
    plugins.add([*map(Path, folders)], f"{where}: plugins")
    config = config.model_copy(update={"plugins": folders})
    for name in config.data:
        _check_foreground(config, name, where)
        _check_neighbours(config, name, where)
        _check_clusters(config, name, where)
        _check_streams(config, name, where)
        _check_splits(config, name, where)
    for name in config.probes:
        for data in config.data:
            probe_settings(config, name, data, where)
    for name in config.settings:
        method_settings(config, name, "paper", f"{where}: settings.{name}")
    for i, block in enumerate(config.runs):
        place = f"{where}: runs[{i}]"
        _known(block.train, config.data, f"{place}.train")
        for name, variants in block.methods.items():
            cls = methods.load(name, f"{place}.methods.{name}")
            for variant in variants:
                settings = method_settings(config, name, variant, f"{place}.methods.{name}")
                what = f"{place}.methods.{name}: {variant}"
                methods.check_shares(cls, settings, config.runtime.processes, what)
            check_class(cls)
            methods.check_reads(cls, _frames(config, block.train), f"{place}: {block.train}")
            _check_aspect(config, block, name, place)
            _check_crops(config, block.train, name, variants, place)
            _check_choice(config, block.train, name, variants, place)
            what = f"{place}.methods.{name} learns from {{}}"
            _check_annotations(config, block.train, [(cls.learns_from,)], what)
        for name, evals in block.probes.items():
            for data in evals:
                _known(data, config.data, f"{place}.probes.{name}")
                settings = probe_settings(config, name, data, place)
                needed = load_probe(name).annotations(settings)
                what = f"{place}.probes.{name} measures {{}}"
                _check_annotations(config, data, needed, what)
    return config


def _known(name: str, data: Mapping[str, Any], where: str) -> None:
    if name not in data:
        raise BadInput(f"{where}: no data set '{name}' under `data`; {nearest(name, data)}")


def _check_annotations(
    config: Config, name: str, groups: Iterable[Sequence[str]], what: str
) -> None:
    """Refuse, with `BadInput`, data that lack all annotations of a group.

    Args:
        config: the configuration.
        name: the data set.
        groups: of each, one annotation is needed.
        what: needs them, for the message; `{}` stands for the annotations.
    """
    reader = load_reader(config, name)(data_root(), data_settings(config, name))
    derived = {
        "neighbours": scene_neighbours(config, name) is not None,
        "clusters": pseudo_labels(config, name) is not None,
        "stream": second_stream(config, name) is not None,
    }
    forms = {
        "neighbours": f"{{of: {name}, neighbours: {{}}}}",
        "clusters": f"{{of: {name}, by: METHOD/VARIANT/DATA/SEED, clusters: 2000}}",
        "stream": f"{{of: {name}, by: METHOD/VARIANT/DATA/SEED, stream: DATA}}",
    }
    for group in groups:
        if all((derived[a] if a in derived else reader.has(a)) is False for a in group):
            words = " or ".join(WORDS.get(annotation, annotation) for annotation in group)
            remedy = "look whether its reader has a setting that reads them"
            if group[0] in forms:
                remedy = f"make one of it: `{forms[group[0]]}`"
            raise BadInput(
                f"{what.format(words)}, but the data set '{name}' has none; name a data set that "
                f"has, or {remedy}"
            )


def _check_aspect(config: Config, block: Block, name: str, where: str) -> None:
    """Refuse, with `BadInput`, frames that are not square where a method takes squares alone."""
    if methods.load(name).any_aspect:
        return
    for data in (block.train, *(data for evals in block.probes.values() for data in evals)):
        if data in config.data and data_settings(config, data).crop == "frame":
            raise BadInput(
                f"{where}: `crop: frame` of {data} gives frames that are not square, and {name} "
                "takes squares; use the same data with `crop: center`"
            )


def _check_crops(config: Config, data: str, name: str, variants: Iterable[str], where: str) -> None:
    """Refuse, with `BadInput`, variants of a method whose training crops a data set cannot give."""
    of_data = data_settings(config, data)
    for variant in variants:
        settings = method_settings(config, name, variant)
        place = f"{where}.methods.{name}: {variant} on {data}"
        check_crop(settings, Cut(of_data.crop, of_data.wide), place)


def _check_choice(
    config: Config, data: str, name: str, variants: Iterable[str], where: str
) -> None:
    """Refuse, with `BadInput`, to choose an epoch by data without landmarks, or by no keypoints."""
    reader = load_reader(config, data)(data_root(), data_settings(config, data))
    splits = reader.split_names
    for variant in variants:
        if not methods.chooses_epoch(method_settings(config, name, variant)):
            continue
        place = f"{where}.methods.{name}: {variant} on {data}: `chosen_epoch: validation`"
        if not capabilities()["keypoints"].offered_by(methods.load(name)):
            raise BadInput(f"{place} is by keypoints, and {name} offers none; leave it out")
        if reader.has("landmarks") is False:
            raise BadInput(
                f"{place} needs landmarks, but the data set has none; see whether its reader has a "
                "setting that reads them (`landmarks: true` of celeba)"
            )
        if splits is not None and "val" not in splits:
            raise BadInput(f"{place} needs a split `val`, but there are only {', '.join(splits)}")


def load_probe(name: str, where: str = "command line") -> type[Probe]:
    """Return the probe `name`; raises BadInput if there is none."""
    return plugins.load("probes", name, Probe, where)  # type: ignore[type-abstract]


def predicted_foreground(config: Config, name: str, where: str = "") -> PredictedForeground | None:
    """Return how a data set gets a predicted foreground; None if it has a reader instead."""
    values = config.data[name]
    other = {"reader", "neighbours", "clusters", "flow", "stream"} & values.keys()
    if other or not values.keys() & {"of", "by"}:
        return None
    return PredictedForeground.parse(values, f"{where}: data.{name}")


def _check_foreground(config: Config, name: str, where: str) -> None:
    predicted = predicted_foreground(config, name, where)
    if predicted is None:
        return
    place = f"{where}: data.{name}"
    Run.parse(predicted.by, f"{place}.by")
    readers = {key: values for key, values in config.data.items() if "reader" in values}
    for key in filter(None, (predicted.of, predicted.run.train, predicted.found_in)):
        _known(key, readers, place)
    method_settings(config, predicted.run.method, predicted.run.variant, f"{place}.by")
    if not capabilities()["part_maps"].offered_by(methods.load(predicted.run.method)):
        raise BadInput(
            f"{place}.by: {predicted.run.method} offers no part maps, hence no foreground; name a "
            "run of a method that does, such as `foreground`"
        )
    by = predicted.run
    _check_crops(config, by.train, by.method, [by.variant], f"{place}.by")
    on = predicted.found_in or predicted.of
    learnt, cut, shown = (data_settings(config, key, where) for key in (by.train, predicted.of, on))
    check_same_crop(learnt.crop, shown.crop, f"{place}: {by} on {on}")
    if predicted.found_in:
        check_carried(cut.model_dump(), shown.model_dump(), f"{place}: {predicted.of} on {on}")


def scene_neighbours(config: Config, name: str, where: str = "") -> SceneNeighbours | None:
    """Return how the neighbours of a data set's images are found; None if they are not."""
    values = config.data[name]
    if "reader" in values or "neighbours" not in values:
        return None
    return SceneNeighbours.parse(values, f"{where}: data.{name}")


def _check_neighbours(config: Config, name: str, where: str) -> None:
    if scenes := scene_neighbours(config, name, where):
        readers = {key: values for key, values in config.data.items() if "reader" in values}
        _known(scenes.of, readers, f"{where}: data.{name}")


def pseudo_labels(config: Config, name: str, where: str = "") -> PseudoLabels | None:
    """Return how a data set gets clusters of a run's features; None if it has none."""
    values = config.data[name]
    if "reader" in values or "clusters" not in values:
        return None
    return PseudoLabels.parse(values, f"{where}: data.{name}")


def _check_clusters(config: Config, name: str, where: str) -> None:
    clusters = pseudo_labels(config, name, where)
    if clusters is None:
        return
    place, by = f"{where}: data.{name}", clusters.run
    _known(clusters.of, {k: v for k, v in config.data.items() if "reader" in v}, place)
    _known(by.train, {k: v for k, v in config.data.items() if "clusters" not in v}, place)
    method_settings(config, by.method, by.variant, f"{place}.by")
    if not capabilities()["trunks"].offered_by(methods.load(by.method)):
        raise BadInput(
            f"{place}.by: {by.method} offers no trunks, hence no features to cluster; name a run "
            "of a method that does, such as `lorbms`"
        )
    parts = methods.load(by.method).trunk_names
    if clusters.part not in parts:
        raise BadInput(
            f"{place}.part: {by.method} has no part '{clusters.part}'; "
            f"{nearest(clusters.part, parts)}"
        )
    _check_crops(config, by.train, by.method, [by.variant], f"{place}.by")


def optical_flow(config: Config, name: str, where: str = "") -> OpticalFlow | None:
    """Return how a data set gets pictures of optical flow; None if it has none."""
    values = config.data[name]
    if "reader" in values or "flow" not in values:
        return None
    return OpticalFlow.parse(values, f"{where}: data.{name}")


def second_stream(config: Config, name: str, where: str = "") -> SecondStream | None:
    """Return whose features of a second stream a data set gets; None if it has none."""
    values = config.data[name]
    if "reader" in values or "stream" not in values:
        return None
    return SecondStream.parse(values, f"{where}: data.{name}")


def _check_streams(config: Config, name: str, where: str) -> None:
    place = f"{where}: data.{name}"
    readers = {key: values for key, values in config.data.items() if "reader" in values}
    if flow := optical_flow(config, name, where):
        _known(flow.of, readers, place)
        if not _frames(config, flow.of):
            raise BadInput(f"{place}: {flow.of} holds single images; optical flow is of clips")
    if second := second_stream(config, name, where):
        by = second.run
        single = {key: values for key, values in config.data.items() if "stream" not in values}
        _known(second.of, readers, place)
        for key in (second.stream, by.train):
            _known(key, single, place)
        method_settings(config, by.method, by.variant, f"{place}.by")
        if not capabilities()["features"].offered_by(methods.load(by.method)):
            raise BadInput(
                f"{place}.by: {by.method} offers no features; name a run of a method that does, "
                "such as `fv_vae`"
            )


def repeated(config: Config, name: str, where: str = "") -> str:
    """Return which data set, one with a reader, the data set `name` repeats; else itself."""
    for form in FORMS:
        if derived := form(config, name, where):
            return derived.of
    return name


FORMS = (scene_neighbours, pseudo_labels, predicted_foreground, optical_flow, second_stream)
"""What asks for the forms of a data set that repeats another one."""


def load_reader(config: Config, name: str, where: str = "") -> type[Reader]:
    """Return the reader class of the data set `name`, or of the one that it repeats."""
    name = repeated(config, name, where)
    place = f"{where}: data.{name}"
    if "reader" not in config.data[name]:
        raise BadInput(f"{place} has no key 'reader'; name a file of partbench/data/")
    reader = config.data[name]["reader"]
    if not isinstance(reader, str):
        raise BadInput(f"{place}.reader is {shown(reader)}; name a file of partbench/data/")
    return plugins.load("data", reader, Reader, f"{place}.reader")  # type: ignore[type-abstract]


def _check_splits(config: Config, name: str, where: str) -> None:
    """Refuse, with `BadInput`, settings of a data set that are wrong, or name no split of it."""
    settings = data_settings(config, name, where)
    splits = load_reader(config, name, where)(data_root(), settings).split_names
    if splits is not None:
        check_limit(settings, splits, f"{where}: data.{name}")


def _frames(config: Config, name: str) -> int:
    """Return the frames of a clip of the data set `name`, 0 of single images."""
    frames = load_reader(config, name)(data_root(), data_settings(config, name)).frames
    return frames if frames > 1 else 0


def data_settings(config: Config, name: str, where: str = "") -> DataSettings:
    """Return the validated settings of the data set `name`, or of the one that it repeats."""
    name = repeated(config, name, where)
    values = {k: v for k, v in config.data[name].items() if k != "reader"}
    return load_reader(config, name, where).Settings.parse(values, f"{where}: data.{name}")


def probe_settings(config: Config, name: str, data: str, where: str = "") -> Settings:
    """Return the validated settings of the probe `name` on the data set `data`."""
    cls = load_probe(name, f"{where}: probes")
    values = {**cls.PAPER.get(version_of(data), {}), **config.probes.get(name, {})}
    return cls.Settings.parse(values, f"{where}: probes.{name}")


def method_settings(config: Config, name: str, variant: str, where: str = "") -> Any:
    """Return the validated settings of a variant of the method `name`."""
    cls = methods.load(name, where)
    return methods.resolve(cls, variant, config.settings.get(name, {}), where)


def runs(config: Config) -> list[Run]:
    """Return every training of the configuration, once."""
    trainings = {
        Run(name, variant, block.train, seed): None
        for block in config.runs
        for name, variants in block.methods.items()
        for variant in variants
        for seed in (config.seeds if block.seeds is None else block.seeds)
    }
    by_run = (predicted_foreground, pseudo_labels, second_stream)
    forms = (form(config, name) for name in config.data for form in by_run)
    trainings |= {derived.run: None for derived in forms if derived}
    return list(trainings)


def cells(config: Config) -> list[Cell]:
    """Return every cell of the configuration, once; those that do not fit carry the reason."""
    by_path: dict[str, Cell] = {}
    for block in config.runs:
        for name, variants in block.methods.items():
            for probe, evals in block.probes.items():
                skip = load_probe(probe).misfit(methods.load(name))
                for variant in variants:
                    for seed in config.seeds if block.seeds is None else block.seeds:
                        for data in evals:
                            cell = Cell(Run(name, variant, block.train, seed), data, probe, skip)
                            by_path[str(cell)] = cell
    return list(by_path.values())
