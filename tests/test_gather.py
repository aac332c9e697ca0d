"""From the cells' files to the tables: each cell is a row; what may not be mixed is refused."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from partbench import jobs
from partbench.comparisons import Measured, Outcomes, compare, comparisons
from partbench.config import (
    Config,
    check,
    method_settings,
    probe_settings,
)
from partbench.errors import BadInput
from partbench.files import sha256
from partbench.gather import gather, summarize, write
from partbench.integrity import read_record, write_record
from partbench.judgement import (
    BOTH_ALONE,
    BOTH_INCOMPLETE,
    METHOD_ALONE,
    METHOD_INCOMPLETE,
    NOTHING_TO_TEST,
    OTHER_ALONE,
    OTHER_FAILED,
    OTHER_INCOMPLETE,
    UNDEFINED,
)
from partbench.metrics.intervals import by_group, over_seeds_and_samples
from partbench.metrics.paired import holm, paired_difference, welch_difference
from partbench.official_splits import addresses, split_means
from partbench.outcome import outcome
from partbench.probe import FORMAT, GROUP_COLUMN, Probe
from partbench.probes.classify import Classify
from partbench.probes.landmarks import Landmarks
from partbench.probes.linear import Linear
from partbench.probes.parts import Parts

CONFIG = check(
    {
        "name": "test",
        "seeds": [0, 1, 2],
        "data": {"toy": {"reader": "toy"}, "more": {"reader": "toy", "seed": 1}},
        "runs": [
            {
                "train": "toy",
                "methods": {"patchvae": ["demo"], "raw_pixels": ["paper"]},
                "probes": {"linear": ["toy"], "classify": ["more"]},
            },
            # The same cells again: they count once.
            {"train": "toy", "methods": {"patchvae": ["demo"]}, "probes": {"linear": ["toy"]}},
        ],
    },
    "test",
)


def run_key(seed: int, method: str = "patchvae", variant: str = "demo") -> str:
    return f"{method}/{variant}/toy/{seed}"


def write_run(results: Path, key: str, **changes: Any) -> None:
    method, variant, *_ = key.split("/")
    record = {
        "settings": method_settings(CONFIG, method, variant).model_dump(mode="json"),
        "subset": False,
        "provenance": {"device": "a card", "code": "aaa"},
        "seconds": 12.5,
        "peak_memory_mb": 300.0,
        "data_checksum": "toy's",
    }
    write_record(results / "runs" / key / "train.json", record | changes)
    (results / "runs" / key / "model.pt").touch()


def write_cell(
    results: Path,
    key: str,
    outcomes: list[float],
    probe: str = "linear",
    data: str = "toy",
    samples: bool = True,
    **changes: Any,
) -> Path:
    """Write a cell with one number: the mean of the outcomes, in percent."""
    path = results / "cells" / key / data / f"{probe}.json"
    metric = {
        "metric": "top1",
        "setting": {"frozen": "conv1"} if probe == "classify" else {},
        "value": 100 * float(np.mean(outcomes)),
        "unit": "%",
        "better": "higher",
        "n": len(outcomes),
        "samples": "top1" if samples else "",
        "scale": 100.0,
        "note": "a note",
    }
    cell = {
        "format": FORMAT,
        "settings": probe_settings(CONFIG, probe, data).model_dump(mode="json"),
        "subset": False,
        "version": 1,
        "data_checksum": f"{data}'s",
        "provenance": {"code": "bbb", "commit": "abc", "dirty": True},
        "metrics": [metric],
    }
    table = path.with_suffix(".parquet")
    table.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"top1": outcomes, "other": 0.0}).to_parquet(table)
    write_record(path, cell | {"samples": sha256(table)} | changes)
    return path


OUTCOMES = {0: [1.0, 0, 1, 1], 1: [1.0, 0, 0, 1], 2: [1.0, 1, 0, 1]}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder in which PatchVAE's three runs are measured by the linear probe."""
    for seed, outcomes in OUTCOMES.items():
        write_run(tmp_path, run_key(seed))
        write_cell(tmp_path, run_key(seed), outcomes)
    return tmp_path


def tables(results: Path, config: Config = CONFIG) -> tuple[pd.DataFrame, pd.DataFrame]:
    return gather(config, results)[:2]


