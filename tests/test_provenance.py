"""What a result says of where it comes from."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from partbench import provenance as module
from partbench.provenance import _commit, provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A git checkout of a package, from which results seem to come."""
    package = tmp_path / "partbench"
    package.mkdir()
    (package / "code.py").write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    for command in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "a"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(module, "__file__", str(package / "provenance.py"))
    _commit.cache_clear()
    yield tmp_path
    _commit.cache_clear()


@pytest.mark.parametrize(
    ("path", "dirty"),
    [
        ("results/cell.json", False),
        ("partbench/code.pyc", False),
        ("partbench/code.py", True),
        ("partbench/mine.py", True),
        ("partbench/methods/mine.py", True),
        (".gitignore", True),
    ],
)
def test_what_git_does_not_hold_is_dirty(checkout: Path, path: str, dirty: bool) -> None:
    file = checkout / path
    file.parent.mkdir(exist_ok=True)
    file.write_text("x = 2\n")
    record = provenance("cpu", "0123abc")
    assert record["dirty"] is dirty
    assert len(record["commit"]) == 40
    assert record["code"] == "0123abc"


def test_a_clean_checkout_is_not_dirty(checkout: Path) -> None:
    assert provenance("cpu", "")["dirty"] is False
