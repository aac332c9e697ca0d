"""Movement: images decoded with one keypoint moved. It is pictured as an animation only."""

import math
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.prepared import Split
from partbench.outputs.arrays import Arrays, first_images, read_images, to_bytes
from partbench.outputs.capability import Capability, call_of, check_tensor
from partbench.outputs.keypoints import HasKeypoints

FRAMES = 16
REACH = 0.4
"""How far a particle goes to either side, in halves of the window's side."""


@runtime_checkable
class HasMovement(HasKeypoints, Protocol):
    """A method whose keypoints can be moved and decoded."""

    def move(self, images: Tensor, particle: int, shift: tuple[float, float]) -> Tensor:
        """Return images [B, 3, S, S] decoded with one keypoint moved: [B, 3, S', S'] in [0, 1].

        Args:
            images: in [0, 1].
            particle: which keypoint moves.
            shift: (x, y), in the method's own frame.
        """


class Pictures(NamedTuple):
    """An image whose surest particle moves."""

    frames: NDArray[np.uint8]
    """[FRAMES, S', S', 3]; the first is not moved."""

    @classmethod
    def read(cls, arrays: Arrays) -> Self | None:
        """Return the pictures, None if the arrays hold none."""
        frames = read_images(arrays, "moved")
        return None if frames is None else cls(frames)


class Movement(Capability):
    """Images with one keypoint moved."""

    offer = HasMovement
    member = "move"

    def check(self, method: HasMovement, samples: Tensor) -> None:
        """Check two images with the first keypoint moved; see `Capability.check`."""
        what = call_of(method, "move(images, 0, (0.1, 0.0))")
        shape = (len(samples), 3, "S'", "S'")
        check_tensor(method.move(samples, 0, (0.1, 0.0)), what, shape, low=0, high=1)

    def draw(
        self, method: HasMovement, split: Split, device: torch.device
    ) -> dict[str, NDArray[Any]]:
        """Return `moved`, uint8 [FRAMES, S', S', 3], of the first image."""
        first = first_images(split, device)[:1]
        return {"moved": sweep(method, first, surest(method, first))}


def sweep(
    method: HasMovement, image: Tensor, particle: int, reach: float = REACH
) -> NDArray[np.uint8]:
    """Return an image decoded with one particle going to the right, to the left, and back.

    Args:
        method: in eval mode.
        image: [1, 3, S, S], prepared.
        particle: which.
        reach: see `REACH`.

    Returns:
        [FRAMES, S', S', 3], S' the window's side; the first is not moved.
    """
    shifts = [reach * math.sin(2 * math.pi * t / FRAMES) for t in range(FRAMES)]
    with torch.inference_mode():
        return to_bytes(torch.cat([method.move(image, particle, (shift, 0.0)) for shift in shifts]))


def count(method: HasMovement, image: Tensor) -> int:
    """Return the number of particles of an image [1, 3, S, S], less the background's."""
    with torch.inference_mode():
        keypoints = method.keypoints(image)
    return keypoints.points.shape[1] - keypoints.background


def surest(method: HasMovement, image: Tensor) -> int:
    """Return the particle of an image [1, 3, S, S] whose place has the least variance.

    Without log-variances it is the first.
    """
    with torch.inference_mode():
        keypoints = method.keypoints(image)
    if keypoints.logvar is None:
        return 0
    logvar = keypoints.logvar[:, :-1] if keypoints.background else keypoints.logvar
    return int(logvar.sum(-1).argmin())
