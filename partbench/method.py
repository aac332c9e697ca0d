"""The contract of a method: what the training loop and the probes may ask of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from partbench import plugins
from partbench.data.prepared import LearnsFrom
from partbench.errors import BadInput
from partbench.settings import Settings, nearest

IMAGENET_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF_MEAN_STD = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
Role = Literal["method", "floor", "ceiling"]
Reads = Literal["images", "clips"]


class MethodSettings(Settings):
    """Settings that every method has; the defaults of a method's own class are its paper's."""

    epochs: int = Field(30, ge=0, description="epochs, as `images_per_epoch` defines one")
    images_per_epoch: int | None = Field(
        None, ge=1, description="images that make an 'epoch'; none: one pass over the data"
    )
    batch_size: int = Field(128, ge=1, description="images a step, over all processes")
    lose_batch_at_wrap: bool = Field(
        False,
        description="when an epoch runs past the end of the data, one step is skipped while "
        "the data is shuffled anew (PatchVAE's loop does this)",
    )
    normalize: Literal["imagenet", "half"] = Field(
        "imagenet", description="mean and SD taken off the images: ImageNet's, or 0.5 and 0.5"
    )
    flip: bool = Field(False, description="mirror half of the training images")


class Batch(NamedTuple):
    """What one training step sees."""

    images: Tensor
    """[B, 3, S, S] float32 in [0, 1], or [B, T, 3, S, S] of clips."""
    labels: Tensor | None
    """[B] int64, for a method that learns from them, else None."""
    landmarks: Tensor | None = None
    """[B, L, 3] float32, for a method that learns from them, else None: x, y in pixels of the
    prepared image (mirrored as the image is), and 1, or 0 where the landmark is not visible and
    x and y mean nothing."""
    masks: Tensor | None = None
    """[B, S, S] float32, 1 on the foreground and 0 elsewhere, for a method that is told the
    foreground, else None."""
    parts: Tensor | None = None
    """[B, S, S] uint8, for a method that is told the parts, else None: 0 is background, 255 to be
    left out."""


class Keypoints(NamedTuple):
    """Keypoints of a batch, in the numbers that the method's paper regresses from."""

    points: Tensor
    """[B, K, 2] float32, (x, y) in the method's own `frame`."""
    logvar: Tensor | None = None
    """[B, K, 2] log-variances of their posterior, where there is one."""
    background: bool = False
    """Whether the last one is a constant that stands for the background."""


class PartMaps(NamedTuple):
    """Which part each pixel of a batch belongs to."""

    weights: Tensor
    """[B, K, S, S] float32, at least 0: the share of each pixel that each part takes; where the
    method has a background of its own, that has the rest of 1."""
    labels: Tensor
    """[B, S, S] int64, 0 to K - 1: the part of each pixel by the method's own rule, on the
    background too."""
    foreground: Tensor | None = None
    """[B, S, S] bool, what the method itself takes for foreground; None where it must be told."""


class DataInfo(NamedTuple):
    """What a method may know of its training data before it is built."""

    size: int
    """Side of the images, pixels."""
    classes: int
    """Number of classes, 0 if there are none."""
    landmarks: int = 0
    """Number of landmarks, 0 if there are none."""
    frames: int = 0
    """Frames of a clip, 0 of single images."""


