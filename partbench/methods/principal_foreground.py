"""Unsupervised foreground: the first principal component of a network's features.

What varies most over the cells of a collection's images is whether they show the object or what
lies around it; the border of an image mostly shows what lies around. The first component of DINO
features as foreground is from Oquab et al. (DINOv2, TMLR 2024, section 7.4); the masks of the
"unsupervised" row of Choudhury et al. (NeurIPS 2021) came from generative networks instead
(Melas-Kyriazi et al., 2021), so numbers with these are not held against that row.
"""

from collections.abc import Callable, Iterator

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


class PrincipalForegroundSettings(StepFreeSettings):
    """Which features, and how they are read."""

    perceptual: Features = Field("vgg19", description="network whose activations are read")
    side: int | None = Field(
        256, ge=32, description="pixels that the network sees; none: those of the prepared images"
    )
    l2: bool = Field(True, description="descriptors are divided by their norms")
    batch_size: int = Field(32, ge=1, description="images described at once")


class PrincipalForeground(StepFreeMethod):
    """One part, the foreground: cells on the side of the mean where the border is not."""

    Settings = PrincipalForegroundSettings
    REDUCED = {
        "demo": {"perceptual": "random", "side": None},
        "subset": {"perceptual": "mobilenet", "side": None},
    }

    def __init__(self, settings: PrincipalForegroundSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        self.perceptual = Perceptual(s.perceptual, LAYERS[s.perceptual], normalize=True)
        channels = sum(CHANNELS[s.perceptual])
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("axis", torch.zeros(channels))

    centre: Tensor
    """[C], the mean descriptor."""
    axis: Tensor
    """[C], of length 1, towards the foreground."""

    @classmethod
    def weights(cls, settings: PrincipalForegroundSettings) -> tuple[str, ...]:
        """Return the network whose activations are read."""
        return fetched(settings.perceptual)

    def describe(self, images: Tensor) -> Tensor:
        """Return the descriptors of images [B, 3, S, S]: [B, C, h, w]."""
        found = describe(self.perceptual, images, self.settings.side)
        return F.normalize(found) if self.settings.l2 else found

    @torch.no_grad()
    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Find the component in one pass, from the sums of descriptors and of their products.

        Raises:
            BadInput: descriptors are not finite, or all the same.
        """
        count, total, border, edge = 0, torch.zeros(()), torch.zeros(()), 0
        products = torch.zeros(len(self.axis), len(self.axis), dtype=torch.float64)
        for batch in passes():
            found = self.describe(batch.images).double().cpu()
            rows = found.movedim(1, -1).flatten(0, 2)
            count, total = count + len(rows), total + rows.sum(0)
            products += rows.T @ rows
            rim = torch.ones(found.shape[2:], dtype=torch.bool)
            rim[1:-1, 1:-1] = False
            outer = found.movedim(1, -1)[:, rim].flatten(0, 1)
            border, edge = border + outer.sum(0), edge + len(outer)
        mean = total / count
        covariance = products / count - mean.outer(mean)
        if not covariance.isfinite().all() or covariance.trace() <= 0:
            raise BadInput(
                f"principal_foreground: activations of {self.settings.perceptual} are not finite, "
                "or the same everywhere; look at its weights and at the images"
            )
        axis = torch.linalg.eigh(covariance)[1][:, -1]
        outwards = axis @ (border / edge - mean)
        self.centre.copy_(mean)
        self.axis.copy_(-axis if outwards > 0 else axis)

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return one part, and where it is: whole cells, brought to the image bilinearly."""
        found = self.describe(images).movedim(1, -1) - self.centre
        score = (found @ self.axis).unsqueeze(1)
        score = F.interpolate(score, images.shape[2:], mode="bilinear")
        there = score.squeeze(1) > 0
        return PartMaps((score > 0).float(), there.new_zeros(there.shape).long(), there)
