"""Fetch official files: resumed, verified, from mirrors, or placed by hand.

A file is written to `<data root>/archives/<name>.part` and gets its name only when its size and
checksum hold; only then is it unpacked. `PARTBENCH_MIRROR`, a folder or an http address that holds
the files by name, is asked first.
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import requests
import urllib3
from filelock import FileLock

from partbench.data.archives import Archive
from partbench.data.unpack import unpack
from partbench.errors import BadInput
from partbench.files import atomic, explained, read_json, write_json
from partbench.progress import Progress

PARALLEL = 4
"""Files at once; more would be rude to the hosts."""
ATTEMPTS = 6
"""Failures of one address in a row, without a byte gained, before it is given up."""
PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the second attempt, doubled each time."""
TIMEOUT = (20.0, 60.0)
"""Seconds to connect, and without a byte."""
BLOCK = 1 << 16


class _Passing(Exception):
    """A failure that may pass: the same address is asked again, after `pause` seconds if given."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class _Lasting(Exception):
    """A failure that stays: the next address is asked."""


def folder(root: Path) -> Path:
    """Return where files are fetched to, and where a person places them."""
    return root / "archives"


def fetch(files: Sequence[Archive], root: Path, more: int = 0) -> None:
    """Make sure that what the files give is there: fetch, verify and unpack what is not.

    Args:
        files: what is wanted; what is ready is left alone.
        root: the data root.
        more: bytes that will be written beside them, such as prepared arrays.

    Raises:
        BadInput: a file cannot be had (the message says how to place it by hand), a checksum
            does not hold, the disk lacks space, or an archive is refused by `unpack`. Other
            files are finished all the same.
    """
    wanted = [file for file in files if not file.ready(root)]
    if not wanted:
        return
    with explained(folder(root)):
        folder(root).mkdir(parents=True, exist_ok=True)
    _check_space(wanted, root, more)
    total = sum(file.size or 0 for file in wanted)
    faults: list[str] = []
    with (
        Progress("fetch " + ", ".join(f.name for f in wanted), total, "bytes") as progress,
        ThreadPoolExecutor(PARALLEL) as pool,
    ):
        counter = _Counter(progress)
        try:
            for future in [pool.submit(_obtain, file, root, counter) for file in wanted]:
                try:
                    future.result()
                except BadInput as error:
                    faults.append(str(error))
        except BaseException:  # a person's Ctrl-C must not wait for the other threads' files
            counter.stop.set()
            raise
    if faults:
        raise BadInput("\n".join(faults))


def state(file: Archive, root: Path) -> str:
    """Return in words what is there of a file."""
    if file.ready(root):
        return "ready"
    if placed := _placed(file, root):
        return "fetched, to be unpacked" if _is_verified(placed) else "placed, to be verified"
    part = _part(file, root)
    if part.exists():
        return f"{part.stat().st_size:,} bytes fetched"
    return "missing" if file.urls else "missing, to be placed by hand"


def by_hand(file: Archive, root: Path) -> str:
    """Return how a person makes up for a file that cannot be fetched."""
    checksum = (
        f"sha256 {'begins with ' if len(file.sha256) < 64 else ''}{file.sha256}"
        if file.sha256
        else f"md5 {file.md5}"
        if file.md5
        else "no checksum is published"
    )
    size = f", {file.size:,} bytes" if file.size else ""
    places = ", ".join(str(root / place) for place in file.gives.values())
    return (
        f"get {' or '.join((file.name, *file.same_as))} ({checksum}{size}) from "
        f"{file.source or ' or '.join(file.urls)} and place it into {folder(root)}; or make "
        f"{places} yourself"
    )


class _Counter:
    """One progress for several threads, and the word to stop."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.lock, self.stop = progress, threading.Lock(), threading.Event()

    def add(self, n: int) -> None:
        if self.stop.is_set():
            raise BadInput("stopped")
        with self.lock:
            self.progress.advance(n)

    def wait(self, seconds: float) -> None:
        self.stop.wait(seconds)
        self.add(0)


