"""The workflow on a real Slurm cluster of one node, through all that can happen to it there."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from checkout import Checkout
from filelock import FileLock
from slurm_cluster import Cluster, unavailable, wait_for

METHOD = '''
"""A VAE whose steps take their time on a cluster, until they are told to hurry."""

import os
import time
from pathlib import Path

from partbench.methods.vae import VAE


class Slow(VAE):
    """VAE; every step on a cluster leaves a line in a file."""

    def after_step(self, step: int) -> None:
        """Write the line, and pause."""
        if "SLURM_JOB_ID" in os.environ:
            with Path(f"{Path(__file__).stem}.steps").open("a") as file:
                file.write(f"{os.getpid()} {step}\\n")
            if not Path("hurry").exists():
                time.sleep(0.5)
'''
STEPS = 400
METHODS = ("interrupted", "limited")
"""One loses its job in several ways, the other to its time limit."""
SLOW = {
    **{"encoder_width": 8, "decoder_width": 8, "latent": 8},
    **{"batch_size": 16, "epochs": STEPS},
}
CONFIG: dict[str, Any] = {
    "name": "tiny",
    "comparable": False,
    "seeds": [0],
    # A GPU is asked for, and the processor computes: there is none behind the stand-in.
    "runtime": {"device": "auto", "threads": 1, "checkpoint_minutes": 0.02},
    "data": {"toy": {"reader": "toy", "size": 32, "train": 16, "val": 1, "test": 32}},
    "settings": dict.fromkeys(METHODS, SLOW),
    "probes": {"linear": {"cs": [0.01]}},
    "runs": [
        {
            "train": "toy",
            "methods": {method: ["demo"] for method in METHODS},
            "probes": {"linear": ["toy"]},
        }
    ],
}
PARTITIONS = "partitions:\n  main: {max_gpu: 1}\n  cpu: {max_gpu: 0}\n"
COMMAND = ["snakemake", "--cores", "8", "--profile", "slurm", "--configfile", "tiny.yaml"]
# Status is asked for at once, and one training leaves the GPU to the other.
HASTE = ["--slurm-init-seconds-before-status-checks", "2"]
ASIDE = ["--set-resources", "train_limited:gpu=0"]
NUMBERS = ["method", "seed", "eval", "probe", "metric", "settings", "value", "status", "n"]
Row = tuple[str, str, str]
LONG = 400.0  # seconds: a start takes some on an idle machine, and the tests fill it


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if why := unavailable():
        pytest.skip(why)
    # Where tests run side by side, one process has the cluster.
    with FileLock("/tmp/partbench-slurm-tests.lock"):
        daemons = Cluster(tmp_path_factory.mktemp("slurm"))
        try:
            daemons.start()
            yield daemons
        finally:
            daemons.stop()


class Job(NamedTuple):
    """What Slurm knows of a job."""

    number: str
    comment: str
    state: str
    partition: str
    gpus: str
    start: str
    end: str


def jobs(cluster: Cluster) -> list[Job]:
    """Return all jobs since the cluster's start."""
    keys = ("JobId", "Comment", "JobState", "Partition", "TresPerJob", "StartTime", "EndTime")
    lines = cluster.command("scontrol", "--oneliner", "show", "job").splitlines()
    values = [dict(word.partition("=")[::2] for word in line.split()) for line in lines]
    return [Job(*(value.get(key, "") for key in keys)) for value in values if "JobId" in value]


