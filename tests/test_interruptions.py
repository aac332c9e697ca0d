"""Whatever stops a workflow, the same command ends in the tables of an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from checkout import Checkout
from conftest import Disk

SMALL = {"encoder_width": 8, "decoder_width": 8, "batch_size": 16, "epochs": 4, "latent": 8}
CONFIG: dict[str, Any] = {
    "name": "tiny",
    "comparable": False,
    "seeds": [0],
    "runtime": {"device": "cpu", "threads": 1, "checkpoint_minutes": 0.01},
    "data": {"toy": {"reader": "toy", "size": 32, "train": 64, "val": 1, "test": 32}},
    "settings": {"vae": SMALL, "random_init": {"encoder_width": 8}},
    "probes": {"linear": {"cs": [0.01]}},
    "runs": [
        {
            "train": "toy",
            "methods": {"vae": ["demo"], "random_init": ["demo"], "raw_pixels": ["paper"]},
            "probes": {"linear": ["toy"]},
        }
    ],
}
COMMAND = ["snakemake", "--cores", "2", "--rerun-incomplete", "--configfile", "tiny.yaml"]
NUMBERS = ["method", "metric", "setting", "value", "status", "n", "samples"]

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with the results of an undisturbed workflow."""
    here = Checkout(tmp_path_factory.mktemp("whole") / "partbench")
    here.configure(CONFIG)
    assert here.run(*COMMAND).returncode == 0
    return here


def fresh(tmp_path: Path) -> Checkout:
    here = Checkout(tmp_path / "partbench")
    here.configure(CONFIG)
    return here


def numbers(here: Checkout) -> list[tuple[Any, ...]]:
    return sorted(here.metrics("tiny")[NUMBERS].itertuples(index=False, name=None))


def assert_ends_as(whole: Checkout, here: Checkout) -> None:
    """The same command ends well, in the tables of the whole, and then has nothing to do."""
    unlocked = here.run("partbench", "unlock")
    assert unlocked.returncode == 0, unlocked.stdout
    done = here.run(*COMMAND)
    assert done.returncode == 0, done.stdout
    assert set(here.metrics("tiny")["status"]) == {"done"}
    assert numbers(here) == numbers(whole)
    ours, theirs = (
        pd.read_csv(it.folder / "results/tiny/summary.csv").drop(columns="values")
        for it in (here, whole)
    )
    pd.testing.assert_frame_equal(ours, theirs)
    assert "Nothing to be done" in here.run(*COMMAND).stdout


@contextmanager
def running(here: Checkout) -> Iterator[subprocess.Popen[str]]:
    """Start the workflow; it must have ended when the block ends."""
    hidden = {"PARTBENCH_DATA", "PYTHONPATH", "SNAKEMAKE_PROFILE"}
    process = subprocess.Popen(
        [sys.executable, "-m", *COMMAND],
        cwd=here.folder,
        env={key: value for key, value in os.environ.items() if key not in hidden},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for_lock(here: Checkout) -> None:
    locks = here.folder / ".snakemake" / "locks"
    for _ in range(6000):
        if locks.is_dir() and any(locks.iterdir()):
            return
        time.sleep(0.01)
    raise AssertionError("the workflow did not start")


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_random_moments(number: signal.Signals, whole: Checkout, tmp_path: Path) -> None:
    """Over 60 s, since every start of Snakemake takes some seconds."""
    here = fresh(tmp_path)
    draw = random.Random(int(number))
    for _ in range(3):
        assert here.run("partbench", "unlock").returncode == 0
        with running(here) as process:
            wait_for_lock(here)
            time.sleep(draw.uniform(0.5, 5))
            process.send_signal(number)
            process.communicate(timeout=120)
    assert_ends_as(whole, here)


@pytest.mark.fault
def test_a_full_disk(whole: Checkout, tmp_path: Path, disk: Disk) -> None:
    here = fresh(tmp_path)
    (here.folder / "results").symlink_to(disk.path)
    for leave in (200_000, 700_000):  # for less than the data, and for less than the rest
        disk.fill(leave)
        failed = here.run(*COMMAND)
        assert failed.returncode != 0
        disk.clear()
    assert_ends_as(whole, here)


@pytest.mark.fault
def test_a_disk_that_became_read_only(whole: Checkout, tmp_path: Path, disk: Disk) -> None:
    here = fresh(tmp_path)
    (here.folder / "results").symlink_to(disk.path)
    assert here.run(*COMMAND, "--until", "prepare").returncode == 0
    disk.make_read_only()
    failed = here.run(*COMMAND)
    assert failed.returncode != 0
    assert "Read-only file system" in failed.stdout
    subprocess.run(["mount", "-o", "remount,rw", str(disk.path)], check=True)
    assert_ends_as(whole, here)


@pytest.mark.fault
def test_two_at_once(whole: Checkout, tmp_path: Path) -> None:
    here = fresh(tmp_path)
    with running(here) as first:
        wait_for_lock(here)
        second = here.run(*COMMAND)
        assert second.returncode != 0
        assert "lock" in second.stdout.lower()
        unlocked = here.run("partbench", "unlock")
        assert unlocked.returncode == 1
        assert f"Snakemake runs in {here.folder} (process {first.pid})" in unlocked.stdout
        first.communicate(timeout=300)
        assert first.returncode == 0
    assert numbers(here) == numbers(whole)
    assert_ends_as(whole, here)


@pytest.mark.fault
@pytest.mark.parametrize("later", ["data", "runs"])
def test_a_clock_set_back(later: str, whole: Checkout, tmp_path: Path) -> None:
    """Some files are of tomorrow, and what was made of them afterwards is of today."""
    here = Checkout(tmp_path / "partbench", copied=whole)
    tomorrow = time.time() + 86_400
    for path in (here.folder / "results/tiny" / later).rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    done = here.run(*COMMAND)
    assert done.returncode == 0, done.stdout
    assert numbers(here) == numbers(whole)
