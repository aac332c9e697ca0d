"""K-means on DINO's keys of foreground patches: the K-means baseline with newer features.

The method is `kmeans`, on a given foreground, with other features. A comparison of the two
therefore shows the effect of the network. The features are those of `dino_parts` (Amir et al.,
2021): keys of the last block at overlapping patches. They are not normalised, as in `kmeans`.
Variant `l2` normalises them, as Amir et al. do, so that `dino_parts` differs from it in having to
find the foreground.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from partbench.methods.kmeans import ClusteringSettings, KMeans
from partbench.nn.descriptors import to_side
from partbench.nn.precision import exact
from partbench.nn.vit import VITS16, WIDTHS, Transformer, TransformerSettings, pretrained_on
from partbench.outputs.part_maps import PartMaps


class DinoKMeansSettings(ClusteringSettings, TransformerSettings):
    """The clustering of `kmeans` and the features of `dino_parts`."""

    batch_size: int = Field(8, ge=1, description="images described at once")


class DinoKMeans(KMeans):
    """K-means with the variants of `kmeans` and `vits16`, the network with the larger patches."""

    Settings = DinoKMeansSettings
    VARIANTS = {**KMeans.VARIANTS, "vits16": VITS16}
    REDUCED = {
        "demo": {
            "weights_file": "random",
            "side": 32,
            "descriptors": 20_000,
            "iterations": 20,
            "restarts": 1,
        },
    }
    paper = ""
    references = ("choudhury2021parts", "caron2021dino", "amir2021dino")
    deviations = ()

    def describer(self) -> tuple[Transformer, int]:
        """Return the transformer and its number of channels."""
        s = self.settings
        return Transformer(s.backbone, s.weights_file, s.stride), WIDTHS[s.backbone]

    @classmethod
    def weights(cls, settings: Any) -> tuple[str, ...]:
        """Return no network, because the user places the weights by hand."""
        return ()

    @classmethod
    def pretrained_on(cls, settings: Any) -> str:
        """Return what the transformer was trained on."""
        return pretrained_on(settings)

    @torch.no_grad()
    def describe(self, images: Tensor) -> Tensor:
        """Return the keys of images [B, 3, S, S] in [0, 1]: [B, C, h, w]."""
        with exact(images):
            keys = self.network(self.normalize(to_side(images, self.settings.side))).keys
        return F.normalize(keys) if self.settings.l2 else keys

    def part_maps(self, images: Tensor) -> PartMaps:
        """Give each pixel to the nearest centroid, see `kmeans`."""
        batches = images.split(self.settings.batch_size)
        maps = [super(DinoKMeans, self).part_maps(batch) for batch in batches]
        return PartMaps(torch.cat([m.weights for m in maps]), torch.cat([m.labels for m in maps]))
