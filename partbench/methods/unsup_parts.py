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
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from partbench.config import data_root
from partbench.errors import BadInput
from partbench.method import Batch, DataInfo, Method, MethodSettings, PartMaps
from partbench.nn import consistency, perceptual
from partbench.nn.colour import jitter, rgb_to_lab
from partbench.nn.deeplab import DeepLab50, dilated_mobilenet, read_trunk, resnet18
from partbench.nn.perceptual import Features, Perceptual, fetched
from partbench.nn.precision import exact
from partbench.nn.tps import ThinPlateSpline, similarity, warp

CAFFE_MEAN = (104.00698793, 116.66876762, 122.67891434)
"""Of blue, green and red; the authors take it off red, green and blue."""
RESNET50 = "weights/resnet50-0676ba61.pth"
LAYERS: dict[Features, tuple[int, int]] = {
    "vgg16": (13, 29),
    "vgg19": (13, 35),
    "mobilenet": (3, 11),
    "random": (4, 7),
}
"""Activations: VGG19's relu3_2 and relu5_4; of VGG16 relu3_2 and its last; of MobileNet the last
blocks at strides 4 and 16; of the random network the ends of strides 2 and 4."""
SMALLEST = 32


class UnsupPartsSettings(MethodSettings):
    """The settings for birds, images of 256 px."""

    k: int = Field(4, ge=1, description="K, number of parts of the foreground")
    backbone: Literal["resnet50", "resnet18", "mobilenet"] = Field(
        "resnet50",
        description="trunk of DeepLab-v2; resnet18 is cut where `stride` is reached, mobilenet is "
        "MobileNetV1 x 0.25 at stride 8",
    )
    stride: Literal[4, 8] = Field(8, description="of resnet18: pixels per cell of the logits")
    width: int = Field(64, ge=1, description="of resnet18: channels of the first stage")
    dilations: tuple[int, ...] = Field(
        (6, 12, 18, 24), min_length=1, description="of the head's 3x3 convolutions"
    )
    weights: str = Field(
        "imagenet",
        description="first weights of the trunk: imagenet, trained with labels (of resnet50 "
        "torchvision's, as the paper's Caffe file can no longer be had); none; or a file below "
        "the data root with torchvision's names, such as SwAV's, DINO's or MoCo's",
    )
    perceptual: Features = Field(
        "vgg19", description="network by whose activations parts are compared"
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
    tps: float = Field(
        0.01, ge=0, description="largest displacement of the warps' 5 x 5 control points"
    )
    rotation: float = Field(60.0, ge=0, description="largest, degrees")
    scale: tuple[float, float] = Field(
        (0.7, 2.0), description="smallest and largest magnification; its inverse is uniform"
    )
    translation: float = Field(0.1, ge=0, description="largest, in halves of the side")
    jitter: tuple[float, float, float, float] = Field(
        (0.3, 0.3, 0.2, 0.2), description="of brightness, contrast, saturation and hue"
    )
    jitter_probability: float = Field(0.8, ge=0, le=1, description="of the jitter, for an image")
    grey_probability: float = Field(0.2, ge=0, le=1, description="of losing all colours")
    normalize: Literal["caffe", "imagenet", "half"] = Field(  # type: ignore[assignment]
        "caffe",
        description="mean and SD taken off the images; caffe: means of blue, green and red off "
        "red, green and blue, of 0 to 255, as the authors have it",
    )
    learning_rate: float = Field(1e-5, gt=0, description="SGD, of the trunk")
    head_factor: float = Field(10.0, gt=0, description="how much faster the head learns")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    power: float = Field(0.9, ge=0, description="of the learning rate's decay to 0")
    decay_steps: int = Field(
        100_000, ge=1, description="steps of that decay, however long the training"
    )
    clip: float = Field(5.0, gt=0, description="largest norm of all gradients together")
    batch_size: int = Field(6, ge=1, description="images a step, over all processes")
    images_per_epoch: int | None = Field(6000, ge=1, description="1000 steps")
    epochs: int = Field(60, ge=0, description="60,000 steps, of birds; 100,000 of others")
    flip: bool = Field(True, description="mirror half of the training images")


class UnsupParts(Method):
    """Parts of a told foreground: `cub`, the default, `deepfashion`, `pascal`, and ablations."""

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
                weights asked for that a trunk does not have.
        """
        super().__init__(settings, data)
        s = self.settings = settings
        self._check()
        if s.normalize == "caffe":
            self.mean.copy_(torch.tensor(CAFFE_MEAN).view(3, 1, 1) / 255)
            self.std.fill_(1 / 255)
        self.network: Any = segmenter(s.k, s)
        self.perceptual = Perceptual(s.perceptual, LAYERS[s.perceptual], normalize=True)
        self.warps = ThinPlateSpline(data.size, 5)

    def _check(self) -> None:
        s = self.settings
        if s.k < 2:
            raise BadInput(
                "unsup_parts: one part is the whole foreground, and leaves nothing to learn; set "
                "`k` to 2 or more"
            )
        least = consistency.fewest(s.skip_first_positive)
        if s.contrastive and s.batch_size < least:
            raise BadInput(
                f"unsup_parts: a `batch_size` of {s.batch_size} is too small for the contrastive "
                f"term, which draws each part's positive from another image: it takes {least}"
                + (", or 2 without `skip_first_positive`" if s.skip_first_positive else "")
                + "; raise it, or set `contrastive` to 0"
            )
        if self.data.size < SMALLEST:
            raise BadInput(
                f"unsup_parts: images of {self.data.size} px are too small for its networks; "
                f"prepare the data at a `size` of {SMALLEST} or more"
            )
        if s.backbone == "resnet18" and s.weights == "imagenet":
            raise BadInput(
                "unsup_parts: there are no trained weights of resnet18 to fetch; set `weights` to "
                "`none` or to a file, or `backbone` to resnet50 or mobilenet"
            )

    @classmethod
    def weights(cls, settings: UnsupPartsSettings) -> tuple[str, ...]:
        """Return the perceptual network, and the trunk's first weights if they can be fetched."""
        supervised = settings.backbone == "resnet50" and settings.weights == "imagenet"
        return (*fetched(settings.perceptual), *(("resnet50",) if supervised else ()))

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
                terms["feature"] = consistency.consistency(parts, mask, taps).sum()
            if s.visual:
                lab = [rgb_to_lab(images)]
                terms["visual"] = consistency.consistency(parts, mask, lab).mean()
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
        found = consistency.descriptors(parts, mask, taps)
        positives = consistency.draw_positives(n, k, s.skip_first_positive, parts.device)
        present = mask.flatten(1).any(1)
        if s.between == "l2":
            return consistency.distance(found, positives, present)
        return consistency.contrastive(found, positives, present, s.temperature)

    def follow(self, images: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
        """Return how little the parts of a warped view are those of the first, warped."""
        with exact(images):
            grid = self.warps.grid(self.draw_warps(len(images)))
            view = warp(self.view(images), grid)
        found = self.segment(view)
        with exact(images):
            target = warp(logits.detach(), grid)
            return consistency.equivariance(target, found, warp(mask, grid)).mean()

    def optimizers(self) -> dict[str, Optimizer]:
        """SGD, faster on the head; gradients are clipped before each step."""
        s = self.settings
        trained = [p for p in self.parameters() if p.requires_grad]
        head = set(self.network.head.parameters())
        groups = [
            {"params": [p for p in trained if p not in head], "lr": s.learning_rate},
            {"params": list(self.network.head.parameters()), "lr": s.head_factor * s.learning_rate},
        ]
        self.sgd = SGD(groups, momentum=s.momentum, weight_decay=s.weight_decay)

        def clip(*_: Any) -> None:
            nn.utils.clip_grad_norm_(trained, s.clip)

        self.sgd.register_step_pre_hook(clip)
        return {"all": self.sgd}

    def after_step(self, step: int) -> None:
        """Lower the learning rates."""
        s = self.settings
        rate = s.learning_rate * max(1 - step / s.decay_steps, 0) ** s.power
        for group, factor in zip(self.sgd.param_groups, (1, s.head_factor), strict=True):
            group["lr"] = factor * rate

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return the parts; the foreground is told, not found."""
        logits = self.segment(images)
        return PartMaps(logits.softmax(1), logits.argmax(1))


def segmenter(outputs: int, s: Any) -> nn.Module:
    """Return DeepLab with so many outputs on the trunk that settings name."""
    if s.backbone == "resnet50":
        return DeepLab50(outputs, s.dilations)
    if s.backbone == "mobilenet":
        return dilated_mobilenet(outputs, s.dilations)
    return resnet18(outputs, s.dilations, s.stride, s.width)


def read_first_weights(network: Any, s: Any) -> None:
    """Read the first weights that settings name into a segmenter's trunk."""
    if s.weights == "imagenet" and s.backbone == "mobilenet":
        network.trunk.load_state_dict(perceptual.load("mobilenet").state_dict())
    elif s.weights != "none":
        read_trunk(network, data_root() / (RESNET50 if s.weights == "imagenet" else s.weights))


def draw_bent(warps: ThinPlateSpline, s: Any, n: int) -> Tensor:
    """Return the weights of n random warps as far as settings allow, [n, 28, 2]."""
    bend, turn, size, shift = (
        torch.rand(shape, device=warps.control.device) for shape in ((n, 25, 2), n, n, (n, 2))
    )
    near, far = 1 / s.scale[1], 1 / s.scale[0]
    return bent_similarity(
        warps,
        s.tps * (2 * bend - 1),
        s.rotation * (2 * turn - 1),
        near + (far - near) * size,
        s.translation * (2 * shift - 1),
    )


def bent_similarity(
    warps: ThinPlateSpline, bend: Tensor, angle: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """Return the weights of warps whose control points are displaced, turned, scaled and shifted.

    A control point c shows scale * R(angle) (c + bend) + shift of the original, and between them
    the thin-plate spline interpolates.

    Args:
        warps: with C control points.
        bend: [n, C, 2], row by row, in halves of the side.
        angle: [n], degrees; x turns towards y.
        scale: [n].
        shift: [n, 2].
    """
    rigid = similarity(bend[:, :0], -torch.deg2rad(angle), scale, shift)
    return warps.interpolate(rigid[:, :1] + (warps.control + bend) @ rigid[:, 1:])
