"""Several processes give what one gives, and none waits for another that has gone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkout import REPOSITORY
from conftest import TINY, draw_neighbours, prepare_toy
from sealed import reseal
from slurm_cluster import wait_for
from test_training import SMALL
from torch import nn

from partbench import launch, plugins, processes
from partbench import method as methods
from partbench.config import check
from partbench.errors import BadInput
from partbench.integrity import read_record
from partbench.method import Method
from partbench.nn import shared_batch
from partbench.run import Runtime

STEPS = 20
IMAGES = {"epochs": 5, "batch_size": 8, "images_per_epoch": 32}
SPECIAL: dict[str, dict[str, Any]] = {
    "lorbms": SMALL["lorbms"] | {"batch_size": 16, "images_per_epoch": None},
    # Three updates of a step, of pairs, share a batch.
    "mix": {"epochs": 10, "batch_size": 24, "images_per_epoch": None},
    # With its own settings the last epochs amplify rounding tenfold a step, in one process too.
    "dlp_video": {"epochs": 5, "batch_size": 4, "dynamics_learning_rate": 1e-5, "unroll": 2},
}
MORE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("dlp", "demo", {"objects": False}),
    ("patchvae", "demo+lw", {"flip": True}),
    ("fv_vae", "demo", {"dropout": 0.5}),
    ("supervised_trunk", "demo", {"crops": "window", "window": 24}),
    ("unsup_parts", "demo", {"between": "l2"}),
)
"""Settings that draw or compare what the methods' demos do not."""
VAE = {"method": "vae", "variant": "demo", "changes": {**IMAGES, **SMALL["vae"], "flip": True}}
LONG = VAE | {"changes": {**IMAGES, **SMALL["vae"], "epochs": 15, "learning_rate": 1e-3}}
"""60 steps."""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def job(name: str, variant: str = "", changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a training of some 20 steps of a method, or none of one that has none."""
    cls = methods.load(name)
    variant = variant or ("demo" if "demo" in cls.REDUCED else "paper")
    trains = methods.resolve(cls, variant, {}, "test").epochs > 0
    of = {**(IMAGES if cls.reads != "clips" else {}), **SPECIAL.get(name, {}), **(changes or {})}
    return {"method": name, "variant": variant, "changes": of if trains else {}}


JOBS = {name: job(name) for name in plugins.names("methods", Method)} | {
    f"{name}-{'-'.join(changes)}": job(name, variant, changes) for name, variant, changes in MORE
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of prepared data: clips, and images that have all that a method is told.

    AlexNet, which learns clusters, needs larger ones.
    """
    folder, few = tmp_path_factory.mktemp("data"), {"train": 16, "val": 4, "test": 8}
    images, clusters = prepare_toy(folder / "32"), prepare_toy(folder / "48", size=48)
    draw_neighbours(images, TINY)
    for split in TINY:
        labels = np.load(images / f"{split}.labels.npy")
        np.save(clusters / f"{split}.clusters.npy", labels)
        np.save(images / f"{split}.attributes.npy", labels[:, None] > np.arange(3))
    return {
        "images": str(reseal(images, attribute_names=["a", "b", "c"])),
        "clusters": str(reseal(clusters, clusters={"clusters": 8})),
        "clips": str(prepare_toy(folder / "clips", kind="clips", **few)),
    }


def start(
    jobs: Sequence[Mapping[str, Any]], folder: Path, world: int
) -> tuple[list[subprocess.Popen[bytes]], list[Path]]:
    """Start processes that run trainings together; return them, and where they say how it ended."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(list(jobs)))
    environment = ENVIRONMENT | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ends = [folder / f"ends.{rank}.json" for rank in range(world)]
    here = [sys.executable, str(REPOSITORY / "tests" / "two_processes.py")]
    return [
        subprocess.Popen(
            [*here, str(folder / "jobs.json"), str(end)],
            env=environment
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)},
            stderr=(folder / f"log.{rank}").open("w"),
        )
        for rank, end in enumerate(ends)
    ], ends


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("", 0))
        return str(free.getsockname()[1])


def ran(jobs: Sequence[Mapping[str, Any]], folder: Path, world: int) -> list[list[str]]:
    """Run trainings in some processes; return how each ended in each of them."""
    started, ends = start(jobs, folder, world)
    try:
        for rank, process in enumerate(started):
            assert process.wait(600) == 0, (folder / f"log.{rank}").read_text()[-3000:]
    finally:
        for process in started:
            process.kill()
    return [json.loads(end.read_text()) for end in ends]


def at(out: Path, job: Mapping[str, Any], data: Mapping[str, str], **mishap: int) -> dict[str, Any]:
    """Return a training with its folder, its data, and what is to happen to it."""
    cls = methods.load(job["method"])
    where = "clips" if cls.reads == "clips" else cls.learns_from
    return {**job, "data": data.get(where, data["images"]), "out": str(out), **mishap}


def state(run: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(run / "model.pt", weights_only=True)["state"])


def log(run: Path) -> list[dict[str, float]]:
    lines = (run / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def assert_same(one: Path, two: Path, tolerance: float = 1e-5) -> None:
    """Fail unless two runs ended with the same parameters and logs."""
    first, second = state(one), state(two)
    assert list(first) == list(second)
    for key, value in first.items():
        scale = max(value.double().abs().max().item(), 1.0) if value.numel() else 1.0
        torch.testing.assert_close(
            second[key], value, rtol=0, atol=tolerance * scale, msg=lambda m, k=key: f"{k}: {m}"
        )
    for a, b in zip(log(one), log(two), strict=True):
        assert a == pytest.approx(b, rel=100 * tolerance, abs=1e-9)


# The same result.


def test_two_processes_give_what_one_gives(data: dict[str, str], tmp_path: Path) -> None:
    """For every method. It is one test, so that processes start for all of them together."""
    one, two = (
        [at(tmp_path / world / name, job, data) for name, job in JOBS.items()]
        for world in ("one", "two")
    )
    ends = [*ran(one, tmp_path / "alone", 1), *ran(two, tmp_path / "pair", 2)]
    faults = {}
    for name, job, *ended in zip(JOBS, JOBS.values(), *ends, strict=True):
        try:
            assert ended == ["done"] * 3
            assert_same(tmp_path / "one" / name, tmp_path / "two" / name)
            steps = read_record(tmp_path / "two" / name / "train.json")["steps"]
            assert steps == (STEPS if job["changes"] else 0)
            assert methods.load(job["method"]).several_devices or not steps
        except AssertionError as error:
            faults[name] = str(error)
    assert faults == {}


class Mishaps:
    """Trainings in two processes that something happens to, in the second of them alone."""

    def __init__(self, data: Mapping[str, str], folder: Path) -> None:
        self.folder = folder
        jobs = {
            "stopped": at(folder / "stopped", VAE, data, stop=7),
            "resumed": at(folder / "stopped", VAE, data),
            "moved": at(folder / "moved", VAE, data, stop=11),
            "whole": at(folder / "whole", VAE, data),
            "nan": at(folder / "nan", VAE, data, nan=7),
            "long": at(folder / "long", LONG, data, float32=1),
        }
        ends = ran([*jobs.values()], folder / "pair", 2)
        self.ended = dict(zip(jobs, zip(*ends, strict=True), strict=True))
        """Name -> how it ended in each of the two."""
        moved = [at(folder / "moved", VAE, data)]
        assert ran(moved, folder / "alone", 1) == [["done"]]


@pytest.fixture(scope="module")
def mishaps(data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Mishaps:
    return Mishaps(data, tmp_path_factory.mktemp("mishaps"))


def test_a_signal_to_one_process_saves_the_run_of_all(mishaps: Mishaps) -> None:
    for end in mishaps.ended["stopped"]:
        assert end.startswith("Stopped: ")
        assert "stopped at step 7;" in end
    assert mishaps.ended["resumed"] == ("done", "done")
    assert_same(mishaps.folder / "whole", mishaps.folder / "stopped", 1e-15)


def test_a_run_of_two_processes_goes_on_in_one(mishaps: Mishaps) -> None:
    assert all("stopped at step 11;" in end for end in mishaps.ended["moved"])
    assert_same(mishaps.folder / "whole", mishaps.folder / "moved")


def test_a_nan_in_one_process_is_an_error_in_all(mishaps: Mishaps) -> None:
    assert all("all/loss is nan near step 8" in end for end in mishaps.ended["nan"])
    assert not (mishaps.folder / "nan" / "model.pt").exists()
    assert len(log(mishaps.folder / "nan")) == 7


# The end of one process.


def until_step(out: Path, step: int) -> None:
    """Wait until a run has logged a step."""
    log = out / "log.jsonl"
    wait_for(f"step {step}", lambda: log.exists() and log.read_text().count("\n") >= step)


def children(process: subprocess.Popen[str]) -> list[int]:
    """Return the processes that a process has started, in this order."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return sorted(map(int, text.split()))


def test_a_killed_process_ends_the_run_which_the_same_command_resumes(
    data: dict[str, str], mishaps: Mishaps, tmp_path: Path
) -> None:
    settings = methods.resolve(methods.load("vae"), "demo", LONG["changes"], "test")
    runtime = {"device": "cpu", "devices": 2, "threads": 1, "precision": "32-true"}
    runtime["checkpoint_minutes"] = 1e-9
    command = [sys.executable, "-m", "partbench", "train", "--run", "vae/demo/toy/0"]
    command += ["--settings", settings.model_dump_json(), "--runtime", json.dumps(runtime)]
    command += ["--data", data["images"], "--out", str(tmp_path), "--code", "c"]

    def run() -> subprocess.Popen[str]:
        return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)

    killed = run()
    until_step(tmp_path, 5)
    of_run = children(killed)
    struck = time.monotonic()
    os.kill(of_run[1], signal.SIGKILL)
    text = killed.communicate(timeout=60)[1]
    assert killed.returncode == 1
    assert time.monotonic() - struck < 60
    assert text.splitlines()[-1] == (
        "partbench: process 1 of the 2 of this run was ended by SIGKILL, and the others with it; "
        "run the same command again to resume"
    )
    assert not any(Path(f"/proc/{pid}").exists() for pid in of_run)
    assert not (tmp_path / "model.pt").exists()
    resumed = run()
    assert resumed.wait(120) == 0
    second = state(tmp_path)
    undisturbed = state(mishaps.folder / "long")
    assert [key for key, value in undisturbed.items() if not torch.equal(value, second[key])] == []


