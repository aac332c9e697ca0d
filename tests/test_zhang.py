"""Zhang's landmarks: every term against a slow version, the constraints at their ends, training."""

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partbench import method as methods
from partbench import train as training
from partbench.coordinates import of_cells
from partbench.data.batch import Batch
from partbench.data.loader import to_float
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.method import DataInfo
from partbench.methods import zhang
from partbench.methods.zhang import Landmarks, Zhang
from partbench.model import load_model
from partbench.nn.hourglass import Hourglass
from partbench.nn.tps import ThinPlateSpline, similarity
from partbench.progress import Progress
from partbench.run import Run, Runtime
from partbench.train import Stopped, train

CPU = Runtime(device="cpu", threads=1, precision="32-true")
SMALL = {"width": 4, "k": 4, "stride": 4, "depth": 2, "margin": 0, "batch_size": 16}


def settings_of(variant: str = "paper", **changes: Any) -> Any:
    return methods.resolve(Zhang, variant, changes, "test")


def build(size: int = 32, **changes: Any) -> Zhang:
    torch.manual_seed(0)
    return Zhang(settings_of(**{**SMALL, **changes}), DataInfo(size, 8))


def agree(fast: Callable[..., Any], slow: Callable[..., Any], *inputs: torch.Tensor) -> None:
    """Hold values and gradients of two functions of float64 tensors against each other."""
    leaves = [x.double().requires_grad_() for x in inputs]
    first, second = fast(*leaves), slow(*leaves)
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)
    weight = torch.linspace(1, 2, first.numel(), dtype=torch.float64).view_as(first)
    one, two = (torch.autograd.grad((weight * out).sum(), leaves) for out in (first, second))
    assert any(gradient.abs().max() > 0 for gradient in one)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The terms.


def coordinate(cell: int, cells: int) -> float:
    return -1 + 2 * cell / (cells - 1)


def slow_locate(scores: torch.Tensor) -> torch.Tensor:
    batch, maps, height, width = scores.shape
    rows = []
    for b in range(batch):
        for k in range(maps - 1):
            mass, x, y = 0.0, 0.0, 0.0
            for i in range(height):
                for j in range(width):
                    exponentials = [scores[b, m, i, j].exp() for m in range(maps)]
                    share = exponentials[k] / sum(exponentials)
                    mass = mass + share
                    x = x + share * coordinate(j, width)
                    y = y + share * coordinate(i, height)
            rows.append(torch.stack([x / mass, y / mass]))
    return torch.stack(rows).view(batch, maps - 1, 2)


def test_landmarks_are_the_mean_places_of_competing_maps() -> None:
    agree(lambda s: zhang.locate(s).points, slow_locate, random(2, 4, 5, 3))
    maps = zhang.locate(random(2, 4, 5, 3)).maps
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 3, dtype=torch.float64))


def test_a_landmark_that_wins_next_to_nothing_is_still_somewhere() -> None:
    scores = torch.zeros(1, 3, 5, 5)
    scores[:, 2] = 1000  # the background's
    torch.testing.assert_close(zhang.locate(scores).points, torch.zeros(1, 2, 2))


def slow_variances(scores: torch.Tensor) -> torch.Tensor:
    maps, points = zhang.locate(scores)
    out = []
    for b in range(maps.shape[0]):
        for k in range(maps.shape[1]):
            x, y = 0.0, 0.0
            for i in range(maps.shape[2]):
                for j in range(maps.shape[3]):
                    place = (coordinate(j, maps.shape[3]), coordinate(i, maps.shape[2]))
                    x = x + maps[b, k, i, j] * ((place[0] - points[b, k, 0]) / 2) ** 2
                    y = y + maps[b, k, i, j] * ((place[1] - points[b, k, 1]) / 2) ** 2
            out.append(torch.stack([x, y]))
    return torch.stack(out).view(*points.shape)