class Training:
    """One training on the cluster.

    Args:
        cluster: where it runs.
        folder: where Snakemake runs.
        method: what trains.
    """

    def __init__(self, cluster: Cluster, folder: Path, method: str) -> None:
        self.cluster, self.method = cluster, method
        self.folder = folder / f"results/tiny/runs/{method}/demo/toy/0"
        self.file = folder / f"{method}.steps"

    def job(self) -> Job:
        """Return its latest job."""
        mine = [job for job in jobs(self.cluster) if f"rule_train_{self.method}_" in job.comment]
        return max(mine, key=lambda job: int(job.number))

    def steps(self) -> list[tuple[int, int]]:
        """Return (process, step) in the order in which they were made."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]

    def process(self) -> int:
        """Return the process of the latest step, 0 before the first."""
        made = self.steps()
        return made[-1][0] if made else 0

    def steps_of(self, process: int) -> list[int]:
        return [step for maker, step in self.steps() if maker == process]

    def saved(self) -> int:
        """Return the step of the newest checkpoint, 0 without one."""
        for name in ("checkpoint.pt", "checkpoint.previous.pt"):
            with suppress(FileNotFoundError):
                return int(torch.load(self.folder / name, weights_only=True)["step"])
        return 0

    def until_saved(self, after: int = 0) -> int:
        """Return the process that trains, another than before, once it has saved what it did."""
        wait_for("a training", lambda: self.process() not in (0, after), LONG)
        process = self.process()
        began = self.steps_of(process)[0]
        wait_for("a checkpoint", lambda: self.saved() > began, LONG)
        return process

    def until_ended(self, job: Job, state: str) -> str:
        """Wait until a job has ended; return its state, which must be this one."""

        def states() -> list[str]:
            return [j.state for j in jobs(self.cluster) if j.number == job.number]

        wait_for(f"job {job.number} to be {state}", lambda: states() == [state], LONG)
        return state


@contextmanager
def running(here: Checkout) -> Iterator[Callable[[], str]]:
    """Start the workflow; yield what waits for its end and returns what it printed."""
    log = here.folder / "snakemake.out"
    hidden = {"PARTBENCH_DATA", "PYTHONPATH", "SNAKEMAKE_PROFILE"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *COMMAND, *HASTE, *ASIDE],
            cwd=here.folder,
            env={key: value for key, value in os.environ.items() if key not in hidden},
            stdout=out,
            stderr=out,
        )

    def ended() -> str:
        process.wait(timeout=LONG)
        assert process.returncode == 0, log.read_text()
        return log.read_text()

    try:
        yield ended
    finally:
        process.kill()
        process.wait()


def scancel(training: Training) -> str:
    job = training.job()
    training.cluster.command("scancel", job.number)
    return training.until_ended(job, "CANCELLED")


def preemption_with_grace_time(training: Training) -> str:
    job = training.job()
    urgent = ("--partition=urgent", "--gpus=1", "--mem=100", "--output=/dev/null")
    training.cluster.command("sbatch", *urgent, "--wrap=true")
    wait_for("a second start", lambda: training.job().state == "PENDING", LONG)
    assert training.job().number == job.number
    return "queued again by Slurm"


def sigkill_and_a_drained_node(training: Training) -> str:
    job = training.job()
    node = ("scontrol", "update", f"NodeName={training.cluster.host}")
    training.cluster.command(*node, "State=DRAIN", "Reason=test")
    os.kill(training.process(), signal.SIGKILL)
    end = training.until_ended(job, "FAILED")
    wait_for("the next attempt", lambda: training.job().number != job.number, LONG)
    time.sleep(5)  # seconds in which it would start, were the node not drained
    assert training.job().state == "PENDING"
    training.cluster.command(*node, "State=RESUME")
    return f"{end}, next attempt waits for the node"


def time_limit(training: Training) -> str:
    job = training.job()
    # Limits are whole minutes; so the present one ends now.
    training.cluster.command("scontrol", "update", f"JobId={job.number}", "EndTime=now+1")
    return training.until_ended(job, "TIMEOUT")


def slurmctld_killed(training: Training) -> str:
    there, process = training.job().number, training.process()
    training.cluster.kill_controller()
    time.sleep(3)
    training.cluster.start_controller()
    step = training.steps_of(process)[-1]
    wait_for("steps", lambda: training.steps_of(process)[-1] > step + 2)
    assert training.job().number == there
    return "runs on"


def strike(training: Training, faults: Sequence[Callable[[Training], str]]) -> list[Row]:
    """Do to a training one thing after the other; return what became of it."""
    rows = []
    process = training.until_saved()
    for fault in faults:
        saved = training.saved()
        end = fault(training)
        struck, process = process, training.until_saved(after=process)
        first, last = training.steps_of(process)[0], training.steps_of(struck)[-1]
        # What can be saved is saved; SIGKILL costs what was made since the last checkpoint.
        assert saved < first <= last + 1
        if fault is not sigkill_and_a_drained_node:
            assert first >= last
        rows.append((fault.__name__.replace("_", " "), end, f"{first} of {STEPS}"))
    return rows


@pytest.mark.fault
@pytest.mark.timeout(1800)
def test_the_profile_survives_what_a_cluster_does(
    cluster: Cluster, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """One workflow, since every start of a job takes seconds."""
    here, local = (Checkout(tmp_path / name / "partbench") for name in ("slurm", "local"))
    for checkout in (here, local):
        checkout.configure(CONFIG)
        for method in METHODS:
            (checkout.folder / f"partbench/methods/{method}.py").write_text(METHOD)
    (here.folder / "slurm/partitions.yaml").write_text(PARTITIONS)
    interrupted, limited = (Training(cluster, here.folder, method) for method in METHODS)
    with ThreadPoolExecutor() as pool, running(here) as ended:
        undisturbed = pool.submit(local.make, "tiny.yaml")
        interrupted.until_saved()
        table = [("slurmctld killed", slurmctld_killed(interrupted), "-")]
        limits = pool.submit(strike, limited, 3 * [time_limit])
        table += strike(
            interrupted, [scancel, preemption_with_grace_time, sigkill_and_a_drained_node]
        )
        table += limits.result()
        (here.folder / "hurry").touch()
        printed = ended()
        undisturbed.result()
    record_property("faults on a Slurm cluster: Slurm's end of the job, next step", table)
    assert "cells: 2 done\n" in printed
    assert "Nothing to be done" in here.run(*COMMAND).stdout
    assert_equal(here, local)
    assert_scheduled(jobs(cluster))


def assert_equal(here: Checkout, local: Checkout) -> None:
    """The numbers and the models are those of the local run, exactly."""
    ours, theirs = (
        sorted(it.metrics("tiny")[NUMBERS].astype(str).itertuples(index=False, name=None))
        for it in (here, local)
    )
    assert ours == theirs
    assert set(here.metrics("tiny")["status"]) == {"done"}
    assert (here.folder / "report/tiny/index.html").exists()
    for model in (here.folder / "results/tiny/runs").rglob("model.pt"):
        other = local.folder / model.relative_to(here.folder)
        ours, theirs = (torch.load(path, weights_only=True)["state"] for path in (model, other))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs | ours)


def assert_scheduled(made: list[Job]) -> None:
    """Jobs with a GPU ran one at a time, where there are GPUs; the others elsewhere."""
    rules = {
        re.sub(r"^rule_|_wildcards.*", "", job.comment): job
        for job in made
        if "rule_" in job.comment
    }
    places = {rule: (job.gpus, job.partition) for rule, job in rules.items()}
    assert places == {
        **dict.fromkeys(["train_interrupted", "extract"], ("gres:gpu:1", "main")),
        **dict.fromkeys(["prepare", "train_limited", "probe_linear"], ("", "cpu")),
    }
    times = sorted(
        tuple(datetime.fromisoformat(time) for time in (job.start, job.end))
        for job in made
        if job.gpus
    )
    assert len(times) >= 6
    for (_, end), (start, _) in itertools.pairwise(times):
        assert start >= end
