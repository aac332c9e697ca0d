"""K-means on DINO's keys of foreground patches: K-means on features with today's features.

Told the foreground, and in all but the features `kmeans`, so that the two say what the network
is worth. The features are those of `dino_parts` (Amir et al., 2021): keys of the last block at
overlapping patches. They are not normalised, as those of `kmeans` are not; in variant `l2` they
are, as Amir et al. do, so that `dino_parts` differs from it by having to find the foreground.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from partbench.methods.kmeans import ClusteringSettings, KMeans
from partbench.nn.descriptors import to_side
from partbench.nn.precision import exact
from partbench.nn.vit import VITS16, WIDTHS, Transformer, TransformerSettings
from partbench.outputs.part_maps import PartMaps


class DinoKMeansSettings(ClusteringSettings, TransformerSettings):
    """The clustering of `kmeans`, the features of `dino_parts`."""

    batch_size: int = Field(8, ge=1, description="images described at once")


class DinoKMeans(KMeans):
    """K-means; variants of `kmeans` and, of `dino_parts`, `vits16`, the coarser network."""

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

    def describer(self) -> tuple[Transformer, int]:
        """Return the transformer, and its number of channels."""
        s = self.settings
        return Transformer(s.backbone, s.weights_file, s.stride), WIDTHS[s.backbone]

    @classmethod
    def weights(cls, settings: Any) -> tuple[str, ...]:
        """Return nothing: the weights are placed by hand."""
        return ()

    @torch.no_grad()
    def describe(self, images: Tensor) -> Tensor:
        """Return the keys of images [B, 3, S, S] in [0, 1]: [B, C, h, w]."""
        with exact(images):
            keys = self.network(self.normalize(to_side(images, self.settings.side))).keys
        return F.normalize(keys) if self.settings.l2 else keys

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return the nearest centroid of each pixel, whole; see `kmeans`."""
        parts = images.split(self.settings.batch_size)
        found = [super(DinoKMeans, self).part_maps(part) for part in parts]
        return PartMaps(torch.cat([f.weights for f in found]), torch.cat([f.labels for f in found]))