def test_variances_against_loops() -> None:
    agree(lambda s: zhang.variances(zhang.locate(s)), slow_variances, random(2, 4, 5, 3))


def test_a_map_of_one_cell_has_no_variance_and_a_flat_one_that_of_the_square() -> None:
    delta = torch.zeros(1, 1, 9, 9)
    delta[0, 0, 2, 4] = 1
    points = torch.tensor([[[0.0, -0.5]]])
    assert torch.equal(zhang.variances(Landmarks(delta, points)), torch.zeros(1, 1, 2))
    flat = torch.full((1, 1, 401, 401), 401.0**-2)
    spread = zhang.variances(Landmarks(flat, torch.zeros(1, 1, 2)))
    torch.testing.assert_close(spread, torch.full((1, 1, 2), 1 / 12), rtol=0.01, atol=0)


def slow_separation(points: torch.Tensor, bandwidth: float) -> torch.Tensor:
    batch, count, _ = points.shape
    total = torch.zeros((), dtype=points.dtype)
    for b in range(batch):
        for k in range(count):
            for other in range(count):
                if other != k:
                    squared = sum(
                        ((points[b, k, a] - points[b, other, a]) / 2) ** 2 for a in (0, 1)
                    )
                    total = total + torch.exp(-squared / (2 * bandwidth**2))
    return total / (batch * count)


def test_separation_against_loops() -> None:
    agree(
        lambda p: zhang.separation(p, 0.3),
        lambda p: slow_separation(p, 0.3),
        random(2, 5, 2).tanh(),
    )


@given(st.integers(2, 8), st.floats(-1, 1), st.floats(-1, 1))
def test_landmarks_in_one_place_are_as_bad_as_can_be(count: int, x: float, y: float) -> None:
    same = torch.tensor([x, y], dtype=torch.float64).expand(2, count, 2)
    assert zhang.separation(same, 0.08).item() == pytest.approx(count - 1)
    apart = same + 2 * torch.arange(count).view(1, -1, 1)
    assert zhang.separation(apart, 0.08).item() == pytest.approx(0, abs=1e-12)


def test_separation_s_gaussian_is_one_bandwidth_wide() -> None:
    points = torch.tensor([[[0.0, 0.0], [0.16, 0.0]]])  # 0.08 sides apart
    assert zhang.separation(points, 0.08).item() == pytest.approx(math.exp(-0.5))


def test_equivariance_against_loops() -> None:
    def slow(points: torch.Tensor, carried: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=points.dtype)
        for b in range(points.shape[0]):
            for k in range(points.shape[1]):
                for axis in (0, 1):
                    total = total + ((points[b, k, axis] - carried[b, k, axis]) / 2) ** 2
        return total / (points.shape[0] * points.shape[1])

    agree(zhang.equivariance, slow, random(2, 5, 2), random(2, 5, 2, seed=1))


def slow_masks(points: torch.Tensor, height: int, width: int, sigma: float) -> torch.Tensor:
    batch, count, _ = points.shape
    out = []
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                values = []
                for k in range(count):
                    dx = (coordinate(j, width) - points[b, k, 0]) / 2
                    dy = (coordinate(i, height) - points[b, k, 1]) / 2
                    values.append(torch.exp(-(dx**2 + dy**2) / (2 * sigma**2)))
                values.append(1 - torch.stack(values).max())
                out.append(torch.stack(values) / sum(values))
    return torch.stack(out).view(batch, height, width, count + 1).permute(0, 3, 1, 2)


def test_masks_against_loops() -> None:
    agree(
        lambda p: zhang.masks(p, 5, 4, 0.2),
        lambda p: slow_masks(p, 5, 4, 0.2),
        random(2, 3, 2).tanh(),
    )


