"""LORBMS: learning object representations by mixing scenes (Zbinden, MSc thesis, Bern, 2019).

An encoder gives each quadrant of an image a part of its code. The code of a quadrant is replaced by
that of another image whose quadrant looks alike, and a decoder makes a scene of the mixed code. The
scene must look real to a discriminator, a classifier must find the replaced quadrants in it, and
what was kept must survive another round of encoding and decoding.

Where the thesis and its public code disagree, defaults are the code's, and `thesis` has the
thesis's. The code has no licence, and none of it is used here.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from partbench.data.batch import Batch
from partbench.data.crop import TrainingCrop
from partbench.data.neighbours import QUADRANTS, NeighbourSettings
from partbench.deviations import Deviation
from partbench.errors import BadInput
from partbench.method import DataInfo, Method, MethodSettings
from partbench.nn.precision import widened
from partbench.nn.scene_networks import (
    DENSE_LAYERS,
    MaskClassifier,
    PatchDiscriminator,
    SceneDecoder,
    SceneEncoder,
)
from partbench.nn.spectral import advance


class LORBMSSettings(NeighbourSettings, MethodSettings):
    """The settings for COCO at 64 px."""

    threshold: float = Field(
        16_000,
        gt=0,
        description="squared distance of features up to which a candidate is similar; its scale is "
        "that of the code's pre-ReLU fc7 of AlexNet",
    )
    threshold_quantile: float | None = Field(
        None,
        gt=0,
        le=1,
        description="instead of `threshold`, for features of any scale: the share of the nearest "
        "candidates that count as similar",
    )
    reconstruction: float = Field(0.904, ge=0, description="weight of both reconstructions, L1")
    adversarial: float = Field(0.052, ge=0, description="weight of the discriminator's verdict")
    classification: float = Field(0.044, ge=0, description="weight of the classifier's error")
    pairs: Literal["mean", "sum"] = Field(
        "mean",
        description="what is taken of the classifier's errors with the four candidates: the code "
        "has their mean, the thesis their sum",
    )
    code: int = Field(192, ge=1, description="channels of the code, per quadrant at 64 px")
    first: int = Field(48, ge=1, description="channels of the encoder's first convolution")
    growth: int = Field(16, ge=1, description="channels that each dense layer adds")
    dense_layers: tuple[int, ...] = Field(
        DENSE_LAYERS,
        min_length=1,
        description="layers of the dense blocks, the finest first; each block halves the size",
    )
    decoder_norm: bool = Field(
        False,
        description="instance norm in the decoder's dense layers: the thesis's table has it, the "
        "code does not",
    )
    discriminator_width: int = Field(42, ge=1, description="channels of its first convolution")
    discriminator_layers: int = Field(
        4,
        ge=1,
        description="its convolutions of stride 2; the thesis's table shows a fifth, its count of "
        "parameters and the code do not",
    )
    classifier_width: int = Field(
        32, ge=1, description="a third of the channels of its first convolution"
    )
    classifier_hidden: int = Field(4096, ge=1, description="units of its hidden layers")
    generator_rate: float = Field(2e-4, gt=0, description="Adam, betas (0.5, 0.999), constant")
    discriminator_rate: float = Field(4e-4, gt=0, description="Adam, the same betas, constant")
    classifier_rate: float = Field(2e-4, gt=0, description="Adam, the same betas")
    classifier_decay: float = Field(
        0.9, gt=0, le=1, description="factor of the classifier's rate every 20,000 steps"
    )
    batch_size: int = Field(
        56, ge=4, description="14 images for each of the four updates of a step; the thesis has 12"
    )
    epochs: int = Field(
        73, ge=0, description="the epoch of lowest FID of 110, which they chose on the test images"
    )
    images_per_epoch: int | None = Field(
        542_216,
        ge=1,
        description="the code counts 135,554 / 14 steps as an epoch, though 338,865 images are "
        "given; each step sees four batches",
    )
    training_crop: TrainingCrop = Field(
        "window", description="a square of the short side at a random place"
    )
    normalize: Literal["imagenet", "half"] = "half"


class Scenes(NamedTuple):
    """Mixed scenes, and what they are made of; images are normalised."""

    replaced: Tensor
    """[B, 4] bool, whether a quadrant is the candidate's."""
    codes: Tensor
    """[B, C, h, w], of the reference images."""
    mixed_codes: Tensor
    """[B, C, h, w]."""


