"""VAE and beta-VAE as PatchVAE's authors built them for comparison (their code, `--arch vae`).

The encoder, the decoder and the number of latent numbers are those of PatchVAE, but one code
describes the whole image. beta = 1 is the VAE (Kingma & Welling 2014); a larger beta is beta-VAE
(Higgins et al. 2017).
"""

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from partbench.data.batch import Batch
from partbench.deviations import BEST_LOSS, INDOOR_SETTINGS, Deviation
from partbench.method import DataInfo, Method, MethodSettings
from partbench.nn.elbo import edge_weights, kl_from_var, squared_error
from partbench.nn.init import init_patchvae_
from partbench.nn.pyramid import pyramid_decoder
from partbench.nn.resnet import resnet18_trunk
from partbench.nn.shared_batch import own, whole_like
from partbench.training_protocols import PROTOCOLS


class VAESettings(MethodSettings):
    """The settings for CIFAR-100; those for the other data sets are variants."""

    latent: int = Field(96, ge=1, description="latent numbers, PatchVAE's parts * part_dims")
    stride: int = Field(8, description="total stride of the encoder: 4, 8, 16 or 32")
    beta: float = Field(1.0, ge=0, description="weight of the KL term")
    edge_weighted: bool = Field(False, description="L_w: weight the squared error by edges")
    learning_rate: float = Field(1e-4, gt=0, description="Adam, betas (0.5, 0.999), constant")
    encoder_width: int = Field(64, ge=4, description="channels of the first ResNet stage")
    decoder_width: int = Field(64, ge=4, description="channels of the decoder's last stage")
    images_per_epoch: int | None = Field(
        50_000, ge=1, description="an 'epoch' is 50,000 images for every data set"
    )
    lose_batch_at_wrap: bool = Field(
        True,
        description="lose one step where the data wraps, as the code does",
    )


class Posterior(NamedTuple):
    """The posterior of the code."""

    mu: Tensor
    """[B, latent, 1, 1], means."""
    var: Tensor
    """[B, latent, 1, 1], variances, not clamped."""


class VAE(Method):
    """VAE; variant `beta` is beta-VAE, and variant `lw` weighs the reconstruction by edges."""

    Settings = VAESettings
    VARIANTS = {
        "untrained": {"epochs": 0},
        "lw": {"edge_weighted": True},
        "beta": {"beta": 4.0},
        "cifar100": PROTOCOLS["cifar100"],
        "indoor67": PROTOCOLS["indoor67"],
        "places205": PROTOCOLS["places205"],
        "imagenet": {
            **PROTOCOLS["imagenet"],
            "latent": 1024,
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
            "epochs": 4,
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
    references = ("kingma2014vae", "higgins2017beta", "gupta2020patchvae")
    several_devices = True
    deviations = (
        BEST_LOSS,
        INDOOR_SETTINGS,
        Deviation(
            "The beta of their beta-VAE is unknown; here it is 4, the smallest of Higgins et al.",
            "nowhere; no public file of PatchVAE's authors states it",
            "Unknown; accuracy moves by a point or so with beta.",
            variants=("beta",),
        ),
    )

    def __init__(self, settings: VAESettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        cells, channels = data.size // s.stride, s.encoder_width * s.stride // 4
        self.encoder = resnet18_trunk(s.stride, s.encoder_width)
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        )
        self.mu = nn.Conv2d(64, s.latent, cells)
        self.logvar = nn.Conv2d(64, s.latent, cells)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(s.latent, 64, cells, bias=False),
            nn.BatchNorm2d(64),
            nn.LeakyReLU(0.2, inplace=True),
            pyramid_decoder(64, s.stride, s.decoder_width),
        )
        init_patchvae_(self)

    def posterior(self, x: Tensor) -> Posterior:
        """Return the posterior for normalised images [B, 3, S, S]."""
        reduced = self.reduce(self.encoder(x))
        return Posterior(self.mu(reduced).float(), self.logvar(reduced).float().exp())

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the loss, reconstruction + beta * KL, and its terms."""
        x = self.normalize(batch.images)
        q = self.posterior(x)
        output = self.decoder(q.mu + q.var.sqrt() * own(torch.randn_like(whole_like(q.mu)))).float()
        return self.elbo(x, output, q)

    def elbo(self, x: Tensor, output: Tensor, q: Posterior) -> dict[str, Tensor]:
        """Return the loss and its terms, scalars."""
        s = self.settings
        weights = edge_weights(x, s.stride) if s.edge_weighted else None
        reconstruction = squared_error(x, output, weights)
        kl = kl_from_var(q.mu, q.var)
        return {"loss": reconstruction + s.beta * kl, "reconstruction": reconstruction, "kl": kl}

    def optimizers(self) -> dict[str, Optimizer]:
        """Return one Adam for all parameters."""
        return {"all": Adam(self.parameters(), self.settings.learning_rate, betas=(0.5, 0.999))}

    def trunks(self) -> dict[str, nn.Module]:
        """Return the encoder; downstream tasks drop the latent heads, as in the paper."""
        return {"encoder": self.encoder}

    def features(self, images: Tensor) -> Tensor:
        """Return the flattened encoder map, [B, C * h * w]."""
        return self.encoder(self.normalize(images)).flatten(1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return the images decoded from the means of their posteriors."""
        return self.denormalize(self.decoder(self.posterior(self.normalize(images)).mu))

    def generate(self, batch: Batch) -> Tensor:
        """Return images decoded from samples of the prior, [B, 3, S, S]."""
        z = torch.randn(len(batch.images), self.settings.latent, 1, 1, device=self.mean.device)
        return self.denormalize(self.decoder(z))
