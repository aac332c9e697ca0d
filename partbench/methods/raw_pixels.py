"""Floor control: the pixels themselves."""

from pydantic import Field
from torch import Tensor

from partbench.method import Batch, Method, MethodSettings


class RawPixelsSettings(MethodSettings):
    """No training."""

    epochs: int = Field(0, ge=0, le=0)


class RawPixels(Method):
    """The image as its own feature vector."""

    Settings = RawPixelsSettings
    VARIANTS = {"indoor67": {"normalize": "half"}}
    role = "floor"

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Not trained, so never called."""
        raise RuntimeError("raw_pixels has no loss")

    def features(self, images: Tensor) -> Tensor:
        """Return the flattened image, [B, 3 * S * S]."""
        return self.normalize(images).flatten(1)
