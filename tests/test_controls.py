"""The controls of the landmark methods: two floors and a ceiling."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from partbench import coordinates, plugins
from partbench import method as methods
from partbench.config import check
from partbench.data.batch import Batch
from partbench.data.loader import to_float
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared, Split
from partbench.data.reader import DataSettings, Reader, Sample
from partbench.errors import BadInput
from partbench.method import DataInfo, Method
from partbench.methods.supervised_landmarks import SupervisedLandmarks, soft_argmax
from partbench.model import load_model
from partbench.plan import plan
from partbench.run import Run, Runtime
from partbench.train import train
from partbench.training_protocols import PROTOCOLS

CONTROLS = ("mean_shape", "random_keypoints", "supervised_landmarks")
CPU = Runtime(device="cpu", threads=1, precision="32-true")


def control(name: str, size: int = 32, landmarks: int = 10, **changes: Any) -> Any:
    """Return a control in eval mode."""
    cls: Any = methods.load(name)
    values = methods.resolve(cls, "demo", changes, "test")
    return cls(values, DataInfo(size, 8, landmarks)).eval()


def images_of(split: Split) -> Tensor:
    return to_float(torch.from_numpy(np.array(split.images)))


def least_squares(
    train_points: NDArray[Any], targets: NDArray[Any], points: NDArray[Any], intercept: bool
) -> NDArray[np.float64]:
    """Return the minimum-norm predictions, [N, L, 2]."""
    inputs, tested = (p.reshape(len(p), -1).astype(np.float64) for p in (train_points, points))
    if intercept:
        inputs, tested = (np.hstack([p, np.ones((len(p), 1))]) for p in (inputs, tested))
    weights = np.linalg.lstsq(inputs, targets.reshape(len(targets), -1), rcond=None)[0]
    return (tested @ weights).reshape(len(points), -1, 2)


@pytest.mark.parametrize("name", CONTROLS)
def test_each_offers_keypoints_in_its_frame(name: str) -> None:
    made = control(name, size=48, margin=8)
    with torch.inference_mode():
        points, logvar, background, appearance = made.keypoints(torch.rand(3, 3, 48, 48))
    assert points.shape == (3, {"mean_shape": 1}.get(name, 10), 2)
    assert points.dtype == torch.float32
    assert logvar is appearance is None
    assert not background
    assert points.abs().max() <= 1
    pixels = made.frame().to_pixels(points)
    assert pixels.min() >= 7.5
    assert pixels.max() <= 39.5
    assert made.protocol == ("centred", "corner")


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("margin", [16, 17, 40])
def test_a_margin_that_leaves_no_window(name: str, margin: int) -> None:
    with pytest.raises(BadInput, match=rf"`margin` of {margin} pixels .* nothing of images of 32"):
        control(name, margin=margin)


@pytest.mark.parametrize(("size", "margin"), [(32, 1), (31, 0), (32, 12)])
def test_a_window_that_the_encoder_cannot_halve(size: int, margin: int) -> None:
    window = size - 2 * margin
    with pytest.raises(BadInput, match=rf"sees {window} x {window} pixels .* a multiple of 8, 16"):
        control("supervised_landmarks", size=size, margin=margin)


# Floors.


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("margin", [0, 3])
def test_least_squares_on_mean_shape_predicts_it(intercept: bool, margin: int, tiny: Path) -> None:
    splits = [Prepared(tiny).split(name) for name in ("train", "test")]
    made = control("mean_shape", margin=margin)
    train_points, points = (made.keypoints(images_of(s)).points.numpy() for s in splits)
    landmarks = splits[0].annotation("landmarks").astype(np.float64)
    for targets in (landmarks, made.frame().from_pixels(landmarks)):
        found = least_squares(train_points, targets, points, intercept)
        expected = np.broadcast_to(targets.mean(0), found.shape)
        np.testing.assert_allclose(found, expected, atol=1e-9)
    pixels = made.frame().to_pixels(train_points)
    found = least_squares(pixels - margin, landmarks, pixels[:4] - margin, intercept)
    np.testing.assert_allclose(found, np.broadcast_to(landmarks.mean(0), found.shape), atol=1e-9)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 5), k=st.integers(1, 60))
def test_random_keypoints_follow_the_seed_and_nothing_else(seed: int, n: int, k: int) -> None:
    made = control("random_keypoints", k=k)
    drawn = []
    for images in (torch.zeros(n, 3, 32, 32), torch.rand(n, 3, 32, 32)):
        torch.manual_seed(seed)
        drawn.append(made.keypoints(images).points)
    assert drawn[0].shape == (n, k, 2)
    assert torch.equal(*drawn)
    following = made.keypoints(images).points
    assert not torch.equal(drawn[0], following)
    assert all(not torch.equal(drawn[0][0], other) for other in drawn[0][1:])


def test_random_keypoints_are_uniform_over_the_window() -> None:
    made = control("random_keypoints", size=40, margin=4, k=50)
    torch.manual_seed(0)
    pixels = made.frame().to_pixels(made.keypoints(torch.zeros(2000, 3, 40, 40)).points)
    counts = torch.histc(pixels, bins=8, min=3.5, max=35.5)
    assert counts.sum() == pixels.numel()
    assert (counts / counts.mean() - 1).abs().max() < 0.04  # six standard deviations
    assert torch.corrcoef(pixels.flatten(0, 1).T)[0, 1].abs() < 0.02


@pytest.mark.parametrize(("variant", "k"), [("k10", 10), ("paper", 30), ("k30", 30), ("k50", 50)])
def test_numbers_of_random_keypoints(variant: str, k: int) -> None:
    cls = methods.load("random_keypoints")
    made: Any = cls(methods.resolve(cls, variant, {}, "test"), DataInfo(32, 0))
    assert made.keypoints(torch.zeros(2, 3, 32, 32)).points.shape == (2, k, 2)


# The ceiling.


@given(
    cells=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    seed=st.integers(0, 1000),
    sharp=st.sampled_from([0.0, 1.0, 50.0]),
)
def test_soft_argmax_is_the_expectation_over_the_cells(
    cells: tuple[int, int], seed: int, sharp: float
) -> None:
    heat = sharp * torch.randn(2, 3, *cells, generator=torch.Generator().manual_seed(seed))
    found = soft_argmax(heat)
    for b in range(2):
        for landmark in range(3):
            weight = np.exp((heat[b, landmark] - heat[b, landmark].max()).double().numpy())
            x = y = 0.0
            for row in range(cells[0]):
                for column in range(cells[1]):
                    x += weight[row, column] * (2 * column / (cells[1] - 1) - 1)
                    y += weight[row, column] * (2 * row / (cells[0] - 1) - 1)
            expected = np.array([x, y]) / weight.sum()
            np.testing.assert_allclose(found[b, landmark].numpy(), expected, atol=1e-5)


def test_a_hot_cell_is_its_centre_in_the_image() -> None:
    """The prepared image has 40 pixels, its window 32, in four cells of 8."""
    heat = torch.full((1, 1, 4, 4), -1e4)
    heat[0, 0, 3, 1] = 1e4
    pixels = coordinates.of_cells(40, 4, margin=4).to_pixels(soft_argmax(heat))
    np.testing.assert_allclose(pixels[0, 0], [4 + 8 + 3.5, 4 + 24 + 3.5], rtol=1e-6)


def test_the_encoder_has_the_size_of_keynets() -> None:
    cls = SupervisedLandmarks
    made: Any = cls(methods.resolve(cls, "paper", {}, "test"), DataInfo(128, 0, 5))
    shapes = [tuple(p.shape) for p in made.encoder.parameters() if p.ndim == 4]
    assert shapes == [
        (32, 3, 7, 7), (32, 32, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3),
        (128, 64, 3, 3), (128, 128, 3, 3), (256, 128, 3, 3), (256, 256, 3, 3),
    ]  # fmt: skip
    assert made.encoder(torch.zeros(2, 3, 128, 128)).shape == (2, 256, 16, 16)
    assert made.heat.weight.shape == (5, 256, 1, 1)


def test_the_loss_counts_visible_landmarks_in_the_window_s_frame() -> None:
    made = control("supervised_landmarks", size=40, margin=4, landmarks=3)
    images = torch.rand(2, 3, 40, 40)
    points = made.keypoints(images).points.detach()
    # Four pixels right of the prediction; half the window is 12 between the outer cells' centres.
    landmarks = torch.cat([made.frame().to_pixels(points), torch.ones(2, 3, 1)], -1)
    landmarks[..., 0] += 4
    loss = made(Batch(images, None, landmarks), "all")["loss"]
    torch.testing.assert_close(loss, torch.tensor((4 / 12) ** 2))
    # Hidden ones change nothing, whatever they hold.
    for hidden in (-1e6, float("nan")):
        landmarks[0, 1] = torch.tensor([hidden, hidden, 0.0])
        loss = made(Batch(images, None, landmarks), "all")["loss"]
        torch.testing.assert_close(loss, torch.tensor((4 / 12) ** 2))
        made.zero_grad()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in made.parameters())
    landmarks[..., 2] = 0
    assert made(Batch(images, None, landmarks), "all")["loss"] == 0


def test_the_margin_is_not_seen() -> None:
    made = control("supervised_landmarks", size=40, margin=4)
    images = torch.rand(2, 3, 40, 40)
    other = torch.rand(2, 3, 40, 40)
    other[..., 4:36, 4:36] = images[..., 4:36, 4:36]
    assert torch.equal(made.keypoints(images).points, made.keypoints(other).points)
    other[..., 4, 20] = 0
    assert not torch.equal(made.keypoints(images).points, made.keypoints(other).points)


class Discs(Reader):
    """A red and a green disc on noise; the green one is hidden at times."""

    landmark_names = ("red", "green")
    landmark_swap = (0, 1)

    def splits(self) -> dict[str, Sequence[str]]:
        return {"train": [str(i) for i in range(240)], "test": [str(i) for i in range(60)]}

    def sample(self, split: str, index: int) -> Sample:
        draw = np.random.default_rng([split == "test", index])
        image = draw.integers(0, 120, (32, 32, 3), dtype=np.uint8)
        points = draw.uniform(5, 26, (2, 2)).astype(np.float32)
        visible = np.array([True, draw.random() < 0.8])
        y, x = np.indices((32, 32))
        for channel in np.flatnonzero(visible):
            near = (x - points[channel, 0]) ** 2 + (y - points[channel, 1]) ** 2 < 16
            image[near] = 255 * np.eye(3, dtype=np.uint8)[channel]
        return Sample(str(index), image, landmarks=points, visible=visible)


def test_it_learns_where_landmarks_are(tmp_path: Path) -> None:
    prepare(Discs(tmp_path, DataSettings(size=32)), "discs", tmp_path / "discs", workers=1)
    data = Prepared(tmp_path / "discs")
    changes = {"epochs": 12, "batch_size": 16, "flip": True}
    values = methods.resolve(SupervisedLandmarks, "demo", changes, "test")
    run = Run("supervised_landmarks", "demo", "discs", 0)
    train(run, values, CPU, data.folder, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "train.json").read_text())
    assert record["role"] == "ceiling"
    _, trained = load_model(tmp_path / "run" / "model.pt", "cpu")
    made: Any = trained
    assert made.data == DataInfo(32, 0, 2, crop="center", foreground_by="")

    test = data.split("test")
    with torch.inference_mode():
        found = made.frame().to_pixels(made.keypoints(images_of(test)).points).numpy()
    truth, visible = test.annotation("landmarks"), test.annotation("visible")
    mean_shape = data.split("train").annotation("landmarks").mean(0)
    error, floor = (
        np.linalg.norm(guess - truth, axis=-1)[visible].mean() for guess in (found, mean_shape)
    )
    assert error < 0.2 * floor


def test_the_plan_counts_the_training_on_landmarks() -> None:
    block = {"train": "toy", "methods": {name: ["demo"] for name in CONTROLS}}
    block["probes"] = {"linear": ["toy"]}
    config = check(
        {
            "name": "test",
            "seeds": [0],
            "data": {"toy": {"reader": "toy"}},
            "runs": [block],
        },
        "test",
    )
    table = [line.split() for line in plan(config, 1e-3).splitlines() if " on toy " in line]
    lines = {words[0]: words[6] for words in table}
    assert lines["mean_shape"] == lines["random_keypoints"] == "0.00"
    # 2,000 images in 62 steps of 32, four epochs; 64 px, width 8; three times the forward pass, but
    # for the images, of which nothing asks the gradient.
    pixels, macs = 64 * 64, 0
    for stage, channels in enumerate((8, 16, 32, 64)):
        inner = 3 * 49 if stage == 0 else channels // 2 * 9
        macs += pixels // 4**stage * channels * (inner + channels * 9)
    macs += 64 * 64 * 10
    flops = 3 * 2 * macs - 2 * pixels * 8 * 3 * 49
    hours = flops * 62 * 32 * 4 / 1e9 / 3600
    assert float(lines["supervised_landmarks"]) == pytest.approx(hours, abs=0.006)


def test_the_plan_does_not_know_a_training_on_data_of_unknown_size() -> None:
    """Though it knows the probe's share of it: half a sum is no sum."""
    block = {"train": "odd", "methods": {"vae": ["demo"]}, "probes": {"linear": ["toy"]}}
    config = check(
        {
            "name": "test",
            "seeds": [0],
            "data": {"toy": {"reader": "toy"}, "odd": {"reader": "cub", "min_visible": 8}},
            "runs": [block],
        },
        "test",
    )
    text = plan(config, 1e-3)
    assert "vae demo on odd      1     1    unknown" in text
    assert "Without odd: its size is not known yet." in text