def _check_space(wanted: Iterable[Archive], root: Path, more: int) -> None:
    need = more
    for file in wanted:
        size = file.size or 0
        there = _placed(file, root) or _part(file, root)
        need += size - min(size, there.stat().st_size if there.exists() else 0)
        need += size if file.packed else 0  # images are compressed already
    free = shutil.disk_usage(root).free
    if need > free:
        raise BadInput(
            f"{root}: {need:,} bytes are needed for "
            f"{', '.join(file.name for file in wanted)} (files, what they unpack to, prepared "
            f"arrays) and {free:,} are free; free space, or set PARTBENCH_DATA to a larger disk"
        )


def _part(file: Archive, root: Path) -> Path:
    return folder(root) / f"{file.name}.part"


def _placed(file: Archive, root: Path) -> Path | None:
    names = [folder(root) / name for name in (file.name, *file.same_as)]
    return next((path for path in names if path.exists()), None)


def _obtain(file: Archive, root: Path, counter: _Counter) -> None:
    with _alone(folder(root) / f".{file.name}.lock"):
        if file.ready(root):  # another process has just made it so
            return
        path = _placed(file, root)
        if path is None:
            path = _download(file, root, counter)
        elif not _is_verified(path):
            if path.name == file.name and (fault := _fault(file, path)):
                raise BadInput(
                    f"{path}: {fault}, so it is not the official file or not whole; delete it, "
                    f"then run again or {by_hand(file, root)}"
                )
            _set_verified(path)
        if file.packed:
            unpack(path, file.gives, root)
        else:
            (place,) = file.gives.values()
            with atomic(root / place) as aside:
                shutil.copyfile(path, aside)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock; of two processes that want one file, the second waits and finds it there."""
    with explained(path), FileLock(path):
        yield


def _download(file: Archive, root: Path, counter: _Counter) -> Path:
    """Fetch a file to its verified name, from the first address that gives it."""
    reasons = []
    for url in _addresses(file):
        try:
            _download_from(url, file, root, counter)
        except _Lasting as error:
            reasons.append(f"  {url}: {error}")
            continue
        path = folder(root) / file.name
        _part(file, root).replace(path)
        _tag(file, root).unlink(missing_ok=True)
        _set_verified(path)
        return path
    told = "\n".join(["", *reasons, ""]) if reasons else " "
    raise BadInput(f"{file.name} cannot be fetched:{told}{by_hand(file, root)}")


def _addresses(file: Archive) -> list[str]:
    mirror = os.environ.get("PARTBENCH_MIRROR", "").rstrip("/")
    if mirror and not mirror.startswith(("http://", "https://")) and not Path(mirror).is_dir():
        raise BadInput(
            f"PARTBENCH_MIRROR is {mirror}, neither a folder that is there nor an http address"
        )
    return [*([f"{mirror}/{file.name}"] if mirror else []), *file.urls]


def _download_from(url: str, file: Archive, root: Path, counter: _Counter) -> None:
    """Bring the .part file to its end and verify it."""
    part = _part(file, root)
    failures = 0
    afresh = False
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if url.startswith(("http://", "https://")):
                _transfer(url, file, root, counter)
            else:
                _copy(Path(url), part, counter)
            if fault := _fault(file, part):
                part.unlink()
                if afresh or not before:
                    raise _Lasting(f"what came is not the file: {fault}")
                afresh = True  # the beginning may have come from elsewhere, long ago
                continue
            return
        except (_Passing, requests.RequestException) as error:
            gained = part.exists() and part.stat().st_size > before
            failures = 0 if gained else failures + 1
            if failures >= ATTEMPTS:
                raise _Lasting(f"{failures} attempts failed, the last so: {error}") from None
            pause = getattr(error, "pause", None)
            counter.wait(min(PAUSE * 2**failures if pause is None else pause, LONGEST_PAUSE))


def _copy(source: Path, part: Path, counter: _Counter) -> None:
    if not source.is_file():
        raise _Lasting("no such file")
    with explained(part):
        shutil.copyfile(source, part)
    counter.add(source.stat().st_size)


def _tag(file: Archive, root: Path) -> Path:
    """Return where the server's name of the version that is being fetched is kept."""
    return folder(root) / f"{file.name}.part.tag"


