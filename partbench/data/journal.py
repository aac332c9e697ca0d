"""What a preparation notes while it runs: the chunks on the disk, and the checksum so far."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partbench.data.placed import look
from partbench.data.prepared import FORMAT
from partbench.data.reader import Reader
from partbench.files import sha256


class Journal:
    """What has been decoded into a folder, so that a stopped preparation can be resumed.

    A file of json lines: what is being made; then the chunks that are on the disk, and the splits
    that are finished.

    Args:
        folder: of the journal and the arrays; emptied where the journal is of another preparation.
        reader: the data set.
        names: of the samples that are prepared, split by split.
    """

    def __init__(self, folder: Path, reader: Reader, names: Sequence[Sequence[str]]) -> None:
        self.path = folder / "journal.jsonl"
        self.chunks: dict[str, dict[int, list[int]]] = {}
        """Split -> start of a chunk -> positions of the images in it that were skipped."""
        self.splits: dict[str, dict[str, Any]] = {}
        begun = {
            "format": FORMAT,
            "reader": type(reader).__module__,
            "settings": reader.settings.model_dump(mode="json"),
            "code": sha256(*sorted(Path(__file__).parent.glob("*.py"))),
            "files": look(reader).times,
            "samples": hashlib.sha256(json.dumps(names).encode()).hexdigest(),
        }
        lines = self._read()
        if not lines or lines[0] != begun:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._write(begun)
            return
        for line in lines[1:]:
            if "chunk" in line:
                self.chunks.setdefault(line["split"], {})[line["chunk"]] = line["skipped"]
            elif "done" in line:
                self.splits[line["split"]] = line["done"]
            else:  # rows of the arrays had begun to move
                self.chunks.pop(line["split"], None)

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        os.truncate(self.path, whole)  # a killed process may have left half a line
        return [json.loads(line) for line in content[:whole].splitlines()]

    def _write(self, *lines: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

    def add_chunks(self, split: str, chunks: dict[int, list[int]]) -> None:
        """Note chunks whose arrays are on the disk."""
        self.chunks.setdefault(split, {}).update(chunks)
        self._write(
            *({"split": split, "chunk": start, "skipped": s} for start, s in chunks.items())
        )

    def moving(self, split: str) -> None:
        """Note that rows of the arrays are about to move."""
        self._write({"split": split})

    def finish(self, split: str, summary: dict[str, Any]) -> None:
        """Note that a split is whole."""
        self._write({"split": split, "done": summary})


class Checksum:
    """The sha256 of files one after another, read while they are filled.

    So a set larger than the memory is not read from the disk again, and the other processes
    decode meanwhile. If files are filled in another order than `of` asks for, `of` reads them
    all again.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._read: dict[Path, int] = {}
        """File -> bytes of it that were read, in the order of reading."""

    def read(self, path: Path, end: int | None = None) -> None:
        """Go on with a file, up to byte `end` of it."""
        with path.open("rb", buffering=0) as file:
            at = file.seek(self._read.get(path, 0))
            end = path.stat().st_size if end is None else end
            while at < end:
                block = file.read(min(end - at, 1 << 20))
                self._digest.update(block)
                at += len(block)
        self._read[path] = at

    def of(self, paths: Sequence[Path]) -> str:
        """Return the sha256 of the files, in this order."""
        return self._digest.hexdigest() if list(self._read) == list(paths) else sha256(*paths)
