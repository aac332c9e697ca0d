"""Start a job as a fork of a process that has imported its packages already.

`import torch` and what stands on it take seconds of processor time, more than many a job
computes. So Snakemake keeps a server (`Server`) while it runs jobs on its own machine: a process
that imports third-party packages, and only those. A job that needs them, `python -m partbench
train` for one, hands its command line, folder, environment and standard streams to the server
(`delegate`), which forks a child to run it. The child reads partbench's own modules from their
files as they are then. The job's process waits, passes signals on, and ends as the child ends.

Nothing depends on the server. Without one, or when it refuses, dies or does not answer, a command
runs in its own process. The server refuses what it might compute differently: packages read their
settings from the environment when they are imported, so a job with another environment,
interpreter, priority or set of processors runs by itself.

No process outlives what it belongs to. The server's standard input is a pipe from Snakemake. When
that closes, for whatever reason, the server sends its children SIGTERM, waits for them and leaves.
It kills the child of a job's process that has gone, and its own death kills its children.

Every job's process reads this file first, so it imports nothing heavy.
"""

import contextlib
import json
import os
import resource
import select
import selectors
import signal
import socket
import struct
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

VARIABLE = "PARTBENCH_FORKSERVER"
"""The environment's variable that names the server's socket."""

PACKAGES = {
    "probe": ("numpy", "pandas", "pyarrow.parquet", "pydantic", "scipy.linalg", "threadpoolctl"),
    "extract": ("numpy", "PIL.Image", "pydantic", "torch", "tqdm"),
    # The first optimiser imports torch._dynamo, whether anything is compiled or not.
    "train": ("lightning_fabric", "numpy", "pydantic", "torch", "torch._dynamo", "tqdm"),
}
"""Command -> what the server imports before it runs the first one. A command imports all of it
anyway, so the server never costs more than it saves."""

THREADS = (
    *("OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
)
"""Variables that Snakemake sets to a job's number of threads."""

HARMLESS = frozenset({VARIABLE, "PWD", "OLDPWD", "SHLVL", "_", "TMPDIR", "TMP", "TEMP", "TEMPDIR"})
"""Variables that no package reads while it is imported."""

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
PATIENCE = 10.0  # seconds that a client may take to hand over its request
PR_SET_PDEATHSIG = 1  # of prctl(2)


# In a job's process.


def delegate() -> None:
    """Run this process's command in the server and end as it ends; without a server, return."""
    address = os.environ.get(VARIABLE)
    if not address or len(sys.argv) < 2 or sys.argv[1] not in PACKAGES:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as server:
        umask = os.umask(0)
        os.umask(umask)
        request = {
            "identity": _identity(),
            "argv": sys.argv,
            "path": sys.path,
            "folder": str(Path.cwd()),
            "umask": umask,
            "environment": dict(os.environ),
        }
        text = json.dumps(request).encode()
        server.connect(address)
        # A signal waits until it can be passed on, or this process runs the command itself.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        try:
            socket.send_fds(server, [struct.pack("Q", len(text))], [0, 1, 2])
            server.sendall(text)
            status = _outcome(server)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if status is None:
            return
        if status < 0:
            name = signal.Signals(-status).name
            print(
                f"partbench: the job was killed by {name}: exit code {128 - status}",
                file=sys.stderr,
            )
            if -status != signal.SIGKILL:
                signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        os._exit(status)


def leave(status: int) -> NoReturn:
    """End this process without taking apart what it has imported, which takes torch 0.7 s."""
    import atexit

    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # whoever read our output has gone; Python knows how to say so
        sys.exit(status)
    atexit._run_exitfuncs()
    os._exit(status)


def _outcome(server: socket.socket) -> int | None:
    """Return the child's exit status, negative for a signal; None if it did not run to its end."""

    def forward(number: int, _: object) -> None:
        with contextlib.suppress(OSError):
            server.send(bytes([number]))

    with server.makefile("rb") as answers:
        child = int(answers.readline() or 0)
        if not child:
            return None
        heeded = [n for n in FORWARDED if signal.getsignal(n) is not signal.SIG_IGN]
        handlers = {number: signal.signal(number, forward) for number in heeded}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        with contextlib.suppress(OSError):
            if status := answers.readline():
                return int(status)
    # The server has died, and its child dies of that; only then is the run's folder free.
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(child)], [], [])
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return None


def _identity() -> Any:
    """Return what a child has from the server and not from its client, so must be the same."""
    limits = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
    return [
        [os.path.realpath(sys.executable), sys.prefix, sys.version],
        [sys.flags.optimize, sys.warnoptions, sys._xoptions],
        {key: value for key, value in os.environ.items() if key not in HARMLESS},
        os.getpriority(os.PRIO_PROCESS, 0),
        sorted(os.sched_getaffinity(0)),
        [list(resource.getrlimit(limit)) for limit in limits],
    ]


# In Snakemake's process.


