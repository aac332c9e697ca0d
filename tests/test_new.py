"""`partbench new` begins plugins that run at once."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from checkout import REPOSITORY, Checkout

from partbench import config, plugins
from partbench.cli import main

KINDS = {"method": "methods", "data": "data", "probe": "probes"}
NAMES = {"method": "my_method", "data": "rooms", "probe": "distance2"}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv(plugins.VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    yield
    plugins._used.clear()
    for name in [name for name in sys.modules if name.startswith(plugins.PREFIX)]:
        del sys.modules[name]


@pytest.mark.timeout(300)
def test_new_files_pass_their_tests_and_fit_a_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = {}
    for kind, folder in KINDS.items():
        name = NAMES[kind]
        assert main(["new", kind, name, "--into", "mine/parts"]) == 0
        file, test, tried, line = capsys.readouterr().out.splitlines()
        assert file == f"mine/parts/{folder}/{name}.py"
        assert test == f"mine/parts/tests/test_{name}.py"
        assert tried == f"Try it: pytest {test}"
        assert "`plugins: [mine/parts]`" in line
        lines |= yaml.safe_load(line.split("`")[-2].replace("DATA SET", NAMES["data"]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "mine/parts"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout
    values = {
        **{"name": "tiny", "seeds": [0], "plugins": ["mine/parts"]},
        "data": {"rooms": lines["rooms"]},
        "runs": [
            {
                "train": "rooms",
                "methods": {"my_method": lines["my_method"]},
                "probes": {"distance2": lines["distance2"]},
            }
        ],
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    (cell,) = config.cells(config.read(Path("tiny.yaml")))
    assert not cell.skip
    for module, title in (("methods.my_method", "MyMethod"), ("data.rooms", "Rooms")):
        assert hasattr(sys.modules[f"partbench_plugins_parts.{module}"], title)


def test_init_names_the_methods_that_are_there(tmp_path: Path) -> None:
    assert main(["new", "method", "owl_parts"]) == 0
    assert main(["init", "owls"]) == 0
    read = config.read(Path("owls.yaml"))
    assert read.plugins == ["plugins"]
    assert next(iter(read.runs[0].methods)) == "owl_parts"


def test_nothing_is_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "method", "mine"]) == 0
    for arguments, message in (
        (["method", "mine"], "plugins/methods/mine.py is there already"),
        (["probe", "mine"], "plugins/tests/test_mine.py is there already"),
        (["method", "vae"], "which partbench/methods/ has"),
        (["method", "a-b"], "names a Python module"),
        (["method", "class"], "names a Python module"),
        (["method", "../x"], "a name has at most"),
    ):
        assert main(["new", *arguments]) == 1
        assert message in capsys.readouterr().err
    assert not Path("plugins/probes").exists()


def test_a_checkout_takes_new_files_itself(tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench")
    done = here.run("partbench", "new", "method", "mine", "--checkout")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[:2] == ["partbench/methods/mine.py", "tests/test_mine.py"]
    assert not (here.folder / "tests/conftest.py").exists()
    example = REPOSITORY / "examples/partbench-example/src/partbench_example/methods"
    text = (example / "autoencoder.py").read_text()
    mine = (here.folder / "partbench/methods/mine.py").read_text()
    assert mine == text.replace("Autoencoder", "Mine")


def test_a_package_is_begun_and_grows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, name in NAMES.items():
        assert main(["new", kind, name, "--package", "own-parts"]) == 0
        said = capsys.readouterr().out
        assert (
            f"own-parts/own_parts/{KINDS[kind]}/{name}.py\nown-parts/tests/test_{name}.py" in said
        )
        assert "Install it: pip install --editable own-parts" in said
        assert "plugins:" not in said
    assert main(["new", "method", "second", "--package", "own-parts"]) == 0
    project = tomllib.loads(Path("own-parts/pyproject.toml").read_text())["project"]
    assert project["name"] == "own-parts"
    assert project["entry-points"] == {
        "partbench.methods": {
            "second": "own_parts.methods.second",
            "my_method": "own_parts.methods.my_method",
        },
        "partbench.data": {"rooms": "own_parts.data.rooms"},
        "partbench.probes": {"distance2": "own_parts.probes.distance2"},
    }
    assert not Path("own-parts/tests/conftest.py").exists()
    capsys.readouterr()
    assert main(["new", "method", "third", "--package", "1st"]) == 1
    assert "would be the name of a Python package" in capsys.readouterr().err
    assert not Path("1st").exists()
