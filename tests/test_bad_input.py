"""What a user gets wrong, and what a machine runs out of: one clear message, nothing lost."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Disk, prepare_toy
from sealed import reseal

from partbench import cli
from partbench.errors import BadInput
from partbench.extract import extract
from partbench.files import atomic, locked, read_json, write_json
from partbench.method import load, resolve
from partbench.probe import Metric, Probe, Result, Setting, measure
from partbench.run import Run, Runtime
from partbench.settings import Settings
from partbench.train import train

MIB = 2**20
RUN = Run("vae", "paper", "toy", 0)
CPU = Runtime(device="cpu", threads=1)


def train_vae(data: Path, out: Path, **runtime: Any) -> Path:
    values = {"batch_size": 16, "epochs": 2, "encoder_width": 8, "decoder_width": 8}
    settings = resolve(load("vae"), "demo", values, "test")
    train(RUN, settings, Runtime(**dict(CPU) | runtime), data, out)
    return out


# Disks.

FULL = r"(no space left while|part of the way, most likely because the disk is full).*free space"


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(disk: Disk) -> None:
    write_json(disk.path / "a.json", {"old": 1})
    disk.fill(leave=8192)
    with pytest.raises(BadInput, match=rf"no space left while writing {disk.path}/a.json"):
        write_json(disk.path / "a.json", {"new": "x" * MIB})
    assert read_json(disk.path / "a.json") == {"old": 1}
    assert sorted(p.name for p in disk.path.iterdir()) == ["a.json", "filler"]


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "file") as aside:
        aside.write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []


def test_a_training_goes_on_once_there_is_space(tiny: Path, tmp_path: Path, disk: Disk) -> None:
    whole = train_vae(tiny, tmp_path / "whole")
    out = disk.path / "run"
    disk.fill(leave=256 * 1024)  # for the log, but not for a checkpoint
    with pytest.raises(BadInput, match=FULL):
        train_vae(tiny, out, checkpoint_minutes=1e-9)
    disk.clear()
    train_vae(tiny, out, checkpoint_minutes=1e-9)
    states = [torch.load(o / "model.pt", weights_only=True)["state"] for o in (whole, out)]
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(tiny: Path, disk: Disk) -> None:
    out = disk.path / "run"
    with pytest.raises(BadInput, match=FULL):
        train_vae_until_full(tiny, out, disk)
    before = torch.load(out / "checkpoint.pt", weights_only=True)
    assert before["step"] == 3
    assert not [p.name for p in out.iterdir() if p.name.startswith(".checkpoint")]
    disk.clear()
    train_vae(tiny, out)
    assert json.loads((out / "log.jsonl").read_text().splitlines()[2]) == json.loads(
        before["lines"][2]
    )


def train_vae_until_full(data: Path, out: Path, disk: Disk) -> None:
    """Train, and fill the disk after the third step."""
    with pytest.MonkeyPatch.context() as patch:
        after_step = load("vae").after_step

        def fill(method: Any, step: int) -> None:
            after_step(method, step)
            if step == 4:
                disk.fill(leave=256 * 1024)

        patch.setattr(load("vae"), "after_step", fill)
        train_vae(data, out, checkpoint_minutes=1e-9)


def test_a_full_disk_while_preparing(tmp_path: Path, disk: Disk) -> None:
    disk.fill(leave=64 * 1024)
    with pytest.raises(BadInput, match=FULL):
        prepare_toy(disk.path)
    assert not (disk.path / "toy").exists()
    disk.clear()
    assert (prepare_toy(disk.path) / "meta.json").exists()


def test_a_full_disk_while_extracting(tiny: Path, tmp_path: Path, disk: Disk) -> None:
    model = train_vae(tiny, tmp_path / "run") / "model.pt"
    outputs, pictures = disk.path / "outputs", disk.path / "pictures.npz"
    disk.fill(leave=32 * 1024)
    with pytest.raises(BadInput, match=FULL):
        extract(model, tiny, ["features"], outputs, pictures, "cpu", 1)
    assert not outputs.exists()
    disk.clear()
    extract(model, tiny, ["features"], outputs, pictures, "cpu", 1)
    assert (outputs / "test.features.npy").exists()


class Constant(Probe):
    """Says 1 and keeps a table that needs space."""

    Settings = Settings
    version = 1

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        table = pd.DataFrame({"noise": np.random.default_rng(0).random(100_000)})
        return Result([Metric("one", Setting(), 1.0, "", "higher", 1)], table, {})


def test_a_full_disk_while_writing_a_cell(tiny: Path, disk: Disk) -> None:
    out = disk.path / "constant.json"
    disk.fill(leave=64 * 1024)
    with pytest.raises(BadInput, match=FULL):
        measure(Constant(), RUN, tiny, tiny, Settings(), CPU, out)
    assert sorted(p.name for p in disk.path.iterdir()) == ["filler"]


class Worded(Constant):
    """Gives its number a setting in words."""

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        result = super().run(source, data, settings, seed, device)
        return result._replace(metrics=[result.metrics[0]._replace(setting="frozen")])  # type: ignore[arg-type]


def test_a_setting_of_another_type_than_the_probe_s(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "worded.json"
    message = r"the probe worded gives one the setting 'frozen', which is no Setting; make it one"
    with pytest.raises(BadInput, match=message):
        measure(Worded(), RUN, tiny, tiny, Settings(), CPU, out)
    assert not out.exists()


@pytest.mark.parametrize("stage", ["prepare", "train", "extract", "probe"])
def test_a_read_only_results_folder(stage: str, tiny: Path, tmp_path: Path, disk: Disk) -> None:
    model = train_vae(tiny, tmp_path / "run") / "model.pt"
    out = disk.path / "out"
    disk.make_read_only()
    stages: dict[str, Callable[[], Any]] = {
        "prepare": lambda: prepare_toy(disk.path),
        "train": lambda: train_vae(tiny, out),
        "extract": lambda: extract(model, tiny, ["features"], out, disk.path / "p.npz", "cpu", 1),
        "probe": lambda: measure(Constant(), RUN, tiny, tiny, Settings(), CPU, out),
    }
    with pytest.raises(BadInput, match=r"cannot be written \(Read-only .*make its folder writable"):
        stages[stage]()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(BadInput, match="cannot be written"):
            write_json(tmp_path / "a.json", 1)
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_is_held_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partbench.files.PATIENCE", 0)
    with (
        locked(tmp_path),
        pytest.raises(BadInput, match="is in use by another run"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


# Prepared data.


def copy_of(tiny: Path, tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    for path in tiny.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    return data


def flip(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "meta.json").unlink(), r"meta.json: cannot be read"),
        (lambda d: (d / "meta.json").write_text("{"), r"meta.json is damaged, .*Delete .*meta"),
        (lambda d: flip(d / "meta.json"), r"meta.json is damaged, .*Delete .*meta.json and run"),
        (lambda d: flip(d / "train.images.npy"), r"images.npy is damaged, .*Delete .*meta.json"),
        (
            lambda d: reseal(d, format=99),
            r"data was prepared by another version \(format 99, .*prepare again",
        ),
        (
            lambda d: (d / "train.images.npy").write_bytes(b"\x93NUMPY"),
            r"train.images.npy is damaged, .*Delete .*meta.json and run",
        ),
        (
            lambda d: (d / "train.images.npy").unlink(),
            r"train.images.npy .*No such file.*Delete .*meta.json and run",
        ),
        (lambda d: reseal(d, splits={}), r"no split 'train', only \[\]"),
    ],
)
def test_prepared_data_that_are_damaged(
    damage: Callable[[Path], Any], message: str, tiny: Path, tmp_path: Path
) -> None:
    data = copy_of(tiny, tmp_path)
    damage(data)
    with pytest.raises(BadInput, match=message):
        train_vae(data, tmp_path / "run")


def test_an_array_of_objects_is_refused(tiny: Path, tmp_path: Path) -> None:
    data = copy_of(tiny, tmp_path)
    np.save(data / "train.images.npy", np.array([{}]), allow_pickle=True)
    reseal(data)
    with pytest.raises(BadInput, match=r"train.images.npy is damaged.*Python objects"):
        train_vae(data, tmp_path / "run")


def test_evaluation_data_of_another_size(tiny: Path, tmp_path: Path) -> None:
    model = train_vae(tiny, tmp_path / "run") / "model.pt"
    other = prepare_toy(tmp_path, size=40, train=4, val=4, test=4)
    with pytest.raises(BadInput, match=r"trained at 32 px, .* prepared at 40 px; give both"):
        extract(model, other, ["features"], tmp_path / "outputs", tmp_path / "p.npz", "cpu", 1)


# The command line.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "vae/paper/toy", "--settings", "{}"], "must be method/variant/train/seed"),
        (["--run", "vae/paper/toy/x", "--settings", "{}"], "must be method/variant/train/seed"),
        (["--run", "vea/paper/toy/0", "--settings", "{}"], "did you mean 'vae'?"),
        (["--run", "vae/paper/toy/0", "--settings", "{"], "--settings is not json"),
        (["--run", "vae/paper/toy/0", "--settings", "[]"], "--settings must be a json object"),
        (["--run", "vae/paper/toy/0", "--settings", '{"bta": 1}'], "did you mean 'beta'?"),
        (
            ["--run", "vae/paper/toy/0", "--settings", "{}", "--runtime", '{"thread": 1}'],
            "did you mean 'threads'?",
        ),
        (["--run", "vae/paper/toy/0", "--settings", "{}"], "meta.json: cannot be read"),
    ],
)
def test_train_with_wrong_arguments(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert cli.main(["train", *arguments, *places]) == 1
    assert message in capsys.readouterr().err
