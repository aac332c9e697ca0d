"""Unpack untrusted archives: every member is checked before it is written."""

import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import rarfile

from partbench.errors import BadInput
from partbench.files import explained
from partbench.progress import Progress

BLOCK = 1 << 20
RATIO, ALLOWANCE = 100, 64 << 20
"""An archive may unpack to RATIO times its size plus ALLOWANCE bytes. Json in a zip reaches some 20
times its size."""
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    rarfile.Error,
    zlib.error,
    EOFError,
    NotImplementedError,  # raised by zipfile for an unknown compression
)


class Member(NamedTuple):
    """One entry of an archive."""

    name: str
    size: int
    kind: str
    """"file" or "folder"; an entry of any other kind is refused."""
    open: Callable[[], IO[bytes]]


def unpack(path: Path, gives: Mapping[str, str], root: Path) -> None:
    """Unpack an archive (zip, tar, rar) into its places; each place is complete or absent.

    Files that a killed process has already unpacked are kept.

    Args:
        path: the archive.
        gives: path inside the archive -> path below `root`; "" stands for the whole content.
        root: the data root.

    Raises:
        BadInput: one of these, with the name of the archive and of the member, if any:
            - the archive is damaged or encrypted, or lacks a path of `gives`;
            - a member would leave the folder, is a link or a device, or has an absurd size;
            - the disk is full.
    """
    aside = root / f".unpacking-{path.name}"
    with explained(root):
        try:
            _write_members(path, aside)
            sources = [aside / inside if inside else _content(aside) for inside in gives]
            if missing := [str(s.relative_to(aside)) for s in sources if not s.exists()]:
                raise BadInput(f"{path} does not contain {missing}; it is not the official file")
        except BadInput:
            shutil.rmtree(aside)
            raise
        except _DAMAGED as error:
            shutil.rmtree(aside)
            raise BadInput(
                f"{path} is damaged or not in the format of its name ({error}); delete it "
                "and fetch or place it again"
            ) from None
        os.sync()  # all of it to the disk, before it has the names that readers look for
        for source, place in zip(sources, gives.values(), strict=True):
            target = root / place
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                source.rename(target)
        shutil.rmtree(aside, ignore_errors=True)  # absent if the whole of it was moved


def _content(aside: Path) -> Path:
    entries = list(aside.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else aside


def _write_members(path: Path, aside: Path) -> None:
    limit = RATIO * path.stat().st_size + ALLOWANCE
    total = 0
    aside.mkdir(parents=True, exist_ok=True)
    with Progress(f"unpack {path.name}", None, "files") as progress:
        for member in _members(path):
            target = aside / _safe(path, member)
            total += member.size
            if total > limit:
                raise BadInput(
                    f"{path}: with '{member.name}' ({member.size:,} bytes) it unpacks to more than "
                    f"{limit:,} bytes, an absurd size; it is not the official file"
                )
            if member.kind == "folder":
                target.mkdir(parents=True, exist_ok=True)
                continue
            progress.advance()
            if target.is_file() and target.stat().st_size == member.size:
                continue  # unpacked by an earlier process
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(path, member, target)


def _write(path: Path, member: Member, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    written = 0
    with member.open() as source, part.open("wb") as file:
        while block := source.read(BLOCK):
            written += len(block)
            if written > member.size:
                raise BadInput(
                    f"{path}: '{member.name}' is longer than its stated {member.size:,} bytes"
                )
            file.write(block)
    if written < member.size:
        raise EOFError(f"'{member.name}' ends after {written:,} of {member.size:,} bytes")
    part.replace(target)


def _safe(path: Path, member: Member) -> PurePosixPath:
    """Return the path of a member below the folder that it is unpacked into.

    Raises:
        BadInput: the path would leave the folder, or the member is neither file nor folder.
    """
    name = PurePosixPath(member.name.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[:1] or "\0" in member.name:
        raise BadInput(
            f"{path}: '{member.name}' would leave its folder; nothing of the archive was used"
        )
    if member.kind not in ("file", "folder"):
        raise BadInput(
            f"{path}: '{member.name}' is a {member.kind}; only files and folders are unpacked"
        )
    return name


def _members(path: Path) -> Iterator[Member]:
    if path.name.endswith(".zip"):
        yield from _zip_members(path)
    elif path.name.endswith(".rar"):
        yield from _rar_members(path)
    else:
        yield from _tar_members(path)


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise BadInput(_encrypted(path, info.filename))
            link = (info.external_attr >> 16) & 0o170000 == 0o120000
            kind = "folder" if info.is_dir() else "link" if link else "file"
            yield Member(info.filename, info.file_size, kind, partial(archive.open, info))


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path, "r|*") as archive:
        for info in archive:
            kind = (
                "folder"
                if info.isdir()
                else "file"
                if info.isreg()
                else "link"
                if info.issym() or info.islnk()
                else "device"
            )

            def content(info: tarfile.TarInfo = info) -> IO[bytes]:
                file = archive.extractfile(info)
                assert file is not None  # a regular file
                return file

            yield Member(info.name, info.size, kind, content)


def _rar_members(path: Path) -> Iterator[Member]:
    with rarfile.RarFile(path) as archive:
        for info in archive.infolist():
            if info.needs_password():
                raise BadInput(_encrypted(path, info.filename))
            kind = "folder" if info.is_dir() else "link" if info.is_symlink() else "file"
            if kind == "file" and info.compress_type != rarfile.RAR_M0:
                _require_rar_tool(path)
            yield Member(info.filename, info.file_size, kind, partial(archive.open, info))


def _require_rar_tool(path: Path) -> None:
    try:
        rarfile.tool_setup()
    except rarfile.RarCannotExec:
        raise BadInput(
            f"unpacking {path} needs one of the programs unrar, unar, 7z or bsdtar; install one "
            "(Debian: apt install unar), or place the zip archive instead"
        ) from None


def _encrypted(path: Path, name: str) -> str:
    return (
        f"{path}: '{name}' is encrypted; unpack the archive yourself, with the password from its "
        "owners, into the place that `partbench data check` names"
    )
