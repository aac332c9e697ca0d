"""Floor control of parts: the mean of the annotated keypoints of each image, of test images too."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from partbench.method import StepFreeMethod, StepFreeSettings
from partbench.metrics.cub import mean_keypoint
from partbench.outputs.part_maps import PartMaps, whole_image
from partbench.outputs.told_points import Annotated, Points


class GTKeypointMeanSettings(StepFreeSettings):
    """What invisible keypoints count for."""

    rule: Literal["legacy", "plain"] = Field(
        "legacy",
        description="legacy: an invisible keypoint is pixel (0, 0) of the image and counts, as in "
        "the published numbers; plain: it is left out",
    )


class GTKeypointMean(StepFreeMethod):
    """One part, at the mean of the keypoints; variant `plain` leaves out the invisible ones."""

    Settings = GTKeypointMeanSettings
    VARIANTS = {"plain": {"rule": "plain"}}
    REDUCED = {"demo": {}, "subset": {}}
    role = "floor"
    random: ClassVar[bool] = False
    learns_from = "landmarks"
    paper = "unsup_parts"
    references = ("choudhury2021parts",)

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return one part that takes the whole image."""
        return whole_image(images)

    def told_points(self, about: Annotated) -> Points:
        """Return the mean keypoint of each image, [B, 1, 2]; absent where none counts."""
        mean = mean_keypoint(about.landmarks, about.visible, self.settings.rule)
        counts = np.all(np.isfinite(mean), axis=2)
        centres = np.where(counts[..., None], mean, 0)
        return Points(centres, counts.astype(np.float64))
