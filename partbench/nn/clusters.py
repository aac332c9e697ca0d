"""Centres of descriptors by k-means."""

import faiss
import torch
from torch import Tensor


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
    clustering = faiss.Kmeans(
        rows.shape[1],
        k,
        niter=iterations,
        nredo=restarts,
        seed=int(torch.randint(2**31 - 1, ()).item()),
        gpu=on_gpu and faiss.get_num_gpus() > 0,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),  # by default, 256 per cluster
    )
    clustering.train(rows.numpy())
    return torch.from_numpy(clustering.centroids)
