"""Unsupervised part discovery from contrastive reconstruction (Choudhury et al., NeurIPS 2021).

A segmenter shares the foreground, which it is told, among K parts. Parts should look alike within
an image, to a perceptual network and in their colours; the same part of two images should be more
alike than different parts; and parts should move with the image. Facts: arXiv 2111.06349, and the
numbers of the authors' code, of which nothing is used here.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from partbench.data.batch import Batch
from partbench.errors import BadInput
from partbench.method import DataInfo, Method, MethodSettings
from partbench.nn.colour import jitter, rgb_to_lab
from partbench.nn.consistency import (
    consistency,
    contrastive,
    descriptors,
    distance,
    draw_positives,
    equivariance,
    smallest_batch,
)
from partbench.nn.deeplab import (
    CAFFE_MEAN,
    DeepLabSettings,
    decay,
    first_weights,
    read_first_weights,
    segmenter,
    sgd,
)
from partbench.nn.perceptual import Features, Perceptual, fetched
from partbench.nn.precision import exact
from partbench.nn.tps import ThinPlateSpline, warp
from partbench.nn.vgg16 import VGG16
from partbench.nn.warps import WarpSettings, draw_bent
from partbench.outputs.part_maps import PartMaps

LAYERS: dict[Features, tuple[int, int]] = {
    "vgg16": (13, 29),
    "vgg19": (13, 35),
    "mobilenet": (3, 11),
    "random": (4, 7),
}
"""Activations: VGG19's relu3_2 and relu5_4; of VGG16 relu3_2 and its last; of MobileNet the last
blocks at strides 4 and 16; of the random network the ends of strides 2 and 4."""


class UnsupPartsSettings(DeepLabSettings, WarpSettings, MethodSettings):
    """The settings for birds, images of 256 px."""

    k: int = Field(4, ge=1, description="K, number of parts of the foreground")
    perceptual: Features = Field(
        "vgg19", description="network by whose activations parts are compared"
    )
    perceptual_weights: str | None = Field(
        None,
        min_length=1,
        description="of vgg16: a file below the data root with other weights, with torchvision's "
        "names, batch norm or none, and perhaps DeepCluster's Sobel filters in front",
    )
    layer_weights: tuple[float, float] = Field(
        (0.33, 1.0), description="factors of its earlier and its later layer"
    )
    feature: float = Field(
        5.0, ge=0, description="weight of the feature consistency, a sum over the images"
    )
    visual: float = Field(
        30.0, ge=0, description="weight of the visual consistency in CIE-LAB, a mean over images"
    )
    contrastive: float = Field(2300.0, ge=0, description="weight of the contrastive term")
    equivariance: float = Field(5700.0, ge=0, description="weight of the equivariance")
    temperature: float = Field(0.19, gt=0, description="of the contrastive term's cosines")
    between: Literal["contrastive", "l2"] = Field(
        "contrastive",
        description="what compares parts across images: the contrastive term or, in its place, "
        "the squared distance to the positive (an ablation; its formula is not stated)",
    )
    skip_first_positive: bool = Field(
        True,
        description="never draw the first of the other images as positive, as the authors' code "
        "does; takes batches of 3",
    )
    jitter: tuple[float, float, float, float] = Field(
        (0.3, 0.3, 0.2, 0.2), description="of brightness, contrast, saturation and hue"
    )
    jitter_probability: float = Field(0.8, ge=0, le=1, description="of the jitter, for an image")
    grey_probability: float = Field(0.2, ge=0, le=1, description="of losing all colours")
    epochs: int = Field(60, ge=0, description="60,000 steps, of birds; 100,000 of others")
    flip: bool = Field(True, description="mirror half of the training images")


class UnsupParts(Method):
    """Parts of a told foreground: `cub`, the default, `deepfashion`, `pascal`, and ablations.

    `vgg16`, `swav` and `deepcluster` take supervision away as the paper's Table 3 does: first a
    perceptual VGG16 in place of VGG19, then SwAV's trunk, then DeepCluster's VGG16 beside it.

    Known to differ from the authors' training:

    - The trunk starts from torchvision's ResNet-50; their Caffe file can no longer be had.
    - Of `cub` and `pascal`, they train on the object's box, padded by 5 %, and move its sides by
      up to 5 % of it each time; here it never moves.
    - Of `deepfashion`, they train on random crops, 0.5 to 1 of the image's area at aspects of 3/4
      to 4/3; here on the whole image, padded to a square.
    """

    Settings = UnsupPartsSettings
    VARIANTS = {
        "cub": {},
        "deepfashion": {"epochs": 100},
        # Its weights of the terms stand in the paper's supplement, which was not at hand.
        "pascal": {"epochs": 100},
        "k4": {},
        "k8": {"k": 8},
        "k16": {"k": 16},
        "no_feature": {"feature": 0.0},
        "no_contrastive": {"contrastive": 0.0},
        "no_visual": {"visual": 0.0},
        "no_equivariance": {"equivariance": 0.0},
        "l2": {"between": "l2"},
        "all_positives": {"skip_first_positive": False},
        "vgg16": {"perceptual": "vgg16"},
        "swav": {"perceptual": "vgg16", "weights": "weights/swav_800ep_pretrain.pth.tar"},
        "deepcluster": {
            "perceptual": "vgg16",
            "weights": "weights/swav_800ep_pretrain.pth.tar",
            "perceptual_weights": "weights/deepcluster_vgg16.pth.tar",
        },
        "untrained": {"epochs": 0, "weights": "none"},
    }
    REDUCED = {
        # Features that were never trained tell parts apart across images less well, so that the
        # contrastive term and the strong warps would have one part take all: both consistencies
        # weigh more, and the warps are milder.
        "demo": {
            "backbone": "resnet18",
            "stride": 4,
            "width": 16,
            "dilations": (1, 2, 3, 4),
            "weights": "none",
            "perceptual": "random",
            "normalize": "half",
            "feature": 60.0,
            "visual": 3.0,
            "contrastive": 1000.0,
            "equivariance": 300.0,
            "rotation": 15.0,
            "scale": (0.9, 1.1),
            "learning_rate": 2e-3,
            "decay_steps": 500,
            "batch_size": 8,
            "epochs": 2,
            "images_per_epoch": 2000,
        },
        "subset": {
            "backbone": "mobilenet",
            "perceptual": "mobilenet",
            "normalize": "imagenet",
            "learning_rate": 1e-4,
            "decay_steps": 1000,
            "batch_size": 8,
            "epochs": 5,
            "images_per_epoch": 1600,
        },
    }
    learns_from = "mask"
    paper = "unsup_parts"

    def __init__(self, settings: UnsupPartsSettings, data: DataInfo) -> None:
        """Build the segmenter.

        Raises:
            BadInput: one part, a batch too small for the contrastive term, images too small, or
                weights asked for that a network does not have.
        """
        super().__init__(settings, data)
        s = self.settings = settings
        self._check()
        if s.normalize == "caffe":
            self.mean.copy_(torch.tensor(CAFFE_MEAN).view(3, 1, 1) / 255)
            self.std.fill_(1 / 255)
        self.network: Any = segmenter(s.k, data.size, s)
        layers = LAYERS[s.perceptual]
        self.perceptual = (
            VGG16(s.perceptual_weights, layers)
            if s.perceptual_weights
            else Perceptual(s.perceptual, layers, normalize=True)
        )
        self.warps = ThinPlateSpline(data.size, 5)

    def _check(self) -> None:
        s = self.settings
        if s.k < 2:
            raise BadInput(
                "unsup_parts: one part is the whole foreground, and leaves nothing to learn; set "
                "`k` to 2 or more"
            )
        least = smallest_batch(s.skip_first_positive)
        if s.contrastive and s.batch_size < least:
            raise BadInput(
                f"unsup_parts: a `batch_size` of {s.batch_size} is too small for the contrastive "
                f"term, which draws each part's positive from another image: it takes {least}"
                + (", or 2 without `skip_first_positive`" if s.skip_first_positive else "")
                + "; raise it, or set `contrastive` to 0"
            )
        if s.perceptual_weights and s.perceptual != "vgg16":
            raise BadInput(
                f"unsup_parts: `perceptual_weights` are of vgg16, not of {s.perceptual}; set "
                "`perceptual` to vgg16, or leave them out"
            )

    @classmethod
    def weights(cls, settings: UnsupPartsSettings) -> tuple[str, ...]:
        """Return the perceptual network and the trunk's first weights, if they can be fetched."""
        named = () if settings.perceptual_weights else fetched(settings.perceptual)
        return (*named, *first_weights(settings))

    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Read the trunk's first weights."""
        read_first_weights(self.network, self.settings)

    def draw_warps(self, n: int) -> Tensor:
        """Return the weights of n random warps, [n, 28, 2]."""
        return draw_bent(self.warps, self.settings, n)

    def segment(self, images: Tensor) -> Tensor:
        """Return the logits of the parts of images in [0, 1]: [B, K, S, S] float32."""
        low = self.network(self.normalize(images)).float()
        return F.interpolate(low, images.shape[2:], mode="bilinear", align_corners=True)

    def taps(self, images: Tensor) -> list[Tensor]:
        """Return the weighted activations of images in [0, 1], [B, C_l, h_l, w_l] float32 each."""
        with torch.no_grad():
            found = self.perceptual(images)
        pairs = zip(self.settings.layer_weights, found, strict=True)
        return [weight * tap.float() for weight, tap in pairs]

    def view(self, images: Tensor) -> Tensor:
        """Return images in other colours."""
        s = self.settings
        return jitter(images, s.jitter, s.jitter_probability, s.grey_probability)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the weighted sum of the terms whose weight is not 0, and these."""
        s, images = self.settings, batch.images
        assert batch.masks is not None  # the training loop sees to it
        mask = batch.masks.unsqueeze(1)
        with exact(images):
            view = self.view(images)
        logits = self.segment(view)
        taps = self.taps(images) if s.feature or s.contrastive else []
        terms: dict[str, Tensor] = {}
        with exact(images):
            parts = logits.softmax(1)
            if s.feature:
                terms["feature"] = consistency(parts, mask, taps).sum()
            if s.visual:
                lab = [rgb_to_lab(images)]
                terms["visual"] = consistency(parts, mask, lab).mean()
            if s.contrastive:
                terms["contrastive"] = self.compare(parts, mask, taps)
        if s.equivariance:
            terms["equivariance"] = self.follow(images, mask, logits)
        loss = torch.stack([getattr(s, name) * value for name, value in terms.items()]).sum()
        return {"loss": loss, **terms}

    def compare(self, parts: Tensor, mask: Tensor, taps: list[Tensor]) -> Tensor:
        """Return the term that compares the parts of different images."""
        s = self.settings
        n, k = parts.shape[:2]
        found = descriptors(parts, mask, taps)
        positives = draw_positives(n, k, s.skip_first_positive, parts.device)
        present = mask.flatten(1).any(1)
        if s.between == "l2":
            return distance(found, positives, present)
        return contrastive(found, positives, present, s.temperature)

    def follow(self, images: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
        """Return how little the parts of a warped view are those of the first, warped."""
        with exact(images):
            grid = self.warps.grid(self.draw_warps(len(images)))
            view = warp(self.view(images), grid)
        found = self.segment(view)
        with exact(images):
            target = warp(logits.detach(), grid)
            return equivariance(target, found, warp(mask, grid)).mean()

    def optimizers(self) -> dict[str, Optimizer]:
        """SGD, faster on the head; gradients are clipped before each step."""
        self.sgd = sgd(self.network, self.settings)
        return {"all": self.sgd}

    def after_step(self, step: int) -> None:
        """Lower the learning rates."""
        decay(self.sgd, self.settings, step)

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return the parts; the foreground is told, not found."""
        logits = self.segment(images)
        return PartMaps(logits.softmax(1), logits.argmax(1))
