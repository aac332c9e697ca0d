"""The training loop: learns, repeats itself bit for bit, stops and goes on, and loses nothing."""

import contextlib
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed import reseal

from partbench import cli, plugins, step_cost
from partbench import method as methods
from partbench import train as training
from partbench.checkpoint import CHECKPOINTS
from partbench.data.batch import Batch
from partbench.data.loader import Loader, Schedule, _shuffle, mirror_landmarks, to_float
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.data.reader import DataSettings, Reader, Sample
from partbench.errors import BadInput
from partbench.extract import extract
from partbench.files import atomic, locked
from partbench.integrity import read_record
from partbench.method import DataInfo, Method, MethodSettings, StepFreeMethod
from partbench.methods.vae import VAE
from partbench.model import load_model, precision_of
from partbench.progress import Progress
from partbench.run import Run, Runtime
from partbench.train import Stopped, train

COUNTED = [
    name for name in plugins.names("methods", Method) if methods.load(name).reads == "images"
]
METHODS = [  # those that can learn from the toy data as they are
    name for name in COUNTED if methods.load(name).learns_from not in ("attributes", "clusters")
]
CPU = Runtime(device="cpu", threads=1)
OFTEN = CPU.model_copy(update={"checkpoint_minutes": 1e-9})
SMALL: dict[str, dict[str, Any]] = {
    "patchvae": {"encoder_width": 8, "decoder_width": 8, "learning_rate": 2e-3},
    "vae": {"encoder_width": 8, "decoder_width": 8, "learning_rate": 2e-3},
    "bigan": {
        "encoder_width": 8,
        "decoder_width": 16,
        "discriminator_width": 8,
        "learning_rate": 1e-3,
    },
    "supervised": {"encoder_width": 8, "learning_rate": 0.05},
    "lorbms": {
        "code": 8,
        "first": 4,
        "growth": 2,
        "dense_layers": (1, 1),
        "discriminator_width": 4,
        "discriminator_layers": 2,
        "classifier_width": 2,
        "classifier_hidden": 8,
        "threshold_quantile": 0.5,
        "flip": False,
    },
    "mix": {
        "chunk_size": 4,
        "encoder_width": 4,
        "decoder_width": 4,
        "discriminator_width": 4,
        "classifier_width": 2,
        "classifier_hidden": 8,
        "batch_size": 12,
    },
    "supervised_landmarks": {"width": 4},
}
NO_IMAGES = {"keypoints", "parts", "replaced"}
"""Pictures that are none."""
ONE_AND_TWO_OPTIMISERS = pytest.mark.parametrize("name", ["patchvae", "bigan"])


def small(name: str, variant: str = "paper", **changes: Any) -> Any:
    """Return settings for a network that takes some milliseconds a step, 4 steps an epoch."""
    values = {"batch_size": 16, "epochs": 3, "images_per_epoch": None, "flip": True}
    return methods.resolve(methods.load(name), variant, values | SMALL[name] | changes, "test")


def run_small(
    name: str,
    data: Path,
    out: Path,
    runtime: Runtime = CPU,
    seed: int = 0,
    code: str = "",
    **changes: Any,
) -> Path:
    train(Run(name, "paper", "toy", seed), small(name, **changes), runtime, data, out, code)
    return out


def state_of(out: Path) -> dict[str, Any]:
    return torch.load(out / "model.pt", weights_only=True)["state"]


def log_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def assert_same_result(first: Path, second: Path) -> None:
    """Bit-equal parameters and buffers; the same log, but for the clock."""
    one, two = state_of(first), state_of(second)
    assert list(one) == list(two)
    assert [k for k in one if not torch.equal(one[k], two[k])] == []
    clockless = [[line | {"seconds": 0} for line in log_of(out)] for out in (first, second)]
    assert clockless[0] == clockless[1]
    names = [
        sorted(
            p.name
            for p in out.iterdir()
            if p.suffix not in (".damaged", ".other") and p.name not in CHECKPOINTS
        )
        for out in (first, second)
    ]
    assert names[0] == names[1]


