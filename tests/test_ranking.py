"""Rank groups, scaled scores, fronts, aggregates and agreement: against known answers."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from partbench.metrics.aggregate import interquartile_mean, probability_of_improvement
from partbench.metrics.agreement import FEWEST, _pairs, _tau, rank_agreement
from partbench.metrics.ranking import letters, pareto_front, rank_groups, scaled


def symmetric(n: int, pairs: list[tuple[int, int]]) -> np.ndarray:
    apart = np.zeros((n, n), bool)
    for i, j in pairs:
        apart[i, j] = apart[j, i] = True
    return apart


def test_rank_groups_by_hand() -> None:
    """Piepho's kind of table: 1 and 3 differ, 2 from neither; 4 from all."""
    apart = symmetric(4, [(0, 2), (0, 3), (1, 3), (2, 3)])
    groups = rank_groups([9.0, 8.0, 7.0, 1.0], apart, better="higher")
    assert [letters(g) for g in groups] == ["a", "ab", "b", "c"]
    groups = rank_groups([9.0, 8.0, 7.0, 1.0], apart, better="lower")
    assert [letters(g) for g in groups] == ["c", "bc", "b", "a"]


def test_rank_groups_of_all_and_of_none() -> None:
    values = [3.0, 1.0, 2.0]
    assert rank_groups(values, np.zeros((3, 3), bool), better="higher") == [(0,)] * 3
    every = ~np.eye(3, dtype=bool)
    assert rank_groups(values, every, better="higher") == [(0,), (2,), (1,)]
    assert rank_groups([], np.zeros((0, 0), bool), better="higher") == []
    assert rank_groups([1.0], np.zeros((1, 1), bool), better="higher") == [(0,)]


@given(st.integers(1, 9), st.data())
def test_two_share_a_group_exactly_if_no_test_tells_them_apart(n: int, data: st.DataObject) -> None:
    """Whatever the tests say, even where they contradict the order of the means."""
    pairs = [pair for pair in combinations(range(n), 2) if data.draw(st.booleans())]
    values = data.draw(st.lists(st.integers(0, 20), min_size=n, max_size=n))
    apart = symmetric(n, pairs)
    groups = rank_groups(values, apart, better="higher")
    assert all(groups)
    for i, j in combinations(range(n), 2):
        assert bool(set(groups[i]) & set(groups[j])) == (not apart[i, j])
    assert 0 in groups[int(np.argmax(values))]
    used = {group for places in groups for group in places}
    assert used == set(range(len(used)))


def test_letters() -> None:
    assert letters((0, 1, 25)) == "abz"
    assert letters((25, 26, 27)) == "z,aa,ab"
    assert letters((26 * 27,)) == "aaa"
    assert letters(()) == ""