def replaced_quadrants(distances: Tensor, threshold: Tensor | float) -> Tensor:
    """Return which quadrants are replaced by their candidates, bool [B, 4]: 1 to 3 of each image.

    The nearest candidate is always taken, and the farthest never. The others are if their distance
    is at most the threshold. Among equal distances, the first counts as the nearest and the last as
    the farthest.

    Args:
        distances: of the candidates, [B, 4].
        threshold: squared distance.
    """
    order = distances.argsort(dim=1, stable=True)
    quadrants = torch.arange(QUADRANTS, device=distances.device)
    nearest, farthest = order[:, :1] == quadrants, order[:, -1:] == quadrants
    return nearest | (distances <= threshold) & ~farthest


SHORT = ("ten_epochs", "no_cls", "no_rec", "no_adv", "first_epoch", "untrained", "demo", "subset")
"""Variants whose number of epochs is not that of the best FID."""


class LORBMS(Method):
    """Scenes mixed of an image and images with similar quadrants.

    `no_cls`, `no_rec` and `no_adv` leave out a term of the loss, for ten epochs as `ten_epochs`.
    """

    Settings = LORBMSSettings
    VARIANTS = {
        "thesis": {
            "batch_size": 48,
            "neighbour_rank": "quadrant",
            "pairs": "sum",
            "decoder_norm": True,
            "images_per_epoch": 4 * 338_865,
        },
        "ten_epochs": {"epochs": 10},
        "no_cls": {"epochs": 10, "classification": 0.0},
        "no_rec": {"epochs": 10, "reconstruction": 0.0},
        "no_adv": {"epochs": 10, "adversarial": 0.0},
        "first_epoch": {"epochs": 1},
        "untrained": {"epochs": 0},
    }
    REDUCED = {
        "demo": {
            "code": 32,
            "first": 12,
            "growth": 6,
            "dense_layers": (2, 2, 2),
            "discriminator_width": 8,
            "discriminator_layers": 3,
            "classifier_width": 2,
            "classifier_hidden": 32,
            "generator_rate": 1e-3,
            "discriminator_rate": 2e-3,
            "classifier_rate": 1e-3,
            "threshold_quantile": 0.75,
            "batch_size": 32,
            "images_per_epoch": None,
            "epochs": 3,
        },
        "subset": {
            "code": 64,
            "first": 16,
            "growth": 6,
            "dense_layers": (2, 2, 3, 4, 4),
            "discriminator_width": 16,
            "classifier_width": 6,
            "classifier_hidden": 256,
            "generator_rate": 1e-3,
            "discriminator_rate": 1e-3,
            "classifier_rate": 1e-3,
            "threshold_quantile": 0.75,
            "batch_size": 32,
            "images_per_epoch": None,
            "epochs": 3,
        },
    }
    learns_from = "neighbours"
    paper = "lorbms"
    references = ("zbinden2019lorbms",)
    several_devices = True
    phases = ("generator", "generator", "classifier", "discriminator")
    shares_batch = False
    trunk_names = ("encoder", "discriminator")
    deviations = (
        Deviation(
            "They keep the epoch of lowest FID on the test images. Here the last epoch counts, and "
            "there are as many as theirs has.",
            "the thesis, section on FID and IS, and the logs beside the code",
            "Worse FID here than theirs, by the optimism of choosing on test images.",
            unless=SHORT,
        ),
        Deviation(
            "Each of their four updates of a step takes its own batch from a shuffled queue; here "
            "they share one four times as large, in equal parts.",
            "the authors' code, where every update reads the queue anew",
            "None to be expected.",
            unless=("untrained",),
        ),
        Deviation(
            "Of equal distances, theirs takes the first as the nearest and as the farthest, and "
            "may replace all quadrants; here the last is the farthest.",
            "the authors' code",
            "None: distances are hardly ever equal.",
            unless=("untrained",),
        ),
        Deviation(
            "They shrink a square to 224 px without antialiasing, by the first TensorFlow, and "
            "write each tile as a JPEG whose contrast is stretched to the whole range. Here tiles "
            "are made with antialiasing, and neither stretched nor compressed.",
            "the authors' code, `src/create_tiles_for_clustering.py`",
            "Other distances: `threshold`, whose scale is theirs, may take in more or fewer "
            "candidates.",
            unless=("untrained", "demo", "subset"),
        ),
        Deviation(
            "Theirs leaves out the first hit as the image itself, and stops at a cluster of fewer "
            "than 11. Here all duplicates are left out, and small clusters join the nearest one.",
            "the authors' code",
            "None to be expected.",
            unless=("untrained",),
        ),
    )

    def __init__(self, settings: LORBMSSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        stride = 2 ** len(s.dense_layers)
        if data.size % (2 * stride):
            raise BadInput(
                f"lorbms: images of {data.size} px cannot be divided into quadrants of whole cells "
                f"of {stride} px; give the data set a `size` that is a multiple of {2 * stride}, "
                "or the method fewer `dense_layers`"
            )
        shape = (s.code, s.first, s.growth, s.dense_layers)
        self.encoder = SceneEncoder(*shape)
        self.decoder = SceneDecoder(*shape, normed=s.decoder_norm)
        self.discriminator = PatchDiscriminator(s.discriminator_width, s.discriminator_layers)
        self.classifier = MaskClassifier(
            2, data.size, QUADRANTS, s.classifier_width, s.classifier_hidden
        )
        self.side = data.size // (2 * stride)  # cells of a quadrant's side
        self.register_buffer("tau", torch.tensor(s.threshold))

    tau: Tensor
    """The threshold."""

    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Set the threshold, or check that it has the scale of the distances."""
        s, seen = self.settings, []
        for batch in passes():
            assert batch.distances is not None
            if s.threshold_quantile is None and (batch.distances <= s.threshold).any():
                return
            seen.append(batch.distances.flatten())
        distances = torch.cat(seen)
        if s.threshold_quantile is None:
            raise BadInput(
                f"lorbms: no candidate is as near as the `threshold` of {s.threshold:g}: the "
                f"nearest is at {distances.min():g}; its scale is not that of the features, so set "
                "`threshold_quantile`, such as 0.5, instead"
            )
        rank = round(s.threshold_quantile * len(distances))
        self.tau.copy_(distances.kthvalue(max(rank, 1)).values)

    def by_quadrant(self, values: Tensor) -> Tensor:
        """Return values [..., 4] of quadrants as maps of the code's cells, [..., h, w]."""
        squares = values.unflatten(-1, (2, 2))
        return squares.repeat_interleave(self.side, -2).repeat_interleave(self.side, -1)

    def mix(self, batch: Batch) -> Scenes:
        """Return the mixed codes of images with candidates."""
        assert batch.candidates is not None
        images = torch.cat([batch.images[:, None], batch.candidates], 1)
        codes = self.encoder(self.normalize(images).flatten(0, 1)).unflatten(0, images.shape[:2])
        reference = codes[:, 0]
        source = self.by_quadrant(1 + torch.arange(QUADRANTS, device=codes.device))
        candidates = codes.gather(1, source.expand_as(codes[:, :1])).squeeze(1)
        replaced = self.replaced(batch)
        cells = self.by_quadrant(replaced)[:, None]
        return Scenes(replaced, reference, torch.where(cells, candidates, reference))

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the loss of the phase and its terms."""
        if phase == "generator":
            return self.generator_loss(batch)
        with torch.no_grad():
            scenes = self.mix(batch)
            mixed = self.decoder(scenes.mixed_codes)
        if phase == "classifier":
            return self.classifier_loss(mixed, batch, scenes.replaced)
        return self.discriminator_loss(mixed, batch)

    def generator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of encoder and decoder."""
        s, x, scenes = self.settings, self.normalize(batch.images), self.mix(batch)
        again, mixed = self.decoder(torch.cat([scenes.codes, scenes.mixed_codes])).chunk(2)
        # The code of the mixed scene must give back what was kept; the rest is not in it.
        cells = self.by_quadrant(scenes.replaced)[:, None]
        kept = torch.where(cells, scenes.codes, self.encoder(mixed))
        direct = (again - x).abs().mean()
        through_scene = (self.decoder(kept) - x).abs().mean()
        verdict = F.softplus(-self.discriminator(mixed)).mean()
        error = self.classifier_loss(mixed, batch, scenes.replaced)["loss"]
        return {
            "loss": s.reconstruction * (direct + through_scene)
            + s.adversarial * verdict
            + s.classification * error,
            "reconstruction": direct,
            "reconstruction_through_scene": through_scene,
            "adversarial": verdict,
            "classification": error,
        }

    def classifier_loss(self, mixed: Tensor, batch: Batch, replaced: Tensor) -> dict[str, Tensor]:
        """Return the error of finding each candidate in the scene: where, if at all.

        Its accuracy is that of finding whether the candidate's own quadrant is in the scene.
        """
        assert batch.candidates is not None
        candidates = self.normalize(batch.candidates)
        present = torch.diag_embed(replaced.float())  # [B, candidate, quadrant]
        # One pass a candidate, since batch norm takes its statistics over a pass.
        pairs = [torch.cat([mixed, candidate], 1) for candidate in candidates.unbind(1)]
        logits = widened(torch.stack([self.classifier(pair) for pair in pairs], 1))
        error = F.binary_cross_entropy_with_logits(logits, present)
        found = (logits.diagonal(dim1=1, dim2=2) > 0) == replaced
        scale = QUADRANTS if self.settings.pairs == "sum" else 1
        return {"loss": scale * error, "accuracy": found.float().mean()}

    def discriminator_loss(self, mixed: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the error of telling images from mixed scenes, patch by patch."""
        real, fake = self.discriminator(torch.cat([self.normalize(batch.images), mixed])).chunk(2)
        accuracy = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        return {"loss": F.softplus(-real).mean() + F.softplus(fake).mean(), "accuracy": accuracy}

    def optimizers(self) -> dict[str, Optimizer]:
        """Return one Adam for encoder and decoder, one for the classifier, one for the other."""
        s = self.settings

        def adam(rate: float, *networks: nn.Module) -> Adam:
            parameters = [p for network in networks for p in network.parameters()]
            return Adam(parameters, rate, betas=(0.5, 0.999))

        self.classifier_adam = adam(s.classifier_rate, self.classifier)
        return {
            "generator": adam(s.generator_rate, self.encoder, self.decoder),
            "classifier": self.classifier_adam,
            "discriminator": adam(s.discriminator_rate, self.discriminator),
        }

    def after_step(self, step: int) -> None:
        """Advance the spectral norms, and the classifier's learning rate every 20,000 steps."""
        advance(self)
        if step % 20_000 == 0:
            for group in self.classifier_adam.param_groups:
                group["lr"] *= self.settings.classifier_decay

    def trunks(self) -> dict[str, nn.Module]:
        """Return encoder and discriminator as networks from normalised images to features."""
        return {
            "encoder": nn.Sequential(self.encoder, nn.Flatten()),
            "discriminator": nn.Sequential(self.discriminator.trunk, nn.Flatten()),
        }

    def features(self, images: Tensor) -> Tensor:
        """Return the encoder's features of images [B, 3, S, S], [B, C * h * w]."""
        return self.encoder(self.normalize(images)).flatten(1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return the images [B, 3, S, S] decoded from their codes."""
        return self.denormalize(self.decoder(self.encoder(self.normalize(images))))

    def generate(self, batch: Batch) -> Tensor:
        """Return the mixed scenes of images with candidates, [B, 3, S, S]."""
        return self.denormalize(self.decoder(self.mix(batch).mixed_codes))

    def replaced(self, batch: Batch) -> Tensor:
        """Return which quadrants of the images are replaced, bool [B, 4]."""
        assert batch.distances is not None
        return replaced_quadrants(batch.distances, self.tau)
