"""Deep Latent Particles (Daniel and Tamar, ICML 2022).

An image is a set of particles: each has a place with its uncertainty, and an appearance. The
prior over places comes from the image itself: a keypoint in each patch, the most decided kept.
Facts: arXiv 2205.15821 and the authors' code at commit a3d9cff.

The masked model (CelebA) decodes particles through masks on heat maps; the object model (Traffic,
CLEVRER, Shapes) decodes a small RGBA picture for each and lays them over a background.
"""

import math
from bisect import bisect_right
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from partbench.coordinates import Frame, RegressionOrigins, of_cells, window_of
from partbench.data.batch import Batch
from partbench.errors import BadInput
from partbench.method import DataInfo, Method, MethodSettings
from partbench.nn.elbo import kl_from_logvar
from partbench.nn.keypoints import gaussian_maps
from partbench.nn.particles import (
    Double,
    PointConv,
    box_masks,
    chamfer_kl,
    composite,
    conv_block,
    decoder,
    encoder,
    exclusive_glimpses,
    glimpses,
    mlp,
    proposals,
    to_patches,
)
from partbench.nn.perceptual import Name, Perceptual, fetched
from partbench.nn.precision import exact
from partbench.nn.tps import STRONG, ThinPlateSpline, warp
from partbench.outputs.keypoints import Keypoints

WEAK = STRONG.times(0.1)
PERCEPTUAL_LAYERS = {
    "pixels": (),
    # conv1_2, conv2_2, conv3_2, conv4_3, each after its ReLU, and the last pooling.
    "vgg16": (3, 8, 13, 22, 30),
    "vgg19": (3, 8, 13, 24, 36),
    "mobilenet": (1, 3, 5, 11, 13),
}


class DLPSettings(MethodSettings):
    """The settings for CelebA, the masked model; the other data sets' are variants."""

    epochs: int = Field(100, ge=0, description="epochs, as `images_per_epoch` defines one")
    batch_size: int = Field(64, ge=1, description="images a step, over all processes")
    margin: int = Field(
        16,
        ge=0,
        description="pixels of the prepared image cut off on each side, after the warps",
    )
    k: int = Field(30, ge=1, description="K, number of particles")
    proposals: int = Field(50, ge=1, description="proposals kept, of one a patch")
    patch: int = Field(8, ge=2, description="side of a proposal's patch, pixels")
    glimpse: float = Field(
        0.125, gt=0, le=1, description="side of a glimpse, of the side that it is cut from less 1"
    )
    features: int = Field(10, ge=1, description="numbers of a particle's appearance")
    channels: tuple[int, ...] = Field((32, 64, 128, 256), min_length=2, description="encoder")
    prior_channels: tuple[int, ...] = Field((16, 32, 64), min_length=2, description="proposals")
    objects: bool = Field(False, description="the object model, not the masked one")
    exclusive: bool = Field(
        False, description="objects: each glimpse sees only what those before it left"
    )
    warmup_epochs: int = Field(
        0,
        ge=0,
        description="objects: epochs that only reconstruct glimpses; five times as many have "
        "noisy masks",
    )
    warps: bool = Field(
        True, description="proposals come from a strongly warped copy of a weakly warped image"
    )
    perceptual: Name = Field(
        "vgg16", description="network of the reconstruction loss, on top of the pixels"
    )
    beta_kl: float = Field(40.0, ge=0, description="weight of both KL terms")
    kl_balance: float = Field(0.001, ge=0, description="weight of the appearance KL within them")
    background_in_chamfer: bool = Field(
        True,
        description="the background particle takes part in the Chamfer-KL, as for the paper's "
        "CelebA results; the published code leaves it out",
    )
    sigma: float = Field(0.1, gt=0, description="SD of the prior and of the Gaussian maps")
    mask_threshold: float = Field(0.2, gt=0, lt=1, description="of Gaussian maps as masks")
    init_std: float | None = Field(
        0.01, gt=0, description="SD of the convolutions' first weights; none: torch's own"
    )
    learning_rate: float = Field(2e-4, gt=0, description="Adam, eps 1e-4")
    milestones: tuple[int, ...] = Field((50, 100, 200), description="epochs")
    gamma: float = Field(
        0.5, gt=0, description="of the learning rate at a milestone; 0.1 in the 4-GPU script"
    )