# Every method.


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_and_offers_what_it_says(name: str, tiny: Path, tmp_path: Path) -> None:
    cls = methods.load(name)
    variant = "demo" if "demo" in cls.REDUCED else "paper"
    trained = cls.role != "floor" and not issubclass(cls, StepFreeMethod)
    changes = {"epochs": 2, "batch_size": 12, "images_per_epoch": None} if trained else {}
    run = Run(name, variant, "toy", 0)
    train(run, methods.resolve(cls, variant, changes, "test"), CPU, tiny, tmp_path / "run")

    steps = 2 * (TINY["train"] // 12) if trained else 0
    assert len(log_of(tmp_path / "run")) == steps
    record = json.loads((tmp_path / "run" / "train.json").read_text())
    assert record["run"] == run._asdict()
    assert record["role"] == cls.role
    assert record["steps"] == steps
    assert record["data_checksum"] == Prepared(tiny).meta["checksum"]
    names = sorted(p.name for p in (tmp_path / "run").iterdir() if p.name != ".lock")
    assert names == ["checkpoint.pt", "log.jsonl", "model.pt", "train.json"]
    loaded, method = load_model(tmp_path / "run" / "model.pt", "cpu")
    assert loaded == run
    assert record["parameters"] == sum(p.numel() for p in method.parameters())

    pictures = tmp_path / "pictures.npz"
    offers = [n for n in ("features", "keypoints", "part_maps") if hasattr(cls, n)]
    model, outputs = tmp_path / "run" / "model.pt", tmp_path / "outputs"
    extract(model, tiny, offers, outputs, pictures, "cpu", 1)
    for split in ("train", "test") if hasattr(cls, "features") else ():
        features = np.load(tmp_path / "outputs" / f"{split}.features.npy")
        assert features.shape[0] == TINY[split]
        assert features.dtype == np.float32
    if hasattr(cls, "keypoints"):
        about = read_record(tmp_path / "outputs" / "keypoints.json")
        for name in ("train.points", "test.points", "test.carried"):
            points = np.load(tmp_path / "outputs" / f"{name}.npy")
            assert points.shape[0] == TINY[name.partition(".")[0]]
            assert points.shape[2] == 2
        assert set(about) == {"first", "last", "left", "side", "background", "protocol"}
    if hasattr(cls, "part_maps"):
        parts = read_record(outputs / "parts.json")["k"]
        assert np.load(outputs / "train.centres.npy").shape == (TINY["train"], parts, 2)
        assert np.load(outputs / "test.mass.npy").shape == (TINY["test"], parts)
        labels = np.load(outputs / "test.labels.npy")
        assert labels.shape == (TINY["test"], 32, 32)
        assert labels.dtype == np.uint8
        assert labels.max() < parts
        assert np.load(outputs / "test.agreement.npy").shape == (TINY["test"],)
    made = np.load(pictures)
    offered = {"reconstructions": "reconstruct", "generated": "generate", "keypoints": "keypoints"}
    offered |= {"moved": "move", "parts": "part_maps", "replaced": "replaced"}
    offered |= {f"candidates_{i}": "replaced" for i in range(4)}
    assert {"originals"} | {k for k, has in offered.items() if hasattr(cls, has)} == set(made)
    assert all(made[key].shape[1:] == (32, 32, 3) for key in set(made) - NO_IMAGES)


@pytest.mark.parametrize("name", COUNTED)
def test_every_method_s_work_is_counted_without_its_data_or_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    cls = methods.load(name)
    settings = methods.resolve(cls, "paper", {}, "test")
    if settings.epochs:
        sizes = {"dlp": 160, "keynet": 160, "zhang": 100, "supervised_landmarks": 128}
        sizes |= {"knowledge_transfer": 256, "supervised_attributes": 256}
        size = sizes.get(name, 64)
        data = DataInfo(size, 10, 5, attributes=10, clusters=10)
        assert step_cost.of_training(name, settings, data).flops > 1e6


def test_the_object_model_s_work_is_counted_too() -> None:
    settings = methods.resolve(methods.load("dlp"), "shapes", {}, "test")
    assert step_cost.of_training("dlp", settings, DataInfo(64, 0)).flops > 1e6


def test_what_was_not_trained_is_a_floor(tiny: Path, tmp_path: Path) -> None:
    for name, epochs, role in (
        ("vae", 0, "floor"),
        ("vae", 1, "method"),
        ("supervised", 0, "floor"),
        ("supervised", 1, "ceiling"),
    ):
        out = run_small(name, tiny, tmp_path / f"{name}{epochs}", epochs=epochs)
        assert json.loads((out / "train.json").read_text())["role"] == role


@pytest.mark.parametrize(
    ("name", "variant"),
    [("patchvae", "paper"), ("patchvae", "lw"), ("vae", "paper"), ("vae", "beta")],
)
def test_the_variational_methods_learn(name: str, variant: str, tiny: Path, tmp_path: Path) -> None:
    settings_ = small(name, variant, epochs=15, flip=False)
    train(Run(name, variant, "toy", 0), settings_, CPU, tiny, tmp_path)
    log = log_of(tmp_path)
    for term in ("loss", "reconstruction"):
        values = [line[f"all/{term}"] for line in log]
        assert np.mean(values[-10:]) < 0.8 * np.mean(values[:10])


def test_the_supervised_control_learns(tiny: Path, tmp_path: Path) -> None:
    log = log_of(run_small("supervised", tiny, tmp_path, epochs=25, flip=False))
    accuracy = [line["all/accuracy"] for line in log]
    assert np.mean(accuracy[:4]) < 0.3
    assert np.mean(accuracy[-4:]) > 0.6
    assert log[-1]["all/loss"] < log[0]["all/loss"]


def test_bigan_learns(tiny: Path, tmp_path: Path) -> None:
    """Its losses balance, so they say little: what G makes, and that E inverts it, does."""
    images = to_float(torch.from_numpy(np.array(Prepared(tiny).split("train").images)))
    spread, ratio = {}, {}
    for epochs in (0, 30):
        out = run_small("bigan", tiny, tmp_path / str(epochs), epochs=epochs, flip=False)
        _, method = load_model(out / "model.pt", "cpu")
        torch.manual_seed(0)
        with torch.inference_mode():
            made, back = method.generate(Batch(images, None)), method.reconstruct(images)  # type: ignore[operator]
        spread[epochs] = (made.std(0) - images.std(0)).square().mean()
        others = back.roll(1, dims=0)
        ratio[epochs] = (back - images).square().mean() / (others - images).square().mean()
    assert spread[30] < 0.6 * spread[0]  # samples vary as the images do, not all grey
    assert ratio[0] > 0.99  # untrained, G(E(x)) knows nothing of x
    assert ratio[30] < 0.9
    log = log_of(tmp_path / "30")
    assert np.mean([line["discriminator/discriminator_accuracy"] for line in log]) > 0.6


# Repeatable; stop and go on.


@ONE_AND_TWO_OPTIMISERS
def test_two_runs_are_bit_equal_and_another_seed_is_not(
    name: str, tiny: Path, tmp_path: Path
) -> None:
    first, second, other = (
        run_small(name, tiny, tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1))
    )
    assert_same_result(first, second)
    assert any(not torch.equal(v, state_of(other)[k]) for k, v in state_of(first).items())