def rows(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def test_a_number_carries_where_it_comes_from(results: Path) -> None:
    table, _ = tables(results)
    (row,) = rows(table, method="patchvae", probe="linear", seed=1).to_dict("records")
    expected = {
        "variant": "demo",
        "train": "toy",
        "eval": "toy",
        "metric": "top1",
        "value": 50.0,
        "unit": "%",
        "better": "higher",
        "n": 4,
        "note": "a note",
        "status": "done",
        "reason": "",
        "role": "method",
        "random": True,
        "reduced": True,  # the variant `demo` is
        "subset": False,
        "version": 1,
        "data_checksum": "toy's",
        "train_checksum": "toy's",
        "code": "bbb",
        "train_code": "aaa",
        "commit": "abc",
        "dirty": True,
        "device": "a card",
        "seconds": 12.5,
        "peak_memory_mb": 300.0,
        "path": "cells/patchvae/demo/toy/1/toy/linear.json",
    }
    assert {key: row[key] for key in expected} == expected


def test_every_cell_is_a_row(results: Path) -> None:
    table, _ = tables(results)
    counts = table.groupby(["method", "probe", "status"]).size().to_dict()
    assert counts == {
        ("patchvae", "linear", "done"): 3,
        ("patchvae", "classify", "missing"): 3,
        ("raw_pixels", "linear", "missing"): 3,
        ("raw_pixels", "classify", "not applicable"): 3,
    }
    skipped = rows(table, status="not applicable").iloc[0]
    assert skipped["reason"] == "the method offers no trunks"
    assert np.isnan(skipped["value"])
    assert rows(table, method="raw_pixels")["role"].tolist() == ["floor"] * 6
    assert not rows(table, method="raw_pixels")["reduced"].any()
    assert set(rows(table, status="missing")["reason"]) == {""}


def test_a_method_that_was_not_trained_is_a_floor(results: Path) -> None:
    untrained = CONFIG.model_copy(update={"settings": {"patchvae": {"epochs": 0}}})
    for config, role in ((CONFIG, "method"), (untrained, "floor")):
        table, _ = tables(results, config)
        assert set(rows(table, method="patchvae")["role"]) == {role}


def write_log(results: Path, stage: str, lines: int = 30, last: str = "") -> None:
    path = results / "logs" / f"{stage}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{stage} line {i}\n" for i in range(lines)) + last)


CELL = f"{run_key(0, 'raw_pixels', 'paper')}/toy/linear"
MODEL = f"runs/{run_key(0, 'raw_pixels', 'paper')}/model.pt"
SKIPPED_CELL = f"{run_key(2, 'raw_pixels', 'paper')}/toy/linear"
STAGES = [
    ("fetch/toy", [], ["data/toy.files.json"], []),
    ("prepare/toy", ["data/toy.files.json"], ["data/toy/meta.json"], []),
    (f"train/{run_key(0, 'raw_pixels', 'paper')}", ["data/toy/meta.json"], [MODEL], []),
    (f"extract/{CELL}", [MODEL], [f"outputs/{CELL}", f"cells/{CELL}.npz"], [f"outputs/{CELL}"]),
    (f"probe/{CELL}", [f"outputs/{CELL}", "data/toy/meta.json"], [f"cells/{CELL}.json"], []),
]


def record_jobs(results: Path) -> None:
    def here(paths: list[str]) -> list[str]:
        return [str(results / path) for path in paths]

    jobs.record(
        results,
        [
            SimpleNamespace(
                log=here([f"logs/{stage}.log"]),
                input=here(needs),
                output=here(makes),
                temp_output=here(passing),
            )
            for stage, needs, makes, passing in STAGES
        ],
        {SKIPPED_CELL: "no archive"},
    )


def raw_pixels(results: Path) -> Any:
    return rows(tables(results)[0], method="raw_pixels", probe="linear", seed=0).iloc[0]


def test_a_failed_cell_says_how_its_log_ended(results: Path) -> None:
    record_jobs(results)
    write_log(results, STAGES[2][0])
    failed = raw_pixels(results)
    assert failed["status"] == "failed"
    lines = failed["reason"].splitlines()
    assert lines[-1] == f"{STAGES[2][0]} line 29"
    assert lines[0].endswith("line 18")
    assert len(lines) == 12
    table, _ = tables(results)
    assert rows(table, method="raw_pixels", probe="linear", seed=1).iloc[0]["status"] == "missing"


def test_the_first_stage_that_failed_gives_the_reason(results: Path) -> None:
    record_jobs(results)
    for stage, *_ in STAGES:
        write_log(results, stage)
    for stage, _, makes, passing in STAGES:
        failed = raw_pixels(results)
        assert failed["status"] == "failed"
        assert failed["reason"].splitlines()[-1] == f"{stage} line 29"
        for product in set(makes) - set(passing):
            (results / product).parent.mkdir(parents=True, exist_ok=True)
            (results / product).touch()


