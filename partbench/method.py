"""The contract of a method: what the training loop and the probes may ask of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from partbench import plugins
from partbench.coordinates import Frame, RegressionOrigins, of_borders
from partbench.data.batch import Batch, LearnsFrom
from partbench.data.crop import TrainingCropSettings
from partbench.deviations import Deviation
from partbench.errors import BadInput
from partbench.nn.normalization import HALF_MEAN_STD, IMAGENET_MEAN_STD
from partbench.nn.released import Authors, Release
from partbench.nn.weights import IMAGENET_LABELS
from partbench.settings import nearest

Role = Literal["method", "floor", "ceiling"]
Reads = Literal["images", "clips", "frames"]
RELEASED = "released"
"""The variant that measures the authors' weights."""
UNTRAINED = {"epochs": 0, "training_crop": "fixed"}
"""Settings of a run that trains on no image, so that any square images will do."""


class MethodSettings(TrainingCropSettings):
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


class KeypointSettings(MethodSettings):
    """Settings of a method whose keypoints may choose the epoch."""

    chosen_epoch: Literal["last", "validation"] = Field(
        "last",
        description="the epoch whose weights are the result: the last, which is no choice, or that "
        "with the least error of landmarks on the split `val` of the training data. The papers "
        "chose it on the test faces, which nothing here does",
    )
    look_every: int = Field(
        2, ge=1, description="chosen_epoch validation: epochs between two looks (DLP's code)"
    )


class ReleasedSettings(MethodSettings):
    """Settings of a method whose authors released weights."""

    released: str | None = Field(
        None,
        min_length=1,
        description="weights of the authors that are measured without training, a name of "
        "`partbench data list`; the variant `released` sets it",
    )

    @model_validator(mode="after")
    def _measure_only(self) -> Self:
        if self.released is not None and self.epochs:
            raise ValueError(
                f"`released` weights are measured, not trained on; set `epochs` to 0, not to "
                f"{self.epochs}"
            )
        return self


class StepFreeSettings(MethodSettings):
    """Settings of a method without training steps."""

    epochs: int = Field(0, ge=0, le=0)


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
    crop: str = ""
    """How images were cut out of their originals, `crop` of the data set; empty: not known."""
    foreground_by: str | None = None
    """The run that found its foreground; empty: the data set's own; None: not known."""
    attributes: int = 0
    """Number of attributes, 0 if there are none."""
    clusters: int = 0
    """Number of clusters, 0 if there are none."""
    is_flow: bool = False
    """Whether its images are pictures of optical flow."""


