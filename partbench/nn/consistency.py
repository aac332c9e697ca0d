"""Losses that make parts consistent: within a part, across images and under warps.

They follow Choudhury et al., NeurIPS 2021, with the conventions of the authors' code.

Features stay at the resolution of their network, for two reasons. Bilinear upsampling U is linear,
so a sum over pixels of weights times upsampled features is (U^T w) f. The squared norm of an
upsampled feature is a quadratic form in the inner products of neighbouring cells. No tensor of
K x C x H x W, or even of C x H x W, is ever allocated.

Part maps are [B, K, H, W] and masks [B, 1, H, W]. `taps` are feature maps [B, C_l, h_l, w_l] of
the same images. They stand for their concatenation, upsampled bilinearly (`align_corners=True`) to
H x W, and take no gradient.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from partbench.errors import BadInput


def interpolation(low: int, high: int, like: Tensor) -> Tensor:
    """Return the matrix [high, low] of linear interpolation with aligned ends.

    Its dtype and device are those of `like`.
    """
    position = torch.arange(high, device=like.device, dtype=torch.float64)
    position = position * ((low - 1) / max(high - 1, 1))
    cells = torch.arange(low, device=like.device, dtype=torch.float64)
    return (1 - (position.unsqueeze(1) - cells).abs()).clamp_min(0).to(like.dtype)


def sums(weights: Tensor, taps: Sequence[Tensor]) -> Tensor:
    """Return the weighted sums of the upsampled features over the pixels, [B, K, C].

    Args:
        weights: [B, K, H, W].
        taps: the features.
    """
    by_tap = []
    for tap in taps:
        low = weights
        if tap.shape[2:] != weights.shape[2:]:
            down, across = _interpolations(tap, weights)
            low = down.T @ weights @ across
        by_tap.append(torch.einsum("bkhw,bchw->bkc", low, tap))
    return torch.cat(by_tap, 2)


def squared_norms(taps: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the squared norms of the upsampled features at the pixels of `like`, [B, 1, H, W].

    A pixel's feature mixes those of the four cells around it. Its square therefore needs the
    squares of the cells and the products of neighbours: down, across and along both diagonals.
    """
    total = like.new_zeros(())
    for tap in taps:
        if tap.shape[2:] == like.shape[2:]:
            total = total + _dot(tap, tap)
            continue
        down, across = _interpolations(tap, like)
        right, below = tap[..., 1:], tap[..., 1:, :]
        diagonals = _dot(tap[..., :-1, :-1], below[..., 1:]) + _dot(
            right[..., :-1, :], below[..., :-1]
        )
        squares = _twice(down) @ _dot(tap[..., :-1, :], below) + down.square() @ _dot(tap, tap)
        mixed = _twice(down) @ diagonals / 2 + down.square() @ _dot(tap[..., :-1], right)
        total = total + squares @ across.square().T + mixed @ _twice(across).T
    return total


def consistency(parts: Tensor, mask: Tensor, taps: Sequence[Tensor]) -> Tensor:
    """Return the mean squared distance of features from the mean of their part, [B].

    The value is sum_ku w_ku |F_u - z_k|^2 / (sum_u m_u + 1e-5), where

    - z_k = sum_u q_ku F_u / (sum_u q_ku + 1e-5), q = p m and w = q m. The mask enters twice, which
      matters only where it lies between 0 and 1.
    - The numerator is computed from sums: sum_k [sum_u w_ku |F_u|^2 - 2 z_k . sum_u w_ku F_u +
      |z_k|^2 sum_u w_ku].
    - Features are taken relative to the mean of the foreground, so that little cancels.

    Args:
        parts: p, [B, K, H, W].
        mask: m, [B, 1, H, W] in [0, 1]; an image whose mask is empty gives 0.
        taps: the features F, float32 or better.
    """
    inside = parts * mask
    weights = inside * mask
    centre = sums(mask, taps) / mask.sum((2, 3)).clamp_min(1e-5).unsqueeze(2)
    widths = [tap.shape[1] for tap in taps]
    shifts = centre.squeeze(1).split(widths, 1)
    taps = [tap - shift[..., None, None] for tap, shift in zip(taps, shifts, strict=True)]
    mass = inside.sum((2, 3)).unsqueeze(2)
    means = (sums(inside, taps) - 1e-5 * centre) / (mass + 1e-5)
    scatter = (
        (weights.sum(1, keepdim=True) * squared_norms(taps, parts)).sum((1, 2, 3))
        - 2 * (means * sums(weights, taps)).sum((1, 2))
        + (means.square().sum(2) * weights.sum((2, 3))).sum(1)
    )
    return scatter / (mask.sum((1, 2, 3)) + 1e-5)


