"""Snakemake's scheduler waits for one further look at a time."""

import subprocess
import sys
import time
from pathlib import Path

from checkout import REPOSITORY

from partbench import scheduling

JOBS = 12
COUNTED = f"""
import sys
import time

sys.path.insert(0, {str(REPOSITORY)!r})

from snakemake.scheduling.job_scheduler import JobScheduler

from partbench.scheduling import look_again_once

look_again_once()
LOOKS = []
choose = JobScheduler.job_selector
JobScheduler.job_selector = lambda self, jobs: LOOKS.append(time.monotonic()) or choose(self, jobs)


rule all:
    input: expand("{{i}}.txt", i=range({JOBS}))


rule slow:
    output: "{{i}}.txt"
    shell: "sleep 0.4; touch {{output}}"


onsuccess:
    print("looks:", len(LOOKS), time.monotonic() - LOOKS[0])
"""


class Semaphore:
    releases = 0

    def release(self) -> None:
        self.releases += 1


class Scheduler:
    def __init__(self) -> None:
        self._open_jobs = Semaphore()


def test_several_calls_bring_one_look_and_later_calls_the_next() -> None:
    scheduler = Scheduler()
    for looks in (1, 2):
        for _ in range(5):
            scheduling._schedule_once(scheduler, 0.05)
        time.sleep(0.3)
        assert scheduler._open_jobs.releases == looks


def test_looks_do_not_multiply_with_jobs(tmp_path: Path) -> None:
    """One look for each job that ends, and one a second beside them."""
    (tmp_path / "Snakefile").write_text(COUNTED)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    looks, seconds = done.stdout.rpartition("looks:")[2].split()
    assert JOBS <= int(looks) <= JOBS + float(seconds) + 3
