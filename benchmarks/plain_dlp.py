"""Each term of Deep Latent Particles as one would write it first from the paper.

Loops over particles, a picture of full size for every particle, edge lists, gradients for weights
that nobody trains. The functions take and return what those of partbench of the same name do, so
`formulation` puts them in their place: the same model then computes the same loss.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from partbench.methods import dlp
from partbench.nn.particles import PointConv
from partbench.nn.tps import STRONG, ThinPlateSpline


def chamfer_kl(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: float) -> Tensor:
    """Return the Chamfer-KL, [B]: particle by particle, the whole batch at once."""
    prior_variance = torch.as_tensor(prior_logvar, dtype=mu.dtype, device=mu.device).exp()
    total = mu.new_zeros(len(mu))
    nearest: Tensor | None = None
    for i in range(mu.shape[1]):
        own, place = logvar[:, i, None], mu[:, i, None]
        squared = (place - prior_mu).square()
        kl = 0.5 * (prior_logvar - own - 1 + (own.exp() + squared) / prior_variance).sum(-1)
        total = total + kl.amin(1)
        nearest = kl if nearest is None else torch.minimum(nearest, kl)
    assert nearest is not None
    return total + nearest.sum(1)


def dense_chamfer_kl(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: float) -> Tensor:
    """Return the Chamfer-KL, [B], with every quantity expanded to [B, K, J, 2]."""
    shape = (*mu.shape[:2], *prior_mu.shape[1:])
    mu, logvar = (t.unsqueeze(2).expand(shape) for t in (mu, logvar))
    prior_mu = prior_mu.unsqueeze(1).expand(shape)
    prior_variance = torch.full_like(mu, prior_logvar).exp()
    squared = (mu - prior_mu).square()
    ratio = logvar.exp() / prior_variance
    kl = 0.5 * (prior_logvar - logvar - 1 + ratio + squared / prior_variance).sum(-1)
    return kl.amin(1).sum(1) + kl.amin(2).sum(1)


def moved(pictures: Tensor, by: Tensor, mode: str = "bilinear") -> Tensor:
    """Return pictures moved by (x, y) in halves of their side, black coming in.

    Args:
        pictures: [B, K, C, S, S].
        by: [B, K, 2].
        mode: "nearest" or "bilinear".
    """
    flat, shift = pictures.flatten(0, 1), -by.flatten(0, 1)
    linear = torch.eye(2, dtype=by.dtype, device=by.device).expand(len(flat), 2, 2)
    theta = torch.cat([linear, shift.unsqueeze(2)], 2)
    grid = F.affine_grid(theta, list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, mode=mode, align_corners=False).view_as(pictures)


def box_pictures(points: Tensor, glimpse: int, side: int) -> Tensor:
    """Return the mask of each glimpse: a centred square moved to its point, [B, K, 1, S, S]."""
    first = (side - glimpse) // 2
    square = points.new_zeros(*points.shape[:2], 1, side, side)
    square[..., first : first + glimpse, first : first + glimpse] = 1
    return moved(square, points, "nearest")


def glimpses(images: Tensor, points: Tensor, glimpse: int) -> Tensor:
    """Return glimpses: the masked image of each particle moved to the centre, the middle of it."""
    side, points = images.shape[-1], points.detach()
    masked = box_pictures(points, glimpse, side) * images.unsqueeze(1)
    first = (side - glimpse) // 2
    middle = slice(first, first + glimpse)
    return moved(masked, -points)[..., middle, middle]


def composite(
    patches: Tensor, points: Tensor, on: Tensor, side: int, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return patches laid over each other: padded to the image, moved, added one after another."""
    before = (side - patches.shape[-1]) // 2
    after = side - patches.shape[-1] - before
    placed = moved(F.pad(patches, (before, after, before, after)), points).clamp(0, 1)
    objects = covered = torch.zeros_like(placed[:, 0, :1])
    for i, picture in enumerate(placed.unbind(1)):
        alpha, colour = picture[:, :1], picture[:, 1:]
        if noise is not None:
            alpha = alpha + noise[:, i] * (alpha > 0.1)
        share = on[:, i, None, None, None] * alpha
        if i:  # the first is not limited
            share = torch.minimum(1 - covered.detach(), share)
        objects, covered = objects + share * colour, covered + share
    return objects, covered.clamp(0, 1)


