"""Part co-segmentation with the features of a DINO transformer (Amir et al., 2021), untrained.

Keys of the last block, at overlapping patches, are clustered over the collection. The clusters to
which the class token attends in most images are the foreground. The keys in them are clustered
again, into K parts. Settings and details follow the authors' code, dino-vit-features, at commit
1779649, but without its CRF.
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
from partbench.deviations import Deviation
from partbench.errors import BadInput
from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.nn.clusters import clustering, faiss_on_gpu
from partbench.nn.descriptors import to_side
from partbench.nn.precision import exact
from partbench.nn.vit import (
    VITS16,
    WIDTHS,
    Tokens,
    Transformer,
    TransformerSettings,
    pretrained_on,
)
from partbench.outputs.part_maps import PartMaps, strongest

MOST = 14
"""Largest number of clusters of whole images."""


class DinoPartsSettings(StepFreeSettings, TransformerSettings):
    """The published settings."""

    k: int = Field(4, ge=1, description="K, number of parts of the foreground")
    every: int = Field(100, ge=1, description="cluster one in this many descriptors")
    images: int = Field(
        1000,
        ge=1,
        description="largest number of images that are clustered, evenly spaced; the others are "
        "given the resulting parts",
    )
    elbow: float = Field(
        0.975,
        gt=0,
        le=1,
        description="the number of clusters of whole images, 14 at most, is the first whose error "
        "is more than this share of the error with one cluster fewer",
    )
    saliency: float = Field(
        0.065,
        ge=0,
        description="mean saliency, relative to the image's range, above which an image votes for "
        "a cluster",
    )
    votes: float = Field(
        0.75,
        ge=0,
        le=1,
        description="a cluster is foreground if this share of the images that show it vote for it",
    )
    iterations: int = Field(300, ge=1, description="iterations of Lloyd's algorithm")
    restarts: int = Field(
        10, ge=1, description="runs from random centroids, of which the best is kept"
    )
    batch_size: int = Field(8, ge=1, description="images described at once")


class DinoParts(StepFreeMethod):
    """Co-segmentation into K parts and a background; `vits16` uses larger patches."""

    Settings = DinoPartsSettings
    references = ("amir2021dino", "caron2021dino")
    VARIANTS = {"vits16": VITS16}
    REDUCED = {
        # Without trained weights nothing is salient; with no votes needed, all is foreground.
        "demo": {
            "weights_file": "random",
            "side": 32,
            "every": 5,
            "votes": 0.0,
            "iterations": 20,
            "restarts": 1,
        },
    }
    deviations = (
        Deviation(
            "They refine parts by a dense CRF; here they are not refined.",
            "the authors' code, where it is an option",
            "Small at landmarks, larger at the borders of parts.",
        ),
        Deviation(
            "They cluster the images that are segmented; here up to 1,000 training images, and the "
            "others are given the parts found.",
            "the authors' code; for large collections they advise the same (issue 11)",
            "Small.",
        ),
    )

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
    """[MOST, C]; the first `clusters` rows are the centroids of whole images."""
    salient: Tensor
    """[MOST] bool, whether each of these clusters is foreground."""
    clusters: Tensor
    """The number of clusters of whole images, an int64 scalar."""
    centroids: Tensor
    """[K, C], the centroids of the parts."""

    @classmethod
    def pretrained_on(cls, settings: Any) -> str:
        """Return what the transformer was trained on."""
        return pretrained_on(settings)

    @torch.no_grad()
    def describe(self, images: Tensor) -> Tokens:
        """Return the normalised keys and the saliency, in [0, 1], of images [B, 3, S, S] in [0, 1].

        Raises:
            BadInput: a key is not finite, or the weights are missing or damaged.
        """
        with exact(images):
            images = to_side(images, self.settings.side)
            keys, saliency = self.network(self.normalize(images))
        if not keys.isfinite().all():
            raise BadInput("dino_parts: descriptors are not finite; check the images")
        low, high = (saliency.flatten(1).aminmax(dim=1)[i].view(-1, 1, 1) for i in (0, 1))
        return Tokens(F.normalize(keys), (saliency - low) / (high - low).clamp_min(1e-12))

    @torch.no_grad()
    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Cluster whole images, vote on the foreground and cluster it, in one pass each.

        Raises:
            BadInput: there are fewer descriptors than parts, no cluster is salient, or a descriptor
                is not finite.
        """
        s = self.settings
        faiss.omp_set_num_threads(torch.get_num_threads())
        seed = int(torch.randint(2**31 - 1, ()).item())
        total = sum(len(batch.images) for batch in passes())
        step = max(-(-total // s.images), 1)

        def described() -> Iterator[Tokens]:
            """Yield the descriptors of every `step`-th image."""
            first = 0
            for batch in passes():
                start = -first % step
                first += len(batch.images)
                if len(chosen := batch.images[start::step]):
                    yield self.describe(chosen)

        def rows(keep: Callable[[Tokens], Tensor]) -> NDArray[np.float32]:
            """Return one in `every` of the descriptors for which `keep` is true."""
            descriptors = [t.keys.permute(0, 2, 3, 1)[keep(t)].cpu() for t in described()]
            return torch.cat(descriptors)[:: s.every].contiguous().numpy()

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

        present, votes = torch.zeros(2, MOST, dtype=torch.long)
        for tokens in described():
            labels = self._of_whole(tokens.keys)
            for label, saliency in zip(labels.cpu(), tokens.saliency.cpu(), strict=True):
                mass = torch.zeros(MOST).index_add_(0, label.flatten(), saliency.flatten())
                count = label.flatten().bincount(minlength=MOST)
                present += count > 0
                votes += mass > s.saliency * count
        self.salient.copy_((votes >= s.votes * present) & (present > 0))
        if not self.salient.any():
            raise BadInput(
                "dino_parts: no cluster is salient in enough images; lower `saliency` or `votes`"
            )
        sample = rows(lambda t: self.salient[self._of_whole(t.keys)])
        if len(sample) < s.k:
            raise BadInput(
                f"dino_parts cannot form {s.k} parts of {len(sample)} descriptors of the "
                "foreground; lower `k` or `every`, or use more images"
            )
        self.centroids.copy_(self._cluster(sample, s.k, seed)[0])

    def _cluster(self, rows: NDArray[np.float32], k: int, seed: int) -> tuple[Tensor, float]:
        """Cluster rows [N, C]; return k centroids, [k, C], and the sum of squared distances."""
        s, gpu = self.settings, faiss_on_gpu(self.whole.is_cuda)
        found = clustering(rows, k, s.iterations, seed, gpu, s.restarts)
        return torch.from_numpy(found.centroids), float(found.obj[-1])

    def _scores(self, keys: Tensor, centroids: Tensor) -> Tensor:
        """Return 2 c x - |c|^2, which is largest for the nearest centroid, [B, K, h, w]."""
        products = torch.einsum("bchw,kc->bkhw", keys, centroids)
        return 2 * products - centroids.square().sum(1).view(-1, 1, 1)

    def _of_whole(self, keys: Tensor) -> Tensor:
        """Return the nearest cluster of whole images, [B, h, w]."""
        return self._scores(keys, self.whole[: int(self.clusters)]).argmax(1)

    def part_maps(self, images: Tensor) -> PartMaps:
        """Give each pixel to the nearest part; the salient clusters are the foreground."""

        def nearest(keys: Tensor, centroids: Tensor) -> Tensor:
            # Scores are affine in the keys, so they can be upsampled in their place, as in kmeans.
            scores = self._scores(keys, centroids)
            return strongest(F.interpolate(scores, images.shape[2:], mode="bilinear"))

        size = self.settings.batch_size
        whole, pairs = self.whole[: int(self.clusters)], []
        for batch in images.split(size):
            keys = self.describe(batch).keys
            pairs.append((nearest(keys, self.centroids), nearest(keys, whole)))
        labels, clusters = (torch.cat(maps) for maps in zip(*pairs, strict=True))
        foreground = self.salient[clusters]
        weights = F.one_hot(labels, len(self.centroids)).permute(0, 3, 1, 2).float()
        return PartMaps(weights * foreground.unsqueeze(1), labels, foreground)
