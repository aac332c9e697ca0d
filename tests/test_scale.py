"""What a large configuration takes grows with its cells and no faster, counted in calls."""

import cProfile
import os
import pstats
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from checkout import REPOSITORY

from benchmarks import scale
from partbench.comparisons import Files
from partbench.config import cells, check
from partbench.gather import gather

SIZES = (100, 300, 500)
"""Cells, evenly spaced."""


def assert_linear(calls: list[int]) -> None:
    """Two equal steps cost the same: the second of n**2 would cost twice the first."""
    first, second = calls[1] - calls[0], calls[2] - calls[1]
    assert 0 < second < 1.2 * first, calls


def counted(stats: pstats.Stats, function: str) -> int:
    """Return the calls of a function of partbench."""
    found = vars(stats)["stats"].items()
    return sum(value[1] for (file, _, name), value in found
               if name == function and "partbench" in file)  # fmt: skip


@pytest.mark.timeout(300)
def test_a_dry_run_is_linear_in_cells(tmp_path: Path) -> None:
    calls, fingerprints = [], set()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PARTBENCH_DATA": str(tmp_path)}
    for n in SIZES:
        (tmp_path / "scale.yaml").write_text(yaml.safe_dump(scale.values(n), sort_keys=False))
        subprocess.run(
            [
                *(sys.executable, "-m", "cProfile", "-o", "profile", "-m", "snakemake"),
                *("--dry-run", "--snakefile", str(REPOSITORY / "Snakefile")),
                *("--configfile", "scale.yaml"),
            ],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
        )
        stats = pstats.Stats(str(tmp_path / "profile"))
        calls.append(vars(stats)["total_calls"])
        fingerprints.add(counted(stats, "fingerprint"))
    assert_linear(calls)
    # The source is walked through once for each method, probe and reader, whatever the seeds.
    assert len(fingerprints) == 1
    assert 0 < max(fingerprints) < 20


def test_the_tables_are_linear_in_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    read = pd.read_parquet

    def counting(path: Any, *arguments: Any, **options: Any) -> pd.DataFrame:
        reads.append(path)
        return read(path, *arguments, **options)

    monkeypatch.setattr(pd, "read_parquet", counting)
    calls = []
    for n in SIZES:
        config = check(scale.values(n), "scale.yaml")
        results = tmp_path / str(n)
        scale.finish(config, results)
        reads.clear()
        profile = cProfile.Profile()
        tables = profile.runcall(gather, config, results)
        assert (tables.metrics["status"] == "done").all()
        calls.append(vars(pstats.Stats(profile))["total_calls"])
        # Once to verify it, once for its numbers and their tests, however many these are.
        assert len(reads) <= 2 * len(cells(config))
    assert_linear(calls)


def test_tables_of_outcomes_are_kept_up_to_a_size(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.parquet" for i in range(3)]
    for i, path in enumerate(paths):
        pd.DataFrame({"top1": [float(i)] * 1000}).to_parquet(path)
    files = Files(most=20_000)  # two of 8 kB
    first = files.read(paths[0])
    assert files.read(paths[0]) is first
    files.read(paths[1])
    files.read(paths[2])
    assert files.read(paths[0]) is not first
    assert files.read(paths[0])["top1"].tolist() == first["top1"].tolist()
    pd.DataFrame({"top1": [7.0]}).to_parquet(paths[0])
    assert files.read(paths[0])["top1"].tolist() == [7.0]
    assert len(Files(most=1).read(paths[1])) == 1000
