"""The contract of a capability: what a method promises, and what is written of it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from partbench import plugins
from partbench.data.prepared import Prepared, Split
from partbench.errors import BadInput

SLACK = 1e-4
"""By which values may leave their range: networks round."""


class Capability(ABC):
    """Something that methods may offer: one subclass in one module of `partbench.outputs`.

    The module's name is the capability's; probes name it in `needs`.
    """

    offer: ClassVar[type]
    """The `Protocol` of a method with this capability."""
    member: ClassVar[str]
    """The member of `offer` by which a method shows that it means to have the capability."""
    of_whole_images: ClassVar[bool] = False
    """Whether it works on images that keep their aspect (`crop: whole`)."""

    @property
    def name(self) -> str:
        """The capability's name, that of its module."""
        return type(self).__module__.rpartition(".")[2]

    def offered_by(self, method: type) -> bool:
        """Return whether a class of methods has the capability, perhaps not whole."""
        return hasattr(method, self.member)

    def check_class(self, method: type) -> None:
        """Refuse, with `BadInput`, a class of methods that has a part of the capability only."""
        if not self.offered_by(method):
            return
        missing = [name for name in members(self.offer) if not hasattr(method, name)]
        if missing:
            raise BadInput(
                f"{_file(method)}: {method.__name__} has `{self.member}` but no "
                f"`{'`, no `'.join(missing)}`; `{self.offer.__name__}` in "
                f"partbench/outputs/{self.name}.py says what each returns"
            )

    @abstractmethod
    def check(self, method: Any, samples: Tensor) -> None:
        """Refuse, with `BadInput`, a method whose outputs on two samples break the promise.

        Args:
            method: in eval mode; satisfies `offer`.
            samples: [2, 3, S, S] float32 in [0, 1], or [2, T, 3, S, S] of clips.
        """

    def write(
        self, method: Any, data: Prepared, folder: Path, device: torch.device, label: str
    ) -> None:
        """Write the method's outputs on a data set.

        Args:
            method: in eval mode; satisfies `offer`.
            data: the data set.
            folder: to write to.
            device: of the method.
            label: of the progress shown.

        Raises:
            BadInput: an output is not finite, or the capability writes none.
        """
        raise BadInput(
            f"{self.name}: nothing is written of it; a probe that needs it reads the model: set "
            'its `reads = "model"`'
        )

    def draw(self, method: Any, split: Split, device: torch.device) -> dict[str, NDArray[Any]]:
        """Return the arrays behind the pictures of a split's first samples; none by default."""
        return {}


def members(offer: type) -> list[str]:
    """Return the public members of a `Protocol`, those of its bases included, sorted."""
    names: set[str] = set()
    for base in offer.__mro__:
        if base not in (Protocol, object):
            names |= {*vars(base), *getattr(base, "__annotations__", {})}
    return sorted(name for name in names if not name.startswith("_"))


@cache
def capabilities() -> dict[str, Capability]:
    """Return every capability by name."""
    base: type[Capability] = Capability  # type: ignore[type-abstract]
    return {name: plugins.load("outputs", name, base)() for name in plugins.names("outputs", base)}


def offered_by(method: type) -> dict[str, Capability]:
    """Return the capabilities that a class of methods has, by name."""
    return {name: c for name, c in capabilities().items() if c.offered_by(method)}


def check_class(method: type) -> None:
    """Refuse, with `BadInput`, a class of methods that has a part of a capability only."""
    for capability in offered_by(method).values():
        capability.check_class(method)


@torch.no_grad()
def check_outputs(method: nn.Module, samples: Tensor) -> None:
    """Try every capability of a method on two samples; nothing random or trained changes by it.

    Args:
        method: the method; its mode is as before afterwards.
        samples: see `Capability.check`.

    Raises:
        BadInput: an output has the wrong type, shape or range; the message names the member.
    """
    training = method.training
    devices = [samples.device] if samples.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        method.eval()
        for capability in offered_by(type(method)).values():
            capability.check(method, samples)
    method.train(training)


def check_tensor(
    value: Any,
    what: str,
    shape: Sequence[int | str],
    *,
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    low: float | None = None,
    high: float | None = None,
) -> None:
    """Refuse, with `BadInput`, anything but a finite tensor of a shape, type and range.

    Args:
        value: what a method returned.
        what: it is, for the message, such as "autoencoder.features".
        shape: its sizes; a name stands for any size of at least 1.
        dtypes: which it may have.
        low: its least value; None for any.
        high: its greatest value; None for any.
    """
    words = f"a tensor of {' or '.join(str(d).removeprefix('torch.') for d in dtypes)} [" + (
        ", ".join(map(str, shape)) + "]"
    )
    if not isinstance(value, Tensor):
        raise BadInput(f"{what} is of type {type(value).__name__}; it must be {words}")
    fits = len(shape) == value.ndim and all(
        have > 0 if isinstance(want, str) else have == want
        for want, have in zip(shape, value.shape, strict=True)
    )
    if not fits or value.dtype not in dtypes:
        dtype = str(value.dtype).removeprefix("torch.")
        raise BadInput(f"{what} is {dtype} {list(value.shape)}; it must be {words}")
    if not value.isfinite().all():
        raise BadInput(f"{what} has values that are not finite")
    for limit, beyond, least in ((low, value.amin(), True), (high, value.amax(), False)):
        slack = SLACK if value.is_floating_point() else 0
        if limit is not None and (beyond < limit - slack if least else beyond > limit + slack):
            bounds = f"from {low:g}" + (f" to {high:g}" if high is not None else " on")
            raise BadInput(f"{what} has the value {beyond:g}; it must be {bounds}")


def call_of(method: Any, member: str) -> str:
    """Return how messages name a member of a method: `keynet.keypoints`."""
    return f"{type(method).__module__.rpartition('.')[2]}.{member}"


def _file(method: type) -> str:
    return f"{method.__module__.replace('.', '/')}.py"
