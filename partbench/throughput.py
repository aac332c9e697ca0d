"""How fast trainings ran here: the operations a second of every train.json at hand."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from partbench import config as configs
from partbench import method as methods
from partbench import step_cost, unprepared
from partbench.errors import BadInput
from partbench.integrity import read_record
from partbench.run import Run

Kind = Literal["GPU", "CPU"]


class Rate(NamedTuple):
    """Operations a second of a GPU or of a core, and how certain they are."""

    flops: float
    source: str
    """In words: measured by which runs, or assumed."""


class Throughput:
    """The rates of the runs in a folder of results."""

    def __init__(self, results: Path) -> None:
        self.of_method: dict[tuple[Kind, str], list[float]] = {}
        self.of_kind: dict[Kind, list[float]] = {}
        for kind, method, rate in _measured(results):
            self.of_method.setdefault((kind, method), []).append(rate)
            self.of_kind.setdefault(kind, []).append(rate)

    def rate(self, kind: Kind, method: str, assumed: float) -> Rate:
        """Return the rate of a method: its own runs' median, else all runs', else the assumed."""
        if own := self.of_method.get((kind, method)):
            return Rate(statistics.median(own), _spread(own, "measured"))
        if others := self.of_kind.get(kind):
            return Rate(statistics.median(others), _spread(others, "as other methods,"))
        return Rate(assumed, "assumed")


def _spread(rates: list[float], how: str) -> str:
    runs = "1 run" if len(rates) == 1 else f"{len(rates)} runs"
    middle = statistics.median(rates)
    span = f", {min(rates) / middle:.2g} to {max(rates) / middle:.2g} times" if rates[1:] else ""
    return f"{how} {runs}{span}"


def _measured(results: Path) -> Iterator[tuple[Kind, str, float]]:
    """Yield device, method and operations a second of each run that can be read.

    What is damaged, or of another version, is left out: the report is what complains of it.
    """
    for folder in sorted(results.glob("*/")):
        try:
            values = read_record(folder / "config.json")
            # Results may be a stranger's: no code of theirs is looked for to plan.
            config = configs.check({**values, "plugins": []}, str(folder))
        except (BadInput, OSError):
            continue
        for file in sorted(folder.glob("runs/*/*/*/*/train.json")):
            try:
                record = read_record(file)
                run = Run(**record["run"])
                settings = methods.load(run.method).Settings.parse(record["settings"], str(file))
                size = unprepared.info(config, run.train)
                speed = record["images_per_second"]
                made_on = record["provenance"]
                devices, threads = (record["runtime"][key] for key in ("devices", "threads"))
                flops = step_cost.of_training(run.method, settings, size).flops
            except (BadInput, KeyError, TypeError):
                continue
            if speed:
                kind: Kind = "CPU" if made_on["device"] == made_on["cpu"] else "GPU"
                share = devices * (threads if kind == "CPU" else 1)
                yield kind, run.method, speed * flops / settings.batch_size / share
