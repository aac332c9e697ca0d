"""Floor control: the pixels themselves."""

from torch import Tensor

from partbench.method import StepFreeMethod


class RawPixels(StepFreeMethod):
    """The image itself as a feature vector."""

    VARIANTS = {"indoor67": {"normalize": "half"}}
    role = "floor"
    random = False

    def features(self, images: Tensor) -> Tensor:
        """Return the flattened image, [B, 3 * S * S]."""
        return self.normalize(images).flatten(1)