def test_a_stage_that_ended_well_did_not_fail(results: Path) -> None:
    """Whoever deletes prepared data to save space does not make their cells fail."""
    record_jobs(results)
    for stage, *_ in STAGES:
        write_log(results, stage, last="finished in 2.5 s\n")
    assert raw_pixels(results)["status"] == "missing"


def test_what_was_left_out_is_no_failure(results: Path) -> None:
    record_jobs(results)
    table, _ = tables(results)
    skipped = rows(table, method="raw_pixels", probe="linear", seed=2).iloc[0]
    assert (skipped["status"], skipped["reason"]) == ("skipped", "no archive")
    assert raw_pixels(results)["status"] == "missing"
    key = run_key(2, "raw_pixels", "paper")
    write_run(results, key)
    write_cell(results, key, OUTCOMES[2])
    table, _ = tables(results)
    assert rows(table, method="raw_pixels", probe="linear", seed=2).iloc[0]["status"] == "done"


def test_the_outcome_names_reasons_and_logs(results: Path) -> None:
    record_jobs(results)
    write_log(results, "prepare/toy")
    assert outcome(CONFIG, results).splitlines() == [
        "cells: 3 done, 1 failed, 1 skipped, 4 missing",
        f"failed: {CELL}",
        "  prepare/toy line 29",
        f"  log: {results}/logs/prepare/toy.log",
        f"skipped: {SKIPPED_CELL}",
        "  no archive",
    ]


def test_jobs_of_another_target_are_kept(results: Path) -> None:
    record_jobs(results)
    one = SimpleNamespace(
        log=[str(results / "logs/prepare/more.log")],
        input=[],
        output=[str(results / "data/more/meta.json")],
        temp_output=[],
    )
    jobs.record(results, [one], {})
    write_log(results, "fetch/toy")
    write_log(results, "prepare/more")
    assert raw_pixels(results)["status"] == "failed"
    failure = jobs.Jobs(results).failure("data/more/meta.json")
    assert failure.log == "logs/prepare/more.log"
    assert failure.reason.endswith("line 29")


def test_a_failed_stage_outweighs_the_cells_of_before(results: Path) -> None:
    """The new preparation failed: the numbers that still stand are of the old data."""
    record_jobs(results)
    key = run_key(0, "raw_pixels", "paper")
    write_run(results, key)
    write_cell(results, key, OUTCOMES[0])
    assert raw_pixels(results)["status"] == "done"
    write_log(results, "prepare/toy")
    assert raw_pixels(results)["status"] == "failed"


def test_a_log_that_is_no_text_is_shown_all_the_same(results: Path) -> None:
    record_jobs(results)
    path = results / "logs" / f"{STAGES[2][0]}.log"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"killed \xff\n")
    assert raw_pixels(results)["reason"].startswith("killed ")


@pytest.mark.parametrize("value", [99.9, float("nan")])
def test_a_cell_edited_by_hand_is_no_number(results: Path, value: float) -> None:
    path = results / "cells" / run_key(0) / "toy" / "linear.json"
    text = path.read_text()
    assert '"value": 75.0' in text
    path.write_text(text.replace('"value": 75.0', f'"value": {json.dumps(value)}'))
    table, summary, damage, _ = gather(CONFIG, results)
    mine = rows(table, method="patchvae", probe="linear", seed=0).iloc[0]
    assert (mine["status"], mine["reason"]) == ("failed", str(damage[0]))
    assert re.search(
        r"0/toy/linear.json is damaged.*Delete .*0/toy/linear.json and run", str(damage[0])
    )
    assert summary["values"].tolist() == [[50, 75]]


def test_a_number_that_is_not_the_mean_of_its_samples_is_damage(results: Path) -> None:
    path = results / "cells" / run_key(0) / "toy" / "linear.json"
    record = read_record(path)
    record["metrics"][0]["value"] = 75.01
    write_record(path, record)
    damage = gather(CONFIG, results).damage
    assert re.search(r"top1 is 75.01, the mean of its samples 75.0", str(damage[0]))


def test_a_per_sample_table_of_other_outcomes_is_damage(results: Path) -> None:
    path = results / "cells" / run_key(0) / "toy" / "linear.parquet"
    pd.DataFrame({"top1": OUTCOMES[0][::-1], "other": 0.0}).to_parquet(path)
    damage = gather(CONFIG, results).damage
    assert re.search(
        r"linear.parquet is damaged.*Delete .*0/toy/linear.json and run", str(damage[0])
    )


