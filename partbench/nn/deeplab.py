"""DeepLab-v2 (Chen et al., TPAMI 2018), with the half-channel branch of unsupervised parts.

The trunk is a ResNet-50 at output stride 8 whose strides sit on the first convolution of a block,
as in Caffe's; parameters are named as torchvision's, so its files can be read. Smaller trunks
stand in for it in reduced runs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from partbench.errors import BadInput, in_short
from partbench.nn.perceptual import mobilenet
from partbench.nn.resnet import resnet18_trunk

PREFIXES = ("module.", "backbone.", "encoder_q.")
"""What the files of self-supervised networks put before torchvision's names."""


class Bottleneck(nn.Module):
    """1x1, dilated 3x3 and 1x1 convolutions around which a shortcut leads.

    [B, inputs, h, w] -> [B, 4 * width, h / stride, w / stride], rounded up. The scales and shifts
    of the main branch's batch norms are frozen.
    """

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, first: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.bn1 = _frozen(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = _frozen(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = _frozen(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )
            if first
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class ASPP(nn.Module):
    """Dilated 3x3 convolutions side by side, summed: [B, channels, h, w] -> [B, k, h, w]."""

    def __init__(self, channels: int, k: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(channels, k, 3, padding=d, dilation=d) for d in dilations
        )
        for layer in self.conv2d_list:
            nn.init.normal_(layer.weight, std=0.01)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return torch.stack([layer(x) for layer in self.conv2d_list]).sum(0)


class DeepLab50(nn.Module):
    """[B, 3, S, S] -> logits [B, k, s, s], s about S / 8: 33 for 256, 17 for 128.

    The classifier sees the second half of the last stage's 2048 channels; the first half, which
    the authors' other branch was to use, is left without a purpose.
    """

    def __init__(self, k: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = _frozen(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.layer1 = _stage(64, 64, 3, 1, 1)
        self.layer2 = _stage(256, 128, 4, 2, 1)
        self.layer3 = _stage(512, 256, 6, 1, 2)
        self.layer4 = _stage(1024, 512, 3, 1, 4)
        self.layer5 = ASPP(1024, k, dilations)

    def features(self, x: Tensor) -> Tensor:
        """Return the last stage's output, [B, 2048, s, s]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.layer5(self.features(x)[:, 1024:])

    @property
    def head(self) -> nn.Module:
        """The classifier, which learns faster."""
        return self.layer5


class SmallDeepLab(nn.Module):
    """The same head on a smaller trunk: [B, 3, S, S] -> [B, k, S / stride, S / stride]."""

    def __init__(self, trunk: nn.Module, channels: int, k: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = ASPP(channels, k, dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.trunk(x))


def resnet18(k: int, dilations: Sequence[int], stride: int, width: int) -> SmallDeepLab:
    """Return DeepLab on the front of a ResNet-18, cut where stride 4 or 8 is reached."""
    return SmallDeepLab(resnet18_trunk(stride, width), width * stride // 4, k, dilations)


def dilated_mobilenet(k: int, dilations: Sequence[int]) -> SmallDeepLab:
    """Return DeepLab on MobileNetV1 x 0.25 at stride 8.

    Strides beyond are taken out, and the convolutions behind them dilated instead, so that
    trained weights keep their meaning.
    """
    trunk, stride, dilation = mobilenet(), 1, 1
    for layer in trunk.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            layer.dilation = layer.padding = (dilation, dilation)
            stride *= layer.stride[0]
            if stride > 8 and layer.stride[0] > 1:
                layer.stride = (1, 1)
                dilation *= 2
    return SmallDeepLab(trunk, 256, k, dilations)


def read_trunk(network: nn.Module, path: Path) -> int:
    """Copy a trained network's parameters from a file, those of the same name and shape.

    Args:
        network: whose parameters and buffers are overwritten.
        path: a state_dict, or a checkpoint with one under `state_dict`, `model` or `teacher`,
            torchvision's names, perhaps behind PREFIXES.

    Returns:
        How many parameters and buffers were copied.

    Raises:
        BadInput: the file cannot be read, or has less than half of the network's parameters.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(
            f"{path} is missing, the first weights of the trunk; place it there, or set `weights` "
            "to another file or to `none`"
        ) from None
    except Exception as error:  # torch raises anything on a damaged file
        raise BadInput(
            f"{path} does not hold weights ({in_short(error)}); delete it and place it anew"
        ) from None
    found = _tensors(content)
    own = network.state_dict()
    same = {k: v for k, v in found.items() if k in own and own[k].shape == v.shape}
    names = {name for name, _ in network.named_parameters()}
    matched = len(names & set(same))
    if 2 * matched < len(names):
        raise BadInput(
            f"{path}: only {matched} of the {len(names)} parameters of the network have one of "
            "their name and shape in it; give a file of the same architecture, named as "
            "torchvision's (`weights`, `backbone`)"
        )
    network.load_state_dict(same, strict=False)
    return len(same)


def _tensors(content: Any) -> dict[str, Tensor]:
    """Return the state_dict in a file's content, without prefixes."""
    for key in ("state_dict", "model", "teacher"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    found = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        while prefix := next((p for p in PREFIXES if str(name).startswith(p)), ""):
            name = name.removeprefix(prefix)
        if isinstance(value, Tensor):
            found[str(name)] = value
    return found


def _frozen(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm whose scales and shifts are not trained; its statistics go on."""
    layer = nn.BatchNorm2d(channels)
    layer.requires_grad_(False)
    return layer


def _stage(inputs: int, width: int, blocks: int, stride: int, dilation: int) -> nn.Sequential:
    first = Bottleneck(inputs, width, stride, dilation, first=True)
    rest = (Bottleneck(4 * width, width, 1, dilation, first=False) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