class Noise(NamedTuple):
    """The random draws of one pass; zeros make it deterministic."""

    position: Tensor
    """[B, K + 1, 2], normal."""
    features: Tensor
    """[B, K + 1, d], normal."""
    seen: Tensor | None = None
    """[B, K], uniform: in place of the transparency where glimpses are cut, in noisy phases."""
    shown: Tensor | None = None
    """[B, K], uniform: the same where patches are laid over each other."""
    alpha: Tensor | None = None
    """[B, K, 1, S, S], normal, for the alpha of laid patches in noisy phases."""


class Particles(NamedTuple):
    """The posterior of a batch; the last particle is the background."""

    maps: Tensor
    """[B, K, h, w], the encoder's heat maps."""
    mu: Tensor
    """[B, K + 1, 2], places (x, y)."""
    logvar: Tensor
    """[B, K + 1, 2]."""
    z: Tensor
    """[B, K + 1, 2], a sample."""
    appearance: Tensor
    """[B, K + 1, d], means."""
    appearance_logvar: Tensor
    """[B, K + 1, d]."""
    z_appearance: Tensor
    """[B, K + 1, d], a sample."""
    on: Tensor | None
    """[B, K], transparency in (0, 1); of the object model."""
    glimpses: Tensor | None
    """[B, K, 3, g, g]; of the object model."""


class Decoded(NamedTuple):
    """What the decoder makes of particles."""

    images: Tensor
    """[B, 3, S, S]."""
    patches: Tensor | None = None
    """[B, K, 4, g, g], alpha and RGB; of the object model."""
    objects: Tensor | None = None
    """[B, 3, S, S], the patches laid over each other, without background."""


OBJECTS = {
    "objects": True,
    "background_in_chamfer": False,
    "warps": False,
    "margin": 0,
    "glimpse": 0.25,
}

# At 64 px, patches of 4 pixels are as many as the paper's 8 at 128. With first weights of SD 0.01
# a thousand steps pass before the particles move.
SMALL = {
    "patch": 4,
    "init_std": None,
    "learning_rate": 3e-4,
    "beta_kl": 1.0,
    "perceptual": "pixels",
}


