"""Read arrays from an npz file of a stranger: what it claims is checked before it is unpacked.

The directory of the zip archive and the header of each array say how much there is to read. Both
may lie, so memory is taken only where they agree and there is enough of it.
"""

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
from numpy.lib import format as npy
from numpy.typing import NDArray

from partbench.errors import BadInput, in_short, shown

SHARE = 4
"""Arrays may take one part in so many of the memory that is available: rulers copy them."""
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
ENCRYPTED = 1
"""Flag of a zip member."""


def read(path: Path, wanted: Collection[str]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Return the arrays of an npz file that are wanted, and the names of all that it holds.

    Args:
        path: the file.
        wanted: names of arrays; those that the file lacks are left out.

    Raises:
        BadInput: no such file, not an npz; an array that is damaged, encrypted, there twice or of
            Python objects, or whose header does not fit its size; arrays that take more than their
            share of the memory.
    """
    with _open(path) as archive:
        members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in wanted and name in members:
                raise BadInput(f"{path}: holds the array '{name}' twice; write it once")
            members[name] = member
        found = {name: members[name] for name in members if name in wanted}
        most = psutil.virtual_memory().available // SHARE
        size = 0
        for name, member in found.items():
            size += _size(archive, member, f"{path}: cannot read the array '{name}'")
            if size > most:
                raise BadInput(
                    f"{path}: unpacked, its arrays take {_gib(size)} or more, and no more than "
                    f"{_gib(most)} may be taken, 1/{SHARE} of the memory that is available; give "
                    "fewer samples, or use a machine with more memory"
                )
        arrays = {name: _array(archive, member, path, name) for name, member in found.items()}
    return arrays, list(members)


def _open(path: Path) -> zipfile.ZipFile:
    if not path.is_file():
        raise BadInput(f"{path}: {'not a' if path.exists() else 'no such'} file; give an npz file.")
    try:
        with path.open("rb") as file:
            single = file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX
        archive = None if single else zipfile.ZipFile(path)
    except Exception as error:  # parsers of damaged bytes raise what comes to their mind
        raise BadInput(
            f"{path}: not an npz file ({in_short(error)}); write it with numpy.savez."
        ) from None
    if archive is None:
        raise BadInput(f"{path}: a single npy array; write named arrays with numpy.savez.")
    return archive


def _size(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> int:
    """Return the bytes of an array, in which its header and the archive's directory agree."""
    if member.flag_bits & ENCRYPTED:
        raise BadInput(f"{where}: it is encrypted; write it with numpy.savez.")
    try:
        with archive.open(member) as file:
            shape, dtype = _header(file)
            header = file.tell()
    except Exception as error:
        raise BadInput(f"{where} ({in_short(error)}); write it with numpy.savez.") from None
    if dtype.hasobject:
        raise BadInput(
            f"{where}: arrays of Python objects are refused, write plain numbers with numpy.savez."
        )
    promised, held = math.prod(shape) * dtype.itemsize, member.file_size - header
    if promised != held or min(shape, default=0) < 0:
        raise BadInput(
            f"{where}: its header promises {shown(math.prod(shape))} numbers of {dtype}, and there "
            f"are {held:,} bytes; write it again with numpy.savez."
        )
    return promised


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"npy version {version} is not for plain numbers")
    shape, _, dtype = HEADERS[version](file)
    return shape, dtype


def _array(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, name: str
) -> NDArray[Any]:
    try:
        with archive.open(member) as file:
            array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    except Exception as error:
        raise BadInput(
            f"{path}: cannot read the array '{name}' ({in_short(error)}); write it again with "
            "numpy.savez."
        ) from None
    return array


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
