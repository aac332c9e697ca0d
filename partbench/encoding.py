"""What all encodings of local activations share: one vector of all descriptors of an image or clip.

The activations of a network at the places of an image are its descriptors. An encoding makes one
vector of them, and normalises it. A clip has the descriptors of all its frames, and only the vector
of the whole clip is normalised.
"""

import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from partbench.data.batch import Batch
from partbench.errors import BadInput
from partbench.files import explained
from partbench.method import DataInfo, Method
from partbench.nn import activations
from partbench.nn.activations import ActivationSettings, Backbone, cut_window, describe
from partbench.nn.crops import ten_crops
from partbench.nn.flow import turned
from partbench.nn.pca import principal_components
from partbench.nn.sample import sample_rows

COMMON: Mapping[str, Mapping[str, Any]] = {
    "res5c": {"backbone": "resnet152", "layer": "res5c"},
    "birds": {"layer": "conv5_4", "window": None, "pyramid": False},
    "ten_crops": {"views": 10},
}
"""Variants that every encoding has; `birds` are the 28 x 28 activations of VGG-19 at 448 px: 784
descriptors."""
DEMO = {"backbone": "random", "layer": "stride4", "window": None, "block_norm": 64.0}
SUBSET = {"backbone": "mobilenet", "layer": "stride16", "window": None, "block_norm": 79.0}
AT_ONCE = 32
"""Frames described at once: VGG's first activations take 12 MiB each for one image at 224 px."""


class EncodingSettings(ActivationSettings):
    """The network, and what is done to the vectors; a method's settings add the others."""

    views: Literal[1, 10] = Field(
        1,
        description="squares of a frame that are described: the middle one, or the four corners, "
        "the middle and their mirror images, as if they were frames of their own",
    )
    compressed: int | None = Field(
        None,
        ge=1,
        description="numbers to which the vectors are compressed, by their principal components "
        "on the training data; none: not compressed",
    )


class Encoding(Method):
    """An encoding of a network's local activations."""

    reads = "frames"
    any_aspect = True

    def __init__(self, settings: Any, data: DataInfo) -> None:
        super().__init__(settings, data)
        if settings.window is not None and settings.window > data.size:
            raise BadInput(
                f"the images have {data.size} px, and `window` cuts out {settings.window}; prepare "
                "the data with a greater `size`, or lower `window`"
            )
        if settings.views > 1 and settings.window is None:
            raise BadInput(
                f"`views: {settings.views}` are squares cut out of a frame, and no `window` says "
                "how large they are; set it, such as 224"
            )
        self.channels = activations.channels_of(settings)
        self.backbone = Backbone(settings)

    @classmethod
    def weights(cls, settings: Any) -> tuple[str, ...]:
        """Return the network, if it is to be fetched."""
        return activations.fetched(settings)

    frozen_weights = weights

    @classmethod
    def pretrained_on(cls, settings: Any) -> str:
        """Return what the network was trained on."""
        return activations.pretrained_on(settings)

    def activations(self, images: Tensor) -> Tensor:
        """Return the activations of images [B, 3, S, S] in [0, 1]: [B, C, h, w]."""
        return self.backbone(images)

    def by_frame(self, images: Tensor) -> Tensor:
        """Return the descriptors of images or clips in [0, 1], [B, T, M, C].

        T counts frames, which an image has one of; outside of training steps, each of its `views`.

        Raises:
            BadInput: outside of training steps, one is not finite.
        """
        s = self.settings
        frames = images.flatten(0, 1) if images.ndim == 5 else images
        views = 1 if self.training else s.views
        if self.training:
            frames = cut_window(frames, s.window, at_random=True)
        described = []
        for some in frames.split(max(AT_ONCE // views, 1)):
            if views > 1:
                squares = ten_crops(some, s.window)
                if self.data.is_flow:
                    squares[:, 5:] = turned(squares[:, 5:])
                squares = squares.flatten(0, 1)
            else:
                squares = cut_window(some, s.window, at_random=False)
            described.append(describe(self.activations(squares), s.block_norm, s.pyramid))
        x = torch.cat(described)
        if not (self.training or x.is_meta or x.isfinite().all()):
            raise BadInput(
                f"activations of {s.backbone} are not finite; check its weights and the images"
            )
        return x.unflatten(0, (len(images), -1))

    def descriptors(self, images: Tensor) -> Tensor:
        """Return the descriptors of images, [B, M, C], or of all frames of clips, [B, T M, C]."""
        return self.by_frame(images).flatten(1, 2)

    def sample(self, passes: Callable[[], Iterator[Batch]], n: int, least: int) -> Tensor:
        """Draw n descriptors uniformly from the training split, [n, C] on the CPU.

        Raises:
            BadInput: there are fewer than `least`.
        """
        self.eval()
        drawn = sample_rows((self.by_frame(batch.images).flatten(0, 2) for batch in passes()), n)
        if len(drawn) < least:
            raise BadInput(
                f"{len(drawn)} descriptors of the training split cannot be described by {least} "
                "centres; ask for fewer, or use more images"
            )
        return drawn

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Return a vector of the descriptors [B, T, M, C] of each image or clip, [B, D]."""

    def normalised(self, vectors: Tensor) -> Tensor:
        """Return vectors [B, D] after a signed square root, of norm 1."""
        return F.normalize(vectors.sign() * vectors.abs().sqrt(), eps=1e-10)

    def encoded(self, images: Tensor) -> Tensor:
        """Return the normalised vectors of images or clips, [B, D]."""
        frames = self.settings.views * (images.shape[1] if images.ndim == 5 else 1)
        return torch.cat(
            [
                self.normalised(self.encode(self.by_frame(some)))
                for some in images.split(max(AT_ONCE // frames, 1))
            ]
        )

    def features(self, images: Tensor) -> Tensor:
        """Return the normalised vectors, [B, D]; if compressed, [B, `compressed`], of norm 1."""
        vectors = self.encoded(images)
        if self.settings.compressed is None:
            return vectors
        return F.normalize((vectors - self.centre) @ self.directions.T)

    centre: Tensor
    """[D], the mean vector of the training data, if vectors are compressed."""
    directions: Tensor
    """[compressed, D]."""

    def compress_from(self, length: int) -> None:
        """Make room for the components of vectors of D = `length`; called by `__init__`."""
        if (k := self.settings.compressed) is not None:
            self.register_buffer("centre", torch.zeros(length))
            self.register_buffer("directions", torch.zeros(k, length))

    @torch.no_grad()
    def finish(self, passes: Callable[..., Iterator[Batch]]) -> None:
        """Find the principal components of the training data's vectors, if they are compressed.

        A temporary file holds the vectors, in the folder that the environment variable TMPDIR
        names: 5 GB for 9,537 vectors of 131,584 numbers.

        Raises:
            BadInput: there are fewer training samples than components, or the disk is full.
        """
        if (k := self.settings.compressed) is None:
            return
        folder = Path(tempfile.gettempdir())
        with explained(folder), tempfile.TemporaryFile(dir=folder) as file:
            for batch in passes():
                self.encoded(batch.images).cpu().numpy().tofile(file)
            file.flush()
            rows = np.memmap(file, np.float32, mode="r").reshape(-1, self.centre.shape[0])
            found = principal_components(rows, k, "training vectors")
        self.centre.copy_(torch.from_numpy(found.mean))
        self.directions.copy_(torch.from_numpy(found.directions))
