"""The networks of LORBMS (Zbinden, MSc thesis, University of Bern, 2019).

Encoder and decoder are the two paths of a fully convolutional DenseNet (Jegou et al., CVPRW 2017)
without the connections between them. Defaults are the thesis's. Layers and initial weights follow
its public code.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partbench.errors import BadInput
from partbench.nn.precision import widened
from partbench.nn.spectral import SpectralConv2d

DENSE_LAYERS = (4, 5, 7, 10, 12)
"""Layers of the dense blocks, from the finest scale to the coarsest."""


def instance_norm(x: Tensor) -> Tensor:
    """Return maps [B, C, h, w] less their mean, divided by their SD, each map by itself.

    Whatever the memory format, which torch's `instance_norm` would change, and at least in float32.
    """
    wide = widened(x)
    centred = wide - wide.mean((2, 3), keepdim=True)
    return (centred * (centred.square().mean((2, 3), keepdim=True) + 1e-9).rsqrt()).to(x.dtype)


def norm_relu(x: Tensor) -> Tensor:
    """Return ReLU of the instance norm."""
    return F.relu(instance_norm(x))


def with_coordinates(images: Tensor) -> Tensor:
    """Return images [B, 3, h, w] with planes of x and y from -1 to 1, [B, 5, h, w]."""
    n, _, height, width = images.shape
    x = torch.linspace(-1, 1, width, device=images.device, dtype=images.dtype)
    y = torch.linspace(-1, 1, height, device=images.device, dtype=images.dtype)
    planes = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    return torch.cat([images, planes.expand(n, -1, -1, -1)], 1)


class SceneEncoder(nn.Module):
    """The down path: [B, 3, S, S] -> [B, code, S / 2^b, S / 2^b] for b dense blocks.

    Args:
        code: channels of the result.
        first: channels of the first convolution.
        growth: channels that each dense layer adds.
        layers: of each dense block, the finest first.
    """

    def __init__(
        self,
        code: int = 192,
        first: int = 48,
        growth: int = 16,
        layers: Sequence[int] = DENSE_LAYERS,
    ) -> None:
        super().__init__()
        channels = first
        self.first = nn.Conv2d(5, channels, 3, padding=1)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for n in layers:
            inputs = range(channels, channels + n * growth, growth)
            self.blocks.append(nn.ModuleList(nn.Conv2d(c, growth, 3, padding=1) for c in inputs))
            channels += n * growth
            self.transitions.append(nn.Conv2d(channels, channels, 1))
        self.last = nn.Conv2d(channels, code, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.constant_(layer.bias, 0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Return the code of normalised images."""
        x = self.first(with_coordinates(images))
        for block, transition in zip(self.blocks, self.transitions, strict=True):
            # Each layer reads the activations of all before it. Instance norm keeps channels
            # apart, so each of them is normalised once, not once for every layer that reads it.
            active = norm_relu(x)
            for layer in block:  # type: ignore[attr-defined]
                active = torch.cat([active, norm_relu(layer(active))], 1)
            x = F.max_pool2d(transition(active), 2)
        return self.last(x)


class Up(SpectralConv2d):
    """Twice the size: [B, inputs, h, w] -> [B, outputs, 2h, 2w].

    The authors' code repeats the map four times and convolves with stride 2, where TensorFlow's
    padding adds zeros at the right and at the bottom only. The first two of a kernel's three rows
    then always see the same, and so do its columns. Their sums on the map repeated twice give the
    same numbers with half of the work.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, bias=False)
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the enlarged map."""
        kernel = self.divided_weight()
        kernel = torch.cat([kernel[..., :2, :].sum(-2, keepdim=True), kernel[..., 2:, :]], -2)
        kernel = torch.cat([kernel[..., :2].sum(-1, keepdim=True), kernel[..., 2:]], -1)
        return F.conv2d(F.pad(F.interpolate(x, scale_factor=2), (0, 1, 0, 1)), kernel)


class SceneDecoder(nn.Module):
    """The up path, which undoes `SceneEncoder`: [B, code, h, w] -> [B, 3, 2^b h, 2^b w] in [-1, 1].

    Args:
        code: see `SceneEncoder`, as for the following.
        first: channels.
        growth: channels.
        layers: the finest block's first.
        normed: apply instance norm before the ReLU of each dense layer.
    """

    def __init__(
        self,
        code: int = 192,
        first: int = 48,
        growth: int = 16,
        layers: Sequence[int] = DENSE_LAYERS,
        normed: bool = False,
    ) -> None:
        super().__init__()
        self.activate: Callable[[Tensor], Tensor] = norm_relu if normed else F.relu
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        below = code
        for i in reversed(range(len(layers))):
            channels = first + growth * sum(layers[: i + 1])
            self.ups.append(Up(below, channels))
            below = growth * layers[i]
            inputs = range(channels, channels + below, growth)
            self.blocks.append(nn.ModuleList(_spectral(c, growth, 3) for c in inputs))
        self.last = _spectral(channels + below, 3, 1)

    def forward(self, code: Tensor) -> Tensor:
        """Return the images, normalised."""
        fresh = code
        for up, block in zip(self.ups, self.blocks, strict=True):
            stack = up(fresh)
            kept = stack.shape[1]
            for layer in block:  # type: ignore[attr-defined]
                stack = torch.cat([stack, layer(self.activate(stack))], 1)
            fresh = stack[:, kept:]  # the next block sees only what this one added
        return torch.tanh(widened(self.last(stack)))


