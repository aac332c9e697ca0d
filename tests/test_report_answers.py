"""What the index says: one sentence a task, and numbers over several tasks."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_grid import make

from partbench import published
from partbench.judgement import OTHER_ALONE, State
from partbench.metrics.aggregate import interquartile_mean, probability_of_improvement
from partbench.metrics.ranking import scaled
from partbench.report import text
from partbench.report.answers import answer
from partbench.report.compare import Statement
from partbench.report.failures import Failures
from partbench.report.overall import Ruled, overall_view
from partbench.report.page import environment, palette, write
from partbench.report.panels import panel_views
from partbench.report.read import Results, read
from partbench.report.section import View, sections
from partbench.report.words import lowered
from partbench.standings import Pair, Standing, ends

MINUS = "\N{MINUS SIGN}"


def standing(method: str, variant: str, role: str, mean: float, *others: Pair) -> Standing:
    state: State = "beats" if role == "method" else "unknown"
    values = (mean, mean)
    return Standing(
        *(method, variant, role, mean, mean - 0.5, mean + 0.5, values, 2, 2, math.nan, (), state),
        *((), None, others, ""),
    )


def panel(*standings: Standing) -> View:
    """Return a task of one ruler, an error."""
    rows: list[dict[str, Any]] = [
        {
            "method": one.method,
            "variant": one.variant,
            "role": one.role,
            "name": text.name(one.method, one.variant),
            "id": "cell",
            "mean": one.mean,
            "low": one.low,
            "high": one.high,
        }
        for one in standings
    ]
    said = [Statement("beats", "Zhang et al.", "beats mean shape.")]
    group = {
        **{"title": "Error", "unit": "%", "better": "lower", "standings": [*standings]},
        **{"rows": rows, "controls": [], "statements": said, "by_gain": False},
    }
    return {"id": "task", "title": "Landmarks on toy", "absent": [], "first": [group]}


def pair(method: str, outcome: Any, reason: str = "") -> Pair:
    nothing = reason and math.nan
    size = nothing or -1.1
    return Pair(method, "paper", outcome, size, size - 0.5, size + 0.5, 0.001, reason)


def test_a_sentence_names_the_best_the_runner_up_and_the_ends() -> None:
    said = answer(
        panel(
            standing("zhang", "paper", "method", 8.7, pair("keynet", "better")),
            standing("keynet", "paper", "method", 9.8),
            standing("mean_shape", "paper", "floor", 11.5),
            standing("supervised_landmarks", "paper", "ceiling", 5.8),
        )
    )
    assert (said["best"], said["value"], said["low"], said["high"]) == (
        *("Zhang et al.", "8.7", "8.2", "9.2"),
    )
    assert said["clauses"] == [
        "better than KeyNet by 1.1 [0.6, 1.6]",
        "it beats every floor",
        "floor 11.5 (mean shape)",
        "ceiling 5.8 (supervised landmarks)",
    ]


def test_another_methods_untrained_network_is_not_the_floor_of_a_sentence() -> None:
    others = [
        standing("zhang", "paper", "method", 8.7, pair("keynet", "better")),
        standing("keynet", "paper", "method", 9.8),
        standing("keynet", "untrained", "floor", 10.8),
        standing("zhang", "untrained", "floor", 11.1),
    ]
    clauses = answer(panel(*others, standing("mean_shape", "paper", "floor", 11.5)))["clauses"]
    assert clauses[-2:] == ["itself untrained 11.1", "floor 11.5 (mean shape)"]
    assert answer(panel(*others))["clauses"][-1] == "itself untrained 11.1"
    assert "untrained" not in "".join(answer(panel(*others[:3]))["clauses"])


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        (["better", "better"], ["better than KeyNet by 1.1 [0.6, 1.6]"]),
        (
            ["same", "better"],
            ["not told apart from KeyNet (1.1 [0.6, 1.6])", "better than DLP by 1.1 [0.6, 1.6]"],
        ),
        (["same", "same"], ["not told apart from KeyNet (1.1 [0.6, 1.6])"]),
        (
            ["untested", "same"],
            [
                f"no verdict against KeyNet ({OTHER_ALONE})",
                "not told apart from DLP (1.1 [0.6, 1.6])",
            ],
        ),
        (["untested", "untested"], [f"no verdict against KeyNet ({OTHER_ALONE})"]),
    ],
)
def test_a_sentence_goes_on_to_the_first_test_that_says_something(
    outcomes: list[Any], said: list[str]
) -> None:
    others = [
        pair(name, outcome, OTHER_ALONE if outcome == "untested" else "")
        for name, outcome in zip(["keynet", "dlp"], outcomes, strict=True)
    ]
    clauses = answer(
        panel(
            standing("zhang", "paper", "method", 8.7, *others),
            standing("keynet", "paper", "method", 9.8),
            standing("dlp", "paper", "method", 10.1),
        )
    )["clauses"]
    assert clauses[:-1] == said


def test_only_controls_are_written_small() -> None:
    assert lowered("mean_shape", "demo") == "mean shape (demo)"
    assert lowered("keynet", "untrained") == "KeyNet (untrained)"
    assert lowered("unsup_parts", "demo+untrained") == "Choudhury et al. (demo+untrained)"
    assert lowered("dff", "paper") == "DFF"
    assert lowered("kmeans", "paper") == "k-means"
    assert lowered("kmeans", "paper", {"kmeans"}) == "K-means"


def test_a_dash_in_a_name_stays_readable_and_apart() -> None:
    assert text.address("task", "linear", "toy-small") == "task--linear--toy-small"
    places = [("a-b", "c"), ("a", "b-c"), ("a", "b", "c"), ("a--b", "c"), ("a-", "b"), ("a", "-b")]
    assert len({text.address(*names) for names in places}) == len(places)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("answers")
    return make(root / "grid", methods=12, data=2, seeds=3, curves=False)


def ruled(results: Results) -> list[Ruled]:
    panels = panel_views(results, palette(results), sections(), Failures(results))
    return [Ruled(view["family"], view["first"][0]) for view in panels]


def test_interquartile_means_are_over_all_tasks_with_both_ends(grid: Path) -> None:
    results = read(grid)
    tasks = ruled(results)
    view = overall_view(results.summary, tasks)
    assert view["columns"][0] == ("All tasks", 10)
    assert ("Landmarks", 2) in view["columns"]
    assert len(view["columns"]) == 6
    found = dict(view["rows"])
    scores = []
    for task in tasks:
        rows = results.summary
        for column, value in task.columns.items():
            rows = rows[rows[column] == value]
        values = rows.loc[rows["method"] == "method_3", "values"].iloc[0]
        scores.append(scaled(values, *ends(rows)))
    expected = interquartile_mean(scores)
    assert found["method_3"][0] == (
        f"{expected.mean:.2f}",
        f"{expected.low:.2f} to {expected.high:.2f}",
    )
    assert found["method_6"][0][1] == text.NOTHING  # one seed
    # Method 10 was measured by one probe, method 8 has no finite number, three have none at all.
    assert "method_10" in found
    assert [cell is not None for cell in found["method_10"]].count(True) == 1
    assert not {"method_8", "method_4", "method_7", "method_0"} & set(found)


def test_probabilities_of_improvement_are_over_the_tasks_of_both(grid: Path) -> None:
    results = read(grid)
    view = overall_view(results.summary, ruled(results))
    assert {one["tasks"] for one in view["pairs"]} == {2, 10}
    ten = next(one for one in view["pairs"] if "method_10" in (one["name"], one["other"]))
    assert ten["tasks"] == 2
    one = view["pairs"][0]
    scores: list[list[np.ndarray]] = [[], []]
    for task in ruled(results):
        rows = results.summary
        for column, value in task.columns.items():
            rows = rows[rows[column] == value]
        sign = 1 if rows["better"].iloc[0] == "higher" else -1
        for name, of_one in zip((one["name"], one["other"]), scores, strict=True):
            of_one.append(sign * np.asarray(rows.loc[rows["method"] == name, "values"].iloc[0]))
    expected = probability_of_improvement(*scores, better="higher")
    assert one["probability"] == f"{expected.probability:.2f}"


def test_leaderboards_say_what_a_training_took(grid: Path, tmp_path: Path) -> None:
    write(grid, tmp_path / "index.html", published.load())
    page = (tmp_path / "task-linear-data0.html").read_text()
    assert page.count('<th scope="col" class="num">Training</th>') == 2  # of both metrics
    row = re.search(r'<tr>\s*<th scope="row"><a href="[^"]*run-method_3-.*?</tr>', page, re.DOTALL)
    assert row
    assert '<td class="num" data-value="61.5">1 min 02 s</td>' in row[0]


@pytest.mark.parametrize(
    ("better", "outcome", "difference", "shown", "interval"),
    [
        ("lower", "better", -1.1, "+1.1", "0.6 to 1.6"),
        ("higher", "worse", -1.1, f"{MINUS}1.1", f"{MINUS}1.6 to {MINUS}0.6"),
        ("lower", "worse", 1.1, f"{MINUS}1.1", f"{MINUS}1.6 to {MINUS}0.6"),
        ("higher", "better", 1.1, "+1.1", "0.6 to 1.6"),
        ("lower", "same", -1.1, "+1.1 ≈", "0.6 to 1.6, not told apart"),
    ],
)
def test_a_gain_is_positive_where_training_made_the_number_better(
    better: str, outcome: Any, difference: float, shown: str, interval: str
) -> None:
    gain = Pair(
        *("zhang", "untrained", outcome, difference, difference - 0.5, difference + 0.5, 0.001, "")
    )
    macros: Any = environment().get_template("macros.html").module
    cell = str(macros.pair_of(gain, {"better": better, "unit": "%"}))
    assert text_of(cell) == shown
    assert f'title="{interval}"' in cell


def test_a_gain_without_a_test_is_no_number() -> None:
    gain = Pair("zhang", "untrained", "untested", -1.1, -1.6, -0.6, 0.1, "one seed")
    macros: Any = environment().get_template("macros.html").module
    group = {"better": "lower", "unit": "%"}
    assert text_of(str(macros.pair_of(gain, group))) == "?"
    assert text_of(str(macros.pair_of(None, group))) == text.NOTHING


def text_of(cell: str) -> str:
    return re.sub(r"<[^>]+>", "", cell).strip()
