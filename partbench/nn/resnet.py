"""The front of a ResNet-18, cut where its stride is reached."""

from torch import nn
from torchvision.models.resnet import BasicBlock


def resnet18_trunk(stride: int, width: int = 64) -> nn.Sequential:
    """Return conv1, bn1, relu, maxpool and the first ResNet-18 stages, up to a total stride.

    Equal to torchvision's resnet18 at width 64 (the only width it has), children in its order.

    Args:
        stride: 4, 8, 16 or 32, reached after 1, 2, 3 or 4 stages.
        width: channels of the first stage; each later one has twice as many.

    Returns:
        [B, 3, S, S] -> [B, width * stride / 4, S / stride, S / stride].
    """
    stages = {4: 1, 8: 2, 16: 3, 32: 4}[stride]
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    channels = width
    for stage in range(stages):
        out = width * 2**stage
        first_stride = 1 if stage == 0 else 2
        shortcut = (
            None
            if stage == 0
            else nn.Sequential(
                nn.Conv2d(channels, out, 1, stride=first_stride, bias=False), nn.BatchNorm2d(out)
            )
        )
        layers.append(
            nn.Sequential(BasicBlock(channels, out, first_stride, shortcut), BasicBlock(out, out))
        )
        channels = out
    return nn.Sequential(*layers)
