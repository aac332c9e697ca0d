"""Batches of the folds of a data set, in which folds that share an image share what is seen of it.

There is one endless order of the images of all folds, pass after pass, each shuffled anew. A fold
sees its own images in that order, so a network that does not change reads an image once for all
folds.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.prepared import Split
from partbench.data.random_crops import RandomCrops


class Shown(NamedTuple):
    """Some places of the endless order of the training images, and what is shown of each."""

    rows: NDArray[np.int64]
    """Images of the split."""
    crops: RandomCrops


class FoldStream:
    """Which images each step of each fold sees, and which part of each.

    Args:
        split: the training images.
        folds: [F, n], indices into the split.
        batch: images in a step of a fold.
        seed: of orders and parts.
    """

    def __init__(self, split: Split, folds: NDArray[np.integer], batch: int, seed: int) -> None:
        self.split, self.folds, self.batch, self.seed = split, folds, batch, seed
        self.rows = np.unique(folds)
        self.side = int(split.images.shape[-2])
        self.labels = np.array(split.annotation("labels"))
        self.steps_per_epoch = folds.shape[1] // batch + 1
        self._pass = lru_cache(maxsize=4)(self._draw_pass)

    def _draw_pass(self, number: int) -> tuple[Shown, list[NDArray[np.int64]]]:
        """Return a pass over all images, and where in it the images of each fold stand."""
        draw = np.random.default_rng([self.seed, number])
        rows = draw.permutation(self.rows)
        crops = RandomCrops.drawn(len(rows), self.side, draw)
        return Shown(rows, crops), [np.flatnonzero(np.isin(rows, fold)) for fold in self.folds]

    def places(self, step: int) -> NDArray[np.int64]:
        """Return the places in the endless order that a step of each fold takes, [F, batch]."""
        n = self.folds.shape[1]
        numbers, within = np.divmod(np.arange(step * self.batch, (step + 1) * self.batch), n)
        places = np.empty((len(self.folds), self.batch), np.int64)
        for number in np.unique(numbers):
            here = numbers == number
            for fold, standing in enumerate(self._pass(int(number))[1]):
                places[fold, here] = number * len(self.rows) + standing[within[here]]
        return places

    def shown(self, places: NDArray[np.int64]) -> Shown:
        """Return what stands at ascending places of the endless order."""
        numbers, within = np.divmod(places, len(self.rows))
        parts = []
        for number in np.unique(numbers):
            rows, crops = self._pass(int(number))[0]
            some = within[numbers == number]
            parts.append((rows[some], crops.some(some)))
        crops = RandomCrops(
            *(np.concatenate(field) for field in zip(*(c for _, c in parts), strict=True))
        )
        return Shown(np.concatenate([rows for rows, _ in parts]), crops)

    def images(self, places: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the images [n, 3, S, S] in [0, 1] and the labels [n] at ascending places."""
        rows, crops = self.shown(places)
        images = torch.from_numpy(np.array(self.split.images[rows])).to(device)
        return crops.of(images), torch.from_numpy(self.labels[rows]).to(device)
