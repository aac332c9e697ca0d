"""What a user gets wrong, and what a machine runs out of: one clear message, nothing lost."""

import json
import os
import pickle
import subprocess
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import Disk, prepare_toy

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


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "meta.json").unlink(), r"meta.json cannot be read"),
        (lambda d: (d / "meta.json").write_text("{"), r"meta.json is not json .*; delete it"),
        (
            lambda d: write_json(d / "meta.json", read_json(d / "meta.json") | {"format": 99}),
            r"data was prepared by another version \(format 99, .*prepare again",
        ),
        (
            lambda d: (d / "train.images.npy").write_bytes(b"\x93NUMPY"),
            r"train.images.npy: .*; delete .*data and prepare again",
        ),
        (lambda d: (d / "train.images.npy").unlink(), r"train.images.npy: .*prepare again"),
        (
            lambda d: write_json(d / "meta.json", read_json(d / "meta.json") | {"splits": {}}),
            r"no split 'train', only \[\]",
        ),
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
    with pytest.raises(BadInput, match=r"train.images.npy: .*prepare again"):
        train_vae(data, tmp_path / "run")


def test_evaluation_data_of_another_size(tiny: Path, tmp_path: Path) -> None:
    model = train_vae(tiny, tmp_path / "run") / "model.pt"
    other = prepare_toy(tmp_path, size=40, train=4, val=4, test=4)
    with pytest.raises(BadInput, match=r"trained at 32 px, .* prepared at 40 px; give both"):
        extract(model, other, ["features"], tmp_path / "outputs", tmp_path / "p.npz", "cpu", 1)


# Configurations.

GOOD: dict[str, Any] = {
    "name": "test",
    "seeds": [0],
    "data": {"toy": {"reader": "toy", "size": 32}},
    "runs": [
        {"train": "toy", "methods": {"patchvae": ["demo+lw"]}, "probes": {"linear": ["toy"]}},
    ],
}


def write_config(tmp_path: Path, values: Any) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def changed(*keys: str | int, value: Any) -> dict[str, Any]:
    """Return the good configuration with one value set."""
    values = deepcopy(GOOD)
    place: Any = values
    for key in keys[:-1]:
        place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
    place[keys[-1]] = value
    return values


