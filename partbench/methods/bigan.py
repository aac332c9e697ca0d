"""BiGAN: adversarial feature learning (Donahue, Kraehenbuehl, Darrell, ICLR 2017).

A discriminator distinguishes pairs (image, E(image)) from pairs (G(z), z). The encoder E and the
generator G are trained together to fool it, which makes E the inverse of G.

PatchVAE's paper compares with BiGAN, but its code does not include it. The encoder and the
generator here are those of the other baselines. The discriminator is DCGAN's, joined with the code
at its last map.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from partbench.data.batch import Batch
from partbench.deviations import BEST_LOSS, INDOOR_SETTINGS, Deviation
from partbench.method import DataInfo, Method, MethodSettings
from partbench.nn.init import init_patchvae_
from partbench.nn.pyramid import pyramid_decoder
from partbench.nn.resnet import resnet18_trunk
from partbench.nn.shared_batch import own, whole
from partbench.training_protocols import PROTOCOLS


class BiGANSettings(MethodSettings):
    """Adam as in DCGAN and BiGAN; the other settings are those of PatchVAE's other baselines."""

    latent: int = Field(96, ge=1, description="numbers in the code z ~ N(0, 1)")
    stride: int = Field(8, description="total stride of the encoder: 4, 8, 16 or 32")
    learning_rate: float = Field(2e-4, gt=0, description="Adam, betas (0.5, 0.999), constant")
    encoder_width: int = Field(64, ge=4, description="channels of the first ResNet stage")
    decoder_width: int = Field(64, ge=4, description="channels of the generator's last stage")
    discriminator_width: int = Field(
        64, ge=4, description="channels of the discriminator's first layer"
    )
    images_per_epoch: int | None = Field(
        50_000, ge=1, description="an 'epoch' is 50,000 images for every data set"
    )
    lose_batch_at_wrap: bool = Field(
        True, description="skip one step where the data wraps, as the other baselines do"
    )


class JointDiscriminator(nn.Module):
    """The logit [B] that a pair of image [B, 3, S, S] and code [B, latent] is (x, E(x))."""

    def __init__(self, size: int, latent: int, stride: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        channels = width
        for _ in range(stride.bit_length() - 2):
            layers += [
                nn.Conv2d(channels, channels * 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(channels * 2),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            channels *= 2
        self.image = nn.Sequential(*layers, nn.Flatten())
        self.code = nn.Sequential(nn.Linear(latent, 512), nn.LeakyReLU(0.2, inplace=True))
        self.joint = nn.Sequential(
            nn.Linear(channels * (size // stride) ** 2 + 512, 512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(512, 1),
        )

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        """Return the logits, [B] float32."""
        pair = torch.cat([self.image(images), self.code(codes)], dim=1)
        return self.joint(pair).squeeze(1).float()


class BiGAN(Method):
    """BiGAN with the encoder and the decoder of PatchVAE's other baselines."""

    Settings = BiGANSettings
    VARIANTS = {
        "untrained": {"epochs": 0},
        "cifar100": PROTOCOLS["cifar100"],
        "indoor67": PROTOCOLS["indoor67"],
        "places205": PROTOCOLS["places205"],
        "imagenet": {
            **PROTOCOLS["imagenet"],
            "latent": 1024,
            "stride": 32,
            "batch_size": 256,
            "epochs": 140,
        },
    }
    REDUCED = {
        "demo": {
            "encoder_width": 16,
            "decoder_width": 16,
            "discriminator_width": 16,
            "batch_size": 32,
            "images_per_epoch": None,
            "epochs": 2,
        },
        "subset": {
            "encoder_width": 32,
            "decoder_width": 32,
            "discriminator_width": 32,
            "batch_size": 64,
            "images_per_epoch": None,
            "epochs": 6,
            "flip": True,
        },
    }
    paper = "patchvae"
    references = ("donahue2017bigan",)
    several_devices = True
    deviations = (
        BEST_LOSS,
        INDOOR_SETTINGS,
        Deviation(
            "Which networks and which settings they used is unknown. Here: the encoder and the "
            "generator of the other baselines, DCGAN's discriminator joined with the code at its "
            "last map, and BiGAN's Adam.",
            "nowhere; PatchVAE's code has no BiGAN",
            "Unknown in sign and size.",
        ),
    )
    phases = ("discriminator", "generator")

    def __init__(self, settings: BiGANSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        cells, channels = data.size // s.stride, s.encoder_width * s.stride // 4
        self.encoder = resnet18_trunk(s.stride, s.encoder_width)
        self.to_code = nn.Conv2d(channels, s.latent, cells)
        self.generator = nn.Sequential(
            nn.ConvTranspose2d(s.latent, 64, cells, bias=False),
            nn.BatchNorm2d(64),
            nn.LeakyReLU(0.2, inplace=True),
            pyramid_decoder(64, s.stride, s.decoder_width),
        )
        self.discriminator = JointDiscriminator(
            data.size, s.latent, s.stride, s.discriminator_width
        )
        init_patchvae_(self)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes [B, latent] of normalised images [B, 3, S, S]."""
        return self.to_code(self.encoder(x)).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """Return the normalised images [B, 3, S, S] that codes [B, latent] generate."""
        return self.generator(z[..., None, None])

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the loss of the phase: the discriminator's, or that of encoder and generator."""
        x = self.normalize(batch.images)
        z = own(torch.randn(whole(len(x)), self.settings.latent, device=x.device))
        with torch.set_grad_enabled(phase == "generator"):
            codes, images = self.encode(x), self.decode(z)
        real, fake = self.discriminator(x, codes), self.discriminator(images, z)
        if phase == "discriminator":
            loss = F.softplus(-real).mean() + F.softplus(fake).mean()
            accuracy = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
            return {"loss": loss, "discriminator_accuracy": accuracy}
        return {"loss": F.softplus(real).mean() + F.softplus(-fake).mean()}

    def optimizers(self) -> dict[str, Optimizer]:
        """Return one Adam for the discriminator, and one for encoder and generator."""
        players: dict[str, list[nn.Module]] = {
            "discriminator": [self.discriminator],
            "generator": [self.encoder, self.to_code, self.generator],
        }
        return {
            phase: Adam(
                [p for module in modules for p in module.parameters()],
                self.settings.learning_rate,
                betas=(0.5, 0.999),
            )
            for phase, modules in players.items()
        }

    def trunks(self) -> dict[str, nn.Module]:
        """Return the encoder without its last layer, as in the other baselines."""
        return {"encoder": self.encoder}

    def features(self, images: Tensor) -> Tensor:
        """Return the flattened encoder map, [B, C * h * w]."""
        return self.encoder(self.normalize(images)).flatten(1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return G(E(image)) for images [B, 3, S, S] in [0, 1]."""
        return self.denormalize(self.decode(self.encode(self.normalize(images))))

    def generate(self, batch: Batch) -> Tensor:
        """Return images G(z), [B, 3, S, S], for z ~ N(0, 1)."""
        z = torch.randn(len(batch.images), self.settings.latent, device=self.mean.device)
        return self.denormalize(self.decode(z))
