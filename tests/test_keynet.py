"""KeyNet: its terms against slow ones, its numbers, its training, and what it refuses."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import (
    SMALL,
    assert_same_result,
    log_of,
    run_small,
    state_of,
    stopped,
)

from partbench.data.batch import Batch
from partbench.errors import BadInput
from partbench.method import DataInfo, resolve
from partbench.methods.keynet import FIRST_AVERAGES, LAYERS, KeyNet, border_mask, masked_error
from partbench.model import load_model
from partbench.nn.keypoints import gaussian_maps, marginal_softmax
from partbench.nn.perceptual import load, vgg
from partbench.nn.tps import STRONG, ThinPlateSpline

QUICK: dict[str, Any] = {
    "k": 4,
    "margin": 0,
    "width": 4,
    "stride": 4,
    "perceptual": "pixels",
    "grey_levels": 64.0,
    "init_std": None,
    "learning_rate": 5e-3,
}


def make(size: int = 32, **changes: Any) -> KeyNet:
    torch.manual_seed(0)
    method = KeyNet(resolve(KeyNet, "paper", QUICK | changes, "test"), DataInfo(size, 0))
    return method.to(memory_format=torch.channels_last)


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SMALL, "keynet", QUICK | {"flip": False})


# The networks.


def test_parameters_at_the_papers_settings() -> None:
    trunk = 49 * 3 * 32 + 9 * (
        (32 * 32)
        + (32 * 64 + 64 * 64)
        + (64 * 128 + 128 * 128)
        + (128 * 256 + 256 * 256)
    )  # fmt: skip
    trunk += 2 * 2 * (32 + 64 + 128 + 256)  # scales and shifts of BatchNorm
    for k in (10, 30, 50):
        head = 256 * k + k
        renderer = 9 * (
            ((256 + k) * 256 + 256 * 256)
            + (256 * 128 + 128 * 128)
            + (128 * 64 + 64 * 64)
            + (64 * 32 + 32 * 3)
        ) + 3  # fmt: skip
        renderer += 2 * (2 * (256 + 128 + 64) + 32)
        method = KeyNet(resolve(KeyNet, f"k{k}", {}, "test"), DataInfo(160, 0))
        assert sum(p.numel() for p in method.parameters()) == 2 * trunk + head + renderer
        assert method.cells == 16
    kernels = [p for p in method.parameters() if p.ndim == 4 and p.numel() > 10_000]
    assert all(abs(float(kernel.detach().std()) - 0.01) < 5e-4 for kernel in kernels)


@pytest.mark.parametrize(("size", "margin", "stride"), [(32, 0, 4), (40, 4, 8), (48, 8, 4)])
def test_shapes(size: int, margin: int, stride: int) -> None:
    method = make(size, margin=margin, stride=stride, k=5).eval()
    images = torch.rand(3, 3, size, size)
    with torch.inference_mode():
        found, made = method.keypoints(images), method.reconstruct(images)
        terms = method(Batch(images, None), "all")
    assert found.points.shape == (3, 5, 2)
    assert found.logvar is None
    assert found.points.abs().max() <= 1
    assert made.shape == images.shape
    assert made.min() >= 0
    assert made.max() <= 1
    assert set(terms) == {"loss", "pixels"}
    assert terms["loss"].shape == ()
    if margin:
        assert not made[:, :, :margin].any()
        assert made[:, :, margin:-margin, margin:-margin].any()
    outside = images.clone()
    outside[:, :, :margin] = 0.5
    with torch.inference_mode():
        assert torch.equal(method.keypoints(outside).points, found.points)


def test_a_peak_in_a_cell_is_the_place_of_its_centre_in_the_image() -> None:
    method = make(48, margin=8, stride=4).eval()
    maps = torch.full((1, 1, 8, 8), -1e4)
    maps[..., 2, 5] = 1e5  # the mean over a side of 8 cells leaves the peak of that column
    point = method.frame().to_pixels(marginal_softmax(maps))
    assert point.tolist() == [[[8 + 5 * 4 + 1.5, 8 + 2 * 4 + 1.5]]]


@given(
    seed=st.integers(0, 10**6),
    right=st.integers(-5, 5),
    down=st.integers(-5, 5),
)
@settings(max_examples=40)
def test_keypoints_move_with_their_map(seed: int, right: int, down: int) -> None:
    maps = torch.full((1, 3, 16, 16), -20.0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    inner = torch.rand(1, 3, 6, 6, generator=generator, dtype=torch.float64)
    maps[..., 5:11, 5:11] = 300 * inner.sqrt()
    moved = maps.roll((down, right), (2, 3))
    step = torch.tensor([right, down]) * 2 / 15
    assert torch.allclose(marginal_softmax(moved), marginal_softmax(maps) + step, rtol=0, atol=1e-5)


def test_the_gaussians_have_no_half_in_their_exponent(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make(gaussian_std=0.3).eval()
    seen: list[torch.Tensor] = []
    method.renderer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    points = torch.tensor([[[0.1, -0.7], [0.9, 0.2], [0, 0], [-1, 1]]])
    with torch.inference_mode():
        method.render(torch.rand(1, 3, 32, 32), points)
    cells = np.linspace(-1, 1, 8)
    for k, (x, y) in enumerate(points[0].tolist()):
        for row, column in itertools.product(range(8), repeat=2):
            d2 = (cells[column] - x) ** 2 + (cells[row] - y) ** 2
            value = seen[0][0, -4 + k, row, column].item()
            assert value == pytest.approx(np.exp(-d2 / 0.3**2), rel=1e-4, abs=1e-6)


# The pair and its mask.


def test_without_a_warp_the_views_are_the_window() -> None:
    method = make(48, margin=8, warp=0.0)
    images = torch.rand(2, 3, 48, 48)
    pair = method.pair(images)
    for view in (pair.source, pair.target):
        assert torch.allclose(view, images[:, :, 8:40, 8:40], atol=1e-4)
    assert torch.allclose(pair.mask[0, 0], method.mask[8:40, 8:40], atol=1e-4)


def test_pixels_from_outside_the_image_do_not_count() -> None:
    method = make(48, margin=8, warp=4.0)
    torch.manual_seed(3)
    pair = method.pair(torch.ones(16, 3, 48, 48))
    outside = (pair.target < 0.999).any(1, keepdim=True)
    assert outside.float().mean() > 0.05
    assert not pair.mask[outside].any()
    assert pair.mask.max() > 0.5
    assert not torch.equal(pair.source, pair.target)
    again = method.pair(torch.ones(16, 3, 48, 48))
    assert not torch.equal(pair.target, again.target)


def test_the_mask() -> None:
    mask = border_mask(160, 10, 20)
    assert mask.shape == (160, 160)
    for y, x in [(0, 0), (5, 80), (10, 30), (11, 60), (30, 140), (79, 80), (159, 159), (100, 149)]:
        away = min(y, x, 159 - y, 159 - x)
        assert mask[y, x].item() == pytest.approx(np.tanh(max(away - 10, 0) / 20), abs=1e-6)
    assert torch.equal(mask, mask.flip(0))
    assert torch.equal(mask, mask.T)
    half = make(80, margin=8).mask  # lengths are those of a 128-px window
    assert torch.equal(half, border_mask(80, 5, 10))


# The loss.


def slow_error(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """The masked error of equally large arrays, [B, C, H, W] and [B, 1, H, W]."""
    total = 0.0
    for i, c, y, x in itertools.product(*map(range, a.shape)):
        total += mask[i, 0, y, x] * (a[i, c, y, x] - b[i, c, y, x]) ** 2
    return total / a.size


def slow_gradient(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Of `slow_error` by b."""
    gradient = np.zeros_like(b)
    for i, c, y, x in itertools.product(*map(range, a.shape)):
        gradient[i, c, y, x] = 2 * mask[i, 0, y, x] * (b[i, c, y, x] - a[i, c, y, x]) / a.size
    return gradient