def said_by_plan(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the message of `partbench plan`, which must fail."""
    assert cli.main(["plan", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("partbench: ")
    return captured.err


def test_a_good_configuration_is_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(write_config(tmp_path, GOOD))]) == 0
    assert "patchvae demo+lw on toy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (changed("seed", value=[0]), ["unknown key 'seed'", "did you mean 'seeds'?"]),
        (changed("runtime", value={"devise": "cpu"}), ["'runtime.devise'", "mean 'device'?"]),
        (changed("runs", 0, "method", value={}), ["'runs.0.method'", "did you mean 'methods'?"]),
        (changed("data", "toy", "sise", value=9), ["data.toy", "'sise'", "did you mean 'size'?"]),
        (changed("data", "toy", "reader", value="toi"), ["data.toy.reader", "'toi'", "'toy'?"]),
        (changed("data", "toy", value={"size": 32}), ["data.toy has no key 'reader'"]),
        (changed("probes", "linear", "css", value=[1.0]), ["probes.linear", "'css'", "'cs'?"]),
        (changed("probes", "liner", value={}), ["probes", "no 'liner'", "mean 'linear'?"]),
        (changed("runs", 0, "probes", value={"liner": ["toy"]}), ["'liner'", "'linear'?"]),
        (
            changed("runs", 0, "methods", value={"patchvea": ["demo"]}),
            ["runs[0].methods.patchvea", "no 'patchvea'", "did you mean 'patchvae'?"],
        ),
        (
            changed("runs", 0, "methods", value={"patchvae": ["dmeo"]}),
            ["runs[0].methods.patchvae", "no variant 'dmeo'", "did you mean 'demo'?"],
        ),
        (
            changed("settings", "patchvae", value={"part": 8}),
            ["patchvae", "unknown key 'part'", "did you mean 'parts'?"],
        ),
        (
            changed("settings", "vae", value={"bta": 8}),  # even where no run uses it
            ["settings.vae", "unknown key 'bta'", "did you mean 'beta'?"],
        ),
        (changed("settings", "vea", value={}), ["settings", "no 'vea'", "did you mean 'vae'?"]),
        (changed("runs", 0, "train", value="toyy"), ["runs[0].train", "'toyy'", "'toy'?"]),
        (
            changed("runs", 0, "probes", value={"linear": ["tooy"]}),
            ["runs[0].probes.linear", "no data set 'tooy'", "did you mean 'toy'?"],
        ),
        # Right keys, wrong values.
        (changed("seeds", value=3), ["'seeds' is 3", "valid list"]),
        (changed("seeds", value=[]), ["'seeds' is []", "at least 1 item"]),
        (changed("seeds", value=["one"]), ["'seeds.0' is 'one'", "valid integer"]),
        (changed("seeds", value=[-1]), ["'seeds.0' is -1", "greater than or equal to 0"]),
        (changed("name", value="a b"), ["'name' is 'a b'", "pattern"]),
        (changed("runs", value=[]), ["'runs' is []", "at least 1 item"]),
        (changed("runtime", value={"device": "gpu"}), ["'runtime.device' is 'gpu'", "'cuda'"]),
        (changed("data", "toy", "size", value="big"), ["data.toy", "'size' is 'big'", "integer"]),
        (changed("data", "toy", "size", value=4), ["'size' is 4", "greater than or equal to 8"]),
        (changed("data", "toy", value=None), ["'data.toy' is None", "dictionary"]),
        (
            changed("settings", "patchvae", value={"learning_rate": float("nan")}),
            ["'learning_rate' is nan", "finite"],
        ),
        (
            changed("settings", "patchvae", value={"epochs": -1}),
            ["'epochs' is -1", "greater than or equal to 0"],
        ),
        ({"name": "x"}, ["'seeds'", "Field required", "'data'", "'runs'"]),
        ({1: 2} | GOOD, ["mine.yaml", "1"]),
    ],
)
def test_a_typo_or_a_wrong_value_names_the_file_the_key_and_what_is_wanted(
    values: Any, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, values)
    message = said_by_plan(path, capsys)
    for part in (str(path), *parts):
        assert part in message


def test_every_fault_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = changed("seed", value=[0]) | {"comparable": "perhaps"}
    message = said_by_plan(write_config(tmp_path, values), capsys)
    assert "unknown key 'seed'" in message
    assert "'comparable' is 'perhaps'" in message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"name: [unclosed", "not valid YAML"),
        (b"- a\n- list\n", "must hold keys and values"),
        (b"", "must hold keys and values"),
        (b"name: \xff\xfe", "not valid YAML"),
        (b"name: !!python/object/apply:os.system ['touch crater']", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration(
    content: bytes,
    part: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    message = said_by_plan(path, capsys)
    assert str(path) in message
    assert part in message
    assert not Path("crater").exists()


def test_a_configuration_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = said_by_plan(tmp_path / "absent.yaml", capsys)
    assert "absent.yaml: cannot be read (No such file" in message
    assert "cannot be read (Is a directory)" in said_by_plan(tmp_path, capsys)


# The command line.


def test_the_process_ends_with_one_message_and_status_1(tmp_path: Path, python: list[str]) -> None:
    path = write_config(tmp_path, changed("seed", value=[0]))
    done = subprocess.run([*python, "plan", str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"partbench: {path}: unknown key 'seed'")
    assert "Traceback" not in done.stderr


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
        (["--run", "vae/paper/toy/0", "--settings", "{}"], "meta.json cannot be read"),
    ],
)
def test_train_with_wrong_arguments(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert cli.main(["train", *arguments, *places]) == 1
    assert message in capsys.readouterr().err


def write_features(path: Path, n: int, seed: int, **changes: Any) -> Path:
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    features = draw.normal(size=(n, 3)) + 4 * labels[:, None]
    np.savez(path, **{"features": features, "labels": labels} | changes)
    return path


def test_score_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_file = write_features(tmp_path / "train.npz", 60, 0)
    test_file = write_features(tmp_path / "test.npz", 40, 1)
    assert cli.main(["score", "linear", str(train_file), str(test_file)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert any(value > 90 for value in numbers(result))


def numbers(value: Any) -> Iterator[float]:
    """Yield every number inside a json value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float):
        yield value


def test_score_with_wrong_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_features(tmp_path / "good.npz", 60, 0)
    crater = tmp_path / "crater"
    bomb = np.empty(60, object)
    bomb[:] = [Bomb(crater)] * 60
    (tmp_path / "text.npz").write_text("features")
    wrong = {
        write_features(tmp_path / "objects.npz", 60, 0, labels=bomb): "labels",
        write_features(tmp_path / "short.npz", 60, 0, labels=np.arange(5)): "labels",
        tmp_path / "text.npz": "npz",
        tmp_path / "absent.npz": "absent.npz",
    }
    for path, part in wrong.items():
        for files in ([path, good], [good, path]):
            assert cli.main(["score", "linear", *map(str, files)]) == 1
            message = capsys.readouterr().err
            assert str(path) in message
            assert part in message
    assert not crater.exists()
    nan = write_features(tmp_path / "nan.npz", 60, 0, features=np.full((60, 3), np.nan))
    for files in ([nan, good], [good, nan]):
        assert cli.main(["score", "linear", *map(str, files)]) == 1
        assert f"{nan}: features: row 0" in capsys.readouterr().err
    assert cli.main(["score", "linear", str(good)]) == 1
    assert "two files: TRAIN.npz TEST.npz" in capsys.readouterr().err
    settings = ["--settings", '{"css": [1]}']
    assert cli.main(["score", "linear", str(good), str(good), *settings]) == 1
    assert "did you mean 'cs'?" in capsys.readouterr().err


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_the_bomb_goes_off(tmp_path: Path) -> None:
    """Else the tests that it is not set off would prove nothing."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "crater")))
    assert (tmp_path / "crater").is_dir()
