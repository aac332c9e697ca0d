"""How good and how varied generated images are, from features of them and of real images.

The Inception Score, the kernel distance and precision and recall are torch-fidelity's; this module
fixes their settings and their random draws. Density and coverage are Naeem et al.'s (ICML 2020).
The Frechet distance has a module of its own.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.errors import BadInput

ROWS = 1000
"""Images whose distances to all others are in memory at once."""
TINY = np.finfo(np.float64).tiny

Features = NDArray[np.floating]


class Spread(NamedTuple):
    """The mean of a number over parts or subsets of the images, and its SD over them (ddof 0)."""

    mean: float
    sd: float


class Neighbourhoods(NamedTuple):
    """Shares of images that lie near images of the other set."""

    precision: float
    """Of generated images, those nearer to some real image than its k-th real neighbour."""
    recall: float
    """Of real images, those nearer to some generated image than its k-th generated neighbour."""


class Coverage(NamedTuple):
    """The same by the real images' neighbourhoods alone, which outliers disturb less."""

    density: float
    """Real images whose k-th neighbour is farther than a generated image, over k, on average."""
    coverage: float
    """Share of real images that have a generated one nearer than their k-th real neighbour."""


def inception_score(logits: Features, splits: int = 10, shuffle: int | None = None) -> Spread:
    """Return the Inception Score, exp of the mean KL divergence of p(y | x) from p(y).

    Salimans et al. (NeurIPS 2016) take it over consecutive parts of the images. Where images are
    ordered by class, they must be shuffled first: each part would hold few classes.

    Args:
        logits: [N, classes] of generated images, or log-probabilities.
        splits: parts.
        shuffle: seed of the order; none: the order given.

    Raises:
        BadInput: there are fewer images than parts.
    """
    from torch_fidelity import metric_isc as library

    if len(logits) < splits:
        raise BadInput(f"{len(logits)} images make no {splits} parts of the Inception Score")
    found = library.isc_features_to_metric(
        _tensor(logits), splits, shuffle=shuffle is not None, rng_seed=shuffle
    )
    return Spread(found[library.KEY_METRIC_ISC_MEAN], found[library.KEY_METRIC_ISC_STD])


def log_probabilities(probabilities: Features) -> NDArray[np.float64]:
    """Return what `inception_score` takes for logits, from probabilities; 0 becomes 2e-308."""
    return np.log(np.maximum(np.asarray(probabilities, np.float64), TINY))


def kernel_distance(
    generated: Features, real: Features, subsets: int, size: int, seed: int
) -> Spread:
    """Return KID: the squared maximum mean discrepancy with the kernel (x . y / D + 1)^3.

    It is unbiased, whatever the number of images (Binkowski et al., ICLR 2018).

    Args:
        generated: features [N, D].
        real: features [M, D].
        subsets: pairs of random subsets.
        size: images of a subset, at most N and M.
        seed: of the subsets.
    """
    from torch_fidelity import metric_kid as library

    found = library.kid_features_to_metric(
        _tensor(generated),
        _tensor(real),
        kid_subsets=subsets,
        kid_subset_size=size,
        rng_seed=seed,
        verbose=False,
    )
    return Spread(found[library.KEY_METRIC_KID_MEAN], found[library.KEY_METRIC_KID_STD])


def precision_recall(generated: Features, real: Features, neighbours: int) -> Neighbourhoods:
    """Return precision and recall by k nearest neighbours (Kynkaanniemi et al., NeurIPS 2019).

    Args:
        generated: features [N, D], N more than `neighbours`.
        real: features [M, D], likewise.
        neighbours: k; an image is not its own neighbour.
    """
    from torch_fidelity import metric_prc as library

    found = library.prc_features_to_metric(
        _tensor(generated),
        _tensor(real),
        prc_neighborhood=neighbours,
        prc_batch_size=ROWS,
        save_cpu_ram=True,
        verbose=False,
    )
    shares = found[library.KEY_METRIC_PRECISION], found[library.KEY_METRIC_RECALL]
    # The library's are rounded to float32, and are shares of a known number of images.
    counts = len(generated), len(real)
    return Neighbourhoods(*(round(s * n) / n for s, n in zip(shares, counts, strict=True)))


def density_coverage(generated: Features, real: Features, neighbours: int) -> Coverage:
    """Return density and coverage (Naeem et al., ICML 2020).

    Args:
        generated: features [N, D].
        real: features [M, D], M more than `neighbours`.
        neighbours: k; an image is not its own neighbour.
    """
    made, true = _tensor(generated), _tensor(real)
    inside, covered = 0, 0
    for some in true.split(ROWS):
        radii = torch.cdist(some, true).kthvalue(neighbours + 1, dim=1).values
        near = torch.cdist(some, made) < radii[:, None]
        inside += int(near.sum())
        covered += int(near.any(1).sum())
    return Coverage(inside / (neighbours * len(made)), covered / len(true))


def _tensor(values: Features) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float64))
