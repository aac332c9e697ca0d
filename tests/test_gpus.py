"""Jobs side by side on a machine with several GPUs."""

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import REPOSITORY
from slurm_cluster import wait_for

from partbench import gpus, stages
from partbench.data import prepare

CLAIM = """
import os, sys
from partbench import gpus
gpus.claim(int(sys.argv[1]))
print(os.environ.get("CUDA_VISIBLE_DEVICES", "all"), flush=True)
sys.stdin.read()
"""


class Jobs:
    """Processes that claim GPUs; each holds them until it ends.

    Args:
        folder: for temporary files.
        visible: CUDA_VISIBLE_DEVICES.
    """

    def __init__(self, folder: Path, visible: str) -> None:
        self.environment = os.environ | {"TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": visible}
        self.folder, self.started = folder, []

    def start(self, count: int = 1) -> "Job":
        self.started.append(Job(self, count))
        return self.started[-1]


class Job:
    """One of these processes."""

    def __init__(self, jobs: Jobs, count: int) -> None:
        self.out = jobs.folder / f"{len(jobs.started)}.out"
        with self.out.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CLAIM, str(count)],
                env=jobs.environment,
                stdin=subprocess.PIPE,
                stdout=out,
            )

    def gpus(self) -> str:
        """Return what it sees, once it holds it."""
        wait_for("a claim", lambda: self.out.read_text())
        return self.out.read_text().strip()

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def jobs(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Jobs]:
    jobs = Jobs(tmp_path, request.param)
    yield jobs
    for job in jobs.started:
        job.end()


@pytest.mark.parametrize("jobs", ["0,3,MIG-GPU-5a/1/0"], indirect=True)
def test_each_job_has_a_gpu_of_its_own(jobs: Jobs) -> None:
    three = [jobs.start() for _ in range(3)]
    assert sorted(job.gpus() for job in three) == ["0", "3", "MIG-GPU-5a/1/0"]
    waiting = jobs.start()
    freed = three[1].gpus()
    with pytest.raises(AssertionError):
        wait_for("nothing", lambda: waiting.out.read_text(), 2)
    three[1].end()  # killed, it lets go as well
    assert waiting.gpus() == freed


@pytest.mark.parametrize("jobs", ["0,1,2"], indirect=True)
def test_a_job_of_several_gpus_waits_for_all_of_them(jobs: Jobs) -> None:
    one, two = jobs.start(), jobs.start()
    taken = {one.gpus(), two.gpus()}
    both = jobs.start(2)
    with pytest.raises(AssertionError):
        wait_for("nothing", lambda: both.out.read_text(), 2)
    two.end()
    assert set(both.gpus().split(",")) == {"0", "1", "2"} - {one.gpus()}
    assert len(taken) == 2


@pytest.mark.parametrize("jobs", ["1"], indirect=True)
def test_the_only_gpu_is_shared(jobs: Jobs) -> None:
    """As on a cluster's node, where the scheduler has chosen it."""
    assert [jobs.start().gpus(), jobs.start().gpus()] == ["1", "1"]


RULES = [
    rule
    for path in sorted((REPOSITORY / "workflow" / "rules").glob("*.smk"))
    for rule in re.split(r"^ *rule\b", path.read_text(), flags=re.MULTILINE)[1:]
]
COMMANDS = {
    command[1]: bool(re.search(r"^ *gpu=", rule, re.MULTILINE))
    for rule in RULES
    if (command := re.search(r"python -m partbench (\S+)", rule))
}
"""Command -> whether its rule reserves GPUs."""
WORDS = {
    "--run": "random_init/demo/toy/0",
    "--settings": '{"size": 32}',
    "--runtime": '{"device": "cuda", "devices": 2}',
    "--reader": "toy",
}


class Began(Exception):
    """A stage came to where it computes."""


def begin(command: str, probe: str = "classify") -> None:
    """Call a stage with values for all that it asks for."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    stages.add_stages(commands)
    line = [command]
    for action in commands.choices[command]._actions:
        if not action.option_strings:
            line.append(probe)
        elif action.required or action.option_strings[0] == "--runtime":
            option = action.option_strings[0]
            line += [option, WORDS.get(option, "name")]
    if command in ("train", "probe"):
        line[line.index("--settings") + 1] = "{}"
    args = parser.parse_args(line)
    args.run(args)


def test_a_rule_that_reserves_gpus_calls_a_command_that_is_tested() -> None:
    reserves = sorted(command for command, gpu in COMMANDS.items() if gpu)
    stages = ["clusters", "extract", "flow", "foreground", "probe", "scenes", "second-stream"]
    assert reserves == [*stages, "train"]


@pytest.mark.parametrize("command", [command for command, gpu in COMMANDS.items() if gpu])
def test_a_stage_whose_job_reserves_gpus_holds_them_before_it_asks_cuda(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = []

    def claim(count: int) -> None:
        claimed.append(count)
        raise Began

    monkeypatch.setattr(gpus, "claim", claim)
    monkeypatch.setattr("torch.cuda.is_available", lambda: pytest.fail("CUDA was asked first"))
    with pytest.raises(Began):
        begin(command)
    assert claimed == [2 if command == "train" else 1]  # others compute on one device


def test_a_probe_of_outputs_holds_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: object) -> None:
        raise Began

    monkeypatch.setattr("partbench.probe.measure", measure)
    monkeypatch.setattr(gpus, "claim", lambda _: pytest.fail("it computes on none"))
    with pytest.raises(Began):
        begin("probe", "linear")


@pytest.mark.parametrize(
    "command", sorted({"prepare", *(command for command, gpu in COMMANDS.items() if gpu)})
)
def test_a_stage_outlives_the_signal_with_which_slurm_ends_its_job(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training saves its state instead; see tests/test_slurm.py."""

    def compute(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise Began

    class Ended(Exception):
        """The signal ended the stage."""

    def end(*_: object) -> None:
        raise Ended

    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setattr(gpus, "claim", compute)
    monkeypatch.setattr(prepare, "prepare", compute)
    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(Ended if command == "train" else Began):
            begin(command)
    finally:
        signal.signal(signal.SIGTERM, before)
