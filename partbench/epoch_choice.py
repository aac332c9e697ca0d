"""The epoch whose weights are a run's result, where validation images choose it.

Papers on keypoints kept the epoch whose keypoints fit the test faces best. Nothing here is chosen
on test data: the last epoch counts, or one that the split `val` of the training data chooses. There
landmarks are regressed from the keypoints, by least squares with an intercept, which depends on no
paper's frame. The last tenth of the images measures what the others fit, as KeyNet's code sets the
last tenth of MAFL's training faces apart for validation.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from partbench.data.loader import to_float
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.metrics import landmarks as metrics

SPLIT = "val"
HELD_OUT = 0.1
BATCH = 64


class EpochChoice:
    """Looks at a method's keypoints after some epochs and keeps the weights of the best.

    Raises:
        BadInput: the data lack the split, or landmarks in both parts of it.
    """

    def __init__(self, data: Prepared, device: torch.device) -> None:
        self.split, self.device = data.split(SPLIT), device
        n = len(self.split)
        self.fitted = n - max(round(HELD_OUT * n), 1)
        self.landmarks = np.array(self.split.annotation("landmarks"), np.float64)
        self.visible = np.array(self.split.annotation("visible"))
        self.side = float(data.size)
        names = data.meta["landmark_names"]
        for rows, which in (
            (slice(self.fitted), "all but the last tenth of the images"),
            (slice(self.fitted, n), "the last tenth of the images"),
        ):
            where = f"{self.split.folder}: split '{SPLIT}', {which} (chosen_epoch: validation)"
            if not len(self.landmarks[rows]):
                raise BadInput(f"{where}: there are none; prepare more, or choose no epoch")
            metrics.check_landmarks(self.landmarks[rows], self.visible[rows], names, where)
        self.errors: dict[str, float] = {}
        """Epoch, counted from 1 -> mean error, % of the image's side."""
        self.weights: dict[str, Tensor] = {}

    @property
    def best(self) -> str:
        """The first epoch with the least error."""
        return min(self.errors, key=lambda epoch: self.errors[epoch])

    def look(self, method: nn.Module, epoch: int) -> None:
        """Measure the keypoints after an epoch, counted from 1; keep the weights if none is better.

        The method is in eval mode afterwards.
        """
        name = str(epoch)
        self.errors[name] = self._error(method.eval())
        if self.best == name:
            # Copies: the training goes on in the same memory.
            self.weights = {
                key: value.detach().cpu().clone() for key, value in method.state_dict().items()
            }

    def _error(self, method: Any) -> float:
        """Return the mean error on the held-out images, infinite if keypoints are not finite."""
        found = []
        with torch.inference_mode():
            for start in range(0, len(self.split), BATCH):
                images = np.array(self.split.images[start : start + BATCH])
                points = method.keypoints(to_float(torch.from_numpy(images).to(self.device))).points
                found.append(points.flatten(1).double().cpu().numpy())
        inputs, n = np.concatenate(found), self.fitted
        if not np.isfinite(inputs).all():
            return float("inf")
        mapped = metrics.fit(inputs[:n], self.landmarks[:n], self.visible[:n], intercept=True)
        side = np.full(len(inputs) - n, self.side)
        truth = metrics.Truth(self.landmarks[n:], self.visible[n:], side)
        return float(np.nanmean(metrics.per_image(truth.errors(mapped(inputs[n:])))))

    def restore(self, method: nn.Module) -> None:
        """Give the method the weights of the chosen epoch."""
        method.load_state_dict(self.weights)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"errors": self.errors, "weights": self.weights}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.errors, self.weights = dict(state["errors"]), dict(state["weights"])

    def record(self) -> dict[str, Any]:
        """Return the choice as plain json."""
        return {"epoch": int(self.best), "split": SPLIT, "errors, % of image side": self.errors}
