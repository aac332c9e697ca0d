"""MIX: disentangling factors of variation by mixing them (Hu et al., CVPR 2018).

A code is a row of chunks. Two images' codes are mixed chunk by chunk, by a random mask, and a
decoder makes an image of the mixed code. It must look real to a discriminator, a classifier that
sees both images must find the mask in it, and what came from an image must survive another round of
encoding and decoding. Each chunk should then hold one factor of variation.

Settings and networks follow arXiv 1711.07410 and the authors' public code for sprites, which has no
licence; none of it is used here.
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from partbench.data.batch import Batch
from partbench.deviations import Deviation
from partbench.errors import BadInput
from partbench.method import DataInfo, Method, MethodSettings
from partbench.nn.precision import widened
from partbench.nn.scene_networks import MaskClassifier, init_small_, instance_norm, linear

LEAST = 4
"""Side of the map that the decoder starts from."""


class MIXSettings(MethodSettings):
    """The settings for sprites of 60 px."""

    chunks: int = Field(8, ge=2, description="chunks of a code")
    chunk_size: int = Field(64, ge=1, description="numbers in a chunk")
    first: float = Field(
        0.0,
        ge=0,
        description="weight of the first image's reconstruction, squared error; the paper's is not "
        "known, the code, which does not run as published, has 0",
    )
    second: float = Field(10.0, ge=0, description="weight of the second image's reconstruction")
    cycle: float = Field(
        10.0, ge=0, description="weight of the first image's reconstruction through the mixed one"
    )
    adversarial: float = Field(1.0, ge=0, description="weight of the discriminator's verdict")
    classification: float = Field(1.0, ge=0, description="weight of the classifier's error")
    encoder_width: int = Field(64, ge=1, description="channels of the encoder's first layer")
    decoder_width: int = Field(128, ge=1, description="channels before the decoder's last layer")
    discriminator_width: int = Field(64, ge=1, description="channels of its first layer")
    classifier_width: int = Field(
        32, ge=1, description="a third of the channels of its first convolution"
    )
    classifier_hidden: int = Field(4096, ge=1, description="units of its hidden layers")
    learning_rate: float = Field(2e-4, gt=0, description="Adam, betas (0.5, 0.999)")
    decay: float = Field(0.9, gt=0, le=1, description="factor of all rates every 20,000 steps")
    batch_size: int = Field(
        384,
        ge=6,
        multiple_of=6,
        description="64 pairs of images for each of the three updates of a step",
    )
    epochs: int = Field(
        1000, ge=0, description="as often the code goes through its data; the paper does not say"
    )
    normalize: Literal["imagenet", "half"] = "half"


def zeros_around(size: int, kernel: int) -> tuple[int, int]:
    """Return how many zeros TensorFlow puts before and after a side, for a stride of 2."""
    total = max(2 * (-(-size // 2) - 1) + kernel - size, 0)
    return total // 2, total - total // 2


class Down(nn.Conv2d):
    """A convolution of stride 2: [B, inputs, h, h] -> [B, outputs, h / 2, h / 2], rounded up."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, stride=2)
        init_small_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the smaller map."""
        before, after = zeros_around(x.shape[-1], self.kernel_size[0])
        return super().forward(F.pad(x, (before, after, before, after)))


class Up(nn.ConvTranspose2d):
    """A transposed convolution: [B, inputs, h, h] -> [B, outputs, s, s] for s = 2h or 2h - 1."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__(inputs, outputs, 3, stride=2, bias=False)
        self.size = size
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Return the larger map, without what the padding of the way down would have added."""
        start, _ = zeros_around(self.size, self.kernel_size[0])
        inside = slice(start, start + self.size)
        return super().forward(x)[:, :, inside, inside]


class ChunkEncoder(nn.Module):
    """[B, 3, S, S] -> codes [B, D].

    Args:
        sides: of the maps, from S down to 4.
        width: channels of the first map but the image; later ones have up to 8 times as many.
        code: D.
    """

    def __init__(self, sides: list[int], width: int, code: int) -> None:
        super().__init__()
        channels = [3, *(width * 2 ** min(i, 3) for i in range(len(sides)))]
        kernels = [4 if i < 3 else 2 for i in range(len(sides))]
        self.downs = nn.ModuleList(map(Down, channels[:-1], channels[1:], kernels))
        self.last = linear(channels[-1] * (LEAST // 2) ** 2, code)

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes of normalised images."""
        for down in self.downs:
            x = F.leaky_relu(instance_norm(down(x)), 0.2)
        return F.leaky_relu(self.last(x.flatten(1)), 0.2)


