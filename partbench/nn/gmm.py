"""Mixtures of Gaussians with diagonal covariances, and Fisher vectors of them, in torch.

The updates and the stop rule are those of scikit-learn's `GaussianMixture`, which they equal from
the same start; here rows are read in blocks, on any device.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 65_536
"""Rows whose responsibilities are held at once."""
FLOOR = 1e-6
"""Added to every variance, so that none underflows."""


class Mixture(NamedTuple):
    """K Gaussians in D dimensions."""

    weights: Tensor
    """[K], summing to 1."""
    means: Tensor
    """[K, D]."""
    variances: Tensor
    """[K, D]."""


def log_densities(x: Tensor, mixture: Mixture) -> Tensor:
    """Return log(w_k N(x | k)) of rows [N, D]: [N, K]."""
    weights, means, variances = mixture
    precisions = 1 / variances
    squares = (
        x.square() @ precisions.T
        - 2 * x @ (means * precisions).T
        + (means.square() * precisions).sum(1)
    )
    constant = weights.log() - 0.5 * (x.shape[1] * math.log(2 * math.pi) + variances.log().sum(1))
    return constant - 0.5 * squares


def fit(x: Tensor, means: Tensor, updates: int, tolerance: float = 1e-3) -> Mixture:
    """Fit a mixture by expectation maximisation, in float64.

    Args:
        x: [N, D], N at least K.
        means: [K, D], the start: each row belongs to the nearest.
        updates: at most.
        tolerance: stop where the mean log-likelihood of a row changes by less.
    """
    x, means = x.double(), means.double()
    nearest = torch.cat([torch.cdist(rows, means).argmin(1) for rows in x.split(BLOCK)])
    hard = torch.nn.functional.one_hot(nearest, len(means))
    mixture = _maximise(zip(x.split(BLOCK), hard.double().split(BLOCK), strict=True), len(x))
    before = -math.inf
    for _ in range(updates):
        total = x.new_zeros(())

        def responsibilities(of: Mixture, total: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
            for rows in x.split(BLOCK):
                logs = log_densities(rows, of)
                total += logs.logsumexp(1).sum()
                yield rows, logs.softmax(1)

        mixture = _maximise(responsibilities(mixture, total), len(x))
        likelihood = total.item() / len(x)
        if abs(likelihood - before) < tolerance:
            break
        before = likelihood
    return mixture


def _maximise(blocks: Iterator[tuple[Tensor, Tensor]], n: int) -> Mixture:
    """Return the mixture that responsibilities [m, K] of rows [m, D] give."""
    zeroth = first = second = torch.zeros(())
    for rows, share in blocks:
        zeroth = zeroth + share.sum(0)
        first = first + share.T @ rows
        second = second + share.T @ rows.square()
    zeroth = zeroth + 10 * torch.finfo(zeroth.dtype).eps
    means = first / zeroth[:, None]
    # Where rows are far from 0, the difference of squares can round to less than nothing.
    variances = (second / zeroth[:, None] - means.square()).clamp_min(0) + FLOOR
    weights = zeroth / n
    return Mixture(weights / weights.sum(), means, variances)


def fisher_vectors(x: Tensor, mixture: Mixture) -> Tensor:
    """Return the mean gradient by means and SDs in units of its own spread, [B, 2 K D].

    These are the Fisher vectors of Perronnin, Sanchez and Mensink (ECCV 2010), before their
    normalisation and without the gradient by the weights.

    Args:
        x: descriptors [B, N, D].
        mixture: of all descriptors.
    """
    weights, means, variances = mixture
    share = log_densities(x.flatten(0, 1), mixture).softmax(1).view(*x.shape[:2], -1)
    zeroth = share.mean(1)[..., None]
    turned = share.transpose(1, 2) / x.shape[1]
    first, second = turned @ x, turned @ x.square()
    by_mean = (first - zeroth * means) / (variances * weights[:, None]).sqrt()
    spread = second - 2 * first * means + zeroth * (means.square() - variances)
    by_sd = spread / (variances * (2 * weights[:, None]).sqrt())
    return torch.cat([by_mean.flatten(1), by_sd.flatten(1)], 1)