def test_an_empty_folder_is_a_table_of_missing_cells(tmp_path: Path) -> None:
    table, summary = tables(tmp_path)
    assert set(table["status"]) == {"missing", "not applicable"}
    assert len(summary) == 0
    write(gather(CONFIG, tmp_path), tmp_path)
    assert len(pd.read_parquet(tmp_path / "metrics.parquet")) == len(table)
    assert len(pd.read_parquet(tmp_path / "comparisons.parquet")) == 0
    assert len(pd.read_parquet(tmp_path / "summary.parquet")) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"version": 2},
            r"probe linear: cells with different versions of the definition .*1 in cells/.*0/toy/"
            r"linear.json; 2 in cells/.*2/toy/linear.json.*snakemake -R probe_linear",
        ),
        (
            {"data_checksum": "x"},
            r"eval toy: cells with different data checksums .*toy's in .*; x in .*2/toy/linear",
        ),
    ],
)
def test_cells_of_different_making_are_refused(
    change: dict[str, Any], message: str, results: Path
) -> None:
    write_cell(results, run_key(2), OUTCOMES[2], **change)
    with pytest.raises(BadInput, match=message):
        tables(results)


def test_runs_trained_on_different_data_are_refused(results: Path) -> None:
    write_run(results, run_key(2), data_checksum="x")
    with pytest.raises(BadInput, match=r"train toy: .* checksums of the training data .*; x in"):
        tables(results)


def test_different_probes_and_data_may_differ(results: Path) -> None:
    write_cell(results, run_key(2), OUTCOMES[2], "classify", "more", version=5)
    table, _ = tables(results)
    done = rows(table, status="done")
    assert set(done["version"]) == {1, 5}
    assert set(done["data_checksum"]) == {"toy's", "more's"}


def test_subset_is_said_of_evaluation_and_of_training_data(results: Path) -> None:
    assert not tables(results)[1]["subset"].any()
    write_run(results, run_key(1), subset=True)
    table, summary = tables(results)
    assert rows(table, status="done")["subset"].tolist() == [False, True, False]
    assert summary["subset"].tolist() == [True]
    write_run(results, run_key(1))
    write_cell(results, run_key(0), OUTCOMES[0], subset=True)
    assert tables(results)[1]["subset"].tolist() == [True]


def test_summary_over_seeds_and_samples(results: Path) -> None:
    _, summary = tables(results)
    (row,) = summary.to_dict("records")
    assert (row["method"], row["probe"], row["metric"]) == ("patchvae", "linear", "top1")
    assert row["values"] == [75, 50, 75]
    assert row["seeds"] == 3
    assert row["n"] == 4
    assert row["mean"] == pytest.approx(200 / 3)
    assert row["sd_seeds"] == pytest.approx(np.std([75, 50, 75], ddof=1))
    interval = over_seeds_and_samples(100 * np.array(list(OUTCOMES.values())))
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))


def test_summary_without_outcomes_is_over_seeds_alone(results: Path) -> None:
    for seed, outcomes in OUTCOMES.items():
        write_cell(results, run_key(seed), outcomes, samples=False)
    (row,) = tables(results)[1].to_dict("records")
    values = [75, 50, 75]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((np.mean(values), low, high))


def test_samples_that_do_not_count_are_left_out(results: Path) -> None:
    for seed, outcomes in OUTCOMES.items():
        path = write_cell(results, run_key(seed), outcomes)
        table = path.with_suffix(".parquet")
        pd.DataFrame({"top1": [*outcomes, np.nan]}).to_parquet(table)
        write_record(path, read_record(path) | {"samples": sha256(table)})
    (row,) = tables(results)[1].to_dict("records")
    interval = over_seeds_and_samples(100 * np.array(list(OUTCOMES.values())))
    assert (row["mean"], row["low"], row["high"]) == pytest.approx(interval)


def test_summary_of_one_seed(tmp_path: Path) -> None:
    write_run(tmp_path, run_key(0))
    write_cell(tmp_path, run_key(0), OUTCOMES[0])
    (row,) = tables(tmp_path)[1].to_dict("records")
    outcomes = 100 * np.array(OUTCOMES[0])
    low, high = stats.t.interval(0.95, 3, outcomes.mean(), stats.sem(outcomes))
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((75, low, high))
    assert np.isnan(row["sd_seeds"])
    write_cell(tmp_path, run_key(0), OUTCOMES[0], samples=False)
    (row,) = tables(tmp_path)[1].to_dict("records")
    assert row["mean"] == 75
    assert np.isnan(row["low"])


