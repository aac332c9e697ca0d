"""Video prediction with Deep Latent Particles (Daniel and Tamar, ICML 2022) and a graph network.

The object model of `dlp`, which learns from single frames as usual, encodes a frame as particles. A
graph network maps the particles of two frames to those of the next. Its predictions, rolled out
and decoded, are the predicted video. Particle k of a frame is particle k of the next, because the
heads that find particles keep their order.

The idea of particles as the nodes of a graph network that predicts video comes from the same work.
Its Traffic videos are private, and no source at hand states the network, its input or its loss.
Those here are partbench's own:

- The network consists of residual layers of the decoder's message passing. It reads two frames and
  a learnt vector for the index of each particle.
- Its loss is the squared error of unrolled predictions, in units of the priors' SD.
- The particles are trained first, then the network alone.
- The settings `carry`, `motion`, `frames` and `sample` have no source either. They help short
  trainings.
"""

from bisect import bisect_right
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from partbench.data.batch import Batch
from partbench.deviations import Deviation
from partbench.errors import BadInput
from partbench.method import DataInfo, Method
from partbench.methods.dlp import DLP, TINY, DLPSettings
from partbench.nn.particle_types import Noise, Particles
from partbench.nn.particles import PointConv

CONTEXT = 2
"""Frames that the network reads, to know places and velocities."""


class DLPVideoSettings(DLPSettings):
    """The settings of `dlp` for the object model, and those of the graph network."""

    batch_size: int = Field(8, ge=1, description="clips per step, over all processes")
    margin: int = Field(0, ge=0, description="pixels cut off on each side of a frame")
    glimpse: float = Field(
        0.25, gt=0, le=1, description="side of a glimpse, divided by the side of the frame less 1"
    )
    background_in_chamfer: bool = Field(False, description="as in the published code")
    warmup_epochs: Literal[0] = Field(0, description="no warm-up and no noisy masks")
    objects: Literal[True] = Field(True, description="only its images depend on particles alone")
    warps: Literal[False] = Field(False, description="a warped frame would not belong to its clip")
    frames: int = Field(
        2,
        ge=1,
        description="frames of a clip in a step that trains particles; few, because BatchNorm "
        "needs many clips",
    )
    carry: bool = Field(
        False,
        description="predict the last given frame plus the change in the decoder's output, so that "
        "what particles cannot show stays the same; otherwise predict the decoder's output",
    )
    motion: float = Field(
        0.0,
        ge=0,
        description="weight of a further error, in what moves: the frames less their clip's mean",
    )
    sample: bool = Field(
        True, description="train on samples of the particles' posterior; otherwise on its means"
    )
    dynamics_epochs: int = Field(
        10, ge=0, description="last epochs, which train the graph network alone"
    )
    unroll: int = Field(4, ge=1, description="frames predicted in a row in training")
    width: int = Field(128, ge=1, description="features of a node of the graph network")
    layers: int = Field(3, ge=1, description="layers of message passing")
    dynamics_learning_rate: float = Field(1e-3, gt=0, description="Adam, graph network")


