"""What a preparation notes while it runs: the chunks on the disk, and the checksum so far."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partbench.data.placed import look
from partbench.data.prepared import FORMAT
from partbench.data.reader import Reader
from partbench.files import make_empty, sha256


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
            make_empty(folder)
            self._write(begun)
            return
        for line in lines[1:]:
            if "again" in line:
                self.chunks[line["split"]].pop(line["again"])
            elif "chunk" in line:
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

    def look_again(self) -> None:
        """Note that chunks of which samples were skipped are to be decoded again."""
        for split, chunks in self.chunks.items():
            again = [start for start, skipped in chunks.items() if skipped]
            self._write(*({"split": split, "again": start} for start in again))

    def moving(self, split: str) -> None:
        """Note that rows of the arrays are about to move."""
        self._write({"split": split})

    def finish(self, split: str, summary: dict[str, Any]) -> None:
        """Note that a split is whole."""
        self._write({"split": split, "done": summary})


class Checksum:
    """The sha256 of a file, read while it is filled from its beginning.

    So a file larger than the memory is not read from the disk again, and the other processes
    decode meanwhile.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._at = 0

    def read(self, path: Path, end: int | None = None) -> None:
        """Read on, up to byte `end` of the file; by default to its end."""
        with path.open("rb", buffering=0) as file:
            file.seek(self._at)
            end = path.stat().st_size if end is None else end
            while self._at < end:
                block = file.read(min(end - self._at, 1 << 20))
                self._digest.update(block)
                self._at += len(block)

    def of(self, path: Path) -> str:
        """Return the sha256 of the whole file."""
        self.read(path)
        return self._digest.hexdigest()
