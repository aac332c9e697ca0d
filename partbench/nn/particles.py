"""What Deep Latent Particles is made of, beside its convolutions (Daniel and Tamar, ICML 2022).

Points are (x, y) from -1 to 1. Two conventions meet, as in the authors' code: Gaussian maps and
proposals count between the centres of the outermost cells (`partbench.nn.keypoints`), glimpses
and their placement between the borders of the image.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partbench.coordinates import of_pixels
from partbench.nn.keypoints import marginal_softmax
from partbench.nn.precision import exact


def pairwise_kl(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: float) -> Tensor:
    """Return KL(N(mu_i, var_i) || N(prior_j, prior_var)), summed over x and y: [B, K, J].

    Args:
        mu: [B, K, 2].
        logvar: [B, K, 2].
        prior_mu: [B, J, 2].
        prior_logvar: of every coordinate of the prior.
    """
    distance = (mu.unsqueeze(2) - prior_mu.unsqueeze(1)).square().sum(-1)
    precision = torch.exp(torch.as_tensor(-prior_logvar, dtype=mu.dtype, device=mu.device))
    own = (prior_logvar - logvar + logvar.exp() * precision - 1).sum(-1)
    return 0.5 * (own.unsqueeze(2) + distance * precision)


def chamfer_kl(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: float) -> Tensor:
    """Return the Chamfer-KL between posterior particles and proposals, [B].

    Every proposal to its nearest particle, and every particle to its nearest proposal; both by
    KL(posterior || prior), as in the authors' code. Arguments as `pairwise_kl`'s.
    """
    kl = pairwise_kl(mu, logvar, prior_mu, prior_logvar)
    return kl.amin(1).sum(1) + kl.amin(2).sum(1)


def to_patches(images: Tensor, side: int) -> Tensor:
    """Return the patches of images, row by row: [B, C, H, W] -> [B, H / side * W / side, C, s, s].

    H and W are multiples of `side`.
    """
    batch, channels, height, width = images.shape
    grid = images.view(batch, channels, height // side, side, width // side, side)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels, side, side)


def proposals(maps: Tensor, side: int, patch: int, keep: int) -> Tensor:
    """Return the keypoints of patches that lie farthest from their patch's centre, [B, keep, 2].

    A keypoint in the centre of its patch says that the patch shows nothing.

    Args:
        maps: [B, P, h, w], the heat map of each patch, row by row.
        side: of the image, pixels.
        patch: side of a patch, pixels.
        keep: how many, the farthest first.
    """
    row = torch.arange(side // patch, device=maps.device) * patch
    y, x = torch.meshgrid(row, row, indexing="ij")
    corner = torch.stack([x, y], -1).view(-1, 2)

    def in_image(local: Tensor) -> Tensor:
        places: Tensor = of_pixels(side).from_pixels(of_pixels(patch).to_pixels(local) + corner)
        return places

    points = in_image(marginal_softmax(maps))
    offset = (points - in_image(torch.zeros_like(points))).square().sum(-1)
    kept = offset.topk(keep, 1).indices
    return points.gather(1, kept.unsqueeze(-1).expand(-1, -1, 2))


def placement(points: Tensor, glimpse: int, side: int) -> tuple[Tensor, Tensor]:
    """Return the bilinear weights between a glimpse's pixels and the image's, per axis.

    The weight of pixel s of the image for pixel i of a glimpse around p is the hat function
    max(0, 1 - |s - i - c - p side / 2|), with c the first pixel of a centred glimpse.

    Args:
        points: [B, K, 2], where glimpses are centred; gradients flow to them.
        glimpse: pixels of a glimpse's side.
        side: pixels of the image's side.

    Returns:
        For x and for y, [B, K, glimpse, side].
    """
    lines = [torch.arange(n, dtype=points.dtype, device=points.device) for n in (glimpse, side)]
    away = lines[1] - lines[0].unsqueeze(1) - (side - glimpse) // 2
    x, y = (away - points[..., axis, None, None] * (side / 2) for axis in (0, 1))
    return (1 - x.abs()).relu(), (1 - y.abs()).relu()


def box_masks(points: Tensor, glimpse: int, side: int) -> tuple[Tensor, Tensor]:
    """Return, per axis, which pixels of the image the glimpses cover, 0 or 1: [B, K, side].

    Arguments as `placement`'s. In float32, as rounding decides what is covered.
    """
    pixel = torch.arange(side, dtype=torch.float32, device=points.device)
    first = (side - glimpse) // 2
    moved = torch.round(pixel - points.float().unsqueeze(-1) * (side / 2))
    inside = ((moved >= first) & (moved < first + glimpse)).to(points.dtype)
    return inside[..., 0, :], inside[..., 1, :]


def glimpses(images: Tensor, points: Tensor, glimpse: int) -> Tensor:
    """Return what the images show around points, [B, K, C, glimpse, glimpse].

    A box of the glimpse's side is cut out at whole pixels, then moved to the centre bilinearly.

    Args:
        images: [B, C, S, S].
        points: [B, K, 2]; none of the gradient goes there.
        glimpse: pixels of the side.
    """
    side = images.shape[-1]
    points = points.detach()
    masks = box_masks(points, glimpse, side)
    x, y = (
        weights * mask.unsqueeze(2)
        for weights, mask in zip(placement(points, glimpse, side), masks, strict=True)
    )
    rows = torch.einsum("bkis,bcst->bkcit", y, images)
    return torch.einsum("bkcit,bkjt->bkcij", rows, x)


def exclusive_glimpses(images: Tensor, points: Tensor, on: Tensor, glimpse: int) -> Tensor:
    """Return glimpses of which each sees only what those before it left, as `glimpses`.

    Args:
        images: [B, C, S, S].
        points: [B, K, 2].
        on: [B, K] in (0, 1), how much of a pixel a particle takes.
        glimpse: pixels of the side.
    """
    side = images.shape[-1]
    points = points.detach()
    across, down = box_masks(points, glimpse, side)
    masks = shares(on[..., None, None] * down.unsqueeze(-1) * across.unsqueeze(-2))
    x, y = placement(points, glimpse, side)
    rows = torch.einsum("bkis,bkst,bcst->bkcit", y, masks, images)
    return torch.einsum("bkcit,bkjt->bkcij", rows, x)


def shares(alphas: Tensor) -> Tensor:
    """Return the part of each pixel that each layer gets, in order: [B, K, ...].

    m_i = min(1 - (m_1 + ... + m_(i-1)), a_i). The sum s_i of the first i is then
    min(1, s_(i-1) + a_i), which is c_i - max(0, c_1 - 1, ..., c_i - 1) with c the running sum of
    a: no loop over layers.
    """
    with torch.no_grad():
        total = alphas.cumsum(1)
        filled = total - (total.cummax(1).values - 1).relu()
        left = 1 - torch.cat([torch.zeros_like(filled[:, :1]), filled[:, :-1]], 1)
    return torch.minimum(left, alphas)


def composite(
    patches: Tensor, points: Tensor, on: Tensor, side: int, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return decoded patches put into their places, and how much of each pixel they cover.

    Args:
        patches: [B, K, 4, g, g] in [0, 1]: alpha, then RGB.
        points: [B, K, 2], their centres.
        on: [B, K] in (0, 1), transparency of whole particles.
        side: of the image, pixels.
        noise: [B, K, 1, side, side], added to alpha where it is above 0.1.

    Returns:
        [B, 3, side, side], the sum over particles of share times colour; [B, 1, side, side], the
        sum of shares, clamped to [0, 1].
    """
    batch, margin = len(patches), patches.shape[-1] + 1
    wide = side + 2 * margin
    placed, pixel = _placed(patches, points, side)
    alpha, colour = placed[:, :, 0], placed[:, :, 1:]
    if noise is not None:
        here = F.pad(noise, [margin] * 4).flatten(2).gather(2, pixel)
        alpha = torch.where(alpha > 0.1, alpha + here, alpha)
    alpha = on.unsqueeze(-1) * alpha
    left, space = [], alpha.new_ones(batch, wide**2)
    for own, where in zip(alpha.detach().unbind(1), pixel.unbind(1), strict=True):
        left.append(space.gather(1, where))
        space.scatter_add_(1, where, -torch.minimum(left[-1], own))
    share = torch.minimum(torch.stack(left, 1), alpha).unsqueeze(2)
    layers = torch.cat([share * colour, share], 2).transpose(1, 2).flatten(2)
    index = pixel.flatten(1).unsqueeze(1).expand_as(layers)
    image = layers.new_zeros(batch, 4, wide**2).scatter_add(2, index, layers)
    image = image.view(batch, 4, wide, wide)[..., margin:-margin, margin:-margin]
    return image[:, :3], image[:, 3:].clamp(0, 1)