class Method(nn.Module, ABC):
    """A model with its loss: one subclass in one module of `partbench.methods`.

    `forward` is the training loss. What else the method can do, it offers by having it: each
    module of `partbench.outputs` states one such capability, with the members that it takes, in
    its `Protocol`. A probe that needs a capability that the method lacks is left out, and the
    report says so.

    Capabilities take images in [0, 1] (float32, NCHW) and are called in eval mode without
    gradients.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    VARIANTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named settings of the paper, and its ablations. `a+b` applies `a`, then `b`; `paper`
    changes nothing."""
    REDUCED: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named settings for small machines: numbers from these are never comparable."""
    RELEASED: ClassVar[Mapping[str, Release]] = {}
    """Variant -> the weights of it that the authors released. `a+released` measures those of `a`,
    `released` alone the first. The settings must be `ReleasedSettings`, and `authors` say how the
    file holds the weights."""
    any_aspect: ClassVar[bool] = False
    """Whether it takes images that are not square (`crop: frame`)."""
    role: ClassVar[Role] = "method"
    """How its numbers relate to others; see `role_of`."""
    learns_from: ClassVar[LearnsFrom] = "images"
    """What its training is told. From images alone, it trains on the split `unlabeled` if there
    is one; told labels, attributes, landmarks, the foreground mask or parts, on `train`."""
    reads: ClassVar[Reads] = "images"
    """What a sample of its training data is. `frames` stands for either: a training step sees an
    image, or one frame of a clip, drawn at random; all else gets whole clips."""
    paper: ClassVar[str] = ""
    """Key of the paper in published.csv."""
    references: ClassVar[tuple[str, ...]] = ()
    """The works that it comes from, its own first: keys of references.bib, or BibTeX itself."""
    random: ClassVar[bool] = True
    """Whether the seed changes what it gives. Where it does not, one run says all. A method whose
    settings decide that overrides `draws`."""
    deviations: ClassVar[tuple[Deviation, ...]] = ()
    """What differs from the paper beside the settings; the page shows it with every run."""
    phases: ClassVar[tuple[str, ...]] = ("all",)
    """Optimiser updates that make one training step, in this order; a name may occur twice."""
    shares_batch: ClassVar[bool] = True
    """Whether all updates of a step see the same samples; if not, each sees an equal part of the
    step's batch, which `batch_size` counts as a whole."""
    several_devices: ClassVar[bool] = False
    """Whether its steps are written for batches that several processes share, as
    `partbench.nn.shared_batch` says. If not, a configuration with several devices is refused."""
    groups: ClassVar[int] = 1
    """Into how many equal groups an update divides its samples, so that those in the same place of
    each group belong together, such as the images of a pair."""
    trunk_names: ClassVar[tuple[str, ...]] = ("encoder",)
    """The keys of `trunks()`, if it has any; configurations are read before a network is built."""
    protocol: ClassVar[RegressionOrigins] = RegressionOrigins()
    """Where the paper's regression from keypoints to landmarks counts from."""

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
        """Return images in [0, 1] less the mean, divided by the SD."""
        return (images - self.mean) / self.std

    def denormalize(self, images: Tensor) -> Tensor:
        """Return normalised images brought back to [0, 1]."""
        return (images.float() * self.std + self.mean).clamp(0, 1)

    @classmethod
    def weights(cls, settings: Any) -> tuple[str, ...]:
        """Return the trained networks that it needs, names of `partbench data list`."""
        return ()

    @classmethod
    def draws(cls, settings: Any) -> bool:
        """Return whether the seed changes what it gives with these settings."""
        return cls.random

    @classmethod
    def frozen_weights(cls, settings: Any) -> tuple[str, ...]:
        """Return those of `weights` that it reads even if its own are released or untrained."""
        return ()

    @classmethod
    def pretrained_on(cls, settings: Any) -> str:
        """Return what a network that it reads or starts from was trained on; empty: there is none.

        The tables show it beside each number. By default it is ImageNet's labels, which all
        networks that partbench fetches learnt from, and the MobileNet that is placed by hand.
        """
        by_hand = getattr(settings, "perceptual", "") == "mobilenet"
        return IMAGENET_LABELS if by_hand or cls.weights(settings) else ""

    def authors(self) -> Authors:
        """Return how the authors' file holds the method's state; asked of `RELEASED` alone."""
        raise TypeError(f"{type(self).__name__} does not say how its authors' file holds weights")

    def optimizers(self) -> dict[str, Optimizer]:
        """Return the optimiser of each phase; a method that does not train has none."""
        return {}

    @classmethod
    def parts(cls) -> int:
        """Return into how many parts a step's batch is divided."""
        return 1 if cls.shares_batch else len(cls.phases)

    def updates(self, batch: Batch) -> Iterator[tuple[str, Batch]]:
        """Yield the phase of each update of a step, and the samples that it sees."""
        n = self.parts()
        for turn, phase in enumerate(self.phases):
            yield phase, batch.part(turn % n, n)

    @abstractmethod
    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the scalar to minimise as "loss", and beside it whatever the log should show."""

    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Fit what is not learnt step by step, such as centroids; called once, before training.

        Args:
            passes: each call goes once over the training split in its own order, in batches of
                `batch_size`, not mirrored; the last batch may be smaller. A method that reads
                frames gets whole clips.
        """

    def finish(self, passes: Callable[..., Iterator[Batch]]) -> None:
        """Fit what depends on the trained network, such as scales of its features.

        Called once, after the last step, or after the weights of the authors were read. A run that
        is stopped meanwhile calls it again.

        Args:
            passes: see `fit`; given the name of another split, it goes over that one.
        """

    def begin_epoch(self, epoch: int) -> None:
        """Set what depends on the epoch, counted from 0; called before the first step of each.

        What it sets must be part of the method's or its optimisers' state: a run that resumes in
        the middle of an epoch does not call it.
        """

    def after_step(self, step: int) -> None:
        """Advance schedules; `step` counts the finished steps, from 1."""

    def frame(self) -> Frame:
        """Return the frame of its keypoints, by default -1 and 1 at the image's borders."""
        return of_borders(self.data.size)


