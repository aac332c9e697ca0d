"""Try a method, a reader or a probe of one's own in a test, by the stages of the workflow.

data = prepared("toy", tmp_path, size=32, train=64, val=1, test=32)
model = trained("mine", data, tmp_path, epochs=10, batch_size=16)
numbers = measured("linear", model, data, tmp_path)
"""

import json
from pathlib import Path
from typing import Any

from partbench import method as methods
from partbench import plugins
from partbench.data.prepare import prepare
from partbench.data.reader import Reader
from partbench.extract import extract
from partbench.model import load_model
from partbench.probe import Probe, measure, read_cell
from partbench.run import Run, Runtime
from partbench.train import train

RUNTIME = Runtime(device="cpu", threads=1)


def prepared(reader: str, folder: Path, **settings: Any) -> Path:
    """Prepare a data set; return where it lies.

    Args:
        reader: its name.
        folder: where to work; the data root too.
        settings: the reader's.
    """
    cls = plugins.load("data", reader, Reader, "prepared")  # type: ignore[type-abstract]
    out = folder / "data" / reader
    prepare(cls(folder, cls.Settings.parse(settings, reader)), reader, out, workers=1)
    return out


def trained(
    method: str, data: Path, folder: Path, variant: str = "paper", seed: int = 0, **settings: Any
) -> Path:
    """Train a method; return its model.pt.

    Args:
        method: its name.
        data: what `prepared` returned.
        folder: where to work.
        variant: of the method.
        seed: of the run.
        settings: the method's, on top of the variant's.
    """
    run = Run(method, variant, data.name, seed)
    out = folder / "runs" / str(run)
    values = methods.resolve(methods.load(method), variant, settings, method)
    train(run, values, RUNTIME, data, out)
    return out / "model.pt"


def losses(model: Path, term: str = "all/loss") -> list[float]:
    """Return what a training logged, step by step.

    Args:
        model: what `trained` returned.
        term: the phase of the update and the name that the method's `forward` gives.
    """
    lines = (model.with_name("log.jsonl")).read_text().splitlines()
    return [json.loads(line)[term] for line in lines]


def measured(
    probe: str, model: Path, data: Path, folder: Path, **settings: Any
) -> dict[str, float]:
    """Measure a trained method; return its numbers by the names that the tables give them.

    Args:
        probe: its name.
        model: what `trained` returned.
        data: what `prepared` returned.
        folder: where to work.
        settings: the probe's.
    """
    cls = plugins.load("probes", probe, Probe, "measured")  # type: ignore[type-abstract]
    run, _ = load_model(model, "cpu")
    cell = folder / "cells" / str(run) / data.name / f"{probe}.json"
    cell.parent.mkdir(parents=True, exist_ok=True)
    source = model
    if cls.reads == "outputs":
        source = folder / "outputs" / str(run) / data.name / probe
        extract(model, data, cls.needs, source, cell.with_suffix(".pictures.npz"), "cpu", 1)
    values = cls.Settings.parse(settings, probe)
    measure(cls(), run, source, data, values, RUNTIME, cell)
    numbers = {}
    for metric in read_cell(cell)["metrics"]:
        words = str(cls.Setting.model_validate(metric["setting"]))
        numbers[", ".join(filter(None, [metric["metric"], words]))] = metric["value"]
    return numbers