def test_descriptors_are_read_and_put_back_where_their_landmark_is() -> None:
    """What the decoder is given, against loops."""
    method = build().double().eval()
    x, points = random(2, 3, 32, 32), random(2, 4, 2).tanh()
    given_: list[torch.Tensor] = []
    method.decoder.register_forward_pre_hook(lambda _, inputs: given_.append(inputs[0]))
    method.decode(x, points)
    shares = slow_masks(points, 8, 8, method.settings.sigma)
    looks = method.looks(x)
    expected = torch.zeros(2, 5 + 4, 8, 8, dtype=torch.float64)
    expected[:, :5] = shares
    for b in range(2):
        for k in range(5):
            seen = sum(
                shares[b, k, i, j] * looks[b, :, i, j] for i in range(8) for j in range(8)
            ) / sum(shares[b, k, i, j] for i in range(8) for j in range(8))
            recalled = (seen @ method.describe[k]) @ method.recall[k]
            for i in range(8):
                for j in range(8):
                    expected[b, 5:, i, j] += shares[b, k, i, j] * recalled
    torch.testing.assert_close(given_[0], expected)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    method = build()
    terms = method(Batch(torch.rand(4, 3, 32, 32), None), "all")
    s = method.settings
    weights = {name: getattr(s, name) for name in terms.keys() - {"loss", "reconstruction"}}
    weights["reconstruction"] = s.reconstruction_weights[0]
    assert set(weights) == set(terms) - {"loss"}
    expected = sum(weight * terms[name].item() for name, weight in weights.items())
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-5)
    terms["loss"].backward()
    lacking = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()]
    assert lacking == []


# Warps.


def test_an_interpolating_spline_goes_through_its_control_points() -> None:
    warps = ThinPlateSpline(16, 5).double()
    displacements = 0.1 * random(3, 25, 2)
    weights = warps.interpolate(displacements)
    at_control = warps.carry_back(warps.control.expand(3, -1, -1), weights)
    torch.testing.assert_close(at_control, displacements)
    bending = weights[:, :25]
    side = torch.cat([torch.ones(25, 1, dtype=torch.float64), warps.control], 1)
    torch.testing.assert_close(
        torch.einsum("ncd,ce->ned", bending, side), torch.zeros(3, 3, 2, dtype=torch.float64)
    )
    affine = 0.2 + warps.control @ random(2, 2)  # what is affine takes no bending
    assert warps.interpolate(affine[None])[0, :25].abs().max() < 1e-9


