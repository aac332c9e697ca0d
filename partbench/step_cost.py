"""What a training step takes, operations and memory, counted without computing it.

A step runs on tensors that have a shape and no content. Multiplications and additions are counted
operation by operation, so that what a frozen network or a part without gradients saves is seen.
Memory is that of the tensors alive, as PyTorch frees them; what a GPU holds beside them (its
context, cuDNN's workspaces) is not in it.
"""

import json
import os
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from partbench import fingerprint, plugins
from partbench import method as methods
from partbench.data.batch import Batch
from partbench.data.neighbours import QUADRANTS
from partbench.method import DataInfo, Method


class StepCost(NamedTuple):
    """What one step takes."""

    flops: float
    """Multiplications and additions, each counted."""
    bytes: int
    """The peak of the tensors' memory, parameters and optimisers' state included."""


class Meter(TorchDispatchMode):
    """Counts the operations on meta tensors, and the memory that they would hold."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0
        self.held = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        """Call an operation, count it and what it returns."""
        out, flops = _call(func, args, kwargs or {})
        self.flops += flops
        for leaf in out if isinstance(out, tuple | list) else (out,):
            if isinstance(leaf, Tensor) and leaf.is_meta:
                self._hold(leaf.untyped_storage())
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place in self._storages:
            return
        size = storage.nbytes()
        self._storages.add(place)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._free, place, size)

    def _free(self, place: int, size: int) -> None:
        self._storages.discard(place)
        self.held -= size


class _Unknown(Exception):
    """What an operation returns does not follow from shapes alone."""


_RETURNED: dict[Any, tuple[Any, float]] = {}
"""Operation and the kinds of its arguments -> the kinds of what it returns, and its operations."""


def _call(func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, float]:
    """Return what an operation on meta tensors returns, and how many operations it takes.

    PyTorch works many out in Python, so that those that come again are answered from memory.
    """
    if _overwrites(func) and args[0].is_meta:
        return args[0], 0.0
    try:
        key = (func, _kind(args), _kind(tuple(kwargs.items()))) if _makes(func) else None
    except _Unknown:
        key = None
    if key in _RETURNED:
        kinds, flops = _RETURNED[key]
        return _of_kind(kinds), flops
    out = func(*args, **kwargs)
    count = flop_registry.get(func._overloadpacket)
    flops = count(*args, **kwargs, out_val=out) if count else 0.0
    if key is not None:
        given = {leaf.untyped_storage()._cdata for leaf in _tensors((args, kwargs))}
        made = _tensors(out)
        own = {leaf.untyped_storage()._cdata for leaf in made}
        try:
            kinds = _kind(out)
        except _Unknown:
            return out, flops
        sizes, again = (
            [leaf.untyped_storage().nbytes() for leaf in leaves]
            for leaves in (made, _tensors(_of_kind(kinds)))
        )
        if made and sizes == again and len(own) == len(made) and not own & given:
            _RETURNED[key] = kinds, flops
    return out, flops


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


@cache
def _overwrites(func: Any) -> bool:
    """Return whether an operation does nothing but to change its first argument's content."""
    given = func._schema.arguments[:1]
    written = [each.alias_info for each in given if each.alias_info is not None]
    return any(each.is_write for each in written) and torch.Tag.pointwise in func.tags


@cache
def _makes(func: Any) -> bool:
    """Return whether an operation returns new tensors, not views or what it was given."""
    return all(each.alias_info is None for each in func._schema.returns)


def _kind(value: Any) -> Any:
    if isinstance(value, Tensor):
        if not value.is_meta:
            raise _Unknown
        return Tensor, value.shape, value.stride(), value.dtype
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_kind, value))
    return type(value), value


def _of_kind(kind: Any) -> Any:
    if kind[0] is Tensor:
        return torch.empty_strided(kind[1], kind[2], dtype=kind[3], device="meta")
    return kind[0](map(_of_kind, kind[1])) if kind[0] in (tuple, list) else kind[1]


def of_training(method: str, settings: Any, data: DataInfo) -> StepCost:
    """Return what a training step of a method takes."""
    return _kept(method, settings, data, "training", lambda: _training(method, settings, data))


