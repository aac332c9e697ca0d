"""SCOPS: self-supervised co-part segmentation (Hung et al., CVPR 2019).

A segmenter shares each pixel among K parts and a background, given which pixels are salient.
Each part has one row of a learnt basis, and three terms shape the parts:

- The shares of the parts times their rows should equal a perceptual network's features of the
  salient pixels.
- Parts should be compact.
- Parts should move with the image.

Settings and details follow the authors' code at commit 05da7e4 and its configuration for CelebA,
the only one ever published. None of the code is used here.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from partbench.data.batch import Batch
from partbench.deviations import CAFFE_TRUNK, Deviation
from partbench.errors import BadInput
from partbench.method import DataInfo, Method, ReleasedSettings
from partbench.nn.colour import jitter
from partbench.nn.consistency import squared_norms, sums
from partbench.nn.deeplab import (
    CAFFE_MEANS,
    DeepLabSettings,
    Normalization,
    authors,
    decay,
    first_weights,
    read_first_weights,
    segmenter,
    sgd,
)
from partbench.nn.descriptors import CHANNELS, LAYERS
from partbench.nn.perceptual import Features, Perceptual, fetched
from partbench.nn.precision import exact
from partbench.nn.released import Authors, Release
from partbench.nn.shared_batch import whole
from partbench.nn.tps import ThinPlateSpline, warp
from partbench.nn.warps import WarpSettings, draw_bent
from partbench.outputs.part_maps import PartMaps
from partbench.training_protocols import PROTOCOLS

BACKGROUND = 0.1
"""A pixel is foreground if a part's share of it, relative to its largest, exceeds this."""


class SCOPSSettings(DeepLabSettings, WarpSettings, ReleasedSettings):
    """The settings for CelebA at 256 px; `clip` and `weight_decay` apply to the basis too."""

    k: int = Field(8, ge=1, description="K, number of parts besides the background")
    perceptual: Features = Field("vgg19", description="network whose features the basis explains")
    concentration: float = Field(10.0, ge=0, description="weight of the parts' variances")
    divide_twice: bool = Field(
        True,
        description="divide the variances twice by the number of images, as in the authors' code; "
        "their weight then falls as the batch grows",
    )
    equivariance: float = Field(
        1e3, ge=0, description="weight of the divergence between warped parts"
    )
    landmark_equivariance: float = Field(
        100.0, ge=0, description="weight of the distance between the centres of warped parts"
    )
    semantic: float = Field(1e4, ge=0, description="weight of the semantic consistency")
    orthonormality: float = Field(0.1, ge=0, description="weight of the basis's orthonormality")
    jitter: tuple[float, float, float, float] = Field(
        (0.3, 0.3, 0.2, 0.2),
        description="amounts for brightness, contrast, saturation and hue of the warped view",
    )
    basis_learning_rate: float = Field(
        0.01, gt=0, description="SGD, constant learning rate of the basis"
    )
    whole_corners: bool = Field(
        False,
        description="`align_corners` where logits of images at their own aspect are upsampled; "
        "Choudhury et al. measure CUB, and DeepFashion with its background, without. "
        "Training and squares are with",
    )
    align_corners: bool = Field(
        True,
        description="`align_corners` of warps; false is what the authors' code, written for torch "
        "0.4.0, does from torch 1.3 on",
    )
    inference: Literal["relative", "argmax"] = Field(
        "relative",
        description="rule of parts and foreground. relative: shares over their largest against "
        "0.1 (DeepFashion); argmax: the strongest of the K + 1 logits (CUB)",
    )
    normalize: Normalization = Field(  # type: ignore[assignment]  # wider, as in DeepLabSettings
        "caffe_rgb", description="mean and SD that normalise the images, see DeepLabSettings"
    )
    told: Literal["masks", "saliency"] = Field(
        "masks",
        description="who says which pixels are salient: the masks of the data set, drawn by "
        "people, or an unsupervised method (data with `of` and `by`)",
    )
    epochs: int = Field(100, ge=0, description="100,000 steps")


def centres(maps: Tensor) -> Tensor:
    """Return the centres (x, y) of parts, [B, K, H, W] -> [B, K, 2].

    Each pixel counts with its share plus 0.001. Pixel i of W lies at 2 i / W - 1.
    """
    maps = maps + 1e-3
    mass = maps.sum((2, 3))
    x, y = (_line(size, maps) for size in (maps.shape[3], maps.shape[2]))
    return torch.stack([maps.sum(2) @ x / mass, maps.sum(3) @ y / mass], 2)


