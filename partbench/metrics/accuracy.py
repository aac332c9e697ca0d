"""Accuracy from class scores: ranks per sample, which give top-1 and top-k, and its interval."""

import math

import numpy as np
from numpy.typing import NDArray


def label_ranks(
    scores: NDArray[np.floating], labels: NDArray[np.integer], classes: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Return how many classes score above the true one: top-k is right where the rank is < k.

    Equal scores are ordered by class index, so that rank 0 is where `argmax` is right.

    Args:
        scores: [..., N, K], higher is likelier.
        labels: [N] true labels. One that is not in `classes` gets rank K: wrong for every k.
        classes: [K] the labels of the columns, sorted.

    Returns:
        [..., N] int64, from 0 to K.
    """
    n_classes = len(classes)
    column = np.minimum(np.searchsorted(classes, labels), n_classes - 1)
    seen = classes[column] == labels
    index = np.broadcast_to(column[:, None], (*scores.shape[:-1], 1))
    own = np.take_along_axis(scores, index, axis=-1)
    before = np.arange(n_classes) < column[:, None]
    ranks = ((scores > own) | ((scores == own) & before)).sum(-1)
    return np.where(seen, ranks, n_classes)


def wilson_interval(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (J. Am. Stat. Assoc. 22, 1927).

    Args:
        share: the observed proportion, in [0, 1].
        n: samples it was observed on, at least 1.
        z: normal quantile; the default gives 95 %.
    """
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def running_accuracy(correct: NDArray[np.bool_], batch: int) -> NDArray[np.float64]:
    """Return the accuracy so far after each batch, [..., N // batch + 1], in [0, 1].

    The loop of Zbinden (LORBMS, 2019), which asks for N // batch + 1 batches. Where the samples
    run out, the first ones come again: at N = 8,000 and a batch of 128, 64 count twice.

    Args:
        correct: [..., N], whether each sample is right, in the order of the test set.
        batch: samples in a batch.
    """
    n = correct.shape[-1]
    steps = n // batch + 1
    seen = correct[..., np.arange(steps * batch) % n]
    right = seen.reshape(*correct.shape[:-1], steps, batch).sum(-1).cumsum(-1)
    return np.asarray(right / (batch * np.arange(1, steps + 1)))


def running_weights(n: int, batch: int) -> NDArray[np.float64]:
    """Return by how much each sample counts in the mean of `running_accuracy`, [n]; sum 1.

    A sample of the first batch counts some five times as much as the average one.

    Args:
        n: samples.
        batch: samples in a batch.
    """
    steps = n // batch + 1
    of_batch = (1 / np.arange(1, steps + 1))[::-1].cumsum()[::-1] / (steps * batch)
    order = np.arange(steps * batch) % n
    return np.bincount(order, np.repeat(of_batch, batch), n).astype(np.float64)
