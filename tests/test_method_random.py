"""What methods say of the seed: a method that is not `random` gives the same with any."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from partbench import method as methods
from partbench import plugins
from partbench.data.loader import to_float
from partbench.data.prepared import Prepared
from partbench.method import Method
from partbench.model import load_model
from partbench.run import Run, Runtime
from partbench.train import train

CPU = Runtime(device="cpu", threads=1, precision="32-true")
SEEDLESS = (
    "gt_keypoint_mean",
    "image_midpoint",
    "mean_shape",
    "pooling",
    "principal_foreground",
    "raw_pixels",
    "throat_keypoint",
)
"""Methods that ignore it."""
PRETRAINED = "imagenet_pretrained"
"""Its file is not at hand, and its variant without one draws."""
DRAWING = (
    "compact_bilinear",
    "dff",
    "fisher_vectors",
    "kmeans",
    "random_init",
    "random_keypoints",
    "random_parts",
    "vlad",
)
"""Methods without steps that look alike, but draw."""


def outputs(name: str, seed: int, data: Path, folder: Path) -> list[Tensor]:
    """Train a method and return what it gives for ten test images, and its parameters."""
    variant = "demo" if "demo" in methods.load(name).REDUCED else "paper"
    settings: Any = methods.resolve(methods.load(name), variant, {}, "test")
    where = folder / name / str(seed)
    train(Run(name, variant, "toy", seed), settings, CPU, data, where)
    _, loaded = load_model(where / "model.pt", "cpu")
    method: Any = loaded
    images = to_float(torch.from_numpy(np.array(Prepared(data).split("test").images[:10])))
    given: list[Tensor] = list(method.state_dict().values())
    with torch.inference_mode():
        torch.manual_seed(seed)  # as the extraction does
        for capability in ("features", "keypoints", "part_maps"):
            if hasattr(method, capability):
                found = getattr(method, capability)(images)
                given += (
                    [found] if isinstance(found, Tensor) else list(filter(torch.is_tensor, found))
                )
    return given


def test_which_methods_say_that_the_seed_changes_nothing() -> None:
    names = plugins.names("methods", Method)
    seedless = {name for name in names if not methods.load(name).random}
    assert seedless == {*SEEDLESS, PRETRAINED}


@pytest.mark.parametrize("name", [*SEEDLESS, *DRAWING])
def test_the_seed_changes_what_it_is_said_to(name: str, tiny: Path, tmp_path: Path) -> None:
    first, second = (outputs(name, seed, tiny, tmp_path) for seed in (0, 1))
    assert len(first) == len(second) > 0
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert same is not methods.load(name).random