def gaussian_maps(points: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """Return the Gaussian map of each point from its distance to every cell."""
    lines = (
        torch.linspace(-1, 1, n, dtype=points.dtype).to(points.device) for n in (height, width)
    )
    y, x = torch.meshgrid(*lines, indexing="ij")
    away = torch.stack([x, y], -1) - points[..., None, None, :]
    return (-0.5 * away.square().sum(-1) / sigma**2).exp()


def pass_messages(layer: PointConv, h: Tensor, points: Tensor) -> Tensor:
    """Pass messages along a list of edges, the whole network applied to each."""
    batch, n = h.shape[:2]
    k = min(layer.neighbours, n)
    senders: list[Tensor] = []
    for own in points:
        away = (own[:, None] - own).norm(dim=-1)
        near = away.topk(k, -1, largest=False).indices
        senders.append(near.flatten() + n * len(senders))
    sender = torch.cat(senders)
    receiver = torch.arange(batch * n, device=h.device).repeat_interleave(k)
    h, points = h.flatten(0, 1), points.flatten(0, 1)
    edges = torch.cat([h[sender], points[sender] - points[receiver]], -1)
    messages = layer.rest(layer.first(edges))
    empty = messages.new_zeros(batch * n, messages.shape[1])
    index = receiver.unsqueeze(1).expand_as(messages)
    return empty.scatter_reduce(0, index, messages, "amax", include_self=False).view(batch, n, -1)


def distance(method: dlp.DLP, output: Tensor, target: Tensor) -> Tensor:
    """Return squared errors of pixels and activations; nothing of the network is frozen."""
    error = F.mse_loss(output, target, reduction="sum")
    network = method.perceptual.network
    if network is not None:
        network.requires_grad_()
    pairs = zip(method.perceptual(output), method.perceptual(target), strict=True)
    for have, want in pairs:
        error = error + F.mse_loss(have, want, reduction="sum")
    return error / len(target)


@contextmanager
def formulation() -> Iterator[None]:
    """Have DLP compute its terms by the functions of this module."""
    functions = (chamfer_kl, composite, gaussian_maps, glimpses)
    terms: dict[str, Any] = {function.__name__: function for function in functions}
    with (
        patch.multiple(dlp, **terms),
        patch.object(dlp.DLP, "distance", distance),
        patch.object(PointConv, "forward", pass_messages),
    ):
        yield


class LoaderWarper:
    """Pairs of warped images, one at a time on the CPU, as a loader's worker makes them.

    Args:
        side: pixels of the images.
        keep: keep the spline's terms at every pixel, or compute them for each warp.
    """

    def __init__(self, side: int, keep: bool = True) -> None:
        self.spline = ThinPlateSpline(side)
        self.side, self.keep = side, keep
        line = torch.linspace(-1, 1, side)
        y, x = torch.meshgrid(line, line, indexing="ij")
        self.pixels = torch.stack([x, y], -1).view(-1, 2)
        self.basis = self._basis()

    def _basis(self) -> Tensor:
        squared = (self.pixels[:, None] - self.spline.control[None]).square().sum(-1)
        kernel = squared * torch.log(squared + 1e-5)
        return torch.cat([kernel, torch.ones(len(self.pixels), 1), self.pixels], 1)

    def _warp(self, image: Tensor, weights: Tensor) -> Tensor:
        basis = self.basis if self.keep else self._basis()
        grid = (basis @ weights).view(1, self.side, self.side, 2)
        return F.grid_sample(image[None], grid, align_corners=True)[0]

    def pair(self, image: Tensor, weak: Tensor, strong: Tensor) -> tuple[Tensor, Tensor]:
        """Return an image warped weakly, and strongly on top of that.

        Args:
            image: [C, side, side].
            weak: [control points + 3, 2], weights as of `ThinPlateSpline.draw`.
            strong: likewise.
        """
        image = self._warp(image, weak)
        return image, self._warp(image, strong)

    def pairs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return pairs of random warps of images [B, C, side, side]."""
        found = [
            self.pair(image, self.spline.draw(1, dlp.WEAK)[0], self.spline.draw(1, STRONG)[0])
            for image in images
        ]
        weak, strong = zip(*found, strict=True)
        return torch.stack(weak), torch.stack(strong)
