"""A ResNet-18 (He et al., CVPR 2016), cut where it reaches a given stride.

The block is written out here because importing torchvision would cost every job seconds.
"""

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them, with torchvision's parameter names.

    [B, inputs, h, w] -> [B, outputs, h / stride, w / stride].
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
            if stride != 1 or inputs != outputs
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.downsample(x))


def resnet18_trunk(stride: int, width: int = 64) -> nn.Sequential:
    """Return conv1, bn1, relu, maxpool and the first stages of a ResNet-18, up to a total stride.

    The children follow torchvision's order. At width 64, the only width that torchvision has, the
    network equals torchvision's.

    Args:
        stride: 4, 8, 16 or 32, reached after 1, 2, 3 or 4 stages.
        width: channels of the first stage; each later stage has twice as many.

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
        outputs = width * 2**stage
        first = BasicBlock(channels, outputs, 1 if stage == 0 else 2)
        layers.append(nn.Sequential(first, BasicBlock(outputs, outputs, 1)))
        channels = outputs
    return nn.Sequential(*layers)
