"""DeepLab-v2 (Chen et al., TPAMI 2018), with the half-channel branch of unsupervised parts.

The trunk is a ResNet-50 at output stride 8. As in Caffe's ResNet, a block strides in its first
convolution. Parameters have torchvision's names, so that torchvision's files of weights can be
read. Reduced runs use smaller trunks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD

from partbench.errors import BadInput
from partbench.files import data_root
from partbench.nn.perceptual import FILES, load, mobilenet
from partbench.nn.released import Authors
from partbench.nn.resnet import resnet18_trunk
from partbench.nn.weights import read_state
from partbench.settings import Settings

_BLUE, _GREEN, _RED = 104.00698793, 116.66876762, 122.67891434
CAFFE_MEANS = {"caffe": (_BLUE, _GREEN, _RED), "caffe_rgb": (_RED, _GREEN, _BLUE)}
"""Setting `normalize` -> what is subtracted from red, green and blue, on a scale of 0 to 255."""
Normalization = Literal["caffe", "caffe_rgb", "imagenet", "half"]
RESNET50 = "weights/resnet50-0676ba61.pth"
SMALLEST = 32
"""Smallest side of an image, pixels."""


class DeepLabSettings(Settings):
    """The trunk, the head, and how SGD trains them; the defaults are those of both papers' code."""

    backbone: Literal["resnet50", "resnet18", "mobilenet"] = Field(
        "resnet50",
        description="trunk of DeepLab-v2; resnet18 is cut where it reaches `stride`, mobilenet is "
        "MobileNetV1 x 0.25 at stride 8",
    )
    stride: Literal[4, 8] = Field(8, description="resnet18: pixels per cell of the logits")
    width: int = Field(64, ge=1, description="resnet18: channels of the first stage")
    dilations: tuple[int, ...] = Field(
        (6, 12, 18, 24), min_length=1, description="dilations of the head's 3x3 convolutions"
    )
    weights: str = Field(
        "imagenet",
        description="first weights of the trunk: imagenet, trained with labels (for resnet50 "
        "torchvision's, as the papers' Caffe file is no longer available); none; or a file below "
        "the data root with torchvision's names, such as SwAV's, DINO's or MoCo's",
    )
    normalize: Normalization = Field(
        "caffe",
        description="mean and SD that normalise the images; caffe: subtract the means of blue, "
        "green and red from red, green and blue, on a scale of 0 to 255, as the authors of "
        "unsup_parts do; caffe_rgb: subtract each mean from its own colour, as those of SCOPS do",
    )
    learning_rate: float = Field(1e-5, gt=0, description="SGD, learning rate of the trunk")
    head_factor: float = Field(10.0, gt=0, description="how many times faster the head learns")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    power: float = Field(0.9, ge=0, description="exponent of the learning rate's decay to 0")
    decay_steps: int = Field(
        100_000, ge=1, description="steps of that decay, however long the training is"
    )
    clip: float = Field(5.0, gt=0, description="largest joint norm of the network's gradients")
    batch_size: int = Field(6, ge=1, description="images per step, over all processes")
    images_per_epoch: int | None = Field(6000, ge=1, description="1000 steps")