def test_a_reference_is_told_from_a_method_s_number(results: Path) -> None:
    for seed in OUTCOMES:
        path = results / "cells" / run_key(seed) / "toy" / "linear.json"
        record = read_record(path)
        [number] = record["metrics"]
        constant = number | {"metric": "oracle", "reference": True}
        write_record(path, record | {"metrics": [number, constant]})
    for table in tables(results):
        told = table[table["metric"] != ""][["metric", "reference"]].itertuples(False, None)
        assert set(told) == {("top1", False), ("oracle", True)}


def test_settings_of_a_metric_are_summed_up_apart(results: Path) -> None:
    for seed in range(3):
        path = write_cell(results, run_key(seed), OUTCOMES[seed], "classify", "more")
        (metric,) = read_record(path)["metrics"]
        metrics = [
            metric | {"setting": {"frozen": "conv1"}},
            metric | {"setting": {"frozen": "all"}, "value": 1.0 + seed, "samples": ""},
        ]
        write_record(path, read_record(path) | {"metrics": metrics})
    table, summary = tables(results)
    done = rows(summary, probe="classify").set_index("setting")
    assert done.loc["frozen conv1", "values"] == [75, 50, 75]
    assert done.loc["frozen all", "values"] == [1, 2, 3]
    typed = {"frozen conv1": '{"frozen": "conv1"}', "frozen all": '{"frozen": "all"}'}
    assert done["settings"].to_dict() == typed
    numbers = rows(table, probe="classify", status="done")
    assert dict(zip(numbers["setting"], numbers["settings"], strict=True)) == typed


@pytest.mark.parametrize(
    "change",
    [
        {"format": None},
        {"format": None, "metrics": [{"metric": "top1", "setting": "frozen conv1"}]},
        {"format": 1},
        {"metrics": [{"metric": "top1", "setting": {"ice": "conv1"}}]},
    ],
)
def test_a_cell_of_an_earlier_version_asks_for_another_run(
    results: Path, change: dict[str, Any]
) -> None:
    path = write_cell(results, run_key(0), OUTCOMES[0])
    record = read_record(path) | change
    write_record(path, {key: value for key, value in record.items() if value is not None})
    table, summary = tables(results)
    mine = rows(table, method="patchvae", probe="linear", seed=0)
    assert mine["status"].tolist() == ["missing"]
    assert mine["reason"].tolist() == ["made by an earlier version; run again"]
    assert summary["seeds"].tolist() == [2]


def test_tables_as_files(results: Path) -> None:
    write(gather(CONFIG, results), results)
    table, summary = tables(results)
    pd.testing.assert_frame_equal(pd.read_parquet(results / "metrics.parquet"), table)
    flat = pd.read_csv(results / "metrics.csv")
    assert flat["value"].dropna().tolist() == table["value"].dropna().tolist()
    assert list(flat.columns) == list(table.columns)
    kept = pd.read_csv(results / "summary.csv")
    assert json.loads(kept["values"][0]) == [75, 50, 75]
    assert kept["mean"][0] == pytest.approx(summary["mean"][0])


def test_summary_of_a_table_is_all_it_takes(results: Path) -> None:
    table, summary = tables(results)
    pd.testing.assert_frame_equal(summarize(table, results), summary)


@pytest.mark.parametrize("stale", ["run", "cell"])
def test_a_number_made_with_other_settings_does_not_count(results: Path, stale: str) -> None:
    path = results / "runs" / run_key(0) / "train.json"
    if stale == "cell":
        path = results / "cells" / run_key(0) / "toy" / "linear.json"
    write_record(path, read_record(path) | {"settings": {"epochs": 1}})
    table, _ = tables(results)
    mine = table[(table["method"] == "patchvae") & (table["seed"] == 0) & (table["eval"] == "toy")]
    assert mine["status"].tolist() == ["missing"]
    assert "other settings" in mine["reason"].iloc[0]


# Comparisons with controls.

PAIR = {"method": "patchvae", "control": "raw_pixels"}


def write_raw_pixels(results: Path, outcomes: dict[int, list[float]], **changes: Any) -> None:
    for seed, of_seed in outcomes.items():
        key = run_key(seed, "raw_pixels", "paper")
        write_run(results, key)
        write_cell(results, key, of_seed, **changes)


def compared(results: Path) -> dict[str, Any]:
    """Return the one comparison."""
    (row,) = gather(CONFIG, results).comparisons.to_dict("records")
    return {str(key): value for key, value in row.items()}


