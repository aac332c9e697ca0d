"""Nearest class centre: how far apart the classes' means lie in the features."""

from pathlib import Path
from typing import Any

import numpy as np

from partbench.data.prepared import Prepared
from partbench.outputs import features
from partbench.probe import Numbers, Probe, Result, Setting
from partbench.settings import Settings


class CentroidSettings(Settings):
    """Settings of the probe."""

    standardize: bool = True


class Centroid(Probe):
    """Accuracy of assigning each test sample to the nearest mean of a training class."""

    Settings = CentroidSettings
    version = 1
    needs = ("features",)

    @classmethod
    def annotations(cls, settings: Any) -> tuple[tuple[str, ...], ...]:
        """Return what the data must have: labels."""
        return (("labels",),)

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        """Measure the features in `source`; see `Probe.run`."""
        splits = [Prepared(data).split(name) for name in ("train", "test")]
        train, test = (
            features.read(source, split.name, len(split)).astype(np.float64) for split in splits
        )
        labels, truth = (np.array(split.annotation("labels")) for split in splits)
        if settings.standardize:
            mean, sd = train.mean(0), train.std(0) + 1e-12
            train, test = (train - mean) / sd, (test - mean) / sd
        classes = np.unique(labels)
        centres = np.stack([train[labels == c].mean(0) for c in classes])
        distances = ((test[:, None] - centres) ** 2).sum(2)
        correct = classes[distances.argmin(1)] == truth
        numbers = Numbers(unit="%", better="higher")
        numbers.add("top1", Setting(), correct, scale=100)
        return numbers.result(details={})
