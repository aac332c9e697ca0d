"""Mixed scenes: images of which some quadrants come from similar images. They are pictured only.

The scenes themselves are `generated_images`.
"""

from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.batch import Batch
from partbench.data.neighbours import QUADRANTS
from partbench.data.prepared import Split
from partbench.outputs.arrays import Arrays, read_images, to_bytes
from partbench.outputs.capability import Capability, call_of, check_tensor
from partbench.outputs.generated_images import HasGeneratedImages, first_batch, trial_batch


class HasMixedScenes(HasGeneratedImages, Protocol):
    """A method that replaces quadrants of images by those of candidates."""

    def replaced(self, batch: Batch) -> Tensor:
        """Return which quadrants of the images are replaced in `generate(batch)`: bool [B, 4]."""


class Pictures(NamedTuple):
    """What the first scenes of a run are mixed of."""

    kept: NDArray[np.uint8]
    """[n, S, S, 3], the originals with their replaced quadrants in grey."""
    candidates: NDArray[np.uint8]
    """[n, 4, S, S, 3]."""

    @classmethod
    def read(cls, arrays: Arrays) -> Self | None:
        """Return the pictures, None if the arrays hold none."""
        originals, replaced = read_images(arrays, "originals"), arrays.get("replaced")
        if originals is None or replaced is None or replaced.dtype != bool:
            return None
        candidates = []
        for i in range(QUADRANTS):
            images = read_images(arrays, f"candidates_{i}")
            if images is None or images.shape != originals.shape:
                return None
            candidates.append(images)
        if replaced.shape != (len(originals), QUADRANTS):
            return None
        half = -(-originals.shape[1] // 2)
        grey = replaced.reshape(-1, 2, 2).repeat(half, 1).repeat(half, 2)[..., None]
        kept = np.where(grey[:, : originals.shape[1], : originals.shape[2]], 128, originals)
        return cls(kept.astype(np.uint8), np.stack(candidates, 1))


class MixedScenes(Capability):
    """Scenes mixed of several images."""

    offer = HasMixedScenes
    member = "replaced"

    def check(self, method: HasMixedScenes, samples: Tensor) -> None:
        """Check which quadrants of two images are replaced; see `Capability.check`."""
        what = call_of(method, "replaced(batch)")
        found = method.replaced(trial_batch(samples))
        check_tensor(found, what, (len(samples), QUADRANTS), dtypes=(torch.bool,))

    def draw(
        self, method: HasMixedScenes, split: Split, device: torch.device
    ) -> dict[str, NDArray[Any]]:
        """Return `candidates_0` to `candidates_3`, uint8 [n, S, S, 3], and `replaced`."""
        batch = first_batch(method, split, device)
        if batch is None or batch.candidates is None:
            return {}
        quadrants = enumerate(batch.candidates.unbind(1))
        pictures = {f"candidates_{i}": to_bytes(images) for i, images in quadrants}
        return pictures | {"replaced": method.replaced(batch).cpu().numpy()}