def test_a_method_is_tested_against_a_control_on_the_same_samples(results: Path) -> None:
    controls = {0: [0.0, 0, 1, 0], 1: [0.0, 0, 0, 1], 2: [0.0, 0, 0, 0]}
    write_raw_pixels(results, controls)
    row = compared(results)
    assert {key: row[key] for key in PAIR} == PAIR
    a, b = (100 * np.array(list(o.values())) for o in (OUTCOMES, controls))
    expected = paired_difference(a, b)
    assert tuple(row[key] for key in expected._fields) == pytest.approx(expected)
    assert row["p_holm"] == row["p"]
    assert (row["samples"], row["reason"]) == (4, "")
    group = {"train": "toy", "eval": "toy", "probe": "linear", "metric": "top1", "setting": ""}
    assert {key: row[key] for key in group} == group


def test_samples_that_one_of_both_lacks_are_left_out(results: Path) -> None:
    controls = {0: [0.0, 0, 1, np.nan], 1: [0.0, 0, 0, 1]}
    write_raw_pixels(results, controls)
    path = results / "cells" / run_key(0, "raw_pixels", "paper") / "toy" / "linear.json"
    record = read_record(path)
    record["metrics"][0]["value"] = 100 * float(np.nanmean(controls[0]))
    write_record(path, record)
    a, b = (100 * np.array(list(o.values()))[:, :3] for o in (OUTCOMES, controls))
    row = compared(results)
    assert row["difference"] == pytest.approx(paired_difference(a, b).difference)
    assert row["samples"] == 3


def test_without_outcomes_the_test_is_over_seeds(results: Path) -> None:
    controls = {0: [0.0, 0, 1, 0], 1: [0.0, 0, 1, 1], 2: [0.0, 0, 1, 0]}
    write_raw_pixels(results, controls, samples=False)
    row = compared(results)
    expected = welch_difference([75, 50, 75], [25, 50, 25])
    assert tuple(row[key] for key in expected._fields) == pytest.approx(expected)
    assert row["samples"] == 0


def test_one_seed_has_no_verdict(results: Path) -> None:
    """The linear probe draws by the seed, so raw pixels need several seeds there, too."""
    write_raw_pixels(results, {0: OUTCOMES[0]})
    row = compared(results)
    assert row["reason"] == OTHER_ALONE
    assert np.isnan([row["p"], row["p_holm"], row["low"]]).all()
    for seed in (1, 2):
        (results / "cells" / run_key(seed) / "toy" / "linear.json").unlink()
    assert compared(results)["reason"] == BOTH_ALONE
    write_raw_pixels(results, {1: OUTCOMES[1]})
    assert compared(results)["reason"] == METHOD_ALONE


def test_one_seed_suffices_where_the_seed_changes_nothing(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Linear, "random", classmethod(lambda cls, metric: False))
    write_raw_pixels(results, {0: [0.0, 0, 1, 0]})
    found = gather(CONFIG, results)
    random = {"patchvae": True, "raw_pixels": False}
    assert rows(found.metrics, probe="linear").groupby("method")["random"].all().to_dict() == random
    assert found.summary.set_index("method")["random"].to_dict() == random
    a, b = 100 * np.array(list(OUTCOMES.values())), 100 * np.array([[0.0, 0, 1, 0]])
    row = found.comparisons.iloc[0]
    assert row["p"] == pytest.approx(paired_difference(a, b, b_random=False).p)


def test_what_neither_seeds_nor_samples_vary_is_not_tested() -> None:
    constant = Measured("a", "paper", False, np.array([1.0]), None)
    assert compare(constant, constant).reason == NOTHING_TO_TEST
    varied = constant._replace(outcomes=Outcomes(np.array([[1.0, 2.0, 4.0]])))
    assert compare(varied, varied._replace(outcomes=Outcomes(np.zeros((1, 3))))).samples == 3
    with pytest.raises(ValueError, match="broadcast"):
        compare(varied, varied._replace(outcomes=Outcomes(np.zeros((1, 4)))))


def test_samples_of_one_group_are_one_draw() -> None:
    """Copies of a sample in its group change neither an interval nor a test."""
    draw = np.random.default_rng(0)
    values = draw.normal(size=(2, 3, 20))
    once = [Measured("a", "paper", True, v.mean(1), Outcomes(v)) for v in values]
    groups = np.repeat(np.arange(20), 4)
    often = [
        Measured("a", "paper", True, v.mean(1), Outcomes(np.repeat(v, 4, axis=1), groups))
        for v in values
    ]
    alone, copied = compare(*once), compare(*often)
    assert copied.result == pytest.approx(alone.result)
    assert (alone.samples, copied.samples) == (20, 80)
    one_group = [m._replace(outcomes=Outcomes(m.outcomes.values, 0 * groups)) for m in often]
    assert compare(*one_group).samples == 0  # over seeds alone


