"""Part co-segmentation by the features of a DINO transformer (Amir et al., 2021), without training.

Keys of the last block, at overlapping patches, are clustered over the collection. Clusters that
the class token attends to in most images are the foreground; what lies in them is clustered
again, into K parts. Facts: the authors' code at commit 1779649, dino-vit-features; their CRF is
left out.
"""

from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from partbench.data.batch import Batch
from partbench.errors import BadInput
from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.nn.descriptors import to_side
from partbench.nn.precision import exact
from partbench.nn.vit import VITS16, WIDTHS, Tokens, Transformer, TransformerSettings
from partbench.outputs.part_maps import PartMaps

MOST = 14
"""Clusters of the whole, at most."""


class DinoPartsSettings(StepFreeSettings, TransformerSettings):
    """The published settings."""

    k: int = Field(4, ge=1, description="K, number of parts of the foreground")
    every: int = Field(100, ge=1, description="so manyth descriptors are clustered")
    images: int = Field(
        1000, ge=1, description="that are clustered, evenly spaced; of others parts are looked up"
    )
    elbow: float = Field(
        0.975,
        gt=0,
        le=1,
        description="the number of clusters of the whole, 14 at most, is the first whose error is "
        "more than this share of the error of one fewer",
    )
    saliency: float = Field(
        0.065,
        ge=0,
        description="mean saliency, relative to the image's range, that makes a cluster salient",
    )
    votes: float = Field(
        0.75, ge=0, le=1, description="share of the images it is in that must find it salient"
    )
    iterations: int = Field(300, ge=1, description="of Lloyd's algorithm")
    restarts: int = Field(10, ge=1, description="from other centroids, of which the best is kept")
    batch_size: int = Field(8, ge=1, description="images described at once")


