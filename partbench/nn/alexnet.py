"""The convolutions of the one-column AlexNet (Krizhevsky 2014, arXiv 1404.5997)."""

from torch import nn


def alexnet_trunk() -> nn.Sequential:
    """Return conv1 to conv5 as TensorFlow's slim has them in `alexnet_v2`, with ReLUs.

    Without local response norm, and without the pooling after conv5. [B, 3, S, S] ->
    [B, 256, h, h], where h = 4 for S = 96.
    """
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
    )
