"""Unsupervised discovery of object landmarks as structural representations (CVPR 2018).

By Y. Zhang, Y. Guo, Y. Jin, Y. Luo, Z. He, H. Lee. The method is an autoencoder whose code is K
landmarks, each with a short descriptor. Soft constraints make the landmarks compact, keep them
apart and let them move with the image. Settings and details follow the authors' code, lmdis-rep.
What is called "not stated" below is in none of the sources that we read.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from partbench.coordinates import Frame, RegressionOrigins, of_cells, of_pixels, window_of
from partbench.data.batch import Batch
from partbench.deviations import Deviation
from partbench.errors import BadInput
from partbench.method import DataInfo, KeypointSettings, Method
from partbench.nn.hourglass import Hourglass, block
from partbench.nn.keypoints import cell_centres, expectation, gaussian_maps
from partbench.nn.precision import exact
from partbench.nn.shared_batch import own, whole
from partbench.nn.tps import ThinPlateSpline, similarity, warp
from partbench.outputs.keypoints import Keypoints


class ZhangSettings(KeypointSettings):
    """The settings for faces with K = 30; lengths are in sides of the window unless stated."""

    k: int = Field(30, ge=1, description="K, number of landmarks")
    descriptor: int = Field(8, ge=1, description="d, numbers of a landmark's descriptor")
    margin: int = Field(
        10,
        ge=0,
        description="pixels of the prepared image cut off on each side after the warp; the paper's "
        "window is 80 px of 100 px",
    )
    stride: Literal[1, 2, 4, 8] = Field(
        2, description="pixels per cell of the heat maps; not stated"
    )
    depth: int = Field(
        4,
        ge=1,
        description="halvings inside an hourglass, whose maps are padded to a multiple of 2^depth "
        "cells: 40 to 48, which is 80 px to 96; not stated",
    )
    width: int = Field(64, ge=1, description="channels of the hourglasses; not stated")
    sigma: float = Field(0.05, gt=0, description="SD of a rendered landmark; not stated")
    reconstruction_weights: tuple[float, float, float] = Field(
        (0.1, 10.0, 100.0),
        description="weight of the squared error, averaged over pixels and channels, before, "
        "between and after the milestones",
    )
    concentration: float = Field(
        100.0, ge=0, description="weight of the variances of the heat maps, summed over x and y"
    )
    balance: float = Field(
        200.0,
        ge=0,
        description="weight of the axis balancing, the absolute difference of the variances along "
        "x and y; its formula is not stated",
    )
    separation: float = Field(10.0, ge=0, description="weight of the separation of landmarks")
    bandwidth: float = Field(0.04, gt=0, description="SD of the separation's Gaussian")
    equivariance: float = Field(1e4, ge=0, description="weight of the equivariance to warps")
    learning_rate: float = Field(0.01, gt=0, description="Adam, betas (0.9, 0.999)")
    weight_decay: float = Field(1e-6, ge=0, description="L2 penalty, added to Adam's gradient")
    milestones: tuple[int, int] = Field(
        (100_000, 200_000), description="steps at which the learning rate falls to a tenth"
    )
    control: int = Field(7, ge=2, description="control points along a side of the warps")
    displacement: float = Field(
        0.1,
        ge=0,
        description="SD of the control points' displacement, in halves of the prepared image's "
        "side; the unit is not stated",
    )
    translation: float = Field(
        0.15,
        ge=0,
        description="largest translation, drawn uniformly, in halves of the prepared image's side; "
        "neither the distribution nor the unit is stated",
    )
    rotation: float = Field(10.0, ge=0, description="SD of the rotation, degrees")
    scale: float = Field(math.log(1.25), ge=0, description="SD of the logarithm of the scale")
    jitter: float = Field(
        0.3,
        ge=0,
        le=1,
        description="brightness, contrast and saturation are each multiplied by a factor in "
        "[1 - jitter, 1 + jitter], separately for an image and its warp; the paper jitters colours "
        "without stating how much",
    )
    normalize: Literal["imagenet", "half"] = Field(
        "half", description="mean and SD that normalise the images; not stated"
    )
    batch_size: int = Field(8, ge=1, description="images per step, over all processes")
    epochs: int = Field(220, ge=0, description="220,000 steps in all")
    images_per_epoch: int | None = Field(8000, ge=1, description="1000 steps")


class Landmarks(NamedTuple):
    """Heat maps and points of the landmarks of a batch."""

    maps: Tensor
    """[B, K, h, w], the distribution of each landmark over the cells; it sums to 1."""
    points: Tensor
    """[B, K, 2], its mean (x, y); -1 and 1 are the centres of the outermost cells."""


def locate(scores: Tensor) -> Landmarks:
    """Return the landmarks of score maps [B, K + 1, h, w], the last of which is the background's.

    The maps compete at every cell. The share that each landmark wins is normalised over the cells.
    """
    shares = scores.log_softmax(1)[:, :-1]  # in logarithms, because a share may be almost 0
    maps = shares.flatten(2).softmax(2).view_as(shares)
    return Landmarks(maps, expectation(maps))


def variances(landmarks: Landmarks) -> Tensor:
    """Return the variance of each heat map along x and y, in squared sides: [B, K, 2]."""
    height, width = landmarks.maps.shape[2:]
    x = (cell_centres(width, landmarks.maps) - landmarks.points[..., :1]).square()
    y = (cell_centres(height, landmarks.maps) - landmarks.points[..., 1:]).square()
    across, down = landmarks.maps.sum(2), landmarks.maps.sum(3)
    return torch.stack([(across * x).sum(2), (down * y).sum(2)], 2) / 4


def separation(points: Tensor, bandwidth: float) -> Tensor:
    """Return how near landmarks are to each other: the sum over the others of exp(-d^2 / 2 sd^2).

    Args:
        points: [B, K, 2], in [-1, 1].
        bandwidth: the SD sd, in sides.

    Returns:
        The mean over images and landmarks, a scalar from 0 to K - 1.
    """
    squared = (points.unsqueeze(2) - points.unsqueeze(1)).square().sum(3) / 4
    near = (-squared / (2 * bandwidth**2)).exp()
    return (near.sum(2) - 1).mean()


def equivariance(points: Tensor, carried: Tensor) -> Tensor:
    """Return the mean squared distance between points [B, K, 2] in [-1, 1], in squared sides."""
    return (points - carried).square().sum(2).mean() / 4


def masks(points: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """Return the share of each cell that the rendered landmarks and the background take.

    A landmark is an isotropic Gaussian of height 1. The background, the last mask, is 1 minus the
    highest of them; this is not stated.

    Args:
        points: [B, K, 2], in [-1, 1].
        height: height of the masks, cells.
        width: width of the masks, cells.
        sigma: SD of the Gaussians, in sides.

    Returns:
        [B, K + 1, height, width]; the masks sum to 1.
    """
    rendered = gaussian_maps(points, height, width, 2 * sigma)
    rendered = torch.cat([rendered, 1 - rendered.amax(1, keepdim=True)], 1)
    return rendered / rendered.sum(1, keepdim=True)


def jitter(images: Tensor, amount: float) -> Tensor:
    """Jitter the brightness, contrast and saturation of images [B, 3, H, W] in [0, 1]."""
    drawn = own(torch.rand(3, whole(len(images)), 1, 1, 1, device=images.device), 1)
    factors = 1 + amount * (2 * drawn - 1)
    brightness, contrast, saturation = factors
    images = images * brightness
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + contrast * (images - mean)
    grey = images.mean(1, keepdim=True)
    return (grey + saturation * (images - grey)).clamp(0, 1)


class Zhang(Method):
    """Landmarks with descriptors; variants are `k30`, the default, and `k10`."""

    Settings = ZhangSettings
    VARIANTS = {
        "k30": {},
        "k10": {
            "k": 10,
            "reconstruction_weights": (0.1, 1.0, 10.0),
            "separation": 20.0,
            "bandwidth": 0.08,
            "learning_rate": 0.001,
            "batch_size": 16,
            "images_per_epoch": 16_000,
        },
        "untrained": {"epochs": 0},
        "validated": {"chosen_epoch": "validation"},
    }
    REDUCED = {
        "demo": {
            "k": 10,
            "margin": 0,
            "stride": 4,
            "depth": 3,
            "width": 16,
            "reconstruction_weights": (1.0, 1.0, 1.0),
            "separation": 20.0,
            "bandwidth": 0.08,
            "displacement": 0.05,
            "milestones": (200, 230),
            "batch_size": 16,
            "epochs": 2,
            "images_per_epoch": None,
        },
        "subset": {
            "margin": 8,
            "stride": 4,
            "depth": 3,
            "width": 24,
            "reconstruction_weights": (1.0, 10.0, 10.0),
            "separation": 20.0,
            "bandwidth": 0.05,
            "displacement": 0.05,
            "milestones": (2500, 3500),
            "batch_size": 16,
            "epochs": 10,
            "images_per_epoch": None,
        },
    }
    paper = "zhang"
    references = ("zhang2018landmarks",)
    several_devices = True
    deviations = (
        Deviation(
            "The shape of the networks is not stated: cells of 2 px, hourglasses of 64 channels "
            "and 4 halvings, landmarks rendered with an SD of 0.05 sides, and a background of 1 "
            "minus the highest landmark are ours.",
            "nowhere at hand",
            "Unknown in sign and size.",
        ),
        Deviation(
            "Units of the warps are not stated; here displacements and translations are in halves "
            "of the image's side, and translations are uniform.",
            "the authors' settings give numbers without units",
            "Unknown: weaker or stronger warps than theirs.",
            unless=("untrained",),
        ),
        Deviation(
            "How much colours are jittered is not stated; here each factor lies in [0.7, 1.3].",
            "the paper says only that colours are jittered",
            "Small.",
            unless=("untrained",),
        ),
        Deviation(
            "The formula of the axis balancing is not stated; here it is the absolute difference "
            "of a heat map's variances along x and y.",
            "the authors' settings give its weight alone",
            "Unknown, as its weight belongs to another formula.",
            unless=("untrained",),
        ),
    )
    protocol = RegressionOrigins(points="centred", landmarks="centred")
    """The authors' regression has no intercept; points and landmarks are centred on 0."""

    def __init__(self, settings: ZhangSettings, data: DataInfo) -> None:
        """Build the networks.

        Raises:
            BadInput: the margin leaves no window, or the window is not a multiple of the stride.
        """
        super().__init__(settings, data)
        s = self.settings = settings
        window = window_of(data.size, s.margin)
        self.cells, rest = divmod(window, s.stride)
        if rest or self.cells < 2:
            raise BadInput(
                f"zhang: the window of {window} px (`size` {data.size} less twice `margin` "
                f"{s.margin}) must be two or more cells of {s.stride} px, `stride`; change one of "
                "these three"
            )
        maps, halvings = s.k + 1, s.stride.bit_length() - 1

        def network() -> nn.Sequential:
            """Return convolutions and an hourglass, [B, 3, S, S] -> [B, width, cells, cells]."""
            first = block(3, s.width, min(s.stride, 2))
            rest = [block(s.width, s.width, 2) for _ in range(halvings - 1)]
            return nn.Sequential(first, *rest, Hourglass(s.width, s.depth))

        self.warps = ThinPlateSpline(data.size, s.control)
        self.detector = nn.Sequential(network(), nn.Conv2d(s.width, maps, 1))
        self.looks = network()
        self.describe = nn.Parameter(torch.randn(maps, s.width, s.descriptor) / s.width**0.5)
        self.recall = nn.Parameter(torch.randn(maps, s.descriptor, s.width) / s.descriptor**0.5)
        self.decoder = nn.Sequential(
            block(maps + s.width, s.width),
            Hourglass(s.width, s.depth),
            nn.Conv2d(s.width, 3 * s.stride**2, 3, padding=1),
            nn.PixelShuffle(s.stride),
        )
        self.register_buffer("reconstruction_weight", torch.tensor(s.reconstruction_weights[0]))

    reconstruction_weight: Tensor
    """The current weight of the reconstruction, a scalar."""

    def frame(self) -> Frame:
        """Return the frame whose -1 and 1 are the centres of the outermost cells."""
        return of_cells(self.data.size, self.cells, self.settings.margin)

    def window(self, images: Tensor) -> Tensor:
        """Return the normalised windows of prepared images, [B, 3, window, window]."""
        return self.normalize(self.frame().cut(images))

    def draw_warps(self, n: int) -> Tensor:
        """Draw n random warps of prepared images; return their weights, [n, C + 3, 2]."""
        s, device, n = self.settings, self.mean.device, whole(n)
        displacements = s.displacement * own(torch.randn(n, s.control**2, 2, device=device))
        angle, log_scale = own(torch.randn(2, n, device=device), 1)
        shift = 2 * own(torch.rand(n, 2, device=device)) - 1
        return self.warps.interpolate(displacements) + similarity(
            torch.zeros_like(displacements),
            torch.deg2rad(s.rotation * angle),
            (s.scale * log_scale).exp(),
            s.translation * shift,
        )

    def carry_back(self, points: Tensor, weights: Tensor) -> Tensor:
        """Carry points [B, K, 2] on warps back to the points of the originals that they show.

        Args:
            points: [B, K, 2], in the landmarks' frame.
            weights: [B, C + 3, 2], of the warps.

        Returns:
            [B, K, 2], in the landmarks' frame.
        """
        frame, whole = self.frame(), of_pixels(self.data.size)
        on_whole = whole.from_pixels(frame.to_pixels(points))
        return frame.from_pixels(whole.to_pixels(self.warps.carry_back(on_whole, weights)))

    def decode(self, x: Tensor, points: Tensor) -> Tensor:
        """Rebuild images from landmarks and the descriptors at them.

        Args:
            x: [B, 3, window, window], normalised.
            points: [B, K, 2], the landmarks.

        Returns:
            [B, 3, window, window] float32, normalised.
        """
        shares = masks(points, self.cells, self.cells, self.settings.sigma)
        pool = shares / shares.sum((2, 3), keepdim=True)
        pooled = torch.einsum("bkhw,bchw->bkc", pool, self.looks(x))
        descriptors = torch.einsum("bkc,kcd->bkd", pooled, self.describe)
        recalled = torch.einsum("bkd,kdc->bkc", descriptors, self.recall)
        spread = torch.einsum("bkc,bkhw->bchw", recalled, shares)
        return self.decoder(torch.cat([shares, spread], 1)).float()

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the reconstruction, the soft constraints and their weighted sum, the loss."""
        s, images = self.settings, batch.images
        with exact(images):
            weights = self.draw_warps(len(images))
            x = self.window(jitter(images, s.jitter))
            warped = warp(jitter(images, s.jitter), self.warps.grid(weights))
        scores = self.detector(torch.cat([x, self.window(warped)]))
        with exact(images):
            landmarks = locate(scores.float())
            points, moved = landmarks.points.chunk(2)
            variance = variances(landmarks)
            terms = {
                "concentration": variance.sum(2).mean(),
                "balance": (variance[..., 0] - variance[..., 1]).abs().mean(),
                "separation": separation(landmarks.points, s.bandwidth),
                "equivariance": equivariance(points, self.carry_back(moved, weights)),
            }
        terms["reconstruction"] = (self.decode(x, points) - x).square().mean()
        loss = self.reconstruction_weight * terms["reconstruction"]
        for name in ("concentration", "balance", "separation", "equivariance"):
            loss = loss + getattr(s, name) * terms[name]
        return {"loss": loss, **terms}

    def optimizers(self) -> dict[str, Optimizer]:
        """Return one Adam for all parameters."""
        s = self.settings
        self.adam = Adam(
            self.parameters(),
            s.learning_rate,
            weight_decay=s.weight_decay,
            fused=not self.mean.is_meta,
        )
        return {"all": self.adam}

    def after_step(self, step: int) -> None:
        """At milestones, change the weight of the reconstruction and lower the learning rate."""
        s = self.settings
        if step in s.milestones:
            passed = sum(step >= milestone for milestone in s.milestones)
            self.reconstruction_weight.fill_(s.reconstruction_weights[passed])
            for group in self.adam.param_groups:
                group["lr"] = s.learning_rate * 0.1**passed

    def keypoints(self, images: Tensor) -> Keypoints:
        """Return the landmarks of images [B, 3, S, S], [B, K, 2]."""
        scores = self.detector(self.window(images))
        with exact(images):
            return Keypoints(locate(scores.float()).points)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return images rebuilt from their landmarks, with a black margin, which is not seen."""
        x = self.window(images)
        rebuilt = self.denormalize(self.decode(x, self.keypoints(images).points))
        return F.pad(rebuilt, (self.settings.margin,) * 4)
