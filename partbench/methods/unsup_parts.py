"""Unsupervised part discovery from contrastive reconstruction (Choudhury et al., NeurIPS 2021).

A segmenter shares a given foreground among K parts. Its loss asks for three things:

- Within an image, a part looks alike to a perceptual network and in its colours.
- The same part of two images is more alike than different parts.
- Parts move with the image.

Settings and details follow arXiv 2111.06349 and the numbers of the authors' code, none of which is
used here.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from partbench.data.batch import Batch
from partbench.deviations import CAFFE_TRUNK, Deviation
from partbench.errors import BadInput
from partbench.method import DataInfo, Method, ReleasedSettings
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
    CAFFE_MEANS,
    DeepLabSettings,
    authors,
    decay,
    first_weights,
    read_first_weights,
    segmenter,
    sgd,
)
from partbench.nn.perceptual import Features, Perceptual, fetched
from partbench.nn.precision import exact
from partbench.nn.released import Authors, Release
from partbench.nn.shared_batch import gathered, total
from partbench.nn.tps import ThinPlateSpline, warp
from partbench.nn.vgg16 import VGG16
from partbench.nn.warps import WarpSettings, draw_bent
from partbench.outputs.part_maps import PartMaps, strongest
from partbench.training_protocols import PROTOCOLS

LAYERS: dict[Features, tuple[int, int]] = {
    "vgg16": (13, 29),
    "vgg19": (13, 35),
    "mobilenet": (3, 11),
    "random": (4, 7),
}
"""The activations that parts are compared by.

