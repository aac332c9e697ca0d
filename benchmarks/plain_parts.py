"""The terms of unsupervised parts as one would write them first from the paper.

Features are upsampled to the image, and for every image the difference of each pixel from each
part's mean is made: K x C x H x W. The functions take and return what those of
`partbench.nn.consistency` of the same name do, so `formulation` puts them in their place.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from partbench.methods import unsup_parts
from partbench.methods.unsup_parts import UnsupParts


def upsampled(taps: Sequence[Tensor], side: int) -> list[Tensor]:
    """Return all features at full resolution as one, [B, C, side, side]."""
    size = (side, side)
    return [
        torch.cat([F.interpolate(t, size, mode="bilinear", align_corners=True) for t in taps], 1)
    ]


def consistency(parts: Tensor, mask: Tensor, taps: Sequence[Tensor]) -> Tensor:
    """Return how far features at full resolution are from the mean of their part, [B]."""
    (features,) = taps
    found = []
    for p, m, f in zip(parts, mask, features * mask, strict=True):
        inside = p * m
        mass = inside.sum((1, 2)) + 1e-5
        means = (inside.unsqueeze(1) * f).sum((2, 3)) / mass.unsqueeze(1)
        away = f - means[:, :, None, None]
        found.append(((inside * m).unsqueeze(1) * away.square()).sum() / (m.sum() + 1e-5))
    return torch.stack(found)


def descriptors(parts: Tensor, mask: Tensor, taps: Sequence[Tensor]) -> Tensor:
    """Return the mean of each part's features at full resolution, [B, K, C]."""
    (features,) = taps
    found = []
    for p, m, f in zip(parts, mask, features * mask, strict=True):
        inside = p * m
        sums = torch.stack([(one * f).sum((1, 2)) for one in inside])
        found.append(sums / (inside.sum((1, 2)).unsqueeze(1) + 1e-7))
    return torch.stack(found)


@contextmanager
def formulation() -> Iterator[None]:
    """Have the method compute its terms by the functions of this module."""
    activations = UnsupParts.taps

    def taps(method: UnsupParts, images: Tensor) -> list[Tensor]:
        return upsampled(activations(method, images), images.shape[-1])

    with (
        patch.multiple(unsup_parts, consistency=consistency, descriptors=descriptors),
        patch.object(UnsupParts, "taps", taps),
    ):
        yield
