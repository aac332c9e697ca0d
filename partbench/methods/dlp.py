"""Deep Latent Particles (Daniel and Tamar, ICML 2022).

An image is a set of particles, each with a place, the place's uncertainty and an appearance. The
prior over places comes from the image itself: every patch proposes a keypoint, and the proposals
that lie farthest from the centres of their patches are kept. Settings and details follow arXiv
2205.15821 and the authors' code at commit a3d9cff.

There are two models. The masked model (CelebA) decodes particles through masks on heat maps, the
object model (Traffic, CLEVRER, Shapes) each particle to a small RGBA patch, over a background.
"""

import math
from bisect import bisect_right
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from partbench.coordinates import Frame, RegressionOrigins, of_cells, window_of
from partbench.data.batch import Batch
from partbench.deviations import DLP as DEVIATIONS
from partbench.method import DataInfo, KeypointSettings, Method, ReleasedSettings
from partbench.nn.elbo import kl_from_logvar
from partbench.nn.keypoints import gaussian_maps
from partbench.nn.particle_types import Decoded, Noise, Particles, ParticleSettings, check_sizes
from partbench.nn.particles import (
    PointConv,
    box_masks,
    chamfer_kl,
    composite,
    decoder,
    encoder,
    enlarger,
    exclusive_glimpses,
    glimpses,
    mlp,
    proposals,
    to_patches,
)
from partbench.nn.perceptual import DLP_LAYERS, Name, Perceptual, fetched, squared_distance
from partbench.nn.precision import exact
from partbench.nn.released import Authors
from partbench.nn.released_dlp import WEIGHTS, authors
from partbench.nn.shared_batch import own, whole
from partbench.nn.tps import STRONG, ThinPlateSpline, warp
from partbench.outputs.keypoints import Keypoints

WEAK = STRONG.times(0.1)


class DLPSettings(ParticleSettings, KeypointSettings, ReleasedSettings):
    """The settings for CelebA, the masked model; the other data sets' are variants."""

    epochs: int = Field(100, ge=0, description="epochs, as `images_per_epoch` defines one")
    batch_size: int = Field(64, ge=1, description="images per step, over all processes")
    warmup_epochs: int = Field(
        0,
        ge=0,
        description="objects: first epochs, which only reconstruct glimpses; masks are noisy for "
        "five times as many",
    )
    warps: bool = Field(
        True, description="proposals come from a strongly warped copy of a weakly warped image"
    )
    perceptual: Name = Field(
        "vgg16", description="network whose activations the reconstruction loss adds to the pixels"
    )
    beta_kl: float = Field(40.0, ge=0, description="weight of both KL terms")
    kl_balance: float = Field(0.001, ge=0, description="weight of the appearance KL within them")
    background_in_chamfer: bool = Field(
        True,
        description="include the background particle in the Chamfer-KL, as for the paper's CelebA "
        "results; the published code leaves it out",
    )
    init_std: float | None = Field(
        0.01, gt=0, description="SD of the convolutions' initial weights; none: torch's default"
    )
    learning_rate: float = Field(2e-4, gt=0, description="Adam, eps 1e-4")
    milestones: tuple[int, ...] = Field((50, 100, 200), description="epochs")
    gamma: float = Field(
        0.5, gt=0, description="factor of the learning rate at milestones; 0.1 in the 4-GPU script"
    )


OBJECTS = {
    "objects": True,
    "background_in_chamfer": False,
    "warps": False,
    "margin": 0,
    "glimpse": 0.25,
}

# Patches of 4 pixels at 64 px are as many as the paper's patches of 8 pixels at 128 px. With
# initial weights of SD 0.01, the particles would not move for a thousand steps.
TINY = {"patch": 4, "init_std": None, "learning_rate": 3e-4, "beta_kl": 1.0, "perceptual": "pixels"}