def test_the_loss_equals_a_slow_one() -> None:
    """Values and gradients, of the pixels and of two layers that halve the size."""
    method = make(16).double()
    torch.manual_seed(1)
    target, output = 255 * torch.rand(2, 2, 3, 8, 8, dtype=torch.float64)
    mask = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    kernel = torch.randn(5, 3, 1, 1, dtype=torch.float64)

    def layers(images: torch.Tensor) -> list[torch.Tensor]:
        first = F.conv2d(images, kernel)
        return [first, F.avg_pool2d(first, 2)]

    method.perceptual = layers  # type: ignore[assignment]
    method.averages = torch.tensor([90.0, 2.0, 0.5], dtype=torch.float64)
    method.eval()
    output.requires_grad_()
    errors = method.errors(output, target, mask)
    loss = method.balance(errors)
    loss.backward()

    halved = F.avg_pool2d(mask, 2)  # bilinear, at half the size, is the mean of four
    pairs = [(target, output, mask)]
    for a, b, weight in zip(
        layers(target / 255), layers(output / 255), (mask, halved), strict=True
    ):
        pairs.append((a, b, weight))
    values = [slow_error(*(t.detach().numpy() for t in pair)) for pair in pairs]
    assert errors.tolist() == pytest.approx(values, rel=1e-12)
    assert loss.item() == pytest.approx(
        1000 * (values[0] / 90 + values[1] / 2 + values[2] / 0.5), rel=1e-12
    )
    pixel, full, half = (slow_gradient(*(t.detach().numpy() for t in pair)) for pair in pairs)
    features = full / 2 + np.repeat(np.repeat(half, 2, 2), 2, 3) / 4 / 0.5
    back = np.einsum("bohw,oc->bchw", features, kernel[:, :, 0, 0].numpy()) / 255
    assert output.grad is not None
    np.testing.assert_allclose(output.grad.numpy(), 1000 * (pixel / 90 + back), rtol=1e-9)


