"""K-means on the descriptors of foreground cells: the parts in a network's features themselves.

This is the baseline of unsupervised part discovery from contrastive reconstruction (Choudhury et
al., NeurIPS 2021): VGG19's activations after conv5_2 and conv5_4, K = 4, on the foreground. The
authors do not publish how many descriptors they cluster, whether they normalise them, and how many
restarts they make. These choices are ours, and each is a setting.
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from partbench.data.batch import Batch
from partbench.deviations import Deviation
from partbench.errors import BadInput
from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.nn.clusters import centres
from partbench.nn.descriptors import CHANNELS, LAYERS, describe
from partbench.nn.perceptual import Features, Perceptual, fetched
from partbench.nn.sample import sample_rows
from partbench.outputs.part_maps import PartMaps, strongest


class ClusteringSettings(StepFreeSettings):
    """The clustering of descriptors, whatever network they come from."""

    k: int = Field(4, ge=1, description="K, number of clusters")
    l2: bool = Field(False, description="divide descriptors by their norms")
    descriptors: int = Field(
        200_000,
        ge=1,
        description="descriptors that are clustered, drawn uniformly from all foreground cells of "
        "the training split",
    )
    iterations: int = Field(100, ge=1, description="iterations of Lloyd's algorithm")
    restarts: int = Field(
        10, ge=1, description="runs from random centroids, of which the best is kept"
    )
    batch_size: int = Field(32, ge=1, description="images described at once")


class KMeansSettings(ClusteringSettings):
    """The paper's settings, as far as they are published."""

    perceptual: Features = Field("vgg19", description="network whose activations are clustered")
    side: int | None = Field(
        256,
        ge=32,
        description="shorter side to which images are resized, pixels; none: no resizing",
    )


class KMeans(StepFreeMethod):
    """K-means; variant `l2` normalises descriptors, and `k8` has twice as many parts."""

    Settings: ClassVar[type[ClusteringSettings]] = KMeansSettings
    VARIANTS = {"l2": {"l2": True}, "k8": {"k": 8}}
    REDUCED = {
        "demo": {"perceptual": "random", "side": None, "descriptors": 20_000},
        "subset": {"perceptual": "mobilenet", "side": None, "descriptors": 100_000},
    }
    learns_from = "mask"
    paper = "unsup_parts"
    references: ClassVar[tuple[str, ...]] = ("choudhury2021parts",)
    deviations: ClassVar[tuple[Deviation, ...]] = (
        Deviation(
            "How many descriptors they cluster and how many restarts they make is not stated; here "
            "200,000 and 10.",
            "nowhere at hand",
            "Small.",
        ),
        Deviation(
            "Whether they normalise descriptors and to which size they resize images is not "
            "stated. Here: not normalised, except in `l2`; 256 px.",
            "nowhere at hand",
            "Of the order of the difference between `paper` and `l2`.",
        ),
    )

    def __init__(self, settings: ClusteringSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        self.network, channels = self.describer()
        self.register_buffer("centroids", torch.zeros(settings.k, channels))

    network: Any
    """What describes images. It has a `name`, and is not a module."""
    centroids: Tensor
    """[K, C]."""

    def describer(self) -> tuple[Any, int]:
        """Return the network whose activations are clustered, and the number of their channels."""
        name = self.settings.perceptual
        return Perceptual(name, LAYERS[name], normalize=True), sum(CHANNELS[name])

    @classmethod
    def weights(cls, settings: Any) -> tuple[str, ...]:
        """Return the network whose activations are clustered, if it is to be fetched."""
        return fetched(settings.perceptual)

    def describe(self, images: Tensor) -> Tensor:
        """Return the descriptors of images [B, 3, S, S]: [B, C, h, w]."""
        descriptors = describe(self.network, images, self.settings.side)
        return F.normalize(descriptors) if self.settings.l2 else descriptors

    @torch.no_grad()
    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Cluster the descriptors of foreground cells, at least half of which is foreground.

        Draws come from torch's global generator, and so follow the run's seed. In one thread the
        result is reproducible bit for bit.

        Raises:
            BadInput: there are fewer foreground cells than clusters, or one is not finite.
        """
        s = self.settings
        rows = self._sample(passes)
        if len(rows) < s.k:
            raise BadInput(
                f"K-means cannot form {s.k} clusters of {len(rows)} descriptors, those of all "
                "foreground cells of the training split; check its masks, or lower `k`"
            )
        on_gpu = self.centroids.is_cuda
        self.centroids.copy_(centres(rows, s.k, s.iterations, s.restarts, on_gpu))

    def _sample(self, passes: Callable[[], Iterator[Batch]]) -> Tensor:
        """Draw descriptors uniformly from all foreground cells in one pass, [N, C] float32."""

        def blocks() -> Iterator[Tensor]:
            for batch in passes():
                descriptors = self.describe(batch.images)
                assert batch.masks is not None  # `learns_from` is the mask
                cells = (descriptors.shape[2], descriptors.shape[3])
                share = F.adaptive_avg_pool2d(batch.masks, cells)
                rows = descriptors.permute(0, 2, 3, 1)[share >= 0.5].cpu()
                if not rows.isfinite().all():
                    raise BadInput(
                        f"K-means: activations of {self.network.name} are not finite; check its "
                        "weights and the images"
                    )
                yield rows

        return sample_rows(blocks(), self.settings.descriptors)

    def part_maps(self, images: Tensor) -> PartMaps:
        """Give each pixel to the nearest centroid.

        The centroid c nearest to a descriptor x has the largest 2 c x - |c|^2. This score is affine
        in x. Upsampling it bilinearly therefore equals upsampling the descriptors, with K channels
        instead of C. Clusters have hard borders, so that their shares of a pixel are 0 or 1.
        """
        c = self.centroids
        scores = 2 * torch.einsum("bchw,kc->bkhw", self.describe(images), c)
        scores = scores - c.square().sum(1).view(-1, 1, 1)
        labels = strongest(F.interpolate(scores, images.shape[2:], mode="bilinear"))
        weights = F.one_hot(labels, len(c)).permute(0, 3, 1, 2).float()
        return PartMaps(weights, labels)