class Bottleneck(nn.Module):
    """1x1, dilated 3x3 and 1x1 convolutions with a shortcut around them.

    [B, inputs, h, w] -> [B, 4 * width, h / stride, w / stride], rounded up. The batch norms of the
    main branch have frozen scales and shifts.
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
    """The sum of parallel dilated 3x3 convolutions: [B, channels, h, w] -> [B, k, h, w]."""

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
    """DeepLab on a ResNet-50: [B, 3, S, S] -> logits [B, k, s, s].

    s is about S / 8: 33 for 256, 17 for 128. The classifier sees only the second half of the last
    stage's 2048 channels. The first half was meant for another branch in the authors' code, and
    nothing reads it.
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
        """The classifier, which learns faster than the trunk."""
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
    """Return DeepLab on a ResNet-18 that is cut where it reaches the stride, 4 or 8."""
    return SmallDeepLab(resnet18_trunk(stride, width), width * stride // 4, k, dilations)


def dilated_mobilenet(k: int, dilations: Sequence[int]) -> SmallDeepLab:
    """Return DeepLab on MobileNetV1 x 0.25 at stride 8.

    Strides beyond 8 are removed, and the convolutions after them dilated instead, so that trained
    weights keep their meaning.
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


def segmenter(outputs: int, size: int, s: DeepLabSettings) -> nn.Module:
    """Return DeepLab on the trunk that the settings name.

    It maps [B, 3, size, size] to logits [B, outputs, h, w]. Its `head` is the classifier.

    Raises:
        BadInput: the images are too small, or the settings name weights that the trunk lacks.
    """
    if size < SMALLEST:
        raise BadInput(
            f"images of {size} px are too small for DeepLab; prepare the data at a `size` of "
            f"{SMALLEST} or more"
        )
    if s.backbone == "resnet18" and s.weights == "imagenet":
        raise BadInput(
            "no trained weights of resnet18 can be fetched; set `weights` to `none` or to a file, "
            "or `backbone` to resnet50 or mobilenet"
        )
    if s.backbone == "resnet50":
        return DeepLab50(outputs, s.dilations)
    if s.backbone == "mobilenet":
        return dilated_mobilenet(outputs, s.dilations)
    return resnet18(outputs, s.dilations, s.stride, s.width)


def first_weights(s: DeepLabSettings) -> tuple[str, ...]:
    """Return the trunk's first weights, if they can be fetched, by their name in `data list`.

    The tuple has one name or none.
    """
    return ("resnet50",) if s.backbone == "resnet50" and s.weights == "imagenet" else ()


def placed_weights(s: DeepLabSettings) -> str | None:
    """Return the file of the trunk's first weights that a person places, below the data root."""
    if s.weights == "imagenet":
        return FILES["mobilenet"] if s.backbone == "mobilenet" else None
    return None if s.weights == "none" else s.weights


def read_first_weights(network: Any, s: DeepLabSettings) -> None:
    """Read the first weights that the settings name into the trunk of a `segmenter`.

    Raises:
        BadInput: see `read_trunk`.
    """
    if s.weights == "imagenet" and s.backbone == "mobilenet":
        network.trunk.load_state_dict(load("mobilenet").state_dict())
    elif s.weights != "none":
        read_trunk(network, data_root() / (RESNET50 if s.weights == "imagenet" else s.weights))


def read_trunk(network: nn.Module, path: Path) -> int:
    """Copy the parameters and buffers of the same name and shape from a file to a network.

    Args:
        network: to copy to.
        path: a file with torchvision's names, see `partbench.nn.weights.read_state`.

    Returns:
        How many parameters and buffers were copied.

    Raises:
        BadInput: the file cannot be read, or holds fewer than half of the network's parameters.
    """
    state = read_state(path, "the first weights of the trunk", "weights")
    own = network.state_dict()
    same = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    names = {name for name, _ in network.named_parameters()}
    matched = len(names & set(same))
    if 2 * matched < len(names):
        raise BadInput(
            f"{path} holds only {matched} of the {len(names)} parameters of the network by name "
            "and shape; give a file of the same architecture with torchvision's names (`weights`, "
            "`backbone`)"
        )
    network.load_state_dict(same, strict=False)
    return len(same)


def authors(network: nn.Module, within: str = "", absent: tuple[str, ...] = ()) -> Authors:
    """Return how a file of the authors holds a method whose `network` is a `DeepLab50`.

    Theirs has the same modules under the same names.

    Args:
        network: the network.
        within: see `Authors`.
        absent: see `Authors`.
    """
    return Authors({f"network.{name}": name for name in network.state_dict()}, within, absent)


def sgd(network: Any, s: DeepLabSettings) -> SGD:
    """Return SGD for a `segmenter`, in two groups: the trunk, then the head.

    Before each step it clips the norm of all gradients together.
    """
    head = list(network.head.parameters())
    trained = [p for p in network.parameters() if p.requires_grad]
    trunk = set(trained) - set(head)
    groups = [
        {"params": [p for p in trained if p in trunk], "lr": s.learning_rate},
        {"params": head, "lr": s.head_factor * s.learning_rate},
    ]
    optimizer = SGD(groups, momentum=s.momentum, weight_decay=s.weight_decay)

    def clip(*_: Any) -> None:
        nn.utils.clip_grad_norm_(trained, s.clip)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def decay(optimizer: SGD, s: DeepLabSettings, step: int) -> None:
    """Lower the learning rates of the two groups of `sgd` to those after `step` steps.

    Other groups keep theirs.
    """
    rate = s.learning_rate * max(1 - step / s.decay_steps, 0) ** s.power
    for group, factor in zip(optimizer.param_groups[:2], (1, s.head_factor), strict=True):
        group["lr"] = factor * rate


def _frozen(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm whose scales and shifts are frozen; its statistics are still updated."""
    layer = nn.BatchNorm2d(channels)
    layer.requires_grad_(False)
    return layer


def _stage(inputs: int, width: int, blocks: int, stride: int, dilation: int) -> nn.Sequential:
    """Return one stage of the ResNet-50; only its first block strides."""
    first = Bottleneck(inputs, width, stride, dilation, first=True)
    rest = (Bottleneck(4 * width, width, 1, dilation, first=False) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
