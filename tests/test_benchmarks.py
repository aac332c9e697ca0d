"""Every benchmark runs, at toy size. What it measures means nothing here."""

import ast
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as runner
from benchmarks import common

FOLDER = Path(runner.__file__).parent
MEASURED = ("ratio", "ours_s", "reference_s", "wall", "cpu_ratio")


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not json")


def dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all dictionaries of a json, outer ones first."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else ():
        yield from dictionaries(inner)


@pytest.mark.parametrize("name", runner.BENCHMARKS)
def test_a_benchmark_runs(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))  # what lies in the user's stays unread
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    out = tmp_path / "out.json"
    assert runner.main([name, *runner.BENCHMARKS[name].toy.split(), "--out", str(out)]) == 0
    assert name in capsys.readouterr().out
    assert not common.RESULTS.exists()

    result = json.loads(out.read_text(), parse_constant=refuse)
    assert result["machine"]["versions"]["python"]
    measured = [
        {key: one[key] for key in MEASURED if isinstance(one.get(key), float)}
        for one in dictionaries(result)
    ]
    assert any(measured)
    for one in measured:
        assert all(math.isfinite(number) and number > 0 for number in one.values()), one
        if "reference_s" in one:
            assert one["ratio"] == pytest.approx(one["reference_s"] / one["ours_s"])


def test_every_benchmark_is_listed() -> None:
    modules = {
        path.stem
        for path in FOLDER.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    }
    assert modules - {"__main__"} == set(runner.BENCHMARKS)
