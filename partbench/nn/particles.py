"""Building blocks of Deep Latent Particles (Daniel and Tamar, ICML 2022).

Points are (x, y) in [-1, 1], in one of two conventions, as in the authors' code:

- For Gaussian maps and proposals, -1 and 1 are the centres of the outermost cells (see
  `partbench.nn.keypoints`).
- For glimpses and their placement, -1 and 1 are the borders of the image.
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
        prior_logvar: log-variance of every coordinate of the prior.
    """
    distance = (mu.unsqueeze(2) - prior_mu.unsqueeze(1)).square().sum(-1)
    precision = torch.exp(torch.as_tensor(-prior_logvar, dtype=mu.dtype, device=mu.device))
    own = (prior_logvar - logvar + logvar.exp() * precision - 1).sum(-1)
    return 0.5 * (own.unsqueeze(2) + distance * precision)


def chamfer_kl(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: float) -> Tensor:
    """Return the Chamfer-KL between posterior particles and proposals, [B].

    It sums the KL of every proposal to its nearest particle and of every particle to its nearest
    proposal. Both are KL(posterior || prior), as in the authors' code. The arguments are those of
    `pairwise_kl`.
    """
    kl = pairwise_kl(mu, logvar, prior_mu, prior_logvar)
    return kl.amin(1).sum(1) + kl.amin(2).sum(1)


