"""Weights that the authors of a paper released, read as ours; none of their code runs.

A file holds tensors under the names of the authors' modules. `Authors` says which of them is which
of ours. `read_released` checks that the file holds all of them and nothing else.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from partbench.errors import BadInput, shown
from partbench.nn.weights import open_file

COUNTER = "num_batches_tracked"
"""End of the name of a batch norm's step counter. Files of torch before 0.4.1 have none, and no
measurement needs it."""


def as_it_is(name: str, value: Tensor) -> Tensor:
    """Return a tensor that the authors store as we do."""
    return value


class Release(NamedTuple):
    """Weights that the authors of a paper released."""

    name: str
    """Their name in `partbench data list`."""
    file: str
    """Where they lie below the data root."""
    measured: Mapping[str, Any] = MappingProxyType({})
    """Settings under which their published numbers were measured, where these are not those of the
    training."""


class Authors(NamedTuple):
    """How a file of the authors holds the weights of a network."""

    names: Mapping[str, str]
    """Our name -> the authors' name, of each parameter and buffer that the file holds."""
    within: str = ""
    """Key of the file's dictionary of tensors; "" if the file holds nothing else."""
    absent: tuple[str, ...] = ()
    """Our names of what the authors did not release and no measurement needs; it is set to 0."""
    repeated: Mapping[str, str] = MappingProxyType({})
    """Start of the names under which the file holds tensors again -> that of the first names."""
    turn: Callable[[str, Tensor], Tensor] = as_it_is
    """Our name and the authors' tensor -> the tensor in our order, of the same shape."""
    opened: Callable[[Path, str, str], Any] = open_file
    """Opens the file, see `open_file`."""


def read_released(
    path: Path, authors: Authors, own: Mapping[str, Tensor], name: str
) -> dict[str, Tensor]:
    """Return the state of a network as the authors' file has it, by our names, on the CPU.

    Args:
        path: the file.
        authors: how it holds the state; `names` and `absent` together name all of `own`.
        own: the network's present state, for shapes and dtypes.
        name: what `partbench data list` calls the file, for messages.

    Raises:
        BadInput: the file is missing or damaged, holds an object that is not a tensor, lacks a
            tensor, or holds one that the network lacks, of another shape, or not finite.
    """
    assert set(own) == {*authors.names, *authors.absent}
    remedy = f"`partbench data check {name}` says which file the authors released"
    content = authors.opened(path, f"the released weights {name}", remedy)
    state = _tensors(path, content, authors.within, remedy)
    needed = {theirs for ours, theirs in authors.names.items() if not ours.endswith(COUNTER)}
    if missing := sorted(needed - set(state)):
        raise BadInput(f"{path} lacks {_first(missing)}; {remedy}")
    first = {key: _first_name(key, authors) for key in state}
    known = set(authors.names.values())
    if unknown := sorted(key for key in state if first[key] not in known):
        raise BadInput(
            f"{path} holds {_first(unknown)}, which this network lacks; {remedy}, and the settings "
            "must be those of its variant"
        )
    for key in state:
        original = state.get(first[key])
        if key != first[key] and not (original is not None and _is_same(state[key], original)):
            raise BadInput(
                f"{path}: {shown(key)} is not the same as {shown(first[key])}, as it is in the "
                f"authors' files; {remedy}"
            )
    result = {ours: torch.zeros_like(own[ours], device="cpu") for ours in authors.absent}
    for ours, theirs in authors.names.items():
        value = state.get(theirs, torch.zeros_like(own[ours], device="cpu"))
        if value.shape != own[ours].shape:
            raise BadInput(
                f"{path}: {shown(theirs)} is {_size(value)}, but that of this network is "
                f"{_size(own[ours])}; {remedy}, and the settings must be those of its variant"
            )
        if value.is_floating_point() != own[ours].is_floating_point() or not (
            value.isfinite().all()
        ):
            raise BadInput(
                f"{path}: {shown(theirs)} ({value.dtype}) holds other than finite numbers of the "
                f"kind {own[ours].dtype}; {remedy}"
            )
        result[ours] = authors.turn(ours, value.to(own[ours].dtype))
    return result


def _tensors(path: Path, content: Any, within: str, remedy: str) -> Mapping[str, Tensor]:
    """Return a file's tensors by name; raise BadInput if it holds something else."""
    if within:
        if not isinstance(content, Mapping) or within not in content:
            raise BadInput(f"{path} lacks '{within}', the network's weights; {remedy}")
        content = content[within]
    if not isinstance(content, Mapping):
        raise BadInput(
            f"{path} holds a {type(content).__name__} in place of tensors by name; {remedy}"
        )
    for key, value in content.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise BadInput(
                f"{path}: {shown(key)} is a {type(value).__name__}, not a plain tensor (a "
                f"checkpoint of a training may hold the network beside it); {remedy}"
            )
    return {str(key): value for key, value in content.items()}


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _first_name(key: str, authors: Authors) -> str:
    """Return the name of a tensor, or that of the one that it repeats."""
    for start, original in authors.repeated.items():
        if key.startswith(start):
            return original + key.removeprefix(start)
    return key


def _first(names: Collection[str]) -> str:
    """Return the first of some names as they stand in a message, and how many more there are."""
    first, *others = names
    return shown(first) + (f" and {len(others)} more" if others else "")


def _size(value: Tensor) -> str:
    return " x ".join(map(str, value.shape)) or "a scalar"
