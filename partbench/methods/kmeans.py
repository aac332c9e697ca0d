"""K-means on the descriptors of foreground cells: what a network's features say without learning.

The baseline of unsupervised part discovery from contrastive reconstruction (Choudhury et al.,
NeurIPS 2021): VGG19's activations after conv5_2 and conv5_4, K = 4, on the foreground. Its
number of descriptors, its restarts and whether they are normalised are not published: those here
are ours, and each is a setting.
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import faiss
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from partbench.data.batch import Batch
from partbench.errors import BadInput
from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.nn.descriptors import CHANNELS, LAYERS, describe
from partbench.nn.perceptual import Features, Perceptual, fetched
from partbench.outputs.part_maps import PartMaps


class ClusteringSettings(StepFreeSettings):
    """How descriptors are clustered, whatever they are."""

    k: int = Field(4, ge=1, description="K, number of clusters")
    l2: bool = Field(False, description="descriptors are divided by their norms")
    descriptors: int = Field(
        200_000,
        ge=1,
        description="clustered, drawn evenly from all foreground cells of the training split",
    )
    iterations: int = Field(100, ge=1, description="of Lloyd's algorithm")
    restarts: int = Field(10, ge=1, description="from other centroids, of which the best is kept")
    batch_size: int = Field(32, ge=1, description="images described at once")


class KMeansSettings(ClusteringSettings):
    """The paper's settings, as far as they are known."""

    perceptual: Features = Field("vgg19", description="network whose activations are clustered")
    side: int | None = Field(
        256, ge=32, description="pixels that the network sees; none: those of the prepared images"
    )


class KMeans(StepFreeMethod):
    """K-means; variant `l2` on normalised descriptors, `k8` with twice as many parts."""

    Settings: ClassVar[type[ClusteringSettings]] = KMeansSettings
    VARIANTS = {"l2": {"l2": True}, "k8": {"k": 8}}
    REDUCED = {
        "demo": {"perceptual": "random", "side": None, "descriptors": 20_000},
        "subset": {"perceptual": "mobilenet", "side": None, "descriptors": 100_000},
    }
    learns_from = "mask"
    paper = "unsup_parts"

    def __init__(self, settings: ClusteringSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        self.network, channels = self.describer()
        self.register_buffer("centroids", torch.zeros(settings.k, channels))

    network: Any
    """What describes images; it has a `name`, and is no module."""
    centroids: Tensor
    """[K, C]."""

    def describer(self) -> tuple[Any, int]:
        """Return the network whose activations are clustered, and their number of channels."""
        name = self.settings.perceptual
        return Perceptual(name, LAYERS[name], normalize=True), sum(CHANNELS[name])

    @classmethod
    def weights(cls, settings: Any) -> tuple[str, ...]:
        """Return the network whose activations are clustered."""
        return fetched(settings.perceptual)

    def describe(self, images: Tensor) -> Tensor:
        """Return the descriptors of images [B, 3, S, S]: [B, C, h, w]."""
        found = describe(self.network, images, self.settings.side)
        return F.normalize(found) if self.settings.l2 else found

    @torch.no_grad()
    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Cluster descriptors of foreground cells, those of which half or more is foreground.

        Draws come from torch's global generator, so the run's seed decides; in one thread the
        same bits come out again.

        Raises:
            BadInput: there are fewer foreground cells than clusters, or one is not finite.
        """
        s = self.settings
        rows = self._sample(passes).numpy()
        if len(rows) < s.k:
            raise BadInput(
                f"K-means: {s.k} clusters of {len(rows)} descriptors, those of all foreground "
                "cells of the training split; look at its masks, or lower `k`"
            )
        faiss.omp_set_num_threads(torch.get_num_threads())
        clustering = faiss.Kmeans(
            rows.shape[1],
            s.k,
            niter=s.iterations,
            nredo=s.restarts,
            seed=int(torch.randint(2**31 - 1, ()).item()),
            gpu=self.centroids.is_cuda and faiss.get_num_gpus() > 0,
            min_points_per_centroid=1,
            max_points_per_centroid=len(rows),  # faiss would take 256 a cluster
        )
        clustering.train(rows)
        self.centroids.copy_(torch.from_numpy(clustering.centroids))

    def _sample(self, passes: Callable[[], Iterator[Batch]]) -> Tensor:
        """Return descriptors drawn evenly from all foreground cells, in one pass, [N, C] float32.

        Each cell draws a number, and the cells of the lowest are kept.
        """
        s = self.settings
        kept, numbers = torch.empty(0, self.centroids.shape[1]), torch.empty(0)
        for batch in passes():
            found = self.describe(batch.images)
            assert batch.masks is not None  # `learns_from` is the mask
            share = F.adaptive_avg_pool2d(batch.masks, (found.shape[2], found.shape[3]))
            rows = found.permute(0, 2, 3, 1)[share >= 0.5].cpu()
            if not rows.isfinite().all():
                raise BadInput(
                    f"K-means: activations of {self.network.name} are not finite; look at its "
                    "weights and at the images"
                )
            kept = torch.cat([kept, rows])
            numbers = torch.cat([numbers, torch.rand(len(rows))])
            if len(kept) > s.descriptors:
                numbers, lowest = numbers.topk(s.descriptors, largest=False)
                kept = kept[lowest]
        return kept

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return the nearest centroid of each pixel, whole.

        Which centroid c is nearest to x, the largest 2 c x - |c|^2 says. That is affine in x, so
        brought to the image bilinearly it is what the descriptors brought there would give, at
        K channels instead of C. A cluster has hard borders, so its share of a pixel is 1 or 0.
        """
        c = self.centroids
        scores = 2 * torch.einsum("bchw,kc->bkhw", self.describe(images), c)
        scores = scores - c.square().sum(1).view(-1, 1, 1)
        labels = F.interpolate(scores, images.shape[2:], mode="bilinear").argmax(1)
        weights = F.one_hot(labels, len(c)).permute(0, 3, 1, 2).float()
        return PartMaps(weights, labels)