class Method(nn.Module, ABC):
    """A model with its loss: one subclass in one module of `partbench.methods`.

    `forward` is the training loss. What else the method can do, it offers by having it; a
    probe that needs something a method has not is left out with that reason:

    - `features(images) -> [B, D]`: what a linear classifier is put on;
    - `trunk() -> nn.Sequential`: the encoder whose front a classifier freezes;
    - `keypoints(images) -> Keypoints` and `frame() -> partbench.frame.Frame`: where its parts are;
      `protocol`: in which frames the paper's least squares reads points and landmarks, such as
      `{"points": "centred", "landmarks": "corner"}`: from -1 to 1 about the centre of the window,
      or pixels from its corner;
    - `part_maps(images) -> PartMaps`: which part each pixel belongs to;
    - `move(images, particle, (x, y)) -> [B, 3, S, S]`: decoded with one keypoint moved;
    - `reconstruct(images) -> [B, 3, S, S]` and `generate(n) -> [n, 3, S, S]`, in [0, 1];
    - `predict(first, steps) -> [B, steps, 3, S, S]`: the frames that follow [B, C, 3, S, S], and
      `reconstruct(clips) -> [B, T, 3, S, S]` beside it, of the window that `window` cuts out.

    They all take images in [0, 1] (float32, NCHW) and are called in eval mode without gradients.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    VARIANTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named settings of the paper, and its ablations. `a+b` applies `a`, then `b`; `paper`
    changes nothing."""
    REDUCED: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named settings for small machines: numbers from these are never comparable."""
    role: ClassVar[Role] = "method"
    """What its numbers are to others'; see `role_of`."""
    learns_from: ClassVar[LearnsFrom] = "images"
    """What its training is told: from images alone it trains on the split `unlabeled` if there
    is one; from labels, landmarks, the foreground mask or parts on `train`."""
    reads: ClassVar[Reads] = "images"
    """What a sample of its training data is."""
    paper: ClassVar[str] = ""
    """Key of the paper in published.csv."""
    fitted: ClassVar[bool] = False
    """Whether `fit` is its whole training, so that with 0 epochs it is no floor."""
    phases: ClassVar[tuple[str, ...]] = ("all",)
    """Optimiser updates that make one training step, in this order; a name may stand twice."""

    def __init__(self, settings: Any, data: DataInfo) -> None:
        super().__init__()
        self.settings = settings
        self.data = data
        mean, std = IMAGENET_MEAN_STD if settings.normalize == "imagenet" else HALF_MEAN_STD
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    mean: Tensor
    std: Tensor

    def normalize(self, images: Tensor) -> Tensor:
        """Return images in [0, 1] with the mean taken off, divided by the SD."""
        return (images - self.mean) / self.std

    def denormalize(self, images: Tensor) -> Tensor:
        """Return normalised images brought back to [0, 1]."""
        return (images.float() * self.std + self.mean).clamp(0, 1)

    @classmethod
    def weights(cls, settings: Any) -> tuple[str, ...]:
        """Return the trained networks that it needs, names of `partbench data list`."""
        return ()

    def optimizers(self) -> dict[str, Optimizer]:
        """Return the optimiser of each phase; a method that does not train has none."""
        return {}

    @abstractmethod
    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the scalar to minimise as "loss", and beside it whatever the log should show."""

    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Fit what is not learnt step by step, such as centroids; called once, before training.

        Args:
            passes: each call goes once over the training split in its own order, in batches of
                `batch_size`, not mirrored, the last one perhaps smaller.
        """

    def begin_epoch(self, epoch: int) -> None:
        """Set what goes by epochs, counted from 0; called before the first step of each.

        What it sets must be part of the method's or its optimisers' state, as a run that goes on
        in the middle of an epoch does not call it.
        """

    def after_step(self, step: int) -> None:
        """Advance schedules; `step` counts the finished steps, from 1."""


def resolve(cls: type[Method], variant: str, overrides: Mapping[str, Any], where: str) -> Any:
    """Return the settings of `variant` of a method, with a configuration's overrides on top.

    Raises:
        BadInput: a variant or a key does not exist.
    """
    variants = {"paper": {}, **cls.VARIANTS, **cls.REDUCED}
    values: dict[str, Any] = {}
    for name in variant.split("+"):
        if name not in variants:
            raise BadInput(
                f"{where}: {cls.__module__.rpartition('.')[2]} has no variant '{name}'; "
                f"{nearest(name, variants)}"
            )
        values |= variants[name]
    return cls.Settings.parse(values | dict(overrides), where)


def role_of(cls: type[Method], settings: Any) -> Role:
    """Return the role of a run: whatever has neither been trained nor fitted is a floor."""
    return "floor" if settings.epochs == 0 and not cls.fitted else cls.role


def check_reads(cls: type[Method], frames: int, where: str) -> None:
    """Raise BadInput unless a method reads what a data set has.

    Args:
        cls: the method.
        frames: of a sample, 0 of single images.
        where: the data set, for the message.
    """
    kind: Reads = "clips" if frames else "images"
    if cls.reads != kind:
        name = cls.__module__.rpartition(".")[2]
        said = {"clips": "clips", "images": "single images"}
        raise BadInput(
            f"{where}: holds {said[kind]}, and {name} learns from {said[cls.reads]}; train it on "
            f"another data set, such as `{{reader: toy, kind: {cls.reads}}}`"
        )


def changes(cls: type[Method], variant: str, settings: Any) -> dict[str, tuple[Any, Any]]:
    """Return {key: (paper's, used)} for each setting that differs from the paper's.

    The paper's settings are those of `variant` without its reduced parts and overrides.
    """
    kept = [name for name in variant.split("+") if name not in cls.REDUCED]
    paper = resolve(cls, "+".join(kept) or "paper", {}, "")
    return {
        key: (getattr(paper, key), value) for key, value in settings if getattr(paper, key) != value
    }


def load(name: str, where: str = "command line") -> type[Method]:
    """Return the method `name`; raises BadInput if there is none."""
    return plugins.load("methods", name, Method, where)  # type: ignore[type-abstract]
