"""Files that a person places and then changes: what runs again, and what the page says."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import Checkout
from PIL import Image

from partbench import published
from partbench.cli import main
from partbench.data import placed
from partbench.data.celeba import CelebA
from partbench.data.coco import COCO
from partbench.data.folder import Folder
from partbench.data.indoor67 import Indoor67
from partbench.data.journal import Journal
from partbench.data.toy import Toy
from partbench.integrity import read_record
from partbench.report import page

CONFIG: dict[str, Any] = {
    "name": "stale",
    "comparable": False,
    "seeds": [0],
    "runtime": {"device": "cpu", "threads": 1},
    "data": {"mine": {"reader": "folder", "path": "mine", "size": 8}},
    "probes": {"linear": {"cs": [0.1]}},
    "runs": [
        {"train": "mine", "methods": {"raw_pixels": ["paper"]}, "probes": {"linear": ["mine"]}}
    ],
}
EVERYTHING = sorted(
    ["fetch", "prepare", "train_raw_pixels", "extract", "probe_linear", "report", "all"]
)


def fill(root: Path) -> Path:
    """Write two classes of bitmaps, whose size does not depend on what they show."""
    for split, count in (("train", 6), ("test", 3)):
        for number, name in enumerate(("bird", "cat")):
            for i in range(count):
                draw(root / split / name / f"{i}.bmp", 20 + 150 * number + 5 * i)
    return root


def draw(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (9, 9), grey).save(path)


def touch(root: Path) -> None:
    for path in root.rglob("*.bmp"):
        os.utime(path, ns=(1, 1))


def move_a_label(root: Path) -> None:
    (root / "train/bird/5.bmp").rename(root / "train/cat/6.bmp")


def paint_over(root: Path) -> None:
    draw(root / "test/cat/0.bmp", 21)


def add(root: Path) -> None:
    draw(root / "test/cat/7.bmp", 240)


def remove(root: Path) -> None:
    (root / "train/cat/0.bmp").unlink()


def hide(root: Path) -> None:
    (root / "train/bird/.DS_Store").touch()


def delete_all(root: Path) -> None:
    shutil.rmtree(root)


CHANGES: dict[Callable[[Path], None], bool] = {
    touch: False,
    hide: False,
    delete_all: False,  # what was prepared still stands
    move_a_label: True,
    paint_over: True,
    add: True,
    remove: True,
}


def folder(root: Path) -> Folder:
    return Folder(root, Folder.Settings.parse({"path": "mine", "size": 8}, "test"))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_record_tells_a_change_from_a_copy(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    root = fill(tmp_path / "mine")
    reader = folder(tmp_path)
    recorded = placed.record(reader)
    assert placed.digest(reader, recorded) == placed.digest(reader, {}) == recorded["asked"]
    assert placed.digest(folder(tmp_path), {}) == recorded["asked"]
    change(root)
    now = placed.digest(reader, recorded)
    assert (now != recorded["asked"]) is CHANGES[change]


def test_nothing_is_read_unless_times_alone_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(tmp_path / "mine")
    reader = folder(tmp_path)
    recorded = placed.record(reader)
    read: list[str] = []
    monkeypatch.setattr(placed, "_sha256", lambda path: read.append(path) or "")
    placed.digest(reader, recorded)
    add(root)
    placed.digest(reader, recorded)
    assert not read
    (root / "test/cat/7.bmp").unlink()
    touch(root)
    placed.digest(reader, recorded)
    assert len(read) == 18


def test_a_data_root_may_move(tmp_path: Path) -> None:
    fill(tmp_path / "one" / "mine")
    recorded = placed.record(folder(tmp_path / "one"))
    (tmp_path / "one").rename(tmp_path / "two")
    assert placed.record(folder(tmp_path / "two")) == recorded


def test_of_many_files_names_alone_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placed, "FILES", 17)
    root = fill(tmp_path / "mine")
    recorded = placed.record(folder(tmp_path))
    assert recorded["contents"] == ""
    paint_over(root)
    touch(root)
    assert placed.digest(folder(tmp_path), recorded) == recorded["asked"]
    add(root)
    assert placed.digest(folder(tmp_path), recorded) != recorded["asked"]


def test_of_large_files_times_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placed, "BYTES", 100)
    root = fill(tmp_path / "mine")
    recorded = placed.record(folder(tmp_path))
    assert recorded["contents"] == ""
    assert placed.digest(folder(tmp_path), recorded) == recorded["asked"]
    touch(root)
    assert placed.digest(folder(tmp_path), recorded) != recorded["asked"]


def test_links_that_lead_nowhere_or_back_end(tmp_path: Path) -> None:
    root = fill(tmp_path / "mine")
    before = placed.look(folder(tmp_path)).times
    (root / "train/bird/gone.jpg").symlink_to("nothing")
    (root / "train/bird/self.jpg").symlink_to("self.jpg")
    (root / "train/up").symlink_to(root)
    os.mkfifo(root / "train/bird/pipe.jpg")
    assert len(placed.look(folder(tmp_path)).paths) == 36  # those behind `up` once more
    recorded = placed.record(folder(tmp_path))
    assert recorded["asked"] not in (before, placed.ABSENT)


def test_fetched_data_and_drawings_have_no_digest(tmp_path: Path) -> None:
    for cls in (Toy, COCO):
        reader = cls(tmp_path, cls.Settings.parse({}, "test"))
        assert placed.digest(reader, {}) == ""
        assert placed.record(reader) == {}


def test_files_of_a_subset_are_placed_by_hand(tmp_path: Path) -> None:
    reader = COCO(tmp_path, COCO.Settings.parse({"subset": True}, "test"))
    assert placed.digest(reader, {}) == placed.ABSENT
    (tmp_path / "coco/train2017").mkdir(parents=True)
    (tmp_path / "coco/train2017/1.jpg").touch()
    first = placed.digest(reader, {})
    (tmp_path / "coco/train2017/2.jpg").touch()
    assert len({placed.ABSENT, first, placed.digest(reader, {})}) == 3


def test_annotations_count_where_they_are_read(tmp_path: Path) -> None:
    plain = CelebA(tmp_path, CelebA.Settings.parse({}, "test"))
    reader = CelebA(tmp_path, CelebA.Settings.parse({"landmarks": True}, "test"))
    assert placed.digest(reader, {}) == placed.ABSENT
    (tmp_path / "celeba").mkdir()
    (tmp_path / "celeba/list_landmarks_align_celeba.txt").write_text("1\n")
    first = placed.digest(reader, {})
    (tmp_path / "celeba/list_landmarks_align_celeba.txt").write_text("12\n")
    assert len({placed.ABSENT, first, placed.digest(reader, {})}) == 3
    assert placed.digest(plain, {}) == ""


def test_an_archive_that_is_unpacked_changes_nothing(tmp_path: Path) -> None:
    reader = Indoor67(tmp_path, Indoor67.Settings.parse({}, "test"))
    asked = placed.digest(reader, {})
    assert asked == placed.ABSENT
    fill(tmp_path / "indoor67" / "Images")
    recorded = placed.record(reader, asked)
    assert placed.digest(reader, recorded) == asked
    add(tmp_path / "indoor67" / "Images")
    assert placed.digest(reader, recorded) != asked


def test_a_stopped_preparation_does_not_go_on_with_other_files(tmp_path: Path) -> None:
    root = fill(tmp_path / "mine")
    journal = Journal(tmp_path / "part", folder(tmp_path), [["a"]])
    journal.finish("train", {"n": 12})
    assert Journal(tmp_path / "part", folder(tmp_path), [["a"]]).splits
    paint_over(root)
    assert not Journal(tmp_path / "part", folder(tmp_path), [["a"]]).splits


def prepared(here: Path, root: Path) -> Path:
    """Fetch and prepare as the workflow does; return the results folder."""
    results = here / "results" / "stale"
    stage = ["--data-set", "mine", "--reader", "folder", "--settings", '{"path": "mine"}']
    files = results / "data" / "mine.files.json"
    assert main(["fetch", *stage, "--files", "0123", "--out", str(files)]) == 0
    assert read_record(files)["placed by hand"]["asked"] == "0123"
    assert main(["prepare", *stage, "--out", str(results / "data" / "mine")]) == 0
    return results


def test_the_page_and_a_command_say_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARTBENCH_DATA", "in")
    root = fill(tmp_path / "in" / "mine")
    config = Path("stale.yaml")
    config.write_text(yaml.safe_dump(CONFIG))

    def said(*options: str) -> tuple[int, str, bool]:
        try:
            status = main(["data", "changed", str(config), *options])
        except SystemExit as stopped:
            status = int(str(stopped.code))
        page.write(results, tmp_path / "page.html", published.load())
        html = (tmp_path / "page.html").read_text()
        text = "Changed data:</b> mine. Files changed after they were\nprepared"
        return status, capsys.readouterr().out.strip(), text in html

    assert main(["data", "changed", str(config)]) == 0
    assert capsys.readouterr().out == "mine: not prepared\n"
    results = prepared(tmp_path, root)
    capsys.readouterr()
    assert said() == said("--contents") == (0, "mine: as prepared", False)
    touch(root)
    assert said() == said("--contents") == (0, "mine: as prepared", False)
    add(root)
    changed = (1, "mine: its files changed after they were prepared; run again", True)
    assert said() == said("--contents") == changed
    delete_all(root)
    assert said() == said("--contents") == (0, "mine: as prepared", False)
    (results / "data" / "mine.files.json").write_text("broken")
    assert said() == (0, "mine: as prepared", False)


def test_contents_tell_what_names_sizes_and_times_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARTBENCH_DATA", "in")
    root = fill(tmp_path / "in" / "mine")
    Path("stale.yaml").write_text(yaml.safe_dump(CONFIG))
    prepared(tmp_path, root)
    path = root / "test/cat/0.bmp"
    status = path.stat()
    paint_over(root)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    capsys.readouterr()
    assert main(["data", "changed", "stale.yaml"]) == 0
    with pytest.raises(SystemExit):
        main(["data", "changed", "stale.yaml", "--contents"])
    out = capsys.readouterr().out
    assert out == "mine: as prepared\nmine: its files changed after they were prepared; run again\n"


@pytest.mark.timeout(300)
def test_the_workflow_runs_again_what_changed_files_can_change(tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench")
    root = fill(here.folder / "data" / "mine")
    config = here.configure(CONFIG)
    here.make(config)
    assert set(here.metrics("stale")["status"]) == {"done"}
    assert set(here.metrics("stale")["n"]) == {6}

    touch(root)
    hide(root)
    assert here.planned(config) == []
    move_a_label(root)
    add(root)
    made = here.make(config)
    assert sorted(re.findall(r"^(?:local)?rule (\w+):$", made, re.MULTILINE)) == EVERYTHING
    assert set(here.metrics("stale")["n"]) == {7}
    assert "Changed data" not in (here.folder / "report/stale/index.html").read_text()
    assert here.planned(config) == []