def test_a_summary_over_groups(results: Path) -> None:
    groups = [7, 3, 3, 7]
    for seed, outcomes in OUTCOMES.items():
        path = write_cell(results, run_key(seed), outcomes)
        table = path.with_suffix(".parquet")
        pd.DataFrame({"top1": outcomes, GROUP_COLUMN: groups}).to_parquet(table)
        record = read_record(path)
        write_record(path, record | {"samples": sha256(table)})
    _, summary = tables(results)
    by_group = 100 * np.array([[np.mean(o[1:3]), np.mean([o[0], o[3]])] for o in OUTCOMES.values()])
    row = rows(summary, probe="linear").iloc[0]
    expected = over_seeds_and_samples(by_group)
    assert (row["mean"], row["low"], row["high"]) == pytest.approx(expected)


SPLITS = ("ucf101-1", "ucf101-2", "ucf101-3")


def of_splits(**data: Any) -> Config:
    frame = {"reader": "ucf101", "frames": 1}
    values = {
        "name": "test",
        "seeds": [0, 1],
        "data": {name: frame | {"fold": int(name[-1])} for name in SPLITS} | data,
        "runs": [
            {"train": name, "methods": {"raw_pixels": ["paper"]}, "probes": {"linear": [name]}}
            for name in SPLITS
        ],
    }
    return check(values, "test")


def test_which_data_sets_are_splits_of_one() -> None:
    assert split_means(of_splits()) == {"ucf101": list(SPLITS)}
    address = ("raw_pixels", "paper", "ucf101", "ucf101", "linear")
    assert address in addresses(of_splits())
    assert len(addresses(of_splits())) == 4
    for name, settings in (
        ("ucf101-3", {"fold": 3, "size": 32}),
        ("ucf101-3", {"fold": 2}),
        ("ucf101", {"fold": 1}),
    ):
        other = {name: {"reader": "ucf101", "frames": 1} | settings}
        assert split_means(of_splits(**other)) == {}
    toys = {f"toy-{i}": {"reader": "toy"} for i in (1, 2, 3)}
    assert split_means(of_splits(**toys)) == {"ucf101": list(SPLITS)}


@pytest.mark.parametrize("own", [True, False])
def test_the_mean_over_official_splits(own: bool, tmp_path: Path) -> None:
    """Splits of 2, 4 and 2 samples count alike, and only seeds that have all of them."""
    outcomes = {
        ("ucf101-1", 0): [1.0, 0],
        ("ucf101-2", 0): [1.0, 1, 1, 0],
        ("ucf101-3", 0): [0.0, 0],
        ("ucf101-1", 1): [1.0, 1],
        ("ucf101-2", 1): [0.0, 1, 1, 0],
        ("ucf101-3", 1): [0.0, 1],
        ("ucf101-1", 2): [0.0, 0],
        ("ucf101-2", 2): [0.0, 0, 0, 0],
    }
    table = []
    for (split, seed), of_split in outcomes.items():
        key = f"raw_pixels/paper/{split if own else 'other'}/{seed}"
        path = write_cell(tmp_path, key, of_split, data=split)
        groups = np.arange(len(of_split)) // 2
        pd.DataFrame({"top1": of_split, GROUP_COLUMN: groups}).to_parquet(
            path.with_suffix(".parquet")
        )
        row = {
            "method": "raw_pixels",
            "variant": "paper",
            "train": split if own else "other",
            "seed": seed,
            "eval": split,
            "probe": "linear",
            "metric": "top1",
            "setting": "",
            "settings": "{}",
            "value": 100 * np.mean(of_split),
            "n": len(of_split),
            "unit": "%",
            "better": "higher",
            "status": "done",
            "role": "floor",
            "random": True,
            "pretrained_on": "",
            "reduced": False,
            "subset": split == "ucf101-2",
            "note": "",
            "reference": False,
            "samples": "top1",
            "scale": 100.0,
            "path": str(path.relative_to(tmp_path)),
        }
        table.append(row)
    summary = summarize(pd.DataFrame(table), tmp_path, {"ucf101": SPLITS})
    (row,) = rows(summary, eval="ucf101").to_dict("records")
    assert len(summary) == 4
    assert row["train"] == ("ucf101" if own else "other")
    assert row["values"] == pytest.approx(
        [100 * (1 / 2 + 3 / 4 + 0) / 3, 100 * (1 + 1 / 2 + 1 / 2) / 3]
    )
    assert row["mean"] == pytest.approx(np.mean(row["values"]))
    assert (row["seeds"], row["n"], row["subset"]) == (2, 8, True)
    # Weights 8 / (3 n) make the splits count alike; groups of different splits are different.
    weights = np.repeat([8 / 6, 8 / 12, 8 / 6], [2, 4, 2])
    flat = np.array([np.concatenate([outcomes[s, seed] for s in SPLITS]) for seed in (0, 1)])
    expected = over_seeds_and_samples(by_group(100 * weights * flat, np.repeat(range(4), 2)))
    assert (row["mean"], row["low"], row["high"]) == pytest.approx(expected)