class DinoParts(StepFreeMethod):
    """Co-segmentation into K parts and a background; `vits16` takes the coarser network."""

    Settings = DinoPartsSettings
    VARIANTS = {"vits16": VITS16}
    REDUCED = {
        # Without trained weights nothing is salient, so that everything is foreground.
        "demo": {
            "weights_file": "random",
            "side": 32,
            "every": 5,
            "votes": 0.0,
            "iterations": 20,
            "restarts": 1,
        },
    }

    def __init__(self, settings: DinoPartsSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        self.network = Transformer(s.backbone, s.weights_file, s.stride)
        width = WIDTHS[s.backbone]
        self.register_buffer("whole", torch.zeros(MOST, width))
        self.register_buffer("salient", torch.zeros(MOST, dtype=torch.bool))
        self.register_buffer("clusters", torch.zeros((), dtype=torch.long))
        self.register_buffer("centroids", torch.zeros(s.k, width))

    whole: Tensor
    """[MOST, C], of which the first `clusters` are the centroids of the whole."""
    salient: Tensor
    """[MOST] bool, which of them are foreground."""
    clusters: Tensor
    centroids: Tensor
    """[K, C], of the parts."""

    @torch.no_grad()
    def describe(self, images: Tensor) -> Tokens:
        """Return the descriptors of images in [0, 1], of norm 1, and the saliency in [0, 1]."""
        with exact(images):
            images = to_side(images, self.settings.side)
            keys, saliency = self.network(self.normalize(images))
        if not keys.isfinite().all():
            raise BadInput("dino_parts: descriptors are not finite; look at the images")
        low, high = (saliency.flatten(1).aminmax(dim=1)[i].view(-1, 1, 1) for i in (0, 1))
        return Tokens(F.normalize(keys), (saliency - low) / (high - low).clamp_min(1e-12))

    @torch.no_grad()
    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Cluster the whole, vote on the foreground, cluster that; three passes over some images.

        Raises:
            BadInput: there are fewer descriptors than clusters, or no cluster is salient.
        """
        s = self.settings
        faiss.omp_set_num_threads(torch.get_num_threads())
        seed = int(torch.randint(2**31 - 1, ()).item())
        total = sum(len(batch.images) for batch in passes())
        step = max(-(-total // s.images), 1)

        def described() -> Iterator[Tokens]:
            first = 0
            for batch in passes():
                start = -first % step
                first += len(batch.images)
                if len(some := batch.images[start::step]):
                    yield self.describe(some)

        def rows(keep: Callable[[Tokens], Tensor]) -> NDArray[np.float32]:
            """Return every so manyth of the descriptors where `keep` is true."""
            found = [t.keys.permute(0, 2, 3, 1)[keep(t)].cpu() for t in described()]
            return torch.cat(found)[:: s.every].contiguous().numpy()

        sample = rows(lambda t: torch.ones_like(t.saliency, dtype=torch.bool))
        previous = float("inf")
        for n in range(1, min(MOST, len(sample)) + 1):
            centroids, error = self._cluster(sample, n, seed)
            self.whole[:n], self.clusters = (
                centroids.to(self.whole),
                torch.full_like(self.clusters, n),
            )
            if error > s.elbow * previous:
                break
            previous = error

        present, found = torch.zeros(2, MOST, dtype=torch.long)
        for tokens in described():
            labels = self._of_whole(tokens.keys)
            for label, map_ in zip(labels.cpu(), tokens.saliency.cpu(), strict=True):
                mass = torch.zeros(MOST).index_add_(0, label.flatten(), map_.flatten())
                count = label.flatten().bincount(minlength=MOST)
                present += count > 0
                found += mass > s.saliency * count
        self.salient.copy_((found >= s.votes * present) & (present > 0))
        if not self.salient.any():
            raise BadInput(
                "dino_parts: no cluster is salient in enough images; lower `saliency` or `votes`"
            )
        sample = rows(lambda t: self.salient[self._of_whole(t.keys)])
        if len(sample) < s.k:
            raise BadInput(
                f"dino_parts: {s.k} parts of {len(sample)} descriptors of the foreground; lower "
                "`k` or `every`, or give it more images"
            )
        self.centroids.copy_(self._cluster(sample, s.k, seed)[0])

    def _cluster(self, rows: NDArray[np.float32], k: int, seed: int) -> tuple[Tensor, float]:
        """Return k centroids, [k, C], and the sum of squared distances to them."""
        s = self.settings
        clustering: Any = faiss.Kmeans(
            rows.shape[1],
            k,
            niter=s.iterations,
            nredo=s.restarts,
            seed=seed,
            gpu=self.whole.is_cuda and faiss.get_num_gpus() > 0,
            min_points_per_centroid=1,
            max_points_per_centroid=len(rows),  # faiss would take 256 a cluster
        )
        error = float(clustering.train(rows))
        return torch.from_numpy(clustering.centroids), error

    def _scores(self, keys: Tensor, centroids: Tensor) -> Tensor:
        """Return 2 c x - |c|^2, the largest for the nearest centroid, [B, K, h, w]."""
        products = torch.einsum("bchw,kc->bkhw", keys, centroids)
        return 2 * products - centroids.square().sum(1).view(-1, 1, 1)

    def _of_whole(self, keys: Tensor) -> Tensor:
        """Return the nearest cluster of the whole, [B, h, w]."""
        return self._scores(keys, self.whole[: int(self.clusters)]).argmax(1)

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return the nearest part of each pixel, and where the nearest cluster is salient."""

        def up(keys: Tensor, centroids: Tensor) -> Tensor:
            scores = self._scores(keys, centroids)  # affine in the keys, as in kmeans
            return F.interpolate(scores, images.shape[2:], mode="bilinear").argmax(1)

        size = self.settings.batch_size
        both = []
        for part in images.split(size):
            keys = self.describe(part).keys
            both.append((up(keys, self.centroids), up(keys, self.whole[: int(self.clusters)])))
        labels, clusters = (torch.cat(found) for found in zip(*both, strict=True))
        foreground = self.salient[clusters]
        weights = F.one_hot(labels, len(self.centroids)).permute(0, 3, 1, 2).float()
        return PartMaps(weights * foreground.unsqueeze(1), labels, foreground)
