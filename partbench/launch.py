"""Start the processes of one run, one a device, and end when they end.

The process that starts them computes nothing. It passes signals on to them, and stops the rest
when one of them fails. On several nodes, srun starts them: the run must be a job of Slurm that has
these nodes. Processes that torchrun or srun has started by themselves, one for each device, are
taken as they are.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress

from partbench.errors import BadInput
from partbench.forkserver import FORWARDED, PR_SET_PDEATHSIG, VARIABLE
from partbench.run import Runtime

GRACE = 30.0
"""Seconds in which the other processes may end by themselves after one has."""
STOPPED = 75
"""Exit status of a process that a signal stopped and whose state is saved."""


def is_placed(runtime: Runtime, environment: Mapping[str, str]) -> bool:
    """Whether this process is one of those of a run, by what torchrun or srun says."""
    sizes = (environment.get("WORLD_SIZE"), environment.get("SLURM_NTASKS"))
    return runtime.processes == 1 or str(runtime.processes) in sizes


def take_place(runtime: Runtime) -> None:
    """Say in the variables of torchrun where this process stands, if srun has said it in its own.

    Where nobody says at which address the processes meet, it is the first node's, at a port that
    follows from the job's number.
    """
    variables = os.environ
    if runtime.processes == 1 or "RANK" in variables:
        return
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    slurm = SLURMEnvironment(auto_requeue=False)
    variables["RANK"] = variables["SLURM_PROCID"]
    variables["LOCAL_RANK"] = variables["SLURM_LOCALID"]
    variables["WORLD_SIZE"] = variables["SLURM_NTASKS"]
    if "MASTER_ADDR" not in variables:
        variables["MASTER_ADDR"] = slurm.main_address
        variables["MASTER_PORT"] = str(slurm.main_port)


def launch(runtime: Runtime) -> int:
    """Start this command once for each device; return the exit status.

    It is 0 if all processes succeeded, 75 if all saved their state after a signal, else 1.

    Raises:
        BadInput: there are to be several nodes, and this is no job of Slurm.
    """
    command = [sys.executable, "-m", "partbench", *sys.argv[1:]]
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    with socket.socket() as free:
        free.bind(("", 0))
        environment["MASTER_PORT"] = str(free.getsockname()[1])
    if runtime.nodes > 1:
        started = [_srun(runtime, command, environment)]
    else:
        environment |= {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(runtime.devices)}
        started = [
            subprocess.Popen(
                command,
                env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                preexec_fn=_die_with_parent,
            )
            for rank in range(runtime.devices)
        ]
    return _watched(started)


def _srun(
    runtime: Runtime, command: list[str], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    if "SLURM_JOB_ID" not in os.environ:
        raise BadInput(
            f"runtime.nodes is {runtime.nodes}: run it as a job of Slurm with as many nodes "
            "(`--profile slurm`), or start it on each node with torchrun"
        )
    environment |= {"MASTER_ADDR": socket.gethostname()}
    tasks = [f"--nodes={runtime.nodes}", f"--ntasks-per-node={runtime.devices}", "--overlap"]
    tasks += [f"--ntasks={runtime.processes}", "--kill-on-bad-exit=1"]
    return subprocess.Popen(
        ["srun", *tasks, *command], env=environment, preexec_fn=_die_with_parent
    )


_prctl = ctypes.CDLL(None).prctl  # found before the fork, in which little may be done


def _die_with_parent() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _watched(started: list[subprocess.Popen[bytes]]) -> int:
    """Wait for processes and stop those that are left when one fails; see `launch`."""

    def forward(number: int, _: object) -> None:
        for process in started:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    heeded = [n for n in FORWARDED if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in heeded}
    try:
        first, ended = -1, 0.0
        while any(process.poll() is None for process in started):
            failed = [rank for rank, process in enumerate(started) if process.returncode]
            if failed and first < 0:
                first, ended = failed[0], time.monotonic()
            if first >= 0 and time.monotonic() - ended > GRACE:
                for process in started:
                    process.kill()
            time.sleep(0.05)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    statuses = [process.returncode for process in started]
    if not any(statuses):
        return 0
    if all(status == STOPPED for status in statuses):
        return STOPPED
    if first < 0:
        first = next(rank for rank, status in enumerate(statuses) if status)
    killed = [rank for rank, status in enumerate(statuses) if status < 0]
    if statuses[first] < 0 or killed:
        rank = first if statuses[first] < 0 else killed[0]
        name = signal.Signals(-statuses[rank]).name
        print(
            f"partbench: process {rank} of the {len(started)} of this run was ended by {name}, and "
            "the others with it; run the same command again to resume",
            file=sys.stderr,
        )
    return 1
