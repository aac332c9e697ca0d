"""Deep Feature Factorization for concept discovery (Collins, Achanta, Suesstrunk, ECCV 2018).

The activations of a trained network at every cell of every image of the collection are the rows
of one non-negative matrix, which is factorised as W H. The rows of H are K parts in terms of the
network's activations, and W is the amount of each part at each cell. There are no training steps.
Settings and details follow the authors' code at commit a8161ed.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from partbench.data.batch import Batch
from partbench.deviations import Deviation
from partbench.errors import BadInput
from partbench.files import explained
from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.nn.descriptors import describe
from partbench.nn.nmf import Solver, ahead, factorise, initial
from partbench.nn.perceptual import Features, Perceptual, fetched
from partbench.outputs.part_maps import PartMaps, strongest

LAYERS: dict[str, tuple[int]] = {
    "vgg16": (29,),
    "vgg19": (35,),
    "mobilenet": (11,),
    "random": (7,),
}
"""The activations that are factorised.

- VGG: the last before the last pooling, at stride 16.
- MobileNet: the last block at stride 16.
- The random network: the last, at stride 4.
"""
CHANNELS = {"vgg16": 512, "vgg19": 512, "mobilenet": 128, "random": 64}
"""Channels of these activations."""
ROWS = 4096
"""Rows of a block: 8 MiB of VGG19's activations, which stay in the cache for both products."""


class DFFSettings(StepFreeSettings):
    """The published settings."""

    k: int = Field(4, ge=1, description="K, number of factors (parts)")
    perceptual: Features = Field(
        "vgg19",
        description="network whose activations are factorised; negative ones, as leaky ReLUs "
        "give, count as 0",
    )
    side: int | None = Field(
        224,
        ge=32,
        description="shorter side to which images are resized, pixels; none: no resizing",
    )
    solver: Solver = Field(
        "multiplicative",
        description="hals minimises the same objective with fewer readings of the activations, "
        "and starts with a sixteenth of them",
    )
    updates: int = Field(200, ge=1, description="largest number of updates of both factors")
    tolerance: float = Field(
        1e-4,
        ge=0,
        description="updates stop when 10 of them have lowered the error by less than this share "
        "of the first error",
    )
    updates_apart: int = Field(
        100,
        ge=1,
        description="updates of W for the part maps of an image, always as many; the code "
        "applies its stop rule to all new images together, which would make the maps of an image "
        "depend on the other images",
    )
    batch_size: int = Field(32, ge=1, description="images described at once")


class DFF(StepFreeMethod):
    """DFF; variant `k8` has twice as many factors, and `hals` uses the faster solver."""

    Settings = DFFSettings
    VARIANTS = {"k8": {"k": 8}, "hals": {"solver": "hals"}}
    REDUCED = {
        "demo": {"perceptual": "random", "side": None},
        "subset": {"perceptual": "mobilenet", "side": None},
    }
    paper = "unsup_parts"
    references = ("collins2018dff",)
    deviations = (
        Deviation(
            "For the maps of new images, the code updates W until its stop rule holds for all of "
            "them together; here an image has 100 updates, whatever the other images are.",
            "the authors' code",
            "Small: W has converged by then.",
        ),
        Deviation(
            "W and H are found by alternating one row at a time, a faster way to the same "
            "objective than their multiplicative updates.",
            "the authors' code",
            "Small: an error as low, at another of its minima.",
            variants=("hals",),
        ),
        Deviation(
            "Which images they factorised together is not stated; here the training images, and "
            "test images are given the factors found.",
            "nowhere at hand; the numbers are those of Choudhury et al. (2021)",
            "Small.",
        ),
    )

    def __init__(self, settings: DFFSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        self.perceptual = Perceptual(s.perceptual, LAYERS[s.perceptual], normalize=True)
        self.register_buffer("factors", torch.zeros(s.k, CHANNELS[s.perceptual]))

    factors: Tensor
    """H, [K, C]."""

    @classmethod
    def weights(cls, settings: DFFSettings) -> tuple[str, ...]:
        """Return the network whose activations are factorised, if it is to be fetched."""
        return fetched(settings.perceptual)

    def activations(self, images: Tensor) -> Tensor:
        """Return the activations of images [B, 3, S, S], [B, C, h, w]; negative ones become 0.

        Raises:
            BadInput: an activation is not finite.
        """
        activations = describe(self.perceptual, images, self.settings.side).relu()
        if not activations.is_meta and not activations.isfinite().all():
            raise BadInput(
                f"dff: activations of {self.settings.perceptual} are not finite; check its weights "
                "and the images"
            )
        return activations

    @torch.no_grad()
    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Factorise the activations of the whole split.

        A temporary file holds them, 2.4 GB for 5994 images at 224 px, in the folder that the
        environment variable TMPDIR names. Each update reads it once.

        Raises:
            BadInput: there are fewer cells than factors, no activation is positive, one is not
                finite, or the disk is full.
        """
        s = self.settings
        folder = Path(tempfile.gettempdir())
        with explained(folder), tempfile.TemporaryFile(dir=folder) as file:
            for batch in passes():
                rows = self.activations(batch.images).permute(0, 2, 3, 1).flatten(0, 2)
                rows.cpu().numpy().tofile(file)
            file.flush()
            v = np.memmap(file, np.float32, mode="r+").reshape(-1, self.factors.shape[1])
            if len(v) < s.k:
                raise BadInput(
                    f"dff cannot find {s.k} factors in the {len(v)} cells of the training split; "
                    "lower `k` or use more images"
                )
            blocks = OnDevice(v, self.factors.device)
            w, h = initial(blocks, s.k)
            if not h.any():
                raise BadInput(
                    f"dff: no activation of {s.perceptual} is positive; check its weights and the "
                    "images"
                )
            if s.solver == "hals":
                h = ahead(blocks, w, h)
            result = factorise(
                blocks, w, h, updates=s.updates, tolerance=s.tolerance, solver=s.solver
            )
            self.factors.copy_(result.h)

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return the share of each factor at each pixel, and the factor with the largest share.

        With H fixed, the W of each cell is a problem of its own. All cells start from equal weights
        and make the same number of updates, so that the maps of an image do not depend on its
        batch. As published, each map is upsampled bilinearly to the image and divided by its
        maximum over the image.
        """
        v = self.activations(images)
        batch, width, height, across = v.shape
        rows = v.permute(0, 2, 3, 1).reshape(-1, width)
        s, h = self.settings, self.factors
        equal = torch.ones(len(rows), s.k, device=rows.device)
        w = factorise(
            [rows], equal, h, updates=s.updates_apart, tolerance=0, solver=s.solver, fixed=True
        ).w
        maps = w.view(batch, height, across, -1).permute(0, 3, 1, 2)
        heat = F.interpolate(maps, images.shape[2:], mode="bilinear")
        heat = heat / heat.amax((2, 3), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)
        total = heat.sum(1, keepdim=True)
        shares = torch.where(total > 0, heat / total, 1 / s.k)
        return PartMaps(shares, strongest(heat))


class OnDevice(Sequence[Tensor]):
    """The rows of a memory map in blocks, which move to the device when they are read."""

    def __init__(self, v: NDArray[np.float32], device: torch.device) -> None:
        self.blocks, self.device = torch.from_numpy(v).split(ROWS), device

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: Any) -> Any:
        return self.blocks[index].to(self.device)
