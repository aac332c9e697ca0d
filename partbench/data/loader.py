"""Batches of a prepared data set in a seeded order that can be entered at any step."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.batch import Batch, LearnsFrom
from partbench.data.crop import CropSettings, draw_crops
from partbench.data.neighbours import Neighbours
from partbench.data.prepared import CANVAS, Split
from partbench.data.resample import move_landmarks, resample, resample_labels
from partbench.errors import BadInput

AHEAD = 4  # batches read before they are asked for


class ScheduleSettings(CropSettings, Protocol):
    """The settings of a method that say what its steps see; see `MethodSettings`."""

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


class _Arrays(NamedTuple):
    """Images of a split and what is annotated in them; None for what a training is not told."""

    images: NDArray[Any]
    landmarks: NDArray[np.float32] | None
    masks: NDArray[Any] | None
    parts: NDArray[Any] | None

    @classmethod
    def open(cls, split: Split, learns_from: LearnsFrom, prefix: str = "") -> Self:
        """Open the arrays, or with "wide_" those of the wide squares."""

        def told(kind: LearnsFrom) -> NDArray[Any] | None:
            return split.annotation(prefix + kind) if learns_from == kind else None

        # Landmarks are a few numbers an image, so they are read at once.
        landmarks = _landmarks(split, prefix) if learns_from == "landmarks" else None
        images = split.annotation(f"{prefix}images") if prefix else split.images
        return cls(images, landmarks, told("mask"), told("parts"))

    def rows(self, indices: NDArray[np.int64]) -> Self:
        """Return a copy of some images."""
        images, landmarks, masks, parts = (
            None if array is None else array[indices] for array in self
        )
        assert images is not None
        return type(self)(images, landmarks, masks, parts)

    def frames(self, indices: NDArray[np.int64], frames: NDArray[np.int64]) -> Self:
        """Return a copy of one frame of some clips, without what is annotated in them."""
        return type(self)(self.images[indices, frames], None, None, None)

    def windows(self, indices: NDArray[np.int64], corners: NDArray[np.int64], side: int) -> Self:
        """Return a copy of squares of some images, from the corners (x, y) [B, 2] on."""
        cuts = [(i, slice(y, y + side), slice(x, x + side)) for i, (x, y) in
                zip(indices.tolist(), corners.tolist(), strict=True)]  # fmt: skip
        images, masks, parts = (
            None if array is None else np.stack([array[cut] for cut in cuts])
            for array in (self.images, self.masks, self.parts)
        )
        assert images is not None
        landmarks = self.landmarks
        if landmarks is not None:
            landmarks = landmarks[indices]
            landmarks[..., :2] -= corners[:, None]
            place = landmarks[..., :2]
            landmarks[..., 2] *= ((place >= -0.5) & (place <= side - 0.5)).all(-1)
        return type(self)(images, landmarks, masks, parts)

    def mirror(self, which: NDArray[np.bool_], swap: Sequence[int]) -> None:
        """Mirror some of the images, in place."""
        images, landmarks, masks, parts = self
        images[which] = images[which][..., ::-1, :]
        for labels in (masks, parts):
            if labels is not None:
                labels[which] = labels[which][..., ::-1]
        if landmarks is not None:
            landmarks[which] = mirror_landmarks(landmarks[which], images.shape[-2], swap)


class Loader:
    """Reads, crops and mirrors batches ahead in threads, as uint8.

    They become float on the device, and crops are resized there.

    Args:
        split: the training split.
        schedule: which images when.
        device: where batches go.
        learns_from: the annotation that batches hold beside the images, if any.
        rows: the samples of the split that the schedule counts; all by default.
        rank: of this process. The processes share each batch, or each of its `parts`, in equal
            runs of neighbours, so that what they hold one after the other is the whole in its
            order. The order, and what is drawn for an image, do not depend on their number.
        world: number of processes.
        parts: of a batch, equal ones, that are shared one by one; see `Method.parts` and
            `Method.groups`.
        threads: that read.
        landmark_swap: landmark i of a mirrored image is landmark `landmark_swap[i]` of the
            original; needed where landmarks are loaded and images mirrored.
        one_frame: of each clip, a training step gets one frame, drawn at random.

    Raises:
        BadInput: the split lacks the annotation or wide squares that are asked for, or landmarks
            cannot be mirrored.
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
        parts: int = 1,
        threads: int = 2,
        landmark_swap: Sequence[int] = (),
        one_frame: bool = False,
    ) -> None:
        self.split, self.schedule, self.device = split, schedule, device
        told = learns_from in ("labels", "attributes", "clusters")
        self.labels = np.array(split.annotation(learns_from)) if told else None
        self.arrays = _Arrays.open(split, learns_from)
        self.extents = np.array(split.annotation("extent")) if split.has("extent") else None
        self.wide = self.regions = None
        if schedule.settings.training_crop in ("box", "random"):
            self.wide = _Arrays.open(split, learns_from, "wide_")
            self.regions = np.array(split.annotation("wide_region"))
        self.size = self.arrays.images.shape[-2] // (1 if self.extents is None else CANVAS)
        self.swap = list(landmark_swap)
        needed = 0 if self.arrays.landmarks is None else self.arrays.landmarks.shape[-2]
        if schedule.settings.flip and len(self.swap) < needed:
            raise BadInput(
                f"{split.folder}: the data set's reader does not say how landmarks are mirrored "
                "(`landmark_swap`); set `flip: false`"
            )
        self.neighbours = None
        if learns_from == "neighbours":
            self.neighbours = Neighbours(split, schedule.settings)
        self.rows = rows
        self.rank, self.world, self.parts, self.threads = rank, world, parts, threads
        self.one_frame = one_frame and split.frames > 0

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Yield the batch of each step from `start` to the last."""
        end = self.schedule.steps
        with ThreadPoolExecutor(self.threads) as pool:
            ahead = range(start, min(start + AHEAD, end))
            waiting = deque(pool.submit(self._read, step) for step in ahead)
            try:
                for step in range(start, end):
                    fields = waiting.popleft().result()
                    if step + AHEAD < end:
                        waiting.append(pool.submit(self._read, step + AHEAD))
                    yield self._to_device(*fields)
            finally:
                pool.shutdown(cancel_futures=True)

    def ordered(self) -> Iterator[Batch]:
        """Yield the whole split once, in its order, nothing mirrored.

        Crops are the prepared ones; of a whole image, it is the window in its middle. Candidates
        are the nearest neighbours. Where steps see frames, a batch holds whole clips, of about as
        many frames.
        """
        rows = np.arange(len(self.split)) if self.rows is None else self.rows
        size = self.schedule.settings.batch_size
        if self.one_frame:
            size = max(size // self.split.frames, 2)
        for start in range(0, len(rows), size):
            yield self._to_device(*self._take(rows[start : start + size], None))

    def _read(self, step: int) -> tuple[Tensor | None, ...]:
        indices = self.schedule.indices(step)
        if self.rows is not None:
            indices = self.rows[indices]
        draw = np.random.default_rng([self.schedule.seed, step, 0])
        shares = np.arange(len(indices)).reshape(self.parts, self.world, -1)
        return self._take(indices, draw, shares[:, self.rank].ravel())

    def _take(
        self,
        indices: NDArray[np.int64],
        draw: np.random.Generator | None,
        own: NDArray[np.int64] | slice = slice(None),
    ) -> tuple[Tensor | None, ...]:
        """Return the fields of a batch on the CPU, and the crops that are still to be made.

        Args:
            indices: of the batch's images in the split.
            draw: of a training step, for the whole batch; None: nothing is random.
            own: places in the batch of the images that are taken; all by default.
        """
        size, whole, indices = len(indices), indices, indices[own]
        settings = self.schedule.settings
        mirrored = crops = None
        if draw is not None and settings.flip:
            mirrored = draw.random(size)[own] < 0.5
        if self.extents is not None:
            room = np.maximum(self.extents[indices] - self.size, 0)
            share = 0.5 if draw is None else draw.random((size, *room.shape[1:]))[own]
            corners = np.floor(share * (room + (draw is not None))).astype(np.int64)
            taken = self.arrays.windows(indices, corners, self.size)
        elif draw is not None and self.wide is not None and self.regions is not None:
            taken = self.wide.rows(indices)
            # Regions lie in the middle of wide squares, so mirrored images have the same.
            crops = draw_crops(self.regions[whole], settings, draw)[own]
        elif draw is not None and self.one_frame:
            frames = draw.integers(self.split.frames, size=size)[own]
            taken = self.arrays.frames(indices, frames)
        else:
            taken = self.arrays.rows(indices)
        if mirrored is not None:
            taken.mirror(mirrored, self.swap)
            if self.split.is_flow:
                turn_motion(taken.images, mirrored)
        labels = None if self.labels is None else self.labels[indices]
        candidates = distances = None
        if self.neighbours is not None:
            ranks = self.neighbours.draw(size, draw)[own]
            candidates, distances = self.neighbours.take(indices, ranks)
        fields = (taken.images, labels, *taken[1:], candidates, distances, crops)
        tensors = [None if field is None else torch.from_numpy(field) for field in fields]
        pin = self.device.type == "cuda"
        return tuple(t.pin_memory() if pin and t is not None else t for t in tensors)

    def _to_device(self, *fields: Tensor | None) -> Batch:
        images, labels, landmarks, masks, parts, candidates, distances, crops = (
            None if field is None else field.to(self.device, non_blocking=True) for field in fields
        )
        assert images is not None
        if crops is None:
            shown = to_float(images)
        else:
            shown = resample(images, crops, self.size)
            masks, parts = (
                None if maps is None else resample_labels(maps, crops, self.size)
                for maps in (masks, parts)
            )
            landmarks = None if landmarks is None else move_landmarks(landmarks, crops, self.size)
        masks = None if masks is None else masks.float()
        candidates = None if candidates is None else to_float(candidates)
        return Batch(shown, labels, landmarks, masks, parts, candidates, distances)


def _landmarks(split: Split, prefix: str = "") -> NDArray[np.float32]:
    """Return landmarks and visibility of a split, [N, L, 3]."""
    points = split.annotation(f"{prefix}landmarks")
    visible = split.annotation(f"{prefix}visible")
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


def turn_motion(images: NDArray[np.uint8], which: NDArray[np.bool_]) -> None:
    """Mirror the motion in some mirrored pictures of flow [B, H, W, 3], in place.

    As `partbench.nn.flow.turned` does: red is the motion to the right, 128 none.
    """
    images[which, ..., 0] = 256 - np.maximum(images[which, ..., 0], 1).astype(np.int64)


def to_float(images: Tensor) -> Tensor:
    """Return uint8 [..., S, S, 3] as float32 [..., 3, S, S] in [0, 1], channels last in memory."""
    return images.movedim(-1, -3) / 255
