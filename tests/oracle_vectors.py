"""Files of numbers that the authors' code computed, and a record of which ones tests read."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

RECORD = "PARTBENCH_ORACLE_RECORD"
"""Environment variable: the file to which the keys that tests read are added at the end."""
_read: set[tuple[str, str]] = set()


class Vectors(Mapping[str, NDArray[Any]]):
    """The arrays of an npz file by their keys. Looking one up counts as reading it.

    Listing the keys, or asking whether there is one, does not; there are no `items`, as they
    would read everything.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        with np.load(path, allow_pickle=False) as archive:
            self._arrays = dict(archive)

    def __getitem__(self, key: str) -> NDArray[Any]:
        array = self._arrays[key]
        _read.add((self._name, key))
        return array

    def __contains__(self, key: object) -> bool:
        return key in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def items(self) -> NoReturn:
        raise TypeError("look arrays up by their keys, so that it is known which ones are read")

    values = items

    def below(self, prefix: str) -> list[str]:
        """Return what follows a prefix in the keys that begin with it, in the file's order."""
        return [key.removeprefix(prefix) for key in self if key.startswith(prefix)]


def keep_record() -> None:
    """Write what was read, one file and key a line, where the environment asks for it."""
    if path := os.environ.get(RECORD):
        lines = sorted(f"{name} {key}" for name, key in _read)
        Path(path).write_text("\n".join(lines))
