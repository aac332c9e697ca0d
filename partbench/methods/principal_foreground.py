"""Unsupervised foreground: the first principal component of a network's features.

Over the cells of a collection's images, features vary most between the object and its
surroundings, and the border of an image mostly shows surroundings. Oquab et al. (DINOv2, TMLR 2024,
section 7.4) use the first component of their features as foreground in this way.

The masks of the "unsupervised" row of Choudhury et al. (NeurIPS 2021) came from generative
networks instead (Melas-Kyriazi et al., 2021). Numbers with the masks of this method are therefore
not compared with that row.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from partbench.data.batch import Batch
from partbench.deviations import Deviation
from partbench.errors import BadInput
from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.nn.descriptors import CHANNELS, LAYERS, describe
from partbench.nn.perceptual import Features, Perceptual, fetched
from partbench.outputs.part_maps import PartMaps


class PrincipalForegroundSettings(StepFreeSettings):
    """The features and their normalisation."""

    perceptual: Features = Field("vgg19", description="network whose activations are read")
    side: int | None = Field(
        256,
        ge=32,
        description="shorter side to which images are resized, pixels; none: no resizing",
    )
    l2: bool = Field(True, description="divide descriptors by their norms")
    batch_size: int = Field(32, ge=1, description="images described at once")


class PrincipalForeground(StepFreeMethod):
    """One part, the foreground: the cells on the side of the mean opposite to the border."""

    Settings = PrincipalForegroundSettings
    references = ("oquab2024dinov2",)
    REDUCED = {
        "demo": {"perceptual": "random", "side": None},
        "subset": {"perceptual": "mobilenet", "side": None},
    }
    random = False
    deviations = (
        Deviation(
            "The unsupervised masks of Choudhury et al. came from generative networks; these are "
            "signs of a principal component.",
            "their Table 3, which names Melas-Kyriazi et al. (2021)",
            "Numbers with these masks belong to no published row.",
        ),
    )

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
    """[C], the unit vector of the component, which points towards the foreground."""

    @classmethod
    def weights(cls, settings: PrincipalForegroundSettings) -> tuple[str, ...]:
        """Return the network whose activations are read, if it is to be fetched."""
        return fetched(settings.perceptual)

    def describe(self, images: Tensor) -> Tensor:
        """Return the descriptors of images [B, 3, S, S]: [B, C, h, w]."""
        descriptors = describe(self.perceptual, images, self.settings.side)
        return F.normalize(descriptors) if self.settings.l2 else descriptors

    @torch.no_grad()
    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Compute the component in one pass, from sums of descriptors and of their products.

        Raises:
            BadInput: the descriptors are not finite, or all the same.
        """
        count, total, border, edge = 0, torch.zeros(()), torch.zeros(()), 0
        products = torch.zeros(len(self.axis), len(self.axis), dtype=torch.float64)
        for batch in passes():
            descriptors = self.describe(batch.images).double().cpu()
            rows = descriptors.movedim(1, -1).flatten(0, 2)
            count, total = count + len(rows), total + rows.sum(0)
            products += rows.T @ rows
            rim = torch.ones(descriptors.shape[2:], dtype=torch.bool)
            rim[1:-1, 1:-1] = False
            outer = descriptors.movedim(1, -1)[:, rim].flatten(0, 1)
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
        """Return one part, and as foreground the pixels where the component is positive.

        The component is upsampled bilinearly.
        """
        deviations = self.describe(images).movedim(1, -1) - self.centre
        score = (deviations @ self.axis).unsqueeze(1)
        score = F.interpolate(score, images.shape[2:], mode="bilinear")
        foreground = score.squeeze(1) > 0
        labels = foreground.new_zeros(foreground.shape).long()
        return PartMaps((score > 0).float(), labels, foreground)