def test_the_exact_warp_has_no_equivariance_error() -> None:
    """A bright dot that a warp moved is carried back to where it was, to a fraction of a pixel."""
    size, margin = 100, 10
    method = build(size, margin=margin)
    frame = method.frame()
    assert frame == of_cells(size, 20, margin)
    torch.manual_seed(1)
    weights = method.draw_warps(6)
    rows = torch.arange(size).view(-1, 1)
    columns = torch.arange(size).view(1, -1)
    place = torch.tensor([55.0, 46.0])
    dot = (-((columns - place[0]) ** 2 + (rows - place[1]) ** 2) / (2 * 3.0**2)).exp()
    warped = zhang.warp(dot.expand(6, 1, size, size), method.warps.grid(weights))
    peak = warped.flatten(1).argmax(1)
    moved = torch.stack([peak % size, peak // size], 1).float()
    assert (moved - place).norm(dim=1).max() > 5
    carried = method.carry_back(frame.from_pixels(moved).unsqueeze(1), weights)
    torch.testing.assert_close(frame.to_pixels(carried)[:, 0], place.expand(6, 2), atol=1, rtol=0)
    assert zhang.equivariance(carried, carried).item() == 0


def test_without_a_warp_points_stay() -> None:
    method = build(displacement=0, translation=0, rotation=0, scale=0)
    weights = method.draw_warps(3)
    identity = torch.zeros(3)
    torch.testing.assert_close(
        weights, similarity(torch.zeros(3, 49, 2), identity, identity + 1, torch.zeros(3, 2))
    )
    points = random(3, 4, 2).float()
    torch.testing.assert_close(method.carry_back(points, weights), points)


@given(st.floats(0, 1), st.integers(0, 100))
def test_jitter_keeps_colours_in_range_and_at_zero_changes_nothing(
    amount: float, seed: int
) -> None:
    torch.manual_seed(seed)
    images = torch.rand(3, 3, 4, 4)
    changed = zhang.jitter(images, amount)
    assert changed.min() >= 0
    assert changed.max() <= 1
    torch.testing.assert_close(zhang.jitter(images, 0), images)
    grey = zhang.jitter(images[:, :1].expand(-1, 3, -1, -1), amount)
    torch.testing.assert_close(grey[:, 0], grey[:, 2])  # no colour comes of none


# The hourglass and the shapes.


@settings(max_examples=10)
@given(st.integers(1, 4), st.integers(2, 25), st.integers(2, 25))
def test_an_hourglass_takes_any_size(depth: int, height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width)
    assert Hourglass(3, depth).eval()(x).shape == x.shape


@pytest.mark.parametrize(("size", "margin", "stride"), [(32, 0, 4), (40, 4, 2), (100, 10, 2)])
def test_shapes(size: int, margin: int, stride: int) -> None:
    method = build(size, margin=margin, stride=stride).eval()
    images = torch.rand(2, 3, size, size)
    with torch.inference_mode():
        found, rebuilt = method.keypoints(images), method.reconstruct(images)
    assert found.points.shape == (2, 4, 2)
    assert found.points.dtype == torch.float32
    assert found.points.abs().max() <= 1
    assert found.logvar is None
    assert rebuilt.shape == images.shape
    assert rebuilt.min() >= 0
    assert rebuilt.max() <= 1
    window = rebuilt[:, :, margin : size - margin, margin : size - margin]
    assert window.std() > 0
    assert rebuilt.sum() == pytest.approx(window.sum().item(), rel=1e-5)
    frame = method.frame()
    assert frame.first == margin + (stride - 1) / 2
    assert frame.last == size - 1 - frame.first


def test_keypoints_do_not_see_the_margin() -> None:
    method = build(40, margin=4).eval()
    images = torch.rand(2, 3, 40, 40)
    other = torch.rand_like(images)
    other[:, :, 4:36, 4:36] = images[:, :, 4:36, 4:36]
    with torch.inference_mode():
        assert torch.equal(method.keypoints(images).points, method.keypoints(other).points)


def test_mixed_precision_keeps_the_terms_and_landmarks_in_float32() -> None:
    method, images = build(), torch.rand(8, 3, 32, 32)
    torch.manual_seed(0)
    exact = method(Batch(images, None), "all")
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = method(Batch(images, None), "all")
        points = method.eval().keypoints(images).points
    assert {value.dtype for value in mixed.values()} == {torch.float32}
    assert points.dtype == torch.float32
    for name, value in mixed.items():
        assert value.item() == pytest.approx(exact[name].item(), rel=0.1)
    assert len(points.unique()) > 0.8 * points.numel()  # in bfloat16 many would coincide


# Settings.


@pytest.mark.parametrize(
    ("size", "changes", "message"),
    [
        (20, {"margin": 10}, "leaves nothing of images of 20 x 20; lower it, or raise"),
        (16, {"margin": 10}, "a `margin` of 10 pixels on each side leaves nothing"),
        (32, {"margin": 3}, r"window of 26 px .* two or more cells of 4 px, `stride`; change one"),
        (4, {}, "must be two or more cells of 4 px"),
    ],
)
def test_windows_that_do_not_fit(size: int, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(size, **changes)


def test_a_stride_that_is_no_power_of_two() -> None:
    with pytest.raises(BadInput, match="'stride' is 3: Input should be 1, 2, 4 or 8"):
        settings_of(stride=3)


@pytest.mark.parametrize(("variant", "images"), [("k30", 8000), ("k10", 16_000)])
def test_the_paper_s_variants_take_220_000_steps(variant: str, images: int) -> None:
    s = settings_of(variant)
    assert s.epochs * (images // s.batch_size) == 220_000
    assert s.images_per_epoch == images
    assert s.k == int(variant[1:])


def test_weights_and_rate_change_at_the_milestones() -> None:
    method = build(milestones=(3, 5), reconstruction_weights=(0.1, 10, 100), learning_rate=0.01)
    optimizer = method.optimizers()["all"]
    seen = []
    for step in range(1, 8):
        method.after_step(step)
        rate = optimizer.param_groups[0]["lr"]
        seen.append((round(method.reconstruction_weight.item(), 3), round(rate, 6)))
    assert seen == 2 * [(0.1, 0.01)] + 2 * [(10, 0.001)] + 3 * [(100, 0.0001)]


# Training.


def train_small(data: Path, out: Path, **changes: Any) -> Zhang:
    s = settings_of(**{**SMALL, "images_per_epoch": None, **changes})
    train(Run("zhang", "paper", "toy", 0), s, CPU, data, out)
    method = load_model(out / "model.pt", "cpu")[1]
    assert isinstance(method, Zhang)
    return method


def test_it_learns(tiny: Path, tmp_path: Path) -> None:
    """Every constraint gets better, and landmarks follow a warp that was never seen."""
    changes = {
        "width": 8,
        "learning_rate": 0.01,
        "milestones": (10**6, 10**6 + 1),
        "equivariance": 1000.0,
        "bandwidth": 0.08,
    }
    images = to_float(torch.from_numpy(np.array(Prepared(tiny).split("test").images)))
    errors = []
    for epochs in (0, 40):
        method = train_small(tiny, tmp_path / str(epochs), epochs=epochs, **changes)
        torch.manual_seed(5)
        weights = method.draw_warps(len(images))
        with torch.inference_mode():
            points = method.keypoints(images).points
            warped = zhang.warp(images, method.warps.grid(weights))
            carried = method.carry_back(method.keypoints(warped).points, weights)
            spread = points.mean(1, keepdim=True).sub(points).square().sum(2).mean()
            rebuilt = (method.reconstruct(images) - images).square().mean()
        errors.append((spread.item(), zhang.equivariance(points, carried).item() / spread, rebuilt))
    assert errors[1][0] > 10 * errors[0][0]  # untrained, they all stand in the middle
    assert errors[1][1] < 0.3 * errors[0][1]
    assert errors[1][2] < 0.7 * errors[0][2]
    log = [json.loads(line) for line in (tmp_path / "40" / "log.jsonl").read_text().splitlines()]
    for term in ("loss", "reconstruction", "concentration"):
        assert log[-1][f"all/{term}"] < 0.7 * log[0][f"all/{term}"]


def test_a_stopped_run_ends_as_if_it_had_not_been(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, at and between the milestones, which change the weight and the learning rate."""
    changes = {"epochs": 2, "milestones": (3, 5)}
    train_small(tiny, tmp_path / "whole", **changes)
    whole = torch.load(tmp_path / "whole" / "model.pt", weights_only=True)["state"]
    assert whole["reconstruction_weight"] == 100
    for stop in (2, 3, 4, 6):

        class Interrupting(Progress):
            def advance(self, amount: int = 1, note: str = "", at: int = stop) -> None:
                super().advance(amount, note)
                if self.done == at:
                    signal.raise_signal(signal.SIGTERM)

        out = tmp_path / str(stop)
        with monkeypatch.context() as patch:
            patch.setattr(training, "Progress", Interrupting)
            with pytest.raises(Stopped):
                train_small(tiny, out, **changes)
        train_small(tiny, out, **changes)
        state = torch.load(out / "model.pt", weights_only=True)["state"]
        assert [name for name in whole if not torch.equal(whole[name], state[name])] == []
