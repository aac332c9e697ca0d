"""A pack: one zip archive of a results folder, to hand to others.

It holds the tables, the cells with their per-sample outcomes, the records and logs of trainings,
the configuration, the pictures, and the logs of the jobs that failed. It holds neither data sets
nor models. Its member `pack.json` is a sealed record, whose json schema stands beside it.
"""

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from partbench import __version__
from partbench.config import Config, check
from partbench.data.unpack import unpack
from partbench.errors import BadInput
from partbench.files import atomic, sha256
from partbench.integrity import Damaged, read_record, write_record
from partbench.jobs import FILE, SKIPPED, failed_logs
from partbench.names import Name
from partbench.probe import read_cell
from partbench.settings import Settings

MANIFEST = "pack.json"
SCHEMA = "pack.schema.json"
FORMAT = 1
"""Of packs: raised whenever an older partbench could not read a new one."""
MEMBERS = (
    "config.json",
    "metrics.*",
    "summary.*",
    "comparisons.*",
    "cells/*/*/*/*/*/*.json",
    "cells/*/*/*/*/*/*.parquet",
    "cells/*/*/*/*/*/*.npz",
    "runs/*/*/*/*/train.json",
    "runs/*/*/*/*/log.jsonl",
    "data/*/meta.json",
    "data/*/*.png",
    FILE,
    SKIPPED,
)
"""What of a results folder is packed, beside the logs of failed jobs."""
PICTURES = ("*.png", "*.npz")


class Manifest(Settings):
    """What `pack.json` says."""

    format: Literal[1] = Field(description="of the pack")
    name: Name = Field(description="of the configuration")
    partbench: str = Field(description="the version that packed")
    commits: list[str] = Field(description="of the code that made the cells, sorted")
    definitions: dict[str, list[int]] = Field(description="probe -> versions of its definition")
    data: dict[str, list[str]] = Field(
        description="data set -> checksums of what was trained and measured on"
    )
    files: dict[str, str] = Field(description="member -> sha256")


def pack(results: Path, out: Path, pictures: bool = True) -> Manifest:
    """Write the pack of a results folder; the same folder gives the same bytes.

    Args:
        results: the folder results/NAME.
        out: the zip archive.
        pictures: also pack the pictures. They show images of the data sets, some of which may not
            be passed on.

    Raises:
        BadInput: the folder lacks its configuration or its tables, holds no finished cell, or one
            of its files is damaged.
    """
    for needed in ("config.json", "metrics.parquet"):
        if not (results / needed).exists():
            raise BadInput(
                f"{results} has no {needed}; name a results folder whose report was written, such "
                "as results/demo"
            )
    paths = members(results, pictures)
    schema = json.dumps(Manifest.model_json_schema(), indent=1).encode()
    digests = {name: sha256(path) for name, path in paths.items()}
    manifest = Manifest.parse(
        {
            "format": FORMAT,
            "name": read_record(results / "config.json")["name"],
            "partbench": __version__,
            **_origins(results),
            "files": {SCHEMA: hashlib.sha256(schema).hexdigest(), **digests},
        },
        str(results),
    )
    with tempfile.TemporaryDirectory() as folder, atomic(out) as aside:
        record = Path(folder) / MANIFEST
        write_record(record, manifest.model_dump())
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_entry(SCHEMA), schema)
            for name, path in {MANIFEST: record, **paths}.items():
                # Without the file's time, which would make each pack another.
                with path.open("rb") as file, archive.open(_entry(name), "w") as member:
                    while block := file.read(1 << 20):
                        member.write(block)
    return manifest


def members(results: Path, pictures: bool = True) -> dict[str, Path]:
    """Return what of a results folder belongs into a pack: name -> path, sorted by name."""
    paths = {path for pattern in MEMBERS for path in results.glob(pattern)}
    paths |= {results / log for log in failed_logs(results)}
    return {
        path.relative_to(results).as_posix(): path
        for path in sorted(paths)
        if pictures or not any(path.match(pattern) for pattern in PICTURES)
    }


@contextmanager
def opened(source: Path) -> Iterator[Path]:
    """Yield a results folder: `source` itself, or what the pack `source` holds while it is open.

    Raises:
        BadInput: it is neither, or the archive is no pack of this format, or unsafe to unpack.
        Damaged: a member is not as it was packed.
    """
    if source.is_dir():
        yield source
        return
    if not zipfile.is_zipfile(source):
        raise BadInput(
            f"{source} is neither a results folder, such as results/demo, nor a pack, which "
            "`partbench pack` writes of one"
        )
    with tempfile.TemporaryDirectory() as folder:
        unpack(source, {"": "pack"}, Path(folder))
        content = Path(folder) / "pack"
        _verify(content, source)
        yield content


def configuration(source: Path, folder: Path) -> Config:
    """Return the configuration of a results folder.

    Args:
        source: what the user named, for messages.
        folder: the results folder.

    Raises:
        BadInput: it holds none, or one that this partbench does not know.
    """
    if not (folder / "config.json").exists():
        raise BadInput(f"{source} has no config.json; name a results folder or a pack")
    try:
        return check(read_record(folder / "config.json"), f"{source}: config.json")
    except BadInput as error:
        raise BadInput(
            f"{error}\n{source} was made by another version of partbench, or with plug-ins that "
            "are not here; run its configuration with this version"
        ) from None


def _verify(content: Path, source: Path) -> None:
    """Raise unless all files of an unpacked pack are those of its manifest."""
    if not (content / MANIFEST).exists():
        raise BadInput(f"{source} has no {MANIFEST}, so it is no pack; make one: `partbench pack`")
    try:
        values = read_record(content / MANIFEST)
    except Damaged:
        raise _Tampered(source, MANIFEST) from None
    if values.get("format") != FORMAT:
        raise BadInput(
            f"{source} is a pack of the format {values.get('format')}, and this version reads "
            f"{FORMAT}; use the version of partbench that packed it, {values.get('partbench')}"
        )
    manifest = Manifest.parse(values, f"{source}: {MANIFEST}")
    there = {p.relative_to(content).as_posix() for p in content.rglob("*") if p.is_file()}
    for name in sorted(there ^ {MANIFEST, *manifest.files}):
        raise _Tampered(source, name)
    for name, digest in manifest.files.items():
        if sha256(content / name) != digest:
            raise _Tampered(source, name)


class _Tampered(BadInput):
    """A pack is not as `partbench pack` wrote it."""

    def __init__(self, source: Path, name: str) -> None:
        super().__init__(
            f"{source}: {name} is not as it was packed; the pack was changed or damaged. Get it "
            "again from where it was made"
        )


def _origins(results: Path) -> dict[str, Any]:
    """Return commits, definition versions and data checksums of the cells of a results folder."""
    commits: set[str] = set()
    definitions: dict[str, set[int]] = {}
    data: dict[str, set[str]] = {}
    for path in sorted((results / "cells").glob("*/*/*/*/*/*.json")):
        cell = read_cell(path)
        commits.add(cell["provenance"]["commit"])
        definitions.setdefault(cell["probe"], set()).add(cell["version"])
        data.setdefault(cell["eval"], set()).add(cell["data_checksum"])
    for path in sorted((results / "runs").glob("*/*/*/*/train.json")):
        data.setdefault(path.parts[-3], set()).add(read_record(path)["data_checksum"])
    if not definitions:
        raise BadInput(f"{results} has no finished cell; there is nothing to pack")
    return {
        "commits": sorted(commits),
        "definitions": {name: sorted(versions) for name, versions in sorted(definitions.items())},
        "data": {name: sorted(checksums) for name, checksums in sorted(data.items())},
    }


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry
