"""`partbench compare`: what changed between two runs, branch by branch, and its exit status."""

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from partbench import changes
from partbench.cli import main
from partbench.commands.compare import WORSE
from partbench.errors import BadInput
from partbench.gather import COLUMNS, DEFAULTS
from partbench.integrity import write_record
from partbench.judgement import NOTHING_TO_TEST, UNDEFINED
from partbench.metrics.paired import holm, paired_by_seed, paired_difference, welch_difference

HOSTILE = "<script>alert(1)</script>"
Edit = Callable[[pd.DataFrame], pd.DataFrame]


def row(method: str, seed: int, **values: Any) -> dict[str, Any]:
    cell = {column: DEFAULTS[kind] for column, kind in COLUMNS.items()}
    cell |= {"method": method, "variant": "paper", "train": "toy", "seed": seed, "eval": "toy"}
    cell |= {"probe": "linear", "metric": "top1", "settings": "{}", "unit": "%", "better": "higher"}
    cell |= {"status": "done", "role": "method", "random": True, "version": 1, "scale": 1.0}
    cell |= {"data_checksum": "toy's", "train_checksum": "toy's", "commit": "abc", "code": "aaa"}
    return cell | values


def outcomes(level: float, seed: int) -> np.ndarray:
    """Return the outcomes of 50 samples that every method finds equally hard."""
    hard = 5 * np.random.default_rng(0).normal(size=50)
    own = np.random.default_rng([seed, 1]).normal(size=50)
    rest = np.random.default_rng([seed, int(10 * level)]).normal(size=50)
    return level + hard + 0.2 * seed + own + 0.3 * rest


LEVELS = {"zhang": 60.0, "keynet": 50.0, "dlp": 55.0}


def write(
    folder: Path,
    levels: dict[str, float] = LEVELS,
    *,
    seeds: int = 3,
    samples: bool = True,
    edit: Edit = lambda table: table,
    settings: dict[str, Any] | None = None,
    **values: Any,
) -> Path:
    """Write a results folder with one number a method."""
    rows = []
    for method, level in levels.items():
        for seed in range(seeds):
            path = folder / "cells" / method / "paper" / "toy" / str(seed) / "toy" / "linear.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = outcomes(level, seed)
            if samples:
                pd.DataFrame({"top1": kept}).to_parquet(path.with_suffix(".parquet"))
            place = {"path": str(path.relative_to(folder)), "samples": "top1" if samples else ""}
            rows.append(row(method, seed, value=float(kept.mean()), **place, **values))
            run = folder / "runs" / method / "paper" / "toy" / str(seed)
            train = {"settings": {"epochs": 30, "crop": {"area": 1.0}} | (settings or {})}
            write_record(run / "train.json", train)
    table = edit(pd.DataFrame(rows).astype(COLUMNS))
    table.to_parquet(folder / "metrics.parquet")
    write_record(folder / "config.json", {"name": folder.name, "seeds": list(range(seeds))})
    return folder


def compare(a: Path, b: Path, **options: Any) -> changes.Changes:
    with changes.opened(a) as one, changes.opened(b) as other:
        return changes.changes(one, other, **options)


def of(found: changes.Changes, method: str) -> changes.Change:
    (change,) = [change for change in found.numbers if change.key["method"] == method]
    return change


def edited(method: str, **values: Any) -> Edit:
    def edit(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table["method"] == method, list(values)] = list(values.values())
        return table

    return edit