def test_checkpoints_change_nothing(tiny: Path, tmp_path: Path) -> None:
    plain = run_small("patchvae", tiny, tmp_path / "plain")
    often = run_small("patchvae", tiny, tmp_path / "often", OFTEN)
    assert_same_result(plain, often)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Have the next training in this process get SIGTERM after `step`."""

    class Interrupting(Progress):
        def advance(self, amount: int = 1, note: str = "") -> None:
            super().advance(amount, note)
            if self.done == step:
                signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(training, "Progress", Interrupting)


def stopped(
    name: str, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, step: int = 6, **more: Any
) -> Path:
    """Return the folder of a run that was stopped after `step`."""
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Stopped, match=f"stopped at step {step}"):
            run_small(name, data, out, **more)
    return out


@pytest.mark.parametrize("name", ["patchvae", "bigan", "supervised_landmarks", "lorbms", "mix"])
def test_a_run_stopped_at_any_step_ends_as_if_it_had_not_been(
    name: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_small(name, tiny, tmp_path / "whole")
    for step in (1, 4, 7, 11, 12):
        out = stopped(name, tiny, tmp_path / str(step), monkeypatch, step)
        assert not (out / "model.pt").exists()
        assert_same_result(whole, run_small(name, tiny, out))


@pytest.mark.parametrize(
    ("codes", "recorded"), [(["a1", "a1", "a1"], "a1"), (["a1", "b2", "b2"], "a1+b2")]
)
def test_a_run_names_all_the_code_that_trained_it(
    codes: list[str], recorded: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, settings = Run("vae", "paper", "toy", 0), small("vae")
    for step, code in zip((4, 7, None), codes, strict=True):
        with monkeypatch.context() as patch, contextlib.suppress(Stopped):
            if step:
                stop_at(patch, step)
            train(run, settings, CPU, tiny, tmp_path, code)
    assert json.loads((tmp_path / "train.json").read_text())["provenance"]["code"] == recorded


def test_a_log_line_covers_its_steps_however_often_the_run_was_stopped(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "LOG_POINTS", 3)  # a line every fourth step
    whole = run_small("vae", tiny, tmp_path / "whole")
    out = stopped("vae", tiny, tmp_path / "cut", monkeypatch, 2)
    stopped("vae", tiny, out, monkeypatch, 7)
    assert_same_result(whole, run_small("vae", tiny, out))


LONG = {"patchvae": 50, "bigan": 30}  # epochs: some seconds of training


def command(python: list[str], name: str, data: Path, out: Path, **changes: Any) -> list[str]:
    runtime = CPU.model_copy(update={"checkpoint_minutes": 0.001})
    return [
        *python,
        "train",
        *("--run", f"{name}/paper/toy/0"),
        *("--settings", small(name, **changes).model_dump_json()),
        *("--runtime", runtime.model_dump_json()),
        *("--data", str(data)),
        *("--out", str(out)),
    ]


def wait_for(process: subprocess.Popen[str], out: Path, lines: int) -> None:
    """Wait until a run has a checkpoint and that many lines in its log."""
    log = out / "log.jsonl"
    patience = time.monotonic() + 120  # on a busy machine the imports alone take long
    while time.monotonic() < patience:
        logged = len(log.read_bytes().splitlines()) if log.exists() else 0
        if logged >= lines and (out / "checkpoint.pt").exists():
            return
        if process.poll() is not None:
            break
        time.sleep(0.005)
    process.kill()
    pytest.fail(f"the run ended or hung before line {lines}: {process.communicate()}")


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Uninterrupted runs."""
    root = tmp_path_factory.mktemp("whole")
    return {
        name: run_small(name, tiny, root / name, epochs=epochs) for name, epochs in LONG.items()
    }


