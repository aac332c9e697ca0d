"""What README.md says works as it stands there."""

import json
import re
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import REPOSITORY
from PIL import Image

from partbench import config as grid
from partbench import plugins
from partbench.cli import main
from partbench.data.archives import ARCHIVES
from partbench.data.reader import Reader
from partbench.method import Method
from partbench.plan import prepared_bytes
from partbench.probe import Probe

TEXT = (REPOSITORY / "README.md").read_text()


def rows(header: str) -> list[str]:
    """The names in the first column of a table."""
    table = TEXT[TEXT.index(header) :].partition("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def test_the_tables_name_all_there_is() -> None:
    assert sorted(rows("| method | paper")) == plugins.names("methods", Method)
    assert sorted(rows("| data set | what")) == plugins.names("data", Reader)  # type: ignore[type-abstract]
    assert sorted(rows("| probe | needs")) == plugins.names("probes", Probe)  # type: ignore[type-abstract]


def test_the_sizes_of_the_archives() -> None:
    said = dict(re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) GB \|", TEXT, re.MULTILINE))
    for name, size in said.items():
        assert float(size) == round(sum(file.size or 0 for file in ARCHIVES[name]) / 1e9, 1)


def test_the_sizes_of_prepared_data_and_their_images() -> None:
    pattern = r"^\| `(\w+)` \| (.*?) \|.* ([\d.]+) GiB at (\d+) px"
    said = re.findall(pattern, TEXT, re.MULTILINE)
    assert len(said) == 14
    for name, what, size, side in said:
        cls = plugins.load("data", name, Reader)  # type: ignore[type-abstract]
        reader = cls(Path(), cls.Settings.parse({"size": int(side)}, "test"))
        assert float(size) == round(prepared_bytes(reader) / 2**30, 1), name
        counts = re.findall(r"([\d,]+,\d{3}) (?:images|birds|clips|photos|CelebA)", what)
        for count in counts if name != "indoor67" else []:  # its training images are in two splits
            assert int(count.replace(",", "")) == sum(reader.counts.values()), name


def test_the_time_that_the_demo_takes() -> None:
    said = re.search(r"takes (\d+) minutes on (\w+) cores \(`(.*)`\)", TEXT)
    assert said
    measured = json.loads((REPOSITORY / said[3]).read_text())
    assert int(said[1]) == round(measured["wall"] / 60)
    assert (said[2], measured["machine"]["used"]) == ("two", 2)
    config = grid.read(REPOSITORY / "config" / "demo.yaml")
    jobs = Counter(f"train_{run.method}" for run in grid.runs(config))
    jobs.update(f"probe_{cell.probe}" for cell in grid.cells(config) if not cell.skip)
    computed = ("train_", "probe_")
    assert jobs == {
        name: rule["jobs"] for name, rule in measured["rules"].items() if name.startswith(computed)
    }


def test_the_jobs_of_one_method_again() -> None:
    cells = [
        cell
        for cell in grid.cells(grid.read(REPOSITORY / "config" / "demo.yaml"))
        if cell.run.method == "patchvae" and not cell.skip
    ]
    jobs = Counter(f"probe_{cell.probe}" for cell in cells)
    jobs["train_patchvae"] = len({cell.run for cell in cells})
    jobs["extract"] = sum(grid.load_probe(cell.probe).reads == "outputs" for cell in cells)
    jobs["report"] = jobs["all"] = 1
    table = TEXT.partition("-n -R train_patchvae\n    job")[2].partition("\n\n")[0]
    said = {name: int(n) for name, n in re.findall(r"^ +(\w+) +(\d+)$", table, re.MULTILINE)}
    assert said.pop("total") == sum(said.values())
    assert said == jobs


def test_your_own_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = TEXT.partition("## Your own images")[2].partition("\n## ")[0]
    block = re.search(r"(?:^    .*\n)+", section, re.MULTILINE)
    assert block
    config = tmp_path / "birds.yaml"
    config.write_text(textwrap.dedent(block[0]))
    for place in ("train/owl/1.png", "train/kite/2.jpg", "test/owl/3.png", "test/kite/4.jpg"):
        path = tmp_path / "birds" / place
        path.parent.mkdir(parents=True)
        Image.new("RGB", (70, 90)).save(path)
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    assert main(["check", str(config)]) == 0
    assert "ok    birds: train 2 of 2, test 2 of 2" in capsys.readouterr().out
    assert main(["plan", str(config)]) == 0
    assert re.search(r"total +9 +9 ", capsys.readouterr().out)


def test_the_rulers_in_python() -> None:
    """The two programs run one after the other, as they are read."""
    programs = re.findall(r"\n\n((?:    from partbench\.metrics.*\n)(?:(?:    .*)?\n)+)", TEXT)
    assert len(programs) == 2
    draw = np.random.default_rng(0)
    given: dict[str, Any] = {
        f"{split}_{what}": draw.normal(size=(20, k, 2))
        for split in ("train", "test")
        for what, k in (("points", 4), ("landmarks", 3))
    }
    true = draw.choice([0, 3, 11, 255], (6, 8, 8))
    given |= {"true": true, "pred": true % 8}
    given |= {"loader": [(true[:4], true[:4]), (true[4:], true[4:])], "model": lambda x: x % 8}
    exec(textwrap.dedent(programs[0]), given)
    exec(textwrap.dedent(programs[1]), given)
    assert given["ruler"].compute() == given["agreement"]
