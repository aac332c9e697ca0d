"""KeyNet: landmarks through conditional image generation (Jakab et al., NeurIPS 2018).

Two warps of one image show the same things at different places. The first gives the appearance,
the second only K keypoints. A network renders the second warp from these, so the keypoints must
encode where things are. Settings and details follow arXiv 1806.07823 and the numbers of the
authors' training code. That code has no licence, and none of it is used here.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from partbench.coordinates import Frame, RegressionOrigins, of_cells, window_of
from partbench.data.batch import Batch
from partbench.deviations import CELEBA_JPEGS, Deviation
from partbench.errors import BadInput
from partbench.method import DataInfo, KeypointSettings, Method
from partbench.nn.keypoints import gaussian_maps, marginal_softmax
from partbench.nn.perceptual import Name, Perceptual, fetched
from partbench.nn.shared_batch import averaged
from partbench.nn.tps import Spread, ThinPlateSpline, warp
from partbench.outputs.keypoints import Keypoints

TARGET = Spread(every=0.001, half=0.005, translation=0.1, scale=0.0, rotation=0.0)
"""The warp of an image to the target, which gives the keypoints and is rendered."""
SOURCE = Spread(every=0.001, half=0.01, translation=0.1, scale=0.1, rotation=5.0)
"""The warp of the target to the source, which gives the appearance."""
LAYERS: dict[str, tuple[int, ...]] = {
    "pixels": (),
    "vgg16": (3, 8, 13, 20, 27),
    "vgg19": (3, 8, 13, 22, 31),
    "mobilenet": (1, 3, 5, 11, 13),
}
"""Activations that the loss compares.

- VGG: the ReLUs after conv1_2, conv2_2, conv3_2, conv4_2 and conv5_2.
- MobileNet: the last block at each of its five strides, so that there are five terms as well.
"""
FIRST_AVERAGES = (100.0, 1.6, 2.3, 1.8, 2.8, 100.0)
"""Initial running averages of the errors, in pixels and in each layer."""
RHO = 0.99
"""Decay of the running averages per step."""
LOSS_SCALE = 1000.0


class KeyNetSettings(KeypointSettings):
    """The settings for CelebA: images prepared at 160 px, seen through a window of 128 px."""

    k: int = Field(30, ge=1, description="K, number of keypoints")
    margin: int = Field(
        16,
        ge=0,
        description="pixels of the prepared image cut off on each side after the warp, so that "
        "its border does not show",
    )
    width: int = Field(32, ge=1, description="channels at full resolution, doubled at each halving")
    stride: Literal[4, 8] = Field(8, description="pixels per cell of the heat maps")
    gaussian_std: float = Field(
        0.1, gt=0, description="s of the rendered keypoints exp(-d^2 / s^2); the side is 2"
    )
    warp: float = Field(1.0, ge=0, description="factor on the SDs of the random warps")
    perceptual: Name = Field(
        "vgg16",
        description="network whose activations are compared besides the pixels; the paper's VGG16 "
        "learnt to colour images, without labels, but torchvision's has seen ImageNet's labels",
    )
    mask_margin: float = Field(
        10.0, ge=0, description="border without loss, px of a 128-px window, scaled for others"
    )
    mask_ramp: float = Field(
        20.0, gt=0, description="beyond it, the loss's weight rises as tanh(px / this), scaled too"
    )
    grey_levels: float = Field(
        1.0,
        gt=0,
        description="grey levels, out of 255, per unit of the renderer's output; with more than "
        "the paper's 1, the first recognisable image takes fewer steps",
    )
    init_std: float | None = Field(
        0.01, gt=0, description="SD of the initial weights; none: torch's default"
    )
    batch_size: int = Field(50, ge=1, description="images per step, over all processes")
    learning_rate: float = Field(1e-3, gt=0, description="Adam")
    decay: float = Field(
        0.95, gt=0, le=1, description="factor of the learning rate, every 100,000 steps"
    )
    weight_decay: float = Field(1e-5, ge=0, description="added to the gradients, as L2")
    clip: float = Field(1.0, gt=0, description="largest norm of all gradients together")
    images_per_epoch: int | None = Field(50_000, ge=1, description="an 'epoch' is 1000 steps")
    epochs: int = Field(
        150, ge=0, description="100,000 to 150,000 steps are enough, say the authors (issue 1)"
    )


class Pair(NamedTuple):
    """Two views of the same images."""

    source: Tensor
    """[B, 3, side, side] in [0, 1], which gives the appearance."""
    target: Tensor
    """[B, 3, side, side] in [0, 1], which gives the keypoints and is rendered."""
    mask: Tensor
    """[B, 1, side, side] in [0, 1], weights of the target's pixels; 0 outside the image."""


