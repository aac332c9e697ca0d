"""A Slurm cluster of one node, which is this machine, with a stand-in for a GPU.

The daemons are Debian's (`tests/install_slurm.sh`). Their configuration has to lie in /etc/slurm:
the plugin that starts a job's step drops SLURM_CONF from the environment.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

CONFIGURATION = Path("/etc/slurm")
MARK = "# Written by partbench's tests."
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
SOCKETS = Path("/run/munge")

# Declared, not measured: the profile asks for more than the machine that tests may have.
CPUS, MEMORY_MB, GRACE = 8, 512_000, 10

CLUSTER = "partbench-tests"

SLURM_CONF = f"""{MARK}
ClusterName={CLUSTER}
SlurmctldHost={{host}}
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,preempt_youngest_first
SchedulerTimeSlice=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MinJobAge=3600
KillWait=5
GresTypes=gpu
SlurmctldPidFile={{folder}}/slurmctld.pid
SlurmdPidFile={{folder}}/slurmd.pid
SlurmdSpoolDir={{folder}}/slurmd
StateSaveLocation={{folder}}/state
SlurmctldLogFile={{folder}}/slurmctld.log
SlurmdLogFile={{folder}}/slurmd.log
NodeName={{host}} CPUs={CPUS} RealMemory={MEMORY_MB} Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime={GRACE}
PartitionName=cpu Nodes=ALL MaxTime=INFINITE PriorityTier=1 PreemptMode=OFF
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""
# A device that is there everywhere; nothing opens it.
GRES_CONF = f"{MARK}\nNodeName={{host}} Name=gpu File=/dev/null\n"


def unavailable() -> str:
    """Return why no cluster can be started here; empty if one can."""
    if missing := [program for program in PROGRAMS if not shutil.which(program, path=_path())]:
        return f"Slurm is not installed: no {', '.join(missing)} (Debian: slurm-wlm, munge)"
    if os.geteuid():
        return "starting Slurm's daemons takes root"
    own = CONFIGURATION / "slurm.conf"
    if own.exists() and not own.read_text().startswith(MARK):
        return f"{own} is somebody else's"
    return ""


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _munge_answers() -> bool:
    return subprocess.run(["munge", "--no-input"], capture_output=True).returncode == 0


def _kill_leftovers() -> None:
    """Kill processes of jobs that lost their parents: without control groups Slurm forgets them."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("SLURM_CLUSTER_NAME") == CLUSTER:
                process.kill()


def wait_for(what: str, condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.2)


class Cluster:
    """The daemons; `start` them first and `stop` them at the end.

    Args:
        folder: of their state and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.host = folder, socket.gethostname().partition(".")[0]
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the daemons and wait for the node."""
        for name in ("slurmd", "state"):
            (self.folder / name).mkdir(parents=True)
        places = {"host": self.host, "folder": self.folder}
        CONFIGURATION.mkdir(exist_ok=True)
        (CONFIGURATION / "gres.conf").write_text(GRES_CONF.format(**places))
        (CONFIGURATION / "slurm.conf").write_text(SLURM_CONF.format(**places))
        if not _munge_answers():
            self._start_munge()
        self.start_controller()
        self._run("slurmd", "-D")
        wait_for("the node", lambda: self.command("sinfo", "--noheader", "-o", "%T") == "idle")

    def _start_munge(self) -> None:
        folders = (SOCKETS, Path("/var/log/munge"), Path("/var/lib/munge"))
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.chown(folder, "munge", "munge")
        SOCKETS.chmod(0o755)
        self._run("runuser", "-u", "munge", "--", "/usr/sbin/munged", "--foreground")
        wait_for("munge", _munge_answers)

    def start_controller(self) -> None:
        """Start slurmctld; it takes up the state that an earlier one left."""
        self._run("slurmctld", "-D")
        wait_for("slurmctld", lambda: "UP" in self.command("scontrol", "ping"))

    def kill_controller(self) -> None:
        """Kill slurmctld as a crash would."""
        daemon = self._daemons.pop("slurmctld")
        daemon.kill()
        daemon.wait()

    def stop(self) -> None:
        """Cancel what runs, stop the daemons, remove the configuration."""
        if "slurmctld" in self._daemons:
            self.command("scancel", "--user=root", "--full", "--signal=KILL")
            self.command("scancel", "--user=root")
        for name in ("slurmd", "slurmctld", "runuser"):
            if daemon := self._daemons.pop(name, None):
                daemon.terminate()
                daemon.wait(timeout=60)
        _kill_leftovers()
        for name in ("slurm.conf", "gres.conf"):
            (CONFIGURATION / name).unlink(missing_ok=True)

    def command(self, *words: str) -> str:
        """Return what one of Slurm's commands prints."""
        return subprocess.run(words, capture_output=True, text=True).stdout.strip()

    def _run(self, *words: str) -> None:
        path = os.environ | {"PATH": _path()}
        with (self.folder / f"{words[0]}.out").open("ab") as log:
            self._daemons[words[0]] = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=path
            )