# Controls see what the methods see.

LEARN = [name for name in plugins.names("methods", Method) if name != "raw_pixels"]


@pytest.mark.parametrize("name", LEARN)
def test_training_images_are_those_of_the_data_set_s_protocol(name: str) -> None:
    """A variant named after a data set mirrors and crops as that data set's protocol says."""
    cls = methods.load(name)
    for data in PROTOCOLS.keys() & cls.VARIANTS.keys():
        used = methods.resolve(cls, data, {}, "test")
        protocol = PROTOCOLS[data]
        assert used.flip == protocol["flip"], data
        assert used.training_crop == protocol.get("training_crop", "fixed"), data


@pytest.mark.parametrize(
    ("control", "method", "data"),
    [
        ("random_init", "patchvae", ("cifar100", "indoor67", "places205", "imagenet")),
        ("supervised", "patchvae", ("cifar100", "indoor67", "places205", "imagenet")),
        ("random_init", "patchvae", ("demo", "subset")),
        ("supervised", "patchvae", ("demo", "subset")),
        ("supervised_parts", "unsup_parts", ("deepfashion", "pascal")),
        ("scops", "unsup_parts", ("cub", "deepfashion", "pascal")),
    ],
)
def test_a_control_mirrors_where_the_method_does(
    control: str, method: str, data: tuple[str, ...]
) -> None:
    for variant in data:
        both = [methods.resolve(methods.load(n), variant, {}, "test") for n in (control, method)]
        assert both[0].flip == both[1].flip, variant
        assert both[0].training_crop == both[1].training_crop, variant
        assert both[0].normalize == both[1].normalize or control in ("scops", "supervised_parts")


@pytest.mark.parametrize("method", ["dlp", "keynet", "zhang"])
def test_no_method_of_faces_mirrors_so_their_ceiling_does_not(method: str) -> None:
    for name, variant in ((method, "paper"), ("supervised_landmarks", "mafl")):
        assert not methods.resolve(methods.load(name), variant, {}, "test").flip
