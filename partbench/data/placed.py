"""Whether the files that a person places have changed since they were prepared.

Names, sizes and times tell, so nothing is read. Where times alone differ, as after a copy, the
contents decide, if they were recorded. Files that partbench fetches have checksums of their own
and do not count, nor do hidden files.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from partbench.data.archives import Archive, files_read
from partbench.data.reader import Reader
from partbench.files import is_folder

FILES, BYTES = 200_000, 20_000_000_000
"""Of more files, names alone count, and of more files or bytes no contents are recorded: a look
must not take longer than a few seconds, nor the contents longer than a minute."""
ABSENT = "absent"


class Listing(NamedTuple):
    """The files that a person places for a data set, as they are now."""

    times: str
    """Digest of their names, sizes and times; empty where there is nothing for a person to place,
    `ABSENT` where nothing is placed."""
    sizes: str
    """Digest of their names and sizes."""
    paths: Sequence[str]
    """Files whose contents may be read; empty if they are too many or too large."""
    root: str

    def contents(self) -> str:
        """Return a digest of names and contents, all read; empty where there are no `paths`."""
        if not self.paths:
            return ""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(os.fsencode(f"{path.removeprefix(self.root)}\0{_sha256(path)}\n"))
        return digest.hexdigest()[:12]


def look(reader: Reader) -> Listing:
    """Return what the files that a person places for a reader look like; nothing is read."""
    return look_at(reader.root, _places(reader))


def look_at_weights(files: Sequence[Archive], root: Path) -> Listing:
    """Return what files of weights look like that a person places or no checksum covers."""
    open_to_change = (file for file in files if not (file.urls and file.has_checksum))
    return look_at(root, [root / place for file in open_to_change for place in file.gives.values()])


def look_at(folder: Path, places: Sequence[Path]) -> Listing:
    """Return what files and folders below a data root look like; nothing is read."""
    root = str(folder)
    if not any(place.exists() for place in places):
        return Listing(ABSENT if places else "", "", (), root)
    names, sizes, times = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    paths: list[str] = []
    total, count = 0, 0
    for count, (path, entry) in enumerate(_files(places), start=1):
        name = os.fsencode(path.removeprefix(root))
        names.update(b"%s\n" % name)
        if count > FILES:
            continue
        try:
            status = entry.stat()
            size, time = status.st_size, status.st_mtime_ns
            if stat.S_ISREG(status.st_mode):
                paths.append(path)
        except OSError:  # a link that leads nowhere
            size, time = -1, -1
        sizes.update(b"%s\0%d\n" % (name, size))
        times.update(b"%s\0%d\0%d\n" % (name, size, time))
        total += max(size, 0)
    if count > FILES:
        sizes = times = names
    if count > FILES or total > BYTES:
        paths = []
    return Listing(times.hexdigest()[:12], sizes.hexdigest()[:12], paths, root)


def record(reader: Reader, asked: str = "") -> dict[str, str]:
    """Return what `is_same` and `digest` compare with later.

    Args:
        reader: the data set.
        asked: the digest with which its files were asked for; default: that of the files now.
    """
    return record_of(look(reader), asked)


def record_of(now: Listing, asked: str = "") -> dict[str, str]:
    """Return the `record` of files that were looked at; empty if there is nothing to place."""
    if not now.times:
        return {}
    return {
        "asked": asked or now.times,
        "found": now.times,  # another one, if an archive was unpacked meanwhile
        "sizes": now.sizes,
        "contents": now.contents(),
    }


def is_same(now: Listing, recorded: Mapping[str, str]) -> bool:
    """Return whether files are those of a record, or gone, which changes nothing prepared."""
    if now.times in (ABSENT, recorded["asked"], recorded["found"]):
        return True
    if now.sizes != recorded["sizes"] or not recorded["contents"]:
        return False
    return now.contents() == recorded["contents"]


def digest(reader: Reader, recorded: Mapping[str, str]) -> str:
    """Return a short text that differs from that of the last preparation if the files do.

    Args:
        reader: the data set.
        recorded: its last record; empty if there is none.
    """
    return digest_of(look(reader), recorded)


def digest_of(now: Listing, recorded: Mapping[str, str]) -> str:
    """Return the `digest` of files that were looked at."""
    return recorded["asked"] if recorded and is_same(now, recorded) else now.times


def _places(reader: Reader) -> list[Path]:
    """Return the files and folders that no checksum covers: of a subset, nothing is fetched."""
    name = type(reader).__module__.rpartition(".")[2]
    archives = [
        reader.root / place
        for file in files_read(name, reader.settings)
        if reader.settings.subset or not file.urls
        for place in file.gives.values()
    ]
    return sorted({*archives, *reader.own_files()})  # of settings in any order


def _files(places: Sequence[Path]) -> Iterator[tuple[str, "os.DirEntry[str] | Path"]]:
    """Yield every file, folder by folder; each folder behind a link once, so that loops end."""
    linked: set[Path] = set()
    for place in places:
        if not place.is_dir():
            yield str(place), place
            continue
        folders = [str(place)]
        while folders:
            inner = []
            for entry in _entries(folders.pop()):
                if entry.name.startswith("."):
                    continue
                if not is_folder(entry):
                    yield entry.path, entry
                elif not entry.is_symlink():
                    inner.append(entry.path)
                elif (target := Path(entry.path).resolve()) not in linked:
                    linked.add(target)
                    inner.append(entry.path)
            folders += reversed(inner)


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:  # who reads it says so
        return []


def _sha256(path: str) -> str:
    try:
        with Path(path).open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"
