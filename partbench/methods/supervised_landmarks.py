"""Ceiling control: the annotated landmarks, regressed by an encoder of KeyNet's size."""

from collections import OrderedDict

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from partbench.coordinates import Frame, of_cells, window_of
from partbench.data.batch import Batch
from partbench.errors import BadInput
from partbench.method import DataInfo, Method, MethodSettings
from partbench.nn.shared_batch import total
from partbench.outputs.keypoints import Keypoints
from partbench.training_protocols import PROTOCOLS

STRIDE = 8
"""Pixels per cell of the heat maps."""


class SupervisedLandmarksSettings(MethodSettings):
    """The encoder of KeyNet's paper at 128 px, and Adam."""

    width: int = Field(32, ge=1, description="channels at full resolution; they double three times")
    margin: int = Field(
        0,
        ge=0,
        description="pixels of the prepared image cut off on each side, as in the methods it is "
        "compared with, whose training warps need it",
    )
    epochs: int = Field(100, ge=0)
    batch_size: int = Field(50, ge=1, description="images per step, over all processes")
    learning_rate: float = Field(1e-3, gt=0, description="Adam, constant")


def soft_argmax(heat: Tensor) -> Tensor:
    """Return the expected coordinates under the softmax of each heat map.

    Args:
        heat: [B, L, h, w], logits.

    Returns:
        [B, L, 2], (x, y); -1 and 1 are the centres of the outermost cells.
    """
    height, width = heat.shape[2:]
    probability = heat.flatten(2).softmax(2).view_as(heat)
    x = torch.linspace(-1, 1, width, device=heat.device)
    y = torch.linspace(-1, 1, height, device=heat.device)
    # Sums of products, because autocast would round `@` to bfloat16.
    return torch.stack([(probability.sum(2) * x).sum(2), (probability.sum(3) * y).sum(2)], -1)


def encoder(width: int) -> nn.Sequential:
    """Return KeyNet's encoder (Jakab et al. 2018): [B, 3, S, S] -> [B, 8 * width, S / 8, S / 8].

    It has eight convolutions with BatchNorm and ReLU, two at each of four resolutions. The first
    is 7 x 7, the others are 3 x 3.
    """
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    inner = 3
    for stage in range(4):
        outer = width * 2**stage
        stages[f"stage{stage + 1}"] = nn.Sequential(
            *_layer(inner, outer, 3 if stage else 7, 2 if stage else 1),
            *_layer(outer, outer, 3, 1),
        )
        inner = outer
    return nn.Sequential(stages)


def _layer(inner: int, outer: int, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outer), nn.ReLU(inplace=True)]


class SupervisedLandmarks(Method):
    """One heat map per landmark, trained on the annotations."""

    Settings = SupervisedLandmarksSettings
    VARIANTS = {"mafl": {**PROTOCOLS["mafl"], "margin": 16}, "untrained": {"epochs": 0}}
    REDUCED = {
        "demo": {"width": 8, "epochs": 4, "batch_size": 32, "learning_rate": 6e-3},
        "subset": {"margin": 8, "width": 16, "epochs": 10, "learning_rate": 3e-3},
    }
    role = "ceiling"
    references = ("jakab2018keynet",)
    several_devices = True
    learns_from = "landmarks"

    def __init__(self, settings: SupervisedLandmarksSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        window = window_of(data.size, s.margin)
        if window % STRIDE or window < 2 * STRIDE:
            raise BadInput(
                f"supervised_landmarks sees {window} x {window} pixels (`size` {data.size} less "
                f"`margin` {s.margin} on each side), but needs a multiple of {STRIDE}, "
                f"{2 * STRIDE} or more; change `size` or `margin`"
            )
        self._frame = of_cells(data.size, window // STRIDE, s.margin)
        self.encoder = encoder(s.width)
        self.heat = nn.Conv2d(8 * s.width, data.landmarks, 1)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the squared distance of the visible landmarks, averaged over them."""
        assert batch.landmarks is not None  # the training loop checks it
        target, visible = self._frame.from_pixels(batch.landmarks[..., :2]), batch.landmarks[..., 2]
        difference = self.keypoints(batch.images).points - target
        # Masked before it is squared, because hidden landmarks may hold anything, even NaN.
        difference = torch.where(visible[..., None] > 0, difference, 0)
        error = difference.square().sum(2)
        return {"loss": total(error.sum()) / total(visible.sum()).clamp(min=1)}

    def optimizers(self) -> dict[str, Optimizer]:
        """Return one Adam for all parameters."""
        return {"all": Adam(self.parameters(), self.settings.learning_rate)}

    def frame(self) -> Frame:
        """Return the frame whose -1 and 1 are the centres of the outermost cells."""
        return self._frame

    def keypoints(self, images: Tensor) -> Keypoints:
        """Return the predicted landmarks, [B, L, 2]."""
        heat = self.heat(self.encoder(self.normalize(self._frame.cut(images))))
        return Keypoints(soft_argmax(heat.float()))
