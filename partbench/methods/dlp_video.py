"""Video prediction with Deep Latent Particles (Daniel and Tamar, ICML 2022) and a graph network.

A frame is the particles of the object model of `dlp`, which learns from single frames as ever. A
graph network maps the particles of two frames to those of the next; rolled out and decoded, that
is a prediction of the video. Particle k of a frame goes on as particle k of the next: the heads
that find particles keep their order.

That particles are the nodes of a graph network that predicts video comes from the same work. Its
Traffic videos are private, and no source at hand states the network, its input or its loss: here
they are partbench's own. The network has residual layers of the decoder's message passing, reads
two frames and a learnt vector for each particle's number, and learns from squared errors in units
of the priors' SD, unrolled. Particles learn first, then the network alone. Of that, `carry`,
`motion`, `frames` and `sample` have no source either; they serve short trainings.
"""

from bisect import bisect_right
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from partbench.data.batch import Batch
from partbench.errors import BadInput
from partbench.method import DataInfo, Method
from partbench.methods.dlp import DLP, SMALL, DLPSettings, Noise, Particles
from partbench.nn.particles import PointConv

CONTEXT = 2
"""Frames that the network reads: places and velocities."""


class DLPVideoSettings(DLPSettings):
    """The settings of `dlp` as the object model has them, and those of the graph network."""

    batch_size: int = Field(8, ge=1, description="clips a step, over all processes")
    margin: int = Field(0, ge=0, description="pixels cut off on each side of a frame")
    glimpse: float = Field(0.25, gt=0, le=1, description="side of a glimpse, of the frame's less 1")
    background_in_chamfer: bool = Field(False, description="as the published code")
    warmup_epochs: Literal[0] = Field(0, description="none, nor noisy masks")
    objects: Literal[True] = Field(True, description="the masked model is not all in its particles")
    warps: Literal[False] = Field(False, description="a warped frame would be none of its clip")
    frames: int = Field(
        2,
        ge=1,
        description="frames of a clip in a step that learns particles: BatchNorm needs many clips",
    )
    carry: bool = Field(
        False,
        description="what is shown is the last frame given plus the change that the decoder sees, "
        "so that what particles cannot show stays as it was; else what the decoder makes",
    )
    motion: float = Field(
        0.0,
        ge=0,
        description="further weight of errors in what moves: in the frames less their clip's mean",
    )
    sample: bool = Field(
        True, description="learn from particles drawn from their posterior; else from its means"
    )
    dynamics_epochs: int = Field(
        10, ge=0, description="the last epochs, in which the graph network alone learns"
    )
    unroll: int = Field(4, ge=1, description="frames predicted in a row in training")
    width: int = Field(128, ge=1, description="numbers of a node of the graph network")
    layers: int = Field(3, ge=1, description="of message passing")
    dynamics_learning_rate: float = Field(1e-3, gt=0, description="Adam, graph network")


class Dynamics(nn.Module):
    """Predicts the particles of the next frame by message passing between near particles.

    Args:
        numbers: of a particle; the first two are its place.
        particles: how many.
        width: numbers of a node.
        layers: of message passing.
    """

    def __init__(self, numbers: int, particles: int, width: int, layers: int) -> None:
        super().__init__()
        self.which = nn.Parameter(0.1 * torch.randn(particles, width))
        self.enter = nn.Linear(2 * numbers, width)
        self.messages = nn.ModuleList(PointConv(width, width) for _ in range(layers))
        self.leave = nn.Linear(width, numbers)
        # The first prediction is that nothing changes.
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, before: Tensor, now: Tensor) -> Tensor:
        """Return the change from the present frame to the next.

        Args:
            before: [B, N, numbers], of the frame before.
            now: [B, N, numbers], of the present frame.
        """
        h = self.enter(torch.cat([now, now - before], -1)) + self.which
        for layer in self.messages:
            h = h + layer(h, now[..., :2]).relu()
        return self.leave(h).to(now.dtype)


