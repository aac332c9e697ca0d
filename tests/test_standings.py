"""Leaderboards and what tasks say together, from tables whose answers are known."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from partbench.comparisons import comparisons
from partbench.gather import COLUMNS, DEFAULTS, summarize
from partbench.judgement import METHOD_ALONE, OTHER_ALONE
from partbench.standings import against, agreement, ends, improvement, over_tasks, standings

TASK = {"train": "toy", "eval": "toy", "probe": "landmarks", "metric": "error", "setting": ""}
LEVELS = {
    ("zhang", "paper"): ("method", 2.0),
    ("keynet", "paper"): ("method", 4.0),
    ("dlp", "paper"): ("method", 4.25),
    ("dlp", "untrained"): ("floor", 7.0),
    ("raw", "paper"): ("floor", 8.0),
    ("told", "paper"): ("ceiling", 0.0),
}


def cell(method: str, variant: str, role: str, seed: int, **values: Any) -> dict[str, Any]:
    row = {column: DEFAULTS[kind] for column, kind in COLUMNS.items()} | TASK
    row |= {"method": method, "variant": variant, "role": role, "seed": seed, "random": True}
    return row | {"status": "done", "better": "lower", "settings": "{}"} | values


def metrics(seeds: int = 3, spread: float = 0.25, **values: Any) -> pd.DataFrame:
    ends = np.resize([-1.0, 1.0, 0.0], seeds) * spread
    rows = [
        cell(*name, role, seed, value=level + ends[seed], **values)
        for name, (role, level) in LEVELS.items()
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows).astype(COLUMNS)


def standing(table: pd.DataFrame) -> dict[str, Any]:
    summary, found = summarize(table, Path()), comparisons(table, Path())
    of_task = standings(summary, found, table)
    return {f"{one.method}/{one.variant}": one for one in of_task}


def test_a_leaderboard() -> None:
    found = standing(metrics())
    names = ["told/paper", "zhang/paper", "keynet/paper", "dlp/paper", "dlp/untrained", "raw/paper"]
    assert list(found) == names
    assert [one.groups for one in found.values()] == [(), (0,), (1,), (1,), (), ()]
    assert [one.scaled for one in found.values()] == pytest.approx(
        [1, 0.75, 0.5, 3.75 / 8, 1 / 8, 0]
    )
    dlp, zhang = found["dlp/paper"], found["zhang/paper"]
    assert (dlp.state, zhang.state) == ("beats", "beats")
    assert [pair.method for pair in zhang.floors] == ["raw"]
    assert zhang.gain is None
    assert dlp.gain is not None
    assert (dlp.gain.variant, dlp.gain.outcome) == ("untrained", "better")
    assert dlp.gain.difference == pytest.approx(-2.75)
    assert [(pair.method, pair.outcome) for pair in zhang.others] == [
        ("keynet", "better"),
        ("dlp", "better"),
    ]
    keynet = found["keynet/paper"]
    assert [(pair.method, pair.outcome) for pair in keynet.others] == [
        ("zhang", "worse"),
        ("dlp", "same"),
    ]
    assert keynet.others[0].difference == pytest.approx(2.0)
    assert keynet.others[0].low == pytest.approx(-zhang.others[0].high)
    assert (keynet.seeds, keynet.asked, keynet.failure) == (3, 3, "")


def test_a_failed_method_stays_with_its_reason() -> None:
    table = metrics()
    failed = table["method"] == "keynet"
    table.loc[failed, ["status", "reason"]] = ["failed", "loss is NaN"]
    found = standing(table)
    keynet = found["keynet/paper"]
    assert list(found)[-1] == "keynet/paper"
    assert (keynet.failure, keynet.seeds, keynet.asked) == ("loss is NaN", 0, 3)
    assert math.isnan(keynet.mean)
    assert (keynet.state, keynet.groups, keynet.role) == ("unknown", (), "method")
    table.loc[failed & (table["seed"] == 0), ["status", "reason"]] = ["done", ""]
    found = standing(table)
    assert found["keynet/paper"].failure == "loss is NaN"
    assert found["keynet/paper"].groups == ()
    assert {pair.outcome for pair in found["keynet/paper"].others} == {"untested"}
    assert found["zhang/paper"].groups == (0,)


def test_a_method_that_does_not_offer_a_number_has_not_failed() -> None:
    table = metrics()
    other = table["method"] == "keynet"
    table.loc[other, "metric"] = "another"
    found = standings(summarize(table[~other], Path()), comparisons(table[~other], Path()), table)
    assert "keynet" not in {one.method for one in found}


def test_one_seed_has_numbers_and_no_verdict() -> None:
    found = standing(metrics(seeds=1))
    zhang = found["zhang/paper"]
    assert (zhang.mean, zhang.state, zhang.groups) == (pytest.approx(1.75), "unknown", ())
    assert zhang.others[0].outcome == "untested"
    assert zhang.others[0].difference == pytest.approx(-2.0)
    table = metrics()
    table = table[(table["method"] != "keynet") | (table["seed"] == 0)]
    found = standing(table)
    assert found["keynet/paper"].floors[0].reason == METHOD_ALONE
    assert found["zhang/paper"].others[0].reason == OTHER_ALONE
    assert found["zhang/paper"].groups == (0,)


def test_one_against_another_in_either_order() -> None:
    found = comparisons(metrics(), Path())
    one, other = ("zhang", "paper"), ("dlp", "paper")
    there, back = against(found, one, other, "lower"), against(found, other, one, "lower")
    assert there is not None
    assert back is not None
    assert (there.outcome, back.outcome) == ("better", "worse")
    assert (there.difference, there.low, there.high) == pytest.approx(
        (-back.difference, -back.high, -back.low)
    )
    assert against(found, one, ("nobody", "paper"), "lower") is None
    assert against(found, one, ("dlp", "untrained"), "lower") is None


def test_the_ends_of_the_scale() -> None:
    summary = summarize(metrics(), Path())
    assert ends(summary) == pytest.approx((8.0, 0.0))
    turned = summary.assign(better="higher")
    assert ends(turned) == pytest.approx((8.0, 0.0))  # one floor and one ceiling: the same
    more = pd.concat([summary, summary[summary["method"] == "raw"].assign(mean=5.0)])
    assert ends(more).floor == 5.0
    assert ends(more.assign(better="higher")).floor == pytest.approx(8.0)
    assert math.isnan(ends(summary[summary["role"] == "method"]).floor)


def test_over_tasks() -> None:
    """The second task has the first's numbers doubled, and turned: the same scaled values."""
    first, second = metrics(), metrics(metric="score")
    second["value"] = 20 - 2 * second["value"]
    second["better"] = "higher"
    third = metrics(metric="lonely")
    third = third[third["role"] == "method"]
    summary = summarize(pd.concat([first, second, third]), Path())
    tasks = [TASK | {"metric": metric} for metric in ("error", "score", "lonely")]
    found = over_tasks(summary, tasks)
    assert found["zhang", "paper"].mean == pytest.approx(0.75)
    assert set(found) == {("zhang", "paper"), ("keynet", "paper"), ("dlp", "paper")}
    fewer = summary[(summary["method"] != "dlp") | (summary["metric"] != "score")]
    assert set(over_tasks(fewer, tasks)) == {("zhang", "paper"), ("keynet", "paper")}
    assert over_tasks(summary, tasks[2:]) == {}
    better = improvement(summary, tasks, ("zhang", "paper"), ("keynet", "paper"))
    assert better == (1.0, 1.0, 1.0)
    close = improvement(summary, tasks[:2], ("keynet", "paper"), ("dlp", "paper"))
    assert close is not None
    assert close.probability == pytest.approx((3 + 1.5 + 2.5) / 9)  # of 3.75, 4.25 and 4.0
    assert improvement(summary, tasks, ("zhang", "paper"), ("nobody", "paper")) is None


def test_two_rulers_over_the_same_runs() -> None:
    first, second = metrics(spread=0.01), metrics(spread=0.01, probe="parts", metric="nmi")
    second["value"], second["better"] = -second["value"], "higher"
    table = pd.concat([first, second])
    x, y = {"probe": "landmarks", "metric": "error"}, {"probe": "parts", "metric": "nmi"}
    found, points = agreement(table, x, y)
    assert found.tau == pytest.approx(1.0)
    assert (found.runs, found.methods) == (18, 6)
    assert (points["x"] == -points["y"]).all()
    against_it, _ = agreement(table.assign(better="higher"), x, y)
    assert against_it.tau == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="several numbers of a run"):
        agreement(pd.concat([table, first.assign(eval="mafl")]), x, y)
    lost = table[(table["probe"] != "parts") | (table["seed"] != 0)]
    assert agreement(lost, x, y)[0].runs == 12
