"""Floor control of parts: one annotated keypoint of each image, of test images too."""

from typing import ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from partbench.deviations import Deviation
from partbench.errors import BadInput
from partbench.method import StepFreeMethod, StepFreeSettings
from partbench.outputs.part_maps import PartMaps, whole_image
from partbench.outputs.told_points import Annotated, Points
from partbench.settings import nearest


class ThroatKeypointSettings(StepFreeSettings):
    """Which keypoint."""

    landmark: str = Field("throat", description="name of the landmark")


class ThroatKeypoint(StepFreeMethod):
    """One part, at the bird's throat; absent where that is not visible."""

    Settings = ThroatKeypointSettings
    REDUCED = {"demo": {"landmark": "nose"}}
    role = "floor"
    random: ClassVar[bool] = False
    learns_from = "landmarks"
    paper = "unsup_parts"
    references = ("choudhury2021parts",)
    deviations = (
        Deviation(
            "How one keypoint gives labels to the others, and so an NMI and an ARI, is not stated; "
            "here they all have the one part.",
            "nowhere at hand; the published values could not be reconstructed",
            "NMI and ARI are 0 here, and belong to no published row; landmark errors do.",
        ),
    )

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return one part that takes the whole image."""
        return whole_image(images)

    def told_points(self, about: Annotated) -> Points:
        """Return the keypoint of each image, [B, 1, 2].

        Raises:
            BadInput: the data set has no landmark of that name.
        """
        name = self.settings.landmark
        if name not in about.names:
            raise BadInput(
                f"throat_keypoint: the data set has no landmark '{name}'; "
                f"{nearest(name, about.names)}"
            )
        which = list(about.names).index(name)
        visible = about.visible[:, which : which + 1]
        points = np.where(visible[..., None], about.landmarks[:, which : which + 1], 0)
        return Points(points.astype(np.float64), visible.astype(np.float64))