# Starting.

TELL = """
import os, sys
from partbench.launch import is_placed
from partbench.run import Runtime
assert is_placed(Runtime(device="cpu", devices=2, nodes=int(sys.argv[2])))
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
with open(f"{sys.argv[1]}/{os.environ['RANK']}", "w") as file:
    file.write(" ".join(os.environ[name] for name in names))
"""
SRUN = f"""#!{sys.executable}
import os, subprocess, sys
given = dict(word[2:].partition("=")[::2] for word in sys.argv[1:] if word.startswith("--n"))
command = sys.argv[sys.argv.index({sys.executable!r}):]
nodes, each = int(given["nodes"]), int(given["ntasks-per-node"])
assert int(given["ntasks"]) == nodes * each
tasks = [
    subprocess.Popen(command, env=os.environ | {{
        "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task % each)}})
    for task in range(nodes * each)
]
sys.exit(max(task.wait() for task in tasks))
"""
"""A stand-in for srun whose nodes are all this machine."""


@pytest.mark.parametrize("nodes", [1, 2])
def test_each_process_learns_its_place(
    nodes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(SRUN)
    srun.chmod(0o755)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    (tmp_path / "told").mkdir()
    command = [sys.executable, "-c", TELL, str(tmp_path / "told"), str(nodes)]
    assert launch.launch(Runtime(device="cpu", devices=2, nodes=nodes), command) == 0
    world = 2 * nodes
    told = [(tmp_path / "told" / str(rank)).read_text().split() for rank in range(world)]
    where = "127.0.0.1" if nodes == 1 else socket.gethostname()
    assert [line[:4] for line in told] == [
        [str(rank), str(rank % 2), str(world), where] for rank in range(world)
    ]
    assert len({line[4] for line in told}) == 1


@pytest.mark.parametrize(
    ("variables", "placed"),
    [
        ({}, False),
        ({"WORLD_SIZE": "4", "RANK": "1"}, True),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "1"}, False),  # of a job, not of the run
    ],
)
def test_who_has_started_a_process(
    variables: dict[str, str], placed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", variables)
    assert launch.is_placed(Runtime(devices=2, nodes=2)) is placed
    assert launch.is_placed(Runtime())


def test_too_few_processes_of_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="WORLD_SIZE is 2, and the run is to have 4 processes"):
        launch.is_placed(Runtime(devices=4))


