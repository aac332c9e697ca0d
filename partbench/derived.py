"""A prepared data set that repeats another one with more, or other, annotations.

Its folder links to the arrays of the other one, so it takes the space of what is new.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from partbench.data.prepared import Prepared, checksum_of
from partbench.files import put_in_place
from partbench.integrity import CHECKSUMS, read_record, verify, write_checksums, write_record


def put_derived(
    prepared: Prepared, aside: Path, out: Path, name: str, code: str, about: dict[str, Any]
) -> None:
    """Complete a derived data set, and put it in its place.

    Args:
        prepared: the data set that it repeats.
        aside: the folder that holds the new arrays, in place of those of the same names.
        out: where the folder goes.
        name: of the new data set.
        code: fingerprint of the code that makes it.
        about: keys of meta.json that say what is new.

    Raises:
        BadInput: an array of the old one is damaged.
    """
    old = read_record(prepared.folder / CHECKSUMS)["files"]
    links = [file for file in old if not (aside / file).exists()]
    for file in links:
        verify(prepared.folder / file, prepared.folder / "meta.json")
        _link(prepared.folder / file, aside / file)
    digests = write_checksums(aside, {file: old[file] for file in links})
    changed = {"data_set": name, "code": code, "checksum": checksum_of(digests)}
    write_record(aside / "meta.json", prepared.meta | changed | about)
    put_in_place(aside, out)


def _link(path: Path, to: Path) -> None:
    """Link a file, or copy it where the file system cannot."""
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)
