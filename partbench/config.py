"""A configuration file, validated, and the grid of runs and cells that it asks for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import Field, NonNegativeInt

from partbench import method as methods
from partbench import plugins
from partbench.data.reader import DataSettings, Reader
from partbench.errors import BadInput
from partbench.files import data_root
from partbench.outputs.capability import capabilities, check_class
from partbench.probe import Probe
from partbench.published import version_of
from partbench.run import Run, Runtime
from partbench.settings import Settings, nearest


class Block(Settings):
    """Some methods in some variants, trained on one data set and measured by some probes."""

    train: str = Field(description="the data set to train on, a key of `data`")
    methods: dict[str, list[str]] = Field(description="method -> variants (`a+b` combines)")
    probes: dict[str, list[str]] = Field(description="probe -> data sets to measure on")
    seeds: list[NonNegativeInt] | None = Field(None, description="instead of the configuration's")


class Config(Settings):
    """A whole configuration; each key is explained in config/README.md."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="keeps results apart")
    seeds: list[NonNegativeInt] = Field(min_length=1)
    comparable: bool = Field(
        True, description="false: a reduced configuration, never held against published numbers"
    )
    runtime: Runtime = Runtime()
    data: dict[str, dict[str, Any]] = Field(
        description="name -> `reader` and the reader's settings, or `of` and `by`"
    )
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="method -> settings on top of every variant's"
    )
    probes: dict[str, dict[str, Any]] = Field(default_factory=dict, description="probe -> settings")
    runs: list[Block] = Field(min_length=1)


class FoundForeground(Settings):
    """A data set that is another one with its foreground as a run finds it."""

    of: str = Field(description="the other data set, a key of `data` with a reader")
    by: str = Field(
        pattern=r"^[^/]+/[^/]+/[^/]+/\d+$", description="the run: method/variant/train/seed"
    )

    @property
    def run(self) -> Run:
        """The run whose foreground it is."""
        name, variant, train, seed = self.by.split("/")
        return Run(name, variant, train, int(seed))


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
        BadInput: it cannot be read, or is not YAML, or `check` finds a fault.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise BadInput(f"{path}: must hold keys and values, such as those of config/demo.yaml")
    return check(values, str(path))


def check(values: Mapping[str, Any], where: str) -> Config:
    """Validate a configuration down to every method's, reader's and probe's own settings.

    Args:
        values: the keys and values.
        where: the file they come from, for messages.

    Raises:
        BadInput: an unknown key, method, variant, data set, reader or probe (the nearest valid
            one is named), a value of the wrong type or range, or a method of single images that
            is to be trained on clips, or the other way round.
    """
    config = Config.parse(values, where)
    for name in config.data:
        _check_foreground(config, name, where)
        data_settings(config, name, where)
    for name in config.probes:
        for data in config.data:
            probe_settings(config, name, data, where)
    for name in config.settings:
        method_settings(config, name, "paper", f"{where}: settings.{name}")
    for i, block in enumerate(config.runs):
        place = f"{where}: runs[{i}]"
        _known(block.train, config.data, f"{place}.train")
        for name, variants in block.methods.items():
            for variant in variants:
                method_settings(config, name, variant, f"{place}.methods.{name}")
            cls = methods.load(name)
            check_class(cls)
            methods.check_reads(cls, _frames(config, block.train), f"{place}: {block.train}")
        for name, evals in block.probes.items():
            for data in evals:
                _known(data, config.data, f"{place}.probes.{name}")
                probe_settings(config, name, data, place)
    return config


def _known(name: str, data: Mapping[str, Any], where: str) -> None:
    if name not in data:
        raise BadInput(f"{where}: no data set '{name}' under `data`; {nearest(name, data)}")


def found_foreground(config: Config, name: str, where: str = "") -> FoundForeground | None:
    """Return of what and by whom a data set's foreground is found; None if it has a reader."""
    values = config.data[name]
    if "reader" in values or not values.keys() & {"of", "by"}:
        return None
    return FoundForeground.parse(values, f"{where}: data.{name}")


def _check_foreground(config: Config, name: str, where: str) -> None:
    found = found_foreground(config, name, where)
    if found is None:
        return
    place = f"{where}: data.{name}"
    readers = {key: values for key, values in config.data.items() if "reader" in values}
    for key in (found.of, found.run.train):
        _known(key, readers, place)
    method_settings(config, found.run.method, found.run.variant, f"{place}.by")
    if not capabilities()["part_maps"].offered_by(methods.load(found.run.method)):
        raise BadInput(
            f"{place}.by: {found.run.method} offers no part maps, hence no foreground; name a run "
            "of a method that does, such as `foreground`"
        )


def load_reader(config: Config, name: str, where: str = "") -> type[Reader]:
    """Return the reader class of the data set `name`, or of the one whose foreground is found."""
    if found := found_foreground(config, name, where):
        name = found.of
    reader = config.data[name].get("reader")
    if reader is None:
        raise BadInput(f"{where}: data.{name} has no key 'reader'")
    return plugins.load("data", reader, Reader, f"{where}: data.{name}.reader")  # type: ignore[type-abstract]


def _frames(config: Config, name: str) -> int:
    """Return the frames of a clip of the data set `name`, 0 of single images."""
    frames = load_reader(config, name)(data_root(), data_settings(config, name)).frames
    return frames if frames > 1 else 0


def data_settings(config: Config, name: str, where: str = "") -> DataSettings:
    """Return the validated settings of the data set `name`, or of the one it is made of."""
    if found := found_foreground(config, name, where):
        name = found.of
    values = {k: v for k, v in config.data[name].items() if k != "reader"}
    return load_reader(config, name, where).Settings.parse(values, f"{where}: data.{name}")


def probe_settings(config: Config, name: str, data: str, where: str = "") -> Settings:
    """Return the validated settings of the probe `name` on the data set `data`."""
    cls = plugins.load("probes", name, Probe, f"{where}: probes")  # type: ignore[type-abstract]
    values = {**cls.PAPER.get(version_of(data), {}), **config.probes.get(name, {})}
    return cls.Settings.parse(values, f"{where}: probes.{name}")


def method_settings(config: Config, name: str, variant: str, where: str = "") -> Any:
    """Return the validated settings of a variant of the method `name`."""
    cls = methods.load(name, where)
    return methods.resolve(cls, variant, config.settings.get(name, {}), where)


def runs(config: Config) -> list[Run]:
    """Return every training of the configuration, once."""
    found = {
        Run(name, variant, block.train, seed): None
        for block in config.runs
        for name, variants in block.methods.items()
        for variant in variants
        for seed in (config.seeds if block.seeds is None else block.seeds)
    }
    foregrounds = (found_foreground(config, name) for name in config.data)
    found |= {foreground.run: None for foreground in foregrounds if foreground}
    return list(found)


def cells(config: Config) -> list[Cell]:
    """Return every cell of the configuration, once; those that do not fit carry the reason."""
    found: dict[str, Cell] = {}
    for block in config.runs:
        for name, variants in block.methods.items():
            for probe, evals in block.probes.items():
                skip = plugins.load("probes", probe, Probe).misfit(methods.load(name))  # type: ignore[type-abstract]
                for variant in variants:
                    for seed in config.seeds if block.seeds is None else block.seeds:
                        for data in evals:
                            cell = Cell(Run(name, variant, block.train, seed), data, probe, skip)
                            found[str(cell)] = cell
    return list(found.values())


def dump(settings: Settings) -> str:
    """Return settings as one line of json with sorted keys, to pass on a command line."""
    return json.dumps(settings.model_dump(mode="json"), sort_keys=True)
