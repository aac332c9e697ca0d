"""Files that are whole or absent: written aside, synced, renamed."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib.format import open_memmap

from partbench.errors import BadInput


def data_root() -> Path:
    """Return the folder that holds the data sets' own folders: PARTBENCH_DATA, or ./data."""
    return Path(os.environ.get("PARTBENCH_DATA", "data"))


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a path to write; on success it becomes `path`, on failure nothing is left of it.

    Raises:
        BadInput: the disk is full or the folder cannot be written, with what to do.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        aside = Path(name)
        try:
            yield aside
            with aside.open("rb+") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            aside.chmod(0o666 & ~umask)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written by `atomic`; hold the folder first."""
    for aside in folder.glob(".*.????????"):
        aside.unlink()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the operating system's errors about a full or read-only disk into BadInput."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BadInput(
                f"no space left while writing {path}; nothing finished was lost: free space, "
                "then run the same command again"
            ) from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise BadInput(
                f"{path} cannot be written ({error.strerror}); make its folder writable or run "
                "from a folder that is"
            ) from None
        raise
    except RuntimeError as error:
        # torch.save reports a failed write so, without an error number.
        if "file write failed" not in str(error) and "unexpected pos" not in str(error):
            raise
        raise BadInput(
            f"writing {path} failed part of the way, most likely because the disk is full; "
            "nothing finished was lost: free space, then run the same command again"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write json with sorted keys, atomically."""
    with atomic(path) as aside:
        aside.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=True) + "\n")


def read_json(path: Path) -> Any:
    """Read json; raises BadInput if the file is missing or broken."""
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:  # not json, or not even text
        raise BadInput(f"{path} is not json ({error}); delete it and run again") from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for one process.

    Raises:
        BadInput: another process holds it.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BadInput(
                f"{folder} is in use by another run; wait for it to end, or stop it first"
            ) from None
    try:
        yield
    finally:
        lock.release()


def create_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Return a new npy file as a writable memory map, its whole size taken from the disk.

    Writing to a map of a file with holes on a full disk kills the process without a word; taking
    the space first turns that into an error that `explained` can explain.
    """
    array = open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def sha256(*paths: Path) -> str:
    """Return the sha256 of the bytes of files, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
