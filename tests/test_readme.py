"""What README.md says works as it stands there."""

import re
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from partbench import plugins
from partbench.cli import main
from partbench.data.archives import ARCHIVES
from partbench.data.reader import Reader
from partbench.method import Method
from partbench.probe import Probe

TEXT = (Path(__file__).parents[1] / "README.md").read_text()


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
