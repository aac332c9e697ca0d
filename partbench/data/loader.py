"""Batches of a prepared data set in a seeded order that can be entered at any step."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.batch import Batch, LearnsFrom
from partbench.data.prepared import Split
from partbench.errors import BadInput

AHEAD = 4  # batches read before they are asked for


class ScheduleSettings(Protocol):
    """The settings of a method that say which images its steps see; see `MethodSettings`."""

    @property
    def epochs(self) -> int: ...  # noqa: D102
    @property
    def images_per_epoch(self) -> int | None: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def lose_batch_at_wrap(self) -> bool: ...  # noqa: D102
    @property
    def flip(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Schedule:
    """Which images each training step sees.

    Args:
        n: images in the training split.
        settings: the method's.
        seed: of the shuffling.

    Raises:
        BadInput: fewer images than one batch holds.
    """

    n: int
    settings: ScheduleSettings
    seed: int

    def __post_init__(self) -> None:
        if self.settings.epochs and self.n < self.settings.batch_size:
            raise BadInput(
                f"the training split has {self.n} images, fewer than one batch of "
                f"{self.settings.batch_size}; lower `batch_size` or add images"
            )

    @property
    def steps_per_pass(self) -> int:
        """Whole batches in one pass over the data; the rest is left for the next shuffle."""
        return self.n // self.settings.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Updates in one epoch.

        An epoch asks for images_per_epoch // batch_size batches. With `lose_batch_at_wrap`, each
        time the data ends inside an epoch one of them is lost.
        """
        asked = (self.settings.images_per_epoch or self.n) // self.settings.batch_size
        lost = asked // (self.steps_per_pass + 1) if self.settings.lose_batch_at_wrap else 0
        return max(asked - lost, 1)

    @property
    def steps(self) -> int:
        """Updates in the whole training."""
        return self.settings.epochs * self.steps_per_epoch

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the images of `step`, counted from 0; each epoch starts on a new shuffle."""
        epoch, within = divmod(step, self.steps_per_epoch)
        round_, position = divmod(within, self.steps_per_pass)
        start = position * self.settings.batch_size
        order = _shuffle(self.n, self.seed, epoch, round_)
        return order[start : start + self.settings.batch_size]


@lru_cache(maxsize=4)
def _shuffle(n: int, seed: int, epoch: int, round_: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch, round_]).permutation(n)


class Loader:
    """Reads and mirrors batches ahead in threads, as uint8; they become float on the device.

    Args:
        split: the training split.
        schedule: which images when.
        device: where batches go.
        learns_from: the annotation that batches hold beside the images, if any.
        rows: the samples of the split that the schedule counts; all by default.
        rank: of this process; it gets every `world`-th image of a batch.
        world: number of processes.
        threads: that read.
        landmark_swap: landmark i of a mirrored image is landmark `landmark_swap[i]` of the
            original; needed where landmarks are loaded and images mirrored.

    Raises:
        BadInput: the split lacks the annotation, or landmarks cannot be mirrored.
    """

    def __init__(
        self,
        split: Split,
        schedule: Schedule,
        device: torch.device,
        learns_from: LearnsFrom,
        rows: NDArray[np.int64] | None = None,
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
        landmark_swap: Sequence[int] = (),
    ) -> None:
        self.split, self.schedule, self.device = split, schedule, device
        # A few numbers an image, so they are read at once.
        self.labels = np.array(split.annotation("labels")) if learns_from == "labels" else None
        self.landmarks = _landmarks(split) if learns_from == "landmarks" else None
        # A byte a pixel, so they stay on disk.
        self.masks = split.annotation("mask") if learns_from == "mask" else None
        self.parts = split.annotation("parts") if learns_from == "parts" else None
        self.swap = list(landmark_swap)
        needed = 0 if self.landmarks is None else self.landmarks.shape[-2]
        if schedule.settings.flip and len(self.swap) < needed:
            raise BadInput(
                f"{split.folder}: the data set's reader does not say how landmarks are mirrored "
                "(`landmark_swap`); set `flip: false`"
            )
        self.rows = rows
        self.rank, self.world, self.threads = rank, world, threads

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Yield the batch of each step from `start` to the last."""
        end = self.schedule.steps
        with ThreadPoolExecutor(self.threads) as pool:
            ahead = range(start, min(start + AHEAD, end))
            waiting = deque(pool.submit(self._read, step) for step in ahead)
            try:
                for step in range(start, end):
                    parts = waiting.popleft().result()
                    if step + AHEAD < end:
                        waiting.append(pool.submit(self._read, step + AHEAD))
                    yield self._to_device(*parts)
            finally:
                pool.shutdown(cancel_futures=True)

    def ordered(self) -> Iterator[Batch]:
        """Yield the whole split once, in its order, nothing mirrored."""
        rows = np.arange(len(self.split)) if self.rows is None else self.rows
        size = self.schedule.settings.batch_size
        for start in range(0, len(rows), size):
            yield self._to_device(*self._take(rows[start : start + size], None))

    def _read(self, step: int) -> tuple[Tensor | None, ...]:
        indices = self.schedule.indices(step)[self.rank :: self.world]
        if self.rows is not None:
            indices = self.rows[indices]
        mirrored = None
        if self.schedule.settings.flip:
            draw = np.random.default_rng([self.schedule.seed, step, self.rank])
            mirrored = draw.random(len(indices)) < 0.5
        return self._take(indices, mirrored)

    def _take(
        self, indices: NDArray[np.int64], mirrored: NDArray[np.bool_] | None
    ) -> tuple[Tensor | None, ...]:
        """Return the fields of a batch on the CPU, images as uint8 [B, S, S, 3]."""
        images = self.split.images[indices]
        labels = None if self.labels is None else self.labels[indices]
        landmarks = None if self.landmarks is None else self.landmarks[indices]
        masks = None if self.masks is None else self.masks[indices]
        parts = None if self.parts is None else self.parts[indices]
        if mirrored is not None:
            images[mirrored] = images[mirrored][..., ::-1, :]
            if masks is not None:
                masks[mirrored] = masks[mirrored][..., ::-1]
            if parts is not None:
                parts[mirrored] = parts[mirrored][..., ::-1]
            if landmarks is not None:
                landmarks[mirrored] = mirror_landmarks(
                    landmarks[mirrored], images.shape[-2], self.swap
                )
        fields = (images, labels, landmarks, masks, parts)
        tensors = [None if field is None else torch.from_numpy(field) for field in fields]
        pin = self.device.type == "cuda"
        return tuple(t.pin_memory() if pin and t is not None else t for t in tensors)

    def _to_device(self, *fields: Tensor | None) -> Batch:
        images, labels, landmarks, masks, parts = (
            None if field is None else field.to(self.device, non_blocking=True) for field in fields
        )
        assert images is not None
        masks = None if masks is None else masks.float()
        return Batch(to_float(images), labels, landmarks, masks, parts)


def _landmarks(split: Split) -> NDArray[np.float32]:
    """Return landmarks and visibility of a split, [N, L, 3]."""
    points, visible = split.annotation("landmarks"), split.annotation("visible")
    return np.concatenate([points, visible[..., None]], -1, dtype=np.float32)


def mirror_landmarks(
    landmarks: NDArray[np.float32], size: int, swap: Sequence[int]
) -> NDArray[np.float32]:
    """Return the landmarks of mirrored images.

    Args:
        landmarks: [..., L, 3], x, y and visibility; pixel centres at integers.
        size: side of the images, pixels.
        swap: landmark i of a mirrored image is landmark `swap[i]` of the original.
    """
    mirrored = landmarks[..., list(swap), :]
    mirrored[..., 0] = size - 1 - mirrored[..., 0]
    return mirrored


def to_float(images: Tensor) -> Tensor:
    """Return uint8 [..., S, S, 3] as float32 [..., 3, S, S] in [0, 1], channels last in memory."""
    return images.movedim(-1, -3) / 255
