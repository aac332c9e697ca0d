"""Start the processes of one run, one a device, and end when they end.

The process that starts them computes nothing. It passes signals on to them, and stops the rest
when one of them fails. On several nodes it starts them by srun, inside a job of Slurm that has
these nodes. Processes that torchrun has started, one for each device, are taken as they are.
"""

import ctypes
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from partbench.errors import BadInput
from partbench.forkserver import FORWARDED, PR_SET_PDEATHSIG, VARIABLE
from partbench.run import Runtime

GRACE = 30.0
"""Seconds in which the other processes may end by themselves after one has failed."""
STOPPED = 75
"""Exit status of a process that a signal stopped and whose state is saved."""

Started = list[subprocess.Popen[bytes]]


def is_placed(runtime: Runtime) -> bool:
    """Return whether this process is one of those of a run, by torchrun's variables.

    Where srun alone has said which one it is, the variables say it afterwards.

    Raises:
        BadInput: they are of another number of processes.
    """
    if runtime.processes == 1:
        return True
    variables = os.environ
    if (world := variables.get("WORLD_SIZE")) is None:
        return False
    if world != str(runtime.processes):
        raise BadInput(
            f"WORLD_SIZE is {world}, and the run is to have {runtime.processes} processes: start "
            "as many as `devices` times `nodes`, or take the variable out of the environment"
        )
    if "RANK" not in variables:
        variables |= {"RANK": variables["SLURM_PROCID"], "LOCAL_RANK": variables["SLURM_LOCALID"]}
    return True


def launch(runtime: Runtime, command: Sequence[str]) -> int:
    """Run a command once for each device; return the exit status.

    It is 0 if all processes succeeded, 75 if all saved their state after a signal, else 1.

    Raises:
        BadInput: there are to be several nodes, and this is no job of Slurm.
    """
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    with socket.socket() as free:
        free.bind(("", 0))
        environment["MASTER_PORT"] = str(free.getsockname()[1])
    environment["WORLD_SIZE"] = str(runtime.processes)
    if runtime.nodes > 1:
        return _watched([_srun(runtime, command, environment)])
    environment["MASTER_ADDR"] = "127.0.0.1"
    return _watched(
        [
            _start(command, environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(runtime.devices)
        ]
    )


def _srun(
    runtime: Runtime, command: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    if "SLURM_JOB_ID" not in environment:
        raise BadInput(
            f"runtime.nodes is {runtime.nodes}: run it as a job of Slurm with as many nodes "
            "(`--profile slurm`), or start it on each node with torchrun"
        )
    # Snakemake's plugin hides from srun what the job was given, so all is said again.
    tasks = [
        f"--nodes={runtime.nodes}",
        f"--ntasks={runtime.processes}",
        f"--ntasks-per-node={runtime.devices}",
        f"--cpus-per-task={runtime.threads_each}",
        "--kill-on-bad-exit=1",
    ]
    return _start(["srun", *tasks, *command], {**environment, "MASTER_ADDR": socket.gethostname()})


_prctl = ctypes.CDLL(None).prctl  # found before the fork, in which little may be done


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    def die_with_parent() -> None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return subprocess.Popen(command, env=environment, preexec_fn=die_with_parent)


def _watched(started: Started) -> int:
    """Wait for processes, and stop those that are left when one fails; see `launch`."""
    failed: list[int] = []  # ranks in the order of their ends, up to that of the whole run
    last = math.inf
    with _forwarding(started):
        while any(process.poll() is None for process in started):
            if time.monotonic() > last:
                for process in started:
                    process.kill()
            else:
                failed += _failures(started, failed)
                last = min(last, time.monotonic() + GRACE) if failed else last
            time.sleep(0.05)
    failed += [] if time.monotonic() > last else _failures(started, failed)
    statuses = [process.returncode for process in started]
    if not failed:
        return 0
    if {*statuses} == {STOPPED}:
        return STOPPED
    if killed := [rank for rank in failed if statuses[rank] < 0]:
        name = signal.Signals(-statuses[killed[0]]).name
        print(
            f"partbench: process {killed[0]} of the {len(started)} of this run was ended by "
            f"{name}, and the others with it; run the same command again to resume",
            file=sys.stderr,
        )
    return 1


def _failures(started: Started, known: Sequence[int]) -> list[int]:
    """Return the ranks that have failed since others were known to have."""
    ended = (rank for rank, process in enumerate(started) if process.poll())
    return [rank for rank in ended if rank not in known]


@contextmanager
def _forwarding(started: Started) -> Iterator[None]:
    """Pass the signals on that this process gets."""

    def forward(number: int, _: object) -> None:
        for process in started:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    heeded = [n for n in FORWARDED if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
