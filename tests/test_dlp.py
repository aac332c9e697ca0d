"""Deep Latent Particles beside the authors' numbers: slow versions, settings, training, moving."""

import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from partbench import cli
from partbench import method as methods
from partbench.data.batch import Batch
from partbench.data.image import read_image
from partbench.data.loader import to_float
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.method import DataInfo
from partbench.methods.dlp import DLP
from partbench.model import load_model
from partbench.nn import particles, perceptual
from partbench.nn.tps import STRONG, ThinPlateSpline, similarity, warp
from partbench.outputs import movement
from partbench.progress import Progress
from partbench.run import Run, Runtime
from partbench.train import Stopped, train

CPU = Runtime(device="cpu", threads=1, precision="32-true")
SMALL = {
    "channels": (4, 8, 8),
    "prior_channels": (4, 4, 8),
    "k": 4,
    "proposals": 6,
    "features": 3,
    "margin": 0,
    "perceptual": "pixels",
    "batch_size": 8,
}
OBJECTS = {**SMALL, "objects": True, "glimpse": 0.5, "background_in_chamfer": False}


def settings_of(variant: str = "paper", **changes: Any) -> Any:
    return methods.resolve(DLP, variant, changes, "test")


def build(size: int = 32, **changes: Any) -> DLP:
    torch.manual_seed(0)
    return DLP(settings_of(**{**SMALL, **changes}), DataInfo(size, 0))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Terms against loops.


