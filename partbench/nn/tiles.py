"""Features of the four quadrants of images, each enlarged to a whole image for a frozen network."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from partbench.errors import BadInput
from partbench.files import data_root
from partbench.nn import perceptual, timm_networks
from partbench.nn.deepcluster import read_alexnet
from partbench.nn.normalization import IMAGENET_MEAN_STD
from partbench.nn.timm_networks import TIMM

OWN = ("alexnet", "mobilenet", "random")
"""Networks beside those of timm: DeepCluster's, see `perceptual`, and a small one that needs no
file."""
AT_ONCE = 64
"""Tiles in the network at once."""


def quadrants(images: Tensor, side: int) -> Tensor:
    """Return the quadrants of images as images of their own, [B, 4, 3, side, side].

    They are counted top left, top right, bottom left, bottom right.

    Args:
        images: [B, 3, S, S]; S is even.
        side: to which they are resized bilinearly.
    """
    half = images.shape[-1] // 2
    tiles = images.unflatten(3, (2, half)).unflatten(2, (2, half)).permute(0, 2, 4, 1, 3, 5)
    tiles = tiles.flatten(0, 2)
    if half != side:
        tiles = F.interpolate(tiles, (side, side), mode="bilinear", antialias=half > side)
    return tiles.unflatten(0, (-1, 4))


class TileFeatures:
    """A frozen network that describes the quadrants of images.

    Args:
        network: one of `OWN`, or `timm:NAME`.
        weights: file below the data root, of a network of timm.
        side: of the tiles that the network sees, pixels.
        device: to compute on.

    Raises:
        BadInput: there is no such network, or its weights are missing or others.
    """

    def __init__(self, network: str, weights: str | None, side: int, device: torch.device) -> None:
        self.network = _load(network, weights, device)
        self.side, self.device = side, device
        self.mean, self.std = (torch.tensor(v, device=device).view(3, 1, 1)
                               for v in IMAGENET_MEAN_STD)  # fmt: skip

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of images [B, 3, S, S] in [0, 1], [B, 4, D] float32.

        Raises:
            BadInput: the network does not fit tiles of that size, or a feature is not finite.
        """
        tiles = quadrants(images.to(self.device), self.side).flatten(0, 1)
        tiles = (tiles - self.mean) / self.std
        try:
            features = torch.cat([self.network(part) for part in tiles.split(AT_ONCE)])
        except (RuntimeError, AssertionError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise BadInput(
                f"the network does not take tiles of {self.side} px ({error}); set `side` to what "
                "it was trained with"
            ) from None
        if not features.isfinite().all():
            raise BadInput("a feature is not finite; look whether the network's file is right")
        return features.float().unflatten(0, (-1, 4))


def _load(network: str, weights: str | None, device: torch.device) -> Callable[[Tensor], Tensor]:
    if network == "alexnet":
        return read_alexnet().to(device)
    if network in OWN:
        file = perceptual.FILES.get(network)
        if file and not (data_root() / file).exists():
            raise BadInput(
                f"{data_root() / file} (the weights of {network}) is missing; place it there, or "
                "set `network` to another"
            )
        layers = perceptual.load(network).to(device)
        # A 2 x 2 grid, so that it matters where in a tile something is.
        return lambda tiles: F.adaptive_avg_pool2d(layers(tiles), 2).flatten(1)
    name = network.removeprefix(TIMM)
    with torch.random.fork_rng(devices=[]):
        of_timm = timm_networks.create(name)
    timm_networks.read_weights(of_timm, data_root() / str(weights), network, "weights", "network")
    return of_timm.requires_grad_(False).eval().to(device)
