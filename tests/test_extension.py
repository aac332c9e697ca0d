"""A capability, a method, a probe and a section of the report: new files, and no edit elsewhere."""

from pathlib import Path

import pytest
from checkout import Checkout

FILES = {
    "partbench/outputs/colours.py": '''
"""Colours: one colour an image; `<split>.colours.npy`, float32 [N, 3]."""

from pathlib import Path
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.prepared import Prepared
from partbench.outputs.arrays import SPLITS, open_array, write_arrays
from partbench.outputs.capability import Capability, call_of, check_tensor


class HasColours(Protocol):
    """A method that names the colour of an image."""

    def colour(self, images: Tensor) -> Tensor:
        """Return the colour of each image, [B, 3] in [0, 1]."""


class Colours(Capability):
    """Colours of all images."""

    offer = HasColours
    member = "colour"

    def check(self, method: HasColours, samples: Tensor) -> None:
        """Check the colours of two images."""
        check_tensor(method.colour(samples), call_of(method, "colour"), (2, 3), low=0, high=1)

    def write(
        self, method: HasColours, data: Prepared, folder: Path, device: torch.device, label: str
    ) -> None:
        """Write the colours of both splits."""
        for name in SPLITS:
            split = data.split(name)
            write_arrays(
                folder, split, label, lambda images, _: {"colours": method.colour(images)}, device
            )


def read(folder: Path, split: str) -> NDArray[Any]:
    """Return the colours of a split, [N, 3]."""
    return open_array(folder / f"{split}.colours.npy")
''',
    "partbench/methods/mean_colour.py": '''
"""The mean colour."""

from torch import Tensor

from partbench.method import StepFreeMethod


class MeanColour(StepFreeMethod):
    """The mean of all pixels."""

    def colour(self, images: Tensor) -> Tensor:
        """Return the mean colour."""
        return images.mean((2, 3))
''',
    "partbench/probes/colour_error.py": '''
"""How far a colour is from the mean colour of the image."""

from pathlib import Path
from typing import Any

import numpy as np

from partbench.data.prepared import Prepared
from partbench.outputs import colours
from partbench.probe import Numbers, Probe, Result, Setting
from partbench.settings import Settings


class ColourSettings(Settings):
    """None."""


class ChannelSetting(Setting):
    """Which channel."""

    channel: int | None = None


class ColourError(Probe):
    """Mean absolute error, of all channels and of each."""

    Settings = ColourSettings
    Setting = ChannelSetting
    version = 1
    needs = ("colours",)

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        """Measure the colours in `source`."""
        truth = Prepared(data).split("test").images.mean((1, 2)) / 255
        errors = np.abs(colours.read(source, "test") - truth)
        numbers = Numbers(unit="", better="lower")
        numbers.add("colour_error", ChannelSetting(), errors.mean(1))
        for channel in range(3):
            numbers.add("colour_error", ChannelSetting(channel=channel), errors[:, channel])
        return numbers.result(details={"first": errors[0].tolist()})
''',
    "partbench/report/sections/colour_error.py": '''
"""What the report shows of colours."""

from typing import ClassVar

from partbench.probes.colour_error import ChannelSetting
from partbench.report.section import Section, Task, View


class ColourSection(Section):
    """The first image's errors."""

    title = "Colours of images"
    headline: ClassVar = ("colour_error",)
    headline_settings: ClassVar = {ChannelSetting(): "all channels"}

    def view(self, task: Task) -> View | None:
        """Return the errors of the first image."""
        cells = [cell for method in task.methods for cell in method.cells]
        return {"first": [cell.record["details"]["first"] for cell in cells]}
''',
    "partbench/report/sections/colour_error.html": """
{% macro task(view) %}<p id="first-errors">{{ view.first | length }} runs measured</p>{% endmacro %}
{% macro note(view) %}A mean colour says nothing of shapes.{% endmacro %}
""",
}


@pytest.mark.timeout(300)
def test_new_files_make_a_capability_from_method_to_page(tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench")
    for name, content in FILES.items():
        path = here.folder / name
        assert not path.exists()
        path.write_text(content.lstrip())
    config = here.configure(
        {
            "name": "tiny",
            "comparable": False,
            "seeds": [0],
            "runtime": {"device": "cpu", "threads": 1},
            "data": {"toy": {"reader": "toy", "size": 32, "train": 8, "val": 1, "test": 8}},
            "runs": [
                {
                    "train": "toy",
                    "methods": {"mean_colour": ["paper"], "raw_pixels": ["paper"]},
                    "probes": {"colour_error": ["toy"]},
                }
            ],
        }
    )
    here.make(config)
    metrics = here.metrics("tiny")
    done = metrics[metrics["status"] == "done"]
    assert list(done["setting"]) == ["", "channel 0", "channel 1", "channel 2"]
    assert (done["value"].astype(float) < 1e-6).all()
    misfit = metrics[metrics["status"] == "not applicable"]
    assert list(misfit["reason"]) == ["the method offers no colours"]
    page = (here.folder / "report/tiny/task-colour_error-toy.html").read_text()
    assert "Colours of images" in page
    assert "1 runs measured" in page
    assert "A mean colour says nothing of shapes." in page
    assert "all channels" in page