class DLP(Method):
    """Deep Latent Particles: the masked model or, with the setting `objects`, the object model."""

    Settings = DLPSettings
    VARIANTS = {
        "k25": {"k": 25},
        "k30": {},
        "k50": {"k": 50},
        "head": {"background_in_chamfer": False},
        "mse": {"perceptual": "pixels"},
        "untrained": {"epochs": 0},
        "validated": {"chosen_epoch": "validation"},
        # Values of the authors' README; comments give those of their scripts where they differ.
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
        # What their notebook, which prints the numbers for `shapes`, sets otherwise.
        "notebook": {"beta_kl": 0.05, "exclusive": False},
    }
    REDUCED = {
        "demo": {
            **TINY,
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
            **TINY,
            "prior_channels": (8, 16),
            "margin": 8,
            "channels": (16, 32, 64),
            "batch_size": 16,
            "epochs": 10,
            "milestones": (5, 8),
        },
    }
    RELEASED = WEIGHTS
    paper = "dlp"
    references = ("daniel2022dlp",)
    several_devices = True
    deviations = DEVIATIONS
    protocol = RegressionOrigins(points="centred", landmarks="corner")

    def __init__(self, settings: DLPSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        self.side = window_of(data.size, s.margin)
        self.cells = self.side >> (len(s.channels) - 1)
        check_sizes(s, data.size, self.side, self.cells)
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
            self.glimpse_decoder = decoder(32, (*[64] * (self.cut.bit_length() - 4), 32), 4)
        else:
            self.appearance = mlp(k * self.cut**2 + 2, 2 * s.features)
        widths = (2 + s.features, 64, 128, 256, 512)
        self.messages = nn.ModuleList(PointConv(i, o) for i, o in pairwise(widths))
        self.scatter = nn.Sequential(nn.Linear(512, 64 * k), nn.ReLU())
        self.enlarge = enlarger(k, self.cells.bit_length() - 4)
        last = (k + 1) * (s.channels[0] // (k + 1) + 1)
        self.decoder = decoder((2 if s.objects else 3) * k, (*reversed(s.channels[1:]), last), 3)
        if s.init_std is not None:
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=s.init_std)
        self.warper = ThinPlateSpline(data.size) if s.warps else None
        # The paper does not normalise images for VGG.
        normalize = s.perceptual == "mobilenet"
        self.perceptual = Perceptual(s.perceptual, DLP_LAYERS[s.perceptual], normalize)
        self.register_buffer("epoch", torch.tensor(0))
        self.phase = 0
        self.register_load_state_dict_post_hook(lambda module, _: module.set_epoch(module.epoch))

    epoch: Tensor
    """The current epoch, a scalar, kept with the weights; `phase` is the same for the loss."""

    def authors(self) -> Authors:
        """Return how the authors' file holds the model."""
        return authors(self.settings, self.side, self.cells, self.cut)

    # The posterior.

    def encode(self, x: Tensor, noise: Noise) -> Particles:
        """Return the particles of images [B, 3, S, S], where S is the window's side."""
        s, batch = self.settings, len(x)
        maps = self.encoder(x).to(x.dtype)
        with exact(x):
            place = self.place(maps.flatten(1)).view(batch, s.k, 2, 2)
        mu = torch.cat([place[:, :, 0].tanh(), maps.new_zeros(batch, 1, 2)], 1)
        constant = maps.new_full((batch, 1, 2), self.background_logvar)
        logvar = torch.cat([place[:, :, 1], constant], 1)
        z = mu + (0.5 * logvar).exp() * noise.position
        on, seen, detached = None, None, maps.detach()
        if s.objects:
            assert self.transparency is not None
            on = self.transparency(detached.flatten(1)).to(x.dtype).sigmoid()
            if s.exclusive:
                share = on if noise.seen is None else noise.seen
                seen = exclusive_glimpses(x, mu[:, :-1], share, self.cut)
            else:
                seen = glimpses(x, mu[:, :-1], self.cut)
            code = self.glimpse_encoder(seen.flatten(0, 1)).flatten(1)
            background = 1 - self._boxes(mu[:, :-1])
        else:
            cut = glimpses(detached, mu[:, :-1], self.cut).flatten(0, 1).flatten(1)
            code = torch.cat([cut, mu[:, :-1].detach().flatten(0, 1)], 1)
            background = 1 - self.foreground(z[:, :-1])
        points = self.appearance(code).view(batch, s.k, 2, s.features)
        behind = self.background((background * detached).flatten(1)).view(batch, 1, 2, s.features)
        appearance, appearance_logvar = torch.cat([points, behind], 1).to(x.dtype).unbind(2)
        z_appearance = appearance + (0.5 * appearance_logvar).exp() * noise.features
        return Particles(maps, mu, logvar, z, appearance, appearance_logvar, z_appearance, on, seen)

    def gaussians(self, points: Tensor) -> Tensor:
        """Return the Gaussian map of each point, [B, K, 2] -> [B, K, h, w]."""
        return gaussian_maps(points, self.cells, self.cells, self.settings.sigma)

    def foreground(self, points: Tensor) -> Tensor:
        """Return the mask of all particles, 0 or 1, [B, 1, h, w], from their Gaussian maps."""
        maps = self.gaussians(points.detach())
        return (maps > self.settings.mask_threshold).any(1, keepdim=True).to(maps.dtype)

    def _boxes(self, points: Tensor) -> Tensor:
        """Return the mask of all particles' boxes, 0 or 1, [B, 1, h, w]."""
        box = round(self.settings.glimpse * (self.cells - 1))
        x, y = box_masks(points.detach(), box, self.cells)
        return torch.einsum("bki,bkj->bij", y, x).clamp(max=1).unsqueeze(1)

    # The prior over places.

    def propose(self, x: Tensor) -> Tensor:
        """Return the proposals that are kept for images [B, 3, S, S]: [B, proposals, 2]."""
        s = self.settings
        patches = to_patches(x, s.patch)
        maps = self.proposer(patches.flatten(0, 1)).to(x.dtype)
        return proposals(
            maps.view(*patches.shape[:2], *maps.shape[2:]), self.side, s.patch, s.proposals
        )

    # The decoder.

    def decode(self, p: Particles, noise: Noise) -> Decoded:
        """Decode particles to images [B, 3, S, S]."""
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
        """Pass messages between the particles, and return the maps they give, [B, K, h, w]."""
        z, appearance = p.z.detach(), p.z_appearance
        if self.settings.objects:  # the decoder of patches alone learns the objects' appearance
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
        """Return the terms and reconstruction + beta (Chamfer-KL + balance * appearance KL)."""
        x, x_prior = self.pair(batch.images)
        return self.loss(x, x_prior, self.draw(x))

    def pair(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the windows of the images to encode and of those that give the proposals."""
        if self.warper is None:
            x = self.frame().cut(images)
            return x, x
        weak, strong = (self.warper.draw(len(images), spread) for spread in (WEAK, STRONG))
        with exact(images):
            x = warp(images, self.warper.grid(weak))
            # The strong warp is computed only for the window, but samples the whole weak one.
            window = self.frame().cut(self.warper.grid(strong).movedim(-1, 1)).movedim(1, -1)
            return self.frame().cut(x), warp(x, window)

    def draw(self, x: Tensor) -> Noise:
        """Draw the noise of a training step, which includes that of masks in noisy phases."""
        s, batch, device = self.settings, whole(len(x)), x.device
        position = own(torch.randn(batch, s.k + 1, 2, device=device))
        features = own(torch.randn(batch, s.k + 1, s.features, device=device))
        if not (s.objects and self.phase < 5 * s.warmup_epochs):
            return Noise(position, features)
        seen, shown = own(torch.rand(2, batch, s.k, device=device), 1)
        alpha = own(torch.randn(batch, s.k, 1, self.side, self.side, device=device))
        return Noise(position, features, seen, shown, alpha)

    def set_epoch(self, epoch: int | Tensor) -> None:
        """Set the current epoch, on which the object model's warm-up depends."""
        self.epoch.fill_(epoch)
        # A step that asked the tensor would wait for the GPU.
        self.phase = int(epoch)

    def loss(self, x: Tensor, x_prior: Tensor, noise: Noise) -> dict[str, Tensor]:
        """Return the loss and its terms, scalars.

        Args:
            x: [B, 3, S, S], windows of the images to encode.
            x_prior: [B, 3, S, S], windows of the images that give the proposals.
            noise: the draws of the step.
        """
        s, p = self.settings, self.encode(x, noise)
        if s.objects and self.phase < s.warmup_epochs:
            assert p.glimpses is not None
            patches, seen = self._patches(p)[:, :, 1:].flatten(0, 1), p.glimpses.flatten(0, 1)
            return self.terms(p, x_prior, self.distance(patches, seen))
        return self.terms(p, x_prior, self.distance(self.decode(p, noise).images, x))

    def terms(self, p: Particles, x_prior: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """Return the loss and its terms for a posterior and its reconstruction error, scalars."""
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
        """Return the squared error in pixels and activations, see `squared_distance`."""
        return squared_distance(self.perceptual, output, target)

    @classmethod
    def weights(cls, settings: DLPSettings) -> tuple[str, ...]:
        """Return the network of the reconstruction loss, if it is to be fetched."""
        return fetched(settings.perceptual)

    def optimizers(self) -> dict[str, Optimizer]:
        """Return one Adam, equivalent to the paper's two, which have the same settings."""
        self.adam = Adam(self.parameters(), self.settings.learning_rate, eps=1e-4)
        return {"all": self.adam}

    def begin_epoch(self, epoch: int) -> None:
        """Set the learning rate and the phase of the warm-up."""
        s = self.settings
        self.set_epoch(epoch)
        for group in self.adam.param_groups:
            group["lr"] = s.learning_rate * s.gamma ** bisect_right(s.milestones, epoch)

    # For probes and the report, without noise.

    def particles(self, images: Tensor) -> tuple[Particles, Noise]:
        """Return the particles of prepared images at their means, and the noise of zeros for it."""
        x = self.frame().cut(images)
        noise = self.no_noise(x)
        return self.encode(x, noise), noise

    def no_noise(self, x: Tensor) -> Noise:
        """Return zeros as noise, which makes a pass over the windows x deterministic."""
        s = self.settings
        return Noise(x.new_zeros(len(x), s.k + 1, 2), x.new_zeros(len(x), s.k + 1, s.features))

    def frame(self) -> Frame:
        """Return the frame of the particles' coordinates, that of the Gaussian maps' cells."""
        return of_cells(self.data.size, self.cells, self.settings.margin)

    def keypoints(self, images: Tensor) -> Keypoints:
        """Return the places and appearances of the particles; the background's come last."""
        p, _ = self.particles(images)
        appearance = torch.cat([p.appearance, p.appearance_logvar], -1)
        return Keypoints(p.mu, p.logvar, background=True, appearance=appearance)

    def features(self, images: Tensor) -> Tensor:
        """Return the places and appearances of all particles, [B, (K + 1) (2 + d)]."""
        p, _ = self.particles(images)
        return torch.cat([p.mu, p.appearance], -1).flatten(1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return the windows of images as decoded from the particles' means, in [0, 1].

        In training mode they are those of a training step: from drawn particles, in any range.
        """
        x = self.frame().cut(images)
        noise = self.draw(x) if self.training else self.no_noise(x)
        made = self.decode(self.encode(x, noise), noise).images
        return made if self.training else made.clamp(0, 1)

    def move(self, images: Tensor, particle: int, shift: tuple[float, float]) -> Tensor:
        """Return the windows of images as decoded with one particle moved by (x, y), in [0, 1]."""
        p, noise = self.particles(images)
        moved = p.z.clone()
        moved[:, particle] += moved.new_tensor(shift)
        return self.decode(p._replace(z=moved), noise).images.clamp(0, 1)
