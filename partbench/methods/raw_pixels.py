"""Floor control: the pixels themselves."""

from torch import Tensor

from partbench.method import StepFreeMethod
from partbench.training_protocols import PROTOCOLS


class RawPixels(StepFreeMethod):
    """The image itself as a feature vector."""

    VARIANTS = {"indoor67": PROTOCOLS["indoor67"]}
    role = "floor"
    random = False

    def features(self, images: Tensor) -> Tensor:
        """Return the flattened image, [B, 3 * S * S]."""
        return self.normalize(images).flatten(1)
