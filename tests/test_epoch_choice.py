"""The epoch that validation images choose: by which error, with which weights, without a test."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import prepare_toy
from sklearn.linear_model import LinearRegression
from torch import Tensor

from partbench import config as grid
from partbench import method as methods
from partbench.data.loader import to_float
from partbench.data.prepared import Prepared
from partbench.epoch_choice import EpochChoice
from partbench.errors import BadInput
from partbench.model import load_model
from partbench.run import Run, Runtime
from partbench.train import Stopped, train

CPU = Runtime(device="cpu", threads=1, precision="32-true")
RUN = Run("keynet", "demo", "toy", 0)
EPOCHS = 5


def settings_of(name: str = "keynet", **changes: Any) -> Any:
    given = {"epochs": EPOCHS, "batch_size": 16, "images_per_epoch": 32} | changes
    return methods.resolve(methods.load(name), "demo", given, "test")


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_model(folder / "model.pt", "cpu")[1].state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Creatures with validation images, and without any test images."""
    folder = tmp_path_factory.mktemp("faces")
    data = prepare_toy(folder, val=60)
    for path in data.glob("test.*"):
        path.unlink()
    return data


@pytest.fixture(scope="module")
def last(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a choice."""
    out = tmp_path_factory.mktemp("last")
    train(RUN, settings_of(), CPU, faces, out)
    return out


def script(monkeypatch: pytest.MonkeyPatch, errors: list[float]) -> list[dict[str, Tensor]]:
    """Let looks find these errors, one after the other; return the weights that they see."""
    seen: list[dict[str, Tensor]] = []
    left = iter(errors)

    def error(_: EpochChoice, method: Any) -> float:
        seen.append({key: value.clone() for key, value in method.state_dict().items()})
        return next(left)

    monkeypatch.setattr(EpochChoice, "_error", error)
    return seen


def test_the_weights_of_the_best_epoch_are_the_result(
    faces: Path, last: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = script(monkeypatch, [3.0, 1.0, 2.0])
    train(RUN, settings_of(chosen_epoch="validation"), CPU, faces, tmp_path)
    assert len(seen) == 3  # after the epochs 2 and 4, and the last
    chosen = weights_of(tmp_path)
    assert equal(chosen, seen[1])
    assert not equal(chosen, seen[2])
    # Looking changes nothing of the training.
    assert equal(weights_of(last), seen[2])
    record = json.loads((tmp_path / "train.json").read_text())["chosen"]
    assert record["epoch"] == 4
    assert record["errors, % of image side"] == {"2": 3.0, "4": 1.0, "5": 2.0}
    assert json.loads((last / "train.json").read_text())["chosen"] == {}


def test_what_follows_the_training_sees_the_chosen_weights_and_counts(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `finish` fits depends on the weights that are kept, and is kept with them."""
    seen = script(monkeypatch, [3.0, 1.0, 2.0])
    given: list[dict[str, Tensor]] = []
    changed: list[str] = []

    def finish(self: Any, _: Any) -> None:
        given.append({key: value.clone() for key, value in self.state_dict().items()})
        with torch.no_grad():
            name, parameter = next(self.named_parameters())
            parameter.fill_(0.5)
        changed.append(name)
        time.sleep(0.5)

    monkeypatch.setattr(methods.load("keynet"), "finish", finish)
    train(RUN, settings_of(chosen_epoch="validation"), CPU, faces, tmp_path)
    (before,) = given
    assert equal(before, seen[1])
    kept = weights_of(tmp_path)
    assert [key for key in kept if not torch.equal(kept[key], before[key])] == changed
    record = json.loads((tmp_path / "train.json").read_text())
    steps = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["seconds"]
    assert record["seconds"] >= steps + 0.5
    assert record["images_per_second"] == pytest.approx(record["images"] / steps, rel=0.02)


def test_of_equal_epochs_the_first_counts_and_broken_ones_do_not(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = script(monkeypatch, [float("inf"), 2.0, 2.0, 2.5, 2.0])
    train(RUN, settings_of(chosen_epoch="validation", look_every=1), CPU, faces, tmp_path)
    assert equal(weights_of(tmp_path), seen[1])


@pytest.mark.parametrize("step", [3, 8, 9])
def test_a_stopped_choice_resumes(
    step: int, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(chosen_epoch="validation")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(RUN, settings, CPU, faces, whole)
    signalled(monkeypatch, step)
    with pytest.raises(Stopped, match=f"step {step}"):
        train(RUN, settings, CPU, faces, resumed)
    monkeypatch.undo()
    train(RUN, settings, CPU, faces, resumed)
    assert (whole / "model.pt").read_bytes() == (resumed / "model.pt").read_bytes()
    records = [json.loads((f / "train.json").read_text())["chosen"] for f in (whole, resumed)]
    assert records[0] == records[1]


def signalled(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send the signal to stop in a step, counted from 1."""
    cls = methods.load("keynet")
    after: Any = cls.after_step

    def after_step(self: Any, finished: int) -> None:
        after(self, finished)
        if finished == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cls, "after_step", after_step)


class Spots:
    """Keypoints that are the brightest places of the first and the last channel."""

    def eval(self) -> "Spots":
        return self

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def keypoints(self, images: Tensor) -> Any:
        side = images.shape[-1]
        flat = images[:, [0, 2]].flatten(2).argmax(2)
        points = torch.stack([flat % side, flat // side], -1) / side

        class Found:
            pass

        Found.points = points  # type: ignore[attr-defined]
        return Found


def test_the_error_is_that_of_scikit_learn_on_the_last_tenth(faces: Path) -> None:
    data = Prepared(faces)
    split = data.split("val")
    choice = EpochChoice(data, torch.device("cpu"))
    choice.look(Spots(), 1)  # type: ignore[arg-type]
    images = to_float(torch.from_numpy(np.array(split.images)))
    x = Spots().keypoints(images).points.flatten(1).double().numpy()
    y, visible = np.array(split.annotation("landmarks")), np.array(split.annotation("visible"))
    predicted = np.empty((6, y.shape[1], 2))
    for landmark in range(y.shape[1]):
        rows = np.flatnonzero(visible[:54, landmark])
        fitted = LinearRegression().fit(x[rows], y[rows, landmark])
        predicted[:, landmark] = fitted.predict(x[54:])
    distance = 100 * np.hypot(*np.moveaxis(predicted - y[54:], -1, 0)) / 32
    by_image = [d[v].mean() for d, v in zip(distance, visible[54:], strict=True) if v.any()]
    assert choice.errors["1"] == pytest.approx(np.mean(by_image), rel=1e-6)


@pytest.mark.parametrize("name", ["dlp", "keynet", "zhang"])
def test_each_method_of_keypoints_can_choose(name: str, faces: Path, tmp_path: Path) -> None:
    settings = settings_of(name, chosen_epoch="validation", epochs=2, look_every=1)
    train(Run(name, "demo", "toy", 0), settings, CPU, faces, tmp_path)
    record = json.loads((tmp_path / "train.json").read_text())["chosen"]
    errors = record["errors, % of image side"]
    assert set(errors) == {"1", "2"}
    assert all(0 < error < 40 for error in errors.values())
    assert errors[str(record["epoch"])] == min(errors.values())
    validated = methods.resolve(methods.load(name), "k30+validated", {}, "test")
    assert methods.chooses_epoch(validated)
    assert not methods.chooses_epoch(methods.resolve(methods.load(name), "k30", {}, "test"))
    untrained = methods.resolve(methods.load(name), "k30+validated+untrained", {}, "test")
    assert not methods.chooses_epoch(untrained)


def test_data_that_cannot_choose(tmp_path: Path) -> None:
    settings = settings_of(chosen_epoch="validation")
    data = prepare_toy(tmp_path, val=1)
    with pytest.raises(BadInput, match=r"split 'val', all but .* there are none"):
        train(RUN, settings, CPU, data, tmp_path / "run")
    assert not (tmp_path / "run" / "model.pt").exists()


@pytest.mark.parametrize(
    ("data", "method", "message"),
    [
        ({"reader": "toy"}, "keynet", ""),
        ({"reader": "celeba", "landmarks": True}, "keynet", ""),
        ({"reader": "celeba"}, "keynet", "needs landmarks, .*`landmarks: true` of celeba"),
        ({"reader": "toy", "kind": "clips"}, "dlp_video", "is by keypoints, and dlp_video offers"),
        ({"reader": "shapes"}, "dlp", "needs landmarks"),
    ],
)
def test_a_configuration_that_cannot_choose_is_refused(
    data: dict[str, Any], method: str, message: str
) -> None:
    values = {
        "name": "a",
        "seeds": [0],
        "data": {"some": data, "toy": {"reader": "toy"}},
        "settings": {method: {"chosen_epoch": "validation"}},
        "runs": [
            {"train": "some", "methods": {method: ["demo"]}, "probes": {"landmarks": ["toy"]}}
        ],
    }
    if not message:
        grid.check(values, "test")
        return
    with pytest.raises(BadInput, match=message):
        grid.check(values, "test")
