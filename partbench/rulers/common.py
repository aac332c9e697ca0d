"""What all rulers share: the form of a result, arrays of any kind, errors of a library."""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput
from partbench.score.arrays import LARGEST

P = ParamSpec("P")
R = TypeVar("R")


class Estimate(NamedTuple):
    """A number with its interval."""

    value: float
    interval: tuple[float, float] | None
    """95 %; None where it was not asked for, or cannot be known."""
    unit: str
    n: int
    """Images or samples that count."""
    version: int
    """Of the definition; numbers of different versions are not comparable."""


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function whose `BadInput` is a `ValueError`, which Python programs expect."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except BadInput as error:
            raise ValueError(str(error)) from None

    return wrapped


def array(values: Any, name: str) -> NDArray[Any]:
    """Return an array, or a tensor of any device, as numpy's.

    Args:
        values: numbers; a tensor is detached, and bfloat16 becomes float32.
        name: of the argument, for the message.

    Raises:
        BadInput: what is given holds no plain numbers.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    try:
        made = np.asarray(values)
    except ValueError:  # rows of different lengths
        made = np.empty(0, object)
    if made.dtype.kind not in "fiub":
        raise BadInput(f"{name} is {made.dtype}; give an array of plain numbers")
    return made


def floats(values: Any, name: str) -> NDArray[np.float64]:
    """Return numbers as float64; see `array`.

    Raises:
        BadInput: also where a value is beyond `LARGEST`, since sums of squares overflow.
    """
    made = array(values, name).astype(np.float64)
    if (np.abs(np.where(np.isfinite(made), made, 0)) > LARGEST).any():
        raise BadInput(f"{name} holds values beyond {LARGEST:g}; give them in another unit")
    return made


def booleans(values: Any, name: str) -> NDArray[np.bool_]:
    """Return true and false, or 1 and 0, as booleans.

    Raises:
        BadInput: another value.
    """
    made = array(values, name)
    if not np.isin(made, (0, 1)).all():
        raise BadInput(f"{name} holds other values than true and false")
    return made.astype(bool)
