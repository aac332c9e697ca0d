"""Files that are whole or absent: written aside, synced, renamed."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib.format import open_memmap

from partbench.errors import BadInput

PATIENCE = 30.0
"""Seconds: the jobs of a Snakemake that was killed save their state before they end."""
MARK = ".partbench"
"""File that marks a folder as made by partbench, which alone it may replace."""


def data_root() -> Path:
    """Return the folder that holds the data sets' own folders: PARTBENCH_DATA, or ./data."""
    return Path(os.environ.get("PARTBENCH_DATA", "data"))


def check_places(results: Path) -> None:
    """Refuse places in which a stage might write over what is not partbench's.

    Args:
        results: the folder results/NAME.

    Raises:
        BadInput: a link leads out of `results/`, or the data root lies inside it.
    """
    base = results.parent.resolve()
    for folder in (results, *results.glob("*")):
        if not folder.resolve().is_relative_to(base):
            raise BadInput(
                f"{folder} leads to {folder.resolve()}, outside {results.parent}/; make it a "
                f"folder, or make {results.parent} itself the link"
            )
    if data_root().resolve().is_relative_to(base):
        raise BadInput(
            f"the data root {data_root().resolve()} lies inside {base}, whose files partbench "
            "replaces; set PARTBENCH_DATA to another folder"
        )


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
            sync(aside)
            umask = os.umask(0)
            os.umask(umask)
            aside.chmod(0o666 & ~umask)
            aside.replace(path)
            sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some network file systems cannot do that
            raise
    finally:
        os.close(descriptor)


def sweep(folder: Path, *names: str) -> None:
    """Remove what a killed process left of files half-written by `atomic`.

    Args:
        folder: hold it first.
        names: of the files.
    """
    for name in names:
        for aside in folder.glob(f".{name}.????????"):
            aside.unlink()


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def aside_of(folder: Path) -> Path:
    """Return the folder in which a stage makes `folder`, until it is whole.

    Names in a configuration do not begin with a dot, so no other folder is called so.
    """
    return folder.with_name(f".{folder.name}.part")


def make_empty(folder: Path) -> None:
    """Make a folder that carries partbench's mark; what a killed process left in it is removed.

    Raises:
        BadInput: there is one without the mark.
    """
    _remove(folder)
    folder.mkdir(parents=True)
    (folder / MARK).touch()


def put_in_place(aside: Path, folder: Path) -> None:
    """Rename a folder of files that `make_empty` made to `folder`; an older one is replaced.

    Raises:
        BadInput: partbench did not make the older one.
    """
    for path in (*aside.iterdir(), aside):
        sync(path)
    _remove(folder)
    aside.rename(folder)
    sync(folder.parent)


def _remove(folder: Path) -> None:
    """Remove a folder that partbench made, if it is there."""
    # Renamed before it is removed: a process killed meanwhile may leave it without its mark.
    old = folder.with_name(f".{folder.name}.removed")
    if old.exists():
        shutil.rmtree(old)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BadInput(
            f"{folder} is a {'link' if folder.is_symlink() else 'file'}, and partbench makes a "
            "folder there; move it away, then run the same command again"
        )
    if not folder.exists():
        return
    # Snakemake makes the folder of a file before the job that writes it runs.
    if not (folder / MARK).exists() and any(folder.iterdir()):
        raise BadInput(
            f"{folder} was not made by partbench, which would replace it (it holds no {MARK}); "
            "move it away, or choose another name"
        )
    folder.rename(old)
    shutil.rmtree(old)


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
    """Write json, atomically."""
    with atomic(path) as aside:
        aside.write_text(json.dumps(value, indent=1) + "\n")


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
    """Hold a folder for one process, after waiting a while for one that is about to end.

    Raises:
        BadInput: another process holds it.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=PATIENCE)
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