class KeyNet(Method):
    """KeyNet with K keypoints: `k10`, `k30`, `k50`; `untrained` is a floor for these."""

    Settings = KeyNetSettings
    VARIANTS = {
        "k10": {"k": 10},
        "k30": {"k": 30},
        "k50": {"k": 50},
        # With weights of SD 0.01 and untrained BatchNorm, no trace of the image would be left.
        "untrained": {"epochs": 0, "init_std": None},
        "validated": {"chosen_epoch": "validation"},
    }
    REDUCED = {
        # A few hundred steps leave no time to reach a first recognisable image, or to separate
        # keypoints that all start in the centre.
        "demo": {
            "k": 10,
            "margin": 8,
            "width": 8,
            "stride": 4,
            "gaussian_std": 0.3,
            "perceptual": "pixels",
            "grey_levels": 64.0,
            "init_std": None,
            "batch_size": 16,
            "images_per_epoch": None,
            "epochs": 4,
            "learning_rate": 2e-3,
        },
        "subset": {
            "margin": 8,
            "width": 16,
            "stride": 4,
            "gaussian_std": 0.2,
            "perceptual": "mobilenet",
            "grey_levels": 64.0,
            "init_std": None,
            "batch_size": 16,
            "images_per_epoch": None,
            "epochs": 6,
            "learning_rate": 2e-3,
        },
    }
    paper = "keynet"
    references = ("jakab2018keynet",)
    several_devices = True
    deviations = (
        Deviation(
            "Their perceptual loss compares activations of a VGG16 that learnt to colour images, "
            "without labels; ours of torchvision's, which has seen ImageNet's labels.",
            "the paper and the authors' code (`vgg16.caffemodel.h5` of Larsson et al., 2017)",
            "Unknown in sign; with labels behind it, the method is less unsupervised than theirs.",
            unless=("untrained", "demo", "subset"),
        ),
        CELEBA_JPEGS,
        Deviation(
            "The border of the loss's weights has a smooth ramp of unstated form; here it rises as "
            "tanh(px / 20).",
            "the paper states a margin of zeros and a ramp",
            "Small: it concerns the outermost pixels alone.",
            unless=("untrained",),
        ),
        Deviation(
            "They stop when they see fit: their script asks for 30 million steps, and the authors "
            "say that 100,000 to 150,000 are enough. Here it is 150,000.",
            "the authors' script, and their answers to users (issues 1 and 7)",
            "Slightly worse numbers here, if they trained for longer.",
            unless=("untrained", "demo", "subset"),
        ),
        Deviation(
            "The paper's numbers come from images that MATLAB resized; here Pillow did.",
            "the README of the authors' code",
            "Small, say the authors.",
        ),
    )
    protocol = RegressionOrigins(points="corner", landmarks="corner")

    def __init__(self, settings: KeyNetSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        self.side = window_of(data.size, s.margin)
        self.cells = self.side // s.stride
        if self.cells < 2 or self.side % s.stride:
            raise BadInput(
                f"keynet sees a window of {self.side} px, the {data.size} px of the images "
                f"less a `margin` of {s.margin} on each side; the window must be a multiple of "
                f"{s.stride} and at least {2 * s.stride} px; change `margin` or the data's `size`"
            )
        widths = [s.width * 2**i for i in range(s.stride.bit_length())]
        self.image_encoder = encoder(widths)
        self.pose_encoder = nn.Sequential(encoder(widths), nn.Conv2d(widths[-1], s.k, 1))
        self.renderer = renderer(widths[-1] + s.k, widths)
        if s.init_std:
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=s.init_std)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
        self.perceptual = Perceptual(s.perceptual, LAYERS[s.perceptual], normalize=True)
        terms = 1 + len(LAYERS[s.perceptual])
        self.register_buffer("averages", torch.tensor(FIRST_AVERAGES[:terms]))
        px = self.side / 128
        mask = border_mask(data.size, s.mask_margin * px, s.mask_ramp * px)
        self.register_buffer("mask", mask, persistent=False)
        self.thin_plate = ThinPlateSpline(data.size)

    averages: Tensor
    """[1 + layers], running averages of the errors in pixels and in each layer."""
    mask: Tensor
    """[S, S] in [0, 1], weights of the pixels of prepared images."""

    def pair(self, images: Tensor) -> Pair:
        """Return two random views of images [B, 3, S, S]: the target, and the source, its warp."""
        n, factor = len(images), self.settings.warp
        warps = [self.thin_plate.draw(n, spread.times(factor)) for spread in (TARGET, SOURCE)]
        to_target, to_source = (self.thin_plate.grid(weights) for weights in warps)
        masked = torch.cat([images, self.mask.expand(n, 1, -1, -1)], 1)
        target, mask = warp(masked, to_target).split([3, 1], 1)
        return Pair(*map(self.frame().cut, (warp(target, to_source), target, mask)))

    def locate(self, images: Tensor) -> Tensor:
        """Return the keypoints (x, y) of windows [B, 3, side, side]: [B, K, 2] float32."""
        return marginal_softmax(self.pose_encoder(self.normalize(images)).float())

    def render(self, appearance: Tensor, points: Tensor) -> Tensor:
        """Render images with a given appearance and given keypoints.

        Args:
            appearance: [B, 3, side, side] in [0, 1], images with the appearance.
            points: [B, K, 2], the keypoints (x, y).

        Returns:
            [B, 3, side, side] float32 on a scale of 0 to 255, not clamped.
        """
        sigma = self.settings.gaussian_std / math.sqrt(2)
        maps = gaussian_maps(points, self.cells, self.cells, sigma)
        code = torch.cat([self.image_encoder(self.normalize(appearance)), maps], 1)
        return self.renderer(code).float() * self.settings.grey_levels

    def errors(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Return the masked mean squared errors in pixels and in each layer, [1 + layers].

        Args:
            output: [B, 3, side, side], 0 to 255.
            target: [B, 3, side, side], 0 to 255; its activations take no gradient.
            mask: [B, 1, side, side] in [0, 1].
        """
        with torch.no_grad():
            targets = [target, *self.perceptual(target / 255)]
        outputs = [output, *self.perceptual(output / 255)]
        return torch.stack(
            [masked_error(a, b, mask) for a, b in zip(targets, outputs, strict=True)]
        )

    def balance(self, errors: Tensor) -> Tensor:
        """Return the sum of the errors, each divided by its running average, times LOSS_SCALE.

        In training mode, the averages are first updated with these errors.
        """
        if self.training:
            self.averages.lerp_(averaged(errors.detach()), 1 - RHO)
        return LOSS_SCALE * (errors / self.averages).sum()

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the balanced loss and the errors that it balances."""
        pair = self.pair(batch.images)
        output = self.render(pair.source, self.locate(pair.target))
        errors = self.errors(output, 255 * pair.target, pair.mask)
        names = ("pixels", *(f"layer{i}" for i in range(1, len(errors))))
        return {"loss": self.balance(errors), **dict(zip(names, errors.detach(), strict=True))}

    @classmethod
    def weights(cls, settings: KeyNetSettings) -> tuple[str, ...]:
        """Return the network of the reconstruction loss, if it is to be fetched."""
        return fetched(settings.perceptual)

    def optimizers(self) -> dict[str, Optimizer]:
        """Return one Adam for all parameters; it clips the gradients before each step."""
        s, parameters = self.settings, list(self.parameters())
        self.adam = Adam(parameters, s.learning_rate, weight_decay=s.weight_decay)

        def clip(*_: Any) -> None:
            nn.utils.clip_grad_norm_(parameters, s.clip)

        self.adam.register_step_pre_hook(clip)
        return {"all": self.adam}

    def after_step(self, step: int) -> None:
        """Lower the learning rate every 100,000 steps."""
        if step % 100_000 == 0:
            for group in self.adam.param_groups:
                group["lr"] *= self.settings.decay

    def frame(self) -> Frame:
        """Return the frame whose -1 and 1 are the centres of the window's outermost cells."""
        return of_cells(self.data.size, self.cells, self.settings.margin)

    def keypoints(self, images: Tensor) -> Keypoints:
        """Return the keypoints of images [B, 3, S, S]."""
        return Keypoints(self.locate(self.frame().cut(images)))

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return images rendered from their own appearance and keypoints, with a black margin."""
        window = self.frame().cut(images)
        output = self.render(window, self.locate(window)) / 255
        return F.pad(output.clamp(0, 1), 4 * [self.settings.margin])


def conv(before: int, after: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """Return a convolution with BatchNorm and ReLU; the padding keeps the size at stride 1."""
    return [
        nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    ]


def encoder(widths: Sequence[int]) -> nn.Sequential:
    """Return an encoder, [B, 3, S, S] -> [B, widths[-1], s, s].

    Every width after the first halves the side.
    """
    layers = conv(3, widths[0], 7) + conv(widths[0], widths[0])
    for before, after in pairwise(widths):
        layers += conv(before, after, stride=2) + conv(after, after)
    return nn.Sequential(*layers)


def renderer(channels: int, widths: Sequence[int]) -> nn.Sequential:
    """Return a renderer, [B, channels, s, s] -> [B, 3, S, S], which reverses the encoder's widths.

    Its last layer is linear.
    """
    layers: list[nn.Module] = []
    for width in widths[:0:-1]:
        layers += conv(channels, width) + conv(width, width) + [nn.Upsample(None, 2, "bilinear")]
        channels = width
    return nn.Sequential(*layers, *conv(channels, widths[0]), nn.Conv2d(widths[0], 3, 3, padding=1))


def border_mask(side: int, margin: float, ramp: float) -> Tensor:
    """Return max(0, tanh((d - margin) / ramp)), d the distance to the nearest border: [side, side].

    The paper states a margin of zeros and a smooth ramp. It is our reading that the length of the
    ramp is the scale of the tanh.
    """
    steps = torch.arange(side, dtype=torch.float32)
    line = ((torch.minimum(steps, side - 1 - steps) - margin).clamp(min=0) / ramp).tanh()
    return torch.minimum(line[:, None], line[None, :])


def masked_error(target: Tensor, output: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the squared differences times the mask, a scalar of float32 or better.

    Args:
        target: [B, C, H, W].
        output: [B, C, H, W].
        mask: [B, 1, S, S], resized to H x W bilinearly.
    """
    weight = F.interpolate(mask, target.shape[2:], mode="bilinear")
    difference = (target - output).to(torch.promote_types(output.dtype, torch.float32))
    return (weight * difference.square()).mean()