def of_networks(
    method: str,
    settings: Any,
    data: DataInfo,
    size: int,
    name: str,
    networks: Callable[[Any], Iterable[tuple[nn.Module, float]]],
) -> float:
    """Return the operations of images that pass through networks.

    Args:
        method: whose networks they are made of.
        settings: the method's.
        data: that the method was trained on.
        size: of the images that pass, px.
        name: of what `networks` gives, by which it is remembered.
        networks: method -> networks and how many images pass through each, forward and, where it
            has parameters with gradients, backward.
    """

    def count() -> StepCost:
        flops = 0.0
        with torch.device("meta"):
            for network, images in networks(methods.load(method)(settings, data)):
                with Meter() as meter:
                    out = network(torch.zeros(2, 3, size, size))
                    if out.requires_grad:
                        out.sum().backward()
                flops += images * meter.flops / 2
        return StepCost(flops, 0)

    return _kept(method, settings, data, f"{name} {size} px", count).flops


def empty_batch(cls: type[Method], settings: Any, data: DataInfo) -> Batch:
    """Return a batch of zeros with the shapes that a method trains on, on the default device."""
    n = settings.batch_size
    several = [data.attributes] if cls.learns_from == "attributes" else []
    clip = [data.frames] if data.frames and cls.reads == "clips" else []
    beside = cls.learns_from == "neighbours"
    return Batch(
        torch.zeros(n, *clip, 3, data.size, data.size),
        torch.zeros(n, *several, dtype=torch.long),
        torch.zeros(n, data.landmarks, 3),
        torch.ones(n, data.size, data.size),
        torch.zeros(n, data.size, data.size, dtype=torch.uint8),
        torch.zeros(n, QUADRANTS, 3, data.size, data.size) if beside else None,
        torch.zeros(n, QUADRANTS) if beside else None,
    )


def _training(method: str, settings: Any, data: DataInfo) -> StepCost:
    cls = methods.load(method)
    meter = Meter()
    with meter:
        with torch.device("meta"):
            net: Any = cls(settings, data).train()
            batch = empty_batch(cls, settings, data)
        optimizers: dict[str, Optimizer] = net.optimizers()
        # As after an earlier step: optimisers have their state, and parameters a gradient.
        for optimizer in optimizers.values():
            for parameter in _parameters(optimizer):
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        meter.flops, meter.peak = 0.0, meter.held
        for phase, seen in net.updates(batch):
            if len(optimizers) > 1:
                for name, optimizer in optimizers.items():
                    for parameter in _parameters(optimizer):
                        parameter.requires_grad_(name == phase)
            optimizers[phase].zero_grad()
            with torch.device("meta"):
                terms = net(seen, phase)
            terms["loss"].backward()
            optimizers[phase].step()
            del terms
    return StepCost(meter.flops, meter.peak)


def _parameters(optimizer: Optimizer) -> Iterable[nn.Parameter]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _folder() -> Path:
    """Return where counts are remembered, of all configurations of this user."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "partbench", "step_cost")


@cache
def _code(method: str) -> str:
    code = fingerprint.fingerprint(__name__, plugins.module("methods", method))
    return f"{code} torch {torch.__version__}"


def _kept(
    method: str, settings: Any, data: DataInfo, name: str, count: Callable[[], StepCost]
) -> StepCost:
    """Return a count that this code made before, or count."""
    told = settings.model_dump(mode="json", exclude={"epochs", "images_per_epoch"})
    key = json.dumps([_code(method), method, told, data, name], sort_keys=True)
    return _remembered(sha256(key.encode()).hexdigest(), count)


_COUNTS: dict[str, StepCost] = {}


def _remembered(key: str, count: Callable[[], StepCost]) -> StepCost:
    if key not in _COUNTS:
        file = _folder() / f"{key}.json"
        try:
            flops, size = json.loads(file.read_text())
            _COUNTS[key] = StepCost(float(flops), int(size))
        except (OSError, ValueError, TypeError):  # not there, or cut off: it is only a memory
            _COUNTS[key] = count()
            with suppress(OSError):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(_COUNTS[key]))
    return _COUNTS[key]
