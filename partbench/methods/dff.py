"""Deep Feature Factorization for concept discovery (Collins, Achanta, Suesstrunk, ECCV 2018).

The activations of a trained network at every cell of every image of the collection are the rows
of one non-negative matrix, which is factorised as W H: H holds K parts as the network describes
them, W says how much of each is at each cell. Nothing is learnt by steps. Facts: the authors' code
at commit a8161ed.
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
from partbench.errors import BadInput
from partbench.files import explained
from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.nn.descriptors import describe
from partbench.nn.nmf import Solver, ahead, factorise, initial
from partbench.nn.perceptual import Features, Perceptual, fetched
from partbench.outputs.part_maps import PartMaps

LAYERS: dict[str, tuple[int]] = {
    "vgg16": (29,),
    "vgg19": (35,),
    "mobilenet": (11,),
    "random": (7,),
}
"""VGG's last before its last pooling and MobileNet's last block of the same stride, 16 px; of the
random network the last, of stride 4."""
CHANNELS = {"vgg16": 512, "vgg19": 512, "mobilenet": 128, "random": 64}
"""There."""
ROWS = 4096
"""Of a block: 8 MiB of VGG19's activations, so that they are in the cache for both products."""


class DFFSettings(StepFreeSettings):
    """The published settings."""

    k: int = Field(4, ge=1, description="K, number of factors")
    perceptual: Features = Field(
        "vgg19",
        description="network whose activations are factorised; what is negative, as a leaky "
        "activation may be, counts as 0",
    )
    side: int | None = Field(
        224, ge=32, description="pixels that the network sees; none: those of the prepared images"
    )
    solver: Solver = Field(
        "multiplicative",
        description="hals: the same objective, with fewer readings of the activations; it begins "
        "with a sixteenth of them",
    )
    updates: int = Field(200, ge=1, description="of both factors, at most")
    tolerance: float = Field(
        1e-4,
        ge=0,
        description="updates end when the error has fallen, in 10 of them, by less than this "
        "share of the first",
    )
    updates_apart: int = Field(
        100,
        ge=1,
        description="of the weights of an image when its parts are asked for; the code applies "
        "its stop rule to all new images together, which would make one image's maps depend on "
        "the others'",
    )
    batch_size: int = Field(32, ge=1, description="images described at once")


class DFF(StepFreeMethod):
    """DFF; `k8` with twice as many factors, `hals` with the faster solver."""

    Settings = DFFSettings
    VARIANTS = {"k8": {"k": 8}, "hals": {"solver": "hals"}}
    REDUCED = {
        "demo": {"perceptual": "random", "side": None},
        "subset": {"perceptual": "mobilenet", "side": None},
    }
    paper = "unsup_parts"

    def __init__(self, settings: DFFSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        self.perceptual = Perceptual(s.perceptual, LAYERS[s.perceptual], normalize=True)
        self.register_buffer("factors", torch.zeros(s.k, CHANNELS[s.perceptual]))

    factors: Tensor
    """H, [K, C]."""

    @classmethod
    def weights(cls, settings: DFFSettings) -> tuple[str, ...]:
        """Return the network whose activations are factorised."""
        return fetched(settings.perceptual)

    def activations(self, images: Tensor) -> Tensor:
        """Return what is factorised of images [B, 3, S, S]: [B, C, h, w], at least 0.

        Raises:
            BadInput: they are not finite.
        """
        found = describe(self.perceptual, images, self.settings.side).relu()
        if not found.is_meta and not found.isfinite().all():
            raise BadInput(
                f"dff: activations of {self.settings.perceptual} are not finite; look at its "
                "weights and at the images"
            )
        return found

    @torch.no_grad()
    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Factorise the activations of the whole split.

        They lie in a temporary file, of 2.4 GB for 5994 images at 224 px (the environment variable
        TMPDIR says where), and are read once an update.

        Raises:
            BadInput: there are fewer cells than factors, no activation is positive, one is not
                finite, or the disk is full.
        """
        s = self.settings
        where = Path(tempfile.gettempdir())
        with explained(where), tempfile.TemporaryFile(dir=where) as file:
            for batch in passes():
                rows = self.activations(batch.images).permute(0, 2, 3, 1).flatten(0, 2)
                rows.cpu().numpy().tofile(file)
            file.flush()
            v = np.memmap(file, np.float32, mode="r+").reshape(-1, self.factors.shape[1])
            if len(v) < s.k:
                raise BadInput(
                    f"dff: {s.k} factors of {len(v)} cells, all of the training split's; "
                    "lower `k` or give it more images"
                )
            blocks = OnDevice(v, self.factors.device)
            w, h = initial(blocks, s.k)
            if not h.any():
                raise BadInput(
                    f"dff: no activation of {s.perceptual} is positive; look at its weights and "
                    "at the images"
                )
            if s.solver == "hals":
                h = ahead(blocks, w, h)
            found = factorise(
                blocks, w, h, updates=s.updates, tolerance=s.tolerance, solver=s.solver
            )
            self.factors.copy_(found.h)

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return how much of each factor is where, as shares, and the largest.

        With H fixed, the W of each cell is a problem of its own: all begin even and make the same
        number of updates, so that no image's maps depend on its batch. Brought to the image
        bilinearly, each map is divided by its maximum over the image, as published.
        """
        v = self.activations(images)
        batch, width, height, across = v.shape
        rows = v.permute(0, 2, 3, 1).reshape(-1, width)
        s, h = self.settings, self.factors
        even = torch.ones(len(rows), s.k, device=rows.device)
        w = factorise(
            [rows], even, h, updates=s.updates_apart, tolerance=0, solver=s.solver, fixed=True
        ).w
        maps = w.view(batch, height, across, -1).permute(0, 3, 1, 2)
        heat = F.interpolate(maps, images.shape[2:], mode="bilinear")
        heat = heat / heat.amax((2, 3), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)
        total = heat.sum(1, keepdim=True)
        shares = torch.where(total > 0, heat / total, 1 / s.k)
        return PartMaps(shares, heat.argmax(1))


class OnDevice(Sequence[Tensor]):
    """The rows of a memory map in blocks, each moved to the device when it is read."""

    def __init__(self, v: NDArray[np.float32], device: torch.device) -> None:
        self.blocks, self.device = torch.from_numpy(v).split(ROWS), device

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: Any) -> Any:
        return self.blocks[index].to(self.device)
