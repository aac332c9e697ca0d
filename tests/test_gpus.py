"""Jobs side by side on a machine with several GPUs."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import wait_for

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


@pytest.mark.parametrize("jobs", ["0,3,GPU-5a"], indirect=True)
def test_each_job_has_a_gpu_of_its_own(jobs: Jobs) -> None:
    three = [jobs.start() for _ in range(3)]
    assert sorted(job.gpus() for job in three) == ["0", "3", "GPU-5a"]
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