@pytest.mark.parametrize(
    ("values", "apart"),
    [
        ([1.0, 2.0], np.zeros((3, 3))),
        ([1.0, math.nan], np.zeros((2, 2))),
        ([1.0, 2.0], [[0, 1], [0, 0]]),
    ],
)
def test_tests_that_do_not_fit(values: list[float], apart: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be"):
        rank_groups(values, apart, better="higher")


def test_scaled_scores() -> None:
    assert scaled([10.8, 5.7, 8.25, 12.0], 10.8, 5.7) == pytest.approx([0, 1, 0.5, -1.2 / 5.1])
    assert scaled([50.0], 0, 100) == pytest.approx([0.5])
    for floor, ceiling in ((1.0, 1.0), (math.nan, 1.0), (0.0, math.inf)):
        assert np.isnan(scaled([1.0], floor, ceiling)).all()


def test_pareto_front_by_hand() -> None:
    costs = [1.0, 2.0, 2.0, 3.0, 4.0, 1.0, math.nan, 5.0, 2.0]
    values = [10.0, 20.0, 15.0, 20.0, 30.0, 10.0, 99.0, math.nan, 20.0]
    front = pareto_front(costs, values, better="higher")
    assert np.flatnonzero(front).tolist() == [0, 1, 4, 5, 8]
    front = pareto_front(costs, [-v for v in values], better="lower")
    assert np.flatnonzero(front).tolist() == [0, 1, 4, 5, 8]
    with pytest.raises(ValueError, match="must be"):
        pareto_front([1.0], [1.0, 2.0], better="higher")


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    costs, values = ([p[i] for p in points] for i in (0, 1))
    front = pareto_front(np.array(costs, float), np.array(values, float), better="higher")
    for i, (cost, value) in enumerate(points):
        dominated = any(c <= cost and v >= value and (c < cost or v > value) for c, v in points)
        assert front[i] == (not dominated)


# Over tasks.


def test_interquartile_mean_is_scipys_trimmed_mean() -> None:
    draw = np.random.default_rng(0)
    tasks = draw.normal(size=(7, 3))
    found = interquartile_mean(list(tasks))
    assert found.mean == pytest.approx(stats.trim_mean(tasks, 0.25, axis=None))
    assert found.low < found.mean < found.high
    assert interquartile_mean([[0.0, 1.0], [2.0, 100.0]]).mean == 1.5
    alone = interquartile_mean([[1.0], [2.0], [3.0], [10.0]])
    assert alone.mean == 2.5
    assert math.isnan(alone.low)
    assert interquartile_mean(list(tasks)) == found


def test_the_interval_of_the_interquartile_mean_holds_the_truth() -> None:
    """Ten seeds on twelve tasks; a percentile interval of few seeds is a little too narrow."""
    draw = np.random.default_rng(1)
    levels = draw.random(12)
    truth = stats.trim_mean((levels[:, None] + 0.1 * draw.normal(size=(12, 20_000))), 0.25, None)
    hits = 0
    for i in range(200):
        scores = levels[:, None] + 0.1 * draw.normal(size=(12, 10))
        found = interquartile_mean(list(scores), seed=i)
        hits += found.low <= truth <= found.high
    assert 0.87 <= hits / 200 <= 0.99


def test_probability_of_improvement_by_hand() -> None:
    """Task 1: 3 of 4 pairs and a tie; task 2: none."""
    a, b = [[3.0, 2.0], [0.0]], [[1.0, 2.0], [5.0]]
    found = probability_of_improvement(a, b, better="higher")
    assert found.probability == pytest.approx((3.5 / 4 + 0) / 2)
    lower = probability_of_improvement(a, b, better="lower")
    assert lower.probability == pytest.approx(1 - found.probability)
    draw = np.random.default_rng(0)
    x, y = draw.normal(0.5, 1, 9), draw.normal(size=7)
    u = stats.mannwhitneyu(x, y).statistic / 63
    found = probability_of_improvement([x], [y], better="higher")
    assert found.probability == pytest.approx(u)
    assert found.low < u < found.high
    assert math.isnan(probability_of_improvement([[1.0]], [[0.0]], better="higher").low)
    certain = probability_of_improvement([[2.0, 3.0]], [[0.0, 1.0]], better="higher")
    assert certain == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("tasks", [[], [[]], [[math.nan]], [[[1.0]]]])
def test_scores_that_are_none(tasks: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="must be"):
        interquartile_mean(tasks)


def test_tasks_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 tasks of one and 1"):
        probability_of_improvement([[1.0], [2.0]], [[1.0]], better="higher")


# Agreement of two rulers.


def test_tau_is_scipys() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 6, (2, 40))
    assert rank_agreement(x, y).tau == pytest.approx(stats.kendalltau(x, y).statistic)


def test_tau_by_hand() -> None:
    """Of six pairs one is reversed: (5 - 1) / 6."""
    found = rank_agreement([1.0, 2, 3, 4], [1.0, 3, 2, 4])
    assert found.tau == pytest.approx(4 / 6)
    assert (found.runs, found.methods) == (4, 4)
    assert math.isnan(found.low)
    assert FEWEST > 4


