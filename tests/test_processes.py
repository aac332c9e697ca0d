"""Several processes give what one gives, and none waits for another that has gone."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkout import REPOSITORY
from conftest import TINY, draw_neighbours, prepare_toy
from sealed import reseal
from test_training import SMALL

from partbench import method as methods
from partbench import plugins
from partbench.integrity import read_record
from partbench.method import Method

STEPS = 20
IMAGES = {"epochs": 5, "batch_size": 16, "images_per_epoch": None}
SPECIAL: dict[str, dict[str, Any]] = {
    "lorbms": SMALL["lorbms"],
    # Three updates of a step, of pairs, share a batch.
    "mix": {"epochs": 10, "batch_size": 24},
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
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
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
            assert process.wait(280) == 0, (folder / f"log.{rank}").read_text()[-3000:]
    finally:
        for process in started:
            process.kill()
    return [json.loads(end.read_text()) for end in ends]


class Runs:
    """All trainings, in two processes and in one."""

    def __init__(self, data: Mapping[str, str], folder: Path) -> None:
        self.folder = folder
        two = [self.at(job, data, "two", name) for name, job in JOBS.items()]
        # A signal and a NaN, each in the second process alone, and a run that one process resumes.
        two += [self.at(VAE, data, "two", "stopped", stop=7)]
        two += [self.at(VAE, data, "two", "stopped")]
        two += [self.at(VAE, data, "two", "moved", stop=11)]
        two += [self.at(VAE, data, "two", "whole")]
        two += [self.at(VAE, data, "two", "nan", nan=7)]
        one = [self.at(job, data, "one", name) for name, job in JOBS.items()]
        with ThreadPoolExecutor() as pool:
            pair, alone = (
                pool.submit(ran, jobs, folder / name, world)
                for jobs, name, world in ((two, "pair", 2), (one, "alone", 1))
            )
        self.ends = pair.result()
        self.numbers = {Path(job["out"]).name: i for i, job in enumerate(two)}
        shutil.copytree(folder / "two" / "moved", folder / "one" / "moved")
        one = [self.at(VAE, data, "one", "moved"), self.at(VAE, data, "one", "whole")]
        assert {*alone.result()[0], *ran(one, folder / "resumed", 1)[0]} == {"done"}

    def at(
        self, job: Mapping[str, Any], data: Mapping[str, str], world: str, name: str, **mishap: int
    ) -> dict[str, Any]:
        cls = methods.load(job["method"])
        where = "clips" if cls.reads == "clips" else cls.learns_from
        return {
            **job,
            "data": data.get(where, data["images"]),
            "out": str(self.folder / world / name),
            **mishap,
        }

    def state(self, world: str, name: str) -> dict[str, Any]:
        return dict(torch.load(self.folder / world / name / "model.pt", weights_only=True)["state"])

    def log(self, world: str, name: str) -> list[dict[str, float]]:
        lines = (self.folder / world / name / "log.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]

    def ended(self, name: str) -> list[str]:
        """Return how the last training of this name ended in each of the two processes."""
        return [ends[self.numbers[name]] for ends in self.ends]

    def compare(self, one: tuple[str, str], two: tuple[str, str], tolerance: float) -> None:
        """Fail unless two runs ended with the same parameters and logs."""
        first, second = self.state(*one), self.state(*two)
        assert list(first) == list(second)
        for key, value in first.items():
            scale = max(value.double().abs().max().item(), 1.0) if value.numel() else 1.0
            torch.testing.assert_close(
                second[key], value, rtol=0, atol=tolerance * scale, msg=lambda m, k=key: f"{k}: {m}"
            )
        lines = zip(self.log(*one), self.log(*two), strict=True)
        for a, b in lines:
            assert a == pytest.approx(b, rel=100 * tolerance, abs=1e-9)


@pytest.fixture(scope="module")
def runs(data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(data, tmp_path_factory.mktemp("runs"))


# The same result.


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_give_what_one_gives(name: str, runs: Runs) -> None:
    assert runs.ended(name) == ["done", "done"]
    runs.compare(("one", name), ("two", name), 1e-5)
    record = read_record(runs.folder / "two" / name / "train.json")
    assert record["steps"] == (STEPS if JOBS[name]["changes"] else 0)


def test_a_signal_to_one_process_saves_the_run_of_all(runs: Runs) -> None:
    first = runs.numbers["stopped"] - 1
    assert all(
        ends[first].startswith("Stopped: ") and "step 7" in ends[first] for ends in runs.ends
    )
    assert runs.ended("stopped") == ["done", "done"]
    runs.compare(("two", "whole"), ("two", "stopped"), 1e-15)


def test_a_run_of_two_processes_goes_on_in_one(runs: Runs) -> None:
    assert all("stopped at step 11" in end for end in runs.ended("moved"))
    runs.compare(("one", "whole"), ("one", "moved"), 1e-5)


def test_a_nan_in_one_process_is_an_error_in_all(runs: Runs) -> None:
    assert all("all/loss is nan near step 8" in end for end in runs.ended("nan"))
    assert not (runs.folder / "two" / "nan" / "model.pt").exists()
    assert len(runs.log("two", "nan")) == 7
