"""Fisher vectors of a mixture of Gaussians (Perronnin, Sanchez and Mensink, ECCV 2010).

Principal components shorten the descriptors, and a mixture of K Gaussians with diagonal covariances
learns them. The vector of an image is the gradient of its descriptors' log-likelihood by the means
and standard deviations, in units of its own spread.
"""

from collections.abc import Callable, Iterator

import torch
from pydantic import Field
from torch import Tensor

from partbench.data.batch import Batch
from partbench.deviations import Deviation
from partbench.encoding import COMMON, DEMO, SUBSET, Encoding, EncodingSettings
from partbench.errors import BadInput
from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.nn import gmm
from partbench.nn.clusters import centres
from partbench.nn.gmm import Mixture
from partbench.nn.pca import principal_components


class FisherVectorsSettings(EncodingSettings, StepFreeSettings):
    """The mixture, as far as FV-VAE's paper states it."""

    gaussians: int = Field(128, ge=1, description="K")
    components: int = Field(256, ge=1, description="principal components of a descriptor")
    sample: int = Field(
        256_000, ge=2, description="descriptors that the components and the mixture are fitted to"
    )
    updates: int = Field(100, ge=1, description="of expectation maximisation, at most")


class FisherVectors(Encoding, StepFreeMethod):
    """Gradients by the means and standard deviations of a mixture."""

    Settings = FisherVectorsSettings
    VARIANTS = COMMON
    REDUCED = {
        "demo": {**DEMO, "gaussians": 16, "components": 16, "sample": 20_000, "updates": 30},
        "subset": {**SUBSET, "gaussians": 32, "components": 32, "sample": 50_000},
    }
    paper = "fv_vae"
    references = ("perronnin2010fisher",)
    deviations = (
        Deviation(
            "The number of principal components and the sample that the mixture is fitted to are "
            "not stated in FV-VAE's comparison; here 256 components, 256,000 descriptors.",
            "nowhere at hand",
            "Unknown.",
        ),
    )

    def __init__(self, settings: FisherVectorsSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        if s.components > self.channels:
            raise BadInput(
                f"fisher_vectors: descriptors of {s.backbone} have {self.channels} numbers, so "
                f"they have no {s.components} principal components; lower `components`"
            )
        self.register_buffer("middle", torch.zeros(self.channels))
        self.register_buffer("axes", torch.zeros(s.components, self.channels))
        self.register_buffer("shares", torch.full((s.gaussians,), 1 / s.gaussians))
        self.register_buffer("means", torch.zeros(s.gaussians, s.components))
        self.register_buffer("variances", torch.ones(s.gaussians, s.components))
        self.compress_from(2 * self.means.numel())

    middle: Tensor
    """[C], the mean descriptor."""
    axes: Tensor
    """[components, C]."""
    shares: Tensor
    means: Tensor
    variances: Tensor

    @property
    def mixture(self) -> Mixture:
        """The mixture, of shortened descriptors."""
        return Mixture(self.shares, self.means, self.variances)

    def shorten(self, x: Tensor) -> Tensor:
        """Return the principal components of descriptors, [..., components]."""
        return (x - self.middle) @ self.axes.T

    @torch.no_grad()
    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Fit the components, then the mixture, to a sample of the training data's descriptors.

        Raises:
            BadInput: there are fewer descriptors than Gaussians, or they vary in fewer directions
                than there are components.
        """
        s = self.settings
        rows = self.sample(passes, s.sample, s.gaussians)
        found = principal_components(rows.numpy(), s.components, "descriptors")
        self.middle.copy_(torch.from_numpy(found.mean))
        self.axes.copy_(torch.from_numpy(found.directions))
        short = self.shorten(rows.to(self.axes.device))
        start = centres(short.cpu(), s.gaussians, iterations=20)
        fitted = gmm.fit(short, start.to(short.device), s.updates)
        for own, new in zip(self.mixture, fitted, strict=True):
            own.copy_(new)

    def encode(self, x: Tensor) -> Tensor:
        """Return the Fisher vectors, [B, 2 K components], of descriptors [B, T, M, C]."""
        return gmm.fisher_vectors(self.shorten(x.flatten(1, 2)), self.mixture)