def test_the_averages_move_in_training_only() -> None:
    method = make()
    assert method.averages.tolist() == pytest.approx([FIRST_AVERAGES[0]])
    errors = torch.tensor([300.0], requires_grad=True)
    method.eval()
    assert method.balance(errors).item() == pytest.approx(3000)
    assert method.averages.item() == 100
    method.train()
    expected = 100.0
    for _ in range(3):
        loss = method.balance(errors)
        expected = 0.99 * expected + 0.01 * 300
        assert method.averages.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()  # the average is a constant
    assert errors.grad is not None
    assert errors.grad.item() == pytest.approx(1000 / expected, rel=1e-6)
    assert "averages" in method.state_dict()


def test_the_layers_compared() -> None:
    """conv1_2 to conv5_2, each after its ReLU: at strides 1, 2, 4, 8, 16."""
    images = torch.rand(1, 3, 32, 32)
    for name in ("vgg16", "vgg19"):
        network = vgg(name)
        convolutions = [0, 0, 0, 0, 0, 0]
        block, found = 1, []
        for i, layer in enumerate(network):
            if isinstance(layer, torch.nn.MaxPool2d):
                block += 1
            elif isinstance(layer, torch.nn.Conv2d):
                convolutions[block] += 1
                if convolutions[block] == 2:
                    found.append(i + 1)
        assert tuple(found) == LAYERS[name]
        with torch.inference_mode():
            strides = [
                32 // network[: i + 1](images).shape[-1]
                for i in LAYERS[name]  # type: ignore[attr-defined]
            ]
        assert strides == [1, 2, 4, 8, 16]


def test_bf16_keeps_places_and_losses_exact() -> None:
    maps = torch.randn(2, 4, 16, 16) * 30
    spline = ThinPlateSpline(64)
    torch.manual_seed(0)
    weights = spline.draw(4, STRONG)
    exact = marginal_softmax(maps), spline.grid(weights)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = marginal_softmax(maps), spline.grid(weights)
        method = make()
        terms = method(Batch(torch.rand(4, 3, 32, 32), None), "all")
        points = method.keypoints(torch.rand(4, 3, 32, 32)).points
    assert all(torch.equal(a, b) for a, b in zip(exact, mixed, strict=True))
    assert {value.dtype for value in terms.values()} == {torch.float32}
    assert points.dtype == torch.float32
    assert gaussian_maps(points, 8, 8, 0.1).dtype == torch.float32
    half = torch.ones(1, 1, 4, 4, dtype=torch.bfloat16)
    assert masked_error(half, half * 2, torch.ones(1, 1, 4, 4)).dtype == torch.float32


# Training.


def test_it_learns(tiny: Path, tmp_path: Path) -> None:
    """The error falls; the loss is relative to the error's own average."""
    pixels = [line["all/pixels"] for line in log_of(run_small("keynet", tiny, tmp_path, epochs=20))]
    assert np.mean(pixels[-10:]) < 0.8 * np.mean(pixels[:10])


def test_each_term_alone_is_lowered_by_its_gradient(
    tiny: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(shared_data))
    images = torch.from_numpy(np.load(tiny / "train.images.npy")[:8]).permute(0, 3, 1, 2) / 255
    for term in range(6):
        method = make(perceptual="mobilenet")
        adam, values = method.optimizers()["all"], []
        for _ in range(12):
            torch.manual_seed(0)  # the same warps
            pair = method.pair(images)
            output = method.render(pair.source, method.locate(pair.target))
            error = method.errors(output, 255 * pair.target, pair.mask)[term]
            adam.zero_grad()
            error.backward()
            adam.step()
            values.append(error.item())
        assert values[-1] < 0.8 * values[0], term


