"""PatchVAE: learning local latent codes for recognition (Gupta, Singh, Shrivastava, CVPR 2020).

An image is a set of parts. Each of P parts has one appearance code per image, and occurs or does
not occur at each cell. Settings and details follow arXiv 2004.03623 and the authors' code at commit
816f4b4.
"""

import math
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from partbench.data.batch import Batch
from partbench.deviations import BEST_LOSS, INDOOR_SETTINGS, Deviation
from partbench.method import DataInfo, Method, MethodSettings
from partbench.nn.elbo import (
    edge_weights,
    kl_bernoulli,
    kl_categorical,
    kl_from_var,
    squared_error,
)
from partbench.nn.init import init_patchvae_
from partbench.nn.pyramid import pyramid_decoder
from partbench.nn.resnet import resnet18_trunk
from partbench.nn.shared_batch import own, whole, whole_like
from partbench.training_protocols import PROTOCOLS


class PatchVAESettings(MethodSettings):
    """The settings for CIFAR-100; those for the other data sets are variants."""

    parts: int = Field(16, ge=1, description="P, number of parts")
    part_dims: int = Field(6, ge=1, description="L, numbers of a part's appearance code")
    stride: int = Field(8, description="pixels per cell of the occurrence map: 4, 8, 16 or 32")
    beta_appearance: float = Field(1.0, ge=0, description="weight of the appearance KL")
    beta_occurrence: float = Field(10.0, ge=0, description="weight of the occurrence KL")
    occurrence_prior: float | None = Field(
        None, gt=0, lt=1, description="prior probability of a part at a cell; none: 1 / parts"
    )
    edge_weighted: bool = Field(False, description="L_w: weight the squared error by edges")
    hard: bool = Field(False, description="use straight-through occurrences, not soft ones")
    categorical: bool = Field(False, description="one part per cell, not independent parts")
    temperature: float = Field(1.0, gt=0, description="initial temperature of the relaxation")
    temperature_rate: float = Field(
        3e-5,
        ge=0,
        description="every 1000 steps the temperature is multiplied by exp(-rate * step); the "
        "factors compound, as in the code, so that it reaches its floor at step 12,001",
    )
    temperature_floor: float = Field(0.1, gt=0, description="lowest temperature")
    learning_rate: float = Field(1e-4, gt=0, description="Adam, betas (0.5, 0.999), constant")
    encoder_width: int = Field(64, ge=4, description="channels of the first ResNet stage")
    decoder_width: int = Field(64, ge=4, description="channels of the decoder's last stage")
    decoder_bn_momentum: float = Field(
        0.19,
        gt=0,
        le=1,
        description="1 - 0.9^2: the code runs its decoder twice per step, which changes the "
        "running statistics as a single run with this momentum does",
    )
    images_per_epoch: int | None = Field(
        50_000, ge=1, description="an 'epoch' is 50,000 images for every data set"
    )
    lose_batch_at_wrap: bool = Field(
        True, description="lose one step where the data wraps, as the code does"
    )


class Latent(NamedTuple):
    """A posterior and a sample of it."""

    z: Tensor
    """[B, P * L, h, w], the sample that the decoder sees; channel p * L + l belongs to part p."""
    mu: Tensor
    """[B, P * L], pooled appearance means."""
    var: Tensor
    """[B, P * L], pooled appearance variances."""
    occurrence: Tensor
    """[B, P, h, w], the probability of each part at each cell."""