class Dynamics(nn.Module):
    """Predicts the particles of the next frame by message passing between near particles.

    Args:
        numbers: numbers that describe a particle; the first two are its place.
        particles: number of particles.
        width: features of a node.
        layers: layers of message passing.
    """

    def __init__(self, numbers: int, particles: int, width: int, layers: int) -> None:
        super().__init__()
        self.which = nn.Parameter(0.1 * torch.randn(particles, width))
        self.enter = nn.Linear(2 * numbers, width)
        self.messages = nn.ModuleList(PointConv(width, width) for _ in range(layers))
        self.leave = nn.Linear(width, numbers)
        # Before training, the network predicts that nothing changes.
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, before: Tensor, now: Tensor) -> Tensor:
        """Return the change of the particles from the present frame to the next, [B, N, numbers].

        Args:
            before: [B, N, numbers], the particles of the previous frame.
            now: [B, N, numbers], the particles of the present frame.
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
            **TINY,
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
    references = ("daniel2022dlp",)
    several_devices = True
    deviations = (
        Deviation(
            "The graph network that predicts particles, what it reads and its loss are partbench's "
            "own; so are the settings `carry`, `motion`, `frames` and `sample`.",
            "nowhere at hand; the paper's videos are private",
            "Its numbers belong to no published row.",
        ),
    )

    def __init__(self, settings: DLPVideoSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        s = self.settings = settings
        if data.frames < CONTEXT + s.unroll:
            raise BadInput(
                f"dlp_video predicts {s.unroll} frames in a row from {CONTEXT} given ones, but the "
                f"clips have {data.frames}; lower `unroll` or prepare more frames"
            )
        if 0 < s.epochs <= s.dynamics_epochs:
            raise BadInput(
                f"dlp_video: `dynamics_epochs` {s.dynamics_epochs} of {s.epochs} epochs leave none "
                "to train the particles; lower it"
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
    """[2 + 1 + d], the SD of the priors of place and appearance; 1 for the transparency."""
    free: Tensor
    """[K + 1, 2 + 1 + d], 0 for numbers that never change: the background's first three."""

    # Particles as nodes.

    def nodes(self, p: Particles) -> Tensor:
        """Return the places, transparencies and appearances of particles, [B, K + 1, 2 + 1 + d]."""
        assert p.on is not None
        on = torch.cat([p.on, torch.ones_like(p.on[:, :1])], 1).unsqueeze(-1)
        return torch.cat([p.mu, on, p.appearance], -1)

    def advance(self, before: Tensor, now: Tensor) -> Tensor:
        """Return the nodes of the next frame from those of two frames, [B, K + 1, 2 + 1 + d]."""
        return now + self.free * self.unit * self.dynamics(before / self.unit, now / self.unit)

    def roll_out(self, before: Tensor, now: Tensor, steps: int) -> Tensor:
        """Return the nodes of the frames after two given ones, [B, steps, K + 1, 2 + 1 + d]."""
        frames = []
        for _ in range(steps):
            before, now = now, self.advance(before, now)
            frames.append(now)
        return torch.stack(frames, 1)

    # The loss.

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the loss of `dlp` on random frames, or that of the network in the last epochs."""
        clips, frames = batch.images.shape[:2]
        if self.dlp.phase >= self.settings.epochs - self.settings.dynamics_epochs:
            self.dlp.eval()
            with torch.no_grad():
                p, _ = self.dlp.particles(batch.images.flatten(0, 1))
            return {"loss": self.error(self.nodes(p).unflatten(0, (clips, frames)))}
        chosen = torch.randperm(frames, device=batch.images.device)[: self.settings.frames]
        x = self.dlp.frame().cut(batch.images[:, chosen].flatten(0, 1))
        noise = self.dlp.draw(x) if self.settings.sample else self.dlp.no_noise(x)
        p = self.dlp.encode(x, noise)
        output = self.dlp.decode(p, noise).images
        reconstruction = self.dlp.distance(output, x)
        moving = self.motion(output - x, clips)
        terms = self.dlp.terms(p, x, reconstruction + self.settings.motion * moving)
        return terms | {"reconstruction": reconstruction, "moving": moving}

    def motion(self, error: Tensor, clips: int) -> Tensor:
        """Return the squared error per frame in what differs between a clip's frames: a scalar.

        Args:
            error: [B T, 3, S, S], the error of reconstructed frames.
            clips: the number of clips B.
        """
        by_clip = error.unflatten(0, (clips, -1))
        return (by_clip - by_clip.mean(1, keepdim=True)).square().sum() / len(error)

    def error(self, nodes: Tensor) -> Tensor:
        """Return the mean squared error of predictions from every two frames in a row: a scalar.

        Args:
            nodes: [B, T, K + 1, 2 + 1 + d], the particles of clips.
        """
        length = CONTEXT + self.settings.unroll
        windows = nodes.unfold(1, length, 1).movedim(-1, 2).flatten(0, 1)
        predicted = self.roll_out(windows[:, 0], windows[:, 1], self.settings.unroll)
        return ((predicted - windows[:, CONTEXT:]) / self.unit).square().mean()

    def optimizers(self) -> dict[str, Optimizer]:
        """Return Adam in two groups: the particles with the settings of `dlp`, and the network."""
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
        self.dlp.set_epoch(epoch)
        factor = s.gamma ** bisect_right(s.milestones, epoch)
        rates = (s.learning_rate, s.dynamics_learning_rate)
        for group, rate in zip(self.adam.param_groups, rates, strict=True):
            group["lr"] = factor * rate

    # For probes, without noise.

    def predict(self, first: Tensor, steps: int) -> Tensor:
        """Return the windows of the frames that follow, [B, steps, 3, S', S'] in [0, 1].

        Args:
            first: [B, C, 3, S, S], the given frames, C at least 2; only the last two are read.
            steps: number of frames to predict.
        """
        p, noise = self.dlp.particles(first[:, -CONTEXT:].flatten(0, 1))
        before, now = self.nodes(p).unflatten(0, (len(first), CONTEXT)).unbind(1)
        nodes = torch.cat([now.unsqueeze(1), self.roll_out(before, now, steps)], 1)
        return self._show(first[:, -1], p, noise, nodes)

    def predict_told(self, clips: Tensor, given: int) -> Tensor:
        """Return what `predict` would return if it knew the particles of the true frames.

        Args:
            clips: [B, T, 3, S, S], the true frames.
            given: number of frames given; the frames after them are returned.

        Returns:
            [B, T - given, 3, S', S'] in [0, 1].
        """
        frames = clips[:, given - 1 :]
        p, noise = self.dlp.particles(frames.flatten(0, 1))
        return self._show(frames[:, 0], p, noise, self.nodes(p).unflatten(0, frames.shape[:2]))

    def _show(self, last: Tensor, p: Particles, noise: Noise, nodes: Tensor) -> Tensor:
        """Decode nodes to the frames after the last given one, [B, steps, 3, S', S'].

        Args:
            last: [B, 3, S, S], the last given frame.
            p: particles of any frames; their places, transparencies and appearances are replaced
                by those of the nodes.
            noise: zeros.
            nodes: [B, 1 + steps, K + 1, 2 + 1 + d], of the last given frame and those after it.
        """
        flat = nodes.flatten(0, 1)
        particles = p._replace(
            z=flat[..., :2], on=flat[:, :-1, 2].clamp(0, 1), z_appearance=flat[..., 3:]
        )
        frames = self.dlp.decode(particles, noise).images.unflatten(0, nodes.shape[:2])
        if self.settings.carry:
            frames = frames + (self.dlp.frame().cut(last) - frames[:, 0]).unsqueeze(1)
        return frames[:, 1:].clamp(0, 1)