@ONE_AND_TWO_OPTIMISERS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_a_process_stopped_by_a_signal_goes_on_as_if_it_had_not_been(
    name: str,
    number: signal.Signals,
    tiny: Path,
    tmp_path: Path,
    whole: Mapping[str, Path],
    python: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, epochs = tmp_path / "run", LONG[name]
    process = subprocess.Popen(
        command(python, name, tiny, out, epochs=epochs),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    draw = random.Random(f"{name}-{number}")
    wait_for(process, out, draw.randrange(5, 60))
    monkeypatch.setattr("partbench.files.PATIENCE", 0)
    with pytest.raises(BadInput, match="run is in use by another run; wait for it to end"):
        run_small(name, tiny, out, epochs=epochs)
    time.sleep(draw.uniform(0, 0.2))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 75
        assert "run the same command again to resume" in errors
        assert "Traceback" not in errors
    assert not (out / "model.pt").exists()
    first_line = log_of(out)[0]

    run_small(name, tiny, out, epochs=epochs)
    assert log_of(out)[0] == first_line  # with its clock: it went on, it did not begin again
    assert_same_result(whole[name], out)


def test_bf16_trains_and_keeps_its_state_in_float32(tiny: Path, tmp_path: Path) -> None:
    mixed, full = (CPU.model_copy(update={"precision": p}) for p in ("bf16-mixed", "32-true"))
    for name in ("patchvae", "bigan"):
        out = run_small(name, tiny, tmp_path / name, mixed)
        exact = run_small(name, tiny, tmp_path / f"{name}-32", full)
        state, other = state_of(out), state_of(exact)
        floating = [k for k, v in state.items() if v.is_floating_point()]
        assert {str(state[k].dtype) for k in floating} <= {"torch.float32", "torch.float64"}
        assert any(not torch.equal(state[k], other[k]) for k in floating)
        for line, near in zip(log_of(out)[:1], log_of(exact)[:1], strict=True):
            terms = [k for k in line if k.endswith("/loss")]
            assert [line[k] for k in terms] == pytest.approx([near[k] for k in terms], rel=0.05)


def test_bf16_leaves_images_and_landmarks_as_they_are(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    cls = methods.load("supervised_landmarks")
    forward = cls.forward

    def look(self: Any, batch: Any, phase: str) -> Any:
        seen.append((batch.images.dtype, batch.landmarks.dtype))
        return forward(self, batch, phase)

    monkeypatch.setattr(cls, "forward", look)
    settings = methods.resolve(cls, "demo", {"epochs": 1, "batch_size": 32}, "test")
    mixed = CPU.model_copy(update={"precision": "bf16-mixed"})
    train(Run("supervised_landmarks", "demo", "toy", 0), settings, mixed, tiny, tmp_path / "out")
    assert set(seen) == {(torch.float32, torch.float32)}


@pytest.mark.parametrize("has", [True, False])
def test_auto_precision_is_what_the_hardware_has(
    has: bool, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has})
    out = run_small("vae", tiny, tmp_path / "out")
    record = json.loads((out / "train.json").read_text())
    assert record["precision"] == ("bf16-mixed" if has else "32-true")
    assert precision_of(CPU.model_copy(update={"precision": "32-true"})) == "32-true"


# Checkpoints and models that are not what they should be.


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_small("patchvae", tiny, tmp_path / "whole")
    out = stopped("patchvae", tiny, tmp_path / "cut", monkeypatch, 6, runtime=OFTEN)
    assert (out / "checkpoint.previous.pt").exists()
    first_line = log_of(out)[0]
    cut(out / "checkpoint.pt")
    run_small("patchvae", tiny, out)
    printed = capsys.readouterr().out
    assert re.search(r"checkpoint.pt is damaged .*moved to checkpoint.pt.damaged", printed)
    assert (out / "checkpoint.pt.damaged").exists()
    assert log_of(out)[0] == first_line
    assert_same_result(whole, out)


def test_a_kill_between_the_two_renames_of_a_checkpoint_loses_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_small("patchvae", tiny, tmp_path / "whole")
    out = stopped("patchvae", tiny, tmp_path / "cut", monkeypatch)
    first_line = log_of(out)[0]
    (out / "checkpoint.pt").rename(out / "checkpoint.previous.pt")
    assert log_of(run_small("patchvae", tiny, out))[0] == first_line
    assert_same_result(whole, out)


def test_what_a_kill_left_half_written_is_swept_away(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = stopped("vae", tiny, tmp_path, monkeypatch)
    with atomic(out / "checkpoint.pt") as aside:
        shutil.copy(aside, out / aside.name.replace(".checkpoint", ".model"))
        aside.write_bytes((out / "checkpoint.pt").read_bytes())
    assert [p for p in out.iterdir() if p.name.startswith(".model.pt.")]
    run_small("vae", tiny, out)
    names = sorted(p.name for p in out.iterdir() if p.name != ".lock")
    assert names == [*sorted(CHECKPOINTS), "log.jsonl", "model.pt", "train.json"]


@pytest.mark.parametrize("name", ["patchvae", "bigan", "supervised_landmarks"])
def test_a_job_killed_after_its_model_was_written_trains_nothing_twice(
    name: str, tiny: Path, tmp_path: Path
) -> None:
    """Snakemake deletes the output of a job that did not end."""
    out = run_small(name, tiny, tmp_path)
    state, log = state_of(out), (out / "log.jsonl").read_text()
    for output in ("model.pt", "train.json"):
        (out / output).unlink()
    run_small(name, tiny, out)
    assert (out / "log.jsonl").read_text() == log
    assert all(torch.equal(value, state[key]) for key, value in state_of(out).items())


def test_other_code_does_not_take_over_a_finished_training(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_small("vae", tiny, tmp_path, code="one")
    run_small("vae", tiny, tmp_path, code="two")
    assert "was begun with another code: moved to checkpoint.pt.other" in capsys.readouterr().out
    record = json.loads((tmp_path / "train.json").read_text())
    assert record["provenance"]["code"] == "two"


def test_an_extraction_removes_the_checkpoints_of_its_run(tiny: Path, tmp_path: Path) -> None:
    out = run_small("vae", tiny, tmp_path / "run", OFTEN)
    assert all((out / name).exists() for name in CHECKPOINTS)
    extract(out / "model.pt", tiny, [], tmp_path / "arrays", tmp_path / "a.npz", "cpu", 1)
    assert not any((out / name).exists() for name in CHECKPOINTS)


def test_with_two_damaged_checkpoints_a_run_starts_over(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_small("patchvae", tiny, tmp_path / "whole")
    out = stopped("patchvae", tiny, tmp_path / "cut", monkeypatch, 6, runtime=OFTEN)
    cut(out / "checkpoint.pt")
    (out / "checkpoint.previous.pt").write_bytes(b"not a checkpoint")
    assert_same_result(whole, run_small("patchvae", tiny, out))
    printed = capsys.readouterr().out
    assert "checkpoint.pt is damaged" in printed
    assert "checkpoint.previous.pt is damaged" in printed
    assert (out / "checkpoint.previous.pt.damaged").read_bytes() == b"not a checkpoint"


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_flipped_bit_in_a_checkpoint_is_noticed(
    place: float, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_small("vae", tiny, tmp_path / "whole")
    out = stopped("vae", tiny, tmp_path / "cut", monkeypatch)
    content = bytearray((out / "checkpoint.pt").read_bytes())
    content[int(place * len(content))] ^= 1
    (out / "checkpoint.pt").write_bytes(content)
    assert_same_result(whole, run_small("vae", tiny, out))


@pytest.mark.parametrize(
    ("differs", "other"),
    [
        ("run, settings", {"name": "vae"}),
        ("run", {"seed": 1}),
        ("settings", {"learning_rate": 3e-3}),
        ("data", {"data": "changed"}),
    ],
)
def test_a_checkpoint_of_another_run_is_kept_aside(
    differs: str,
    other: dict[str, Any],
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = stopped("patchvae", tiny, tmp_path / "run", monkeypatch)
    before = (out / "checkpoint.pt").read_bytes()
    data = tiny
    if other.pop("data", ""):
        data = reseal(shutil.copytree(tiny, tmp_path / "data"), checksum="another")
    name = other.pop("name", "patchvae")
    whole = run_small(name, data, tmp_path / "whole", **other)
    assert_same_result(whole, run_small(name, data, out, **other))
    expected = f"checkpoint.pt was begun with another {differs}: moved to checkpoint.pt.other, not"
    assert expected in capsys.readouterr().out
    assert (out / "checkpoint.pt.other").read_bytes() == before


@pytest.fixture(scope="module")
def model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_small("vae", tiny, tmp_path_factory.mktemp("model"), epochs=1) / "model.pt"


def rewritten(model: Path, out: Path, **changes: Any) -> Path:
    """Return a copy of a model whose identity has changes."""
    saved = torch.load(model, weights_only=True)
    saved["identity"] = json.dumps(json.loads(saved["identity"]) | changes)
    torch.save(saved, out)
    return out


def test_a_model_of_another_version(model: Path, tmp_path: Path) -> None:
    path = rewritten(model, tmp_path / "model.pt", format=999)
    with pytest.raises(BadInput, match=r"model.pt was written by another version \(format 999"):
        load_model(path, "cpu")


def test_a_model_that_does_not_fit_its_method_any_more(model: Path, tmp_path: Path) -> None:
    identity = json.loads(torch.load(model, weights_only=True)["identity"])
    changed = identity["settings"] | {"latent": 7}
    path = rewritten(model, tmp_path / "model.pt", settings=changed)
    with pytest.raises(BadInput, match=r"does not fit the present partbench/methods/vae.py"):
        load_model(path, "cpu")


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_model_that_is_none_is_an_error_and_runs_no_code(
    model: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crater = tmp_path / "crater"
    broken = {
        "empty.pt": b"",
        "text.pt": b"<html>quota exceeded</html>",
        "cut.pt": model.read_bytes()[:-2000],
        "plain.pt": pickle.dumps(Bomb(crater)),
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"identity": "{}", "state": Bomb(crater)}, tmp_path / "bomb.pt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    for path in sorted(tmp_path.glob("*.pt")):
        inputs = ["--model", str(path), "--data", str(tiny), "--runtime", CPU.model_dump_json()]
        made = ["--outputs", str(tmp_path / "outputs"), "--pictures", str(tmp_path / "p.npz")]
        status = cli.main(["extract", *inputs, *made])
        assert status == 1
        message = capsys.readouterr().err
        assert f"{path} is" in message
        assert "damaged" in message
        assert "weights_only" not in message  # torch's advice to open it all the same
        assert not crater.exists()
        assert not (tmp_path / "outputs").exists()


# Losses that are not finite.


def test_a_loss_that_explodes_is_an_error(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"all/\w+ is (nan|inf) near step \d+.*Lower the learning"):
        run_small("patchvae", tiny, tmp_path, OFTEN, learning_rate=1e30)
    assert not (tmp_path / "model.pt").exists()
    assert all(np.isfinite(list(line.values())).all() for line in log_of(tmp_path))


def test_a_loss_that_becomes_nan_leaves_the_checkpoint_from_before(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = stopped("vae", tiny, tmp_path, monkeypatch, 6)
    before = (out / "checkpoint.pt").read_bytes()
    elbo = VAE.elbo
    with monkeypatch.context() as patch:
        patch.setattr(VAE, "elbo", lambda *a: elbo(*a) | {"loss": elbo(*a)["loss"] * np.nan})
        with pytest.raises(BadInput, match="all/loss is nan near step 7"):
            run_small("vae", tiny, out, OFTEN)
    assert (out / "checkpoint.pt").read_bytes() == before
    assert len(log_of(out)) == 6
    whole = run_small("vae", tiny, tmp_path / "whole")
    run_small("vae", tiny, out)
    assert all(torch.equal(v, state_of(out)[k]) for k, v in state_of(whole).items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 65}, r"64 images, fewer than one batch of 65; lower `batch_size`"),
        ({}, r"cannot be shared by 3 devices"),
    ],
)
def test_batches_that_cannot_be_made(
    changes: dict[str, Any],
    message: str,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not changes:
        monkeypatch.setattr(training.Fabric, "world_size", 3)
    with pytest.raises(BadInput, match=message):
        run_small("vae", tiny, tmp_path, **changes)


def test_a_gpu_that_is_not_there(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match="torch sees no GPU; set 'cpu' or 'auto'"):
        run_small("vae", tiny, tmp_path, CPU.model_copy(update={"device": "cuda"}))


def test_the_lock_is_free_after_an_error(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        run_small("vae", tiny, tmp_path, batch_size=65)
    with locked(tmp_path):
        pass


# The order of the data.


def schedules() -> st.SearchStrategy[Schedule]:
    def build(n: int, batch: int, per_epoch: int | None, lose: bool, seed: int) -> Schedule:
        values = {
            "epochs": 3,
            "batch_size": min(batch, n),
            "images_per_epoch": per_epoch,
            "lose_batch_at_wrap": lose,
        }
        return Schedule(n, MethodSettings.parse(values, "test"), seed)

    return st.builds(
        build,
        n=st.integers(1, 60),
        batch=st.integers(1, 20),
        per_epoch=st.none() | st.integers(1, 300),
        lose=st.booleans(),
        seed=st.integers(0, 2**31),
    )


def updates_of_the_published_loop(asked: int, batches: int) -> int:
    """Count the updates of a loop that swallows the end of its iterator with one step."""
    left, done = batches, 0
    for _ in range(asked):
        if left == 0:
            left = batches
        else:
            left -= 1
            done += 1
    return done


@given(schedules())
def test_updates_per_epoch(schedule: Schedule) -> None:
    s = schedule.settings
    asked = (s.images_per_epoch or schedule.n) // s.batch_size
    batches = schedule.n // s.batch_size
    lost = updates_of_the_published_loop(asked, batches)
    assert schedule.steps_per_epoch == max(lost if s.lose_batch_at_wrap else asked, 1)
    assert schedule.steps == 3 * schedule.steps_per_epoch


@given(schedules())
def test_a_pass_over_the_data_shows_no_image_twice(schedule: Schedule) -> None:
    size, per_pass = schedule.settings.batch_size, schedule.steps_per_pass
    for epoch in range(3):
        first = epoch * schedule.steps_per_epoch
        steps = list(range(first, first + schedule.steps_per_epoch))
        for start in range(0, len(steps), per_pass):
            batches = [schedule.indices(step) for step in steps[start : start + per_pass]]
            assert all(len(batch) == size for batch in batches)
            seen = np.concatenate(batches)
            assert len(np.unique(seen)) == len(seen)
            assert seen.min() >= 0
            assert seen.max() < schedule.n


@given(st.integers(1, 20), st.integers(1, 5), st.integers(0, 2**31))
def test_passes_of_whole_batches_show_every_image(batch: int, batches: int, seed: int) -> None:
    n = batch * batches
    schedule = Schedule(n, MethodSettings(epochs=2, batch_size=batch), seed)
    passes = [
        np.concatenate([schedule.indices(epoch * batches + i) for i in range(batches)])
        for epoch in range(2)
    ]
    for order in passes:
        assert sorted(order) == list(range(n))
    if n > 20:  # two shuffles of so many agree once in 20! times
        assert list(passes[0]) != list(passes[1])


@given(schedules(), st.data())
def test_a_step_s_images_depend_on_nothing_before(schedule: Schedule, data: st.DataObject) -> None:
    walked = [schedule.indices(step).tolist() for step in range(schedule.steps)]
    step = data.draw(st.integers(0, schedule.steps - 1))
    _shuffle.cache_clear()
    assert schedule.indices(step).tolist() == walked[step]


def loader(data: Path, seed: int = 0, flip: bool = True, **share: int) -> Loader:
    split = Prepared(data).split("train")
    schedule = Schedule(len(split), MethodSettings(epochs=2, batch_size=12, flip=flip), seed)
    return Loader(split, schedule, torch.device("cpu"), "labels", **share)


@settings(max_examples=10)
@given(start=st.integers(0, 9), seed=st.integers(0, 1000))
def test_batches_are_the_same_wherever_they_are_entered(tiny: Path, start: int, seed: int) -> None:
    whole = list(loader(tiny, seed).batches())
    assert len(whole) == 10
    entered = list(loader(tiny, seed).batches(start))
    assert len(entered) == len(whole) - start
    for first, second in zip(whole[start:], entered, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.labels, second.labels)  # type: ignore[arg-type]


def test_batches_hold_the_images_with_their_labels_half_of_them_mirrored(tiny: Path) -> None:
    split = Prepared(tiny).split("train")
    labels = split.annotation("labels")
    plain, flipped = loader(tiny, flip=False), loader(tiny)
    mirrored = []
    for step, (batch, other) in enumerate(zip(plain.batches(), flipped.batches(), strict=True)):
        rows = plain.schedule.indices(step)
        assert torch.equal(batch.images, to_float(torch.from_numpy(split.images[rows])))
        assert batch.labels.tolist() == labels[rows].tolist()  # type: ignore[union-attr]
        assert torch.equal(batch.labels, other.labels)  # type: ignore[arg-type]
        for one, two in zip(batch.images, other.images, strict=True):
            mirrored.append(not torch.equal(one, two))
            assert torch.equal(one.flip(-1) if mirrored[-1] else one, two)
    assert 0.35 < np.mean(mirrored) < 0.65


@pytest.mark.parametrize(("world", "parts"), [(2, 1), (3, 1), (2, 3)])
def test_processes_share_a_batch(tiny: Path, world: int, parts: int) -> None:
    """One after the other, what they hold of each part is the part, mirrored alike."""
    whole = loader(tiny).batches()
    shares = [loader(tiny, rank=r, world=world, parts=parts).batches() for r in range(world)]
    for batch, *held in zip(whole, *shares, strict=True):
        for i in range(parts):
            part, of_part = batch.part(i, parts), [share.part(i, parts) for share in held]
            assert torch.equal(part.images, torch.cat([share.images for share in of_part]))
            labels = [share.labels for share in of_part]
            assert torch.equal(part.labels, torch.cat(labels))  # type: ignore[arg-type]


def test_rows_limit_what_a_loader_reads(tiny: Path) -> None:
    split = Prepared(tiny).split("train")
    rows = np.arange(1, 64, 4)
    schedule = Schedule(len(rows), MethodSettings(epochs=1, batch_size=4), 0)
    some = Loader(split, schedule, torch.device("cpu"), "labels", rows=rows)
    expected = np.concatenate([rows[schedule.indices(step)] for step in range(4)])
    assert sorted(expected) == sorted(rows)
    images = torch.cat([batch.images for batch in some.batches()])
    assert torch.equal(images, to_float(torch.from_numpy(split.images[expected])))


# Landmarks in batches.

COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)


class Dots(Reader):
    """A red, a green and a blue dot on grey, each a landmark; red and green are a pair."""

    landmark_names = ("left", "right", "middle")
    landmark_swap: Sequence[int] = (1, 0, 2)

    def splits(self) -> dict[str, Sequence[str]]:
        return {"train": [str(i) for i in range(40)]}

    def sample(self, split: str, index: int) -> Sample:
        draw = np.random.default_rng(index)
        cells = draw.choice(16 * 16, 3, replace=False)
        points, visible = np.stack([cells % 16, cells // 16], 1), draw.random(3) < 0.7
        image = np.full((16, 16, 3), 90, np.uint8)
        for (x, y), colour, there in zip(points, COLOURS, visible, strict=True):
            if there:
                image[y, x] = colour
        return Sample(str(index), image, landmarks=points.astype(np.float32), visible=visible)


def dots(folder: Path, **changes: Any) -> Path:
    made = type("Dots", (Dots,), changes)(folder, DataSettings(size=16))
    prepare(made, "dots", folder / "dots", workers=1)
    return folder / "dots"


def landmark_loader(data: Path, flip: bool) -> Loader:
    prepared = Prepared(data)
    split = prepared.training_split("landmarks")
    schedule = Schedule(len(split), MethodSettings(epochs=3, batch_size=8, flip=flip), 0)
    swap = prepared.meta["landmark_swap"]
    return Loader(split, schedule, torch.device("cpu"), "landmarks", landmark_swap=swap)


@pytest.mark.parametrize("flip", [False, True])
def test_landmarks_lie_on_what_they_mark_mirrored_or_not(flip: bool, tmp_path: Path) -> None:
    data = dots(tmp_path)
    originals = to_float(torch.from_numpy(np.array(Prepared(data).split("train").images)))
    loader_ = landmark_loader(data, flip)
    mirrored = []
    for step, batch in enumerate(loader_.batches()):
        assert batch.labels is None
        assert batch.landmarks is not None
        assert batch.landmarks.dtype == torch.float32
        assert batch.landmarks.shape == (8, 3, 3)
        rows = loader_.schedule.indices(step)
        for image, original, landmarks in zip(
            batch.images, originals[rows], batch.landmarks, strict=True
        ):
            mirrored.append(not torch.equal(image, original))
            # In a mirrored image, the left one is what was the right one: the green dot.
            order = (1, 0, 2) if mirrored[-1] else (0, 1, 2)
            for (x, y, visible), colour in zip(
                landmarks.tolist(), COLOURS[list(order)], strict=True
            ):
                there = (image == torch.from_numpy(colour / 255).view(3, 1, 1)).all(0)
                assert there.sum() == visible
                assert not visible or there[int(y), int(x)]
    assert 0.3 < np.mean(mirrored) < 0.7 if flip else not any(mirrored)


class Silhouettes(Reader):
    """A white blot on black: the mask is what is white."""

    counts = {"train": 40}

    def splits(self) -> dict[str, Sequence[str]]:
        return {"train": [str(i) for i in range(40)]}

    def sample(self, split: str, index: int) -> Sample:
        mask = np.random.default_rng(index).random((16, 16)) < 0.3
        return Sample(
            str(index), np.where(mask, 255, 0).astype(np.uint8)[..., None].repeat(3, 2), mask=mask
        )


@pytest.mark.parametrize("flip", [False, True])
def test_masks_cover_the_foreground_mirrored_or_not(flip: bool, tmp_path: Path) -> None:
    reader = Silhouettes(tmp_path, DataSettings(size=16))
    prepare(reader, "silhouettes", tmp_path / "data", workers=1)
    split = Prepared(tmp_path / "data").training_split("mask")
    schedule = Schedule(len(split), MethodSettings(epochs=3, batch_size=8, flip=flip), 0)
    loader_ = Loader(split, schedule, torch.device("cpu"), "mask")
    for batch in loader_.batches():
        assert batch.masks is not None
        assert torch.equal(batch.masks, batch.images[:, 0])
        assert batch.masks.dtype == torch.float32
    whole = list(loader_.ordered())
    assert torch.equal(
        torch.cat([batch.images for batch in whole]),
        to_float(torch.from_numpy(np.array(split.images))),
    )
    assert all(torch.equal(b.masks, b.images[:, 0]) for b in whole if b.masks is not None)


@pytest.mark.parametrize("swap", [(0, 1, 2), (1, 0, 2), (1, 0, 3, 2, 4)])
def test_mirroring_landmarks_twice_changes_nothing(swap: Sequence[int]) -> None:
    landmarks = np.random.default_rng(0).uniform(0, 30, (4, len(swap), 3)).astype(np.float32)
    before = landmarks.copy()
    once = mirror_landmarks(landmarks, 31, swap)
    np.testing.assert_array_equal(landmarks, before)
    assert np.abs(once - before).max() > 1
    np.testing.assert_allclose(mirror_landmarks(once, 31, swap), before, atol=1e-5)


def test_landmarks_that_cannot_be_had(tiny: Path, tmp_path: Path) -> None:
    data = dots(tmp_path, landmark_swap=())
    with pytest.raises(BadInput, match=r"dots: .* how landmarks are mirrored .*`flip: false`"):
        landmark_loader(data, flip=True)
    assert next(landmark_loader(data, flip=False).batches()).landmarks is not None
    without = shutil.copytree(tiny, tmp_path / "plain")
    for path in without.glob("*.landmarks.npy"):
        path.unlink()
    with pytest.raises(BadInput, match=r"plain: split 'train' has no landmarks; use a data set"):
        Prepared(without).training_split("landmarks")
