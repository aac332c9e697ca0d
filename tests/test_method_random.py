"""What methods say of the seed: a method that is not `random` gives the same with any."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from partbench import config as grid
from partbench import method as methods
from partbench import plugins
from partbench.data.loader import to_float
from partbench.data.prepared import Prepared
from partbench.extract import extract
from partbench.method import Method
from partbench.model import load_model
from partbench.nn.keypoints import expectation
from partbench.outputs.keypoints import Keypoints
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
    PRETRAINED,
    "kmeans",
    "random_init",
    "random_keypoints",
    "random_parts",
    "vlad",
)
"""Methods without steps that look alike, but draw."""


def variant_of(name: str) -> str:
    """Return the variant that needs no file."""
    return "demo" if "demo" in methods.load(name).REDUCED else "paper"


def is_random(name: str, variant: str) -> bool:
    """Return whether the seed is said to change what a variant gives."""
    cls = methods.load(name)
    return methods.is_random(cls, methods.resolve(cls, variant, {}, "test"))


def outputs(name: str, seed: int, data: Path, folder: Path) -> list[Tensor]:
    """Train a method and return what it gives for ten test images, and its parameters."""
    variant = variant_of(name)
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
    seedless = {name for name in names if not is_random(name, "paper")}
    assert seedless == {*SEEDLESS, PRETRAINED}


@pytest.mark.parametrize("name", [*SEEDLESS, *DRAWING])
def test_the_seed_changes_what_it_is_said_to(name: str, tiny: Path, tmp_path: Path) -> None:
    first, second = (outputs(name, seed, tiny, tmp_path) for seed in (0, 1))
    assert len(first) == len(second) > 0
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert same is not is_random(name, variant_of(name))


@pytest.mark.parametrize(
    ("name", "variant", "probe", "drawn"),
    [
        (
            "mean_shape",
            "demo",
            "landmarks",
            {"equivariance", "equivariance_over_staying", "few_shot_image_error"},
        ),
        ("image_midpoint", "demo", "parts", set()),
    ],
)
def test_the_seed_changes_the_numbers_that_a_probe_says_it_draws(
    name: str,
    variant: str,
    probe: str,
    drawn: set[str],
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of methods that ignore it: such a number needs several seeds for a verdict."""
    if probe == "landmarks":  # a keypoint that follows the image

        def keypoints(_: Any, images: Tensor) -> Keypoints:
            mass = images.mean(1, keepdim=True)
            return Keypoints(expectation(mass / mass.sum((2, 3), keepdim=True)))

        monkeypatch.setattr(methods.load(name), "keypoints", keypoints)
    settings: Any = methods.resolve(methods.load(name), variant, {}, "test")
    cls = grid.load_probe(probe)
    measured = cls.Settings.parse({"normaliser": "image"} if probe == "landmarks" else {}, "test")
    values = []
    for seed in (0, 1):
        out, folder = tmp_path / str(seed), tmp_path / f"outputs{seed}"
        train(Run(name, variant, "toy", seed), settings, CPU, tiny, out)
        extract(out / "model.pt", tiny, cls.needs, folder, tmp_path / "p.npz", "cpu", 1)
        metrics = cls().run(folder, tiny, measured, seed, "cpu").metrics
        values.append({(m.metric, str(m.setting)): m.value for m in metrics})
    assert values[0].keys() == values[1].keys()
    differ = {key[0] for key in values[0] if values[0][key] != values[1][key]}
    assert drawn <= differ
    assert all(cls.random(metric) for metric in differ)
