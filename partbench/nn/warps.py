"""The warps of SCOPS and of unsupervised parts: a bent lattice, rotated, scaled and shifted."""

import torch
from pydantic import Field
from torch import Tensor

from partbench.nn.shared_batch import own, whole
from partbench.nn.tps import ThinPlateSpline, similarity
from partbench.settings import Settings


class WarpSettings(Settings):
    """Limits of the uniform draws of a warp's parameters."""

    tps: float = Field(
        0.01, ge=0, description="largest displacement of the warps' 5 x 5 control points"
    )
    rotation: float = Field(60.0, ge=0, description="largest rotation, degrees")
    scale: tuple[float, float] = Field(
        (0.7, 2.0), description="smallest and largest magnification; its inverse is uniform"
    )
    translation: float = Field(0.1, ge=0, description="largest translation, in halves of the side")


def draw_bent(warps: ThinPlateSpline, s: WarpSettings, n: int) -> Tensor:
    """Draw n random warps with C control points; return their weights, [n, C + 3, 2]."""
    bend, turn, size, shift = (
        own(torch.rand(whole(n), *shape, device=warps.control.device))
        for shape in ((len(warps.control), 2), (), (), (2,))
    )
    near, far = 1 / s.scale[1], 1 / s.scale[0]
    return bent_similarity(
        warps,
        s.tps * (2 * bend - 1),
        s.rotation * (2 * turn - 1),
        near + (far - near) * size,
        s.translation * (2 * shift - 1),
    )


def bent_similarity(
    warps: ThinPlateSpline, bend: Tensor, angle: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """Return the weights of warps that bend, rotate, scale and shift the control points.

    At a control point c, the warped image shows the original at scale * R(angle) (c + bend) +
    shift. Between control points the thin-plate spline interpolates.

    Args:
        warps: the spline, with C control points.
        bend: [n, C, 2], row by row, in halves of the side.
        angle: [n], degrees; a positive angle turns x towards y.
        scale: [n].
        shift: [n, 2], in halves of the side.

    Returns:
        [n, C + 3, 2].
    """
    rigid = similarity(bend[:, :0], -torch.deg2rad(angle), scale, shift)
    return warps.interpolate(rigid[:, :1] + (warps.control + bend) @ rigid[:, 1:])