- VGG19: relu3_2 and relu5_4.
- VGG16: relu3_2 and the last.
- MobileNet: the last blocks at strides 4 and 16.
- The random network: the last activations at strides 2 and 4.
"""


class UnsupPartsSettings(DeepLabSettings, WarpSettings, ReleasedSettings):
    """The settings for birds at 256 px."""

    k: int = Field(4, ge=1, description="K, number of parts of the foreground")
    perceptual: Features = Field("vgg19", description="network whose activations compare parts")
    perceptual_weights: str | None = Field(
        None,
        min_length=1,
        description="vgg16: a file below the data root with other weights and torchvision's names, "
        "with or without batch norm and DeepCluster's Sobel filters",
    )
    layer_weights: tuple[float, float] = Field(
        (0.33, 1.0), description="factors of the network's earlier and later layer"
    )
    feature: float = Field(
        5.0, ge=0, description="weight of the feature consistency, summed over images"
    )
    visual: float = Field(
        30.0, ge=0, description="weight of the visual consistency in CIE-LAB, averaged over images"
    )
    contrastive: float = Field(2300.0, ge=0, description="weight of the contrastive term")
    equivariance: float = Field(5700.0, ge=0, description="weight of the equivariance")
    temperature: float = Field(
        0.19, gt=0, description="temperature of the contrastive term's cosines"
    )
    between: Literal["contrastive", "l2"] = Field(
        "contrastive",
        description="comparison of parts across images: the contrastive term or, as an ablation "
        "whose formula is not stated, the squared distance to the positive",
    )
    skip_first_positive: bool = Field(
        True,
        description="never draw the first of the other images as positive, as in the authors' "
        "code; needs batches of at least 3",
    )
    jitter: tuple[float, float, float, float] = Field(
        (0.3, 0.3, 0.2, 0.2), description="amounts for brightness, contrast, saturation and hue"
    )
    jitter_probability: float = Field(
        0.8, ge=0, le=1, description="probability that an image is jittered"
    )
    grey_probability: float = Field(
        0.2, ge=0, le=1, description="probability that an image loses its colours"
    )
    whole_corners: bool = Field(
        False,
        description="`align_corners` where logits of images at their own aspect are upsampled; "
        "the authors measure CUB, and DeepFashion with its background, without. Training and "
        "squares are with",
    )
    epochs: int = Field(
        60, ge=0, description="60,000 steps for birds; the paper takes 100,000 for others"
    )
    flip: bool = Field(True, description="mirror half of the training images")


class UnsupParts(Method):
    """Parts of a given foreground: for birds, `deepfashion` and `pascal`, and ablations.

    The variants `cub`, `deepfashion` and `pascal` draw their training crops anew at every step, as
    the authors do; without one of them, training sees the images as they were prepared.

    `vgg16`, `swav` and `deepcluster` reduce the supervision step by step, as in the paper's Table
    3. The first has a perceptual VGG16 in place of VGG19, the second also SwAV's trunk, and the
    third also DeepCluster's VGG16. `cub+released` and `deepfashion+released` measure the segmenters
    that the authors released.
    """

    Settings = UnsupPartsSettings
    VARIANTS = {
        "cub": PROTOCOLS["cub"],
        "deepfashion": {**PROTOCOLS["deepfashion"], "epochs": 100},
        "pascal": {**PROTOCOLS["pascal"], "epochs": 100},
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
        # Untrained features distinguish parts of different images less well. With the contrastive
        # term and the strong warps, one part would therefore take everything. To prevent this,
        # both consistencies weigh more, and the warps are milder.
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
    RELEASED = {
        "cub": Release("unsup_parts_cub", "weights/unsup_parts/cub_model_60000.pth"),
        "deepfashion": Release(
            "unsup_parts_deepfashion", "weights/unsup_parts/deepfashion_model_100000.pth"
        ),
    }
    learns_from = "mask"
    paper = "unsup_parts"
    references = ("choudhury2021parts",)
    several_devices = True
    deviations = (
        CAFFE_TRUNK,
        Deviation(
            "They train on crops drawn anew at every step; in this variant the crops are fixed.",
            "the authors' loaders",
            "Lower numbers, by the variety that is missing; the variants `cub`, `deepfashion` and "
            "`pascal` have it.",
            unless=("cub", "deepfashion", "pascal", "untrained"),
        ),
        Deviation(
            "They cut each crop from the original image; here from one that was resized before, to "
            "1.3 times the object or twice the prepared size.",
            "the authors' loaders",
            "Small: crops are slightly blurrer.",
            variants=("cub", "deepfashion", "pascal"),
            unless=("untrained",),
        ),
        Deviation(
            "They train on CMR's list of 5,964 birds; its rule, 7 visible keypoints, gives 5,965.",
            "the documentation of CMR, and a count of the official files",
            "None to be seen.",
            variants=("cub",),
            unless=("untrained",),
        ),
        Deviation(
            "Their weights of the terms for these objects differ from those for birds; here they "
            "are the same.",
            "the paper's supplement, which was not at hand",
            "Unknown, perhaps large.",
            variants=("pascal",),
            unless=("untrained",),
        ),
        Deviation(
            "The equivariance is the divergence from the warped parts to those of the warped view; "
            "the paper's equation 5 adds the other direction.",
            "the authors' code, which we follow, and the paper",
            "None against numbers of the code.",
            unless=("untrained", "no_equivariance"),
        ),
        Deviation(
            "What replaces the contrastive term in this ablation is not stated; here it is the "
            "squared distance to the positive.",
            "the paper's Table 2, which names it L2",
            "Unknown in sign and size.",
            variants=("l2",),
        ),
    )

    def __init__(self, settings: UnsupPartsSettings, data: DataInfo) -> None:
        """Build the segmenter.

        Raises:
            BadInput: there is only one part, the batch is too small for the contrastive term, the
                images are too small, or the settings name weights that a network lacks.
        """
        super().__init__(settings, data)
        s = self.settings = settings
        self._check()
        if caffe := CAFFE_MEANS.get(s.normalize):
            self.mean.copy_(torch.tensor(caffe).view(3, 1, 1) / 255)
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
        """Check the settings; raise BadInput if they contradict each other."""
        s = self.settings
        if s.k < 2:
            raise BadInput(
                "unsup_parts: one part is the whole foreground, so there is nothing to learn; set "
                "`k` to 2 or more"
            )
        least = smallest_batch(s.skip_first_positive)
        if s.contrastive and s.batch_size < least:
            raise BadInput(
                f"unsup_parts: a `batch_size` of {s.batch_size} is too small for the contrastive "
                f"term, which draws each part's positive from another image: it needs {least}"
                + (", or 2 without `skip_first_positive`" if s.skip_first_positive else "")
                + "; raise it, or set `contrastive` to 0"
            )
        if s.perceptual_weights and s.perceptual != "vgg16":
            raise BadInput(
                f"unsup_parts: `perceptual_weights` are for vgg16, not for {s.perceptual}; set "
                "`perceptual` to vgg16, or leave them out"
            )

    @classmethod
    def weights(cls, settings: UnsupPartsSettings) -> tuple[str, ...]:
        """Return the perceptual network and the trunk's first weights, if they can be fetched."""
        perceptual = () if settings.perceptual_weights else fetched(settings.perceptual)
        return (*perceptual, *first_weights(settings))

    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Read the trunk's first weights."""
        read_first_weights(self.network, self.settings)

    def authors(self) -> Authors:
        """Return how the authors' checkpoint holds the segmenter, beside the optimiser's state."""
        return authors(self.network, within="model_state_dict")

    def draw_warps(self, n: int) -> Tensor:
        """Draw n random warps; return their weights, [n, 28, 2]."""
        return draw_bent(self.warps, self.settings, n)

    def segment(self, images: Tensor, corners: bool = True) -> Tensor:
        """Return the parts' logits [B, K, H, W] float32 for images [B, 3, H, W] in [0, 1].

        Args:
            images: the images.
            corners: `align_corners` of their upsampling.
        """
        low = self.network(self.normalize(images)).float()
        return F.interpolate(low, images.shape[2:], mode="bilinear", align_corners=corners)

    def taps(self, images: Tensor) -> list[Tensor]:
        """Return the weighted activations of images in [0, 1], [B, C_l, h_l, w_l] float32 each."""
        with torch.no_grad():
            activations = self.perceptual(images)
        pairs = zip(self.settings.layer_weights, activations, strict=True)
        return [weight * tap.float() for weight, tap in pairs]

    def view(self, images: Tensor) -> Tensor:
        """Return images [B, 3, S, S] in [0, 1] with jittered colours."""
        s = self.settings
        return jitter(images, s.jitter, s.jitter_probability, s.grey_probability)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the terms whose weight is not 0, and their weighted sum, the loss."""
        s, images = self.settings, batch.images
        assert batch.masks is not None  # the training loop checks it
        mask = batch.masks.unsqueeze(1)
        with exact(images):
            view = self.view(images)
        logits = self.segment(view)
        taps = self.taps(images) if s.feature or s.contrastive else []
        terms: dict[str, Tensor] = {}
        with exact(images):
            parts = logits.softmax(1)
            if s.feature:
                terms["feature"] = total(consistency(parts, mask, taps).sum())
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
        """Return the term that compares the parts of different images, a scalar."""
        s = self.settings
        part_means = gathered(descriptors(parts, mask, taps))
        n, k = part_means.shape[:2]
        positives = draw_positives(n, k, s.skip_first_positive, parts.device)
        present = gathered(mask.flatten(1).any(1))
        if s.between == "l2":
            return distance(part_means, positives, present)
        return contrastive(part_means, positives, present, s.temperature)

    def follow(self, images: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
        """Return the divergence of the parts of a warped view from the warped parts, a scalar."""
        with exact(images):
            grid = self.warps.grid(self.draw_warps(len(images)))
            view = warp(self.view(images), grid)
        moved = self.segment(view)
        with exact(images):
            target = warp(logits.detach(), grid)
            return equivariance(target, moved, warp(mask, grid)).mean()

    def optimizers(self) -> dict[str, Optimizer]:
        """Return SGD in two groups, trunk and head; it clips the gradients before each step."""
        self.sgd = sgd(self.network, self.settings)
        return {"all": self.sgd}

    def after_step(self, step: int) -> None:
        """Lower the learning rates."""
        decay(self.sgd, self.settings, step)

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return the parts; the foreground is an input of the method, not an output."""
        logits = self.segment(images)
        return PartMaps(logits.softmax(1), strongest(logits))

    def whole_part_maps(self, images: Tensor) -> PartMaps:
        """Return the parts of images at their own aspect, as the authors measure them."""
        logits = self.segment(images, self.settings.whole_corners)
        return PartMaps(logits.softmax(1), strongest(logits))
