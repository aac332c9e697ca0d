"""Predictions: the frames of a clip that follow those given. The probe `video` asks for them."""

from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.errors import BadInput
from partbench.outputs.arrays import Arrays
from partbench.outputs.capability import Capability, call_of, check_tensor

CONTEXT = 2
"""Frames that are given at least: places and velocities."""


class HasPredictions(Protocol):
    """A method that predicts clips."""

    def predict(self, first: Tensor, steps: int) -> Tensor:
        """Return the frames that follow [B, C, 3, S, S], C at least 2: [B, steps, 3, S', S'].

        S' is S, or the side of the window that the method sees, in the middle of a frame.
        """

    def predict_told(self, clips: Tensor, given: int) -> Tensor:
        """Return what `predict` would, if it knew the true frames' particles.

        Args:
            clips: [B, T, 3, S, S].
            given: frames that it may show; those after them are returned.
        """


class Films(NamedTuple):
    """Predicted clips beside the true ones, and how close each frame is."""

    true: NDArray[np.uint8]
    """[n, T, S, S, 3]."""
    predicted: NDArray[np.uint8]
    """[n, steps, S, S, 3], of the last frames."""
    psnr: NDArray[np.float64]
    """[n, steps], of the prediction, dB."""
    copy_psnr: NDArray[np.float64]
    """[n, steps], of the last frame given, dB."""

    @classmethod
    def read(cls, arrays: Arrays) -> Self | None:
        """Return the films, None if the arrays hold none or do not fit one another."""
        if not set(cls._fields) <= set(arrays):
            return None
        films = cls(*(arrays[name] for name in cls._fields))
        if films.true.ndim != 5 or films.predicted.ndim != 5:
            return None
        n, steps = films.predicted.shape[:2]
        fits = (
            films.predicted.shape[2:] == films.true.shape[2:]
            and len(films.true) == n
            and 0 < steps < films.true.shape[1]
            and films.psnr.shape == films.copy_psnr.shape == (n, steps)
        )
        return films if fits else None


class Predictions(Capability):
    """Frames to come."""

    offer = HasPredictions
    member = "predict"

    def check(self, method: HasPredictions, samples: Tensor) -> None:
        """Check the predictions of two clips; see `Capability.check`."""
        if samples.ndim != 5 or samples.shape[1] <= CONTEXT:
            raise BadInput(
                f"{call_of(method, 'predict')}: the training data hold no clips of more than "
                f"{CONTEXT} frames; set `reads` of the method to clips and train it on such data"
            )
        steps = samples.shape[1] - CONTEXT
        shape = (len(samples), steps, 3, "S'", "S'")
        outputs = {
            f"predict(first, {steps})": method.predict(samples[:, :CONTEXT], steps),
            f"predict_told(clips, {CONTEXT})": method.predict_told(samples, CONTEXT),
        }
        for call, frames in outputs.items():
            check_tensor(frames, call_of(method, call), shape, dtypes=(torch.float32,))