def test_runs_that_agree_are_identical(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    assert compare(a, b).counts == {"identical": 3}
    assert main(["compare", str(a), str(b)]) == 0
    said = capsys.readouterr().out
    assert "3 identical" in said
    assert "settings that differ: 0" in said


def test_what_is_worse_and_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a")
    b = write(tmp_path / "b", {"zhang": 58.0, "keynet": 51.0, "dlp": 55.0})
    found = compare(a, b)
    zhang, keynet = of(found, "zhang"), of(found, "keynet")
    assert (zhang.state, keynet.state, of(found, "dlp").state) == ("worse", "better", "identical")
    assert found.is_worse
    tables = [np.stack([outcomes(level, s) for s in range(3)]) for level in (58.0, 60.0)]
    expected = paired_by_seed(*tables)
    assert (zhang.difference, zhang.low, zhang.high) == pytest.approx(expected[:3])
    tables = [np.stack([outcomes(level, s) for s in range(3)]) for level in (51.0, 50.0)]
    assert zhang.p == pytest.approx(holm([expected.p, paired_by_seed(*tables).p])[0])
    assert (zhang.seeds, zhang.samples) == (3, 50)
    assert main(["compare", str(a), str(b)]) == WORSE == 3
    said = capsys.readouterr().out
    assert "zhang/paper/toy on toy, linear top1: " in said
    assert said.index("significantly worse in B:") < said.index("significantly better in B:")
    turned = compare(b, a)
    assert (of(turned, "zhang").state, of(turned, "keynet").state) == ("better", "worse")


def test_for_an_error_more_is_worse(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"zhang": 60.0}, better="lower")
    b = write(tmp_path / "b", {"zhang": 58.0}, better="lower")
    assert of(compare(a, b), "zhang").state == "better"


def test_noise_is_not_told_apart(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"zhang": 60.0})
    b = write(tmp_path / "b", {"zhang": 60.0}, samples=False)
    table = pd.read_parquet(b / "metrics.parquet")
    shift = np.array([2.0, -2.0, 0.5])
    table["value"] += shift
    table.to_parquet(b / "metrics.parquet")
    change = of(compare(a, b), "zhang")
    assert (change.state, change.samples) == ("same", 0)
    expected = welch_difference(shift, [0.0], b_random=False)
    assert (change.difference, change.low, change.high) == pytest.approx(expected[:3])
    assert change.p == pytest.approx(expected.p)
    assert main(["compare", str(a), str(b)]) == 0


def test_a_table_alone_is_compared_by_seed(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", LEVELS | {"zhang": 58.0})
    moved = tmp_path / "alone.parquet"
    moved.write_bytes((b / "metrics.parquet").read_bytes())
    change = of(compare(a / "metrics.parquet", moved), "zhang")
    assert (change.state, change.samples) == ("worse", 0)  # the same loss at each seed
    assert compare(a / "metrics.parquet", moved).settings == [
        changes.Setting("configuration", "seeds", [0, 1, 2], None)
    ]


def test_one_seed_has_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a", seeds=1)
    b = write(tmp_path / "b", {name: 0.5 * level for name, level in LEVELS.items()}, seeds=1)
    change = of(compare(a, b), "zhang")
    assert (change.state, change.reason) == ("untested", "one seed")
    assert change.difference == pytest.approx(-30, abs=0.2)
    assert math.isnan(change.p)
    assert main(["compare", str(a), str(b)]) == 0
    assert "%, \N{MINUS SIGN}30.0; one seed" in capsys.readouterr().out


def test_the_seed_of_a_deterministic_number_does_not_matter(tmp_path: Path) -> None:
    fixed = {"random": False, "seeds": 1}
    a = write(tmp_path / "a", {"zhang": 60.0}, **fixed)
    b = write(tmp_path / "b", {"zhang": 58.0}, **fixed)
    table = pd.read_parquet(b / "metrics.parquet")
    table["seed"] = 7
    table.to_parquet(b / "metrics.parquet")
    change = of(compare(a, b), "zhang")
    one, other = outcomes(58.0, 0)[None], outcomes(60.0, 0)[None]
    expected = paired_difference(one, other, a_random=False, b_random=False)
    assert change.state == "worse"
    assert change.difference == pytest.approx(expected.difference)
    plain = write(tmp_path / "c", {"zhang": 58.0}, samples=False, **fixed)
    assert of(compare(a, plain), "zhang").reason == NOTHING_TO_TEST


def test_a_lost_seed_takes_the_verdict(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"zhang": 60.0})
    b = write(tmp_path / "b", {"zhang": 50.0}, edit=lose_seed)
    change = of(compare(a, b), "zhang")
    assert (change.state, change.reason) == ("untested", "B lacks seeds that it asks for")
    assert (change.seeds, change.difference) == (2, pytest.approx(-10, abs=0.2))
    assert change.low < -10 < change.high
    assert math.isnan(change.p)
    same = write(tmp_path / "c", {"zhang": 60.0}, edit=lose_seed)
    assert of(compare(a, same), "zhang").state == "untested"
    both = of(compare(b, same), "zhang").reason
    assert both == "A lacks seeds that it asks for and B lacks seeds that it asks for"