def test_several_nodes_without_slurm_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(BadInput, match=r"nodes is 2: run it as a job of Slurm .* torchrun"):
        launch.launch(Runtime(device="cpu", nodes=2), ["true"])


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [("0", "0", 0), ("75", "75", 75), ("75", "1", 1), ("0", "75", 1), ("0", "3", 1)],
)
def test_a_run_ends_as_its_processes_do(first: str, second: str, status: int) -> None:
    command = ["sh", "-c", f"if [ $RANK = 0 ]; then exit {first}; else exit {second}; fi"]
    assert launch.launch(Runtime(device="cpu", devices=2), command) == status


def test_a_process_that_does_not_notice_the_end_of_another_is_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.GRACE < 60
    monkeypatch.setattr(launch, "GRACE", 0.2)
    command = ["sh", "-c", "if [ $RANK = 0 ]; then exec sleep 60; else kill -SEGV $$; fi"]
    began = time.monotonic()
    assert launch.launch(Runtime(device="cpu", devices=2), command) == 1
    assert time.monotonic() - began < 10
    assert "process 1 of the 2 of this run was ended by SIGSEGV" in capsys.readouterr().err


WAIT = "trap 'exit 75' TERM; touch $PWD/$RANK; while :; do sleep 0.05; done"
START = f"""
import sys
from partbench.launch import launch
from partbench.run import Runtime
sys.exit(launch(Runtime(device="cpu", devices=2), ["sh", "-c", {WAIT!r}]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_the_processes_end_with_the_one_that_started_them(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    run = subprocess.Popen([sys.executable, "-c", START], cwd=tmp_path, env=ENVIRONMENT, text=True)
    wait_for("two processes", lambda: len([*tmp_path.iterdir()]) == 2)
    started = children(run)
    run.send_signal(number)
    assert run.wait(30) == status
    wait_for("their end", lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in started))


def test_a_process_does_not_wait_for_one_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timedelta(minutes=1) >= processes.MEETING
    monkeypatch.setattr(processes, "MEETING", timedelta(seconds=1))
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for key, value in (place | {"MASTER_PORT": free_port()}).items():
        monkeypatch.setenv(key, value)
    with pytest.raises(BadInput, match=r"process 0 of the 2 of this run waited 1 s"):
        processes.connect(Runtime(device="cpu", devices=2))


# What is refused.

BLOCK = {"train": "toy", "probes": {"linear": ["toy"]}}


def test_a_method_that_is_not_written_for_several_devices_is_refused_with_them() -> None:
    values: dict[str, Any] = {
        "name": "test",
        "seeds": [0],
        "runtime": {"devices": 2},
        "data": {"toy": {"reader": "toy"}},
        "runs": [BLOCK | {"methods": {"vae": ["demo"], "random_init": ["demo"]}}],
    }
    check(values, "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods.load("vae"), "several_devices", False)
        with pytest.raises(BadInput, match="vae: demo: vae trains on one device, not on 2"):
            check(values, "test")
        check(values | {"runtime": {}}, "test")
        check(values | {"settings": {"vae": {"epochs": 0}}}, "test")


def test_a_batch_that_cannot_be_shared_is_refused_with_the_configuration() -> None:
    values: dict[str, Any] = {
        "name": "test",
        "seeds": [0],
        "runtime": {"devices": 4, "nodes": 2},
        "data": {"toy": {"reader": "toy"}},
        "runs": [BLOCK | {"methods": {"vae": ["demo"], "mix": ["demo"]}}],
    }
    check(values | {"settings": {"mix": {"batch_size": 96}}}, "test")
    for method, batch, why in (
        ("vae", 20, r"vae: demo: 'batch_size' 20 cannot be shared by 8 devices in equal parts"),
        ("mix", 72, r"8 devices and 3 updates of a step in equal parts of pairs.*multiple of 48"),
    ):
        sizes = {"mix": {"batch_size": 96}} | {method: {"batch_size": batch}}
        with pytest.raises(BadInput, match=why):
            check(values | {"settings": sizes}, "test")


def test_compilation_is_for_one_device() -> None:
    with pytest.raises(BadInput, match="`compile` is for one device, not for the 2"):
        Runtime.parse({"compile": True, "devices": 2}, "runtime")


# The layers.


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4, 5)])
def test_batch_norm_of_a_shared_batch_is_that_of_the_whole(
    shape: tuple[int, ...],
    momentum: float | None,
    affine: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other process holds the same samples here, so that sums over processes are doubled."""
    torch.manual_seed(0)
    kind: Any = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    one, two = (kind(3, momentum=momentum, affine=affine).double() for _ in range(2))
    if affine:
        for layer in (one, two):
            layer.weight.data = torch.tensor([0.5, 2.0, -1.0], dtype=torch.double)
            layer.bias.data = torch.tensor([0.0, 1.0, 3.0], dtype=torch.double)
    shared_batch.share_layers(two)
    monkeypatch.setattr(shared_batch, "_summed", lambda x: 2 * x.detach())
    monkeypatch.setattr(shared_batch, "_stacked", lambda x: torch.stack([x.detach()] * 2))
    for _ in range(2):
        x = torch.randn(shape, dtype=torch.double, requires_grad=True)
        weight = torch.randn(shape, dtype=torch.double)
        expected = one(torch.cat([x, x]))
        (expected * torch.cat([weight, weight])).sum().backward()
        of_x, x.grad = x.grad, None
        with shared_batch.shared(0, 2):
            found = two(x)
            (found * weight).sum().backward()
        torch.testing.assert_close(found, expected[:6])
        # Each process has the gradient of its own samples: half of that of both copies of x.
        torch.testing.assert_close(2 * x.grad, of_x)
        for a, b in zip(one.buffers(), two.buffers(), strict=True):
            torch.testing.assert_close(a, b)
        for a, b in zip(one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(a.grad, 2 * b.grad)
    one.eval(), two.eval()
    with shared_batch.shared(0, 2):
        torch.testing.assert_close(two(x), one(x))


class Scaled(nn.BatchNorm1d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("layer", [nn.AlphaDropout(0.5), Scaled(3)])
def test_layers_of_another_kind_are_refused_in_a_training_step(layer: nn.Module) -> None:
    shared_batch.share_layers(layer)
    x = torch.ones(4, 3)
    layer(x)
    with shared_batch.shared(0, 2):
        with pytest.raises(TypeError, match="does not know batches that processes share"):
            layer(x)
        layer.eval()(x)


def test_alone_nothing_is_shared() -> None:
    x = torch.randn(4, 3)
    assert shared_batch.whole(4) == 4
    for function in (
        shared_batch.own,
        shared_batch.whole_like,
        shared_batch.gathered,
        shared_batch.total,
        shared_batch.averaged,
    ):
        assert function(x) is x