def concentration(maps: Tensor, divide_twice: bool = True) -> Tensor:
    """Return the variances of parts [B, K, H, W] about their centres, a scalar.

    They are summed over x, y and the parts, and averaged over the images. With `divide_twice`, they
    are divided by the number of images once more. Shares and coordinates are those of `centres`.
    """
    centre = centres(maps)
    maps = maps + 1e-3
    maps = maps / maps.sum((2, 3), keepdim=True)
    x, y = (_line(size, maps) for size in (maps.shape[3], maps.shape[2]))
    across = (maps.sum(2) * (x - centre[..., :1]).square()).sum()
    down = (maps.sum(3) * (y - centre[..., 1:]).square()).sum()
    return (across + down) / (len(maps) * (whole(len(maps)) if divide_twice else 1))


def equivariance(target: Tensor, logits: Tensor) -> Tensor:
    """Return KL(softmax(target) || softmax(logits)), averaged over all elements of [B, K, H, W].

    The target takes no gradient.
    """
    log_target = target.detach().log_softmax(1)
    return (log_target.exp() * (log_target - logits.log_softmax(1))).mean()


def semantic_consistency(
    maps: Tensor, mask: Tensor, taps: Sequence[Tensor], basis: Tensor
) -> Tensor:
    """Return the mean squared difference of maps times basis from the features of salient pixels.

    With the shares P, the basis W and the masked features F, the error of an image is
    |F|^2 - 2 W . P F^T + P P^T . W W^T. No term needs the features at every pixel.

    Args:
        maps: P, [B, K, H, W].
        mask: [B, 1, H, W], the factor of the features.
        taps: feature maps [B, C_l, h_l, w_l]. They stand for their concatenation, upsampled
            bilinearly (`align_corners=True`) to H x W, and take no gradient.
        basis: W, [K, C], at least 0.
    """
    energy = (squared_norms(taps, maps) * mask.square()).sum()
    mixed = (sums(maps * mask, taps) * basis).sum()
    flat = maps.flatten(2)
    shared = ((flat @ flat.transpose(1, 2)).sum(0) * (basis @ basis.T)).sum()
    return (energy - 2 * mixed + shared) / (mask.numel() * basis.shape[1])


def orthonormality(basis: Tensor) -> Tensor:
    """Return |W W^T - I|^2, where W has the normalised rows of a basis [K, C]: a scalar."""
    unit = basis / (basis.square().sum(1, keepdim=True) + 1e-6).sqrt()
    return (
        (unit @ unit.T - torch.eye(len(unit), dtype=unit.dtype, device=unit.device)).square().sum()
    )


class Inferred(NamedTuple):
    """Parts and foreground by the rule of inference."""

    parts: Tensor
    """[B, H, W] int64, 0 to K - 1: the part whose share is largest relative to its own maximum."""
    foreground: Tensor
    """[B, H, W] bool, where that relative share exceeds BACKGROUND."""


def infer(logits: Tensor) -> Inferred:
    """Return the parts of logits [B, K + 1, H, W], the first of which is the background's.

    The softmax of each part is divided by its maximum over the image, and the background is 0.1
    everywhere. The authors' optional refinement by a dense CRF is left out.
    """
    shares = logits.softmax(1)[:, 1:]
    relative, parts = (shares / shares.amax((2, 3), keepdim=True)).max(1)
    return Inferred(parts, relative > BACKGROUND)


def strongest_of_all(logits: Tensor) -> Inferred:
    """Return the parts of logits [B, K + 1, H, W] by the strongest, the background's first.

    So Choudhury et al. measure SCOPS on CUB: the parts are the strongest of the K, and the
    foreground is where one of them is above the background.
    """
    best, parts = logits[:, 1:].max(1)
    return Inferred(parts, best > logits[:, 0])