def test_chamfer_kl_against_loops() -> None:
    mu, logvar, prior = 0.4 * normal(2, 3, 2), normal(2, 3, 2, seed=1), normal(2, 5, 2, seed=2)
    prior_var = 0.09
    leaves = [t.requires_grad_() for t in (mu, logvar, prior)]
    total = []
    for b in range(2):
        table = [
            [
                sum(
                    0.5
                    * (
                        math.log(prior_var)
                        - logvar[b, i, c]
                        + (logvar[b, i, c].exp() + (mu[b, i, c] - prior[b, j, c]) ** 2) / prior_var
                        - 1
                    )
                    for c in range(2)
                )
                for j in range(5)
            ]
            for i in range(3)
        ]
        near_prior = [min(table[i][j] for i in range(3)) for j in range(5)]
        near_posterior = [min(row) for row in table]
        total.append(sum(near_prior) + sum(near_posterior))
    slow, fast = torch.stack(total), particles.chamfer_kl(mu, logvar, prior, math.log(prior_var))
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    for one, two in zip(
        torch.autograd.grad(fast.sum(), leaves),
        torch.autograd.grad(slow.sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def grid_of(shift: Tensor, side: int) -> Tensor:
    """Return the grid that samples an image moved by -shift, borders at -1 and 1: [1, S, S, 2]."""
    theta = torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=shift.dtype)
    theta[:, 2] = shift
    return F.affine_grid(theta[None], [1, 1, side, side], align_corners=False)


def test_glimpses_against_whole_images() -> None:
    """Each box drawn, moved and cut out of a whole image by grid_sample, one by one."""
    images, points, side, cut = normal(2, 3, 16, 16), 0.6 * normal(2, 4, 2), 16, 4
    first = (side - cut) // 2
    centred = torch.zeros(1, 1, side, side, dtype=torch.float64)
    centred[:, :, first : first + cut, first : first + cut] = 1
    slow = []
    for b in range(2):
        for point in points[b]:
            box = F.grid_sample(centred, grid_of(-point, side), mode="nearest", align_corners=False)
            moved = F.grid_sample(
                box * images[b : b + 1], grid_of(point, side), align_corners=False
            )
            slow.append(moved[0, :, first : first + cut, first : first + cut])
    fast = particles.glimpses(images, points, cut)
    torch.testing.assert_close(fast.flatten(0, 1), torch.stack(slow), rtol=1e-9, atol=1e-9)


class Stitch:
    """Particles to lay over each other before a background: the inputs of `composite`."""

    NAMES = ("patches", "points", "on", "background")

    def __init__(
        self, seed: int, k: int, noise: float, low: float = 0.0, high: float = 1.0
    ) -> None:
        self.side, cut = 16, 8
        patches = torch.rand(2, k, 4, cut, cut, generator=seeded(seed), dtype=torch.float64)
        patches[:, :, 0] = low + (high - low) * patches[:, :, 0]
        points, background = 0.3 * normal(2, k, 2, seed=seed), normal(2, 3, 16, 16, seed=seed + 1)
        on = 0.8 + 0.2 * torch.rand(2, k, generator=seeded(seed), dtype=torch.float64)
        self.noise = noise * normal(2, k, 1, 16, 16, seed=seed + 2) if noise else None
        self.leaves = [leaf.requires_grad_() for leaf in (patches, points, on, background)]

    def fast(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
        """Return image, objects and coverage of the production's code."""
        patches, points, on, background = (leaf.to(dtype) for leaf in self.leaves)
        noise = None if self.noise is None else self.noise.to(dtype)
        objects, covered = particles.composite(patches, points, on, self.side, noise)
        return objects + (1 - covered) * background, objects, covered

    def alphas(self) -> tuple[Tensor, Tensor]:
        """Return alpha times `on`, [B, K, S, S], and colours, [B, K, 3, S, S]: whole images."""
        patches, points, on, _ = self.leaves
        pad = (self.side - patches.shape[-1]) // 2
        alphas, colours = [], []
        for b in range(len(patches)):
            for k in range(patches.shape[1]):
                whole = F.pad(patches[b, k], (pad,) * 4)[None]
                grid = grid_of(-points[b, k], self.side)
                moved = F.grid_sample(whole, grid, align_corners=False)[0].clamp(0, 1)
                alpha = moved[0]
                if self.noise is not None:
                    alpha = alpha + self.noise[b, k, 0] * (alpha > 0.1)
                alphas.append(on[b, k] * alpha)
                colours.append(moved[1:])
        shape = patches.shape[:2]
        return torch.stack(alphas).unflatten(0, shape), torch.stack(colours).unflatten(0, shape)

    def slow(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return image, objects, coverage and the shares, [B, K, S, S], particle by particle."""
        alphas, colours = self.alphas()
        taken, shares = torch.zeros_like(alphas[:, 0]), []
        for number, alpha in enumerate(alphas.unbind(1)):
            left = 1 - taken.detach()
            limited = (alpha > left) if number else torch.zeros_like(left, dtype=torch.bool)
            shares.append(torch.where(limited, left, alpha))
            taken = taken + shares[-1]
        objects = sum(s.unsqueeze(1) * c for s, c in zip(shares, colours.unbind(1), strict=True))
        assert isinstance(objects, Tensor)
        covered = taken.masked_fill(taken < 0, 0).masked_fill(taken > 1 - 1e-9, 1).unsqueeze(1)
        image = objects + (1 - covered) * self.leaves[3]
        return image, objects, covered, torch.stack(shares, 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


STITCHES = {
    "plain": {"k": 5, "noise": 0.0},
    "noisy": {"k": 5, "noise": 0.1},
    "saturated": {"k": 5, "noise": 0.3, "low": 0.7},
    "one particle": {"k": 1, "noise": 0.3, "low": 0.7},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", STITCHES)
def test_composite_against_a_loop_over_particles(case: str, dtype: torch.dtype, seed: int) -> None:
    """Values and gradients, where shares exceed 1 and pixels are full too."""
    stitch = Stitch(10 * seed, **STITCHES[case])
    *slow, _ = stitch.slow()
    fast = stitch.fast(dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    for one, two in zip(fast, slow, strict=True):
        torch.testing.assert_close(one.double(), two, rtol=tolerance, atol=tolerance)
    cotangent = normal(*fast[0].shape, seed=seed + 3)
    gradients = [
        torch.autograd.grad((image.double() * cotangent).sum(), stitch.leaves)
        for image in (fast[0], slow[0])
    ]
    for name, one, two in zip(Stitch.NAMES, *gradients, strict=True):
        scale = tolerance * two.abs().max().item()
        torch.testing.assert_close(
            one, two, rtol=tolerance, atol=10 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("seed", range(3))
def test_the_saturated_case_has_every_kind_of_pixel(seed: int) -> None:
    """The first share is above 1, with and without the second there; others are limited."""
    *_, covered, shares = Stitch(10 * seed, **STITCHES["saturated"]).slow()
    alphas, _ = Stitch(10 * seed, **STITCHES["saturated"]).alphas()
    above = shares[:, 0] > 1
    assert (above & (alphas[:, 1] > 0)).any()
    assert (above & (alphas[:, 1] == 0) & (alphas[:, 2] > 0)).any()
    assert (shares[:, 1][above] < 0).all()
    assert (~above & (shares[:, 1:] < alphas[:, 1:]).any(1)).any()
    assert ((covered - 1).abs() < 1e-9).any()
    assert covered.max() <= 1 + 1e-9
    assert ((covered > 0) & (covered < 0.9)).any()


def test_composite_against_finite_differences() -> None:
    """Everything where no space limits a share; in the saturated case what no limit depends on.

    The space left takes no gradient, so gradients of what it depends on are not derivatives.
    """
    free = Stitch(0, k=3, noise=0.0, high=0.25)
    *_, shares = free.slow()
    torch.testing.assert_close(shares, free.alphas()[0])
    assert torch.autograd.gradcheck(
        lambda *leaves: particles.composite(*leaves[:3], free.side), free.leaves[:3], fast_mode=True
    )
    full = Stitch(0, **STITCHES["saturated"])
    patches, points, on, background = (leaf.detach() for leaf in full.leaves)

    def image(colours: Tensor, last: Tensor, behind: Tensor) -> Tensor:
        whole = torch.cat([patches[:, :, :1], colours], 2)
        ons = torch.cat([on[:, :-1], last], 1)
        objects, covered = particles.composite(whole, points, ons, full.side, full.noise)
        return objects + (1 - covered) * behind

    leaves = (patches[:, :, 1:].clone(), on[:, -1:].clone(), background.clone())
    assert torch.autograd.gradcheck(image, [x.requires_grad_() for x in leaves], fast_mode=True)


def test_messages_against_a_loop_over_edges() -> None:
    torch.manual_seed(0)
    layer = particles.PointConv(3, 4, neighbours=3).double().eval()
    h, points = normal(2, 6, 3), normal(2, 6, 2, seed=1)
    for b in range(2):
        for i in range(6):
            distance = (points[b] - points[b, i]).square().sum(-1)
            near = distance.argsort()[:3]
            edges = torch.cat([h[b, near], points[b, near] - points[b, i]], -1)
            expected = layer.rest(layer.first(edges)).amax(0)
            torch.testing.assert_close(layer(h, points)[b, i], expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=30)
@given(st.integers(1, 8), st.integers(0, 2**20))
def test_shares_fill_a_pixel_at_most_once(layers: int, seed: int) -> None:
    alphas = torch.rand(2, layers, 5, generator=torch.Generator().manual_seed(seed))
    found = particles.shares(alphas)
    assert (found >= 0).all()
    assert (found <= alphas + 1e-6).all()
    torch.testing.assert_close(found.sum(1), alphas.sum(1).clamp(max=1))


def test_the_nearest_of_many_points_are_the_message_s_neighbours() -> None:
    layer = particles.PointConv(1, 2, neighbours=10).eval()
    h, points = torch.rand(1, 3, 1), torch.rand(1, 3, 2)
    assert layer(h, points).shape == (1, 3, 2)  # fewer points than neighbours


# Warps.


def test_a_warp_moves_pixels_to_where_it_says() -> None:
    warper = ThinPlateSpline(33, control=4)
    shift = torch.tensor([[0.25, -0.5]])
    weights = similarity(torch.zeros(1, 16, 2), torch.zeros(1), torch.ones(1), shift)
    image = torch.zeros(1, 1, 33, 33)
    image[0, 0, 10, 20] = 1
    warped = warp(image, warper.grid(weights))
    row, column = divmod(int(warped.argmax()), 33)
    assert (column, row) == (20 - 4, 10 + 8)  # place p shows place p + shift
    place = torch.tensor([[[column, row]]]) / 16 - 1
    back = (warper.carry_back(place, weights) + 1) * 16
    torch.testing.assert_close(back, torch.tensor([[[20.0, 10.0]]]), rtol=0, atol=1e-4)


def test_warps_have_the_spread_they_are_drawn_with() -> None:
    torch.manual_seed(0)
    weights = ThinPlateSpline(8).draw(4000, STRONG)
    control, shift, linear = weights[:, :100], weights[:, 100], weights[:, 101:]
    assert control.std().item() == pytest.approx(math.sqrt((0.01**2 + 0.001**2) / 2), rel=0.03)
    assert shift.std().item() == pytest.approx(0.1, rel=0.05)
    angle = torch.atan2(linear[:, 1, 0], linear[:, 0, 0])
    assert torch.rad2deg(angle).std().item() == pytest.approx(5, rel=0.05)
    assert linear.det().sqrt().std().item() == pytest.approx(0.1, rel=0.05)


def test_a_pair_comes_from_one_image() -> None:
    method = build(32, margin=8, channels=(4, 8), prior_channels=(4, 8), patch=4)
    images = torch.rand(3, 3, 32, 32)
    x, x_prior = method.pair(images)
    assert x.shape == x_prior.shape == (3, 3, 16, 16)
    still = build(warps=False)
    assert all(torch.equal(t, images) for t in still.pair(images))


# Perceptual networks.


def test_vgg_has_the_layers_that_are_named() -> None:
    network = perceptual.vgg("vgg16")
    counted = [i for i, layer in enumerate(network) if isinstance(layer, torch.nn.Conv2d)]
    assert [i + 1 for i in (2, 7, 12, 21)] == [3, 8, 13, 22]  # the ReLU after each
    assert {2, 7, 12, 21} <= set(counted)
    assert len(network) == 31
    assert len(perceptual.vgg("vgg19")) == 37


@pytest.mark.parametrize("name", ["vgg16", "mobilenet"])
def test_weights_that_are_missing_or_damaged(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=r"the weights of .* is missing; .* `perceptual`"):
        perceptual.load(name)
    path = tmp_path / perceptual.FILES[name]
    path.parent.mkdir()
    path.write_bytes(b"no weights")
    with pytest.raises(BadInput, match="does not hold the weights"):
        perceptual.load(name)
    torch.save({"features.0.weight": torch.zeros(3)}, path)
    with pytest.raises(BadInput, match="does not hold the weights"):
        perceptual.load(name)


def test_weights_are_read_from_the_data_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    monkeypatch.setitem(perceptual.CONFIGURATION, "vgg16", (4, "M", 5))
    torch.manual_seed(0)
    state = {f"features.{k}": v for k, v in perceptual.vgg("vgg16").state_dict().items()}
    path = tmp_path / perceptual.FILES["vgg16"]
    path.parent.mkdir()
    torch.save(state | {"classifier.0.weight": torch.zeros(2, 2)}, path)
    found = perceptual.Perceptual("vgg16", (1, 4), normalize=False)(torch.rand(1, 3, 8, 8))
    assert [tuple(t.shape) for t in found] == [(1, 4, 8, 8), (1, 5, 4, 4)]


def test_mobilenet_s_real_weights_tell_classes_apart(shared_data: Path) -> None:
    """Its pooled features put test images nearer to their own class's mean, mostly."""
    data = shared_data / "tiny_imagenet_10"
    if not (shared_data / "weights").is_dir():
        pytest.skip("the real MobileNet is absent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARTBENCH_DATA", str(shared_data))
        network = perceptual.Perceptual("mobilenet", (13,), normalize=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARTBENCH_DATA", str(shared_data))
        features = []
        for folder in sorted((data / "train").iterdir())[:4]:
            paths = sorted(folder.rglob("*.*"))[:40]
            images = torch.stack([torch.from_numpy(read_image(p).copy()) for p in paths])
            (last,) = network(F.interpolate(to_float(images), 128, mode="bilinear"))
            features.append(last.mean((2, 3)))
    means = torch.stack([f[:20].mean(0) for f in features])
    right = [
        (torch.cdist(f[20:], means).argmin(1) == i).float().mean() for i, f in enumerate(features)
    ]
    assert torch.stack(right).mean() > 0.6  # a quarter by chance


# Settings.


@pytest.mark.parametrize(
    ("size", "changes", "message"),
    [
        (32, {"k": 20}, "20 particles are more than the 16 patches"),
        (32, {"proposals": 17}, "cannot give 17"),
        (36, {}, "must be 4 times 8, 16"),
        (32, {"margin": 3}, "26 of 32 prepared pixels"),
        (32, {"margin": 16}, "leaves nothing of images of 32 x 32"),
        (32, {"patch": 5}, "not divisible into patches of 5"),
        (32, {"patch": 2}, "cannot be halved 2 times"),
        (32, {"objects": True, "glimpse": 0.3}, "a glimpse of 9 pixels"),
    ],
)
def test_sizes_that_do_not_fit(size: int, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(size, **changes)


@pytest.mark.parametrize("variant", ["paper", "k25", "k50", "head", "mse", "traffic", "shapes"])
def test_variants_are_settings(variant: str) -> None:
    assert settings_of(variant).k == {"k25": 25, "k50": 50, "traffic": 15, "shapes": 10}.get(
        variant, 30
    )
    assert DLP.weights(settings_of(variant)) == (() if variant in ("mse", "shapes") else ("vgg16",))


def test_the_learning_rate_and_the_phase_go_by_epochs() -> None:
    method = build(milestones=(1, 3), learning_rate=0.4)
    adam = method.optimizers()["all"]
    rates = []
    for epoch in range(5):
        method.begin_epoch(epoch)
        rates.append(adam.param_groups[0]["lr"])
        assert method.epoch == epoch
    assert rates == pytest.approx([0.4, 0.2, 0.2, 0.1, 0.1])


@pytest.mark.parametrize("epoch", [0, 1, 4, 5])
def test_phases_of_the_object_model(epoch: int) -> None:
    """Warm-up: the background decoder learns nothing. Noisy: transparency is replaced."""
    method = build(**OBJECTS, warmup_epochs=1, warps=False)
    method.set_epoch(epoch)
    method(Batch(torch.rand(4, 3, 32, 32), None), "all")["loss"].backward()
    learns = {
        name: any(p.grad is not None for p in module.parameters())
        for name, module in method.named_children()
    }
    assert learns["decoder"] == (epoch >= 1)
    assert learns["transparency"] == (epoch >= 5)
    assert learns["glimpse_decoder"]
    assert learns["proposer"]


# Training, and what is offered.


def grown(name: str, tiny: Path, out: Path, **changes: Any) -> DLP:
    run = Run("dlp", "paper", "toy", 0)
    train(run, settings_of(**{**SMALL, **changes}), CPU, tiny, out)
    _, method = load_model(out / "model.pt", "cpu")
    assert isinstance(method, DLP)
    return method


@pytest.mark.parametrize("objects", [False, True])
def test_it_learns(objects: bool, tiny: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = dict(OBJECTS) if objects else {}
    changes |= {"epochs": 20, "learning_rate": 3e-3, "beta_kl": 0.1, "warps": False}
    method = grown("learns", tiny, tmp_path, **changes)
    fresh = build(**changes).eval()
    images = to_float(torch.from_numpy(np.array(Prepared(tiny).split("test").images)))
    with torch.inference_mode():
        after, before = (F.mse_loss(m.reconstruct(images), images) for m in (method, fresh))
    assert after < 0.6 * before


@pytest.mark.parametrize("stop", [3, 8, 11])
def test_a_stopped_run_ends_as_if_it_had_not_been(
    stop: int, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two epochs of eight steps: the phase and the rate change in between.
    changes = {**OBJECTS, "epochs": 2, "warmup_epochs": 1, "milestones": (1,)}
    whole = grown("whole", tiny, tmp_path / "whole", **changes).state_dict()
    advance, seen = Progress.advance, []

    def count(self: Progress, *args: Any) -> None:
        advance(self, *args)
        seen.append(1)
        if len(seen) == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Progress, "advance", count)
    with pytest.raises(Stopped):
        grown("parts", tiny, tmp_path / "parts", **changes)
    parts = grown("parts", tiny, tmp_path / "parts", **changes).state_dict()
    assert all(torch.equal(parts[key], value) for key, value in whole.items())


def test_the_background_particle_is_a_constant_and_last() -> None:
    method = build().eval()
    found = method.keypoints(torch.rand(3, 3, 32, 32))
    assert found.background
    assert found.points.shape == (3, 5, 2)
    assert found.logvar is not None
    torch.testing.assert_close(found.points[:, -1], torch.zeros(3, 2))
    torch.testing.assert_close(found.logvar[:, -1], torch.full((3, 2), math.log(0.01)))


def test_keypoints_come_with_their_appearances_and_these_log_variances() -> None:
    method, images = build().eval(), torch.rand(3, 3, 32, 32)
    particles, _ = method.particles(images)
    found = method.keypoints(images).appearance
    assert found is not None
    d = method.settings.features
    assert found.shape == (3, 5, 2 * d)
    torch.testing.assert_close(found[..., :d], particles.appearance)
    torch.testing.assert_close(found[..., d:], particles.appearance_logvar)


def test_moving_a_particle_moves_its_own_map_alone() -> None:
    method = build().eval()
    images = torch.rand(2, 3, 32, 32)
    still, moved = method.reconstruct(images), method.move(images, 1, (0.0, 0.0))
    torch.testing.assert_close(still, moved)
    assert not torch.equal(method.move(images, 1, (0.4, 0.0)), still)
    p, _ = method.particles(images)
    q = p.z.clone()
    q[:, 1] += torch.tensor([0.4, 0.0])
    before, after = method.gaussians(p.z[:, :-1]), method.gaussians(q[:, :-1])
    changed = (before != after).flatten(2).any(-1).any(0)
    assert changed.tolist() == [False, True, False, False]


def test_keypoints_do_not_see_the_margin() -> None:
    changes = {"margin": 8, "channels": (4, 8), "prior_channels": (4, 8), "patch": 4}
    method = build(32, **changes).eval()
    images = torch.rand(2, 3, 32, 32)
    other = torch.rand(2, 3, 32, 32)
    other[:, :, 8:-8, 8:-8] = images[:, :, 8:-8, 8:-8]
    torch.testing.assert_close(method.keypoints(images).points, method.keypoints(other).points)
    assert method.frame().left == 8
    assert method.frame().side == 16


def test_mixed_precision_keeps_places_in_float32() -> None:
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        terms = method(Batch(torch.rand(4, 3, 32, 32), None), "all")
        points = method.eval().keypoints(torch.rand(4, 3, 32, 32)).points
    assert {value.dtype for value in terms.values()} == {torch.float32}
    assert points.dtype == torch.float32


def test_the_command_writes_an_animation(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grown("moved", tiny, tmp_path, epochs=2, init_std=None, learning_rate=3e-3)
    out = tmp_path / "moved.webp"
    arguments = ["move", str(tmp_path / "model.pt"), str(tiny), "--out", str(out)]
    assert cli.main([*arguments, "--image", "3", "--particle", "2"]) == 0
    assert "particle 2 of test image 3" in capsys.readouterr().out
    with Image.open(out) as animation:
        assert animation.size == (32, 32)
        assert 8 <= animation.n_frames <= movement.FRAMES  # equal neighbours become one
    for wrong, message in (
        (["--image", "99"], "test image 99 of 32"),
        (["--particle", "4"], "particle 4 of 4"),
        (["--out", str(tmp_path / "moved.avi")], "must end in .webp or .gif"),
    ):
        assert cli.main([*arguments, *wrong]) == 1
        assert message in capsys.readouterr().err


def test_a_method_without_particles_cannot_move_any(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = methods.load("raw_pixels")
    run = Run("raw_pixels", "paper", "toy", 0)
    train(run, methods.resolve(raw, "paper", {}, "test"), CPU, tiny, tmp_path)
    assert cli.main(["move", str(tmp_path / "model.pt"), str(tiny)]) == 1
    assert "raw_pixels has no particles" in capsys.readouterr().err


def test_a_sweep_goes_both_ways_and_the_surest_particle_has_the_least_variance() -> None:
    method = build().eval()
    image = torch.rand(1, 3, 32, 32)
    frames = movement.sweep(method, image, 1)
    still = (method.reconstruct(image)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    assert frames.shape == (movement.FRAMES, 32, 32, 3)
    np.testing.assert_array_equal(frames[0], still)
    np.testing.assert_array_equal(frames[movement.FRAMES // 2], still)
    logvar = method.keypoints(image).logvar
    assert logvar is not None
    assert movement.surest(method, image) == int(logvar[0, :-1].sum(-1).argmin())
