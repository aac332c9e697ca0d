"""Rows of numbers that need not fit into memory: memory-mapped files of limited length."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partbench.files import create_array

ROWS = 1 << 20
"""Rows of a file."""


class Shards:
    """A float32 array [n, dimensions] in files of a folder, written and read in parts.

    Args:
        folder: an existing folder, which belongs to this array alone.
        n: rows.
        dimensions: numbers in a row.
        rows: of a file.
    """

    def __init__(self, folder: Path, n: int, dimensions: int, rows: int = ROWS) -> None:
        self.folder, self.n, self.dimensions, self.rows = folder, n, dimensions, rows
        self.files = [
            create_array(
                folder / f"{start // rows:05d}.npy", np.float32, (min(rows, n - start), dimensions)
            )
            for start in range(0, n, rows)
        ]

    def __len__(self) -> int:
        return self.n

    def write(self, start: int, values: NDArray[np.float32]) -> None:
        """Write rows from `start` on, [m, dimensions]."""
        while len(values):
            shard, row = divmod(start, self.rows)
            part = values[: self.rows - row]
            self.files[shard][row : row + len(part)] = part
            start, values = start + len(part), values[len(part) :]

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a copy of some rows, [..., dimensions] for indices [...]."""
        values = np.empty((*indices.shape, self.dimensions), np.float32)
        shards = indices // self.rows
        for shard in np.unique(shards):
            here = shards == shard
            values[here] = self.files[shard][indices[here] % self.rows]
        return values

    def blocks(self, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the first row and a copy of each block of at most `size` rows."""
        for start in range(0, self.n, size):
            yield start, self.take(np.arange(start, min(start + size, self.n)))