class DLPVideo(Method):
    """The object model of Deep Latent Particles with a graph network that predicts particles."""

    Settings = DLPVideoSettings
    VARIANTS = {"untrained": {"epochs": 0}}
    REDUCED = {
        "demo": {
            **SMALL,
            "prior_channels": (4, 8),
            "carry": True,
            "motion": 10.0,
            "sample": False,
            "dynamics_epochs": 3,
            "glimpse": 0.5,
            "k": 4,
            "features": 6,
            "proposals": 12,
            "channels": (8, 16, 32),
            "beta_kl": 0.1,
            "learning_rate": 1e-3,
            "dynamics_learning_rate": 3e-4,
            "unroll": 6,
            "batch_size": 8,
            "epochs": 11,
            "milestones": (5, 8, 10),
        },
    }
    reads = "clips"
    paper = "dlp"

    def __init__(self, settings: DLPVideoSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        if data.frames < CONTEXT + s.unroll:
            raise BadInput(
                f"dlp_video predicts {s.unroll} frames in a row from {CONTEXT}, and the clips have "
                f"{data.frames}; lower `unroll` or prepare more frames"
            )
        if 0 < s.epochs <= s.dynamics_epochs:
            raise BadInput(
                f"dlp_video: `dynamics_epochs` {s.dynamics_epochs} of {s.epochs} epochs leave none "
                "to learn particles; lower it"
            )
        self.dlp = DLP(s, data)
        numbers = 2 + 1 + s.features
        self.dynamics = Dynamics(numbers, s.k + 1, s.width, s.layers)
        unit = torch.ones(numbers)
        unit[:2] = s.sigma
        free = torch.ones(s.k + 1, numbers)
        free[-1, :3] = 0
        self.register_buffer("unit", unit, persistent=False)
        self.register_buffer("free", free, persistent=False)

    unit: Tensor
    """[2 + 1 + d], the SD of the priors of place and appearance, 1 of the transparency."""
    free: Tensor
    """[K + 1, 2 + 1 + d], 0 where a particle has no such number: the background's place."""

    # Particles as nodes.

    def nodes(self, p: Particles) -> Tensor:
        """Return place, transparency and appearance of particles, [B, K + 1, 2 + 1 + d]."""
        assert p.on is not None
        on = torch.cat([p.on, torch.ones_like(p.on[:, :1])], 1).unsqueeze(-1)
        return torch.cat([p.mu, on, p.appearance], -1)

    def advance(self, before: Tensor, now: Tensor) -> Tensor:
        """Return the nodes of the next frame, [B, K + 1, 2 + 1 + d], from those of two."""
        return now + self.free * self.unit * self.dynamics(before / self.unit, now / self.unit)

    def roll_out(self, before: Tensor, now: Tensor, steps: int) -> Tensor:
        """Return the nodes of the frames after two, [B, steps, K + 1, 2 + 1 + d]."""
        made = []
        for _ in range(steps):
            before, now = now, self.advance(before, now)
            made.append(now)
        return torch.stack(made, 1)

    # The loss.

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the loss of `dlp` on drawn frames, or in the last epochs that of the network."""
        clips, frames = batch.images.shape[:2]
        if self.dlp.phase() >= self.settings.epochs - self.settings.dynamics_epochs:
            self.dlp.eval()
            with torch.no_grad():
                p, _ = self.dlp.particles(batch.images.flatten(0, 1))
            return {"loss": self.error(self.nodes(p).unflatten(0, (clips, frames)))}
        some = torch.randperm(frames, device=batch.images.device)[: self.settings.frames]
        x = self.dlp.frame().cut(batch.images[:, some].flatten(0, 1))
        noise = self.dlp.draw(x) if self.settings.sample else self.dlp.no_noise(x)
        p = self.dlp.encode(x, noise)
        made = self.dlp.decode(p, noise).images
        reconstruction = self.dlp.distance(made, x)
        moving = self.motion(made - x, clips)
        terms = self.dlp.terms(p, x, reconstruction + self.settings.motion * moving)
        return terms | {"reconstruction": reconstruction, "moving": moving}

    def motion(self, error: Tensor, clips: int) -> Tensor:
        """Return the squared error of what is not the same in all frames, per frame: a scalar.

        Args:
            error: [B T, 3, S, S], of reconstructed frames.
            clips: B.
        """
        by_clip = error.unflatten(0, (clips, -1))
        return (by_clip - by_clip.mean(1, keepdim=True)).square().sum() / len(error)

    def error(self, nodes: Tensor) -> Tensor:
        """Return the squared error of predictions from any two frames in a row: a scalar.

        Args:
            nodes: [B, T, K + 1, 2 + 1 + d], the particles of clips.
        """
        length = CONTEXT + self.settings.unroll
        windows = nodes.unfold(1, length, 1).movedim(-1, 2).flatten(0, 1)
        made = self.roll_out(windows[:, 0], windows[:, 1], self.settings.unroll)
        return ((made - windows[:, CONTEXT:]) / self.unit).square().mean()

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam; the particles' own with the settings of `dlp`."""
        s = self.settings
        self.adam = Adam(
            [
                {"params": self.dlp.parameters(), "lr": s.learning_rate, "eps": 1e-4},
                {"params": self.dynamics.parameters(), "lr": s.dynamics_learning_rate},
            ]
        )
        return {"all": self.adam}

    def begin_epoch(self, epoch: int) -> None:
        """Set the learning rates and the phase of the warm-up."""
        s = self.settings
        self.dlp.epoch.fill_(epoch)
        fall = s.gamma ** bisect_right(s.milestones, epoch)
        rates = (s.learning_rate, s.dynamics_learning_rate)
        for group, rate in zip(self.adam.param_groups, rates, strict=True):
            group["lr"] = fall * rate

    # What probes ask for; no noise anywhere.

    def predict(self, first: Tensor, steps: int) -> Tensor:
        """Return the frames that follow, [B, steps, 3, S, S] in [0, 1], the window only.

        Args:
            first: [B, C, 3, S, S], the frames before, C at least 2; the last two are read.
            steps: how many frames.
        """
        p, noise = self.dlp.particles(first[:, -CONTEXT:].flatten(0, 1))
        before, now = self.nodes(p).unflatten(0, (len(first), CONTEXT)).unbind(1)
        nodes = torch.cat([now.unsqueeze(1), self.roll_out(before, now, steps)], 1)
        return self._show(first[:, -1], p, noise, nodes)

    def predict_told(self, clips: Tensor, given: int) -> Tensor:
        """Return what `predict` would, did it know the particles of the true frames.

        Args:
            clips: [B, T, 3, S, S].
            given: frames that it may show; those after them are returned.
        """
        frames = clips[:, given - 1 :]
        p, noise = self.dlp.particles(frames.flatten(0, 1))
        return self._show(frames[:, 0], p, noise, self.nodes(p).unflatten(0, frames.shape[:2]))

    def _show(self, last: Tensor, p: Particles, noise: Noise, nodes: Tensor) -> Tensor:
        """Return the frames after the last one given, [B, steps, 3, S', S'].

        Args:
            last: [B, 3, S, S], the last frame given.
            p: of any frames; in place of its place, transparency and appearance go the nodes'.
            noise: zeros.
            nodes: [B, 1 + steps, K + 1, 2 + 1 + d], of the last frame given and those after it.
        """
        flat = nodes.flatten(0, 1)
        made = p._replace(
            z=flat[..., :2], on=flat[:, :-1, 2].clamp(0, 1), z_appearance=flat[..., 3:]
        )
        shown = self.dlp.decode(made, noise).images.unflatten(0, nodes.shape[:2])
        if self.settings.carry:
            shown = shown + (self.dlp.frame().cut(last) - shown[:, 0]).unsqueeze(1)
        return shown[:, 1:].clamp(0, 1)
