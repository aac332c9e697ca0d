"""Jobs in the fork server: the same as by themselves, and none left behind."""

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from checkout import REPOSITORY, Checkout

from partbench import forkserver

pytestmark = pytest.mark.timeout(300)

# What the commands below run in place of partbench's own: the server takes it from their folder.
PRETENDED = """
import json, os, signal, sys, tempfile, time

def main():
    what, *arguments = sys.argv[2:]
    print("begin", os.getpid(), flush=True)
    if what == "describe":
        print(json.dumps({
            "parent": os.getppid(),
            "argv": sys.argv[1:],
            "folder": os.getcwd(),
            "umask": os.umask(0),
            "environment": dict(os.environ),
            "temporary": tempfile.gettempdir(),
            "terminal": os.isatty(0),
            "input": sys.stdin.read(),
        }), end="")  # left in the buffer
        print("to stderr", file=sys.stderr)
    if what == "exit":
        raise SystemExit(int(arguments[0]))
    if what == "raise":
        raise RuntimeError("it went wrong")
    if what == "die":
        os.kill(os.getpid(), int(arguments[0]))
    if what == "wait":
        number = int(arguments[0])
        signal.signal(number, lambda *_: (print("heard", flush=True), os._exit(75)))
        print("ready", flush=True)
        time.sleep(1000)
    return 0
"""