class ChunkDecoder(nn.Module):
    """Codes [B, D] -> normalised images [B, 3, S, S]; see `ChunkEncoder`."""

    def __init__(self, sides: list[int], width: int, code: int) -> None:
        super().__init__()
        falling = [width * 2**i for i in range(len(sides) - 2)][::-1]
        channels = [falling[0], *falling, 3]
        self.first = nn.ConvTranspose2d(code, channels[0], LEAST, bias=False)
        nn.init.normal_(self.first.weight, std=0.02)
        self.ups = nn.ModuleList(map(Up, channels[:-1], channels[1:], sides[-2::-1]))

    def forward(self, codes: Tensor) -> Tensor:
        """Return the images that codes stand for."""
        x = F.relu(self.first(codes[..., None, None]))
        for up in self.ups[:-1]:
            x = F.relu(instance_norm(up(x)))
        return torch.tanh(widened(self.ups[-1](x)))


class RealDiscriminator(nn.Sequential):
    """The logit [B, 1] that normalised images [B, 3, S, S] are real, by statistics of the batch."""

    def __init__(self, size: int, width: int) -> None:
        channels, layers = [3, width, 2 * width, 4 * width], list[nn.Module]()
        for inputs, outputs in pairwise(channels):
            layers += [Down(inputs, outputs, 3), *_normed(outputs)]
            size = -(-size // 2)
        across = nn.Conv2d(4 * width, 8 * width, 1)
        init_small_(across)
        last = linear(8 * width * size**2, 1)
        super().__init__(*layers, across, *_normed(8 * width), nn.Flatten(), last)


def _normed(channels: int) -> tuple[nn.Module, ...]:
    norm = nn.BatchNorm2d(channels, momentum=0.01)
    nn.init.normal_(norm.weight, 1, 0.02)
    return norm, nn.LeakyReLU(0.2, inplace=True)


class MIX(Method):
    """Images mixed of two, chunk by chunk."""

    Settings = MIXSettings
    VARIANTS = {"untrained": {"epochs": 0}}
    REDUCED = {
        # There are only some hundred steps, in which a strong discriminator hinders the rest.
        "demo": {
            "chunk_size": 16,
            "encoder_width": 8,
            "decoder_width": 8,
            "discriminator_width": 4,
            "classifier_width": 2,
            "classifier_hidden": 32,
            "adversarial": 0.1,
            "learning_rate": 2e-3,
            "batch_size": 24,
            "epochs": 8,
        },
        "subset": {
            "chunk_size": 32,
            "encoder_width": 16,
            "decoder_width": 32,
            "discriminator_width": 16,
            "classifier_width": 6,
            "classifier_hidden": 256,
            "learning_rate": 1e-3,
            "batch_size": 96,
            "epochs": 10,
        },
    }
    paper = "mix"
    references = ("hu2018mix",)
    several_devices = True
    phases = ("generator", "classifier", "discriminator")
    shares_batch = False
    groups = 2
    deviations = (
        Deviation(
            "Their code has a name misspelt in the loss and does not run as published. Here the "
            "weights are those that stand in it.",
            "the authors' code for sprites",
            "Unknown: the weights of the paper's runs may be others.",
            unless=("untrained",),
        ),
        Deviation(
            "Each of their three updates of a step takes its own pairs from a shuffled queue; here "
            "they share a larger batch, in equal parts.",
            "the authors' code, where every update reads the queue anew",
            "None to be expected.",
            unless=("untrained",),
        ),
        Deviation(
            "Their sprites are drawn characters of a video game, 60 px wide; here the method "
            "learns from any images.",
            "the paper; of the data, the code has one example file",
            "Numbers on other images say nothing of theirs.",
        ),
    )

    def __init__(self, settings: MIXSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        sides = [data.size]
        while sides[-1] > LEAST:
            sides.append(-(-sides[-1] // 2))
        if sides[-1] != LEAST or len(sides) < 3:
            raise BadInput(
                f"mix: a side of {data.size} px, halved and rounded up again and again, never "
                f"comes to {LEAST}; give the data set another `size`, such as 32, 60 or 64"
            )
        code = s.chunks * s.chunk_size
        self.encoder = ChunkEncoder(sides, s.encoder_width, code)
        self.decoder = ChunkDecoder(sides, s.decoder_width, code)
        self.discriminator = RealDiscriminator(data.size, s.discriminator_width)
        # Images smaller than theirs leave too little for the last pooling.
        last_pool = (3, 2) if data.size >= 36 else (2, 1)
        self.classifier = MaskClassifier(
            3, data.size, s.chunks, s.classifier_width, s.classifier_hidden, last_pool
        )

    def draw_mask(self) -> Tensor:
        """Return which chunks the second image gives, bool [chunks], the same for a batch."""
        return torch.randint(2, (self.settings.chunks,), device=self.mean.device).bool()

    def choose(self, mask: Tensor, second: Tensor, first: Tensor) -> Tensor:
        """Return codes [B, D] whose chunks are the second's where the mask says so."""
        return torch.where(mask.repeat_interleave(self.settings.chunk_size), second, first)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the loss of the phase; the batch holds the first images, then the second ones."""
        first, second = self.normalize(batch.images).chunk(2)
        mask = self.draw_mask()
        if phase == "generator":
            return self.generator_loss(first, second, mask)
        with torch.no_grad():
            codes = self.choose(mask, self.encoder(second), self.encoder(first))
            mixed = self.decoder(codes)
        if phase == "classifier":
            return self.classifier_loss(first, second, mixed, mask)
        real, fake = widened(self.discriminator(first)), widened(self.discriminator(mixed))
        accuracy = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        return {"loss": F.softplus(-real).mean() + F.softplus(fake).mean(), "accuracy": accuracy}

    def generator_loss(self, first: Tensor, second: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return the loss of encoder and decoder."""
        s = self.settings
        codes_1, codes_2 = self.encoder(torch.cat([first, second])).chunk(2)
        every = torch.cat([codes_1, codes_2, self.choose(mask, codes_2, codes_1)])
        again_1, again_2, mixed = self.decoder(every).chunk(3)
        through = self.decoder(self.choose(mask, codes_1, self.encoder(mixed)))
        error_1, error_2 = F.mse_loss(again_1, first), F.mse_loss(again_2, second)
        cycle = F.mse_loss(through, first)
        verdict = F.softplus(-widened(self.discriminator(mixed))).mean()
        error = self.classifier_loss(first, second, mixed, mask)["loss"]
        return {
            "loss": s.first * error_1
            + s.second * error_2
            + s.cycle * cycle
            + s.adversarial * verdict
            + s.classification * error,
            "first": error_1,
            "second": error_2,
            "cycle": cycle,
            "adversarial": verdict,
            "classification": error,
        }

    def classifier_loss(
        self, first: Tensor, second: Tensor, mixed: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """Return the error of finding the mask from both images and the mixed one."""
        logits = widened(self.classifier(torch.cat([first, second, mixed], 1)))
        truth = mask.float().expand_as(logits)
        return {
            "loss": F.binary_cross_entropy_with_logits(logits, truth),
            "accuracy": ((logits > 0) == mask).float().mean(),
        }

    def optimizers(self) -> dict[str, Optimizer]:
        """Return one Adam for encoder and decoder, and one for each of the others."""
        players: dict[str, tuple[nn.Module, ...]] = {
            "generator": (self.encoder, self.decoder),
            "classifier": (self.classifier,),
            "discriminator": (self.discriminator,),
        }
        self.adams = {
            phase: Adam(
                [p for network in networks for p in network.parameters()],
                self.settings.learning_rate,
                betas=(0.5, 0.999),
            )
            for phase, networks in players.items()
        }
        return dict(self.adams)

    def after_step(self, step: int) -> None:
        """Lower all learning rates every 20,000 steps."""
        if step % 20_000 == 0:
            for adam in self.adams.values():
                adam.param_groups[0]["lr"] *= self.settings.decay

    def features(self, images: Tensor) -> Tensor:
        """Return the codes of images [B, 3, S, S], [B, chunks * chunk_size]."""
        return self.encoder(self.normalize(images))

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return the images [B, 3, S, S] decoded from their codes."""
        return self.denormalize(self.decoder(self.features(images)))

    def generate(self, batch: Batch) -> Tensor:
        """Return each image mixed with the one before it, by one mask, [B, 3, S, S]."""
        codes = self.features(batch.images)
        return self.denormalize(
            self.decoder(self.choose(self.draw_mask(), codes.roll(1, 0), codes))
        )