def sample_latent(
    mu_map: Tensor,
    logvar_map: Tensor,
    logits: Tensor,
    temperature: Tensor | float,
    uniform: Tensor,
    normal: Tensor,
    hard: bool = False,
    categorical: bool = False,
) -> Latent:
    """Pool the appearance over the cells where each part occurs, and sample both latents.

    The occurrence probabilities that pool the appearance take no gradient. The appearance therefore
    changes the occurrence only through the product of their samples.

    Args:
        mu_map: [B, P * L, h, w], means of the appearance at each cell.
        logvar_map: [B, P * L, h, w], log-variances; the variances are clamped to [1e-7, 1e7].
        logits: [B, P, h, w], logits of the occurrences.
        temperature: temperature of the relaxed occurrences.
        uniform: [B, P, h, w] in (0, 1), noise of the occurrences.
        normal: [B, P * L], noise of the appearance.
        hard: sample 0 or 1 (by the sign of the logit), with the gradient of the soft sample.
        categorical: parts exclude each other at a cell.
    """
    batch, parts, height, width = logits.shape
    noise = uniform.clamp(torch.finfo(uniform.dtype).eps, 1 - torch.finfo(uniform.dtype).eps)
    if categorical:
        probability = logits.softmax(1)
        gumbel = -(-noise.log()).log()
        z_occ = ((logits.log_softmax(1) + gumbel) / temperature).softmax(1)
    else:
        probability = logits.sigmoid()
        z_occ = ((logits + noise.log() - (-noise).log1p()) / temperature).sigmoid()
    if hard:
        z_occ = 0.5 * (logits.sign() + 1) + z_occ - z_occ.detach()

    weight = probability.detach().unsqueeze(2)
    mass = weight.sum((3, 4)) + 1e-7
    by_part = (batch, parts, -1, height, width)
    mu = (mu_map.view(by_part) * weight).sum((3, 4)) / mass
    variance = logvar_map.exp().clamp(1e-7, 1e7).view(by_part)
    var = ((variance * weight).sum((3, 4)) + 1e-7) / mass

    z_app = mu + var.sqrt() * normal.view_as(mu)
    z = (z_app[..., None, None] * z_occ.unsqueeze(2)).flatten(1, 2)
    return Latent(z, mu.flatten(1), var.flatten(1), probability)


def anneal(temperature: float, step: int, rate: float, floor: float) -> float:
    """Return the temperature after `step`, counted from 1; it changes at 1, 1001, 2001, ..."""
    return max(temperature * math.exp(-rate * step), floor) if step % 1000 == 1 else temperature


