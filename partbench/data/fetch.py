"""Fetch official files: resume downloads, use mirrors, verify, and accept files placed by hand.

A download is written to `<data root>/archives/<name>.part`. Once its size and checksum are right,
it is renamed to `<name>` and then unpacked. `PARTBENCH_MIRROR` is a folder or an http address that
holds the files by name; it is tried first. With `PARTBENCH_OFFLINE` set, nothing else is tried.
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
from partbench.files import atomic, explained, read_json, sync, write_json
from partbench.progress import Progress

PARALLEL = 4
"""Files fetched at the same time; more would be impolite to the hosts."""
ATTEMPTS = 6
"""Failed attempts in a row, without one new byte, after which an address is given up."""
PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the second attempt, doubled before each later one, and the longest wait."""
TIMEOUT = (20.0, 60.0)
"""Seconds to wait for a connection, and for the next byte."""
BLOCK = 1 << 16


class _TemporaryFailure(Exception):
    """A failure after which the same address is tried again, after `pause` seconds if given."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class _PermanentFailure(Exception):
    """A failure after which the next address is tried."""


def folder(root: Path) -> Path:
    """Return the folder into which files are fetched, and into which a person places them."""
    return root / "archives"


def fetch(files: Sequence[Archive], root: Path, extra_bytes: int = 0) -> None:
    """Fetch, verify and unpack all files that are not ready.

    Args:
        files: the files to make ready; a file that is ready is not touched.
        root: the data root.
        extra_bytes: bytes that will be written beside the files, such as prepared arrays.

    Raises:
        BadInput: a file cannot be fetched (the message says how to place it by hand), a checksum is
            wrong, the disk lacks space, or `unpack` refuses an archive. The other files are still
            finished.
    """
    pending = [file for file in files if not file.ready(root)]
    if not pending:
        return
    with explained(folder(root)):
        folder(root).mkdir(parents=True, exist_ok=True)
    _check_space(pending, root, extra_bytes)
    total = sum(file.size or 0 for file in pending)
    faults: list[str] = []
    with (
        Progress("fetch " + ", ".join(f.name for f in pending), total, "bytes") as progress,
        ThreadPoolExecutor(PARALLEL) as pool,
    ):
        counter = _Counter(progress)
        try:
            for future in [pool.submit(_obtain, file, root, counter) for file in pending]:
                try:
                    future.result()
                except BadInput as error:
                    faults.append(str(error))
        except BaseException:  # Ctrl-C must not wait for the files of other threads
            counter.stop.set()
            raise
    if faults:
        raise BadInput("\n".join(faults))


def verify(file: Archive, root: Path) -> None:
    """Check the checksum of a file that a person may have put where it is read.

    Raises:
        BadInput: the file is not the official one.
    """
    if file.packed:
        return  # the checksum is the archive's
    (place,) = file.gives.values()
    if fault := _fault(file, root / place):
        raise BadInput(
            f"{root / place}: {fault}, so it is not the official file; delete it, then run the "
            f"command again or {by_hand(file, root)}"
        )


def state(file: Archive, root: Path) -> str:
    """Return the state of a file in words: "ready" if all that it gives is present."""
    if file.ready(root):
        return "ready"
    if placed := _placed(file, root):
        return "fetched, to be unpacked" if _is_verified(placed) else "placed, to be verified"
    part = _part(file, root)
    if part.exists():
        return f"{part.stat().st_size:,} bytes fetched"
    return "missing" if file.urls else "missing, to be placed by hand"


def lacks(file: Archive, root: Path) -> bool:
    """Whether a person must place a file: it is not there, and no address may be tried."""
    if file.ready(root) or _placed(file, root):
        return False
    return not any(
        url.startswith(("http://", "https://")) or Path(url).exists() for url in _addresses(file)
    )


def by_hand(file: Archive, root: Path) -> str:
    """Return instructions to get a file and place it by hand."""
    checksum = (
        f"sha256 {'begins with ' if len(file.sha256) < 64 else ''}{file.sha256}"
        if file.sha256
        else f"md5 {file.md5}"
        if file.md5
        else f"`git hash-object` gives {file.git_blob}"
        if file.git_blob
        else "no checksum is published"
    )
    size = f", {file.size:,} bytes" if file.size else ""
    places = ", ".join(str(root / place) for place in file.gives.values())
    return (
        f"get {' or '.join((file.name, *file.same_as))} ({checksum}{size}) from "
        f"{file.source or ' or '.join(file.urls)} and place it in {folder(root)}; or "
        f"create {places} yourself"
    )


class _Counter:
    """One progress bar for several threads, and a signal that stops them."""

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


def _check_space(pending: Iterable[Archive], root: Path, extra_bytes: int) -> None:
    required = extra_bytes
    for file in pending:
        size = file.size or 0
        path = _placed(file, root) or _part(file, root)
        required += size - min(size, path.stat().st_size if path.exists() else 0)
        required += size if file.packed else 0  # images hardly shrink in an archive
    free = shutil.disk_usage(root).free
    if required > free:
        raise BadInput(
            f"{root}: {required:,} bytes are needed for "
            f"{', '.join(file.name for file in pending)} (the files, their unpacked content and "
            f"prepared arrays), but only {free:,} are free; free up space, or set PARTBENCH_DATA "
            "to a folder on a larger disk"
        )


def _part(file: Archive, root: Path) -> Path:
    return folder(root) / f"{file.name}.part"


def _placed(file: Archive, root: Path) -> Path | None:
    names = [folder(root) / name for name in (file.name, *file.same_as)]
    return next((path for path in names if path.exists()), None)


def _obtain(file: Archive, root: Path, counter: _Counter) -> None:
    with _locked(folder(root) / f".{file.name}.lock"):
        if file.ready(root):  # another process has finished it meanwhile
            return
        path = _placed(file, root)
        if path is None:
            path = _download(file, root, counter)
        elif not _is_verified(path):
            if path.name == file.name and (fault := _fault(file, path)):
                raise BadInput(
                    f"{path}: {fault}, so it is not the official file or is incomplete; delete it, "
                    f"then run the command again or {by_hand(file, root)}"
                )
            _mark_verified(path)
        if file.packed:
            unpack(path, file.gives, root)
        else:
            (place,) = file.gives.values()
            with atomic(root / place) as aside:
                shutil.copyfile(path, aside)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock, so that a second process waits for the file instead of fetching it too."""
    with explained(path), FileLock(path):
        yield


