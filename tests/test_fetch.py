"""Fetch from a server that fails in every way, and unpack malicious archives."""

import hashlib
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import Disk

from partbench.cli import main
from partbench.data import archives as table
from partbench.data import fetch as fetching
from partbench.data.archives import ARCHIVES, Archive, archives
from partbench.data.catalogue import listing
from partbench.data.fetch import fetch, folder, state
from partbench.data.reader import Reader
from partbench.data.unpack import unpack
from partbench.errors import BadInput
from partbench.plugins import load

CONTENT = random.Random(0).randbytes(300_000)
Answer = Callable[["Handler", int], None]
fault = pytest.mark.fault


class Handler(BaseHTTPRequestHandler):
    """Serves `files`; the n-th request for a path is handled by the n-th of its `faults`."""

    files: ClassVar[dict[str, bytes]]
    faults: ClassVar[dict[str, list[Answer]]]
    requests: ClassVar[list[tuple[str, str]]]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        wanted = self.headers.get("Range", "")
        self.requests.append((name, wanted))
        start = int(wanted[6:-1]) if wanted else 0
        planned = self.faults.get(name, [])
        try:
            (planned.pop(0) if planned else serve)(self, start)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def begin(self, start: int) -> bytes:
        """Send the headers of a correct answer; return its body."""
        whole = self.files[self.path.lstrip("/")]
        body = whole[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return body

    def log_message(self, *_: Any) -> None:
        pass


def serve(handler: Handler, start: int) -> None:
    whole = handler.files.get(handler.path.lstrip("/"))
    if whole is None:
        handler.answer(404, b"no")
    elif start >= len(whole):
        handler.answer(416, b"", Content_Range=f"bytes */{len(whole)}")
    else:
        handler.wfile.write(handler.begin(start))


def cut(after: int) -> Answer:
    """Close the connection after some bytes of the body."""

    def answer(handler: Handler, start: int) -> None:
        handler.wfile.write(handler.begin(start)[:after])
        handler.close_connection = True

    return answer


def code(number: int, **headers: str) -> Answer:
    return lambda handler, start: handler.answer(number, b"sorry", **headers)


def page(handler: Handler, start: int) -> None:
    handler.answer(200, b"<html>Quota exceeded</html>", Content_Type="text/html; charset=utf-8")


def disguised_page(handler: Handler, start: int) -> None:
    handler.answer(200, b"\n<!DOCTYPE html><html>Sign in</html>")


def without_range(handler: Handler, start: int) -> None:
    handler.wfile.write(handler.begin(0))


def another_range(handler: Handler, start: int) -> None:
    handler.answer(206, CONTENT[start + 1 :], Content_Range=f"bytes {start + 1}-9/10")


def slow(handler: Handler, start: int) -> None:
    body = handler.begin(start)
    for i in range(0, len(body), 60_000):
        handler.wfile.write(body[i : i + 60_000])
        time.sleep(0.05)


def silent(handler: Handler, start: int) -> None:
    handler.wfile.write(handler.begin(start)[:1000])
    handler.wfile.flush()
    time.sleep(1.0)
    handler.close_connection = True


def too_much(handler: Handler, start: int) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(CONTENT + b"more")
    handler.close_connection = True


def damaged(handler: Handler, start: int) -> None:
    body = bytearray(handler.begin(start))
    body[len(body) // 2] ^= 1
    handler.wfile.write(body)


class Server:
    """A local server and the address of its files."""

    def __init__(self) -> None:
        self.handler = type(
            "Mine", (Handler,), {"files": {"data.bin": CONTENT}, "faults": {}, "requests": []}
        )
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def fail(self, *faults: Answer, name: str = "data.bin") -> None:
        self.handler.faults[name] = list(faults)

    def add(self, name: str, content: bytes) -> None:
        self.handler.files[name] = content

    @property
    def ranges(self) -> list[str]:
        return [wanted for _, wanted in self.handler.requests]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetching, "PAUSE", 0.001)
    monkeypatch.setattr(fetching, "TIMEOUT", (2.0, 0.4))
    monkeypatch.delenv("PARTBENCH_MIRROR", raising=False)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def plain(server: Server, **changes: Any) -> Archive:
    """An official file that is read as it is."""
    values = {
        "name": "data.bin",
        "gives": {"": "set/data.bin"},
        "urls": (f"{server.address}/data.bin",),
        "size": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "source": "example.org",
    }
    return Archive(**values | changes)  # type: ignore[arg-type]


def packed(server: Server, name: str, content: bytes, **changes: Any) -> Archive:
    """An official archive that holds the folder `images`."""
    server.add(name, content)
    values = {
        "name": name,
        "gives": {"images": "set/images"},
        "urls": (f"{server.address}/{name}",),
        "size": len(content),
        "md5": hashlib.md5(content).hexdigest(),
    }
    return Archive(**values | changes)  # type: ignore[arg-type]


def assert_whole(root: Path) -> None:
    assert (root / "set" / "data.bin").read_bytes() == CONTENT
    assert not list(folder(root).glob("*.part*"))


def assert_nothing_under_a_final_name(root: Path) -> None:
    assert not (root / "set").exists()
    assert not [p for p in folder(root).iterdir() if p.suffix != ".part" and p.name[0] != "."]


# A server that fails and then recovers.

ONCE = {
    "a broken connection": [cut(1000)],
    "429": [code(429)],
    "429 with a pause": [code(429, Retry_After="0")],
    "500": [code(500)],
    "503": [code(503), code(503)],
    "no range": [cut(70_000), without_range],
    "another range": [cut(70_000), another_range],
    "slow": [slow],
    "silent": [silent],
    "damage on the way, after a resume": [cut(70_000), damaged],
    "many cuts": [cut(20_000)] * 12,
}


@fault
@pytest.mark.parametrize("faults", ONCE.values(), ids=ONCE)
def test_a_passing_fault_is_survived(faults: list[Answer], server: Server, tmp_path: Path) -> None:
    server.fail(*faults)
    fetch([plain(server)], tmp_path)
    assert_whole(tmp_path)


@fault
@pytest.mark.parametrize("seed", range(20))
def test_cuts_at_random_places_are_resumed(seed: int, server: Server, tmp_path: Path) -> None:
    draw = random.Random(seed)
    cuts = [draw.randrange(1, 100_000) for _ in range(draw.randrange(1, 4))]
    server.fail(*map(cut, cuts))
    file = plain(server) if seed % 2 else plain(server, sha256="", md5="", size=None)
    fetch([file], tmp_path)
    assert_whole(tmp_path)
    begun = [int(wanted[6:-1]) for wanted in server.ranges if wanted]
    assert begun == list(itertools.accumulate(cuts))  # no byte was fetched twice
    if seed % 2:
        before = len(server.ranges)
        fetch([file], tmp_path)
        assert len(server.ranges) == before  # a file that is present is not requested again


LASTING = {
    "403": (code(403), "403"),
    "404": (code(404), "404"),
    "410": (code(410), "410"),
    "a quota page": (page, "web page"),
    "a page that says it is none": (disguised_page, "official file has"),
    "too long": (too_much, "more than the official"),
    "always 503": (code(503), "6 attempts failed.*503"),
    "always damaged": (damaged, "sha256 is"),
}


@fault
@pytest.mark.parametrize(("answer", "message"), LASTING.values(), ids=LASTING)
def test_a_lasting_fault_is_told_and_nothing_false_is_kept(
    answer: Answer, message: str, server: Server, tmp_path: Path
) -> None:
    server.fail(*[answer] * 20)
    with pytest.raises(BadInput, match=rf"(?s)data\.bin cannot be fetched.*{message}") as caught:
        fetch([plain(server)], tmp_path)
    for part in ("data.bin", str(folder(tmp_path)), plain(server).sha256, "example.org"):
        assert part in str(caught.value)
    assert_nothing_under_a_final_name(tmp_path)
    server.fail()
    fetch([plain(server)], tmp_path)  # the same command after the server has recovered
    assert_whole(tmp_path)


@fault
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": len(CONTENT) + 1}, "official file has 300,001"),
        ({"sha256": "0" * 64}, "sha256 is"),
        ({"sha256": "", "md5": "0" * 32}, "md5 is"),
        ({"sha256": "00000000"}, "sha256 is"),
    ],
)
def test_a_file_that_is_not_the_official_one(
    changes: dict[str, Any], message: str, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        fetch([plain(server, **changes)], tmp_path)
    assert_nothing_under_a_final_name(tmp_path)


@fault
def test_a_page_in_place_of_a_file_of_unknown_checksum(server: Server, tmp_path: Path) -> None:
    server.fail(*[disguised_page] * 3)
    with pytest.raises(BadInput, match="it is a web page"):
        fetch([plain(server, sha256="", size=None)], tmp_path)
    assert_nothing_under_a_final_name(tmp_path)


def test_a_prefix_of_the_checksum_is_enough(server: Server, tmp_path: Path) -> None:
    fetch([plain(server, sha256=plain(server).sha256[:8], size=None)], tmp_path)
    assert_whole(tmp_path)


@fault
def test_a_server_without_an_answer(server: Server, tmp_path: Path) -> None:
    dead = "http://127.0.0.1:1/data.bin"
    with pytest.raises(BadInput, match="6 attempts failed"):
        fetch([plain(server, urls=(dead,))], tmp_path)
    fetch([plain(server, urls=(dead, f"{server.address}/data.bin"))], tmp_path)
    assert_whole(tmp_path)


@fault
def test_another_version_is_not_joined_to_the_first_half(server: Server, tmp_path: Path) -> None:
    """Without a checksum, the server's tag of the version decides."""
    file = plain(server, sha256="", size=None)

    def first(handler: Handler, start: int) -> None:
        handler.send_response(200)
        handler.send_header("ETag", '"one"')
        handler.send_header("Content-Length", "300000")
        handler.end_headers()
        handler.wfile.write(bytes(1000))
        handler.close_connection = True

    def second(handler: Handler, start: int) -> None:
        assert handler.headers["If-Range"] == '"one"'
        handler.answer(200, CONTENT, ETag='"two"')

    server.fail(first, second)
    fetch([file], tmp_path)
    assert_whole(tmp_path)


@fault
def test_more_than_the_server_has(server: Server, tmp_path: Path) -> None:
    folder(tmp_path).mkdir()
    (folder(tmp_path) / "data.bin.part").write_bytes(CONTENT + b"more")
    fetch([plain(server, size=None)], tmp_path)
    assert_whole(tmp_path)


@fault
def test_one_failure_does_not_keep_the_others(server: Server, tmp_path: Path) -> None:
    other = plain(
        server, name="other.bin", gives={"": "set/other.bin"}, urls=(f"{server.address}/other.bin",)
    )
    with pytest.raises(BadInput, match=r"other\.bin cannot be fetched"):
        fetch([other, plain(server)], tmp_path)
    assert_whole(tmp_path)


def test_files_are_fetched_side_by_side(server: Server, tmp_path: Path) -> None:
    meeting = threading.Barrier(3, timeout=5)

    def answer(handler: Handler, start: int) -> None:
        meeting.wait()
        serve(handler, start)

    files = []
    for name in ("a.bin", "b.bin", "c.bin"):
        server.add(name, CONTENT)
        server.fail(answer, name=name)
        files.append(plain(server, name=name, gives={"": name}, urls=(f"{server.address}/{name}",)))
    fetch(files, tmp_path)
    assert all((tmp_path / file.name).read_bytes() == CONTENT for file in files)


# Files placed by hand, and mirrors.


def test_a_file_placed_by_hand_is_verified_and_used(server: Server, tmp_path: Path) -> None:
    folder(tmp_path).mkdir()
    (folder(tmp_path) / "data.bin").write_bytes(CONTENT)
    file = plain(server, urls=())
    assert state(file, tmp_path) == "placed, to be verified"
    fetch([file], tmp_path)
    assert_whole(tmp_path)
    assert not server.ranges


@fault
@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"?", b""])
def test_a_wrong_file_placed_by_hand_is_refused_and_kept(
    content: bytes, server: Server, tmp_path: Path
) -> None:
    folder(tmp_path).mkdir()
    placed = folder(tmp_path) / "data.bin"
    placed.write_bytes(content)
    with pytest.raises(BadInput, match=r"not the official file or is incomplete; delete it"):
        fetch([plain(server)], tmp_path)
    assert placed.read_bytes() == content
    assert not (tmp_path / "set").exists()


