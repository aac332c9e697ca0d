"""What Deep Latent Particles takes and passes on: sizes, noise, particles and decoded images."""

from typing import NamedTuple

from pydantic import Field
from torch import Tensor

from partbench.errors import BadInput
from partbench.settings import Settings


class ParticleSettings(Settings):
    """The particles: how many there are, what they see and how they are rendered."""

    margin: int = Field(
        16,
        ge=0,
        description="pixels of the prepared image cut off on each side, after the warps",
    )
    k: int = Field(30, ge=1, description="K, number of particles")
    proposals: int = Field(50, ge=1, description="proposals kept, of one per patch")
    patch: int = Field(8, ge=2, description="side of a proposal's patch, pixels")
    glimpse: float = Field(
        0.125,
        gt=0,
        le=1,
        description="side of a glimpse, divided by the side that it is cut from less 1",
    )
    features: int = Field(10, ge=1, description="d, numbers of a particle's appearance")
    channels: tuple[int, ...] = Field(
        (32, 64, 128, 256), min_length=2, description="channels of the encoder"
    )
    prior_channels: tuple[int, ...] = Field(
        (16, 32, 64), min_length=2, description="channels of the network that makes proposals"
    )
    objects: bool = Field(False, description="use the object model instead of the masked one")
    exclusive: bool = Field(
        False, description="objects: each glimpse sees only what the glimpses before it left"
    )
    sigma: float = Field(0.1, gt=0, description="SD of the prior and of the Gaussian maps")
    mask_threshold: float = Field(
        0.2, gt=0, lt=1, description="threshold above which Gaussian maps count as masks"
    )


def check_sizes(s: ParticleSettings, size: int, side: int, cells: int) -> None:
    """Check that images, patches and glimpses can be halved and doubled as often as needed.

    Args:
        s: the settings.
        size: side of the prepared images, pixels.
        side: side of the window that the encoder sees, pixels.
        cells: side of the encoder's heat maps, cells.

    Raises:
        BadInput: a size does not fit the others.
    """
    divisor = 2 ** (len(s.channels) - 1)
    window = f"dlp sees {side} of {size} prepared pixels (margin {s.margin})"
    if cells < 8 or side % divisor or cells & (cells - 1):
        raise BadInput(
            f"{window}: they must be {divisor} times 8, 16, 32, ... pixels; change the data set's "
            "`size`, or dlp's `margin` or `channels`"
        )
    if side % s.patch:
        raise BadInput(f"{window}: not divisible into patches of {s.patch}; change `patch`")
    if s.patch % 2 ** (len(s.prior_channels) - 1):
        raise BadInput(
            f"dlp: patches of {s.patch} pixels cannot be halved {len(s.prior_channels) - 1} "
            "times; change `patch` or `prior_channels`"
        )
    patches = (side // s.patch) ** 2
    if s.proposals > patches:
        raise BadInput(
            f"{window}: {patches} patches of {s.patch} pixels cannot give {s.proposals} "
            "proposals; lower `proposals` or `patch`"
        )
    if s.k > patches:
        raise BadInput(
            f"{window}: {s.k} particles are more than the {patches} patches of {s.patch} pixels "
            "that propose places for them; lower `k` or `patch`"
        )
    cut = round(s.glimpse * (side - 1))
    if s.objects and (cut < 16 or cut & (cut - 1)):
        raise BadInput(
            f"{window}: a glimpse of {cut} pixels (glimpse {s.glimpse}) cannot be decoded by "
            "doubling 8 pixels; make it 16, 32, 64, ... pixels"
        )


class Noise(NamedTuple):
    """The random draws of one pass; with zeros the pass is deterministic."""

    position: Tensor
    """[B, K + 1, 2], normal."""
    features: Tensor
    """[B, K + 1, d], normal."""
    seen: Tensor | None = None
    """[B, K], uniform: replaces the transparency in cutting glimpses, in noisy phases."""
    shown: Tensor | None = None
    """[B, K], uniform: replaces the transparency in laying patches over each other, likewise."""
    alpha: Tensor | None = None
    """[B, K, 1, S, S], normal: noise on the alpha of the laid patches, in noisy phases."""


class Particles(NamedTuple):
    """The posterior of a batch; the last particle is the background."""

    maps: Tensor
    """[B, K, h, w], the encoder's heat maps."""
    mu: Tensor
    """[B, K + 1, 2], means of the places (x, y)."""
    logvar: Tensor
    """[B, K + 1, 2], log-variances of the places."""
    z: Tensor
    """[B, K + 1, 2], a sample of the places."""
    appearance: Tensor
    """[B, K + 1, d], means of the appearances."""
    appearance_logvar: Tensor
    """[B, K + 1, d], log-variances of the appearances."""
    z_appearance: Tensor
    """[B, K + 1, d], a sample of the appearances."""
    on: Tensor | None
    """[B, K], transparency in (0, 1); None in the masked model."""
    glimpses: Tensor | None
    """[B, K, 3, g, g], what the particles see; None in the masked model."""


class Decoded(NamedTuple):
    """The images that the decoder makes of particles, and the parts of which it makes them."""

    images: Tensor
    """[B, 3, S, S]."""
    patches: Tensor | None = None
    """[B, K, 4, g, g], alpha and RGB in [0, 1]; None in the masked model."""
    objects: Tensor | None = None
    """[B, 3, S, S], the patches laid over each other, without background; None likewise."""