class DLP(Method):
    """Deep Latent Particles, the masked model or (setting `objects`) the object model."""

    Settings = DLPSettings
    VARIANTS = {
        "k25": {"k": 25},
        "k30": {},
        "k50": {"k": 50},
        "head": {"background_in_chamfer": False},
        "mse": {"perceptual": "pixels"},
        "untrained": {"epochs": 0},
        # The README's table; where the scripts differ from it, theirs stand in the comment.
        "traffic": {
            **OBJECTS,
            "k": 15,
            "proposals": 20,
            "patch": 16,
            "features": 20,  # 10
            "beta_kl": 30.0,
            "warmup_epochs": 2,
        },
        "clevrer": {
            **OBJECTS,
            "k": 10,
            "proposals": 20,
            "patch": 16,
            "features": 5,  # 6
            "beta_kl": 40.0,
            "warmup_epochs": 1,
        },
        "shapes": {
            **OBJECTS,
            "exclusive": True,
            "k": 10,
            "proposals": 15,
            "features": 6,
            "channels": (32, 64, 128),
            "perceptual": "pixels",
            "beta_kl": 0.1,  # 0.05
            "warmup_epochs": 1,
            "learning_rate": 1e-3,
            "milestones": (20, 40, 80),
        },
    }
    REDUCED = {
        "demo": {
            **SMALL,
            "prior_channels": (4, 8),
            "margin": 0,
            "warps": False,
            "k": 10,
            "features": 6,
            "channels": (8, 16, 32),
            "batch_size": 8,
            "epochs": 1,
        },
        "subset": {
            **SMALL,
            "prior_channels": (8, 16),
            "margin": 8,
            "channels": (16, 32, 64),
            "batch_size": 16,
            "epochs": 10,
            "milestones": (5, 8),
        },
    }
    paper = "dlp"
    protocol = RegressionOrigins(points="centred", landmarks="corner")

    def __init__(self, settings: DLPSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        self.side = window_of(data.size, s.margin)
        self.cells = self.side >> (len(s.channels) - 1)
        self._check(data.size)
        self.background_logvar = 2 * math.log(s.sigma)
        k, points = s.k, s.k * self.cells**2
        self.encoder = encoder(s.channels, k, 7)
        self.place = mlp(points, 4 * k)
        self.background = mlp(points, 2 * s.features)
        self.proposer = encoder(s.prior_channels, 1, 3)
        self.cut = round(s.glimpse * ((self.side if s.objects else self.cells) - 1))
        if s.objects:
            self.transparency = mlp(points, k)
            self.glimpse_encoder = encoder((16, 16, 32), 32, 3)
            self.appearance = mlp(32 * (self.cut // 4) ** 2, 2 * s.features)
            self.glimpse_decoder_in = nn.Sequential(
                nn.Linear(s.features, 256), nn.ReLU(), nn.Linear(256, 32 * 8 * 8), nn.ReLU()
            )
            doublings = int(math.log2(self.cut)) - 3
            self.glimpse_decoder = decoder(32, (*[64] * doublings, 32), 4)
        else:
            self.appearance = mlp(k * self.cut**2 + 2, 2 * s.features)
        widths = (2 + s.features, 64, 128, 256, 512)
        self.messages = nn.ModuleList(
            PointConv(before, after) for before, after in pairwise(widths)
        )
        self.scatter = nn.Sequential(nn.Linear(512, 64 * k), nn.ReLU())
        doublings = int(math.log2(self.cells)) - 3
        self.enlarge = nn.Sequential(
            *(layer for _ in range(doublings) for layer in (conv_block(k, k, 3, 1, 0.01), Double()))
        )
        last = (k + 1) * (s.channels[0] // (k + 1) + 1)
        self.decoder = decoder((2 if s.objects else 3) * k, (*reversed(s.channels[1:]), last), 3)
        if s.init_std is not None:
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=s.init_std)
        self.warper = ThinPlateSpline(data.size) if s.warps else None
        layers = PERCEPTUAL_LAYERS[s.perceptual]
        # The paper gives VGG its images as they are.
        normalize = s.perceptual == "mobilenet"
        self.perceptual = Perceptual(s.perceptual, layers, normalize)
        self.register_buffer("epoch", torch.tensor(0))

    epoch: Tensor

    def _check(self, size: int) -> None:
        s, divisor = self.settings, 2 ** (len(self.settings.channels) - 1)
        what = f"dlp sees {self.side} of {size} prepared pixels (margin {s.margin})"
        if self.cells < 8 or self.side % divisor or self.cells & (self.cells - 1):
            raise BadInput(
                f"{what}: they must be {divisor} times 8, 16, 32, ... pixels; change the data "
                "set's `size`, or `margin` or `channels` of dlp"
            )
        if self.side % s.patch:
            raise BadInput(f"{what}: not divisible into patches of {s.patch}; change `patch`")
        if s.patch % 2 ** (len(s.prior_channels) - 1):
            raise BadInput(
                f"dlp: patches of {s.patch} pixels cannot be halved {len(s.prior_channels) - 1} "
                "times; change `patch` or `prior_channels`"
            )
        patches = (self.side // s.patch) ** 2
        if s.proposals > patches:
            raise BadInput(
                f"{what}: {patches} patches of {s.patch} pixels cannot give {s.proposals} "
                "proposals; lower `proposals` or `patch`"
            )
        if s.k > patches:
            raise BadInput(
                f"{what}: {s.k} particles are more than the {patches} patches of {s.patch} "
                "pixels that propose places; lower `k` or `patch`"
            )
        cut = round(s.glimpse * (self.side - 1))
        if s.objects and (cut < 16 or cut & (cut - 1)):
            raise BadInput(
                f"{what}: a glimpse of {cut} pixels (glimpse {s.glimpse}) cannot be decoded by "
                "doubling 8 pixels; make it 16, 32, 64, ..."
            )

    # The posterior.

    def encode(self, x: Tensor, noise: Noise) -> Particles:
        """Return the particles of images [B, 3, S, S], S the window's side."""
        s, batch = self.settings, len(x)
        maps = self.encoder(x).to(x.dtype)
        with exact(x):
            place = self.place(maps.flatten(1)).view(batch, s.k, 2, 2)
        mu = torch.cat([place[:, :, 0].tanh(), maps.new_zeros(batch, 1, 2)], 1)
        constant = maps.new_full((batch, 1, 2), self.background_logvar)
        logvar = torch.cat([place[:, :, 1], constant], 1)
        z = mu + (0.5 * logvar).exp() * noise.position
        on = seen = None
        fixed = maps.detach()
        if s.objects:
            assert self.transparency is not None
            on = self.transparency(fixed.flatten(1)).to(x.dtype).sigmoid()
            if s.exclusive:
                share = on if noise.seen is None else noise.seen
                seen = exclusive_glimpses(x, mu[:, :-1], share, self.cut)
            else:
                seen = glimpses(x, mu[:, :-1], self.cut)
            code = self.glimpse_encoder(seen.flatten(0, 1)).flatten(1)
            background = 1 - self._boxes(mu[:, :-1])
        else:
            cut = glimpses(fixed, mu[:, :-1], self.cut).flatten(0, 1).flatten(1)
            code = torch.cat([cut, mu[:, :-1].detach().flatten(0, 1)], 1)
            background = 1 - self.foreground(z[:, :-1])
        own = self.appearance(code).view(batch, s.k, 2, s.features)
        behind = self.background((background * fixed).flatten(1)).view(batch, 1, 2, s.features)
        appearance, appearance_logvar = torch.cat([own, behind], 1).to(x.dtype).unbind(2)
        z_appearance = appearance + (0.5 * appearance_logvar).exp() * noise.features
        return Particles(maps, mu, logvar, z, appearance, appearance_logvar, z_appearance, on, seen)

    def gaussians(self, points: Tensor) -> Tensor:
        """Return the Gaussian map of each particle but the background's, [B, K, h, w]."""
        return gaussian_maps(points, self.cells, self.cells, self.settings.sigma)

    def foreground(self, points: Tensor) -> Tensor:
        """Return where any particle is, 0 or 1, [B, 1, h, w]: Gaussian maps above a threshold."""
        maps = self.gaussians(points.detach())
        return (maps > self.settings.mask_threshold).any(1, keepdim=True).to(maps.dtype)

    def _boxes(self, points: Tensor) -> Tensor:
        """Return where any particle's box is, 0 or 1, [B, 1, h, w]."""
        box = round(self.settings.glimpse * (self.cells - 1))
        x, y = box_masks(points.detach(), box, self.cells)
        return torch.einsum("bki,bkj->bij", y, x).clamp(max=1).unsqueeze(1)

    # The prior over places.

    def propose(self, x: Tensor) -> Tensor:
        """Return the kept proposals of images [B, 3, S, S]: [B, proposals, 2]."""
        s = self.settings
        patches = to_patches(x, s.patch)
        maps = self.proposer(patches.flatten(0, 1)).to(x.dtype)
        return proposals(
            maps.view(*patches.shape[:2], *maps.shape[2:]), self.side, s.patch, s.proposals
        )

    # The decoder.

    def decode(self, p: Particles, noise: Noise) -> Decoded:
        """Return images made of particles."""
        s, points = self.settings, p.z[:, :-1]
        gaussians = self.gaussians(points)
        particles = self._particle_maps(p)
        if not s.objects:
            mask = self.foreground(points)
            maps = torch.cat([gaussians, mask * particles, (1 - mask) * p.maps.detach()], 1)
            return Decoded(self.decoder(maps).to(maps.dtype))
        patches = self._patches(p)
        background = self.decoder(torch.cat([gaussians, particles], 1)).to(points.dtype)
        assert p.on is not None
        on = p.on if noise.shown is None else noise.shown
        alpha = None if noise.alpha is None else s.sigma * noise.alpha
        objects, covered = composite(patches, points, on, self.side, alpha)
        return Decoded(objects + (1 - covered) * background, patches, objects)

    def _particle_maps(self, p: Particles) -> Tensor:
        """Return the maps that message passing between particles makes, [B, K, h, w]."""
        z, appearance = p.z.detach(), p.z_appearance
        if self.settings.objects:  # the objects' appearance is learnt by their own decoder
            appearance = torch.cat([appearance[:, :-1].detach(), appearance[:, -1:]], 1)
        h = torch.cat([z, appearance], -1)
        for layer in self.messages:
            h = layer(h, z).relu()
        maps = self.scatter(h.amax(1)).view(len(z), -1, 8, 8)
        return self.enlarge(maps)

    def _patches(self, p: Particles) -> Tensor:
        """Return the RGBA patch of each particle in [0, 1], [B, K, 4, g, g]."""
        code = self.glimpse_decoder_in(p.z_appearance[:, :-1].flatten(0, 1)).view(-1, 32, 8, 8)
        patches = self.glimpse_decoder(code).to(p.z.dtype).sigmoid()
        return patches.view(len(p.z), -1, *patches.shape[1:])

    # The loss.

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return reconstruction + beta (Chamfer-KL + balance * appearance KL)."""
        x, x_prior = self.pair(batch.images)
        return self.loss(x, x_prior, self.draw(x))

    def pair(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the window of what is encoded, and of what the proposals come from."""
        if self.warper is None:
            x = self.frame().cut(images)
            return x, x
        weak, strong = (self.warper.draw(len(images), spread) for spread in (WEAK, STRONG))
        with exact(images):
            x = warp(images, self.warper.grid(weak))
            # The strong warp only where it is seen; the whole weak one is its source.
            seen = self.frame().cut(self.warper.grid(strong).movedim(-1, 1)).movedim(1, -1)
            return self.frame().cut(x), warp(x, seen)

    def draw(self, x: Tensor) -> Noise:
        """Return the noise of a training step; more of it in noisy phases."""
        s, batch, device = self.settings, len(x), x.device
        position = torch.randn(batch, s.k + 1, 2, device=device)
        features = torch.randn(batch, s.k + 1, s.features, device=device)
        if not (s.objects and self.phase() < 5 * s.warmup_epochs):
            return Noise(position, features)
        seen, shown = torch.rand(2, batch, s.k, device=device)
        alpha = torch.randn(batch, s.k, 1, self.side, self.side, device=device)
        return Noise(position, features, seen, shown, alpha)

    def phase(self) -> int:
        """Return the epoch, by which the object model's warm-up goes."""
        return 0 if self.epoch.is_meta else int(self.epoch)

    def loss(self, x: Tensor, x_prior: Tensor, noise: Noise) -> dict[str, Tensor]:
        """Return the loss and its terms, scalars."""
        s, p = self.settings, self.encode(x, noise)
        if s.objects and self.phase() < s.warmup_epochs:
            assert p.glimpses is not None
            patches, seen = self._patches(p)[:, :, 1:].flatten(0, 1), p.glimpses.flatten(0, 1)
            return self.terms(p, x_prior, self.distance(patches, seen))
        return self.terms(p, x_prior, self.distance(self.decode(p, noise).images, x))

    def terms(self, p: Particles, x_prior: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """Return the loss and its terms, of a posterior and its error of reconstruction."""
        s = self.settings
        last = None if s.background_in_chamfer else -1
        kl_place = chamfer_kl(
            p.mu[:, :last], p.logvar[:, :last], self.propose(x_prior), self.background_logvar
        ).mean()
        kl_appearance = kl_from_logvar(p.appearance, p.appearance_logvar)
        loss = reconstruction + s.beta_kl * (kl_place + s.kl_balance * kl_appearance)
        return {
            "loss": loss,
            "reconstruction": reconstruction,
            "kl_place": kl_place,
            "kl_appearance": kl_appearance,
        }

    def distance(self, output: Tensor, target: Tensor) -> Tensor:
        """Return squared errors of pixels and activations, summed per image: a scalar.

        Pictures under 32 px are enlarged for the network, as the authors' code does.
        """
        error = F.mse_loss(output, target, reduction="sum")
        if self.settings.perceptual != "pixels":
            if target.shape[-1] < 32:
                output, target = (F.interpolate(t, 32, mode="bilinear") for t in (output, target))
            with torch.no_grad():
                wanted = self.perceptual(target)
            for have, want in zip(self.perceptual(output), wanted, strict=True):
                error = error + F.mse_loss(have, want, reduction="sum")
        return error / len(target)

    @classmethod
    def weights(cls, settings: DLPSettings) -> tuple[str, ...]:
        """Return the network of the reconstruction loss."""
        return fetched(settings.perceptual)

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam over everything; the paper's two with equal settings are the same."""
        s = self.settings
        self.adam = Adam(self.parameters(), s.learning_rate, eps=1e-4)
        return {"all": self.adam}

    def begin_epoch(self, epoch: int) -> None:
        """Set the learning rate and the phase of the warm-up."""
        s = self.settings
        self.epoch.fill_(epoch)
        for group in self.adam.param_groups:
            group["lr"] = s.learning_rate * s.gamma ** bisect_right(s.milestones, epoch)

    # What probes and the report ask for; no noise anywhere.

    def particles(self, images: Tensor) -> tuple[Particles, Noise]:
        """Return the particles of prepared images at their means."""
        x = self.frame().cut(images)
        noise = self.no_noise(x)
        return self.encode(x, noise), noise

    def no_noise(self, x: Tensor) -> Noise:
        """Return the noise that makes a pass over images deterministic."""
        s = self.settings
        return Noise(x.new_zeros(len(x), s.k + 1, 2), x.new_zeros(len(x), s.k + 1, s.features))

    def frame(self) -> Frame:
        """Return where the particles' coordinates lie: the Gaussian maps' cells."""
        return of_cells(self.data.size, self.cells, self.settings.margin)

    def keypoints(self, images: Tensor) -> Keypoints:
        """Return the particles' places and log-variances, the background last."""
        p, _ = self.particles(images)
        return Keypoints(p.mu, p.logvar, background=True)

    def features(self, images: Tensor) -> Tensor:
        """Return places and appearances of all particles, [B, (K + 1) (2 + d)]."""
        p, _ = self.particles(images)
        return torch.cat([p.mu, p.appearance], -1).flatten(1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return the images decoded from the particles' means, the window only."""
        p, noise = self.particles(images)
        return self.decode(p, noise).images.clamp(0, 1)

    def move(self, images: Tensor, particle: int, shift: tuple[float, float]) -> Tensor:
        """Return the images decoded with one particle moved by (x, y), the window only."""
        p, noise = self.particles(images)
        moved = p.z.clone()
        moved[:, particle] += moved.new_tensor(shift)
        return self.decode(p._replace(z=moved), noise).images.clamp(0, 1)
