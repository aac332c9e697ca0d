"""Floor control: a constant keypoint, from which least squares predicts the mean shape."""

import torch
from pydantic import Field
from torch import Tensor

from partbench.coordinates import Frame, of_borders
from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.outputs.keypoints import Keypoints
from partbench.training_protocols import PROTOCOLS


class MeanShapeSettings(StepFreeSettings):
    """The window of the keypoint."""

    margin: int = Field(
        0,
        ge=0,
        description="pixels of the prepared image cut off on each side, as in the methods it is "
        "compared with, whose training warps need it",
    )


class MeanShape(StepFreeMethod):
    """One keypoint in the same corner of every image.

    Its coordinates (1, 1) are a constant regressor. They give least squares an intercept even if
    the protocol has none.
    """

    Settings = MeanShapeSettings
    VARIANTS = {"mafl": {**PROTOCOLS["mafl"], "margin": 16}}
    REDUCED = {"demo": {}, "subset": {"margin": 8}}
    role = "floor"
    random = False

    def __init__(self, settings: MeanShapeSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        self._frame = of_borders(data.size, settings.margin)

    def frame(self) -> Frame:
        """Return the frame whose -1 and 1 are the borders of the window."""
        return self._frame

    def keypoints(self, images: Tensor) -> Keypoints:
        """Return the point (1, 1) for each image, [B, 1, 2]."""
        return Keypoints(torch.ones(len(images), 1, 2, device=images.device))