def test_what_a_person_has_to_do_is_said_in_full(server: Server, tmp_path: Path) -> None:
    file = plain(server, urls=())
    with pytest.raises(BadInput) as caught:
        fetch([file], tmp_path)
    for part in ("data.bin", file.sha256, "300,000 bytes", "example.org", str(folder(tmp_path))):
        assert part in str(caught.value)


def test_mirrors_come_first(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = plain(server, urls=())
    monkeypatch.setenv("PARTBENCH_MIRROR", f"{server.address}/")
    fetch([file], tmp_path / "one")
    assert_whole(tmp_path / "one")

    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "data.bin").write_bytes(CONTENT)
    monkeypatch.setenv("PARTBENCH_MIRROR", str(mirror))
    before = len(server.ranges)
    fetch([plain(server)], tmp_path / "two")
    assert_whole(tmp_path / "two")
    assert len(server.ranges) == before

    (mirror / "data.bin").write_bytes(b"something else")
    fetch([plain(server)], tmp_path / "three")  # falls back to the official address
    assert_whole(tmp_path / "three")
    monkeypatch.setenv("PARTBENCH_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match="PARTBENCH_MIRROR"):
        fetch([plain(server)], tmp_path / "four")


def test_offline_tries_the_mirror_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_OFFLINE", "1")
    with pytest.raises(BadInput, match=r"data.bin cannot be fetched: get data\.bin"):
        fetch([plain(server)], tmp_path / "one")
    assert server.ranges == []
    monkeypatch.setenv("PARTBENCH_MIRROR", server.address)
    fetch([plain(server)], tmp_path / "two")
    assert_whole(tmp_path / "two")


def test_what_was_unpacked_by_hand_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data.bin").write_bytes(b"mine")
    fetch([plain(server)], tmp_path)
    assert not server.ranges
    assert (tmp_path / "set" / "data.bin").read_bytes() == b"mine"


# Failures of this machine.


@fault
def test_no_space_is_seen_before_the_first_byte(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"are needed for data\.bin .* free up space"):
        fetch([plain(server, size=10**18)], tmp_path)
    with pytest.raises(BadInput, match="are needed"):
        fetch([plain(server)], tmp_path, extra_bytes=10**18)
    assert not server.ranges


@fault
def test_a_disk_that_fills_up_keeps_what_was_fetched(server: Server, disk: Disk) -> None:
    disk.fill(leave=100_000)
    file = plain(server, size=None)  # unknown, so the space cannot be checked before
    with pytest.raises(BadInput, match="no space left"):
        fetch([file], disk.path)
    kept = (folder(disk.path) / "data.bin.part").stat().st_size
    assert 0 < kept < len(CONTENT)
    disk.clear()
    fetch([file], disk.path)
    assert_whole(disk.path)
    assert server.ranges[-1] == f"bytes={kept}-"


def run_fetch(root: Path, file: Archive, **environment: str) -> subprocess.Popen[str]:
    """Fetch one file in a separate process."""
    values = {k: getattr(file, k) for k in ("name", "gives", "urls", "size", "sha256", "md5")}
    script = (
        "import json, sys; from pathlib import Path\n"
        "from partbench.data.archives import Archive\n"
        "from partbench.data.fetch import fetch\n"
        "fetch([Archive(**json.loads(sys.argv[1]))], Path(sys.argv[2]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(values), str(root)],
        env=os.environ | environment,
        text=True,
        stderr=subprocess.PIPE,
    )


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    patience = time.monotonic() + 60
    while not true():
        if process.poll() is not None or time.monotonic() > patience:
            process.kill()
            pytest.fail(f"it ended too early: {process.communicate()}")
        time.sleep(0.002)


@fault
@pytest.mark.parametrize("bytes_", [1, 100_000, 290_000])
def test_a_killed_fetch_goes_on(bytes_: int, server: Server, tmp_path: Path) -> None:
    def hold(handler: Handler, start: int) -> None:
        handler.wfile.write(handler.begin(start)[:bytes_])
        handler.wfile.flush()
        time.sleep(30)

    server.fail(hold)
    process = run_fetch(tmp_path, plain(server))
    part = folder(tmp_path) / "data.bin.part"
    wait_until(lambda: bool(server.ranges) and part.exists(), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert_nothing_under_a_final_name(tmp_path)
    kept = part.stat().st_size
    fetch([plain(server)], tmp_path)
    assert_whole(tmp_path)
    assert server.ranges[-1] == (f"bytes={kept}-" if kept else "")


@fault
def test_two_fetchers_of_one_file_fetch_it_once(server: Server, tmp_path: Path) -> None:
    server.fail(slow)
    processes = [run_fetch(tmp_path, plain(server)) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert_whole(tmp_path)
    assert len(server.ranges) == 1


# Archives.

IMAGES = {f"images/{i:03d}.jpg": random.Random(i).randbytes(2000 + i) for i in range(60)}


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(members: dict[str, bytes], mode: Any = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def rarred(members: dict[str, bytes]) -> bytes:
    """A RAR 4 archive whose members are stored, not compressed."""

    def block(kind: int, flags: int, rest: bytes) -> bytes:
        head = bytes([kind]) + flags.to_bytes(2, "little")
        head += (len(rest) + 7).to_bytes(2, "little") + rest
        return (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") + head

    def number(value: int, size: int = 4) -> bytes:
        return value.to_bytes(size, "little")

    out = b"Rar!\x1a\x07\x00" + block(0x73, 0, bytes(6))
    for name, content in members.items():
        encoded = name.replace("/", "\\").encode()
        rest = number(len(content)) * 2 + b"\x03" + number(zlib.crc32(content)) + number(0)
        rest += b"\x14\x30" + number(len(encoded), 2) + number(0o100644) + encoded
        out += block(0x74, 0x8000, rest) + content
    return out + block(0x7B, 0x4000, b"")


PACKERS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "set.zip": zipped,
    "set.tgz": tarred,
    "set.tar.gz": tarred,
    "set.tar": lambda members: tarred(members, "w"),
    "set.rar": rarred,
}


def images_in(root: Path) -> dict[str, bytes]:
    here = root / "set" / "images"
    return {f"images/{p.name}": p.read_bytes() for p in here.iterdir()} if here.exists() else {}


@pytest.mark.parametrize("name", PACKERS)
def test_archives_of_every_kind_are_unpacked(name: str, server: Server, tmp_path: Path) -> None:
    file = packed(server, name, PACKERS[name](IMAGES | {"attributes.txt": b"beside them"}))
    assert state(file, tmp_path) == "missing"
    fetch([file], tmp_path)
    assert images_in(tmp_path) == IMAGES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["archives", "set"]
    assert state(file, tmp_path) == "ready"


@pytest.mark.parametrize("top", ["", "UCF-101/"])
def test_a_folder_alone_at_the_top_is_looked_through(
    top: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "videos.zip"
    path.write_bytes(zipped({f"{top}a.avi": b"a", f"{top}b/c.avi": b"c"}))
    unpack(path, {"": "UCF-101"}, tmp_path)
    assert (tmp_path / "UCF-101" / "a.avi").read_bytes() == b"a"
    assert (tmp_path / "UCF-101" / "b" / "c.avi").read_bytes() == b"c"
    assert "unpack videos.zip: 2 files, " in capsys.readouterr().err


def test_another_packing_placed_by_hand(server: Server, tmp_path: Path) -> None:
    file = packed(server, "set.zip", zipped(IMAGES), same_as=("set.rar",), urls=())
    folder(tmp_path).mkdir()
    (folder(tmp_path) / "set.rar").write_bytes(rarred(IMAGES))
    fetch([file], tmp_path)
    assert images_in(tmp_path) == IMAGES


def test_a_rar_that_needs_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(rarred({"images/a.jpg": b"a"}))
    where = content.index(b"\x14\x30")
    content[where + 1] = 0x33  # compressed
    begin = 20
    size = int.from_bytes(content[begin + 5 : begin + 7], "little")
    crc = zlib.crc32(bytes(content[begin + 2 : begin + size])) & 0xFFFF
    content[begin : begin + 2] = crc.to_bytes(2, "little")
    path = tmp_path / "set.rar"
    path.write_bytes(content)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="needs one of the programs unrar, unar, 7z or bsdtar"):
        unpack(path, {"": "set"}, tmp_path)


def linked(kind: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("images/evil.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    return buffer.getvalue()


def zip_link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("images/evil.jpg")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def zip_that_lies() -> bytes:
    """A zip with a member that is longer than its header says."""
    content = bytearray(zipped({"images/evil.jpg": bytes(200_000)}))
    for marker, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        where = content.index(marker) + offset
        content[where : where + 4] = (10).to_bytes(4, "little")
    return bytes(content)


EVIL = {
    "up.zip": (zipped({"../evil.jpg": b"x"}), r"'\.\./evil\.jpg' would leave"),
    "deep.zip": (zipped({"images/../../evil.jpg": b"x"}), r"evil\.jpg' would leave"),
    "absolute.zip": (zipped({"/tmp/evil.jpg": b"x"}), r"evil\.jpg' would leave"),
    "windows.zip": (zipped({"..\\evil.jpg": b"x"}), r"evil\.jpg' would leave"),
    "up.tgz": (tarred({"../evil.jpg": b"x"}), r"evil\.jpg' would leave"),
    "absolute.tar": (tarred({"/tmp/evil.jpg": b"x"}, "w"), r"evil\.jpg' would leave"),
    "up.rar": (rarred({"../evil.jpg": b"x"}), r"evil\.jpg' would leave"),
    "symlink.tgz": (linked(tarfile.SYMTYPE), r"'images/evil\.jpg' is a link"),
    "hardlink.tgz": (linked(tarfile.LNKTYPE), r"'images/evil\.jpg' is a link"),
    "device.tgz": (linked(tarfile.CHRTYPE), r"'images/evil\.jpg' is a device"),
    "pipe.tgz": (linked(tarfile.FIFOTYPE), r"'images/evil\.jpg' is a device"),
    "symlink.zip": (zip_link(), r"'images/evil\.jpg' is a link"),
    "bomb.zip": (zipped({"images/evil.jpg": bytes(200 << 20)}), r"'images/evil\.jpg'.*absurd"),
    "bombs.tgz": (
        tarred({f"images/{i}.jpg": bytes(40 << 20) for i in range(4)}),
        r"'images/\d\.jpg'.*absurd",
    ),
    "liar.zip": (zip_that_lies(), "(longer than|damaged)"),
    "cut.zip": (zipped(IMAGES)[:-500], "damaged"),
    "cut.tgz": (tarred(IMAGES)[:-500], "damaged"),
    "cut.rar": (rarred(IMAGES)[:-500], "damaged"),
    "noise.zip": (CONTENT, "damaged"),
    "noise.tgz": (CONTENT, "damaged"),
    "noise.rar": (CONTENT, "damaged"),
    "other.zip": (zipped({"pictures/a.jpg": b"a"}), r"does not contain \['images'\]"),
}


@fault
@pytest.mark.parametrize("name", EVIL)
def test_an_archive_that_means_harm_is_refused(name: str, server: Server, tmp_path: Path) -> None:
    content, message = EVIL[name]
    root = tmp_path / "deep" / "root"
    with pytest.raises(BadInput, match=message) as caught:
        fetch([packed(server, name, content)], root)
    assert name in str(caught.value)
    assert not list(tmp_path.rglob("*evil*"))
    assert sorted(p.name for p in root.iterdir()) == ["archives"]


@fault
def test_a_byte_changed_in_an_archive_without_checksum(tmp_path: Path) -> None:
    """The checks of the archive format must detect it."""
    content = bytearray(zipped(IMAGES))
    content[60] ^= 0xFF
    path = tmp_path / "set.zip"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="damaged"):
        unpack(path, {"images": "set/images"}, tmp_path)
    assert not (tmp_path / "set").exists()


@fault
def test_a_compression_that_nobody_knows(tmp_path: Path) -> None:
    content = bytearray(zipped({"images/a.jpg": b"a"}))
    for marker, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(marker) + offset] = 99
    path = tmp_path / "set.zip"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"set\.zip is damaged or not in the format of its name"):
        unpack(path, {"images": "set/images"}, tmp_path)
    assert not (tmp_path / "set").exists()


@fault
def test_an_encrypted_archive(tmp_path: Path) -> None:
    content = bytearray(zipped({"images/a.jpg": b"a"}))
    for marker, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(marker) + offset] |= 1
    path = tmp_path / "set.zip"
    path.write_bytes(content)
    with pytest.raises(
        BadInput, match=r"'images/a\.jpg' is encrypted; unpack the archive yourself"
    ):
        unpack(path, {"images": "set/images"}, tmp_path)


@fault
def test_a_killed_unpacking_goes_on(server: Server, tmp_path: Path) -> None:
    many = {f"images/{i:04d}.jpg": random.Random(i).randbytes(5000) for i in range(4000)}
    file = packed(server, "set.tar", tarred(many, "w"))
    process = run_fetch(tmp_path, file)
    aside = tmp_path / ".unpacking-set.tar"
    wait_until(lambda: (aside / "images" / "0050.jpg").exists(), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "set").exists()
    assert state(file, tmp_path) == "fetched, to be unpacked"
    first = (aside / "images" / "0000.jpg").stat().st_ino
    requests = len(server.ranges)
    fetch([file], tmp_path)
    assert images_in(tmp_path) == many
    assert (tmp_path / "set" / "images" / "0000.jpg").stat().st_ino == first  # not written again
    assert len(server.ranges) == requests
    assert not aside.exists()


@fault
def test_a_full_disk_while_unpacking(server: Server, disk: Disk) -> None:
    file = packed(server, "set.zip", zipped(IMAGES), size=None)
    disk.fill(leave=170_000)
    with pytest.raises(BadInput, match="no space left"):
        fetch([file], disk.path)
    assert not (disk.path / "set").exists()
    disk.clear()
    fetch([file], disk.path)
    assert images_in(disk.path) == IMAGES


# The table and the commands.


def test_the_table_is_sound() -> None:
    by_name: dict[str, Archive] = {}
    for files in ARCHIVES.values():
        for file in files:
            assert by_name.setdefault(file.name, file) == file  # one name, one file
            assert file.urls or file.source
            assert len(file.md5) in (0, 32)
            assert len(file.sha256) in (0, 8, 64)
            assert len(file.git_blob) in (0, 40)
            assert set(file.sha256 + file.md5 + file.git_blob) <= set("0123456789abcdef")
            assert file.packed or list(file.gives) == [""]
            for place in file.gives.values():
                assert not Path(place).is_absolute()
    for name, files in ARCHIVES.items():
        for file in files:
            for key, value in file.read_if.items():
                cls = load("data", name, Reader)  # type: ignore[type-abstract]
                assert getattr(cls.Settings.parse({key: value}, "test"), key) == value


def test_data_commands(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = packed(server, "set.zip", zipped(IMAGES))
    monkeypatch.setitem(table.ARCHIVES, "mine", (file,))
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", "mine"])
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "set.zip: missing" in out
    assert "partbench data fetch mine" in out
    assert main(["data", "fetch", "mine"]) == 0
    assert main(["data", "check", "mine"]) == 0
    assert "set.zip: ready" in capsys.readouterr().out
    assert main(["data", "fetch", "mne"]) == 1
    assert "did you mean 'mine'?" in capsys.readouterr().err
    text = listing(tmp_path)
    for name in ("mine", "celeba", "cub", "coco", "vgg16"):
        assert f"\n{name} " in text


def test_show_draws_a_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    out = tmp_path / "sheet.png"
    assert main(["data", "show", "toy", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert main(["data", "show", "cub", "--out", str(out)]) == 1


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean 'coco'"):
        archives("cocoa")
