"""Results that cannot change unnoticed: what partbench writes is checked where it is read.

A json record carries the sha256 of its own content, a folder of arrays those of its files in
`checksums.json`. Models, checkpoints and pictures are zip archives, whose format has checksums.
A flipped bit, a truncated file and a number edited by hand all end in `Damaged`.
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput
from partbench.files import MARK, sha256, write_json

CHECKSUMS = "checksums.json"
"""Record in a folder of arrays: file -> sha256."""
SEAL = "sha256"
"""Key of a record's own checksum."""


class Damaged(BadInput):
    """A file that partbench wrote is not as partbench wrote it."""

    def __init__(self, path: Path, why: str, product: Path | None = None) -> None:
        """Say which file, why, and what to delete.

        Args:
            path: the file.
            why: what shows the damage, for the message.
            product: what to delete so that the workflow makes the file anew; by default itself.
        """
        self.product = product or path
        super().__init__(
            f"{path} is damaged, or was changed after partbench wrote it: {why}. Delete "
            f"{self.product} and run the same command again: it is made anew"
        )

    def set_aside(self) -> str:
        """Take the product out of the workflow's way; return what became of it, in words.

        A file is kept under another name. A folder, which a stage makes for the next one alone, is
        removed.
        """
        with suppress(OSError):  # another job has moved it, or the disk is read-only
            if (self.product / MARK).exists():
                shutil.rmtree(self.product)
                return f"{self.product} is removed"
            if self.product.is_file():
                aside = self.product.with_name(f"{self.product.name}.damaged")
                self.product.replace(aside)
                return f"{self.product} is moved to {aside.name}"
        return f"{self.product} cannot be moved"


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as json with their checksum, atomically.

    Args:
        path: the file.
        values: plain json without the key `sha256`.
    """
    write_json(path, {**values, SEAL: _seal(values)})


def read_record(path: Path, product: Path | None = None) -> dict[str, Any]:
    """Return the values that `write_record` wrote.

    Args:
        path: the file.
        product: see `Damaged`.

    Raises:
        BadInput: there is no such file, or it cannot be read.
        Damaged: it is not json, its content does not agree with its checksum, or it is missing
            beside the product.
    """
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        if product and product.exists():
            raise Damaged(path, f"it cannot be read ({error.strerror})", product) from None
        raise BadInput(
            f"{path}: cannot be read ({error.strerror}); run the command that makes it"
        ) from None
    except ValueError as error:  # not json, or not even text
        raise Damaged(path, f"it is not json ({error})", product) from None
    if not isinstance(values, dict):
        raise Damaged(path, "it holds no keys and values", product)
    seal = values.pop(SEAL, None)
    if seal is None:
        raise Damaged(path, "it has no checksum, as those of earlier versions", product)
    if seal != _seal(values):
        raise Damaged(path, "its content does not agree with its checksum", product)
    return values


def _seal(values: Mapping[str, Any]) -> str:
    # Read back first: json turns tuples into lists, and numbers that are keys into text.
    content = json.loads(json.dumps(dict(values)))
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_checksums(folder: Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Write the checksums of a folder's arrays and lists of names.

    Args:
        folder: with files *.npy and *.txt; no other is read.
        known: file -> sha256, of files that need not be read again.

    Returns:
        File -> sha256, sorted.
    """
    paths = sorted([*folder.glob("*.npy"), *folder.glob("*.txt")])
    digests = {p.name: (known or {}).get(p.name) or sha256(p) for p in paths}
    write_record(folder / CHECKSUMS, {"files": digests})
    return digests


def open_array(path: Path, product: Path) -> NDArray[Any]:
    """Return an npy file as a memory map, its content verified.

    A process reads a file that did not change once to verify it, 1.4 GB in a second.

    Args:
        path: the file, in a folder that has `checksums.json`.
        product: see `Damaged`.

    Raises:
        Damaged: it is missing, is no npy file, or differs from its checksum.
    """
    verify(path, product)
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Damaged(path, str(error), product) from None
    return array


def verify(path: Path, product: Path) -> None:
    """Compare a file with its checksum in the folder's `checksums.json`.

    Raises:
        Damaged: it differs or is missing, or the record lacks it.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise Damaged(path, f"it cannot be read ({error.strerror})", product) from None
    digests = read_record(path.with_name(CHECKSUMS), product)["files"]
    if path.name not in digests:
        raise Damaged(path, f"{CHECKSUMS} beside it does not name it", product)
    state = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if _digest(path, state) != digests[path.name]:
        raise Damaged(path, "its content does not agree with its checksum", product)


@lru_cache(maxsize=1024)
def _digest(path: Path, state: tuple[int, ...]) -> str:
    """Return a file's sha256; `state` stands for its content."""
    return sha256(path)


def check_archive(path: Path, product: Path | None = None) -> None:
    """Read a zip archive, such as `model.pt`, to compare its members with their checksums.

    Raises:
        Damaged: it is no zip archive, or a member differs.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                member = archive.testzip()
        except Exception as error:  # zipfile raises anything on a damaged directory
            raise Damaged(path, str(error) or type(error).__name__, product) from None
    if member is not None:
        raise Damaged(path, f"its part {member} does not agree with its checksum", product)
