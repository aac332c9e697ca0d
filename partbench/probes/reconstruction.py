"""How near decoded images are to the encoded ones: PSNR on the test images.

PSNR is that of the data set, 10 log10(1 / mean squared error over all pixels of all images), as
the notebook of Deep Latent Particles prints it: from a loss, not from a mean of decibels. Methods
that see a window of the image are measured on that window.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from partbench.data.loader import to_float
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.metrics.intervals import jackknife
from partbench.model import load_model_for
from partbench.probe import Numbers, Probe, Result, Setting
from partbench.progress import Progress
from partbench.settings import Settings

BATCH = 64
LEAST = 1e-12
"""Mean squared error that counts where there is less: 120 dB."""


class ReconstructionSettings(Settings):
    """There is nothing to choose."""


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
        average = np.array(test.images).mean(0) / 255
        with Progress(f"{run} reconstructions", len(test), "images") as progress:
            for start in range(0, len(test), BATCH):
                rows = slice(start, start + BATCH)
                images = to_float(torch.from_numpy(np.array(test.images[rows])).to(device))
                with torch.inference_mode():
                    made = decode(images)
                cut = (images.shape[2] - made.shape[2]) // 2
                window = slice(cut, cut + made.shape[2])
                shown = images[:, :, window, window]
                errors[rows] = _squared(made - shown)
                constant = torch.from_numpy(average).permute(2, 0, 1)[:, window, window]
                mean[rows] = _squared(constant.to(shown) - shown)
                progress.advance(len(images))
        numbers = Numbers("dB", "higher")
        count = np.ones(len(test))
        for name, values, note in (
            ("psnr", errors, "of all pixels of all test images"),
            ("mean_image_psnr", mean, "the mean test image in place of each reconstruction"),
        ):
            outcomes = jackknife(partial(psnr), np.stack([values, count], 1))
            numbers.add(name, Setting(), outcomes, note=note, reference=name != "psnr")
        return numbers.result(details={"window": int(made.shape[2])})


def _squared(difference: torch.Tensor) -> NDArray[np.float64]:
    """Return the mean squares of differences [B, 3, S, S], [B]."""
    squares: NDArray[np.float64] = difference.double().square().mean((1, 2, 3)).cpu().numpy()
    return squares