class PatchDiscriminator(nn.Module):
    """Whether patches look real: [B, 3, S, S] -> logits [B, S / 2^layers, S / 2^layers].

    Args:
        width: channels of the first convolution; each later one has twice as many.
        layers: convolutions of stride 2.
    """

    def __init__(self, width: int = 42, layers: int = 4) -> None:
        super().__init__()
        first = nn.Conv2d(3, width, 4, 2, 1)
        init_small_(first)
        convolutions: list[nn.Module] = [first]
        for i in range(layers - 1):
            convolutions.append(_spectral(width << i, width << (i + 1), 4, 2))
        activated = ((conv, nn.LeakyReLU(0.2, inplace=True)) for conv in convolutions)
        self.trunk = nn.Sequential(*(module for pair in activated for module in pair))
        self.last = nn.Conv2d(width << (layers - 1), 1, 1)
        init_small_(self.last)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of normalised images."""
        return widened(self.last(self.trunk(images)).squeeze(1))


def _spectral(inputs: int, outputs: int, kernel: int, stride: int = 1) -> SpectralConv2d:
    """Return a convolution with spectral norm that pads as TensorFlow does."""
    conv = SpectralConv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2)
    init_small_(conv)
    return conv


def init_small_(conv: nn.Conv2d) -> None:
    """Initialise a convolution as the code does in decoder and discriminator."""
    nn.init.trunc_normal_(conv.weight, std=0.01, a=-0.02, b=0.02)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, 0.01)


class MaskClassifier(nn.Sequential):
    """AlexNet with BatchNorm that sees images one upon the other: [B, 3 n, S, S] -> [B, outputs].

    Hu et al. (CVPR 2018) ask it which parts of a mixed image come from which image.

    Args:
        images: n, how many images are laid upon each other.
        size: S, at least 28, or 36 where the last pooling takes 3.
        outputs: logits.
        width: a third of the channels of the first convolution.
        hidden: units of the two hidden layers.
        last_pool: size and stride of the last pooling.

    Raises:
        BadInput: the images are smaller.
    """

    def __init__(
        self,
        images: int = 2,
        size: int = 64,
        outputs: int = 4,
        width: int = 32,
        hidden: int = 4096,
        last_pool: tuple[int, int] = (2, 1),
    ) -> None:
        cells = ((size - 6) // 2 - 1) // 2
        cells = ((cells - 1) // 2 - last_pool[0]) // last_pool[1] + 1
        if cells < 1:
            raise BadInput(
                f"images of {size} px are too small for the classifier of mixed scenes; give the "
                "data set a `size` of at least 28"
            )
        super().__init__(
            *_stage(3 * images, 3 * width, 8, stride=2),
            nn.MaxPool2d(3, 2),
            *_stage(3 * width, 8 * width, 5, groups=2),
            nn.MaxPool2d(3, 2),
            *_stage(8 * width, 12 * width, 3),
            *_stage(12 * width, 12 * width, 3, groups=2),
            *_stage(12 * width, 8 * width, 3, groups=2),
            nn.MaxPool2d(*last_pool),
            nn.Flatten(),
            linear(8 * width * cells**2, hidden),
            nn.ReLU(inplace=True),
            linear(hidden, hidden),
            nn.ReLU(inplace=True),
            linear(hidden, outputs),
        )


def _stage(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution, ReLU and BatchNorm, in this order; padded unless it has a stride."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 if stride == 1 else 0, 1, groups)
    # Glorot's uniform range, with TensorFlow's reading of grouped weights and of biases.
    bound = (6 / (kernel**2 * (inputs // groups + outputs))) ** 0.5
    nn.init.uniform_(conv.weight, -bound, bound)
    assert conv.bias is not None
    nn.init.uniform_(conv.bias, -((3 / outputs) ** 0.5), (3 / outputs) ** 0.5)
    norm = nn.BatchNorm2d(outputs, momentum=0.01)
    nn.init.normal_(norm.weight, 1, 0.02)
    return nn.Sequential(conv, nn.ReLU(inplace=True), norm)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer with the code's initial weights."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.constant_(layer.bias, 0.02)
    return layer
