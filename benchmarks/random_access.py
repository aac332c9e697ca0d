"""Random batches of an array on the disk, in a process that may allocate 1 GiB.

Run by `benchmarks.preparation` as a process of its own: FILE, batches, samples a batch. Prints the
memory that the process has allocated after ten batches and the most of all, MiB. The page cache
does not count: the system takes it back when it needs it.
"""

import resource
import sys
from pathlib import Path

import numpy as np


def own_memory() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
    array, rng = np.load(sys.argv[1], mmap_mode="r"), np.random.default_rng(0)
    batches, size = map(int, sys.argv[2:])
    used = []
    for _ in range(batches):
        batch = array[np.sort(rng.integers(len(array), size=size))].astype(np.float32)
        used.append(own_memory())
    print(max(used[:10]), max(used))
