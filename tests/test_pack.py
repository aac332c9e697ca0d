"""Packs: a results folder goes out whole, comes back checked, and joins others."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from partbench import changes, gather
from partbench.cli import main
from partbench.commands.compare import WORSE
from partbench.config import check
from partbench.errors import BadInput
from partbench.files import sha256
from partbench.integrity import read_record, write_record
from partbench.merge import merge
from partbench.pack import MANIFEST, opened, pack
from partbench.testing import measured, trained


@pytest.fixture(scope="module")
def results(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a results folder of controls on the tiny toy data set."""
    base = tmp_path_factory.mktemp("results")

    def make(name: str, methods: dict[str, list[str]], seeds: list[int]) -> Path:
        folder = base / name
        if folder.exists():
            shutil.rmtree(folder)
        values = {
            "name": name,
            "seeds": seeds,
            "comparable": False,
            "data": {"toy": {"reader": "toy", "size": 32, "train": 64, "val": 16, "test": 32}},
            "runs": [{"train": "toy", "methods": methods, "probes": {"linear": ["toy"]}}],
        }
        config = check(values, "test")
        folder.mkdir()
        write_record(folder / "config.json", config.model_dump(mode="json"))
        (folder / "data").mkdir()
        shutil.copytree(tiny, folder / "data" / "toy")
        for method, variants in methods.items():
            for variant in variants:
                for seed in seeds:
                    data = folder / "data" / "toy"
                    measured("linear", trained(method, data, folder, variant, seed), data, folder)
        gather.write(gather.gather(config, folder), folder)
        return folder

    return make


