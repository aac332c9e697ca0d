"""Clusters of descriptors, as DeepCluster makes them: PCA, whitening, unit length, k-means.

Source: Caron et al., ECCV 2018, and the public code of it that Zbinden (2019) uses: PCA to 256
dimensions, each divided by its SD, rows divided by their length, k-means of faiss in 20 iterations.
"""

from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.errors import BadInput
from partbench.shards import Shards

BLOCK = 1 << 14
"""Rows in memory at once."""
NOISE = 1e-9
"""Components with less than this share of the largest variance are rounding errors."""


def faiss_on_gpu(wanted: bool) -> bool:
    """Return whether faiss computes on the GPU, if it is wanted there: some builds cannot."""
    return wanted and faiss.get_num_gpus() > 0


class Components(NamedTuple):
    """The principal components of rows."""

    mean: Tensor
    """[D] float32."""
    axes: Tensor
    """[D, d] float32, orthonormal; by decreasing variance until they are dealt."""
    sd: Tensor
    """[d] float32, the SD of rows along each axis."""
    spread: float
    """Mean squared distance of two rows, over all D dimensions."""

    def dealt(self, hands: int) -> "Components":
        """Return them dealt out like cards to parts of equal length, which lie one after another.

        Each part of a product quantiser then has as much variance to code as the others, nearly (Ge
        et al., CVPR 2013, balance it likewise). The last ones are left out where they are too few
        for a whole round.
        """
        order = torch.arange(len(self.sd) // hands * hands).view(-1, hands).T.flatten()
        return self._replace(axes=self.axes[:, order], sd=self.sd[order])

    def reduced(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return rows along the axes, [n, d]; distances are nearly those of the rows."""
        return ((self._on_device(rows) - self.mean) @ self.axes).cpu().numpy()

    def whitened(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return rows along the axes, divided by the SDs, then by their length, [n, d]."""
        scaled = (self._on_device(rows) - self.mean) @ (self.axes / self.sd)
        return torch.nn.functional.normalize(scaled, dim=1).cpu().numpy()

    def _on_device(self, rows: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(rows).to(self.mean.device)


def principal_components(
    rows: Shards, dimensions: int, chosen: NDArray[np.int64], device: torch.device
) -> Components:
    """Return the first principal components of rows, which are read block by block.

    Args:
        rows: [n, D].
        dimensions: the most components to return; there are fewer where fewer have any variance.
        chosen: the rows to learn from, ascending.
        device: to compute on, in float64.

    Raises:
        BadInput: all rows are alike, or a value is not finite.
    """
    origin = torch.from_numpy(rows.take(chosen[:BLOCK])).to(device).double().mean(0)
    total = torch.zeros_like(origin)
    products = torch.zeros(len(origin), len(origin), dtype=torch.float64, device=device)
    for start in range(0, len(chosen), BLOCK):
        block = torch.from_numpy(rows.take(chosen[start : start + BLOCK])).to(device).double()
        block -= origin  # so that little cancels
        total += block.sum(0)
        products.addmm_(block.T, block)
    shift = total / len(chosen)
    covariance = products / len(chosen) - torch.outer(shift, shift)
    if not covariance.isfinite().all():
        raise BadInput("a feature is not finite; look whether the weights of `network` are right")
    variances, axes = torch.linalg.eigh(covariance)
    variances, axes = variances.flip(0), axes.flip(1)
    kept = int((variances > NOISE * variances[0].clamp(min=1e-30)).sum())
    kept = min(kept, dimensions)
    if not kept:
        raise BadInput("all tiles have the same features; look whether the images differ")
    return Components(
        (origin + shift).float(),
        axes[:, :kept].float(),
        variances[:kept].sqrt().float(),
        2 * covariance.trace().item(),
    )


def k_means(
    rows: NDArray[np.float32], k: int, iterations: int, seed: int, gpu: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the cluster of each row [n] and the centroids [k, d], by faiss.

    Args:
        rows: [n, d].
        k: clusters, at most n.
        iterations: of k-means.
        seed: of the first centroids.
        gpu: whether to compute on the GPU.
    """
    found = clustering(rows, k, iterations, seed % 2**31, gpu)
    _, labels = found.index.search(rows, 1)
    return labels[:, 0].astype(np.int64), found.centroids.copy()


def merge_small(
    labels: NDArray[np.int64], centroids: NDArray[np.float32], least: int
) -> NDArray[np.int64]:
    """Return the labels after small clusters joined the one with the nearest centroid.

    The smallest joins first. A joint cluster has the mean of its rows as centroid.

    Args:
        labels: [n].
        centroids: [k, d].
        least: rows that a cluster must have.
    """
    counts = np.bincount(labels, minlength=len(centroids))
    centroids = centroids.astype(np.float64)
    joined = np.arange(len(centroids))
    there = counts > 0
    while there.sum() > 1:
        small = np.flatnonzero(there & (counts < least))
        if not len(small):
            break
        smallest = small[counts[small].argmin()]
        there[smallest] = False
        others = np.flatnonzero(there)
        to = others[((centroids[others] - centroids[smallest]) ** 2).sum(1).argmin()]
        both = counts[to] + counts[smallest]
        centroids[to] += (counts[smallest] / both) * (centroids[smallest] - centroids[to])
        counts[to] = both
        joined[joined == smallest] = to
    return joined[labels]


def centres(
    rows: Tensor, k: int, iterations: int, restarts: int = 1, on_gpu: bool = False
) -> Tensor:
    """Return the centres of k clusters of rows [N, C] float32: [k, C], on the CPU.

    The seed comes from torch's global generator. In one thread the result is reproducible bit for
    bit.

    Args:
        rows: N at least k, on the CPU; all are clustered.
        k: clusters.
        iterations: of Lloyd's algorithm.
        restarts: runs from random centres, of which the best is kept.
        on_gpu: compute there, if faiss can.
    """
    faiss.omp_set_num_threads(torch.get_num_threads())
    seed = int(torch.randint(2**31 - 1, ()).item())
    found = clustering(rows.numpy(), k, iterations, seed, faiss_on_gpu(on_gpu), restarts)
    return torch.from_numpy(found.centroids)


def clustering(
    rows: NDArray[np.float32], k: int, iterations: int, seed: int, gpu: bool, restarts: int = 1
) -> Any:
    """Return faiss's clustering of rows [n, d], trained on all of them.

    It has `centroids` [k, d], the `index` that finds the nearest, and in `obj` the sum of squared
    distances after each iteration.
    """
    found = faiss.Kmeans(
        rows.shape[1],
        k,
        niter=iterations,
        nredo=restarts,
        seed=seed,
        gpu=gpu,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),  # by default, 256 per cluster
    )
    found.train(rows)
    return found