def _download(file: Archive, root: Path, counter: _Counter) -> Path:
    """Fetch a file from the first address that has it, verify it and return its final path."""
    failures = []
    for url in _addresses(file):
        try:
            _download_from(url, file, root, counter)
        except _PermanentFailure as error:
            failures.append(f"  {url}: {error}")
            continue
        path = folder(root) / file.name
        sync(_part(file, root))  # its checksum is not looked at again
        _part(file, root).replace(path)
        _tag(file, root).unlink(missing_ok=True)
        _mark_verified(path)
        return path
    attempts = "\n".join(["", *failures, ""]) if failures else " "
    raise BadInput(f"{file.name} cannot be fetched:{attempts}{by_hand(file, root)}")


def _addresses(file: Archive) -> list[str]:
    mirror = os.environ.get("PARTBENCH_MIRROR", "").rstrip("/")
    if mirror and not mirror.startswith(("http://", "https://")) and not Path(mirror).is_dir():
        raise BadInput(
            f"PARTBENCH_MIRROR is {mirror}, which is neither an existing folder nor an http address"
        )
    official = () if os.environ.get("PARTBENCH_OFFLINE") else file.urls
    return [*([f"{mirror}/{file.name}"] if mirror else []), *official]


def _download_from(url: str, file: Archive, root: Path, counter: _Counter) -> None:
    """Complete the .part file and verify it."""
    part = _part(file, root)
    failures = 0
    restarted = False
    while True:
        size_before = part.stat().st_size if part.exists() else 0
        try:
            if url.startswith(("http://", "https://")):
                _transfer(url, file, root, counter)
            else:
                _copy(Path(url), part, counter)
            if fault := _fault(file, part):
                part.unlink()
                if restarted or not size_before:
                    raise _PermanentFailure(f"the download is not the official file: {fault}")
                restarted = True  # the beginning may be old, or from another address
                continue
            return
        except (_TemporaryFailure, requests.RequestException) as error:
            has_grown = part.exists() and part.stat().st_size > size_before
            failures = 0 if has_grown else failures + 1
            if failures >= ATTEMPTS:
                raise _PermanentFailure(
                    f"{failures} attempts failed, the last with: {error}"
                ) from None
            pause = getattr(error, "pause", None)
            counter.wait(min(PAUSE * 2**failures if pause is None else pause, LONGEST_PAUSE))