def descriptors(parts: Tensor, mask: Tensor, taps: Sequence[Tensor]) -> Tensor:
    """Return the mean feature of each part, sum_u q_ku F_u / (sum_u q_ku + 1e-7): [B, K, C]."""
    inside = parts * mask
    return sums(inside, taps) / (inside.sum((2, 3)).unsqueeze(2) + 1e-7)


def smallest_batch(skip_first: bool) -> int:
    """Return the smallest batch in which every image has another to be compared with."""
    return 3 if skip_first else 2


def draw_positives(images: int, k: int, skip_first: bool, device: torch.device) -> Tensor:
    """Draw another image for each part of each image: [images, k] int64.

    Args:
        images: the batch size B.
        k: the number of parts.
        skip_first: never draw the first of the B - 1 others, as the authors' code does.
        device: to draw on.

    Raises:
        BadInput: the batch is too small.
    """
    if images < smallest_batch(skip_first):
        raise BadInput(
            f"a batch of {images} is too small for the contrastive term, which draws another image "
            f"for each part: it needs at least {smallest_batch(skip_first)} images; raise "
            "`batch_size`"
        )
    others = torch.randint(int(skip_first), images - 1, (images, k), device=device)
    own = torch.arange(images, device=device).unsqueeze(1)
    return others + (others >= own)


def contrastive(
    part_means: Tensor, positives: Tensor, present: Tensor, temperature: float
) -> Tensor:
    """Return the contrastive term, a scalar.

    Each descriptor is an anchor. Its positive is the same part of another image. Its negatives are
    the other parts of all images, its own image included. The similarity is the cosine divided by
    the temperature, and the term is the mean cross-entropy. With one part there are no negatives,
    and the term is 0.

    Args:
        part_means: the descriptors of `descriptors`, [B, K, C].
        positives: the image of each anchor's positive, [B, K] int64.
        present: [B] bool, whether an image has a foreground. Images without one give no anchors,
            positives or negatives.
        temperature: divides the cosines.
    """
    batch, k, _ = part_means.shape
    unit = F.normalize(part_means, dim=2)
    parts = torch.arange(k, device=part_means.device)
    anchors = present.unsqueeze(1) & present[positives]
    positive = (unit * unit[positives, parts]).sum(2) / temperature
    negatives = torch.einsum("aic,bjc->aibj", unit, unit) / temperature
    excluded = (parts.view(k, 1, 1) == parts) | ~present.view(1, batch, 1)
    negatives = negatives.masked_fill(excluded, -torch.inf).flatten(2)
    logits = torch.cat([positive.unsqueeze(2), negatives], 2)
    terms = (logits.logsumexp(2) - positive) * anchors
    return terms.sum() / anchors.sum().clamp_min(1)


def distance(part_means: Tensor, positives: Tensor, present: Tensor) -> Tensor:
    """Return the mean squared distance of normalised descriptors from their positives, a scalar.

    The paper's ablation uses it in place of the contrastive term, but does not state its formula.
    The arguments are those of `contrastive`.
    """
    unit = F.normalize(part_means, dim=2)
    parts = torch.arange(part_means.shape[1], device=part_means.device)
    anchors = present.unsqueeze(1) & present[positives]
    squared = (unit - unit[positives, parts]).square().sum(2)
    return (squared * anchors).sum() / anchors.sum().clamp_min(1)


def equivariance(target: Tensor, logits: Tensor, mask: Tensor) -> Tensor:
    """Return KL(softmax(target) || softmax(logits)) on the foreground, [B].

    The target takes no gradient, as in the authors' code.

    Args:
        target: the logits of one view, then warped, [B, K, H, W].
        logits: the logits of the other view, which was warped itself, [B, K, H, W].
        mask: [B, 1, H, W], warped; the divergences are divided by its sum.
    """
    log_target = target.detach().log_softmax(1)
    divergence = (log_target.exp() * (log_target - logits.log_softmax(1))).sum(1, keepdim=True)
    return (divergence * mask).sum((1, 2, 3)) / (mask.sum((1, 2, 3)) + 1e-7)


def _interpolations(tap: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrices that bring a tap to the size of `like`, down and across."""
    height, width = tap.shape[2:]
    return (
        interpolation(height, like.shape[2], tap),
        interpolation(width, like.shape[3], tap),
    )


def _twice(matrix: Tensor) -> Tensor:
    """Return the mixed terms of a square: twice the products of neighbouring columns."""
    return 2 * matrix[:, :-1] * matrix[:, 1:]


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Return inner products over channels, [B, 1, h, w]."""
    return torch.einsum("bchw,bchw->bhw", one, other).unsqueeze(1)
