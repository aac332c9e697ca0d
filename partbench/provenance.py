"""Where a result comes from: code, commit, versions, machine, command."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "lightning-fabric")


def provenance(device: str, code: str) -> dict[str, Any]:
    """Return what is needed to repeat a result made now.

    Args:
        device: "cpu" or "cuda".
        code: the fingerprint of the code that made it.
    """
    return {
        "code": code,
        **_commit(),
        "command": shlex.join(["partbench", *sys.argv[1:]]),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "device": device_name(device),
        "cpu": cpu_name(),
        "platform": platform.platform(),
    }


@cache
def _commit() -> dict[str, Any]:
    """Return the commit of the code that runs, and whether the code differs from it.

    It differs if a file that git tracks is changed or this package holds one that git does not.
    """
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
        untracked = _git("ls-files", "--others", "--exclude-standard")  # of this folder
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "not a git checkout", "dirty": False}
    return {"commit": commit, "dirty": bool(changed or untracked)}


def _git(*command: str) -> str:
    """Return what git says in the folder of this package."""
    here = Path(__file__).parent
    done = subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@cache
def cpu_name() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """Return the name of the card, or of the processor for "cpu"."""
    if device != "cuda":
        return cpu_name()
    import torch

    return torch.cuda.get_device_name()
