"""What is behind the generation probe's numbers: generated images beside real ones, and their n."""

import numpy as np
import pandas as pd
from markupsafe import Markup
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from partbench.data.neighbours import PLACES, QUADRANTS
from partbench.metrics.frechet import Z
from partbench.outputs import mixed_scenes, reconstructions
from partbench.outputs.arrays import read_images
from partbench.probes.generation import GenerationSetting, metric_name
from partbench.report import figures, raster, text
from partbench.report.figures import Line
from partbench.report.read import CellRecord, Data
from partbench.report.section import MethodRecord, Section, Task, View

SHOWN = 12
"""Images of a strip."""
WORDS = {
    "real": "test images",
    "generated": "generated",
    "stretched": "generated, contrast-stretched",
}
MEASURES = {
    "fid": "FID",
    "fd": "Frechet distance",
    "kid": "KID",
    "kd": "Kernel distance",
    "is": "Inception Score",
}
"""Measures by the first word of a metric, and what they are called."""
NEIGHBOURS_WIDTH = 1600
"""Pixels of their sheet: the distances in it stay readable."""
KEPT = "what the mixed scenes keep of the test images"


class Endless(BaseModel):
    """The Frechet distance by number of images, and what it leads to."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    sizes: list[int] = Field(min_length=2)
    distances: list[FiniteFloat] = Field(min_length=2)


class Details(BaseModel):
    """What the report reads of the probe's details."""

    network: str
    infinity: dict[str, Endless]
    training: dict[int, FiniteFloat] = {}
    """Epoch -> distance."""


class GenerationSection(Section):
    """Generated images beside real ones, and the distance by their number."""

    name = "Generation"
    title = "Generated images"
    order = 60
    headline = tuple(metric_name("fid", n) for n in ("inception", "dinov2", "mobilenet", "random"))

    def label(self, metric: str) -> str:
        """Return what a metric is called: `FID`, `Frechet distance, dinov2`."""
        return called(metric)

    def view(self, task: Task) -> View | None:
        """Return what the section shows of one task."""
        views = [view for method in task.methods if (view := view_of(method, task))]
        if not views:
            return None
        shown: set[str] = set()
        for view in views:  # variants of a method mix the same images
            view["strips"] = [one for one in view["strips"] if one[1] not in shown]
            shown |= {uri for _, uri in view["strips"]}
        return {
            "id": text.address("generation", task.train, task.eval),
            "train": task.train,
            "eval": task.eval,
            "real": views[0]["real"],
            "methods": views,
            "charts": charts(views),
            "neighbours": neighbours(task.data),
            "reference": reference(task.numbers),
        }

    def note(self, numbers: pd.DataFrame) -> View:
        """Return the networks whose features were compared."""
        metrics = set(numbers["metric"])
        return {"others": not metrics & {metric_name("fid", "inception")}}


def called(metric: str) -> str:
    """Return what a metric is called: `FID`, `Frechet distance, dinov2`."""
    measure, _, network = metric.removeprefix("real_").partition("_")
    words = MEASURES.get(measure, measure.capitalize())
    real = " of training images" if metric.startswith("real_") else ""
    return f"{words}{real}{f', {network}' if network else ''}"


def view_of(method: MethodRecord, task: Task) -> View | None:
    """Return a method's entry, with pictures of the first seed; None if no cell is whole."""
    whole = [(cell, details) for cell in method.cells if (details := details_of(cell))]
    if not whole:
        return None
    cell, details = whole[0]
    strips = strips_of(cell)
    return {
        "id": text.address("generation", method.method, method.variant, task.train, task.eval),
        "name": method.name,
        "role": method.role,
        "colour": method.colour,
        "seed": cell.seed,
        "real": strips.pop("real", None),
        "strips": [(WORDS.get(key, key), uri) for key, uri in strips.items()],
        "endless": details.infinity,
        "training": [details.training for _, details in whole if details.training],
        "metric": metric_name("fid", details.network),
        "label": called(metric_name("fid", details.network)),
    }


