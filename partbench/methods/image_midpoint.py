"""Floor control of parts: the middle of the image, whatever it shows.

Of a square crop that is a constant. Of a whole image it tells where the object's box lies in it,
and from that the landmark regression of CUB predicts landmarks a little better than a constant.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from partbench.deviations import Deviation
from partbench.method import StepFreeMethod, StepFreeSettings
from partbench.outputs.part_maps import PartMaps, whole_image
from partbench.outputs.told_points import Annotated, Points


class ImageMidpointSettings(StepFreeSettings):
    """Whose middle."""

    rule: Literal["legacy", "plain"] = Field(
        "legacy",
        description="legacy: half of the height as x and half of the width as y, of the image "
        "before its border is cut, which alone gives the published errors; plain: the middle",
    )


class ImageMidpoint(StepFreeMethod):
    """One part, at the middle of each image; variant `plain` does not exchange x and y."""

    Settings = ImageMidpointSettings
    VARIANTS = {"plain": {"rule": "plain"}}
    REDUCED = {"demo": {}, "subset": {}}
    role = "floor"
    random: ClassVar[bool] = False
    learns_from = "landmarks"
    paper = "unsup_parts"
    references = ("choudhury2021parts",)
    deviations = (
        Deviation(
            "Which point is meant is not stated. Half of the height and half of the width, taken "
            "for x and y, give the published errors of CUB-001 to 003 to the printed digit; the "
            "middle itself gives 26.7, 26.1 and 26.4.",
            "nowhere at hand; found by trying",
            "None: it is the published number's own definition, as far as can be told.",
            unless=("plain",),
        ),
    )

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return one part that takes the whole image."""
        return whole_image(images)

    def told_points(self, about: Annotated) -> Points:
        """Return the middle of each image, [B, 1, 2]."""
        plain = self.settings.rule == "plain"
        middle = (about.extent - 1) / 2 if plain else about.uncut[:, ::-1] / 2
        return Points(middle[:, None].astype(np.float64), np.ones((len(middle), 1)))
