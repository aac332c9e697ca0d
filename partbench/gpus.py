"""GPUs of their own for jobs that run side by side on one machine.

On a cluster the scheduler gives each job its GPUs. On a machine with several, Snakemake only counts
them, so that every job would take the first. Here a job takes those that no other job of this user
holds.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from filelock import FileLock, Timeout

VISIBLE = "CUDA_VISIBLE_DEVICES"
PAUSE = 1.0  # seconds between two looks

_held: list[FileLock] = []
"""Until this process ends."""


def claim(count: int) -> None:
    """Hold GPUs that no other job of this user holds here, and see these alone; wait for them.

    To be called before CUDA starts, which reads the environment once. Where no more GPUs are
    visible than the job needs, as on a cluster, there is nothing to choose.

    Args:
        count: how many.
    """
    visible = _visible()
    if len(visible) <= count:
        return
    while len(_held) < count:
        for gpu in visible:
            if len(_held) < count and gpu not in _names():
                _try(gpu)
        if len(_held) < count:
            # Whoever holds some and waits for more might wait for another that does the same.
            _release()
            time.sleep(PAUSE)
    os.environ[VISIBLE] = ",".join(_names())


def _visible() -> Sequence[str]:
    """Return the GPUs that this process sees, by their names in `CUDA_VISIBLE_DEVICES`."""
    if VISIBLE in os.environ:
        return [gpu.strip() for gpu in os.environ[VISIBLE].split(",") if gpu.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def _try(gpu: str) -> None:
    lock = FileLock(_folder() / f"{quote(gpu, safe='')}.lock")  # MIG names may have slashes
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return
    _held.append(lock)


def _names() -> list[str]:
    return [unquote(Path(lock.lock_file).stem) for lock in _held]


def _release() -> None:
    for lock in _held:
        lock.release()
    _held.clear()


def _folder() -> Path:
    """Return a folder on this machine's own disk: the GPUs are this machine's."""
    folder = Path(tempfile.gettempdir()) / f"partbench-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