def _copy(source: Path, part: Path, counter: _Counter) -> None:
    if not source.is_file():
        raise _PermanentFailure("no such file")
    with explained(part):
        shutil.copyfile(source, part)
    counter.add(source.stat().st_size)


def _tag(file: Archive, root: Path) -> Path:
    """Return the file that keeps the server's tag of the version being fetched."""
    return folder(root) / f"{file.name}.part.tag"


def _transfer(url: str, file: Archive, root: Path, counter: _Counter) -> None:
    """Request the missing bytes of a .part file and append them."""
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
        if answer.status_code == 416:  # the server has no byte beyond `start`
            if answer.headers.get("Content-Range") == f"bytes */{start}":
                return
            part.unlink()
            raise _TemporaryFailure(
                "the server's file is shorter than what was fetched; starting over", 0
            )
        _check_answer(answer)
        if answer.status_code != 206:
            start = 0
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()
            raise _TemporaryFailure(
                "the server sent a range that was not requested; starting over", 0
            )
        length = answer.headers.get("Content-Length", "")
        end = start + int(length) if length.isdigit() else None
        if file.size and end is not None and end != file.size:
            raise _PermanentFailure(
                f"it has {end:,} bytes, but the official file has {file.size:,}"
            )
        version = answer.headers.get("ETag", "")
        # A checksum shows at the end whether two halves are of one version. Without one, the tag
        # does.
        if not start and not file.has_checksum and version and version[:2] != "W/":
            tag.write_text(version)
        received = start
        with explained(part), part.open("ab" if start else "wb") as out:
            for block in _blocks(answer):
                received += len(block)
                if file.size and received > file.size:
                    part.unlink()
                    raise _PermanentFailure(
                        f"the server sent more than the official file's {file.size:,} bytes"
                    )
                out.write(block)
                counter.add(len(block))
        if end is not None and received < end:
            raise _TemporaryFailure(f"the connection ended after {received:,} of {end:,} bytes")


def _blocks(answer: requests.Response) -> Iterator[bytes]:
    """Yield the body as it arrives, so that all bytes before a break are kept."""
    try:
        while block := answer.raw.read1(BLOCK, decode_content=False):
            yield block
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _TemporaryFailure(f"the connection broke ({type(error).__name__})") from None


def _check_answer(answer: requests.Response) -> None:
    """Raise a failure if an answer does not hold the file."""
    code = answer.status_code
    if code in (408, 425, 429) or code >= 500:
        delay = answer.headers.get("Retry-After", "")
        pause = float(delay) if delay.isdigit() else None
        raise _TemporaryFailure(f"the server answered {code}", pause)
    if code >= 400:
        raise _PermanentFailure(f"the server answered {code} {answer.reason}")
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise _PermanentFailure(
            "the server sent a web page instead of the file, such as a quota or login page"
        )


def _fault(file: Archive, path: Path) -> str:
    """Return what is wrong with the size or checksum of a file; empty if nothing is."""
    size = path.stat().st_size
    if file.size and size != file.size:
        return f"it has {size:,} bytes, but the official file has {file.size:,}"
    kinds = {"sha256": file.sha256, "md5": file.md5, "git blob": file.git_blob}
    kind, checksum = next(((k, c) for k, c in kinds.items() if c), ("", ""))
    if checksum:
        digest = _digest(path, kind)
        if not digest.startswith(checksum):
            return f"its {kind} is {digest}, but that of the official file is {checksum}"
    if not checksum and not file.size:
        with path.open("rb") as content:
            if content.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html")):
                return "it is a web page"
    return ""


def _digest(path: Path, kind: str) -> str:
    """Return a checksum of a file in hex; `kind` is "sha256", "md5" or "git blob"."""
    with path.open("rb") as content:
        if kind != "git blob":
            return hashlib.file_digest(content, kind).hexdigest()
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while block := content.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def _marker(path: Path) -> Path:
    """Return the file that says that a file was verified."""
    return path.with_name(f".{path.name}.verified")


def _mark_verified(path: Path) -> None:
    """Record that a file was verified in its present state, because hashing 20 GB takes minutes."""
    status = path.stat()
    write_json(_marker(path), [status.st_size, status.st_mtime_ns])


def _is_verified(path: Path) -> bool:
    if not _marker(path).exists():
        return False
    status = path.stat()
    return bool(read_json(_marker(path)) == [status.st_size, status.st_mtime_ns])