class PatchVAE(Method):
    """PatchVAE, with or without the edge-weighted reconstruction L_w (variant `lw`)."""

    Settings = PatchVAESettings
    VARIANTS = {
        "untrained": {"epochs": 0},
        "lw": {"edge_weighted": True},
        "cifar100": PROTOCOLS["cifar100"],
        "indoor67": PROTOCOLS["indoor67"],
        "places205": PROTOCOLS["places205"],
        "imagenet": {
            **PROTOCOLS["imagenet"],
            "parts": 64,
            "part_dims": 16,
            "stride": 32,
            "batch_size": 256,
            "learning_rate": 2e-4,
            "epochs": 140,
        },
    }
    REDUCED = {
        "demo": {
            "encoder_width": 16,
            "decoder_width": 16,
            "batch_size": 32,
            "images_per_epoch": None,
            "epochs": 5,
            "learning_rate": 1e-3,
        },
        "subset": {
            "encoder_width": 32,
            "decoder_width": 32,
            "batch_size": 64,
            "images_per_epoch": None,
            "epochs": 6,
            "learning_rate": 1e-3,
            "flip": True,
        },
    }
    paper = "patchvae"
    references = ("gupta2020patchvae",)
    several_devices = True
    deviations = (
        BEST_LOSS,
        INDOOR_SETTINGS,
        Deviation(
            "Their edge weights divide by the edges' sum, which is NaN for a channel without "
            "edges; here such a channel has equal weights.",
            "the authors' code",
            "None, except that no step is lost to NaN.",
            variants=("lw",),
        ),
    )

    def __init__(self, settings: PatchVAESettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        latent, channels = s.parts * s.part_dims, s.encoder_width * s.stride // 4
        self.encoder = resnet18_trunk(s.stride, s.encoder_width)
        self.app_mu = nn.Conv2d(channels, latent, 3, padding=1)
        self.app_logvar = nn.Conv2d(channels, latent, 3, padding=1)
        self.occ_logit = nn.Conv2d(channels, s.parts, 3, padding=1)
        self.decoder = pyramid_decoder(latent, s.stride, s.decoder_width, s.decoder_bn_momentum)
        self.register_buffer("temperature", torch.tensor(s.temperature, dtype=torch.float64))
        init_patchvae_(self)

    temperature: Tensor
    """The current temperature, a float64 scalar."""

    @property
    def prior(self) -> float:
        """The prior probability that a part occurs at a cell."""
        return self.settings.occurrence_prior or 1 / self.settings.parts

    def encode(self, x: Tensor) -> Latent:
        """Return a sample of the posterior for normalised images [B, 3, S, S]."""
        s, features = self.settings, self.encoder(x)
        logits = self.occ_logit(features).float()
        normal = own(torch.randn(whole(len(x)), s.parts * s.part_dims, device=x.device))
        return sample_latent(
            self.app_mu(features).float(),
            self.app_logvar(features).float(),
            logits,
            self.temperature,
            own(torch.rand_like(whole_like(logits))),
            normal,
            s.hard,
            s.categorical,
        )

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the terms and reconstruction + beta_a * appearance KL + beta_v * occurrence KL."""
        x = self.normalize(batch.images)
        latent = self.encode(x)
        return self.elbo(x, self.decoder(latent.z).float(), latent)

    def elbo(self, x: Tensor, output: Tensor, latent: Latent) -> dict[str, Tensor]:
        """Return the loss and its terms, scalars."""
        s = self.settings
        weights = edge_weights(x, s.stride) if s.edge_weighted else None
        reconstruction = squared_error(x, output, weights)
        kl_app = kl_from_var(latent.mu, latent.var)
        kl_part = kl_categorical if s.categorical else kl_bernoulli
        kl_occ = kl_part(latent.occurrence, self.prior)
        loss = reconstruction + s.beta_appearance * kl_app + s.beta_occurrence * kl_occ
        return {
            "loss": loss,
            "reconstruction": reconstruction,
            "kl_appearance": kl_app,
            "kl_occurrence": kl_occ,
        }

    def optimizers(self) -> dict[str, Optimizer]:
        """Return one Adam for all parameters."""
        return {"all": Adam(self.parameters(), self.settings.learning_rate, betas=(0.5, 0.999))}

    def after_step(self, step: int) -> None:
        """Lower the temperature."""
        if step % 1000 == 1:  # not at every step, because reading a scalar synchronises the device
            s = self.settings
            value = anneal(self.temperature.item(), step, s.temperature_rate, s.temperature_floor)
            self.temperature.fill_(value)

    def trunks(self) -> dict[str, nn.Module]:
        """Return the encoder; downstream tasks drop the latent heads, as in the paper."""
        return {"encoder": self.encoder}

    def features(self, images: Tensor) -> Tensor:
        """Return the flattened encoder map, [B, C * h * w]."""
        return self.encoder(self.normalize(images)).flatten(1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return the images decoded from samples of their posteriors, as in the paper's code."""
        return self.denormalize(self.decoder(self.encode(self.normalize(images)).z))

    def generate(self, batch: Batch) -> Tensor:
        """Return images decoded from samples of the prior, [B, 3, S, S]."""
        n = len(batch.images)
        s, cells = self.settings, self.data.size // self.settings.stride
        prior = torch.full((n, s.parts, cells, cells), self.prior, device=self.mean.device)
        z_occ = torch.bernoulli(prior).unsqueeze(2)
        z_app = torch.randn(n, s.parts, s.part_dims, 1, 1, device=self.mean.device)
        return self.denormalize(self.decoder((z_occ * z_app).flatten(1, 2)))
