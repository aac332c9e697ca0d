"""Generated images: one for each image of a batch, from noise or from the images themselves."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.batch import Batch
from partbench.data.loader import to_float
from partbench.data.neighbours import QUADRANTS, candidates
from partbench.data.prepared import Split
from partbench.errors import BadInput
from partbench.files import create_array
from partbench.outputs.arrays import PICTURES, Arrays, read_images, to_bytes
from partbench.outputs.capability import Capability, call_of, check_tensor
from partbench.progress import Progress

BATCH = 128
"""Images generated at once."""


class HasGeneratedImages(Protocol):
    """A method that generates images."""

    def generate(self, batch: Batch) -> Tensor:
        """Return an image for each image of the batch: [B, 3, S, S] in [0, 1].

        Random draws come from torch's global generator. A method that generates from noise takes
        only the size of the batch.
        """


class Pictures(NamedTuple):
    """Images that a run generated."""

    images: NDArray[np.uint8]
    """[n, S, S, 3]."""

    @classmethod
    def read(cls, arrays: Arrays) -> Self | None:
        """Return the pictures, None if the arrays hold none."""
        images = read_images(arrays, "generated")
        return None if images is None else cls(images)


class GeneratedImages(Capability):
    """Images that a method makes."""

    offer = HasGeneratedImages
    member = "generate"

    def check(self, method: HasGeneratedImages, samples: Tensor) -> None:
        """Check two generated images; see `Capability.check`."""
        _check(method, method.generate(trial_batch(samples)), len(samples))

    def draw(
        self, method: HasGeneratedImages, split: Split, device: torch.device
    ) -> dict[str, NDArray[Any]]:
        """Return `generated`, uint8 [n, S, S, 3]."""
        batch = first_batch(method, split, device)
        return {} if batch is None else {"generated": to_bytes(method.generate(batch))}


def trial_batch(samples: Tensor) -> Batch:
    """Return a batch to try a method on: each sample's candidates are itself."""
    similar = samples[:, None].expand(-1, QUADRANTS, -1, -1, -1)
    distances = torch.arange(float(QUADRANTS), device=samples.device)
    return Batch(samples, None, candidates=similar, distances=distances.expand(len(samples), -1))


def first_batch(method: Any, split: Split, device: torch.device) -> Batch | None:
    """Return the batch that is pictured, with candidates as torch's seed says.

    None if the method learns from neighbours, and the split has none.
    """
    if method.learns_from == "neighbours" and not split.has("neighbours"):
        return None
    rows = np.arange(min(PICTURES, len(split)))
    return batch_of(method, split, rows, torch.initial_seed(), device)


def seed_of(seed: int, number: int) -> int:
    """Return the seed of a batch of generated images, from a run's seed and the batch's number."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def batch_of(
    method: Any, split: Split, rows: NDArray[np.intp], seed: int, device: torch.device
) -> Batch:
    """Return the batch of some rows of a split from which a method generates images.

    Raises:
        BadInput: the method learns from neighbours, and the split has none.
    """
    images = to_float(torch.from_numpy(split.images[rows]).to(device))
    if method.learns_from != "neighbours":
        return Batch(images, None)
    similar, distances = candidates(split, rows.tolist(), method.settings, seed, device)
    return Batch(images, None, candidates=similar, distances=distances)


def write(
    method: HasGeneratedImages,
    split: Split,
    n: int,
    path: Path,
    seed: int,
    device: torch.device,
    label: str,
    stretched: bool = False,
) -> NDArray[np.uint8]:
    """Write n generated images to a file, batch by batch; return it as a memory map.

    Image i is made from row i of the split; beyond its last row, the split is gone through again.
    Every batch has a seed of its own, so its images do not depend on those before.

    Args:
        method: in eval mode.
        split: the data.
        n: images to generate.
        path: npy file to write.
        seed: of all draws.
        device: of the method.
        label: of the progress shown.
        stretched: whether to stretch the contrast of each image to the whole range, from its least
            value to its greatest over all channels, as scipy.misc.imsave did.

    Returns:
        uint8 [n, S, S, 3].

    Raises:
        BadInput: what the method returns is not finite, not in [0, 1] or of another shape.
    """
    images: NDArray[np.uint8] | None = None
    with Progress(label, n, "images") as progress:
        for number, start in enumerate(range(0, n, BATCH)):
            seeded = seed_of(seed, number)
            torch.manual_seed(seeded)
            rows = np.arange(start, min(start + BATCH, n))
            with torch.inference_mode():
                made = method.generate(
                    batch_of(method, split, rows % len(split), seeded, device)
                ).float()
            _check(method, made, len(rows))
            if images is None:
                images = create_array(path, np.uint8, (n, *made.shape[2:], 3))
            elif made.shape[2:] != images.shape[1:3]:
                raise BadInput(
                    f"{call_of(method, 'generate')} returns images of {list(made.shape[2:])} "
                    f"pixels after images of {list(images.shape[1:3])}; let all have one size"
                )
            images[rows] = to_bytes(_stretched(made) if stretched else made.clamp(0, 1))
            progress.advance(len(rows))
    if images is None:
        raise BadInput(f"{label}: no image is asked for; ask for one or more")
    return images


def _stretched(images: Tensor) -> Tensor:
    least, greatest = images.amin((1, 2, 3), True), images.amax((1, 2, 3), True)
    return (images - least) / (greatest - least).clamp(min=torch.finfo(images.dtype).tiny)


def _check(method: HasGeneratedImages, images: Any, n: int) -> None:
    what = call_of(method, "generate(batch)")
    if isinstance(images, Tensor) and not images.isfinite().all():
        raise BadInput(f"{what}: generated images are not finite; the training diverged, repeat it")
    check_tensor(images, what, (n, 3, "S", "S"), low=0, high=1)
