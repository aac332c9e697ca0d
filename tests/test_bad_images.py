"""Image files and folders that are broken, hostile or odd: each is read, refused or listed."""

import os
import socket
import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from partbench.data.folder import Folder
from partbench.data.image import PIXELS, read_image
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.errors import BadInput

NOISE = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
PICTURE = Image.fromarray(NOISE).resize((120, 160), Image.Resampling.BICUBIC)
SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6
UPRIGHT = Image.Exif()
UPRIGHT[0x0112] = 1


def saved(format: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def half(format: str, **options: Any) -> bytes:
    content = saved(format, **options)
    return content[: len(content) // 2]


def damaged(format: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    """Return a file with 32 other bytes in its middle."""
    return overwritten(saved(format, image, **options), 50, bytes(i * 37 % 255 for i in range(32)))


def overwritten(content: bytes, percent: int, others: bytes) -> bytes:
    """Return a file with other bytes at a share of the way through it."""
    start = len(content) * percent // 100
    return content[:start] + others + content[start + len(others) :]


def frames(format: str) -> bytes:
    others = [PICTURE.transpose(Image.Transpose.ROTATE_180)]
    return saved(format, save_all=True, append_images=others)


def png(width: int, height: int, bits: int = 8, colours: int = 2, data: bytes = b"") -> bytes:
    """Return a png file with a header of its own."""
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def huge_jpeg(**options: Any) -> bytes:
    """Return a JPEG whose header claims 65535 x 65535 pixels."""
    content = bytearray(saved("JPEG", **options))
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = b"\xff\xff\xff\xff"
    return bytes(content)


def huge_bmp() -> bytes:
    content = bytearray(saved("BMP"))
    content[18:26] = struct.pack("<ii", 40_000, 40_000)
    return bytes(content)


def huge_gif() -> bytes:
    content = bytearray(saved("GIF"))
    content[6:10] = b"\xff\xff\xff\xff"
    return bytes(content)


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def listen(path: Path) -> None:
    """Make a socket; its path must be short."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
BAD: dict[str, tuple[bytes | Callable[[Path], None], str]] = {
    "empty.jpg": (b"", "the file is empty"),
    "page.jpg": (b"<html>quota exceeded</html>", r"begins with b'<html>qu'"),
    "zip.jpg": (b"PK\x03\x04" + bytes(60), "none of JPEG, PNG"),
    "pdf.png": (b"%PDF-1.7\n" + bytes(60), "none of JPEG, PNG"),
    "photoshop.png": (b"8BPS\0\1" + bytes(60), "none of JPEG, PNG"),
    "postscript.png": (EPS, "begins with b'%!PS-Ado' and is none of JPEG, PNG"),
    "postscript.eps": (EPS, "none of JPEG, PNG"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "none of JPEG, PNG"),
    "phone.heic": (b"\0\0\0\x18ftypheic" + bytes(60), "none of JPEG, PNG"),
    "text.ppm": (b"P7 is not read", "cannot be decoded"),
    "header.png": (b"\x89PNG\r\n\x1a\n" + bytes(20), "cannot be decoded"),
    "nothing.png": (png(0, 0), "cannot be decoded"),
    "header_only.jpg": (saved("JPEG")[:200], "cannot be decoded"),
    "half.jpg": (half("JPEG"), "cannot be decoded"),
    "half_progressive.jpg": (half("JPEG", progressive=True), "cannot be decoded"),
    "half_turned.jpg": (half("JPEG", exif=SIDEWAYS), "cannot be decoded"),
    "half.png": (half("PNG"), "cannot be decoded"),
    "half.bmp": (half("BMP"), "cannot be decoded"),
    "half.gif": (half("GIF"), "cannot be decoded"),
    "half.webp": (half("WEBP"), "cannot be decoded"),
    "half.ppm": (half("PPM"), "cannot be decoded"),
    "half.tiff": (half("TIFF"), "cannot be decoded"),
    "damaged.jpg": (damaged("JPEG"), "Corrupt JPEG data"),
    "damaged_grey.jpg": (damaged("JPEG", PICTURE.convert("L")), "Corrupt JPEG data"),
    "damaged_print.jpg": (damaged("JPEG", PICTURE.convert("CMYK")), "Corrupt JPEG data"),
    "damaged_turned.jpg": (damaged("JPEG", exif=SIDEWAYS), "Corrupt JPEG data"),
    "damaged_progressive.jpg": (damaged("JPEG", progressive=True), "Corrupt JPEG data"),
    "damaged.png": (damaged("PNG"), "cannot be decoded"),
    "huge.jpg": (huge_jpeg(), rf"4294836225 pixels\) exceeds limit of {PIXELS}"),
    "huge_turned.jpg": (huge_jpeg(exif=SIDEWAYS), rf"exceeds limit of {PIXELS}"),
    "huge.png": (png(65_000, 65_000), rf"4225000000 pixels\) exceeds limit of {PIXELS}"),
    "huge.bmp": (huge_bmp(), rf"1600000000 pixels\) exceeds limit of {PIXELS}"),
    "huge.gif": (huge_gif(), rf"exceeds limit of {PIXELS}"),
    "grey16.png": (png(1, 1, 16, 0, bytes(3)), "more than 8 bits a channel; convert it"),
    "rgb16.png": (png(1, 1, 16, 2, bytes(7)), "more than 8 bits a channel; convert it"),
    "alpha16.png": (png(1, 1, 16, 6, bytes(9)), "more than 8 bits a channel; convert it"),
    "float.tiff": (saved("TIFF", Image.new("F", (9, 9))), "more than 8 bits a channel"),
    "moving.png": (frames("PNG"), "it holds several frames"),
    "moving.gif": (frames("GIF"), "it holds several frames"),
    "moving.webp": (frames("WEBP"), "it holds several frames"),
    "pages.tiff": (frames("TIFF"), "it holds several frames"),
    "dangling.jpg": (link("gone.jpg"), "a link to gone.jpg, which does not exist"),
    "loop.jpg": (link("loop.jpg"), "cannot be read .*; let it be a file that you may read"),
    "pipe.jpg": (lambda path: os.mkfifo(path), "cannot be decoded|cannot be read"),
    "socket.jpg": (listen, "cannot be read .*; let it be a file that you may read"),
    "caf\udce9.jpg": (saved("JPEG"), r"caf\\xe9.jpg: the name holds bytes that are not UTF-8"),
    "two\nlines.jpg": (saved("JPEG"), r"two\\x0alines.jpg: the name holds bytes"),
}
"""File name -> what it holds, or how it is made; and what the message says."""


def put(path: Path, what: bytes | Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(what):
        what(path)
    else:
        path.write_bytes(what)


def folder(root: Path, **settings: Any) -> Folder:
    values = {"size": 8, "splits": {"train": "train"}} | settings
    return Folder(root, Folder.Settings.parse(values, "test"))


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_a_bad_file_is_one_message_or_is_left_out_and_listed(name: str, tmp_path: Path) -> None:
    what, message = BAD[name]
    shown = name.replace("\udce9", r"\\xe9").replace("\n", r"\\x0a")
    root = tmp_path / "in"
    put(root / "train" / "bird" / name, what)
    for good in ("0.png", "zz.png"):
        put(root / "train" / "bird" / good, saved("PNG"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadInput, match=rf"train/bird/{shown}: ") as error:
            prepare(folder(root), "mine", tmp_path / "out", 1)
        assert error.match(message)
        assert len(str(error.value).splitlines()) == 1
        assert not (tmp_path / "out").exists()
        prepare(folder(root, broken="skip"), "mine", tmp_path / "out", 1)
    split = Prepared(tmp_path / "out").meta["splits"]["train"]
    listed = name.replace("\udce9", r"\xe9").replace("\n", r"\x0a")
    assert split == {"n": 2, "missing": 0, "skipped": [f"bird/{listed}"]}
    names = (tmp_path / "out" / "train.names.txt").read_text()
    assert names == "bird/0.png\nbird/zz.png\n"


def as_pillow(content: bytes) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(Image.open(BytesIO(content)).convert("RGB"))


def transparent_palette() -> bytes:
    image = PICTURE.quantize(16)
    return saved("PNG", image, transparency=bytes(range(16)))


GOOD = {
    "jpeg_inside.png": saved("JPEG"),
    "png_inside.jpg": saved("PNG"),
    "still.gif": saved("GIF"),
    "one.png": saved("PNG", PICTURE.resize((1, 1))),
    "palette.png": transparent_palette(),
    "print.jpg": saved("JPEG", PICTURE.convert("CMYK")),
    "progressive.jpg": saved("JPEG", progressive=True),
    "grey.jpg": saved("JPEG", PICTURE.convert("L")),
    "restarts.jpg": saved("JPEG", restart_marker_rows=1),
    "trailing.jpg": saved("JPEG") + b"what a phone appends",
    "photo.jfif": saved("JPEG"),
    "two_pictures.jpg": saved("MPO", save_all=True, append_images=[PICTURE.resize((9, 9))]),
    "two_tagged.jpg": saved("MPO", save_all=True, append_images=[PICTURE], exif=UPRIGHT),
    "tall.png": saved("PNG", PICTURE.resize((1, 300))),
    "bits.pbm": b"P4\n8 2\n\xaa\x55",
}


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_file_is_read_as_pillow_reads_it(name: str, tmp_path: Path) -> None:
    put(tmp_path / name, GOOD[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(tmp_path / name)
    np.testing.assert_array_equal(image, as_pillow(GOOD[name]))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(format: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    put(tmp_path / "photo", saved(format, exif=exif))
    as_stored = as_pillow(saved(format))
    turned = {
        1: as_stored,
        2: as_stored[:, ::-1],
        3: as_stored[::-1, ::-1],
        4: as_stored[::-1],
        5: as_stored.transpose(1, 0, 2),
        6: as_stored.transpose(1, 0, 2)[:, ::-1],
        7: as_stored.transpose(1, 0, 2)[::-1, ::-1],
        8: as_stored.transpose(1, 0, 2)[::-1],
    }
    np.testing.assert_array_equal(read_image(tmp_path / "photo"), turned[orientation])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF"])
def test_one_limit_holds_for_every_decoder(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Image.MAX_IMAGE_PIXELS
    assert 2 * Image.MAX_IMAGE_PIXELS == PIXELS
    put(tmp_path / "a", saved(format))
    monkeypatch.setattr("partbench.data.image.PIXELS", 120 * 160)
    read_image(tmp_path / "a")
    monkeypatch.setattr("partbench.data.image.PIXELS", 120 * 160 - 1)
    with pytest.raises(BadInput, match=r"a: cannot be decoded .120 x 160 is more than 19,199 pix"):
        read_image(tmp_path / "a")


def test_no_other_decoder_of_pillow_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    def runs(*args: Any, **options: Any) -> None:
        raise AssertionError("the EPS plugin ran")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", runs)
    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "_open", runs)
    put(tmp_path / "a.png", EPS)
    with pytest.raises(BadInput, match="none of JPEG"):
        read_image(tmp_path / "a.png")


def refused(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        read_image(path)
    except BadInput:
        return True
    return False


def test_most_damages_of_a_jpeg_are_found_whatever_its_kind(tmp_path: Path) -> None:
    """Where a decoder gets back into step at the right pixel, nothing tells."""
    kinds = [{}, {"exif": SIDEWAYS}, {"progressive": True}, {"restart_marker_rows": 1}]
    for options in kinds:
        whole = saved("JPEG", PICTURE.resize((240, 320)), **options)
        assert not refused(tmp_path / "a.jpg", whole)
        others = bytes(i * 37 % 255 for i in range(64))
        damages = [overwritten(whole, percent, others) for percent in range(20, 100, 4)]
        found = sum(refused(tmp_path / "a.jpg", damage) for damage in damages)
        assert found >= 16, (options, found)


@pytest.mark.parametrize(("count", "is_refused"), [(1, False), (2, False), (8, True), (40, True)])
def test_padding_before_the_end_of_a_jpeg(count: int, is_refused: bool, tmp_path: Path) -> None:
    for options in ({}, {"exif": SIDEWAYS}):
        whole = saved("JPEG", **options)
        padded = whole[:-2] + bytes(count) + whole[-2:]
        assert refused(tmp_path / "a.jpg", padded) is is_refused


def test_what_is_ignored_is_counted_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "a.jpg", "B.JPEG", "Thumbs.db", "._a.jpg", ".b.jpg", ".DS_Store"):
        put(tmp_path / "train" / "bird" / name, saved("PNG"))
    put(tmp_path / "train" / "readme.txt", b"")
    put(tmp_path / "train" / ".cache" / "c.png", saved("PNG"))
    prepare(folder(tmp_path), "mine", tmp_path / "out", 1)
    names = (tmp_path / "out" / "train.names.txt").read_text().split()
    assert names == ["bird/B.JPEG", "bird/a.jpg", "bird/a.png"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "ignored" in line]
    assert len(lines) == 1
    assert ": 6 hidden files and files without the suffix of an image are ignored: " in lines[0]
    assert lines[0].endswith(": .cache, bird/.DS_Store, bird/._a.jpg, ...")


def test_nothing_is_said_where_nothing_is_ignored(tmp_path: Path) -> None:
    put(tmp_path / "train" / "bird" / "a.png", saved("PNG"))
    assert not folder(tmp_path).remarks()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("train/bird/more/a.png", r"train/bird/more: a folder inside a class folder; .*move those"),
        ("train/bird/x.jpg/a.png", r"train/bird/x.jpg: a folder inside a class folder"),
        ("train/caf\udce9/a.png", r"train/caf\\xe9: the name holds bytes that are not UTF-8"),
        ("train/two\nlines/a.png", r"train/two\\x0alines: the name holds bytes"),
        ("train/cat/._a.png", r"train/cat: class folder without images; fill or remove it"),
    ],
)
def test_a_bad_folder_is_one_message_even_where_images_are_skipped(
    path: str, message: str, tmp_path: Path
) -> None:
    put(tmp_path / "train" / "bird" / "0.png", saved("PNG"))
    put(tmp_path / path, saved("PNG"))
    for broken in ("error", "skip"):
        with pytest.raises(BadInput, match=message):
            prepare(folder(tmp_path, broken=broken), "mine", tmp_path / "out", 1)


@pytest.mark.parametrize("target", ["..", ".", "bird"])
def test_a_link_to_a_folder_above_ends(target: str, tmp_path: Path) -> None:
    put(tmp_path / "train" / "bird" / "0.png", saved("PNG"))
    (tmp_path / "train" / "bird" / "link").symlink_to(tmp_path / "train" / target)
    with pytest.raises(BadInput, match=r"train/bird/link: a folder inside a class folder"):
        folder(tmp_path).splits()


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "train" / "bird" / "0.png", saved("PNG"))
    scan = os.scandir

    def refuse(path: Path) -> Any:
        if path.name == "bird":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(BadInput, match=r"train/bird: cannot be read \(Permission denied\); make"):
        folder(tmp_path).splits()


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.png", saved("PNG"))

    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("partbench.data.image._open_at_once", refuse)
    with pytest.raises(BadInput, match=r"a.png: cannot be read \(Permission denied\); let it be"):
        read_image(tmp_path / "a.png")