def details_of(cell: CellRecord) -> Details | None:
    """Return what a cell says beside its numbers; None if damaged, or of another version."""
    try:
        return Details.model_validate(cell.record.get("details"))
    except ValidationError:
        return None


def strips_of(cell: CellRecord) -> dict[str, Markup]:
    """Return a cell's real and generated images, and what they are mixed of; none if damaged."""
    found = {key: read_images(cell.arrays, key) for key in WORDS}
    if mixed := mixed_scenes.Pictures.read(cell.arrays):
        found[KEPT] = mixed.kept
        found |= {f"candidates, {PLACES[i]}": mixed.candidates[:, i] for i in range(QUADRANTS)}
        if decoded := reconstructions.Pictures.read(cell.arrays):
            found["reconstructions"] = decoded.reconstructions
    return {key: raster.strip(some, SHOWN) for key, some in found.items() if some is not None}


def charts(views: list[View]) -> list[tuple[str, Markup]]:
    """Return the charts that there are numbers for, with their titles."""
    drawn = {
        "distance by number of images": by_number(views),
        "distance over training": over_training(views),
    }
    return [(title, svg) for title, svg in drawn.items() if svg is not None]


def by_number(views: list[View]) -> Markup | None:
    """Draw the distance against 1000 / n; at 0 stands the extrapolation with its interval."""
    lines, spoken = [], []
    for view in views:
        for setting, endless in view["endless"].items():
            stretched = GenerationSetting(stretched=True)
            name = view["name"] + (f", {stretched}" if str(stretched) in setting else "")
            sizes = np.array(endless.sizes[::-1], float)
            x = [0.0, *(1000 / sizes)]
            y = [endless.value, *endless.distances[::-1]]
            sd = [(endless.high - endless.low) / 2 / Z, *np.zeros(len(sizes))]
            lines.append(Line(name, view["role"], view["colour"], x, y, sd))
            spoken.append(f"{name} {y[1]:.4g} of {endless.sizes[-1]} images, {y[0]:.4g} of all")
    if not lines:
        return None
    axes = ("1000 / number of images", views[0]["label"])
    return figures.lines(lines, axes, f"{axes[1]}: {'; '.join(spoken)}")


def over_training(views: list[View]) -> Markup | None:
    """Draw the distance against epochs: the mean over seeds, with a bar of one SD."""
    lines, spoken = [], []
    for view in views:
        seeds = view["training"]
        epochs = sorted(set.intersection(*map(set, seeds))) if seeds else []
        if len(epochs) < 2:
            continue
        values = np.array([[seed[epoch] for epoch in epochs] for seed in seeds])
        mean, sd = values.mean(0), values.std(0, ddof=1) if len(seeds) > 1 else None
        lines.append(Line(view["name"], view["role"], view["colour"], epochs, mean, sd))
        ends = f"{mean[0]:.4g} after epoch {epochs[0]}, {mean[-1]:.4g} after epoch {epochs[-1]}"
        spoken.append(f"{view['name']} {ends}")
    if not lines:
        return None
    axes = ("epochs", views[0]["label"])
    return figures.lines(lines, axes, f"{axes[1]}: {'; '.join(spoken)}")


def neighbours(data: Data | None) -> Markup | None:
    """Return the pictures of a data set's neighbours, None if there are none."""
    if data is None or data.neighbours is None:
        return None
    return raster.sheet(data.neighbours, NEIGHBOURS_WIDTH)


def reference(numbers: pd.DataFrame) -> str:
    """Return in words how far training images are from the test images."""
    rows = numbers[numbers["metric"].str.startswith(("real_fid", "real_fd"))]
    if not len(rows):
        return ""
    row = rows.iloc[0]
    return (
        f"As many training images have {row['metric']} = {float(row['mean']):.4g}: no generator "
        "can be expected to come nearer."
    )
