"""Where a result comes from: code, commit, versions, machine, command."""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from partbench import __version__, plugins

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "lightning-fabric")
NO_COMMIT = "not a git checkout"
READER = "reader.json"
"""File beside a prepared data set that says where its reader comes from, if that is a plugin."""


def provenance(device: str, code: str) -> dict[str, Any]:
    """Return what is needed to repeat a result made now.

    Args:
        device: "cpu" or "cuda".
        code: the fingerprint of the code that made it.
    """
    used = [origin(plugin) for plugin in plugins.used()]
    folders = os.environ.get(plugins.VARIABLE, "")
    prefix = f"{plugins.VARIABLE}={shlex.quote(folders)} " if folders else ""
    return {
        "code": code,
        **_commit(),
        "command": prefix + shlex.join(["partbench", *sys.argv[1:]]),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        **({"plugins": used} if used else {}),
        "device": device_name(device),
        "cpu": cpu_name(),
        "platform": platform.platform(),
    }


@cache
def origin(plugin: plugins.Plugin) -> dict[str, Any]:
    """Return where a plugin comes from: distribution, version and commit, or folder and commit."""
    what = {"kind": plugin.kind, "name": plugin.name}
    distribution = plugin.distribution
    if distribution is None:
        folder = plugins.packages()[plugin.module.partition(".")[0]]
        return {**what, "folder": str(folder), **_commit_of(folder)}
    source = json.loads(distribution.read_text("direct_url.json") or "{}")
    if commit := source.get("vcs_info", {}).get("commit_id"):  # installed from a repository
        state = {"commit": commit, "dirty": False}
    else:
        place = plugins.packages()[plugin.module.partition(".")[0]]
        state = _commit_of(place if place.is_dir() else place.parent)
    return {
        **what,
        "distribution": distribution.name,
        "version": distribution.version,
        **state,
    }


@cache
def _commit() -> dict[str, Any]:
    """Return the commit of the code that runs, and whether the code differs from it."""
    state = _commit_of(Path(__file__).parent)
    if state["commit"] == NO_COMMIT:
        return state | {"commit": f"{NO_COMMIT}, version {__version__}"}
    return state


def _commit_of(folder: Path) -> dict[str, Any]:
    """Return the commit of a folder of code, and whether the code differs from it.

    It differs if a file that git tracks is changed or the folder holds one that git does not. A
    folder of which git tracks nothing, such as one of installed packages, has no commit.
    """

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", *command], cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        tracked = git("ls-files")
        commit = git("rev-parse", "HEAD")
        changed = git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
        untracked = git("ls-files", "--others", "--exclude-standard")
    except (OSError, subprocess.CalledProcessError):
        tracked = ""
    if not tracked:
        return {"commit": NO_COMMIT, "dirty": False}
    return {"commit": commit, "dirty": bool(changed or untracked)}


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