def _transfer(url: str, file: Archive, root: Path, counter: _Counter) -> None:
    """Ask for what is missing of a .part file and append it."""
    part, tag = _part(file, root), _tag(file, root)
    start = part.stat().st_size if part.exists() else 0
    if start and start == file.size:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "partbench"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text()
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416:  # nothing lies beyond what we have
            if answer.headers.get("Content-Range") == f"bytes */{start}":
                return
            part.unlink()
            raise _Passing("the server has less than had been fetched; begun anew", 0)
        _check_answer(answer)
        if answer.status_code != 206:
            start = 0
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()
            raise _Passing("the server sends another range than asked for; begun anew", 0)
        length = answer.headers.get("Content-Length", "")
        end = start + int(length) if length.isdigit() else None
        if file.size and end is not None and end != file.size:
            raise _Lasting(f"it has {end:,} bytes, the official file has {file.size:,}")
        version = answer.headers.get("ETag", "")
        # A checksum tells in the end whether two halves belong together; without one, this does.
        if not start and not (file.sha256 or file.md5) and version and version[:2] != "W/":
            tag.write_text(version)
        received = start
        with explained(part), part.open("ab" if start else "wb") as out:
            for block in _blocks(answer):
                received += len(block)
                if file.size and received > file.size:
                    part.unlink()
                    raise _Lasting(f"more than the official file's {file.size:,} bytes came")
                out.write(block)
                counter.add(len(block))
        if end is not None and received < end:
            raise _Passing(f"the connection ended after {received:,} of {end:,} bytes")


def _blocks(answer: requests.Response) -> Iterator[bytes]:
    """Yield the body as it comes, so that all that came before a break is kept."""
    try:
        while block := answer.raw.read1(BLOCK, decode_content=False):
            yield block
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _Passing(f"the connection broke ({type(error).__name__})") from None


def _check_answer(answer: requests.Response) -> None:
    """Raise what an answer means that does not hold the file."""
    code = answer.status_code
    if code in (408, 425, 429) or code >= 500:
        asked = answer.headers.get("Retry-After", "")
        raise _Passing(f"the server answers {code}", float(asked) if asked.isdigit() else None)
    if code >= 400:
        raise _Lasting(f"the server answers {code} {answer.reason}")
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise _Lasting("a web page came instead of the file: a quota or a login stands before it")


def _fault(file: Archive, path: Path) -> str:
    """Return what is wrong with a file's size or checksum, or nothing."""
    size = path.stat().st_size
    if file.size and size != file.size:
        return f"it has {size:,} bytes, the official file has {file.size:,}"
    kind, known = ("sha256", file.sha256) if file.sha256 else ("md5", file.md5)
    if known:
        with path.open("rb") as content:
            found = hashlib.file_digest(content, kind).hexdigest()
        if not found.startswith(known):
            return f"its {kind} is {found}, the official file's is {known}"
    if not known and not file.size:
        with path.open("rb") as content:
            if content.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html")):
                return "it is a web page"
    return ""


def _mark(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified")


def _set_verified(path: Path) -> None:
    """Remember that a file was verified, as it is now: hashing 20 GB takes minutes."""
    status = path.stat()
    write_json(_mark(path), [status.st_size, status.st_mtime_ns])


def _is_verified(path: Path) -> bool:
    if not _mark(path).exists():
        return False
    status = path.stat()
    return bool(read_json(_mark(path)) == [status.st_size, status.st_mtime_ns])