def rewritten(source: Path, out: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """Copy a zip archive, its members changed, or left out where `change` returns None."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if (content := change(name, old.read(name))) is not None:
                new.writestr(name, content)
    return out


def test_a_pack_holds_all_but_data_and_models(results: Callable[..., Path], tmp_path: Path) -> None:
    folder = results("one", {"raw_pixels": ["paper"]}, [0])
    manifest = pack(folder, tmp_path / "one.zip")
    again = pack(folder, tmp_path / "again.zip")
    assert manifest == again
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "again.zip").read_bytes()
    run = "raw_pixels/paper/toy/0"
    assert {
        "config.json",
        "metrics.parquet",
        "summary.csv",
        f"cells/{run}/toy/linear.json",
        f"cells/{run}/toy/linear.parquet",
        f"cells/{run}/toy/linear.pictures.npz",
        f"runs/{run}/train.json",
        "data/toy/meta.json",
    } <= set(manifest.files)
    assert not [name for name in manifest.files if name.endswith((".npy", ".pt"))]
    assert manifest.definitions.keys() == {"linear"}
    assert manifest.data.keys() == {"toy"}
    with opened(tmp_path / "one.zip") as content:
        cell = f"cells/{run}/toy/linear.json"
        assert (content / cell).read_bytes() == (folder / cell).read_bytes()
    bare = pack(folder, tmp_path / "bare.zip", pictures=False)
    assert not [name for name in bare.files if name.endswith((".png", ".npz"))]


def test_a_changed_pack_is_refused(results: Callable[..., Path], tmp_path: Path) -> None:
    folder = results("one", {"raw_pixels": ["paper"]}, [0])
    pack(folder, tmp_path / "one.zip")

    def number(name: str, content: bytes) -> bytes:
        return content.replace(b'"value": ', b'"value": 1') if "linear.json" in name else content

    def checksum(name: str, content: bytes) -> bytes:
        if name != MANIFEST:
            return content
        values = json.loads(content)
        values["data"]["toy"] = ["0" * 64]
        return json.dumps(values).encode()

    def table(name: str, content: bytes) -> bytes | None:
        return None if name == "summary.csv" else content

    for change, name in (
        (number, "linear.json"),
        (checksum, MANIFEST),
        (table, "summary.csv"),
    ):
        bad = rewritten(tmp_path / "one.zip", tmp_path / f"{change.__name__}.zip", change)
        with pytest.raises(BadInput, match=f"{name} is not as it was packed"):
            merge([bad], tmp_path / "joined")
        assert not (tmp_path / "joined").exists()

    # Checksums made to agree do not help: the number is no mean of its samples.
    forged = tmp_path / "forged"
    shutil.copytree(folder, forged)
    cell = forged / "cells/raw_pixels/paper/toy/0/toy/linear.json"
    record = read_record(cell)
    record["metrics"][0]["value"] += 1
    write_record(cell, record)
    with pytest.raises(BadInput, match="the mean of its samples"):
        pack(forged, tmp_path / "forged.zip")


def test_an_archive_that_is_no_pack(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "a")
        archive.writestr("b.txt", "b")
    with zipfile.ZipFile(tmp_path / "escape.zip", "w") as archive:
        archive.writestr("../outside.txt", "a")
    (tmp_path / "text.zip").write_text("no archive")
    for name, reason in (
        ("other.zip", "it is no pack"),
        ("escape.zip", "outside"),
        ("text.zip", "neither a results folder"),
        ("absent.zip", "neither a results folder"),
    ):
        with pytest.raises(BadInput, match=reason), opened(tmp_path / name):
            pass
    assert not (tmp_path.parent / "outside.txt").exists()


def test_two_packs_give_the_table_of_one_run(results: Callable[..., Path], tmp_path: Path) -> None:
    first = results("first", {"raw_pixels": ["paper"]}, [0])
    second = results("second", {"random_init": ["demo"]}, [0, 1])
    both = results("both", {"raw_pixels": ["paper"], "random_init": ["demo"]}, [0, 1])
    for folder in (first, second):
        pack(folder, tmp_path / f"{folder.name}.zip")
    merged = merge([tmp_path / "first.zip", tmp_path / "second.zip"], tmp_path / "joined")
    assert (merged.cells, merged.repeated, merged.conflicts) == (3, 0, [])
    columns = ["method", "variant", "metric", "setting", "mean", "low", "high", "seeds"]
    expected = pd.read_parquet(both / "summary.parquet")[columns]
    expected = expected[expected["method"] == "random_init"].reset_index(drop=True)
    joined = pd.read_parquet(tmp_path / "joined" / "summary.parquet")[columns]
    joined = joined[joined["method"] == "random_init"].reset_index(drop=True)
    pd.testing.assert_frame_equal(joined, expected)
    states = pd.read_parquet(tmp_path / "joined" / "metrics.parquet")["status"]
    assert set(states) == {"done"}
    # A results folder that was joined packs and joins like any other.
    pack(tmp_path / "joined", tmp_path / "joined.zip")
    again = merge([tmp_path / "joined.zip", first], tmp_path / "again")
    assert (again.cells, again.repeated) == (3, 1)


def from_commit(results: Path, commit: str) -> Path:
    """Let a results folder be the work of another commit, whose code is other code."""
    for path in [*results.glob("cells/*/*/*/*/*/*.json"), *results.glob("runs/*/*/*/*/train.json")]:
        record = read_record(path)
        made_by = record["provenance"] | {"commit": commit, "code": f"code of {commit}"}
        write_record(path, record | {"provenance": made_by})
    return results


def test_packs_of_two_commits_join_where_their_numbers_may(
    results: Callable[..., Path], tmp_path: Path
) -> None:
    first = from_commit(results("first", {"random_init": ["demo"]}, [0]), "a" * 40)
    second = from_commit(results("second", {"raw_pixels": ["paper"]}, [0]), "b" * 40)
    for folder in (first, second):
        pack(folder, tmp_path / f"{folder.name}.zip")
    merged = merge([tmp_path / "first.zip", tmp_path / "second.zip"], tmp_path / "joined")
    assert (merged.cells, merged.conflicts) == (2, [])
    table = pd.read_parquet(tmp_path / "joined" / "metrics.parquet")
    commits = table.groupby("method")["commit"].unique().map(list).to_dict()
    assert commits == {"random_init": ["a" * 40], "raw_pixels": ["b" * 40]}
    pack(tmp_path / "joined", tmp_path / "joined.zip")
    with zipfile.ZipFile(tmp_path / "joined.zip") as archive:
        assert json.loads(archive.read(MANIFEST))["commits"] == ["a" * 40, "b" * 40]

    # The same run of both: one stands for the two, unless they measured differently.
    other = from_commit(results("other", {"random_init": ["demo"]}, [0]), "b" * 40)
    assert merge([first, other], tmp_path / "third").repeated == 1
    [cell] = other.glob("cells/*/*/*/*/*/*.json")
    record = read_record(cell)
    write_record(cell, record | {"version": record["version"] + 1})
    with pytest.raises(BadInput, match=r"in conflict\n  random_init/demo/toy/0/toy/linear: "):
        merge([first, other], tmp_path / "fourth")


def test_conflicts_are_shown_and_nothing_is_written(
    results: Callable[..., Path], tmp_path: Path
) -> None:
    first = results("first", {"raw_pixels": ["paper"]}, [0])
    other = tmp_path / "other"
    shutil.copytree(first, other)
    run = "raw_pixels/paper/toy/0"
    cell = other / "cells" / run / "toy" / "linear.json"
    record = read_record(cell)
    write_record(cell, record | {"version": record["version"] + 1})
    with pytest.raises(BadInput, match=rf"in conflict\n  {run}/toy/linear: version is"):
        merge([first, other], tmp_path / "joined")
    assert not list(tmp_path.glob("*joined*"))
    merged = merge([first, other], tmp_path / "joined", first_wins=True)
    assert merged.cells == 1
    assert [run in conflict for conflict in merged.conflicts] == [True]

    # The same names, other data.
    config = read_record(other / "config.json")
    config["data"]["toy"]["seed"] = 5
    write_record(other / "config.json", config)
    with pytest.raises(BadInput, match=r"data\.toy is .* in .*first, and .* in .*other"):
        merge([first, other], tmp_path / "third")


def test_versions_of_a_definition_do_not_mix(results: Callable[..., Path], tmp_path: Path) -> None:
    first = results("first", {"raw_pixels": ["paper"]}, [0])
    second = results("second", {"random_init": ["demo"]}, [0])
    for cell in second.glob("cells/*/*/*/*/*/*.json"):
        record = read_record(cell)
        write_record(cell, record | {"version": record["version"] + 1})
    with pytest.raises(BadInput, match="different versions of the definition"):
        merge([first, second], tmp_path / "joined")
    assert not list(tmp_path.glob("*joined*"))


def test_a_run_trained_twice_takes_no_cells_of_the_other_training(
    results: Callable[..., Path], tmp_path: Path
) -> None:
    first = results("first", {"raw_pixels": ["paper"]}, [0])
    other = tmp_path / "other"
    shutil.copytree(first, other)
    run = "raw_pixels/paper/toy/0"
    for suffix in (".json", ".parquet"):
        (first / "cells" / run / "toy" / f"linear{suffix}").unlink()
    # Of the same training they come.
    assert merge([first, other], tmp_path / "joined").cells == 1
    train = other / "runs" / run / "train.json"
    write_record(train, read_record(train) | {"seconds": 1.0})
    with pytest.raises(BadInput, match="each trained it"):
        merge([first, other], tmp_path / "second")


def test_the_failures_go_with_the_pack(results: Callable[..., Path], tmp_path: Path) -> None:
    folder = results("failed", {"raw_pixels": ["paper"]}, [0, 1])
    run = "raw_pixels/paper/toy/1"
    for suffix in (".json", ".parquet"):
        (folder / "cells" / run / "toy" / f"linear{suffix}").unlink()
    log = f"logs/probe/{run}/toy/linear.log"
    (folder / log).parent.mkdir(parents=True)
    (folder / log).write_text("partbench: the number is NaN\n")
    job = [log, [], [f"cells/{run}/toy/linear.json"], []]
    (folder / "logs" / "jobs.json").write_text(json.dumps([job]))
    pack(folder, tmp_path / "failed.zip")
    merge([tmp_path / "failed.zip"], tmp_path / "joined")
    table = pd.read_parquet(tmp_path / "joined" / "metrics.parquet").set_index("seed")
    assert table.loc[1, "status"] == "failed"
    assert table.loc[1, "reason"] == "partbench: the number is NaN"


def signed(folder: Path, **values: object) -> Path:
    """Return a results folder whose records say that they come from a commit, or as changed."""
    for path in (*folder.glob("cells/*/*/*/*/*/*.json"), *folder.glob("runs/*/*/*/*/train.json")):
        record = read_record(path)
        sure = {"commit": 40 * "a", "code": "a", "dirty": False}
        write_record(path, record | {"provenance": record["provenance"] | sure | values})
    return folder


def test_a_leaderboard_shows_what_passes_the_checks(
    results: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = signed(results("good", {"raw_pixels": ["paper"]}, [0]))
    few = signed(results("few", {"random_init": ["demo"]}, [0, 1]))
    whole = signed(results("whole", {"random_init": ["demo"]}, [0, 1, 2]))
    dirty = signed(results("dirty", {"raw_pixels": ["paper"]}, [0]), dirty=True)
    lost = signed(results("lost", {"raw_pixels": ["paper"]}, [0]), commit="", device="")
    old = signed(results("old", {"raw_pixels": ["paper"]}, [0]))
    for path in old.glob("cells/*/*/*/*/*/*.json"):
        record = read_record(path)
        write_record(path, record | {"version": record["version"] + 1})
    other = signed(results("other", {"raw_pixels": ["paper"]}, [0]))
    for path in other.glob("cells/*/*/*/*/*/*.json"):
        record = read_record(path)
        write_record(path, record | {"data_checksum": "0" * 64})
    packs = []
    for folder in (good, few, whole, dirty, lost, old, other):
        packs.append(str(tmp_path / f"{folder.name}.zip"))
        pack(folder, Path(packs[-1]))
    board = tmp_path / "board"
    assert main(["leaderboard", *packs, "--out", str(board)]) == 0
    said = capsys.readouterr().out
    assert "good.zip: accepted" in said
    assert "whole.zip: accepted" in said
    assert "few.zip: refused\n  random_init/demo on toy: 2 of 3 seeds" in said
    assert "dirty.zip: refused\n  the code differed from its commit" in said
    assert "lost.zip: refused\n  the provenance lacks commit, device" in said
    assert re.search(r"old\.zip: refused\n  the probe linear measured by version", said)
    assert re.search(r"other\.zip: refused\n.*\n.*data_checksum is", said)
    methods = pd.read_parquet(board / "summary.parquet")["method"]
    assert set(methods) == {"raw_pixels", "random_init"}
    assert "raw_pixels" in (board / "report" / "index.html").read_text()
    # Once more, over the old one; a community's checks need the exit status.
    assert main(["leaderboard", *packs[:1], "--out", str(board), "--strict"]) == 0
    with pytest.raises(SystemExit, match="1"):
        main(["leaderboard", *packs[:2], "--out", str(board), "--strict"])
    assert main(["leaderboard", packs[1], "--out", str(board)]) == 1


def test_the_commands(
    results: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = results("one", {"raw_pixels": ["paper"]}, [0])
    out = tmp_path / "one.zip"
    assert main(["pack", str(folder), "--out", str(out)]) == 0
    assert main(["merge", str(out), "--out", str(tmp_path / "joined")]) == 0
    assert "joined: 1 cells" in capsys.readouterr().out
    assert main(["pack", str(tmp_path)]) == 1
    assert "has no config.json" in capsys.readouterr().err


def without_a_hit(folder: Path, out: Path) -> Path:
    """Copy a results folder, all its outcomes wrong."""
    shutil.copytree(folder, out)
    for path in out.glob("cells/*/*/*/*/*/*.json"):
        samples, record = path.with_suffix(".parquet"), read_record(path)
        (0 * pd.read_parquet(samples)).to_parquet(samples)
        for metric in record["metrics"]:
            metric["value"] = 0.0
        write_record(path, record | {"samples": sha256(samples)})
    config = check(read_record(out / "config.json"), "test")
    gather.write(gather.gather(config, out), out)
    return out


def test_packs_are_compared_like_the_folders(
    results: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = results("whole", {"random_init": ["demo"]}, [0, 1, 2])
    worse = without_a_hit(folder, tmp_path / "worse")
    packs = [tmp_path / "whole.zip", tmp_path / "worse.zip"]
    for source, out in zip((folder, worse), packs, strict=True):
        pack(source, out)
    found = []
    for a, b in ((folder, worse), packs):
        with changes.opened(a) as one, changes.opened(b) as other:
            found.append(changes.changes(one, other))
    assert found[0][2:] == found[1][2:]
    (change,) = [number for number in found[1].numbers if number.key["metric"] == "top1"]
    assert (change.state, change.b, change.seeds, change.samples) == ("worse", 0.0, 3, 32)
    assert main(["compare", *map(str, packs)]) == WORSE
    assert f"A: {packs[0]}\n" in capsys.readouterr().out
    assert main(["compare", str(packs[0]), str(folder)]) == 0
    changed = rewritten(
        packs[1], tmp_path / "changed.zip", lambda name, old: old + b" " * (name == "summary.csv")
    )
    assert main(["compare", str(packs[0]), str(changed)]) == 1
    assert "summary.csv is not as it was packed" in capsys.readouterr().err


def test_what_a_pack_builds_on(
    results: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = results("one", {"raw_pixels": ["paper"]}, [0])
    pack(folder, tmp_path / "one.zip")
    said = []
    for source in (folder, tmp_path / "one.zip"):
        assert main(["cite", str(source)]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert "@inproceedings{alain2017probes," in said[0]
    assert main(["cite", str(tmp_path)]) == 1
    assert "has no config.json" in capsys.readouterr().err
