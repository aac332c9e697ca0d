"""Whatever stops a workflow, the same command ends in the tables of an undisturbed one."""

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
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
def running(here: Checkout, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start the workflow; it must have ended when the block ends."""
    hidden = {"PARTBENCH_DATA", "PYTHONPATH", "SNAKEMAKE_PROFILE"}
    process = subprocess.Popen(
        [sys.executable, "-m", *COMMAND, *arguments],
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
def test_terminated_at_random_moments(whole: Checkout, tmp_path: Path) -> None:
    here = fresh(tmp_path)
    draw = random.Random(0)
    for _ in range(3):
        assert here.run("partbench", "unlock").returncode == 0
        with running(here) as process:
            wait_for_lock(here)
            time.sleep(draw.uniform(0.5, 5))
            process.terminate()
            process.communicate(timeout=120)
    assert_ends_as(whole, here)


KILLS = int(os.environ.get("PARTBENCH_KILLS", "10"))
LONGER = {**CONFIG, "settings": CONFIG["settings"] | {"vae": SMALL | {"epochs": 60}}}


class Trainings:
    """Watches that every training goes on where its checkpoint was.

    The lines of its log tell: they carry times, which no second training repeats.

    Args:
        runs: folder of the runs.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.lines: dict[Path, list[str]] = {}
        self.seen: dict[Path, int] = {}
        self.repeated: list[Path] = []
        self.checkpoints = 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Trainings":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.wait(0.05):
            for path in self.runs.glob("*/*/*/*/checkpoint.pt"):
                try:
                    changed = path.stat().st_mtime_ns
                    if changed == self.seen.get(path):
                        continue
                    state = torch.load(path, weights_only=True)
                except FileNotFoundError:  # the next one is about to take its place
                    continue
                self.seen[path] = changed
                self._compare(path.parent, state["lines"])
                self.checkpoints += 1

    def _compare(self, run: Path, lines: list[str]) -> None:
        before = self.lines.get(run, [])
        if lines[: len(before)] != before:
            self.repeated.append(run)
        self.lines[run] = lines

    def finish(self) -> None:
        """Compare the logs of the finished trainings, too."""
        for run in list(self.lines):
            self._compare(run, (run / "log.jsonl").read_text().splitlines())


def apart_from_times(here: Checkout) -> str:
    return here.metrics("tiny").drop(columns=["seconds", "peak_memory_mb"]).to_csv()


@pytest.mark.fault
def test_random_processes_are_killed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Snakemake, its fork server, shells and jobs; PARTBENCH_KILLS says how many, 10 if unset."""
    reference = Checkout(tmp_path / "reference")
    reference.make(reference.configure(LONGER), "--cores", "2")
    draw, kills, killed = random.Random(0), 0, Counter[str]()
    while kills < KILLS:
        here = Checkout(tmp_path / f"after {kills}")
        here.configure(LONGER)
        with Trainings(here.folder / "results/tiny/runs") as trainings:
            ended = False
            while kills < KILLS and not ended:
                assert here.run("partbench", "unlock").returncode == 0
                with running(here, "--keep-going", "--retries", "3") as process:
                    wait_for_lock(here)
                    while kills < KILLS and process.poll() is None:
                        time.sleep(draw.uniform(0.1, 3))
                        if name := kill_one(process.pid, draw):
                            killed[name] += 1
                            kills += 1
                    ended = process.poll() == 0
            assert here.run("partbench", "unlock").returncode == 0
            done = here.run(*COMMAND)
            assert done.returncode == 0, done.stdout
        trainings.finish()
        assert trainings.repeated == []
        assert trainings.checkpoints > 0
        assert apart_from_times(here) == apart_from_times(reference)
    record_property("processes killed at random", [(n, name) for name, n in killed.items()])


def kill_one(snakemake: int, draw: random.Random) -> str:
    """Kill Snakemake or a process below it; return what it was, nothing if all have ended."""
    try:
        parent = psutil.Process(snakemake)
        victims = sorted([parent, *parent.children(recursive=True)], key=lambda p: p.pid)
        victim = draw.choice([p for p in victims if p.status() != psutil.STATUS_ZOMBIE])
        words = victim.cmdline()
        victim.kill()
    except (psutil.NoSuchProcess, IndexError):
        return ""
    for name in ("forkserver", "snakemake", "partbench"):
        if any(name in word for word in words[1:4]):
            return name
    return Path(words[0]).name if words else "a process that ends"


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


RUNS, CELLS = Path("results/tiny/runs"), Path("results/tiny/cells")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.fault
def test_what_is_damaged_is_made_anew_alone(whole: Checkout, tmp_path: Path) -> None:
    """A model without its record, a number edited by hand, outcomes that are gone."""
    here = Checkout(tmp_path / "partbench", copied=whole)
    (here.folder / RUNS / "vae/demo/toy/0/train.json").unlink()
    cell = here.folder / CELLS / "random_init/demo/toy/0/toy/linear.json"
    cell.write_text(cell.read_text().replace('"value": ', '"value": 1'))
    (here.folder / CELLS / "raw_pixels/paper/toy/0/toy/linear.parquet").unlink()
    found = here.run("partbench", "verify", "--repair", "results/tiny")
    assert found.returncode == 1
    for aside in ("model.pt.damaged", "linear.json.damaged"):
        assert f"is moved to {aside}" in found.stdout
    planned = {(job.rule, job.output.split(",")[0]) for job in here.planned("tiny.yaml")}
    for rule in ("train", "extract", "probe"):
        methods = {output.split("/")[3] for made, output in planned if made.startswith(rule)}
        assert methods == ({"vae"} if rule == "train" else {"vae", "random_init", "raw_pixels"})
    assert not any(rule in ("fetch", "prepare") for rule, _ in planned)
    assert_ends_as(whole, here)
    assert here.run("partbench", "verify", "results/tiny").returncode == 0


@pytest.mark.fault
def test_damage_that_a_stage_finds_is_mended_by_the_same_command(
    whole: Checkout, tmp_path: Path
) -> None:
    here = Checkout(tmp_path / "partbench", copied=whole)
    truncate(here.folder / RUNS / "vae/demo/toy/0/model.pt")
    (here.folder / CELLS / "vae/demo/toy/0/toy/linear.json").unlink()
    failed = here.run(*COMMAND)
    assert failed.returncode != 0
    assert "model.pt is damaged" in failed.stdout
    assert "model.pt is moved to model.pt.damaged" in failed.stdout
    assert [job.rule for job in here.planned("tiny.yaml")].count("train_vae") == 1
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
