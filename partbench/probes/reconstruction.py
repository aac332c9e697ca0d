"""How near decoded images are to the encoded ones: PSNR on the test images.

PSNR is that of the data set, 10 log10(1 / mean squared error over all pixels of all images).
Methods that see a window of the image are measured on that window.

The notebook of Deep Latent Particles prints another one, of the training images as an epoch goes
over them: with the statistics of each batch, particles that are drawn, nothing cut off at 0 and 1,
and the mean of the batches' decibels. With `as_trained` it is measured too, with the trained
weights, which in the notebook still change a little over the last epoch.
"""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from partbench.data.loader import to_float
from partbench.data.prepared import Prepared, Split
from partbench.errors import BadInput
from partbench.method import Method
from partbench.metrics.intervals import jackknife
from partbench.model import load_model_for
from partbench.probe import Metric, Numbers, Probe, Result, Setting
from partbench.progress import Progress
from partbench.settings import Settings

BATCH = 64
LEAST = 1e-12
"""Mean squared error that counts where there is less: 120 dB."""


class ReconstructionSettings(Settings):
    """Which images are decoded."""

    as_trained: bool = Field(
        False,
        description="also decode the training images as a training step does, in batches of the "
        "run's size (notebook of Deep Latent Particles)",
    )


class ReconstructionSetting(Setting):
    """What tells numbers of a metric apart."""

    images: Literal["test", "training"] = "test"


def psnr(errors: NDArray[Any]) -> NDArray[np.float64]:
    """Return the PSNR in dB of mean squared errors of images in [0, 1].

    Args:
        errors: [..., 1], summed over some images, and their number: [..., 2].
    """
    mean = errors[..., 0] / errors[..., 1]
    decibels: NDArray[np.float64] = -10 * np.log10(np.maximum(mean, LEAST))
    return decibels


class Reconstruction(Probe):
    """PSNR of the reconstructions of all test images, and of their mean image instead."""

    Settings = ReconstructionSettings
    Setting = ReconstructionSetting
    PAPER = {"shapes": {"as_trained": True}}
    references = ("daniel2022dlp",)
    version = 1
    needs = ("reconstructions",)
    reads = "model"

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        """Decode what the method encodes of each test image; see `Probe.run`."""
        prepared = Prepared(data)
        run, method = load_model_for(prepared, source, device)
        test = prepared.split("test")
        if prepared.whole or test.frames:
            raise BadInput(
                f"{data}: holds clips or images at their own aspect; reconstructions are of single "
                "squares"
            )
        torch.manual_seed(seed)
        decode: Any = method.reconstruct
        errors, mean = np.zeros((2, len(test)))
        average = np.asarray(test.images.mean(0)) / 255  # read as it is summed, never held whole
        constant = torch.from_numpy(average).permute(2, 0, 1).unsqueeze(0)
        with Progress(f"{run} reconstructions", len(test), "images") as progress:
            for start in range(0, len(test), BATCH):
                rows = slice(start, start + BATCH)
                images = to_float(torch.from_numpy(np.array(test.images[rows])).to(device))
                with torch.inference_mode():
                    made = decode(images)
                shown = _window(images, made)
                errors[rows] = _squared(made - shown)
                mean[rows] = _squared(_window(constant.to(images), made) - shown)
                progress.advance(len(images))
        numbers = Numbers("dB", "higher")
        count = np.ones(len(test))
        for name, values, note in (
            ("psnr", errors, "of all pixels of all test images"),
            ("mean_image_psnr", mean, "the mean test image in place of each reconstruction"),
        ):
            outcomes = jackknife(partial(psnr), np.stack([values, count], 1))
            numbers.add(
                name, ReconstructionSetting(), outcomes, note=note, reference=name != "psnr"
            )
        if settings.as_trained:
            numbers.metrics.append(_as_trained(method, prepared.split("train"), str(run), device))
        return numbers.result(details={"window": int(made.shape[2])})


def _as_trained(method: Method, train: Split, run: str, device: str) -> Metric:
    """Return the mean over batches of the PSNR of training images decoded in training mode."""
    method.train()
    decode: Any = method.reconstruct
    size = min(method.settings.batch_size, len(train))
    steps = len(train) // size  # as in training, a last batch that is smaller is left out
    decibels = np.empty(steps)
    with Progress(f"{run} reconstructions in training mode", steps, "batches") as progress:
        for step in range(steps):
            rows = slice(step * size, (step + 1) * size)
            images = to_float(torch.from_numpy(np.array(train.images[rows])).to(device))
            with torch.no_grad():
                made = decode(images)
            error = _squared(made - _window(images, made)).mean()
            decibels[step] = psnr(np.array([error, 1.0]))
            progress.advance(1)
    return Metric(
        "psnr",
        ReconstructionSetting(images="training"),
        float(decibels.mean()),
        "dB",
        "higher",
        steps * size,
        note=f"mean over {steps} batches of training images, decoded as in a training step",
    )


def _window(images: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Return the part of images [B, 3, S, S] that reconstructions [B, 3, S', S'] show."""
    cut = (images.shape[2] - made.shape[2]) // 2
    window = slice(cut, cut + made.shape[2])
    return images[:, :, window, window]


def _squared(difference: torch.Tensor) -> NDArray[np.float64]:
    """Return the mean squares of differences [B, 3, S, S], [B]."""
    squares: NDArray[np.float64] = difference.double().square().mean((1, 2, 3)).cpu().numpy()
    return squares
