"""Remove the lock that a killed Snakemake left in the working folder: `partbench unlock`."""

import os
import shutil
from pathlib import Path

import psutil

from partbench.errors import BadInput

LOCKS = Path(".snakemake/locks")


def unlock() -> bool:
    """Remove the lock; return whether there was one.

    Raises:
        BadInput: a Snakemake of this machine works in this folder.
    """
    if running := [str(pid) for pid in _snakemakes(Path.cwd())]:
        raise BadInput(
            f"Snakemake runs in {Path.cwd()} (process {', '.join(running)}); wait for it to end, "
            "or stop it first"
        )
    locked = LOCKS.is_dir() and any(LOCKS.iterdir())
    if locked:
        shutil.rmtree(LOCKS)
    return locked


def _snakemakes(folder: Path) -> list[int]:
    """Return the processes that run Snakemake in a folder."""
    pids = []
    for process in psutil.process_iter():
        try:
            words = [Path(word).name for word in process.cmdline()[:3]]
            # As `snakemake`, or as `python -m snakemake`.
            if "snakemake" in words and Path(process.cwd()) == folder:
                pids.append(process.pid)
        except (psutil.Error, OSError):  # it has ended, or is another user's
            continue
    return [pid for pid in pids if pid != os.getpid()]