class Jobs:
    """A folder in which `python -m partbench probe` is `PRETENDED`, and a server for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        package = folder / "partbench"
        package.mkdir(parents=True)
        for name in ("__init__.py", "__main__.py", "forkserver.py"):
            shutil.copy(REPOSITORY / "partbench" / name, package)
        self.code = package / "cli.py"
        self.code.write_text(PRETENDED)
        self.server = forkserver.Server()
        self.server.start(threads=1)
        # As Snakemake gives it to jobs; pytest's own changes from test to test.
        threads = dict.fromkeys(forkserver.THREADS, "1")
        self.environment = {**os.environ, **threads}

    def start(
        self, *arguments: str, python: tuple[str, ...] = (), **environment: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *python, "-m", "partbench", "probe", *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell starts what it runs in the background with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments: str, **options: Any) -> tuple[int, str, str]:
        """Return the exit status, stdout without its first line, stderr."""
        process = self.start(*arguments, **options)
        output, errors = process.communicate("an input", timeout=120)
        return process.returncode, output.partition("\n")[2], errors

    def describe(self, **options: Any) -> dict[str, Any]:
        status, output, errors = self.run("describe", **options)
        assert (status, errors) == (0, "to stderr\n")
        return dict(json.loads(output))

    def served(self, **options: Any) -> bool:
        return bool(self.describe(**options)["parent"] == self.server._process.pid)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    jobs = Jobs(tmp_path / "checkout")
    server = psutil.Process(jobs.server._process.pid)
    yield jobs
    started = [server, *server.children(recursive=True)] if server.is_running() else []
    jobs.server.stop()
    assert [process for process in started if alive(process.pid)] == []
    assert not Path(jobs.environment[forkserver.VARIABLE]).parent.exists()


def alive(process: int) -> bool:
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


def wait_until(true: Callable[[], bool], what: str, seconds: float = 60) -> None:
    patience = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < patience, what
        time.sleep(0.02)


def begun(process: subprocess.Popen[str]) -> int:
    """Return the number of the process that runs the command, once it does."""
    assert process.stdout
    word, number = process.stdout.readline().split()
    assert word == "begin"
    return int(number)


# What a command sees, and what is seen of it.


def test_a_command_is_where_its_process_was_started(jobs: Jobs, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        served = jobs.describe(TMPDIR=str(tmp_path), SHLVL="7")
    finally:
        os.umask(before)
    alone = jobs.describe(TMPDIR=str(tmp_path), SHLVL="7", PARTBENCH_FORKSERVER="")
    assert served.pop("parent") == jobs.server._process.pid != alone.pop("parent")
    assert (served.pop("umask"), alone.pop("umask")) == (0o027, before)
    assert served.pop("terminal") == alone.pop("terminal") is False
    packages = {"KMP_DUPLICATE_LIB_OK": "True"}  # threadpoolctl's
    alone["environment"] = packages | alone["environment"]
    assert alone["environment"].pop("PARTBENCH_FORKSERVER") == ""
    assert served == alone
    assert served["temporary"] == str(tmp_path)
    assert served["input"] == "an input"
    assert served["argv"] == ["probe", "describe"]


def test_the_exit_status_is_the_commands(jobs: Jobs) -> None:
    assert jobs.run("return") == (0, "", "")
    assert jobs.run("exit", "75") == (75, "", "")
    status, output, errors = jobs.run("raise")
    assert (status, output) == (1, "")
    assert errors.endswith("RuntimeError: it went wrong\n")
    for number in (signal.SIGKILL, signal.SIGABRT, signal.SIGTERM):
        told = f"partbench: the job was killed by {number.name}: exit code {128 + number}\n"
        assert jobs.run("die", str(int(number))) == (-number, "", told)
    assert jobs.served()


def test_an_edit_between_two_jobs_is_seen(jobs: Jobs) -> None:
    assert jobs.served()
    jobs.code.write_text(PRETENDED.replace("to stderr", "edited"))
    assert jobs.run("describe")[2] == "edited\n"
    module = jobs.code.with_name("added.py")
    module.write_text("TEXT = 'added'")
    jobs.code.write_text(
        "from partbench.added import TEXT\n" + PRETENDED.replace("to std", "{TEXT}")
    )
    jobs.code.write_text(jobs.code.read_text().replace('"{TEXT}err"', "TEXT"))
    assert jobs.run("describe")[2] == "added\n"


def test_jobs_run_side_by_side(jobs: Jobs) -> None:
    waiting = [jobs.start("wait", str(int(signal.SIGUSR1))) for _ in range(3)]
    assert len({begun(process) for process in waiting}) == 3
    for process in waiting:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    assert jobs.served()
    for process in waiting:
        process.send_signal(signal.SIGUSR1)
    assert [process.wait(60) for process in waiting] == [75] * 3


# Signals, and ends that nobody planned.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_reaches_the_command(jobs: Jobs, number: signal.Signals) -> None:
    process = jobs.start("wait", str(int(number)))
    begun(process)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (75, "heard\n", "")


def test_a_signal_waits_until_the_server_has_answered(jobs: Jobs, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        process = jobs.start("wait", "15", PARTBENCH_FORKSERVER=str(tmp_path / "socket"))
        server, _ = listening.accept()
        with server:
            (length,) = struct.unpack("Q", server.recv(8))
            server.recv(length, socket.MSG_WAITALL)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            server.sendall(b"%d\n" % os.getpid())
            assert server.recv(1) == bytes([signal.SIGTERM])
            server.sendall(b"75\n")
        assert process.wait(60) == 75


def test_a_command_that_heeds_no_signal_dies_of_it(jobs: Jobs) -> None:
    process = jobs.start("wait", str(int(signal.SIGUSR1)))
    begun(process)
    process.terminate()
    assert process.wait(60) == -signal.SIGTERM


@pytest.mark.fault
def test_a_killed_job_kills_its_command(jobs: Jobs) -> None:
    process = jobs.start("wait", str(int(signal.SIGTERM)))
    child = begun(process)
    process.kill()
    wait_until(lambda: not alive(child), "the command runs on")
    assert jobs.served()


@pytest.mark.fault
def test_without_its_server_a_job_runs_by_itself(jobs: Jobs) -> None:
    process = jobs.start("wait", str(int(signal.SIGTERM)))
    child = begun(process)
    assert child != process.pid
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    jobs.server._process.kill()
    assert begun(process) == process.pid  # again, and only after the other's end
    assert not alive(child)
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(60) == 75
    assert not jobs.served()


@pytest.mark.fault
def test_a_server_that_breaks_off_is_done_without(jobs: Jobs) -> None:
    jobs.server._process.send_signal(signal.SIGSTOP)
    process = jobs.start("return")
    time.sleep(0.5)  # it has asked
    jobs.server._process.kill()
    assert begun(process) == process.pid
    assert process.wait(60) == 0


def test_a_stopped_server_takes_its_children_along(jobs: Jobs) -> None:
    process = jobs.start("wait", str(int(signal.SIGTERM)))
    child = begun(process)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    jobs.server.stop()
    assert not alive(child)
    assert process.wait(60) == 75
    assert process.stdout.readline() == "heard\n"
    assert forkserver.VARIABLE not in os.environ


@pytest.mark.parametrize(
    "options",
    [
        {"OMP_NUM_THREADS": "2"},
        {"OPENBLAS_CORETYPE": "a core that no machine names"},
        {"python": ("-O",)},
        {"python": ("-W", "error::BytesWarning")},
        {forkserver.VARIABLE: "/nowhere"},
    ],
    ids=str,
)
def test_a_server_of_another_environment_is_not_used(jobs: Jobs, options: Any) -> None:
    assert not jobs.served(**options)
    assert jobs.served()


def test_a_job_of_other_priority_or_processors_is_not_served(jobs: Jobs) -> None:
    for command in (["nice"], ["taskset", "-c", str(min(os.sched_getaffinity(0)))]):
        if command[0] == "taskset" and len(os.sched_getaffinity(0)) == 1:
            continue
        words = [*command, sys.executable, "-m", "partbench", "probe", "describe"]
        text = subprocess.check_output(
            words, cwd=jobs.folder, env=jobs.environment, stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert json.loads(text.partition("\n")[2])["parent"] != jobs.server._process.pid


def test_a_path_too_long_for_a_socket_leaves_the_jobs_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    server = forkserver.Server()
    server.start(1)
    assert forkserver.VARIABLE not in os.environ
    server.stop()


# The commands themselves.

SETTINGS = json.dumps(
    {"encoder_width": 8, "decoder_width": 8, "batch_size": 16, "images_per_epoch": 64}
    | {"parts": 4, "part_dims": 2, "learning_rate": 2e-3}
)
RUNTIME = '{"device": "cpu", "threads": 1}'


def cell(data: Path, out: Path, epochs: int = 2) -> list[list[str]]:
    """Return the commands of a cell; its results go to `out`."""
    settings = json.dumps(json.loads(SETTINGS) | {"epochs": epochs})
    run = ("--run", "patchvae/paper/toy/0")
    place = ("--runtime", RUNTIME, "--data", str(data))
    outputs = ("--outputs", f"{out}/outputs", "--pictures", f"{out}/pictures.npz")
    source = ("--source", f"{out}/outputs", "--out", f"{out}/cell.json")
    return [
        ["train", *run, *place, "--settings", settings, "--out", f"{out}/run"],
        ["extract", *place, "--model", f"{out}/run/model.pt", "--needs", "features", *outputs],
        ["probe", "linear", *run, *place, "--settings", '{"cs": [0.01]}', *source],
    ]


def partbench(command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "partbench", *command],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(folder: Path) -> dict[str, Any]:
    """Return what the files of a cell hold, but for clocks and provenance."""
    contents: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            about = json.loads(path.read_text())
            clocks = (
                "seconds",
                "images_per_second",
                "peak_memory_mb",
                "provenance",
                "log",
                "sha256",
            )
            contents[name] = {key: value for key, value in about.items() if key not in clocks}
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()]
            contents[name] = lines
        elif path.suffix == ".npz":
            contents[name] = {key: value.tobytes() for key, value in np.load(path).items()}
        elif path.is_file():
            contents[name] = path.read_bytes()
    return contents


def test_results_are_the_same_bytes(jobs: Jobs, tiny: Path, tmp_path: Path) -> None:
    for name, address in (("served", jobs.environment[forkserver.VARIABLE]), ("alone", "")):
        environment = jobs.environment | {forkserver.VARIABLE: address}
        for command in cell(tiny, tmp_path / name):
            process = partbench(command, environment)
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    server = psutil.Process(jobs.server._process.pid)
    assert any("libtorch" in file.path for file in server.memory_maps())  # it has served
    served, alone = results(tmp_path / "served"), results(tmp_path / "alone")
    assert sorted(served) == sorted(alone)
    assert [name for name in served if served[name] != alone[name]] == []
    assert {"run/model.pt", "outputs/test.features.npy", "cell.json"} <= set(served)


def test_a_training_stopped_by_a_signal_saves_its_state(
    jobs: Jobs, tiny: Path, tmp_path: Path
) -> None:
    command, *_ = cell(tiny, tmp_path, epochs=5000)
    process = partbench(command, jobs.environment)
    log = tmp_path / "run" / "log.jsonl"
    wait_until(lambda: log.exists() and log.stat().st_size > 0, "no step", 120)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "run the same command again to resume" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "run" / "checkpoint.pt").exists()


# The workflow.

LONG = {
    "name": "long",
    "comparable": False,
    "seeds": [0],
    "runtime": {"device": "cpu", "threads": 1},
    "data": {"toy": {"reader": "toy", "size": 32, "train": 48, "val": 1, "test": 32}},
    "settings": {"patchvae": {**json.loads(SETTINGS), "epochs": 5000}},
    "runs": [
        {"train": "toy", "methods": {"patchvae": ["demo"]}, "probes": {"linear": ["toy"]}},
    ],
}


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_a_killed_snakemake_leaves_no_process_behind(tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench")
    config = here.configure(LONG)
    hidden = {"PARTBENCH_DATA", "PYTHONPATH", "SNAKEMAKE_PROFILE"}
    snakemake = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", config],
        cwd=here.folder,
        env={key: value for key, value in os.environ.items() if key not in hidden},
        stderr=subprocess.DEVNULL,
    )
    inside: list[psutil.Process] = []
    try:
        run = here.folder / "results/long/runs/patchvae/demo/toy/0"
        log = run / "log.jsonl"
        wait_until(lambda: log.exists() and log.stat().st_size > 0, "no step", 300)
        inside = [p for p in psutil.process_iter() if here.folder == working_folder(p)]
        server, training = (p for p in inside if any("forkserver.py" in w for w in p.cmdline()))
        assert training.ppid() == server.pid
        snakemake.kill()
        snakemake.wait(60)
        wait_until(lambda: not any(alive(p.pid) for p in inside), "a process runs on")
        assert (run / "checkpoint.pt").exists()
    finally:
        snakemake.kill()
        for process in inside:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def working_folder(process: psutil.Process) -> Path | None:
    try:
        return Path(process.cwd())
    except (psutil.Error, OSError):
        return None