class Server:
    """A server for the jobs that this process starts."""

    _process: Any = None

    def start(self, threads: int) -> None:
        """Start it, where the system can; it imports nothing before a job asks it to.

        Args:
            threads: of a job; jobs with another number run by themselves.
        """
        import subprocess
        import tempfile

        try:
            os.close(os.pidfd_open(os.getpid()))
        except (AttributeError, OSError):  # not Linux, or before 5.3
            return
        self._folder = tempfile.TemporaryDirectory(  # mode 700: nobody else may connect
            prefix="partbench-", ignore_cleanup_errors=True
        )
        address = f"{self._folder.name}/socket"
        with socket.socket(socket.AF_UNIX) as listening:
            try:
                listening.bind(address)
            except OSError:  # a socket's path has at most 107 bytes
                return
            listening.listen(128)
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(listening.fileno())],
                pass_fds=[listening.fileno()],
                env=os.environ | dict.fromkeys(THREADS, str(threads)),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the jobs' processes, which pass it on
            )
        os.environ[VARIABLE] = address

    def stop(self) -> None:
        """Stop it and what it runs, and wait for them."""
        if self._process:
            os.environ.pop(VARIABLE, None)
            self._process.stdin.close()
            self._process.wait()
            self._folder.cleanup()


# In the server.


class _Job(NamedTuple):
    client: socket.socket
    child: int
    pidfd: int
    """Becomes readable when the child ends."""


class _Loop:
    """What the server does; each method answers one kind of event."""

    def __init__(self, listening: socket.socket) -> None:
        self.listening = listening
        # As it is now: packages change the environment when they are imported.
        self.identity = json.loads(json.dumps(_identity()))
        self.jobs: set[_Job] = set()
        self.ready = selectors.DefaultSelector()
        self.ready.register(0, selectors.EVENT_READ, self._snakemake_has_gone)
        self.ready.register(listening, selectors.EVENT_READ, self._a_job_asks)

    def run(self) -> bool:
        """Return False when the server has to end, and True in each child, made up as its job."""
        while self.jobs or self.listening.fileno() >= 0:
            for key, _ in self.ready.select():
                if key.data():
                    return True
        return False

    def _a_job_asks(self) -> bool:
        client, _ = self.listening.accept()
        streams: list[int] = []
        try:
            client.settimeout(PATIENCE)
            header, streams, _, _ = socket.recv_fds(client, 8, 3)
            with client.makefile("rb") as stream:
                request = json.loads(stream.read(*struct.unpack("Q", header)))
            client.settimeout(None)
            if request["identity"] != self.identity:
                raise ValueError("another environment")
            child = _fork(PACKAGES[request["argv"][1]])
        except (OSError, ValueError, struct.error):  # the job runs by itself
            client.close()
        else:
            if not child:
                self._close(client)
                _take_over(request, streams)
                return True
            job = _Job(client, child, os.pidfd_open(child))
            self.jobs.add(job)
            self.ready.register(client, selectors.EVENT_READ, partial(self._a_job_signals, job))
            self.ready.register(job.pidfd, selectors.EVENT_READ, partial(self._a_child_ends, job))
            _tell(client, child)
        finally:
            for descriptor in streams:
                os.close(descriptor)
        return False

    def _a_job_signals(self, job: _Job) -> None:
        if job not in self.jobs:  # its child ended at the same moment
            return
        try:
            numbers = job.client.recv(64)
        except OSError:
            numbers = b""
        for number in numbers:
            signal.pidfd_send_signal(job.pidfd, number)
        if not numbers:  # it has gone
            self.ready.unregister(job.client)
            for kill in (os.killpg, os.kill):  # a child that has just begun has no group yet
                with contextlib.suppress(ProcessLookupError):
                    kill(job.child, signal.SIGKILL)

    def _a_child_ends(self, job: _Job) -> None:
        _, status = os.waitpid(job.child, 0)
        _tell(job.client, os.waitstatus_to_exitcode(status))
        with contextlib.suppress(KeyError):
            self.ready.unregister(job.client)
        self.ready.unregister(job.pidfd)
        job.client.close()
        os.close(job.pidfd)
        self.jobs.remove(job)

    def _snakemake_has_gone(self) -> None:
        address = Path(self.listening.getsockname())
        with contextlib.suppress(OSError):
            address.unlink()
            address.parent.rmdir()
        self.ready.unregister(0)
        self.ready.unregister(self.listening)
        self.listening.close()
        for job in self.jobs:
            signal.pidfd_send_signal(job.pidfd, signal.SIGTERM)

    def _close(self, client: socket.socket) -> None:
        """Close, in a child, what is the server's."""
        self.ready.close()
        self.listening.close()
        client.close()
        for job in self.jobs:
            job.client.close()
            os.close(job.pidfd)


def _tell(client: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # it has gone
        client.sendall(b"%d\n" % number)


def _fork(packages: tuple[str, ...]) -> int:
    """Return the child's process number, and 0 in the child."""
    import ctypes
    import importlib
    import warnings

    for name in packages:
        importlib.import_module(name)
    prctl, server = ctypes.CDLL(None).prctl, os.getpid()
    with warnings.catch_warnings():
        # Python's warning of threads: Arrow's allocator has one, and starts another in a child.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:  # it died before that
            os._exit(1)
        os.setsid()
    return child


def _take_over(request: dict[str, Any], streams: list[int]) -> None:
    """Make this child what its client's process is."""
    import tempfile

    for standard, descriptor in enumerate(streams):
        os.dup2(descriptor, standard)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())  # type: ignore[union-attr]
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.update(request["environment"])  # what packages have set stays
    del os.environ[VARIABLE]
    sys.argv, sys.path = request["argv"], request["path"]
    tempfile.tempdir = None  # as TMPDIR says now


if __name__ == "__main__":
    import runpy

    if not _Loop(socket.socket(fileno=int(sys.argv[1]))).run():
        os._exit(0)
    runpy.run_module("partbench", run_name="__main__", alter_sys=True)
