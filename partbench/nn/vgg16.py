"""A perceptual VGG16 with weights from a file, such as DeepCluster's, trained without labels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from partbench.errors import BadInput
from partbench.files import data_root
from partbench.nn.perceptual import Perceptual, vgg
from partbench.nn.weights import read_state


class VGG16(Perceptual):
    """A `Perceptual` VGG16 with other weights, which are loaded at their first use.

    Args:
        file: path below the data root, see `read_vgg16`.
        layers: indices of modules of `vgg("vgg16")`, whatever else the file's network has.
    """

    def __init__(self, file: str, layers: tuple[int, ...]) -> None:
        super().__init__("vgg16", layers, normalize=True)
        self.file = file

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the activations of images [B, 3, H, W] in [0, 1], [B, C_l, H_l, W_l] each.

        Raises:
            BadInput: see `read_vgg16`.
        """
        if self.network is None and not images.is_meta:
            self.network = read_vgg16(self.file)[: max(self.layers) + 1]
        return super().__call__(images)


def read_vgg16(file: str) -> nn.Sequential:
    """Return the convolutional part of a trained VGG16, frozen, in eval mode, channels last.

    Its modules correspond to those of `vgg("vgg16")`. Batch norms are folded into the convolutions
    before them; Sobel filters join the first convolution in the first module.

    Args:
        file: path below the data root, of a file with torchvision's names and shapes for `vgg16`
            or `vgg16_bn`. It may also hold the filters that DeepCluster puts in front (Caron et
            al., ECCV 2018): `sobel.0`, a 1x1 convolution to grey, and `sobel.1`, a 3x3 convolution
            to the two channels that `features.0` then reads.

    Raises:
        BadInput: the file is missing, cannot be read, holds another network, or has weights that
            are not finite.
    """
    path = data_root() / file
    named = read_state(path, "the weights of the perceptual VGG16", "perceptual_weights")
    state = {k: v for k, v in named.items() if k.startswith(("features.", "sobel."))}
    # Keep the generator's state: a step's draws must not depend on which step loads the network.
    with torch.random.fork_rng(devices=[]):
        front, plain = nn.Sequential(), vgg("vgg16")
        if "sobel.0.weight" in state:
            front = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 3, padding=1))
            plain[0] = nn.Conv2d(2, plain[0].out_channels, 3, padding=1)  # type: ignore[arg-type]
        layers: list[nn.Module] = []
        for layer in plain:
            layers.append(layer)
            if isinstance(layer, nn.Conv2d) and "features.1.running_mean" in state:
                layers.append(nn.BatchNorm2d(layer.out_channels))
    whole = nn.ModuleDict({"sobel": front, "features": nn.Sequential(*layers)})
    try:
        whole.load_state_dict(state)
    except RuntimeError:  # its message lists all names
        raise BadInput(
            f"{path} is not a VGG16 with torchvision's names and shapes; set `perceptual_weights` "
            "to a file of one, with or without batch norm and DeepCluster's Sobel filters"
        ) from None
    whole.double().eval()
    folded: list[Any] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            folded[-1] = fuse_conv_bn_eval(folded[-1], layer)
        else:
            folded.append(layer)
    folded[0] = nn.Sequential(*front, folded[0])
    network = nn.Sequential(*folded).float()
    if not all(parameter.isfinite().all() for parameter in network.parameters()):
        raise BadInput(
            f"{path} has weights that are not finite; replace it, or set `perceptual_weights` to "
            "another file"
        )
    return network.requires_grad_(False).eval().to(memory_format=torch.channels_last)
