"""Clips: their batches, particles that go from frame to frame, PSNR of what is predicted."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import prepare_toy
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed import reseal
from test_training import assert_same_result, stop_at

from partbench import config, step_cost
from partbench import method as methods
from partbench.data.batch import Batch
from partbench.data.loader import Loader, Schedule, mirror_landmarks, to_float
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.gather import gather
from partbench.method import DataInfo, MethodSettings
from partbench.methods.dlp_video import CONTEXT, DLPVideo
from partbench.model import load_model
from partbench.probe import measure
from partbench.probes.video import ROUNDING, Video, VideoSetting, VideoSettings, psnr
from partbench.published import load as published
from partbench.report.page import render
from partbench.report.read import read
from partbench.report.sections.video import GAP, LABEL, TILE, film
from partbench.report.text import number
from partbench.run import Run, Runtime
from partbench.train import Stopped, train

CPU = Runtime(device="cpu", threads=1, precision="32-true")
FRAMES = 5
QUICK: dict[str, Any] = {
    "channels": (4, 8, 8),
    "prior_channels": (4, 4),
    "k": 3,
    "proposals": 5,
    "features": 3,
    "width": 8,
    "layers": 1,
    "unroll": 2,
    "batch_size": 4,
    "epochs": 2,
    "dynamics_epochs": 1,
}
RUN = Run("dlp_video", "demo", "toy", 0)


def settings_of(**changes: Any) -> Any:
    return methods.resolve(DLPVideo, "demo", QUICK | changes, "test")


def build(**changes: Any) -> DLPVideo:
    torch.manual_seed(0)
    return DLPVideo(settings_of(**changes), DataInfo(32, 0, 0, FRAMES))


def stir(method: DLPVideo) -> DLPVideo:
    """Give the graph network a last layer that changes something."""
    torch.nn.init.normal_(method.dynamics.leave.weight, std=0.1)
    return method


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of 12 training and 6 test clips of five frames at 32 px."""
    folder = tmp_path_factory.mktemp("clips")
    return prepare_toy(folder, kind="clips", frames=FRAMES, train=12, val=1, test=6, noise=0)