def test_a_run_stopped_and_gone_on_with_ends_as_if_it_had_not_been(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_small("keynet", tiny, tmp_path / "whole")
    out = stopped("keynet", tiny, tmp_path / "cut", monkeypatch, 7)
    assert_same_result(whole, run_small("keynet", tiny, out))
    assert state_of(whole)["averages"].item() != FIRST_AVERAGES[0]


def test_gradients_are_clipped_together() -> None:
    method = make(clip=0.5)
    adam = method.optimizers()["all"]
    method(Batch(torch.rand(4, 3, 32, 32), None), "all")["loss"].backward()
    before = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    adam.step()
    after = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    assert before.norm() > 0.6
    assert after.norm().item() == pytest.approx(0.5, rel=1e-4)
    assert torch.allclose(after, before * (after.norm() / before.norm()))


def test_the_loop_clips(tiny: Path, tmp_path: Path) -> None:
    """Gradients far below Adam's epsilon leave the weights where they began."""
    moved = {}
    for clip in (1.0, 1e-14):
        run = run_small("keynet", tiny, tmp_path / str(clip), clip=clip, weight_decay=0.0)
        start = run_small("keynet", tiny, tmp_path / f"start{clip}", clip=clip, epochs=0)
        key = "renderer.0.weight"
        moved[clip] = (state_of(run)[key] - state_of(start)[key]).abs().max().item()
    assert moved[1e-14] < 1e-6
    assert moved[1.0] > 1e-3


def test_the_learning_rate_falls_every_100_000_steps() -> None:
    method = make(learning_rate=1e-3)
    adam = method.optimizers()["all"]
    for step in (1, 99_999):
        method.after_step(step)
        assert adam.param_groups[0]["lr"] == 1e-3
    method.after_step(100_000)
    assert adam.param_groups[0]["lr"] == pytest.approx(0.95e-3)

    other = make(learning_rate=1e-3)  # a run that goes on
    other.optimizers()["all"].load_state_dict(adam.state_dict())
    other.after_step(100_001)
    other.after_step(200_000)
    assert other.adam.param_groups[0]["lr"] == pytest.approx(0.95**2 * 1e-3)


def test_the_papers_schedule() -> None:
    paper = resolve(KeyNet, "paper", {}, "test")
    assert paper.epochs * paper.images_per_epoch // paper.batch_size == 150_000


def test_an_untrained_network_still_sees_the_image(tiny: Path, tmp_path: Path) -> None:
    untrained = resolve(KeyNet, "untrained", {}, "test").init_std
    out = run_small("keynet", tiny, tmp_path, epochs=0, init_std=untrained)
    _, method = load_model(out / "model.pt", "cpu")
    images = torch.from_numpy(np.load(tiny / "test.images.npy")).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        points = method.keypoints(images).points  # type: ignore[operator]
    assert points.std(0).min() > 1e-5


# Bad input.


@pytest.mark.parametrize(("size", "margin"), [(32, 16), (32, 20)])
def test_a_margin_that_leaves_no_window_is_refused(size: int, margin: int) -> None:
    message = rf"`margin` of {margin} pixels .* leaves nothing of images of {size} x {size}"
    with pytest.raises(BadInput, match=message):
        make(size, margin=margin, stride=8)


@pytest.mark.parametrize(("size", "margin", "side"), [(60, 0, 60), (44, 8, 28), (24, 8, 8)])
def test_a_window_that_does_not_fit_is_refused(size: int, margin: int, side: int) -> None:
    message = rf"window of {side} px, the {size} px .* `margin` of {margin} .*multiple of 8 and at"
    with pytest.raises(BadInput, match=message):
        make(size, margin=margin, stride=8)


@pytest.mark.parametrize("name", ["vgg16", "mobilenet"])
def test_missing_weights_are_named(
    name: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=rf"weights/{name}.* is missing; .*or to `pixels`"):
        run_small("keynet", tiny, tmp_path / "run", perceptual=name)
    run = run_small("keynet", tiny, tmp_path / "none", perceptual=name, epochs=0)
    load_model(run / "model.pt", "cpu")  # using a model takes no perceptual network
    with pytest.raises(BadInput):
        load(name)