def to_patches(images: Tensor, side: int) -> Tensor:
    """Cut images into patches, row by row: [B, C, H, W] -> [B, H / s * W / s, C, s, s].

    s is `side`; H and W are multiples of it.
    """
    batch, channels, height, width = images.shape
    grid = images.view(batch, channels, height // side, side, width // side, side)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels, side, side)


def proposals(maps: Tensor, side: int, patch: int, keep: int) -> Tensor:
    """Return the patches' keypoints that lie farthest from the centres of their patches.

    A keypoint in the centre of its patch means that the patch shows nothing.

    Args:
        maps: [B, P, h, w], the heat map of each patch, row by row.
        side: side of the image, pixels.
        patch: side of a patch, pixels.
        keep: number of keypoints to return.

    Returns:
        [B, keep, 2] in [-1, 1], the farthest first.
    """
    row = torch.arange(side // patch, device=maps.device) * patch
    y, x = torch.meshgrid(row, row, indexing="ij")
    corner = torch.stack([x, y], -1).view(-1, 2)

    def in_image(local: Tensor) -> Tensor:
        moved: Tensor = of_pixels(side).from_pixels(of_pixels(patch).to_pixels(local) + corner)
        return moved

    points = in_image(marginal_softmax(maps))
    offset = (points - in_image(torch.zeros_like(points))).square().sum(-1)
    farthest = offset.topk(keep, 1).indices
    return points.gather(1, farthest.unsqueeze(-1).expand(-1, -1, 2))


def placement(points: Tensor, glimpse: int, side: int) -> tuple[Tensor, Tensor]:
    """Return the bilinear weights between the pixels of glimpses and of the image, per axis.

    The weight of pixel s of the image for pixel i of a glimpse around p is the hat function
    max(0, 1 - |s - i - c - p side / 2|), where c is the first pixel of a centred glimpse.

    Args:
        points: [B, K, 2], centres of the glimpses; they receive gradients.
        glimpse: side of a glimpse, pixels.
        side: side of the image, pixels.

    Returns:
        The weights along x and along y, each [B, K, glimpse, side].
    """
    lines = [torch.arange(n, dtype=points.dtype, device=points.device) for n in (glimpse, side)]
    offset = lines[1] - lines[0].unsqueeze(1) - (side - glimpse) // 2
    x, y = (offset - points[..., axis, None, None] * (side / 2) for axis in (0, 1))
    return (1 - x.abs()).relu(), (1 - y.abs()).relu()


def box_masks(points: Tensor, glimpse: int, side: int) -> tuple[Tensor, Tensor]:
    """Return which pixels of the image the glimpses cover, per axis.

    The arguments are those of `placement`. The computation is in float32, because rounding decides
    what is covered.

    Returns:
        The masks along x and along y, each [B, K, side], 0 or 1, in the dtype of `points`.
    """
    pixel = torch.arange(side, dtype=torch.float32, device=points.device)
    first = (side - glimpse) // 2
    moved = torch.round(pixel - points.float().unsqueeze(-1) * (side / 2))
    inside = ((moved >= first) & (moved < first + glimpse)).to(points.dtype)
    return inside[..., 0, :], inside[..., 1, :]


def glimpses(images: Tensor, points: Tensor, glimpse: int) -> Tensor:
    """Cut glimpses out of images around points, [B, K, C, glimpse, glimpse].

    A box of the glimpse's side is cut out at whole pixels, then moved to the centre bilinearly.

    Args:
        images: [B, C, S, S].
        points: [B, K, 2], centres of the glimpses; they receive no gradient.
        glimpse: side of a glimpse, pixels.
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
    """Cut glimpses, each from what the glimpses before it have left: [B, K, C, glimpse, glimpse].

    Args:
        images: [B, C, S, S].
        points: [B, K, 2], centres of the glimpses; they receive no gradient.
        on: [B, K] in (0, 1), how much of a pixel a particle takes.
        glimpse: side of a glimpse, pixels.
    """
    side = images.shape[-1]
    points = points.detach()
    across, down = box_masks(points, glimpse, side)
    masks = shares(on[..., None, None] * down.unsqueeze(-1) * across.unsqueeze(-2))
    x, y = placement(points, glimpse, side)
    rows = torch.einsum("bkis,bkst,bcst->bkcit", y, masks, images)
    return torch.einsum("bkcit,bkjt->bkcij", rows, x)


def shares(alphas: Tensor) -> Tensor:
    """Return the share of each pixel that each layer takes, the first layer first: [B, K, ...].

    The shares are m_i = min(1 - (m_1 + ... + m_(i-1)), a_i). The sum s_i of the first i is then
    min(1, s_(i-1) + a_i). It equals c_i - max(0, c_1 - 1, ..., c_i - 1), where c is the running sum
    of a, so no loop over the layers is needed.
    """
    with torch.no_grad():
        total = alphas.cumsum(1)
        filled = total - (total.cummax(1).values - 1).relu()
        left = 1 - torch.cat([torch.zeros_like(filled[:, :1]), filled[:, :-1]], 1)
    return torch.minimum(left, alphas)


def composite(
    patches: Tensor, points: Tensor, on: Tensor, side: int, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Lay decoded patches over each other at their places, as the authors' code does.

    The alpha of a particle is what its patch has, times `on`. The first particle's share of a pixel
    is its alpha, which noise may lift above 1. Each later share is the smaller of alpha and of the
    space left, 1 minus the shares before it, which takes no gradient. Where the first particle
    takes more than 1, the second therefore takes less than 0, even outside of its patch.

    Args:
        patches: [B, K, 4, g, g] in [0, 1]: alpha, then RGB.
        points: [B, K, 2], centres of the patches.
        on: [B, K] in (0, 1), transparency of whole particles.
        side: side of the image, pixels.
        noise: [B, K, 1, side, side], added to alpha where alpha is above 0.1.

    Returns:
        The image [B, 3, side, side], the sum over particles of share times colour, and the
        coverage [B, 1, side, side], the sum of the shares clamped to [0, 1]. The coverage of a
        pixel that is full passes no gradient on.
    """
    batch, margin = len(patches), patches.shape[-1] + 1
    wide = side + 2 * margin
    placed, pixel = _placed(patches, points, side)
    alpha, colour = placed[:, :, 0], placed[:, :, 1:]
    if noise is not None:
        local = F.pad(noise, [margin] * 4).flatten(2).gather(2, pixel)
        alpha = torch.where(alpha > 0.1, alpha + local, alpha)
    alpha = on.unsqueeze(-1) * alpha
    limits, space = [], alpha.new_ones(batch, wide**2)
    for number, own in enumerate(alpha.detach().unbind(1)):
        indices = pixel[:, number]
        limits.append(space.gather(1, indices) if number else torch.full_like(own, torch.inf))
        space.scatter_add_(1, indices, -torch.minimum(limits[-1], own))
        if number == 1:
            space.relu_()  # the second particle takes back what the first has too much
    share = torch.minimum(torch.stack(limits, 1), alpha).unsqueeze(2)
    layers = torch.cat([share * colour, share], 2).transpose(1, 2).flatten(2)
    index = pixel.flatten(1).unsqueeze(1).expand_as(layers)
    image = layers.new_zeros(batch, 4, wide**2).scatter_add(2, index, layers)
    image, space = (
        whole.view(batch, -1, wide, wide)[..., margin:-margin, margin:-margin]
        for whole in (image, space)
    )
    # The space left decides what is full: it is then exactly 0. The sum of the shares, rounded in
    # another order, may be off by an ulp, and a clamp of it would stop gradients at random.
    total, filled = image[:, 3:], 1 - space
    partly = (filled > 0) & (filled < 1)
    covered = torch.where(partly, filled + (total - total.detach()), filled.clamp(0, 1))
    return image[:, :3], covered


def _placed(patches: Tensor, points: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Resample patches on the pixels of the image, and return the indices of those pixels.

    A patch of side g that lies between pixels covers g + 1 of them along a side. The indices count
    row by row in the image with a margin of g + 1 pixels around it, on which all that lies outside
    of the image falls.

    Args:
        patches: [B, K, C, g, g].
        points: [B, K, 2], centres of the patches.
        side: side of the image, pixels.

    Returns:
        The resampled patches [B, K, C, (g + 1)^2], and the indices [B, K, (g + 1)^2], int64.
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
    """A layer of PointNet++: message passing between near points (Qi et al., NeurIPS 2017).

    Point i gets the maximum of mlp([h_j, p_j - p_i]) over its nearest neighbours j, itself among
    them. The first linear layer is applied to the points rather than to the edges, which gives the
    same result with a tenth of the work.

    Args:
        before: features of a point.
        after: features of a point afterwards.
        neighbours: neighbours of a point; all points, if there are fewer.
    """

    def __init__(self, before: int, after: int, neighbours: int = 10) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.first = nn.Linear(before + 2, after)
        self.rest = nn.Sequential(
            nn.BatchNorm1d(after), nn.ReLU(), nn.Linear(after, after), nn.BatchNorm1d(after)
        )

    def forward(self, h: Tensor, points: Tensor) -> Tensor:
        """Pass messages between points: h [B, N, before], points [B, N, 2] -> [B, N, after]."""
        batch, n, width = *h.shape[:2], self.first.out_features
        k = min(self.neighbours, n)
        distance = (points.unsqueeze(1) - points.unsqueeze(2)).square().sum(-1)
        near = distance.topk(k, -1, largest=False).indices
        position = points @ self.first.weight[:, -2:].T
        messages = self.first(torch.cat([h, points], -1))
        index = near.view(batch, n * k, 1).expand(-1, -1, width)
        edges = messages.gather(1, index).view(batch, n, k, width) - position.unsqueeze(2)
        return self.rest(edges.view(-1, width)).view(batch, n, k, width).amax(2)


def conv_block(before: int, after: int, kernel: int, stride: int, slope: float) -> nn.Sequential:
    """Return a convolution with replicate padding and no bias, BatchNorm, and LeakyReLU."""
    conv = ReplicateConv(before, after, kernel, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.LeakyReLU(slope, inplace=True))


class ReplicateConv(nn.Conv2d):
    """A convolution with replicate padding.

    The padding runs outside of autocast. On a CPU, autocast would convert it to float32 and keep
    the copy for the backward pass, although padding computes nothing.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve maps: [B, before, H, W] -> [B, after, H / stride, W / stride]."""
        with exact(input):
            padded = F.pad(input, [self.kernel_size[0] // 2] * 4, mode="replicate")
        return super().forward(padded)


def encoder(widths: tuple[int, ...], maps: int, kernel: int) -> nn.Sequential:
    """Return convolutions from RGB to `maps` maps; every width after the first halves the side.

    The first convolution has side `kernel`, the last 1, all others 3.
    """
    blocks = [conv_block(3, widths[0], kernel, 1, 0), conv_block(widths[0], widths[0], 3, 1, 0)]
    for before, after in pairwise(widths):
        blocks += [conv_block(before, after, 3, 2, 0), conv_block(after, after, 3, 1, 0)]
    return nn.Sequential(*blocks, nn.Conv2d(widths[-1], maps, 1))


def decoder(before: int, widths: tuple[int, ...], out: int) -> nn.Sequential:
    """Return convolutions to `out` maps that double the side after every width but the last.

    A 1x1 convolution gives the maps.
    """
    layers: list[nn.Module] = []
    for after in widths:
        layers += [conv_block(before, after, 3, 1, 0.01), Double()]
        before = after
    return nn.Sequential(*layers[:-1], nn.Conv2d(before, out, 1))


def enlarger(channels: int, doublings: int) -> nn.Sequential:
    """Return convolutions that keep the channels, each followed by doubling the side."""
    layers: list[nn.Module] = []
    for _ in range(doublings):
        layers += [conv_block(channels, channels, 3, 1, 0.01), Double()]
    return nn.Sequential(*layers)


class Double(nn.Module):
    """Bilinear upsampling to twice the side, in the precision of the maps."""

    def forward(self, maps: Tensor) -> Tensor:
        """Upsample maps: [B, C, H, W] -> [B, C, 2H, 2W]."""
        with exact(maps):
            return F.interpolate(maps, scale_factor=2, mode="bilinear")


def mlp(before: int, after: int) -> nn.Sequential:
    """Return linear layers from `before` to 256, 128 and `after` features, with ReLU between."""
    return nn.Sequential(
        nn.Linear(before, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, after)
    )