def lose_seed(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[table["seed"] == 2, ["status", "metric", "reason"]] = ["failed", "", "killed"]
    return table


def test_runs_that_asked_for_other_seeds_share_some_or_none(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"zhang": 60.0})
    b = write(tmp_path / "b", {"zhang": 58.0}, seeds=2)
    change = of(compare(a, b), "zhang")
    assert (change.state, change.seeds) == ("worse", 2)
    table = pd.read_parquet(b / "metrics.parquet")
    table["seed"] += 10
    table.to_parquet(b / "metrics.parquet")
    change = of(compare(a, b), "zhang")
    assert (change.state, change.reason) == ("untested", "they share no seed")


def test_a_number_that_is_not_finite(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"zhang": 60.0})
    b = write(tmp_path / "b", {"zhang": 60.0}, edit=edited("zhang", value=math.nan))
    assert of(compare(a, b), "zhang").reason == UNDEFINED
    assert of(compare(b, b), "zhang").state == "identical"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"version": 2}, "versions of the definition differ: 1 against 2"),
        ({"data_checksum": "others'"}, "checksums of the evaluation data differ"),
        ({"train_checksum": "others'"}, "checksums of the training data differ"),
        ({"unit": "px"}, "units differ: % against px"),
        ({"better": "lower"}, "directions differ: higher against lower"),
    ],
)
def test_numbers_of_different_rulers_are_not_compared(
    tmp_path: Path,
    values: dict[str, Any],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    a = write(tmp_path / "a")
    b = write(tmp_path / "b", LEVELS | {"zhang": 10.0}, edit=edited("zhang", **values))
    change = of(compare(a, b), "zhang")
    assert change.state == "not compared"
    assert change.reason.startswith(reason)
    assert math.isnan(change.difference)
    assert main(["compare", str(a), str(b)]) == 0
    assert f"linear: {reason}" in capsys.readouterr().out
    versions = [("linear", "1", "1, 2")] if "version" in values else []
    assert compare(a, b).versions == versions


def test_what_one_run_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = edited("zhang", status="failed", metric="", settings="", reason="a\nloss is NaN\n")
    a, b = write(tmp_path / "a"), write(tmp_path / "b", edit=failed)
    lost = of(compare(a, b), "zhang")
    assert (lost.state, lost.reason) == ("lost", "failed: loss is NaN")
    assert math.isnan(lost.b)
    assert main(["compare", str(a), str(b)]) == WORSE
    assert "failed: loss is NaN" in capsys.readouterr().out
    assert of(compare(b, a), "zhang").state == "found"
    assert main(["compare", str(b), str(a)]) == 0
    fewer = write(tmp_path / "c", {"keynet": 50.0, "dlp": 55.0})
    assert of(compare(a, fewer), "zhang").state == "only in A"
    assert of(compare(fewer, a), "zhang").state == "only in B"
    assert main(["compare", str(a), str(fewer)]) == 0


def test_settings_commits_and_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a")
    b = write(
        tmp_path / "b",
        seeds=2,
        settings={"epochs": 60, "crop": {"area": 0.5}, "new": True},
        **{"commit": "def", "dirty": True, "code": "bbb"},
    )
    found = compare(a, b)
    assert found.commits == (["abc"], ["def with uncommitted changes"])
    assert found.code == [("linear", "aaa", "bbb")]
    assert changes.Setting("configuration", "seeds", [0, 1, 2], [0, 1]) in found.settings
    assert changes.Setting("zhang/paper/toy", "crop.area", 1.0, 0.5) in found.settings
    assert changes.Setting("zhang/paper/toy", "new", None, True) in found.settings
    assert len(found.settings) == 1 + 3 * 3
    assert main(["compare", str(a), str(b)]) == 0
    said = capsys.readouterr().out
    assert "commit of B: def with uncommitted changes" in said
    assert "zhang/paper/toy: new: not set -> true" in said


def test_fewer_numbers_are_corrected_less(tmp_path: Path) -> None:
    a = write(tmp_path / "a")
    b = write(tmp_path / "b", {name: level - 1 for name, level in LEVELS.items()})
    whole = of(compare(a, b), "zhang")
    table = pd.read_parquet(b / "metrics.parquet")
    table.loc[table["method"] != "zhang", "metric"] = "top5"
    for folder in (a, b):
        pd.read_parquet(folder / "metrics.parquet").assign(metric=table["metric"]).to_parquet(
            folder / "metrics.parquet"
        )
    alone = compare(a, b, metrics=["top1"])
    assert alone.counts == {"worse": 1}
    tables = [np.stack([outcomes(level, s) for s in range(3)]) for level in (59.0, 60.0)]
    assert of(alone, "zhang").p == pytest.approx(paired_by_seed(*tables).p)
    assert whole.p > of(alone, "zhang").p
    assert compare(a, b, probes=["linear"]).counts == {"worse": 3}


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, other = write(tmp_path / "a"), write(tmp_path / "b", {"mix": 1.0})
    empty, text, old = tmp_path / "empty", tmp_path / "text.parquet", tmp_path / "old.parquet"
    empty.mkdir()
    text.write_text("no table")
    pd.DataFrame({"method": ["zhang"]}).to_parquet(old)
    for path, said in (
        (tmp_path / "nowhere", "does not exist"),
        (empty, "has no metrics.parquet"),
        (text, "is no parquet table"),
        (old, "lacks the columns variant,"),
        (other, "share no number"),
    ):
        assert main(["compare", str(a), str(path)]) == 1
        assert said in capsys.readouterr().err
    for option, said in (("probe", "no probe lineer in either run; did you mean 'linear'?"),):
        with pytest.raises(BadInput, match=said.replace("?", r"\?")):
            compare(a, a, probes=["lineer"])
        assert main(["compare", str(a), str(a), f"--{option}", "lineer"]) == 1


class Page(HTMLParser):
    """What a browser would load, and the words."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_holds_all_numbers_and_loads_nothing(tmp_path: Path) -> None:
    levels = {"zhang": 60.0, "keynet": 50.0}
    a = write(tmp_path / "a", levels, settings={"epochs": HOSTILE})
    b = write(
        tmp_path / "b",
        {"zhang": 58.0, "keynet": 50.0},
        edit=edited("keynet", status="failed", metric="", settings="", reason=HOSTILE),
    )
    out = tmp_path / "out" / "changes.html"
    out.parent.mkdir()
    assert main(["compare", str(a), str(b), "--html", str(out)]) == WORSE
    page = Page()
    page.feed(out.read_text())
    assert page.addresses == []
    assert "script" not in page.tags
    assert "B is worse than A:" in page.words
    assert f"failed: {HOSTILE}" in page.words
    assert json.dumps(HOSTILE) in page.words
    assert page.tags.count("tr") == 1 + 2 + 1 + 2  # two heads, two settings, two numbers
    assert re.search(
        r"\N{MINUS SIGN}[12]\.\d \[\N{MINUS SIGN}2\.\d, \N{MINUS SIGN}1\.\d\]", page.words
    )
    same = tmp_path / "same.html"
    assert main(["compare", str(a), str(a), "--html", str(same)]) == 0
    assert "B is not worse than A" in same.read_text()
