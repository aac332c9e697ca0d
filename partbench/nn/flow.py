"""Optical flow of pairs of frames: how far what each pixel shows has moved, and pictures of it.

- `raft_large` and `raft_small` are torchvision's RAFT (Teed and Deng, ECCV 2020), trained on drawn
  and real scenes with known flow.
- `tvl1` is scikit-image's TV-L1 (Zach, Pock and Bischof, DAGM 2007). It needs no file and no GPU,
  and is what action recognition took when RAFT was not known.

Networks that are trained on photos see flow as pictures (Donahue et al., CVPR 2015): red and green
are the motion to the right and downwards, blue is its speed.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from partbench.files import data_root
from partbench.nn.precision import without_tf32
from partbench.nn.weights import open_file, wrong_content

Estimator = Literal["raft_large", "raft_small", "tvl1"]
FILES = {
    "raft_large": "weights/raft_large_C_T_SKHT_V2-ff5fadd5.pth",
    "raft_small": "weights/raft_small_C_T_V2-01064c6d.pth",
}
LEAST_SIDE = 128
"""Pixels of the smallest frame that RAFT takes."""
STRIDE = 8
"""Of which a side of RAFT's frames is a multiple."""
UPDATES = 12
"""Of RAFT's flow, torchvision's default."""
AT_ONCE = 16
"""Pairs of frames: those of 240 x 320 px take some hundred MiB each."""
STILL, LEVELS = 128, 127
"""Byte of a picture where nothing moves, and bytes from there to the fastest motion."""

Flow = Callable[[Tensor], Tensor]
"""Pairs uint8 [B, 2, H, W, 3] -> float32 [B, 2, H, W], motion to the right and downwards from the
first frame to the second, pixels, at each pixel of the first."""


def load(name: Estimator, device: torch.device) -> Flow:
    """Return what estimates flow, on a device.

    Raises:
        BadInput: the file of weights is missing, or holds something else.
    """
    if name == "tvl1":
        return tvl1
    network = untrained(name)
    path, what = data_root() / FILES[name], f"the weights of {name}"
    remedy = f"run `partbench data fetch {name}`, or set `network` to `tvl1`"
    content = open_file(path, what, remedy)
    try:
        network.load_state_dict(content)
    except Exception as error:  # the file can hold anything
        raise wrong_content(path, what, error) from None
    return of_network(network.to(device))


def untrained(name: str) -> nn.Module:
    """Return a RAFT of torchvision without trained weights, frozen, in eval mode."""
    # Imported here because it takes time, which no other estimator needs.
    from torchvision.models import optical_flow

    network: nn.Module = getattr(optical_flow, name)(weights=None, progress=False)
    return network.requires_grad_(False).eval()


def of_network(network: nn.Module) -> Flow:
    """Return what estimates flow by a RAFT, on the network's device."""

    def estimate(pairs: Tensor) -> Tensor:
        device = next(network.parameters()).device
        return torch.cat([_raft(network, some.to(device)) for some in pairs.split(AT_ONCE)])

    return estimate


@torch.inference_mode()
def _raft(network: nn.Module, pairs: Tensor) -> Tensor:
    frames = pairs.movedim(-1, -3) / 127.5 - 1
    height, width = frames.shape[-2:]
    scale = max(math.ceil(LEAST_SIDE / min(height, width)), 1)
    x = frames.flatten(0, 1)
    if scale > 1:
        x = F.interpolate(x, scale_factor=scale, mode="bilinear")
    room = [-side % STRIDE for side in x.shape[-2:]]
    x = F.pad(x, (0, room[1], 0, room[0]), mode="replicate").unflatten(0, (-1, 2))
    with without_tf32():
        flow: Tensor = network(x[:, 0], x[:, 1], num_flow_updates=UPDATES)[-1]
    flow = flow[..., : scale * height, : scale * width]
    return F.avg_pool2d(flow, scale) / scale if scale > 1 else flow


def tvl1(pairs: Tensor) -> Tensor:
    """Return the flow by TV-L1 of the frames' grey levels; see `Flow`."""
    grey = (pairs.float().mean(-1) / 255).cpu().numpy()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return torch.from_numpy(np.stack(list(pool.map(_tvl1, grey))))


def _tvl1(pair: NDArray[np.float32]) -> NDArray[np.float32]:
    from skimage.registration import optical_flow_tvl1

    down, right = optical_flow_tvl1(*pair)
    return np.stack([right, down]).astype(np.float32)


def pictures(flow: Tensor, bound: float) -> Tensor:
    """Return pictures of flow, uint8 [B, H, W, 3].

    Args:
        flow: [B, 2, H, W], pixels.
        bound: motion that is drawn as the fastest, either way; pixels.
    """
    way = (flow / bound).clamp(-1, 1)
    speed = (flow.norm(dim=1, keepdim=True) / bound).clamp(max=1)
    drawn = STILL + LEVELS * torch.cat([way, speed], 1)
    return drawn.round().byte().movedim(1, -1)


def turned(images: Tensor) -> Tensor:
    """Return mirrored pictures of flow [..., 3, H, W] in [0, 1] with their motion mirrored, too."""
    right, *others = images.unbind(-3)
    return torch.stack([2 * STILL / 255 - right, *others], -3)