class StepFreeMethod(Method):
    """A method without training steps: fitted, drawn at random, or taken from the image itself."""

    Settings: ClassVar[type[MethodSettings]] = StepFreeSettings

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Raise RuntimeError: a run without steps never calls it."""
        raise RuntimeError(f"{type(self).__name__} has no training step")


def name_of(cls: type[Method]) -> str:
    """Return the name of a method: that of its file."""
    return cls.__module__.rpartition(".")[2]


def resolve(cls: type[Method], variant: str, overrides: Mapping[str, Any], where: str) -> Any:
    """Return the settings of `variant` of a method, with a configuration's overrides on top.

    `released` in a variant stands for the authors' weights of the rest of it, without training.

    Raises:
        BadInput: a variant or a key does not exist, the authors released no weights of it, or the
            batch cannot be divided among the updates of a step.
    """
    variants = {"paper": {}, **cls.VARIANTS, **cls.REDUCED}
    known = {*variants, RELEASED} if cls.RELEASED else {*variants}
    values: dict[str, Any] = {}
    for name in variant.split("+"):
        if name not in known:
            raise BadInput(
                f"{where}: {name_of(cls)} has no variant '{name}'; {nearest(name, known)}"
            )
        values |= variants.get(name, {})
    if RELEASED in variant.split("+") and cls.RELEASED:
        name = _released_variant(cls, variant, where)
        release = cls.RELEASED[name]
        values |= {**variants[name], **release.measured, **UNTRAINED, "released": release.name}
    settings = cls.Settings.parse(values | dict(overrides), where)
    if settings.batch_size % cls.parts():
        raise BadInput(
            f"{where}: 'batch_size' is {settings.batch_size}: the {cls.parts()} updates of a step "
            f"share it in equal parts; set a multiple of {cls.parts()}"
        )
    return settings


def check_shares(cls: type[Method], settings: Any, world: int, where: str) -> None:
    """Raise BadInput unless the processes of a run can share its batches, and equally.

    Args:
        cls: the method.
        settings: the method's.
        world: number of processes.
        where: the run, for the message.
    """
    if world == 1 or not settings.epochs:
        return
    if not cls.several_devices:
        raise BadInput(
            f"{where}: {name_of(cls)} trains on one device, not on {world}, since it does not say "
            "`several_devices = True` (see partbench/nn/shared_batch.py); set `devices` and "
            "`nodes` to 1"
        )
    parts = cls.parts() * cls.groups
    if settings.batch_size % (world * parts):
        among = f" and {cls.parts()} updates of a step" if cls.parts() > 1 else ""
        raise BadInput(
            f"{where}: 'batch_size' {settings.batch_size} cannot be shared by {world} devices"
            f"{among} in equal parts{' of pairs' if cls.groups > 1 else ''}, and it stays the same "
            f"whatever their number; change the devices, or set a multiple of {world * parts}"
        )


def _released_variant(cls: type[Method], variant: str, where: str) -> str:
    """Return the variant that `released` stands beside, or the first of those released."""
    names = [name for name in variant.split("+") if name not in (RELEASED, "paper")]
    names = names or [next(iter(cls.RELEASED))]
    if len(names) > 1 or names[0] not in cls.RELEASED:
        raise BadInput(
            f"{where}: the authors of {name_of(cls)} released no weights for '{variant}', only for "
            f"{', '.join(cls.RELEASED)}; leave out `{RELEASED}`, or name one of these beside it "
            "alone"
        )
    return names[0]


def is_released(settings: Any) -> bool:
    """Whether a run measures weights that the authors released."""
    return isinstance(settings, ReleasedSettings) and settings.released is not None


def release_of(cls: type[Method], settings: Any) -> Release:
    """Return the weights that settings for which `is_released` holds name.

    Raises:
        BadInput: the method's authors released no such weights.
    """
    by_name = {release.name: release for release in cls.RELEASED.values()}
    if settings.released not in by_name:
        raise BadInput(
            f"the authors of {name_of(cls)} released no weights '{settings.released}'; "
            f"{nearest(settings.released, by_name)}"
        )
    return by_name[settings.released]


def needed_weights(cls: type[Method], settings: Any) -> tuple[str, ...]:
    """Return the trained networks that a run reads, names of `partbench data list`."""
    frozen = cls.frozen_weights(settings)
    if is_released(settings):
        return (release_of(cls, settings).name, *frozen)
    return frozen if is_untrained(cls, settings) else cls.weights(settings)


def chooses_epoch(settings: Any) -> bool:
    """Whether validation images choose the epoch that a training ends with."""
    choice = isinstance(settings, KeypointSettings) and settings.chosen_epoch == "validation"
    return choice and settings.epochs > 0


def is_random(cls: type[Method], settings: Any) -> bool:
    """Whether the seed changes what a run gives; it cannot for weights that were released."""
    return cls.draws(settings) and not is_released(settings)


def is_untrained(cls: type[Method], settings: Any) -> bool:
    """Whether the steps of a method that has some were left out."""
    free = issubclass(cls, StepFreeMethod) or is_released(settings)
    return settings.epochs == 0 and not free


def role_of(cls: type[Method], settings: Any) -> Role:
    """Return the role of a run: an untrained method is a floor."""
    return "floor" if is_untrained(cls, settings) else cls.role


def check_reads(cls: type[Method], frames: int, where: str) -> None:
    """Raise BadInput unless a method reads what a data set has.

    Args:
        cls: the method.
        frames: of a sample, 0 of single images.
        where: the data set, for the message.
    """
    kind: Reads = "clips" if frames else "images"
    if cls.reads not in (kind, "frames"):
        words = {"clips": "clips", "images": "single images"}
        raise BadInput(
            f"{where}: holds {words[kind]}, and {name_of(cls)} learns from {words[cls.reads]}; "
            f"train it on another data set, such as `{{reader: toy, kind: {cls.reads}}}`"
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


def deviations(cls: type[Method], variant: str) -> list[Deviation]:
    """Return what a variant does otherwise than the paper beside its settings."""
    return [deviation for deviation in cls.deviations if deviation.concerns(variant)]


def load(name: str, where: str = "command line") -> type[Method]:
    """Return the method `name`; raises BadInput if there is none."""
    return plugins.load("methods", name, Method, where)  # type: ignore[type-abstract]