def test_perfect_reversed_and_constant() -> None:
    x = np.arange(8.0)
    assert rank_agreement(x, x**3)[:3] == pytest.approx((1, 1, 1))
    assert rank_agreement(x, -x)[:3] == pytest.approx((-1, -1, -1))
    constant = rank_agreement(x, np.ones(8))
    assert math.isnan(constant.tau)
    assert math.isnan(constant.low)
    empty = rank_agreement([], [])
    assert math.isnan(empty.tau)
    assert empty.runs == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20))
def test_agreement_is_symmetric_and_turns_with_the_sign(points: list[tuple[int, int]]) -> None:
    x, y = np.array(points, float).T
    found = rank_agreement(x, y)
    assert rank_agreement(y, x)[:3] == pytest.approx(found[:3], nan_ok=True)
    turned = rank_agreement(-x, y)
    assert turned.tau == pytest.approx(-found.tau, nan_ok=True)
    assert rank_agreement(np.exp(x), y).tau == pytest.approx(found.tau, nan_ok=True)


def test_runs_that_one_ruler_lacks_are_left_out() -> None:
    x, y = [1.0, 2, math.nan, 4, 5], [1.0, 3, 9, math.nan, 2]
    found = rank_agreement(x, y)
    assert found.runs == 3
    assert found.tau == pytest.approx(stats.kendalltau([1, 2, 5], [1, 3, 2]).statistic)


@pytest.mark.parametrize("rho", [-0.8, 0.0, 0.5, 0.9])
def test_known_correlations(rho: float) -> None:
    """Of normal variables tau is 2 / pi arcsin(rho) (Kruskal, JASA 1958)."""
    draw = np.random.default_rng(7)
    x = draw.normal(size=600)
    y = rho * x + math.sqrt(1 - rho**2) * draw.normal(size=600)
    found = rank_agreement(x, y)
    known = 2 / math.pi * math.asin(rho)
    error = (found.high - found.low) / (2 * 1.96)
    assert abs(found.tau - known) < 3 * error
    assert error < 0.03


@pytest.mark.parametrize(("methods", "seeds"), [(12, 1), (30, 1), (12, 3)])
def test_how_often_the_interval_holds_the_truth(methods: int, seeds: int) -> None:
    """The seeds of a method stay together: intervals over single runs would be too narrow."""
    known, draws = 2 / math.pi * math.asin(0.6), 300
    hits = blind = 0
    draw = np.random.default_rng([methods, seeds])
    for i in range(draws):
        x = draw.normal(size=methods)
        y = 0.6 * x + 0.8 * draw.normal(size=methods)
        x, y = (np.repeat(v, seeds) + 1e-6 * draw.normal(size=methods * seeds) for v in (x, y))
        found = rank_agreement(x, y, np.repeat(np.arange(methods), seeds), seed=i)
        hits += found.low <= known <= found.high
        if seeds > 1:
            alone = rank_agreement(x, y, seed=i)
            blind += alone.low <= known <= alone.high
    assert 0.93 <= hits / draws <= 0.99
    assert blind / draws < 0.9


def test_rulers_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="must be"):
        rank_agreement([1.0], [1.0, 2.0])


def test_copies_of_a_method_are_not_compared_with_each_other() -> None:
    """By enumeration: runs of copies are pairs within a copy, and across different methods."""
    draw = np.random.default_rng(3)
    index = np.array([0, 0, 1, 1, 1, 2])
    x, y = draw.integers(0, 4, (2, 6)).astype(float)
    taken = [2, 1, 3]
    runs = [
        (method, copy, run)
        for method, times in enumerate(taken)
        for copy in range(times)
        for run in np.flatnonzero(index == method)
    ]
    sums = np.zeros(3)
    for (m, c, i), (n, d, j) in combinations(runs, 2):
        if m != n or c == d:
            of_x, of_y = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
            sums += [of_x * of_y, abs(of_x), abs(of_y)]
    expected = sums[0] / math.sqrt(sums[1] * sums[2])
    found = _tau(np.array([taken], float), *_pairs(x, y, index, 3))
    assert found[0] == pytest.approx(expected)
