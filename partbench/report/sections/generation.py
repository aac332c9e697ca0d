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
from partbench.report.read import CellRecord
from partbench.report.section import MethodRecord, Section, Task, View

SHOWN = 12
"""Images of a strip."""
WORDS = {
    "real": "test images",
    "generated": "generated",
    "stretched": "generated, contrast-stretched",
}
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


class GenerationSection(Section):
    """Generated images beside real ones, and the distance by their number."""

    title = "Generated images"
    order = 60
    headline = tuple(metric_name("fid", n) for n in ("inception", "dinov2", "mobilenet", "random"))

    def view(self, task: Task) -> View | None:
        """Return what the section shows of one task."""
        views = [view for method in task.methods if (view := view_of(method, task))]
        if not views:
            return None
        return {
            "id": text.address("generation", task.train, task.eval),
            "train": task.train,
            "eval": task.eval,
            "real": views[0]["real"],
            "methods": views,
            "chart": chart(views),
            "reference": reference(task.numbers),
        }

    def note(self, numbers: pd.DataFrame) -> View:
        """Return the networks whose features were compared."""
        metrics = set(numbers["metric"])
        return {"others": not metrics & {metric_name("fid", "inception")}}


def view_of(method: MethodRecord, task: Task) -> View | None:
    """Return a method's entry, of the first seed that has a whole cell; None if there is none."""
    for cell in method.cells:
        try:
            details = Details.model_validate(cell.record.get("details"))
        except ValidationError:  # damaged, or from another version
            continue
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
            "metric": metric_name("fid", details.network),
        }
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


def chart(views: list[View]) -> Markup | None:
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
    axes = ("1000 / number of images", views[0]["metric"])
    return figures.lines(lines, axes, f"{axes[1]}: {'; '.join(spoken)}")


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
