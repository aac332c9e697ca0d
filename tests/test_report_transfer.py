"""The report's table of the transfer probe, with both readings."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_results import SCRIPT, make
from test_report import outline, render, words

from partbench import published
from partbench.integrity import SEAL, read_record, write_record
from partbench.report.read import read
from partbench.report.section import tasks
from partbench.report.sections.transfer import TransferSection
from partbench.report.text import NOTHING


def details(level: float, sd: float | None = 1.0) -> dict[str, Any]:
    return {
        "features": 1728,
        "head": 17290,
        "per fold": [level - 1, level, level + 1],
        "sd over folds": sd,
        "running mean per fold": [level + 2] * 3,
        "sd of the thesis": 0.3,
    }


def unsealed(path: Path) -> dict[str, Any]:
    """Return a record without its own checksum."""
    return {key: value for key, value in read_record(path).items() if key != SEAL}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a method and one of a control, whose second network is damaged."""
    folder = make(tmp_path_factory.mktemp("results") / "fake", seeds=2)
    by_cell = {
        "vae/demo/toy/0": {"encoder, frozen": details(40), "encoder, fine-tuned": details(60)},
        "vae/demo/toy/1": {"encoder, frozen": details(42, 2.0)},
        "random_init/demo/toy/0": {
            "encoder, frozen": details(30, None),
            SCRIPT: details(35) | {"per fold": []},
        },
    }
    for run, given in by_cell.items():
        cell = next((folder / "cells" / run / "toy").glob("*.json"))
        target = cell.with_name("transfer.json")
        shutil.copy(cell, target)
        write_record(target, unsealed(target) | {"probe": "transfer", "details": given})
    return folder


def view(folder: Path) -> Any:
    (task,) = tasks(read(folder), "transfer", {}, ())
    return TransferSection().view(task)


def test_the_table_has_means_over_folds_and_seeds(results: Path) -> None:
    rows = {(row["name"], row["network"]): row for row in view(results)["rows"]}
    assert list(rows) == [
        ("VAE (demo)", "encoder, frozen"),
        ("VAE (demo)", "encoder, fine-tuned"),
        ("Random initialisation (demo)", "encoder, frozen"),
    ]
    frozen = rows["VAE (demo)", "encoder, frozen"]
    assert (frozen["accuracy"], frozen["sd"]) == (41, 1.5)
    assert (frozen["running"], frozen["sd_of_thesis"]) == (43, 0.3)
    assert (frozen["folds"], frozen["features"], frozen["head"]) == (3, 1728, 17290)
    assert rows["Random initialisation (demo)", "encoder, frozen"]["sd"] is None


def test_the_page_shows_it(results: Path) -> None:
    page = render(results, published.load())
    assert "#task-transfer-toy" in outline(page).links
    said = words(page)
    assert "VAE (demo) encoder, frozen 41.0 1.5 43.0 0.3 3 1728 17290" in said
    assert f"Random initialisation (demo) floor encoder, frozen 30.0 {NOTHING} 32.0 0.3" in said
    assert SCRIPT not in page


def test_nothing_to_show(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    for cell in (tmp_path / "cells").rglob("transfer.json"):
        write_record(cell, unsealed(cell) | {"details": ["not", "a", "mapping"]})
    assert view(tmp_path) is None
