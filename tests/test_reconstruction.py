"""PSNR of reconstructions: by its words, of what the method sees, worse than exact copies."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from partbench import method as methods
from partbench.data.batch import Batch
from partbench.data.loader import to_float
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.methods.vae import VAE
from partbench.model import load_model
from partbench.probe import Result, measure
from partbench.probes.reconstruction import LEAST, Reconstruction, ReconstructionSettings
from partbench.run import Run, Runtime
from partbench.train import train

CPU = Runtime(device="cpu", threads=1)


@pytest.fixture(scope="module")
def model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vae")
    changes = {"encoder_width": 8, "decoder_width": 8, "epochs": 1, "batch_size": 16}
    settings = methods.resolve(VAE, "demo", changes, "test")
    train(Run("vae", "demo", "toy", 0), settings, CPU, tiny, out)
    return out / "model.pt"


def run(model: Path, data: Path) -> Result:
    return Reconstruction().run(model, data, ReconstructionSettings(), 0, "cpu")


def values(result: Result) -> dict[str, float]:
    return {m.metric: m.value for m in result.metrics}


def pixels(data: Path) -> Tensor:
    return to_float(torch.from_numpy(np.array(Prepared(data).split("test").images)))


def test_it_is_that_of_all_pixels_together(
    model: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VAE, "reconstruct", lambda _, images: images * 0.5)
    images, found = pixels(tiny), values(run(model, tiny))
    error = (images * 0.5).square().double().mean().item()
    assert found["psnr"] == pytest.approx(-10 * np.log10(error), abs=1e-6)
    constant = (images - images.mean(0)).square().double().mean().item()
    assert found["mean_image_psnr"] == pytest.approx(-10 * np.log10(constant), abs=1e-5)


def test_a_window_is_compared_with_what_it_shows(
    model: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VAE, "reconstruct", lambda _, images: images[:, :, 4:-4, 4:-4])
    result = run(model, tiny)
    assert values(result)["psnr"] == pytest.approx(-10 * np.log10(LEAST))
    assert result.details == {"window": 24}
    monkeypatch.setattr(VAE, "reconstruct", lambda _, images: images[:, :, 3:-5, 4:-4])
    assert values(run(model, tiny))["psnr"] < 40


def test_a_trained_method_is_measured_as_any_cell(model: Path, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "cells" / "reconstruction.json"
    out.parent.mkdir()
    settings = ReconstructionSettings()
    measure(Reconstruction(), load_model(model, "cpu")[0], model, tiny, settings, CPU, out)
    cell = json.loads(out.read_text())
    found = {m["metric"]: m for m in cell["metrics"]}
    assert found["psnr"]["unit"] == "dB"
    assert found["psnr"]["better"] == "higher"
    assert found["psnr"]["n"] == 32
    assert 3 < found["psnr"]["value"] < 30
    assert values(run(model, tiny))["psnr"] == found["psnr"]["value"]  # draws are seeded


def test_training_images_are_decoded_as_a_training_step_does(tiny: Path, tmp_path: Path) -> None:
    """Deep Latent Particles' notebook prints it; there it follows from the loss of each batch."""
    cls = methods.load("dlp")
    small = {**cls.REDUCED["demo"], "objects": True, "glimpse": 0.5, "epochs": 1, "batch_size": 24}
    settings = cls.Settings.parse(small, "test")
    train(Run("dlp", "demo", "toy", 0), settings, CPU, tiny, tmp_path)
    model = tmp_path / "model.pt"
    plain = run(model, tiny)
    asked = ReconstructionSettings(as_trained=True)
    both = Reconstruction().run(model, tiny, asked, 0, "cpu")
    assert both.metrics[:-1] == plain.metrics
    found = both.metrics[-1]
    assert (found.metric, found.setting.record()) == ("psnr", {"images": "training"})

    method: Any = load_model(model, "cpu")[1].train()
    images = torch.from_numpy(np.array(Prepared(tiny).split("train").images))
    torch.manual_seed(0)
    decibels = []
    for batch in to_float(images).split(24):
        if len(batch) == 24:
            squares = method.forward(Batch(batch, None), "all")["reconstruction"].item()
            decibels.append(-10 * np.log10(squares / (3 * 32 * 32)))
    assert found.n == 24 * len(decibels) < len(images)
    assert found.value == pytest.approx(np.mean(decibels), abs=1e-4)
    assert found.value != pytest.approx(values(plain)["psnr"], abs=1e-2)


def test_shapes_are_measured_as_the_notebook_does() -> None:
    assert Reconstruction.PAPER == {"shapes": {"as_trained": True}}
    notebook = methods.resolve(methods.load("dlp"), "shapes+notebook", {}, "test")
    assert (notebook.beta_kl, notebook.exclusive, notebook.batch_size) == (0.05, False, 64)
    assert (notebook.epochs, notebook.k, notebook.learning_rate) == (100, 10, 1e-3)


def test_clips_and_long_images_are_refused(model: Path, tmp_path: Path) -> None:
    from conftest import prepare_toy

    settings: dict[str, Any] = {"crop": "whole", "train": 4, "test": 2}
    with pytest.raises(BadInput, match="clips or images at their own aspect"):
        run(model, prepare_toy(tmp_path, **settings))
