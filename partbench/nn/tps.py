"""Random thin-plate-spline warps, drawn and applied to a whole batch on the device.

A warp is a sampling grid: place p of the warped image shows place f(p) of the original, with
f(p) = sum_c w_c U(|p - c|^2) + t + A p over a square grid of control points c. Coordinates are
(x, y) from -1 to 1 between the centres of the outermost pixels (`align_corners=True`).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partbench.nn.precision import exact
from partbench.nn.shared_batch import own, whole


class Spread(NamedTuple):
    """Standard deviations of the parameters of a warp."""

    every: float
    """Of the weights of all control points."""
    half: float
    """Of those coordinates, half of them on average, whose weight is drawn again."""
    translation: float
    """In halves of the image's side."""
    scale: float
    """Around 1."""
    rotation: float
    """Degrees."""

    def times(self, factor: float) -> "Spread":
        """Return all standard deviations multiplied."""
        return Spread(*(factor * sd for sd in self))


STRONG = Spread(every=0.001, half=0.01, translation=0.1, scale=0.1, rotation=5.0)
"""The strong warp of DLP's pairs and of KeyNet's."""


class ThinPlateSpline(nn.Module):
    """Warps of images of one size.

    Of a rectangle both axes run from -1 to 1, as grid_sample has them: a rotation of these
    coordinates shears its pixels.

    Args:
        size: side of square images, or height and width of others, pixels.
        control: control points along a side.
    """

    def __init__(self, size: int | tuple[int, int], control: int = 10) -> None:
        super().__init__()
        self.size = size if isinstance(size, tuple) else (size, size)
        self.register_buffer("control", _lattice(control, control), persistent=False)
        self.register_buffer("basis", self._terms(_lattice(*self.size)), persistent=False)

    control: Tensor
    """[C, 2], row by row."""
    basis: Tensor
    """[H * W, C + 3], the terms at every pixel."""

    def _terms(self, points: Tensor) -> Tensor:
        """Return U to each control point, 1, x and y: [..., 2] -> [..., C + 3]."""
        squared = (points.unsqueeze(-2) - self.control).square().sum(-1)
        kernel = squared * (squared + 1e-5).log()
        return torch.cat([kernel, torch.ones_like(points[..., :1]), points], -1)

    def draw(self, n: int, spread: Spread) -> Tensor:
        """Return the weights of n random warps, [n, C + 3, 2]: w, then t, then A transposed."""
        shape, device = (whole(n), len(self.control), 2), self.control.device
        again = own(torch.rand(shape, device=device)) > 0.5
        every = spread.every * own(torch.randn(shape, device=device))
        half = spread.half * own(torch.randn(shape, device=device))
        weights = torch.where(again, half, every)
        angle, scale, *shift = own(torch.randn(whole(n), 4, device=device)).unbind(1)
        return similarity(
            weights,
            torch.deg2rad(spread.rotation * angle),
            1 + spread.scale * scale,
            spread.translation * torch.stack(shift, 1),
        )

    def interpolate(self, displacements: Tensor) -> Tensor:
        """Return the weights of the smoothest f with given values at the control points.

        Of all that pass through them, the thin-plate spline bends least: its w sum to 0 and have
        no moment (Bookstein, PAMI 1989). Add a `similarity` for a warp.

        Args:
            displacements: [n, C, 2], row by row.

        Returns:
            [n, C + 3, 2].
        """
        count = len(self.control)
        terms = self._terms(self.control)
        system = terms.new_zeros(count + 3, count + 3)
        system[:count] = terms
        system[count:, :count] = terms[:, count:].T
        values = F.pad(displacements, (0, 0, 0, 3)).permute(1, 0, 2).flatten(1)
        weights = torch.linalg.solve(system, values)
        return weights.unflatten(1, (-1, 2)).permute(1, 0, 2)

    def grid(self, weights: Tensor) -> Tensor:
        """Return the sampling grids of warps, [n, C + 3, 2] -> [n, H, W, 2]."""
        n = len(weights)
        # Pixel after pixel in memory, image by image: sampling at strided places is half as fast.
        with exact(weights):
            flat = weights.transpose(1, 2).reshape(2 * n, -1) @ self.basis.T
        return flat.view(n, 2, *self.size).permute(0, 2, 3, 1)

    def carry_back(self, points: Tensor, weights: Tensor) -> Tensor:
        """Return the places of the originals that places of the warped images show.

        Args:
            points: [n, M, 2], on the warped images.
            weights: [n, C + 3, 2].
        """
        return self._terms(points) @ weights


def similarity(weights: Tensor, angle: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return the weights of warps: control points' [n, C, 2], then shift and linear map.

    Args:
        weights: [n, C, 2].
        angle: [n], radians.
        scale: [n].
        shift: [n, 2].
    """
    cos, sin = scale * angle.cos(), scale * angle.sin()
    linear = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    return torch.cat([weights, shift.unsqueeze(1), linear], 1)


def warp(images: Tensor, grid: Tensor, align_corners: bool = True) -> Tensor:
    """Return images sampled bilinearly at grids; black outside. [n, C, H, W]."""
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=align_corners)


def nearest(maps: Tensor, grid: Tensor) -> Tensor:
    """Return maps sampled at the pixel nearest to grids; 0 outside. [n, C, H, W]."""
    return F.grid_sample(maps, grid, "nearest", padding_mode="zeros", align_corners=True)


def _lattice(height: int, width: int) -> Tensor:
    """Return the points (x, y) of a lattice on [-1, 1], [height * width, 2], row by row."""
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)
