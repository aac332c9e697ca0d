"""What holds parts together: consistency in themselves, across images and under warps.

Choudhury et al., NeurIPS 2021, with the conventions of the authors' code. Features stay at the
resolution that their network gives: bilinear upsampling U is linear, so sums over pixels of
weights times upsampled features are (U^T w) f, and the squared norm of an upsampled feature is a
quadratic form of the inner products of neighbouring cells. Nothing of K x C x H x W, nor of
C x H x W, is ever made.

Maps of parts are [B, K, H, W], masks [B, 1, H, W]; `taps` are feature maps [B, C_l, h_l, w_l] of
the same images, which stand for their concatenation, upsampled bilinearly (`align_corners=True`)
to H x W. No gradient reaches them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from partbench.errors import BadInput


def interpolation(low: int, high: int, like: Tensor) -> Tensor:
    """Return the matrix [high, low] of linear interpolation between aligned ends."""
    place = torch.arange(high, device=like.device, dtype=torch.float64)
    place = place * ((low - 1) / max(high - 1, 1))
    cells = torch.arange(low, device=like.device, dtype=torch.float64)
    return (1 - (place.unsqueeze(1) - cells).abs()).clamp_min(0).to(like.dtype)


def sums(weights: Tensor, taps: Sequence[Tensor]) -> Tensor:
    """Return the weighted sums over pixels of the upsampled features, [B, K, C]."""
    found = []
    for tap in taps:
        carried = weights
        if tap.shape[2:] != weights.shape[2:]:
            down, across = _interpolations(tap, weights)
            carried = down.T @ weights @ across
        found.append(torch.einsum("bkhw,bchw->bkc", carried, tap))
    return torch.cat(found, 2)


def squared_norms(taps: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the squared norms of the upsampled features at the pixels of `like`, [B, 1, H, W].

    A pixel's feature is a mixture of the four cells around it, so its square takes the squares of
    the cells and the products of neighbours: down, across and along both diagonals.
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
    """Return how far features are from the mean of their part, [B].

    sum_ku w_ku |F_u - z_k|^2 / (sum_u m_u + 1e-5), where z_k = sum_u q_ku F_u / (sum_u q_ku +
    1e-5), q = p m and w = q m: the mask enters twice, which makes a difference only between 0
    and 1. As sums, that is sum_k [sum_u w_ku |F_u|^2 - 2 z_k . sum_u w_ku F_u + |z_k|^2 sum_u
    w_ku]. Features are taken relative to the mean of the foreground, so that little cancels.

    Args:
        parts: p, [B, K, H, W].
        mask: m, [B, 1, H, W] in [0, 1]; an image of an empty one gives 0.
        taps: features F; float32 or better.
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


def fewest(skip_first: bool) -> int:
    """Return the fewest images among which each has another to be held against."""
    return 3 if skip_first else 2


def draw_positives(images: int, k: int, skip_first: bool, device: torch.device) -> Tensor:
    """Return for each part of each image another image, at random: [images, k] int64.

    Args:
        images: B.
        k: parts.
        skip_first: never draw the first of the B - 1 others, as the authors' code does.
        device: where to draw.

    Raises:
        BadInput: too few images.
    """
    if images < fewest(skip_first):
        raise BadInput(
            f"the contrastive term draws another image for each part: a batch of {images} is too "
            f"small, it takes at least {fewest(skip_first)} images on each device; raise "
            "`batch_size`"
        )
    drawn = torch.randint(int(skip_first), images - 1, (images, k), device=device)
    own = torch.arange(images, device=device).unsqueeze(1)
    return drawn + (drawn >= own)


def contrastive(found: Tensor, positives: Tensor, present: Tensor, temperature: float) -> Tensor:
    """Return the contrastive term, a scalar.

    Each descriptor is an anchor. Its positive is the same part of another image, its negatives
    are the other parts of all images, its own too; similarity is the cosine over the temperature.
    The term is the mean cross-entropy; with one part there are no negatives, and it is 0.

    Args:
        found: descriptors, [B, K, C].
        positives: the image of each anchor's positive, [B, K] int64.
        present: [B] bool, images with a foreground; others are neither anchors, positives nor
            negatives.
        temperature: of the cosines.
    """
    batch, k, _ = found.shape
    unit = F.normalize(found, dim=2)
    parts = torch.arange(k, device=found.device)
    anchors = present.unsqueeze(1) & present[positives]
    positive = (unit * unit[positives, parts]).sum(2) / temperature
    others = torch.einsum("aic,bjc->aibj", unit, unit) / temperature
    left_out = (parts.view(k, 1, 1) == parts) | ~present.view(1, batch, 1)
    others = others.masked_fill(left_out, -torch.inf).flatten(2)
    logits = torch.cat([positive.unsqueeze(2), others], 2)
    terms = (logits.logsumexp(2) - positive) * anchors
    return terms.sum() / anchors.sum().clamp_min(1)


def distance(found: Tensor, positives: Tensor, present: Tensor) -> Tensor:
    """Return the mean squared distance of normalised descriptors and their positives.

    What the paper's ablation has in place of the contrastive term; its formula is not stated.
    The arguments are those of `contrastive`.
    """
    unit = F.normalize(found, dim=2)
    parts = torch.arange(found.shape[1], device=found.device)
    anchors = present.unsqueeze(1) & present[positives]
    squared = (unit - unit[positives, parts]).square().sum(2)
    return (squared * anchors).sum() / anchors.sum().clamp_min(1)


def equivariance(target: Tensor, logits: Tensor, mask: Tensor) -> Tensor:
    """Return KL(softmax(target) || softmax(logits)) on the foreground, [B].

    One way only, as in the authors' code: no gradient reaches the target.

    Args:
        target: warped logits of the one view, [B, K, H, W].
        logits: of the warped other view.
        mask: [B, 1, H, W], warped; the divergences are divided by its sum.
    """
    wanted = target.detach().log_softmax(1)
    divergence = (wanted.exp() * (wanted - logits.log_softmax(1))).sum(1, keepdim=True)
    return (divergence * mask).sum((1, 2, 3)) / (mask.sum((1, 2, 3)) + 1e-7)


def _interpolations(tap: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    height, width = tap.shape[2:]
    return (
        interpolation(height, like.shape[2], tap),
        interpolation(width, like.shape[3], tap),
    )


def _twice(matrix: Tensor) -> Tensor:
    """Return twice the products of neighbouring columns, the mixed terms of a square."""
    return 2 * matrix[:, :-1] * matrix[:, 1:]


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Return inner products over channels, [B, 1, h, w]."""
    return torch.einsum("bchw,bchw->bhw", one, other).unsqueeze(1)
