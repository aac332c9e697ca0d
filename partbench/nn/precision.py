"""Where autocast would round too much."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def exact(like: Tensor) -> AbstractContextManager[object]:
    """Return a context in which tensors on the device of `like` keep their own precision.

    A coordinate in bfloat16 is wrong by pixels.
    """
    device = like.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