def test_the_tests_of_a_group_share_a_correction(tmp_path: Path) -> None:
    """Two methods against two controls are four tests; the pair of methods is another kind."""
    draw = np.random.default_rng(0)
    levels = {("a", "method"): 1.0, ("b", "method"): 0.3}
    levels |= {("x", "floor"): 0.0, ("y", "floor"): 0.2, ("z", "ceiling"): 9.0}
    table = pd.DataFrame(
        [
            {
                **dict.fromkeys(("train", "eval", "probe"), "toy"),
                **{"metric": metric, "method": method, "role": role, "seed": seed},
                "reference": False,
                **{"setting": "", "variant": "paper", "status": "done", "random": True},
                **{"samples": "", "path": "", "scale": 1.0},
                "value": level + 0.2 * draw.normal(),
            }
            for metric in ("top1", "top5")
            for (method, role), level in levels.items()
            for seed in range(3)
        ]
    )
    found = comparisons(table, tmp_path)
    assert list(found["method"] + found["control"])[:4] == ["ax", "ay", "bx", "by"]
    assert found["relation"].tolist() == 2 * [*4 * ["floor"], "method"]
    for _, group in found.groupby("metric"):
        floors, pair = group[group["relation"] == "floor"], group.iloc[4]
        assert floors["p_holm"].tolist() == pytest.approx(holm(floors["p"].tolist()))
        assert floors["p_holm"].min() == pytest.approx(4 * floors["p"].min())
        assert (pair["method"], pair["control"]) == ("a", "b")
        assert pair["p_holm"] == pair["p"]
        values = [group_of(table, pair["metric"], name) for name in "ab"]
        assert pair["p"] == pytest.approx(welch_difference(*values).p)


def group_of(table: pd.DataFrame, metric: str, method: str) -> list[float]:
    return list(table.query(f"metric == '{metric}' and method == '{method}'")["value"])


def test_lost_seeds_leave_the_interval_and_take_the_verdict(results: Path) -> None:
    controls = {0: [0.0, 0, 1, 0], 1: [0.0, 0, 0, 1]}
    write_raw_pixels(results, controls)
    row = compared(results)
    a, b = (100 * np.array(list(o.values())) for o in (OUTCOMES, controls))
    expected = paired_difference(a, b)
    found = [row[key] for key in ("difference", "low", "high")]
    assert found == pytest.approx([expected.difference, expected.low, expected.high])
    assert row["reason"] == OTHER_INCOMPLETE
    assert np.isnan([row["p"], row["p_holm"]]).all()
    (results / "cells" / run_key(0) / "toy" / "linear.json").unlink()
    assert compared(results)["reason"] == BOTH_INCOMPLETE
    write_raw_pixels(results, {2: [0.0, 0, 0, 0]})
    assert compared(results)["reason"] == METHOD_INCOMPLETE


def test_nobody_beats_a_floor_that_was_not_measured(results: Path) -> None:
    row = compared(results)
    assert (row["control"], row["relation"]) == ("raw_pixels", "floor")
    assert row["reason"] == OTHER_FAILED
    assert np.isnan([row["difference"], row["p_holm"]]).all()


def test_a_seed_without_a_finite_number_is_not_tested() -> None:
    a = Measured("a", "paper", True, np.array([1.0, np.nan, 2.0]), None, 3)
    b = a._replace(method="b", values=np.array([1.0, 2.0, 4.0]))
    assert compare(a, b).reason == UNDEFINED
    assert compare(a, b).result is None


def test_which_numbers_depend_on_the_seed_of_the_probe() -> None:
    def drawn(probe: type[Probe], *metrics: str) -> list[str]:
        return [metric for metric in metrics if probe.random(metric)]

    assert drawn(Linear, "top1") == ["top1"]
    assert drawn(Classify, "top1 last epoch") == ["top1 last epoch"]
    drawn_by_landmarks = ["equivariance", "few_shot_iod_error"]
    assert drawn(Landmarks, "iod_error", "failure_rate", *drawn_by_landmarks) == drawn_by_landmarks
    drawn_by_parts = ["equivariance_agreement"]
    assert drawn(Parts, "fg_nmi", "part_consistency", *drawn_by_parts) == drawn_by_parts
