"""Escapes from autocast and from TF32 where their rounding would do harm."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor


def exact(like: Tensor) -> AbstractContextManager[object]:
    """Return a context that disables autocast on the device of `like`.

    Coordinates need it: rounded to bfloat16, they are off by pixels.
    """
    device = like.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute convolutions in whole float32 on a GPU, too, and the same way each time.

    cuDNN rounds their inputs to 10 bits by default, and features then differ from the CPU's.
    """
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        yield


def widened(x: Tensor) -> Tensor:
    """Return a tensor in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
