"""Stages replace what partbench made, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from partbench import files
from partbench.data.prepare import prepare
from partbench.data.toy import Toy
from partbench.errors import BadInput
from partbench.files import MARK, aside_of, check_places, make_empty, put_in_place
from partbench.unlock import unlock


def toy() -> Toy:
    settings = Toy.Settings.parse({"size": 8, "train": 2, "val": 2, "test": 2}, "test")
    return Toy(Path(), settings)


def test_a_folder_that_partbench_did_not_make_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match=r"mine was not made by partbench.*move it away"):
        prepare(toy(), "toy", mine, 1)
    assert (mine / "thesis.tex").read_text() == "years of work"
    (mine / "thesis.tex").unlink()
    prepare(toy(), "toy", mine, 1)  # an empty folder holds nothing to lose
    prepare(toy(), "toy", mine, 1)  # its own may be replaced
    assert (mine / MARK).exists()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_link_or_a_file_in_the_way_is_left_alone(kind: str, tmp_path: Path) -> None:
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    make_empty(elsewhere)
    out.symlink_to(elsewhere) if kind == "link" else out.write_text("text")
    with pytest.raises(BadInput, match=f"out is a {kind}, and partbench makes a folder there"):
        prepare(toy(), "toy", out, 1)
    assert elsewhere.is_dir()
    assert os.path.lexists(out)


def test_what_a_process_killed_while_it_removed_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder half removed may have lost its mark."""
    out, remove = tmp_path / "out", files.shutil.rmtree
    make_empty(out)
    (out / "array.npy").touch()

    def killed(folder: Path) -> None:
        (folder / MARK).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(files.shutil, "rmtree", killed)
    make_empty(aside_of(out))
    with pytest.raises(KeyboardInterrupt):
        put_in_place(aside_of(out), out)
    monkeypatch.setattr(files.shutil, "rmtree", remove)
    put_in_place(aside_of(out), out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    make_empty(out)
    make_empty(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("link", ["results/demo", "results/demo/data", "results/demo/runs"])
def test_links_that_lead_out_of_the_results_are_refused(
    link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    path = Path(link)
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match=f"{link} leads to .*elsewhere, outside results/"):
        check_places(Path("results/demo"))


def test_results_on_another_disk_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scratch" / "demo").mkdir(parents=True)
    Path("results").symlink_to(tmp_path / "scratch")
    check_places(Path("results/demo"))


def test_a_data_root_inside_the_results_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARTBENCH_DATA", "results/images")
    with pytest.raises(BadInput, match=r"data root .*results/images lies inside .*PARTBENCH_DATA"):
        check_places(Path("results/demo"))


def test_a_lock_is_removed_unless_a_snakemake_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not unlock()
    locks = tmp_path / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").write_text("a")
    script = tmp_path / "snakemake"  # what a running Snakemake looks like
    script.write_text("import sys\nprint('ready', flush=True)\nsys.stdin.read()")
    process = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(BadInput, match=rf"Snakemake runs in .*process {process.pid}\)"):
        unlock()
    assert locks.exists()
    process.communicate()
    assert unlock()
    assert not locks.exists()
