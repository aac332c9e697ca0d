"""Floor control: random parts, which ignore the image."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from partbench.method import StepFreeMethod, StepFreeSettings
from partbench.outputs.part_maps import PartMaps


class RandomPartsSettings(StepFreeSettings):
    """The number of parts."""

    k: int = Field(4, ge=1, le=255, description="number of parts")


class RandomParts(StepFreeMethod):
    """The Voronoi cells of K points that are drawn for each image, uniformly over it.

    These parts are as compact as true ones, but lie elsewhere in every image. The foreground is
    that of the data set, if it has one.
    """

    Settings = RandomPartsSettings
    VARIANTS = {"k8": {"k": 8}, "k16": {"k": 16}}
    REDUCED = {"demo": {}, "subset": {}}
    role = "floor"

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return the cells of points from torch's global generator; each pixel has one part."""
        k, device = self.settings.k, images.device
        points = torch.rand(len(images), k, 2, device=device)
        down, across = (
            (points[..., i, None] * n - 0.5 - torch.arange(n, device=device)).square()
            for i, n in ((1, images.shape[2]), (0, images.shape[3]))
        )
        distances = down.unsqueeze(-1) + across.unsqueeze(-2)
        labels = distances.argmin(1)
        weights = F.one_hot(labels, k).permute(0, 3, 1, 2).float()
        return PartMaps(weights, labels)