@pytest.fixture(scope="module")
def model(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two epochs: one of particles, one of the graph network."""
    out = tmp_path_factory.mktemp("model")
    train(RUN, settings_of(), CPU, clips, out)
    return out / "model.pt"


def frames_of(data: Path, name: str = "test") -> torch.Tensor:
    return to_float(torch.from_numpy(np.array(Prepared(data).split(name).images)))


# Batches.


def test_batches_hold_clips_mirrored_as_a_whole(clips: Path) -> None:
    split = Prepared(clips).split("train")
    schedule = Schedule(len(split), MethodSettings(epochs=3, batch_size=4, flip=True), 0)
    originals, mirrored = frames_of(clips, "train"), []
    for step, batch in enumerate(Loader(split, schedule, torch.device("cpu"), "images").batches()):
        assert batch.images.shape == (4, FRAMES, 3, 32, 32)
        assert batch.images.dtype == torch.float32
        for clip, original in zip(batch.images, originals[schedule.indices(step)], strict=True):
            mirrored.append(not torch.equal(clip, original))
            assert torch.equal(clip.flip(-1) if mirrored[-1] else clip, original)
    assert 0 < sum(mirrored) < len(mirrored)


def test_landmarks_of_clips_are_mirrored_as_those_of_their_frames() -> None:
    points = np.random.default_rng(0).random((2, FRAMES, 3, 3), np.float32)
    made = mirror_landmarks(points, 32, (1, 0, 2))
    frames = mirror_landmarks(points.reshape(-1, 3, 3), 32, (1, 0, 2))
    np.testing.assert_array_equal(made, frames.reshape(points.shape))


def test_a_method_and_data_that_do_not_fit_stop_before_training(
    clips: Path, tiny: Path, tmp_path: Path
) -> None:
    vae = methods.resolve(methods.load("vae"), "demo", {}, "test")
    with pytest.raises(BadInput, match="holds clips, and vae learns from single images"):
        train(Run("vae", "demo", "toy", 0), vae, CPU, clips, tmp_path)
    with pytest.raises(BadInput, match="holds single images, and dlp_video learns from clips"):
        train(RUN, settings_of(), CPU, tiny, tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("vae", "clips", "holds clips, and vae learns from single images"),
        (
            "dlp_video",
            "images",
            "holds single images, and dlp_video learns from clips.*kind: clips",
        ),
    ],
)
def test_a_configuration_says_so_too(name: str, kind: str, message: str) -> None:
    values = {
        "name": "x",
        "seeds": [0],
        "data": {"some": {"reader": "toy", "kind": kind}},
        "runs": [{"train": "some", "methods": {name: ["demo"]}, "probes": {"video": ["some"]}}],
    }
    with pytest.raises(BadInput, match=rf"runs\[0\]: some: {message}"):
        config.check(values, "x.yaml")


# The method.


def test_shapes_and_the_work_of_a_step() -> None:
    method = stir(build(margin=0)).eval()
    video = torch.rand(2, FRAMES, 3, 32, 32)
    with torch.inference_mode():
        assert method.predict(video[:, :3], 4).shape == (2, 4, 3, 32, 32)
        assert method.predict_told(video, 3).shape == (2, 2, 3, 32, 32)
    batch = Batch(video, None)
    terms = build()(batch, "all")
    assert {"loss", "reconstruction", "moving", "kl_place", "kl_appearance"} == set(terms)
    cost = step_cost.of_training("dlp_video", settings_of(), DataInfo(32, 0, 0, FRAMES))
    assert cost.flops > 1e6


def test_too_few_frames_or_epochs() -> None:
    with pytest.raises(BadInput, match=r"predicts 4 frames in a row from 2.* have 5; lower"):
        build(unroll=4)
    with pytest.raises(BadInput, match="`dynamics_epochs` 2 of 2 epochs"):
        build(dynamics_epochs=2)
    build(dynamics_epochs=2, epochs=0)


@pytest.mark.parametrize("carry", [True, False])
def test_before_it_has_learnt_the_network_predicts_that_nothing_changes(carry: bool) -> None:
    method = build(carry=carry).eval()
    first = torch.rand(2, 3, 3, 32, 32)
    with torch.inference_mode():
        made = method.predict(first, 3)
        p, noise = method.dlp.particles(first[:, -1])
        still = first[:, -1] if carry else method.dlp.decode(p, noise).images.clamp(0, 1)
    torch.testing.assert_close(made, still.unsqueeze(1).expand_as(made), atol=1e-5, rtol=0)


def test_told_frames_are_decoded_from_their_own_particles() -> None:
    method, video = build(carry=False).eval(), torch.rand(2, FRAMES, 3, 32, 32)
    with torch.inference_mode():
        alone = torch.stack([method.dlp.reconstruct(video[:, t]) for t in (2, 3, 4)], 1)
        torch.testing.assert_close(method.predict_told(video, 2), alone, atol=1e-5, rtol=0)


def test_a_prediction_sees_nothing_but_the_last_two_frames_given() -> None:
    method = stir(build()).eval()
    video = torch.rand(1, 4, 3, 32, 32)
    with torch.inference_mode():
        made = method.predict(video, 2)
        torch.testing.assert_close(made, method.predict(video[:, 2:], 2))
        other = torch.cat([torch.rand(1, 3, 3, 32, 32), video[:, 3:]], 1)
        assert not torch.allclose(made, method.predict(other, 2))


def test_the_error_beside_a_loop_over_windows() -> None:
    method = stir(build()).eval()
    nodes = torch.randn(2, FRAMES, 4, 6)
    errors = []
    with torch.inference_mode():
        for start in range(FRAMES - CONTEXT - 2 + 1):
            before, now = nodes[:, start], nodes[:, start + 1]
            for step in range(2):
                before, now = now, method.advance(before, now)
                errors.append((now - nodes[:, start + CONTEXT + step]) / method.unit)
        expected = torch.stack(errors).square().mean()
        torch.testing.assert_close(method.error(nodes), expected)


def test_the_background_stays_in_its_place() -> None:
    method = stir(build()).eval()
    nodes = torch.randn(2, 2, 4, 6)
    with torch.inference_mode():
        made = method.roll_out(nodes[:, 0], nodes[:, 1], 3)
    torch.testing.assert_close(made[:, :, -1, :3], nodes[:, 1:, -1, :3].expand(2, 3, 3))
    assert not torch.allclose(made[:, 0, -1, 3:], nodes[:, 1, -1, 3:])


def test_errors_in_what_moves() -> None:
    error = torch.randn(6, 3, 4, 4)
    expected = 0.0
    for clip in error.view(2, 3, 3, 4, 4):
        for frame in clip:
            expected += float((frame - clip.mean(0)).square().sum()) / 6
    assert build().motion(error, 2).item() == pytest.approx(expected, rel=1e-5)
    still = error[:1].expand(6, -1, -1, -1)
    assert build().motion(still, 2).item() == pytest.approx(0, abs=1e-6)


def test_particles_learn_first_and_then_the_network_alone(clips: Path, tmp_path: Path) -> None:
    changes = {"epochs": 24, "dynamics_epochs": 12, "milestones": ()}
    train(RUN, settings_of(**changes), CPU, clips, tmp_path)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    first = [line["all/reconstruction"] for line in log if "all/reconstruction" in line]
    second = [line["all/loss"] for line in log if "all/reconstruction" not in line]
    assert len(first) == len(second) == 36
    assert np.mean(first[-6:]) < 0.7 * np.mean(first[:6])
    assert np.isfinite(second).all()


def test_the_network_learns_to_go_on_as_before() -> None:
    method = build().train()
    adam = torch.optim.Adam(method.dynamics.parameters(), 3e-3)
    time, errors = torch.arange(FRAMES).view(1, -1, 1, 1), []
    for _ in range(150):
        start, velocity = torch.rand(32, 1, 4, 6), 0.2 * torch.rand(32, 1, 4, 6) * method.free
        error = method.error(start + time * velocity)
        adam.zero_grad()
        error.backward()
        adam.step()
        errors.append(error.item())
    assert np.mean(errors[-10:]) < 0.2 * errors[0]  # the first is that of no change


def test_the_network_leaves_particles_as_they_are() -> None:
    method = build()
    adam = method.optimizers()["all"]
    method.begin_epoch(1)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.train()
    method(Batch(torch.rand(4, FRAMES, 3, 32, 32), None), "all")["loss"].backward()
    adam.step()
    changed = {k for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(name.startswith("dynamics.") for name in changed)


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_run_stopped_in_either_part_ends_as_if_it_had_not_been(
    step: int, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(RUN, settings_of(sample=True), CPU, clips, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Stopped):
            train(RUN, settings_of(sample=True), CPU, clips, tmp_path / "cut")
    train(RUN, settings_of(sample=True), CPU, clips, tmp_path / "cut")
    assert_same_result(tmp_path / "whole", tmp_path / "cut")


# The probe.


@given(seed=st.integers(0, 99), shape=st.sampled_from([(1, 1), (2, 3)]))
@settings(max_examples=20)
def test_psnr_beside_a_slow_loop(seed: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    shown, true = rng.random((2, *shape, 3, 5, 5)).astype(np.float32)
    made = psnr(shown, true)
    for index in np.ndindex(shape):
        pairs = zip(shown[index].ravel().tolist(), true[index].ravel().tolist(), strict=True)
        error = math.fsum((a - b) ** 2 for a, b in pairs) / 75
        assert made[index] == pytest.approx(10 * math.log10(1 / error), rel=1e-12)


def test_known_values_of_psnr() -> None:
    black = np.zeros((3, 4, 4))
    assert psnr(black + 1, black) == pytest.approx(0)
    assert psnr(black + 0.1, black) == pytest.approx(20)
    assert psnr(black, black) == pytest.approx(58.92, abs=0.005)
    assert psnr(black, black) == -10 * math.log10(ROUNDING)


def test_a_cell(clips: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "video.json"
    measure(Video(), RUN, model, clips, VideoSettings(pictured=2), CPU, out)
    record = json.loads(out.read_text())
    numbers = {
        (m["metric"], str(VideoSetting.parse(m["setting"], "cell"))): m["value"]
        for m in record["metrics"]
    }
    true = frames_of(clips).double()
    copied = 10 * torch.log10(1 / (true[:, 2:] - true[:, 1:2]).square().mean((-1, -2, -3)))
    assert numbers["copy_psnr", ""] == pytest.approx(copied.mean().item(), abs=1e-4)
    by_step = record["details"]["by step"]
    assert by_step["copy_psnr"] == pytest.approx(copied.mean(0).tolist(), abs=1e-4)
    _, method = load_model(model, "cpu")
    assert isinstance(method, DLPVideo)
    with torch.inference_mode():
        made = method.predict(true[:, :2].float(), 3).double()
        told = method.predict_told(true.float(), 2).double()
    for name, frames in (("psnr", made), ("told_psnr", told)):
        found = 10 * torch.log10(1 / (true[:, 2:] - frames).square().mean((-1, -2, -3)))
        assert numbers[name, ""] == pytest.approx(found.mean().item(), abs=1e-4)
        assert by_step[name] == pytest.approx(found.mean(0).tolist(), abs=1e-4)
    steps = [numbers["psnr", f"step {step}"] for step in (1, 2, 3)]
    assert steps == pytest.approx(by_step["psnr"])
    gain = numbers["psnr", ""] - numbers["copy_psnr", ""]
    assert numbers["gain", ""] == pytest.approx(gain, abs=1e-9)
    with np.load(out.with_suffix(".npz")) as kept:
        assert kept["true"].shape == (2, FRAMES, 32, 32, 3)
        np.testing.assert_array_equal(kept["true"], Prepared(clips).split("test").images[:2])
        difference = kept["predicted"] / 255 - made[:2].movedim(-3, -1).numpy()
        assert np.abs(difference).max() <= 0.5 / 255 + 1e-6
        assert kept["psnr"].shape == kept["copy_psnr"].shape == (2, 3)


def test_copying_is_exact_where_nothing_moves(clips: Path, model: Path, tmp_path: Path) -> None:
    still = copy_of(clips, tmp_path)
    images = np.load(still / "test.images.npy")
    np.save(still / "test.images.npy", np.repeat(images[:, :1], FRAMES, 1))
    reseal(still)
    result = Video().run(model, still, VideoSettings(), 0, "cpu")
    np.testing.assert_allclose(result.samples["copy_psnr"], -10 * math.log10(ROUNDING))
    assert (result.samples["told_psnr"] > 50).all()  # what does not change is carried over


def copy_of(data: Path, folder: Path) -> Path:
    made = folder / "copy"
    made.mkdir()
    for path in data.iterdir():
        if path.is_file():
            (made / path.name).write_bytes(path.read_bytes())
    return made


def test_what_cannot_be_measured(clips: Path, model: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds single images, and video measures clips"):
        Video().run(model, tiny, VideoSettings(), 0, "cpu")
    with pytest.raises(BadInput, match="clips with 5 frames, 5 given ones leave none"):
        Video().run(model, clips, VideoSettings(context=5), 0, "cpu")
    other = prepare_toy(tmp_path, kind="clips", size=16, frames=3, train=1, val=1, test=1)
    with pytest.raises(BadInput, match=r"trained at 32 px.*prepared at 16 px"):
        Video().run(model, other, VideoSettings(), 0, "cpu")
    assert "no predict" in Video.misfit(methods.load("vae"))
    assert not Video.misfit(DLPVideo)


# The page.


@pytest.fixture
def results(clips: Path, model: Path, tmp_path: Path) -> Path:
    """A results folder with one cell."""
    values = {
        "name": "x",
        "comparable": False,
        "seeds": [0],
        "data": {"toy": {"reader": "toy", "kind": "clips", "frames": FRAMES}},
        "settings": {"dlp_video": QUICK},
        "runs": [
            {"train": "toy", "methods": {"dlp_video": ["demo"]}, "probes": {"video": ["toy"]}}
        ],
    }
    run = tmp_path / "runs" / str(RUN)
    run.mkdir(parents=True)
    for path in model.parent.glob("[mtl]*"):
        (run / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(values))
    out = tmp_path / "cells" / str(RUN) / "toy" / "video.json"
    out.parent.mkdir(parents=True)
    measure(Video(), RUN, model, clips, VideoSettings(), CPU, out)
    checked = config.check(values, "x")
    metrics, summary = gather(checked, tmp_path)[:2]
    metrics.to_parquet(tmp_path / "metrics.parquet")
    summary.to_parquet(tmp_path / "summary.parquet")
    return tmp_path


def section(results: Path) -> str:
    """Return what the task's page shows below its numbers."""
    page = render(read(results), published()).get("task-video-toy.html", "")
    return page.partition("<h2>Video</h2>")[2].partition("</section>")[0]


def test_the_page_shows_clips_and_says_whether_copying_is_better(results: Path) -> None:
    summary = read(results).summary.set_index(["metric", "setting"])
    gain = summary.loc[("gain", "")]
    text = section(results)
    assert text.count("data:image/webp") == 4
    assert "Test clip 1: true frames, prediction with a mean PSNR of" in text
    size = number(gain["mean"], "dB")
    said = f"has one seed: no verdict. So far it shows a gain of {size} dB ["
    assert f"The prediction {said}" in text
    pages = render(read(results), published())
    top = pages["index.html"].partition('<ul class="answers">')[2].partition("</ul>")[0]
    assert f"it {said}" in top
    assert "(last frame again)" in top
    assert f"</b> {said}" in pages["task-video-toy.html"]
    assert text.count("<svg") == 1


def drop_arrays(cell: Path) -> None:
    cell.with_suffix(".npz").unlink()


def cut_arrays(cell: Path) -> None:
    with np.load(cell.with_suffix(".npz")) as file:
        arrays = dict(file)
    np.savez(cell.with_suffix(".npz"), **arrays | {"psnr": arrays["psnr"][:1]})


@pytest.mark.parametrize("damage", [drop_arrays, cut_arrays])
def test_without_clips_the_curve_stands(damage: Callable[[Path], None], results: Path) -> None:
    damage(next(results.rglob("video.json")))
    text = section(results)
    assert "data:image/webp" not in text
    assert text.count("<svg") == 1


def test_a_damaged_cell_leaves_no_section(results: Path) -> None:
    next(results.rglob("video.json")).write_text('{"details": {"context": 2}}')
    assert not section(results)


def test_a_film_shows_the_given_frames_and_then_three_beside_each_other() -> None:
    true = np.stack([np.full((8, 8, 3), 10 * t, np.uint8) for t in range(4)])
    made = film(true, true[2:] + 100, [20.0, 21.0], [10.0, 11.0])
    assert made.shape == (4, TILE + LABEL, 3 * TILE + 2 * GAP, 3)
    lefts = [i * (TILE + GAP) for i in range(3)]
    for t, colours in enumerate([(0, 0, 0), (10, 10, 10), (20, 120, 10), (30, 130, 10)]):
        for left, colour in zip(lefts, colours, strict=True):
            assert (made[t, :TILE, left : left + TILE] == colour).all()
    assert len({made[t, TILE:].tobytes() for t in range(4)}) == 3  # given, given, step 1, step 2
