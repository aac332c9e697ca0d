"""Miniatures of all data sets: serve official archives badly, fetch, unpack, prepare and show them.

The prepared arrays are compared with those that the reader makes of the files that were packed.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_ccp
import test_coco
import test_cub
import test_deepfashion
import test_pascal_part
import test_stl10
import test_ucf101
from PIL import Image
from test_fetch import Server, cut, page, rarred, server, tarred, zipped

from partbench.cli import main
from partbench.data import archives as table
from partbench.data import unpack as unpacking
from partbench.data.archives import Archive
from partbench.data.fetch import folder
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.data.reader import Reader
from partbench.integrity import read_record
from partbench.plugins import load

__all__ = ["server"]
FACES = {"000001.jpg": 40, "000007.jpg": 80, "182638.jpg": 120}


def make_celeba(root: Path) -> None:
    images = root / "celeba" / "img_align_celeba"
    images.mkdir(parents=True)
    for name, grey in FACES.items():
        Image.new("RGB", (178, 218), (grey, 0, 0)).save(images / name)
    lists = root / "celeba" / "MAFL"
    lists.mkdir()
    (lists / "training.txt").write_text("000001.jpg\n000007.jpg")
    (lists / "testing.txt").write_text("182638.jpg")
    rows = [f"{name} 69 109 106 113 77 142 73 152 108 154" for name in FACES]
    text = "\n".join(["3", "lefteye_x lefteye_y ...", *rows]) + "\n"
    (root / "celeba" / "list_landmarks_align_celeba.txt").write_text(text)


def make_cub(root: Path) -> None:
    test_cub.make_masks(test_cub.make(root))


def make_stl10(root: Path) -> None:
    test_stl10.make(root, train=5000, test=40, unlabeled=30)
    for split, index in (("train", 300), ("test", 39), ("unlabeled", 0)):
        test_stl10.put(root, split, index, test_stl10.noise(index))


def make_coco(root: Path) -> None:
    test_coco.write_both(root, [test_coco.thing(7, "cat", (4, 4, 20, 10))])
    folder = root / "coco" / "test2017"
    folder.mkdir()
    (folder / "000000000001.jpg").write_bytes(b"read with another setting alone")
    (root / "coco" / "image_info_test2017.json").write_text("{}")


def make_ucf101(root: Path) -> None:
    test_ucf101.write_lists(root)
    for name in ("Archery/v_Archery_g08_c01", "HandstandPushups/v_HandstandPushups_g08_c01"):
        test_ucf101.write_clip(root / "UCF-101" / f"{name}.avi")
    test_ucf101.write_clip(root / "UCF-101" / "HandstandPushups/v_HandstandPushups_g01_c01.avi")


def content(root: Path, inside: str, place: str) -> dict[str, bytes]:
    """Return name in the archive -> content, for all files of a place."""
    top = root / place
    if top.is_file():
        return {inside: top.read_bytes()}
    files = [p for p in top.rglob("*") if p.is_file()] if top.is_dir() else []
    return {
        f"{inside}/{path.relative_to(top)}".lstrip("/"): path.read_bytes() for path in sorted(files)
    }


def pack(file: Archive, name: str, root: Path, top: str) -> bytes:
    """Return one official file, packed from the layout below `root`."""
    if not file.packed:
        (place,) = file.gives.values()
        return (root / place).read_bytes()
    members = {}
    for inside, place in file.gives.items():
        members |= content(root, inside or top, place)
    assert members
    packer = {".zip": zipped, ".rar": rarred}.get(Path(name).suffix, tarred)
    return packer(members, "w") if name.endswith(".tar") else packer(members)  # type: ignore[call-arg, operator]


def arrays(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data.iterdir() if path.suffix != ".json"}


SETS: dict[str, tuple[str, Callable[[Path], Any], dict[str, Any], set[str]]] = {
    "celeba": ("celeba", make_celeba, {"subset": True, "size": 32}, {"images"}),
    "mafl": ("mafl", make_celeba, {"size": 32}, {"images", "landmarks", "visible"}),
    "cub": (
        "cub",
        make_cub,
        {"foreground": "masks", "size": 16},
        {"images", "labels", "landmarks", "visible", "box", "mask"},
    ),
    "stl10": ("stl10", make_stl10, {"subset": True}, {"images", "labels", "folds"}),
    "coco": (
        "coco",
        make_coco,
        {"subset": True, "size": 16},
        {"images", "box", "objects", "parts"},
    ),
    "ucf101 by zip": ("ucf101", make_ucf101, {"size": 16, "frames": 3}, {"images", "labels"}),
    "ucf101 by rar": ("ucf101", make_ucf101, {"size": 16, "frames": 3}, {"images", "labels"}),
    "deepfashion": ("deepfashion", test_deepfashion.make, {"size": 8}, {"images", "parts", "mask"}),
    "pascal_part": (
        "pascal_part",
        test_pascal_part.make,
        {"size": 16},
        {"images", "parts", "mask", "box"},
    ),
    "ccp": ("ccp", test_ccp.make, {"subset": True, "size": 8}, {"images", "parts", "mask"}),
}


@pytest.mark.fault
@pytest.mark.parametrize("case", SETS)
def test_from_the_official_archives_to_arrays(
    case: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    name, make, settings, kinds = SETS[case]
    source, root = tmp_path / "source", tmp_path / "root"
    source.mkdir()
    make(source)
    files = []
    for file in table.ARCHIVES[name]:
        by_rar = case.endswith("rar") and file.same_as
        called = file.same_as[0] if by_rar else file.name
        packed = pack(file, called, source, "UCF-101" if by_rar else "clothing-co-parsing-master")
        if by_rar or not file.urls:  # a person placed it
            folder(root).mkdir(parents=True, exist_ok=True)
            (folder(root) / called).write_bytes(packed)
        else:
            server.add(file.name, packed)
            server.fail(cut(len(packed) // 3), name=file.name)
        files.append(
            replace(
                file,
                urls=(f"{server.address}/{file.name}",) if file.urls else (),
                size=len(packed) if file.size and not by_rar else None,
                sha256=hashlib.sha256(packed).hexdigest()[: len(file.sha256)],
                md5=hashlib.md5(packed).hexdigest() if file.md5 else "",
            )
        )
    monkeypatch.setitem(table.ARCHIVES, name, tuple(files))
    monkeypatch.setenv("PARTBENCH_DATA", str(root))
    # Miniatures are mostly of one grey, so they are compressed as much as zip bombs.
    monkeypatch.setattr(unpacking, "RATIO", 10_000)
    assert main(["data", "fetch", name]) == 0
    assert main(["data", "check", name]) == 0
    assert all(re.search(f"{re.escape(f.name)}: ready", capsys.readouterr().out) for f in files[:1])

    stage = ["--data-set", "mine", "--reader", name, "--settings", json.dumps(settings)]
    assert main(["fetch", *stage, "--out", str(tmp_path / "files.json")]) == 0
    states = read_record(tmp_path / "files.json")
    assert ("placed by hand" in states) == (name == "deepfashion" or "subset" in settings)
    read = [f for f in files if f.read_if.get("test") != "test2017"]  # the setting's default
    states.pop("placed by hand", None)
    assert states == {f.name: "ready" for f in read}
    assert main(["prepare", *stage, "--out", str(tmp_path / "out")]) == 0
    cls: type[Reader] = load("data", name, Reader)  # type: ignore[type-abstract]
    prepare(cls(source, cls.Settings.parse(settings, "test")), "mine", tmp_path / "direct", 1)
    fetched = arrays(tmp_path / "out")
    fetched.pop("sheet.png")
    assert fetched == arrays(tmp_path / "direct")
    split = Prepared(tmp_path / "out").split("train")
    assert {kind for kind in (*kinds, "images") if split.has(kind)} == kinds
    assert split.images.any()
    assert main(["data", "show", name, "--out", str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").stat().st_size > 100


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("foreground", ["none", "box", "masks"])
def test_masks_of_birds_are_fetched_where_they_are_read(
    foreground: str,
    by_hand: bool,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    source.mkdir()
    make_cub(source)
    files = []
    for file in table.ARCHIVES["cub"]:
        packed = pack(file, file.name, source, "")
        server.add(file.name, packed)
        address = f"{server.address}/{file.name}"
        files.append(replace(file, urls=(address,), size=len(packed), sha256="", md5=""))
    monkeypatch.setitem(table.ARCHIVES, "cub", tuple(files))
    monkeypatch.setattr(unpacking, "RATIO", 10_000)
    monkeypatch.setenv("PARTBENCH_DATA", str(root))
    settings = {"foreground": foreground, "size": 16}
    images, masks = "CUB_200_2011.tgz", "segmentations.tgz"
    read = {images, masks} if foreground == "masks" else {images}

    config = tmp_path / "birds.yaml"
    block = {"train": "cub", "methods": {"raw_pixels": ["paper"]}, "probes": {"linear": ["cub"]}}
    data = {"cub": {"reader": "cub", **settings}}
    config.write_text(json.dumps({"name": "t", "seeds": [0], "data": data, "runs": [block]}))
    monkeypatch.chdir(tmp_path)
    assert main(["check", str(config)]) == 0
    output = capsys.readouterr().out
    assert f"cub: {', '.join(sorted(read))} will be fetched" in output

    if by_hand:
        assert main(["data", "fetch", "cub"]) == 0
        assert (root / "segmentations").is_dir()
    stage = ["--data-set", "birds", "--reader", "cub", "--settings", json.dumps(settings)]
    assert main(["fetch", *stage, "--out", str(tmp_path / "files.json")]) == 0
    states = read_record(tmp_path / "files.json")
    assert states == dict.fromkeys(read, "ready")
    assert {path.name for path in folder(root).glob("*.tgz")} == read | (
        {masks} if by_hand else set()
    )
    assert main(["prepare", *stage, "--out", str(tmp_path / "out")]) == 0
    assert Prepared(tmp_path / "out").split("train").has("mask") == (foreground != "none")


@pytest.mark.fault
def test_the_stage_says_what_to_do_when_google_gives_a_page(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = replace(table.ARCHIVES["celeba"][0], urls=(f"{server.address}/img_align_celeba.zip",))
    server.fail(page, name=file.name)
    monkeypatch.setitem(table.ARCHIVES, "celeba", (file,))
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    stage = ["--data-set", "faces", "--reader", "celeba", "--settings", "{}"]
    assert main(["fetch", *stage, "--out", str(tmp_path / "files.json")]) == 1
    output = capsys.readouterr().err
    for part in ("web page", "img_align_celeba.zip", file.sha256, str(folder(tmp_path)), "mmlab"):
        assert part in output
    assert not (tmp_path / "files.json").exists()


def test_a_subset_is_taken_as_it_is(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    file = replace(table.ARCHIVES["coco"][0], urls=(f"{server.address}/train2017.zip",))
    monkeypatch.setitem(table.ARCHIVES, "coco", (file,))
    stage = ["--data-set", "mine", "--reader", "coco", "--settings", '{"subset": true}']
    assert main(["fetch", *stage, "--out", str(tmp_path / "files.json")]) == 0
    states = read_record(tmp_path / "files.json")
    assert states["train2017.zip"] == "missing"
    assert states["placed by hand"]["found"] == "absent"
    assert not server.ranges
