"""DeepCluster's AlexNet (Caron et al., ECCV 2018): features of images, learnt without labels.

Five convolutions with batch norm read the two Sobel gradients of the grey image, and two layers of
4,096 units follow. `top_layer`, which the authors train on cluster numbers, is left out, as is the
last ReLU: Zbinden (2019) compares what goes into it.
"""

import torch
from torch import Tensor, nn

from partbench.errors import BadInput
from partbench.files import data_root
from partbench.nn.weights import read_state

FILE = "weights/deepcluster_alexnet.pth"
CONVOLUTIONS = ((96, 11, 4, 2), (256, 5, 1, 2), (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1))
"""Channels, kernel, stride and padding."""
POOLED = (0, 1, 4)
"""Convolutions that a pooling of 3 x 3 pixels at stride 2 follows."""


class AlexNet(nn.Module):
    """The network, its modules named as in the authors' files."""

    def __init__(self) -> None:
        super().__init__()
        self.sobel = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 3, padding=1))
        layers: list[nn.Module] = []
        channels = 2
        for i, (width, kernel, stride, padding) in enumerate(CONVOLUTIONS):
            layers += [nn.Conv2d(channels, width, kernel, stride, padding), nn.BatchNorm2d(width)]
            layers.append(nn.ReLU(inplace=True))
            if i in POOLED:
                layers.append(nn.MaxPool2d(3, 2))
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the features [B, 4096] of normalised images [B, 3, 224, 224]."""
        return self.classifier(self.features(self.sobel(images)).flatten(1))


def read_alexnet() -> AlexNet:
    """Return the trained network, frozen, in eval mode.

    Raises:
        BadInput: the file is missing, cannot be read, holds another network, or has weights that
            are not finite.
    """
    path = data_root() / FILE
    state = read_state(path, "the weights of DeepCluster's AlexNet", "network")
    state = {name: value for name, value in state.items() if not name.startswith("top_layer.")}
    # Keep the generator's state: no draw must depend on what is loaded before.
    with torch.random.fork_rng(devices=[]):
        network = AlexNet()
    try:
        network.load_state_dict(state)
    except RuntimeError:  # its message lists all names
        raise BadInput(
            f"{path} is not DeepCluster's AlexNet with Sobel filters and batch norm; replace it by "
            "the authors' file (`partbench data list`), or set `network` to another"
        ) from None
    if not all(value.isfinite().all() for value in state.values()):
        raise BadInput(f"{path} has weights that are not finite; replace it")
    return network.requires_grad_(False).eval()
