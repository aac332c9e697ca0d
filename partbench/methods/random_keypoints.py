"""Floor control: random keypoints, which ignore the image."""

import torch
from pydantic import Field
from torch import Tensor

from partbench.coordinates import Frame, of_borders
from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.outputs.keypoints import Keypoints
from partbench.training_protocols import PROTOCOLS


class RandomKeypointsSettings(StepFreeSettings):
    """The number of keypoints, and their window."""

    k: int = Field(30, ge=1, description="number of keypoints")
    margin: int = Field(
        0,
        ge=0,
        description="pixels of the prepared image cut off on each side, as in the methods it is "
        "compared with, whose training warps need it",
    )


class RandomKeypoints(StepFreeMethod):
    """K points that are drawn for each image, uniformly over the window."""

    Settings = RandomKeypointsSettings
    VARIANTS = {
        "k10": {"k": 10},
        "k30": {},
        "k50": {"k": 50},
        "mafl": {**PROTOCOLS["mafl"], "margin": 16},
    }
    REDUCED = {"demo": {"k": 10}, "subset": {"margin": 8}}
    role = "floor"

    def __init__(self, settings: RandomKeypointsSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        self._frame = of_borders(data.size, settings.margin)

    def frame(self) -> Frame:
        """Return the frame whose -1 and 1 are the borders of the window."""
        return self._frame

    def keypoints(self, images: Tensor) -> Keypoints:
        """Draw points from torch's global generator, [B, K, 2] in [-1, 1)."""
        points = torch.rand(len(images), self.settings.k, 2, device=images.device)
        return Keypoints(2 * points - 1)