def _placed(patches: Tensor, points: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return what patches show where they lie, and where that is.

    A patch of side g that lies between pixels covers g + 1 of them a side. They are counted row by
    row in the image with a margin of g + 1 pixels, on which everything outside of it falls.

    Args:
        patches: [B, K, C, g, g].
        points: [B, K, 2], their centres.
        side: of the image, pixels.

    Returns:
        [B, K, C, (g + 1)^2]; [B, K, (g + 1)^2], int64.
    """
    glimpse = patches.shape[-1]
    margin, start = glimpse + 1, points * (side / 2) + (side - glimpse) // 2
    first = start.detach().floor()
    x, y = (start - first)[..., None, None, None].unbind(2)
    across = torch.lerp(F.pad(patches, (0, 1)), F.pad(patches, (1, 0)), x)
    placed = torch.lerp(F.pad(across, (0, 0, 0, 1)), F.pad(across, (0, 0, 1, 0)), y)
    line = torch.arange(glimpse + 1, device=points.device)
    corner = (first.long() + margin).clamp(0, side + margin).unsqueeze(-1)
    column, row = (corner + line).unbind(2)
    pixel = row.unsqueeze(-1) * (side + 2 * margin) + column.unsqueeze(-2)
    return placed.flatten(3), pixel.flatten(2)


class PointConv(nn.Module):
    """One layer of message passing of PointNet++ between near points (Qi et al., NeurIPS 2017).

    Point i gets the maximum over its nearest neighbours j, itself among them, of
    mlp([h_j, p_j - p_i]). The first linear layer is applied to points before edges are made: it is
    the same, at a tenth of the work.

    Args:
        before: numbers of a point.
        after: numbers of a point afterwards.
        neighbours: of a point; all, if there are fewer points.
    """

    def __init__(self, before: int, after: int, neighbours: int = 10) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.first = nn.Linear(before + 2, after)
        self.rest = nn.Sequential(
            nn.BatchNorm1d(after), nn.ReLU(), nn.Linear(after, after), nn.BatchNorm1d(after)
        )

    def forward(self, h: Tensor, points: Tensor) -> Tensor:
        """Pass messages: [B, N, before] and [B, N, 2] -> [B, N, after]."""
        batch, n, width = *h.shape[:2], self.first.out_features
        k = min(self.neighbours, n)
        distance = (points.unsqueeze(1) - points.unsqueeze(2)).square().sum(-1)
        near = distance.topk(k, -1, largest=False).indices
        place = points @ self.first.weight[:, -2:].T
        sent = self.first(torch.cat([h, points], -1))
        index = near.view(batch, n * k, 1).expand(-1, -1, width)
        edges = sent.gather(1, index).view(batch, n, k, width) - place.unsqueeze(2)
        return self.rest(edges.view(-1, width)).view(batch, n, k, width).amax(2)


def conv_block(before: int, after: int, kernel: int, stride: int, slope: float) -> nn.Sequential:
    """Return a convolution with replicate padding and no bias, BatchNorm, and LeakyReLU."""
    conv = ReplicateConv(before, after, kernel, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.LeakyReLU(slope, inplace=True))


class ReplicateConv(nn.Conv2d):
    """A convolution of maps that go on beyond their border as at their border.

    Padding is kept out of autocast, which on a CPU would make it float32 and keep that copy for
    the backward pass, though nothing is computed.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B, before, H, W] -> [B, after, H / stride, W / stride]."""
        with exact(input):
            padded = F.pad(input, [self.kernel_size[0] // 2] * 4, mode="replicate")
        return super().forward(padded)


def encoder(widths: tuple[int, ...], maps: int, kernel: int) -> nn.Sequential:
    """Return convolutions to `maps` maps; every width after the first halves the side."""
    blocks = [conv_block(3, widths[0], kernel, 1, 0), conv_block(widths[0], widths[0], 3, 1, 0)]
    for before, after in pairwise(widths):
        blocks += [conv_block(before, after, 3, 2, 0), conv_block(after, after, 3, 1, 0)]
    return nn.Sequential(*blocks, nn.Conv2d(widths[-1], maps, 1))


def decoder(before: int, widths: tuple[int, ...], out: int) -> nn.Sequential:
    """Return convolutions that double the side after every width but the last, and a 1x1 layer."""
    layers: list[nn.Module] = []
    for after in widths:
        layers += [conv_block(before, after, 3, 1, 0.01), Double()]
        before = after
    return nn.Sequential(*layers[:-1], nn.Conv2d(before, out, 1))


class Double(nn.Module):
    """Bilinear enlargement to twice the side, in the precision of the maps."""

    def forward(self, maps: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, 2H, 2W]."""
        with exact(maps):
            return F.interpolate(maps, scale_factor=2, mode="bilinear")


def mlp(before: int, after: int) -> nn.Sequential:
    """Return linear layers to 256, 128 and `after` numbers, ReLU between."""
    return nn.Sequential(
        nn.Linear(before, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, after)
    )