class SCOPS(Method):
    """SCOPS with K = 8 for faces, as published; variant `k4` has K = 4, and `cub` is for birds.

    `cub` has the parts and the steps of the model for birds that the authors released.
    `deepfashion` and `pascal` are K = 4 with the crops of these data sets' protocols. These three
    are told the foreground that people drew; `saliency`, K = 4, learns from a foreground that was
    found without any label, as in SCOPS's own paper. `cub+released` measures the authors' model of
    birds, and `released` theirs of faces.
    """

    Settings = SCOPSSettings
    VARIANTS = {
        "k4": {"k": 4},
        "cub": {**PROTOCOLS["cub"], "k": 4, "epochs": 60, "inference": "argmax"},
        "saliency": {"k": 4, "told": "saliency"},
        "deepfashion": {**PROTOCOLS["deepfashion"], "k": 4},
        "pascal": {**PROTOCOLS["pascal"], "k": 4},
        "untrained": {"epochs": 0, "weights": "none"},
    }
    REDUCED = {
        "demo": {
            "k": 4,
            "backbone": "resnet18",
            "stride": 4,
            "width": 16,
            "dilations": (1, 2, 3, 4),
            "weights": "none",
            "perceptual": "random",
            "normalize": "half",
            "learning_rate": 1e-3,
            "decay_steps": 500,
            "batch_size": 16,
            "epochs": 4,
            "images_per_epoch": None,
        },
        "subset": {
            "k": 4,
            "backbone": "mobilenet",
            "perceptual": "mobilenet",
            "normalize": "imagenet",
            "decay_steps": 1000,
            "learning_rate": 1e-4,
            "batch_size": 8,
            "images_per_epoch": 1600,
            "epochs": 5,
        },
    }
    RELEASED = {
        "paper": Release("scops_celeba", "weights/scops/celeba_k8_model_100000.pth"),
        # Its published numbers are those of the evaluation by the authors of unsup_parts.
        "cub": Release(
            "scops_cub",
            "weights/scops/cub_model_60000.pth",
            measured={"normalize": "caffe"},
        ),
    }
    learns_from = "mask"
    paper = "unsup_parts"
    references = ("hung2019scops",)
    several_devices = True
    deviations = (
        CAFFE_TRUNK,
        Deviation(
            "For birds, the authors released a model and no settings; here the weights of the "
            "terms are those for CelebA.",
            "the authors' code; its users ask for the settings in vain (issue 3)",
            "Unknown, perhaps large: it is not what they trained.",
            variants=("cub",),
        ),
        Deviation(
            "Whether their training mirrored birds and moved the sides of their boxes is not "
            "stated; here it does both, as the other methods of parts do on these data.",
            "nowhere at hand",
            "Small.",
            variants=("cub", "deepfashion", "pascal"),
        ),
        Deviation(
            "With which settings Choudhury et al. trained SCOPS on their data is not stated; here "
            "with those for CelebA.",
            "nowhere at hand",
            "Unknown, perhaps large.",
            variants=("k4", "deepfashion", "pascal"),
        ),
        Deviation(
            "Their salient pixels come from an unsupervised saliency network, whose maps were not "
            "released; here from the first principal component of a network's features.",
            "the authors' code, whose maps are computed beforehand (issue 1)",
            "Unknown in sign and size.",
            variants=("saliency",),
        ),
        Deviation(
            "Training is told masks that people drew; SCOPS's own paper is told no label.",
            "the paper; Choudhury et al. tell it masks, as their other methods",
            "Better numbers than those of the paper itself.",
            unless=("saliency", "untrained"),
        ),
        Deviation(
            "Their parts can be refined by a dense CRF; here they are not.",
            "the authors' code, where it is an option",
            "Small: borders of parts move by pixels.",
            of_training=False,
        ),
    )

    def __init__(self, settings: SCOPSSettings, data: DataInfo) -> None:
        """Build the segmenter.

        Raises:
            BadInput: the images are too small, the settings name weights that the trunk lacks, or
                the data's foreground is not `told` by whom the settings say.
        """
        super().__init__(settings, data)
        s = self.settings = settings
        _check_told(s.told, data.foreground_by)
        if caffe := CAFFE_MEANS.get(s.normalize):
            self.mean.copy_(torch.tensor(caffe).view(3, 1, 1) / 255)
            self.std.fill_(1 / 255)
        self.network: Any = segmenter(s.k + 1, data.size, s)
        self.basis = nn.Parameter(torch.randn(s.k, sum(CHANNELS[s.perceptual])).abs())
        self.perceptual = Perceptual(s.perceptual, LAYERS[s.perceptual], normalize=True)
        self.warps = ThinPlateSpline(data.size, 5)

    @classmethod
    def weights(cls, settings: SCOPSSettings) -> tuple[str, ...]:
        """Return the perceptual network and the trunk's first weights, if they can be fetched."""
        return (*fetched(settings.perceptual), *first_weights(settings))

    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Read the trunk's first weights."""
        read_first_weights(self.network, self.settings)

    def authors(self) -> Authors:
        """Return how the authors' file holds the segmenter; they released no basis."""
        return authors(self.network, absent=("basis",))

    def draw_warps(self, n: int) -> Tensor:
        """Draw n random warps; return their weights, [n, 28, 2]."""
        return draw_bent(self.warps, self.settings, n)

    def segment(self, x: Tensor, corners: bool = True) -> Tensor:
        """Return the logits of normalised images [B, 3, H, W], [B, K + 1, H, W] float32.

        The background's come first.

        Args:
            x: the images.
            corners: `align_corners` of the upsampling.
        """
        low = self.network(x).float()
        return F.interpolate(low, x.shape[2:], mode="bilinear", align_corners=corners)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the terms and their weighted sum, the loss."""
        s, images = self.settings, batch.images
        assert batch.masks is not None  # the training loop checks it
        with exact(images):
            grid = self.warps.grid(self.draw_warps(len(images)))
            # Normalised before warping, so that pixels from outside have the mean colour.
            jittered = self.normalize(jitter(images, s.jitter, 1.0, 0.0))
            view = warp(jittered, grid, s.align_corners)
        logits = self.segment(self.normalize(images))
        moved = self.segment(view)
        with torch.no_grad():
            taps = [tap.float() for tap in self.perceptual(images)]
        with exact(images):
            terms = self.terms(logits, moved, grid, taps, batch.masks.unsqueeze(1))
            loss = torch.stack([getattr(s, name) * term for name, term in terms.items()]).sum()
        return {"loss": loss, **terms}

    def terms(
        self, logits: Tensor, moved: Tensor, grid: Tensor, taps: Sequence[Tensor], mask: Tensor
    ) -> dict[str, Tensor]:
        """Return the terms, scalars, by the names of their weights.

        Args:
            logits: logits of the images, [B, K + 1, H, W].
            moved: logits of their warped views, [B, K + 1, H, W].
            grid: sampling grids of the warps, [B, H, W, 2].
            taps: features of the images, [B, C_l, h_l, w_l] each.
            mask: [B, 1, H, W], the salient pixels.
        """
        maps, basis = logits.softmax(1)[:, 1:], self.basis.relu()
        carried = warp(logits, grid, self.settings.align_corners)
        carried_centres = centres(carried.softmax(1)[:, 1:])
        moved_centres = centres(moved.softmax(1)[:, 1:])
        return {
            "concentration": concentration(maps, self.settings.divide_twice),
            "equivariance": equivariance(carried, moved),
            "landmark_equivariance": F.mse_loss(moved_centres, carried_centres),
            "semantic": semantic_consistency(maps, mask, taps, basis),
            "orthonormality": orthonormality(basis),
        }

    def optimizers(self) -> dict[str, Optimizer]:
        """Return SGD in three groups: trunk, head and basis.

        Before each step it clips the gradients of the segmenter together, and those of the basis.
        """
        s = self.settings
        self.sgd = sgd(self.network, s)
        self.sgd.add_param_group({"params": [self.basis], "lr": s.basis_learning_rate})

        def clip(*_: Any) -> None:
            nn.utils.clip_grad_norm_(self.basis, s.clip)

        self.sgd.register_step_pre_hook(clip)
        return {"all": self.sgd}

    def after_step(self, step: int) -> None:
        """Lower the learning rates of the segmenter."""
        decay(self.sgd, self.settings, step)

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return the parts and the foreground, by the rule of `inference`."""
        return self._infer(self.segment(self.normalize(images)))

    def whole_part_maps(self, images: Tensor) -> PartMaps:
        """Return those of images at their own aspect, as Choudhury et al. measure them."""
        return self._infer(self.segment(self.normalize(images), self.settings.whole_corners))

    def _infer(self, logits: Tensor) -> PartMaps:
        rule = infer if self.settings.inference == "relative" else strongest_of_all
        return PartMaps(logits.softmax(1)[:, 1:], *rule(logits))


def _check_told(told: Literal["masks", "saliency"], found_by: str | None) -> None:
    """Refuse, with `BadInput`, masks of another origin than the settings say."""
    if told == "saliency" and found_by == "":
        raise BadInput(
            "scops: `told: saliency` learns from a foreground found without labels, and the masks "
            "of this data set are its own; train on one with `of` and `by: "
            "principal_foreground/...`, or on this one without the variant `saliency`"
        )
    if told == "saliency" and found_by and found_by.startswith("foreground/"):
        raise BadInput(
            "scops: `told: saliency` learns from a foreground found without labels, and "
            f"{found_by} learnt from masks; name a run of `principal_foreground`"
        )
    if told == "masks" and found_by:
        raise BadInput(
            f"scops: `told: masks` learns from the data set's own masks, and {found_by} found "
            "these; add the variant `saliency`"
        )


def _line(size: int, like: Tensor) -> Tensor:
    """Return the coordinates of the pixels along a side, [size]."""
    return 2 * torch.arange(size, dtype=like.dtype, device=like.device) / size - 1
