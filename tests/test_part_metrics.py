"""Parts against labels: scikit-learn, slow loops, the authors' numbers, CUB's ceilings, files."""

import itertools
import json
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from numpy.typing import NDArray
from oracle_vectors import Vectors
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from partbench.cli import main
from partbench.data.cub import LANDMARKS, read_birds
from partbench.errors import BadInput
from partbench.metrics import ceilings, parts
from partbench.metrics.intervals import bootstrap_totals
from partbench.score import parts as ruler

EXACT = 1e-12


def draw(*shape: int, n_true: int = 6, n_pred: int = 4, seed: int = 0) -> tuple[Any, Any]:
    """Labels, and parts that know something of them."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, n_true, shape)
    pred = np.where(rng.random(shape) < 0.5, true % n_pred, rng.integers(0, n_pred, shape))
    return true, pred


@pytest.fixture(scope="module")
def vectors(oracles: Path) -> Vectors:
    return Vectors(oracles / "part_metrics.npz")


# ---------------------------------------------------------------------------- counting


def slow_table(true: Any, pred: Any, n_true: int, n_pred: int, keep: Any = None) -> NDArray[Any]:
    table = np.zeros((n_true, n_pred), np.int64)
    for index in np.ndindex(true.shape):
        if keep is None or keep[index]:
            table[true[index], pred[index]] += 1
    return table


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.uint16, np.uint64])
@pytest.mark.parametrize(("n_true", "n_pred"), [(6, 4), (1, 1), (20, 30)])
def test_counting_one_by_one(dtype: Any, n_true: int, n_pred: int) -> None:
    true, pred = draw(7, 11, 3, n_true=n_true, n_pred=n_pred)
    keep = np.random.default_rng(1).random(true.shape) < 0.7
    for kept in (None, keep, np.zeros_like(keep)):
        found = parts.contingency(true.astype(dtype), pred.astype(dtype), n_true, n_pred, kept)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, slow_table(true, pred, n_true, n_pred, kept))


@pytest.mark.parametrize("size", [1 << 16, (1 << 18) - 1, (1 << 18) + 1, 700_001])
@pytest.mark.parametrize(("n_true", "n_pred"), [(16, 5), (256, 1), (1, 256), (16, 16), (257, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_counting_many(size: int, n_true: int, n_pred: int, dtype: Any) -> None:
    if n_true > 256 and dtype is np.uint8:
        dtype = np.uint16
    true, pred = draw(size, n_true=n_true, n_pred=n_pred)
    keep = np.random.default_rng(1).random(size) < 0.5
    given_true, given_pred = true.astype(dtype), pred.astype(dtype)
    for kept in (slice(None), keep):
        expected = np.bincount(true[kept] * n_pred + pred[kept], minlength=n_true * n_pred)
        mask = None if isinstance(kept, slice) else kept
        found = parts.contingency(given_true, given_pred, n_true, n_pred, mask)
        np.testing.assert_array_equal(found.ravel(), expected)


def test_arrays_of_any_layout(tmp_path: Path) -> None:
    true, pred = draw(300, 300)
    expected = slow_table(true, pred, 6, 4)
    flipped = parts.contingency(np.asfortranarray(true), pred[::-1][::-1], 6, 4)
    np.testing.assert_array_equal(flipped, expected)
    wide = np.repeat(true, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(parts.contingency(wide, pred.T.copy().T, 6, 4), expected)
    np.save(tmp_path / "true.npy", true)
    mapped = np.load(tmp_path / "true.npy", mmap_mode="r")
    np.testing.assert_array_equal(parts.contingency(mapped, pred, 6, 4), expected)
    assert parts.contingency(true[0, 0], pred[0, 0], 6, 4).sum() == 1
    booleans = parts.contingency(true > 2, pred > 1, 2, 2)
    expected = slow_table((true > 2).astype(int), (pred > 1).astype(int), 2, 2)
    np.testing.assert_array_equal(booleans, expected)


def test_tables_of_images_add_up() -> None:
    true, pred = draw(5, 9, 8)
    keep = np.random.default_rng(2).random(true.shape) < 0.6
    keep[3] = False
    for kept in (None, keep):
        tables = parts.contingency_by_image(true, pred, 6, 4, kept)
        assert tables.shape == (5, 6, 4)
        np.testing.assert_array_equal(tables.sum(0), parts.contingency(true, pred, 6, 4, kept))
        one = slow_table(true[2], pred[2], 6, 4, None if kept is None else kept[2])
        np.testing.assert_array_equal(tables[2], one)
    assert tables[3].sum() == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_memory_does_not_grow_with_the_pixels(dtype: Any) -> None:
    peaks = []
    for size in (1 << 20, 1 << 23):
        true, pred = (x.astype(dtype) for x in draw(size, n_true=16, n_pred=5))
        keep = np.ones(size, bool)
        tracemalloc.start()
        parts.contingency(true, pred, 16, 5, keep)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]
    assert peaks[1] < 16 * parts.CHUNK * np.dtype(np.int64).itemsize


@pytest.mark.parametrize(
    ("true", "pred", "keep", "message"),
    [
        (np.zeros(3), np.zeros(3, int), None, "true is float64; labels must be integers"),
        (np.zeros(3, int), np.zeros(3, complex), None, "pred is complex128; labels must be"),
        (np.zeros((2, 3), int), np.zeros((3, 2), int), None, r"true has shape \[2, 3\], pred \[3"),
        (np.array([0, 6]), np.zeros(2, int), None, "true has the label 6, but .* 6 lab.* 0 to 5"),
        (np.zeros(2, int), np.array([0, -1]), None, "pred has the label -1, but there are 4 lab"),
        (np.zeros(2, np.uint8), np.full(2, 255, np.uint8), None, "pred has the label 255"),
        (np.zeros(2, int), np.zeros(2, int), np.ones(2), r"keep is float64 of shape \[2\]"),
        (np.zeros(2, int), np.zeros(2, int), np.ones(3, bool), r"keep is bool of shape \[3\]"),
    ],
)
def test_what_cannot_be_counted(true: Any, pred: Any, keep: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parts.contingency(true, pred, 6, 4, keep)


def test_labels_beyond_the_legend_may_stand_where_nothing_counts() -> None:
    true, pred = np.array([0, 255, 1], np.uint8), np.array([1, 1, 0], np.uint8)
    found = parts.contingency(true, pred, 2, 2, true != 255)
    np.testing.assert_array_equal(found, [[0, 1], [1, 0]])


@given(
    st.sampled_from([np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64, np.bool_]),
    st.data(),
)
def test_labels_are_numbered_in_their_order(dtype: Any, data: st.DataObject) -> None:
    info = np.iinfo(np.uint8 if dtype is np.bool_ else dtype)
    top = 1 if dtype is np.bool_ else int(info.max)
    labels = st.integers(int(info.min), top) | st.integers(max(int(info.min), top - 5), top)
    values = np.array(data.draw(st.lists(labels, min_size=1, max_size=30)), dtype)
    found, codes = parts.compact(values)
    expected, inverse = np.unique(values, return_inverse=True)
    np.testing.assert_array_equal(found, expected.astype(found.dtype))
    np.testing.assert_array_equal(codes, inverse)
    assert codes.dtype == np.uint8


def test_more_labels_than_parts_can_have() -> None:
    for step in (1, 1000):
        most = np.arange(parts.MOST_LABELS).reshape(2, -1) * step
        values, codes = parts.compact(most)
        np.testing.assert_array_equal(values, most.ravel())
        np.testing.assert_array_equal(codes.ravel(), np.arange(parts.MOST_LABELS))
        assert codes.dtype == np.uint16
        with pytest.raises(BadInput, match="mine has more than 65,536 different labels"):
            parts.compact(np.arange(parts.MOST_LABELS + 1) * step, "mine")


# ---------------------------------------------------------------------------- NMI and ARI


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=60),
    st.integers(1, 1000),
)
def test_agreement_with_scikit_learn(pairs: list[tuple[int, int]], repeats: int) -> None:
    true, pred = np.repeat(np.array(pairs), repeats, axis=0).T
    table = parts.contingency(true, pred, 6, 4)
    assert parts.nmi(table) == pytest.approx(normalized_mutual_info_score(true, pred), abs=EXACT)
    assert parts.ari(table) == pytest.approx(adjusted_rand_score(true, pred), abs=EXACT)
    assert parts.nmi(table.T) == pytest.approx(parts.nmi(table), abs=EXACT)
    assert parts.ari(table.T) == parts.ari(table)


@pytest.mark.parametrize(
    ("table", "nmi", "ari"),
    [
        ([[5]], 1, 1),
        ([[1]], 1, 1),
        ([[5, 0], [0, 0]], 1, 1),
        ([[5, 3]], 0, 0),
        ([[5], [3]], 0, 0),
        ([[0, 7, 0], [0, 9, 0]], 0, 0),
        ([[4, 4], [4, 4]], 0, None),
        ([[1, 1]], 0, 0),
        ([[1, 0], [0, 1]], 1, 1),
        ([[0, 5], [3, 0]], 1, 1),
    ],
)
def test_degenerate_tables(table: Any, nmi: float, ari: float | None) -> None:
    counts = np.array(table)
    cells = np.indices(counts.shape).reshape(2, -1)
    true, pred = np.repeat(cells, counts.ravel(), axis=1)
    assert normalized_mutual_info_score(true, pred) == pytest.approx(nmi, abs=EXACT)
    assert parts.nmi(counts) == nmi
    assert parts.ari(counts) == pytest.approx(adjusted_rand_score(true, pred), abs=EXACT)
    if ari is not None:
        assert parts.ari(counts) == ari


def test_a_table_of_zeros_has_no_number() -> None:
    zeros = np.zeros((3, 2), np.int64)
    assert np.isnan(parts.nmi(zeros))
    assert np.isnan(parts.ari(zeros))
    assert np.isnan(parts.matched_iou(zeros).mean_iou)
    assert np.isnan(parts.majority_accuracy(zeros))


def exact_ari(table: NDArray[Any]) -> Fraction:
    """Hubert and Arabie's formula in fractions."""
    counts = table.astype(object)
    pairs = [
        sum(n * (n - 1) // 2 for n in values)
        for values in (counts.ravel(), counts.sum(1), counts.sum(0), [counts.sum()])
    ]
    both, rows, columns, total = (Fraction(n) for n in pairs)
    expected = rows * columns / total
    return (both - expected) / ((rows + columns) / 2 - expected)


@pytest.mark.parametrize("scale", [10**8, 10**9, 3 * 10**9, 10**11])
def test_ari_is_exact_where_int64_overflows(scale: int) -> None:
    table = np.random.default_rng(3).integers(0, scale, (5, 3))
    table[0, 0] = 100 * scale  # nearly all is background
    assert parts.ari(table) == float(exact_ari(table))
    assert parts.nmi(table) == pytest.approx(parts.nmi(table // 1000), rel=1e-4)


def test_many_tables_at_once() -> None:
    tables = np.random.default_rng(4).integers(0, 30, (2, 7, 6, 4))
    tables[0, 3] = 0
    tables[1, 2, 1:] = 0
    for measure in (parts.nmi, parts.ari):
        found = measure(tables)
        assert found.shape == (2, 7)
        for index in np.ndindex(2, 7):
            np.testing.assert_allclose(found[index], measure(tables[index]), rtol=0, atol=1e-15)


@given(st.permutations(range(6)), st.permutations(range(4)))
def test_names_do_not_matter(rows: list[int], columns: list[int]) -> None:
    table = parts.contingency(*draw(500), 6, 4)
    moved = table[rows][:, columns]
    assert parts.nmi(moved) == pytest.approx(parts.nmi(table), abs=EXACT)
    assert parts.ari(moved) == parts.ari(table)
    assert parts.matched_iou(moved).mean_iou == pytest.approx(parts.matched_iou(table).mean_iou)


# ---------------------------------------------------------------------------- matching


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (4, 4), (5, 1), (1, 5)])
def test_matching_is_the_best_of_all(shape: tuple[int, int]) -> None:
    table = np.random.default_rng(5).integers(1, 20, shape)
    rows, columns = table.sum(1), table.sum(0)
    best = 0.0
    for chosen in itertools.permutations(range(max(shape)), shape[0]):
        total = 0.0
        for i, j in enumerate(chosen):
            if j < shape[1]:
                total += table[i, j] / (rows[i] + columns[j] - table[i, j])
        best = max(best, total / shape[0])
    found = parts.matched_iou(table)
    assert found.mean_iou == pytest.approx(best)
    for i, j in enumerate(found.partner):
        iou = table[i, j] / (rows[i] + columns[j] - table[i, j]) if j >= 0 else 0
        assert found.iou[i] == pytest.approx(iou)
    assert (found.partner >= 0).sum() == min(shape)


def test_matching_counts_labels_that_occur() -> None:
    found = parts.matched_iou(np.array([[4, 0], [0, 0], [0, 0], [0, 6]]))
    assert found.mean_iou == 1
    assert found.partner.tolist() == [0, -1, -1, 1]
    np.testing.assert_array_equal(found.iou, [1, np.nan, np.nan, 1])
    # One part for two labels: the smaller label has none.
    merged = parts.matched_iou(np.array([[4, 0], [6, 0]]))
    assert merged.mean_iou == pytest.approx(0.3)
    assert merged.partner.tolist() == [-1, 0]


def test_majority_accuracy() -> None:
    true, pred = draw(400)
    right = 0
    for part in range(4):
        right += np.bincount(true[pred == part]).max()
    assert parts.majority_accuracy(parts.contingency(true, pred, 6, 4)) == right / 400


# ---------------------------------------------------------------------------- the bootstrap


def test_totals_of_resampled_images_are_those_of_joined_ones() -> None:
    true, pred = draw(6, 40)
    tables = parts.contingency_by_image(true, pred, 6, 4)
    totals = bootstrap_totals(tables.reshape(6, -1).astype(float), 100, seed=9)
    rng = np.random.default_rng(9)
    for total in totals:
        images = rng.integers(6, size=6)
        joined = contingency_matrix(true[images].ravel(), pred[images].ravel())
        np.testing.assert_array_equal(total.reshape(6, 4), joined)


def test_intervals_are_percentiles_of_the_draws() -> None:
    true, pred = draw(12, 100)
    tables = parts.contingency_by_image(true, pred, 6, 4)
    rng = np.random.default_rng(1)
    values = []
    for _ in range(200):
        images = rng.integers(12, size=12)
        joined = true[images].ravel(), pred[images].ravel()
        table = parts.contingency(*joined, 6, 4)
        values.append(
            (
                normalized_mutual_info_score(*joined),
                adjusted_rand_score(*joined),
                parts.matched_iou(table).mean_iou,
            )
        )
    expected = np.quantile(values, [0.025, 0.975], axis=0).T
    empty = np.concatenate([np.zeros_like(tables[:2]), tables])
    for given_tables in (tables, empty):
        found = parts.bootstrap(given_tables, draws=200, seed=1)
        np.testing.assert_allclose(found, expected, atol=EXACT)
    wider = parts.bootstrap(tables, draws=200, seed=1, level=0.99)
    assert wider.nmi[0] <= found.nmi[0] < found.nmi[1] <= wider.nmi[1]
    assert parts.bootstrap(tables, draws=200, seed=2) != found


# ---------------------------------------------------------------------------- ceilings


def slow_grouping(counts: list[int], k: int) -> float:
    """Return the NMI of the greedy merge that tries all pairs."""
    groups = list(range(len(counts)))
    while len(set(groups)) > k:
        candidates = []
        for a, b in itertools.combinations(sorted(set(groups)), 2):
            merged = [a if group == b else group for group in groups]
            candidates.append((float(parts.nmi(ceilings.grouping_table(counts, merged))), merged))
        groups = max(candidates)[1]
    return float(parts.nmi(ceilings.grouping_table(counts, groups)))


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=8), st.integers(1, 8))
def test_greedy_grouping_is_the_greedy_one(counts: list[int], k: int) -> None:
    groups = ceilings.greedy_grouping(counts, k)
    assert len(set(groups.tolist())) == min(k, len(counts))
    first_of = [groups.tolist().index(group) for group in range(max(groups) + 1)]
    assert first_of == sorted(first_of)
    found = parts.nmi(ceilings.grouping_table(counts, groups))
    assert found == pytest.approx(slow_grouping(counts, k), abs=1e-9)


def test_labels_without_points_are_in_no_group() -> None:
    groups = ceilings.greedy_grouping([3, 0, 5, 0, 4], 2)
    assert groups.tolist() == [0, -1, 1, -1, 0]
    table = ceilings.grouping_table([3, 0, 5, 0, 4], groups)
    np.testing.assert_array_equal(table, [[3, 0], [0, 0], [0, 5], [0, 0], [4, 0]])
    for counts, k in (([0, 0], 1), ([1, 2], 0)):
        with pytest.raises(BadInput, match=f"into {k} groups"):
            ceilings.greedy_grouping(counts, k)


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """Yield every way to put items into groups."""
    if not items:
        yield []
        return
    first, *others = items
    for groups in partitions(others):
        yield [[first], *groups]
        for i, group in enumerate(groups):
            yield [*groups[:i], [first, *group], *groups[i + 1 :]]


def mergers(counts: list[int], k: int) -> Iterator[NDArray[np.int64]]:
    """Yield the tables of all models of at most k parts that are functions of the label."""
    occurring = [i for i, n in enumerate(counts) if n]
    for groups in partitions(occurring):
        if len(groups) <= k:
            part_of = np.full(len(counts), -1)
            for number, group in enumerate(groups):
                part_of[group] = number
            yield ceilings.grouping_table(counts, part_of)


MEASURES: dict[ceilings.Measure, Any] = {"nmi": parts.nmi, "ari": parts.ari}


@given(
    st.lists(st.integers(0, 12) | st.integers(0, 10**6), min_size=1, max_size=7),
    st.integers(1, 7),
)
@example([3, 3, 2, 2, 2], 2)  # where the greedy merger, 7 and 5, is not the best
@example([0, 40, 3, 3, 2, 2, 2], 3)
@settings(max_examples=60)
def test_the_best_grouping_is_the_best_of_all_mergers(counts: list[int], k: int) -> None:
    if not any(counts):
        with pytest.raises(BadInput, match=f"into {k} groups"):
            ceilings.best_grouping(counts, k, "nmi")
        return
    tables = list(mergers(counts, k))
    for name, measure in MEASURES.items():
        best = ceilings.best_grouping(counts, k, name)
        assert best.exact
        groups = best.groups.tolist()
        assert [group == -1 for group in groups] == [n == 0 for n in counts]
        numbers = [group for group in groups if group >= 0]
        assert list(dict.fromkeys(numbers)) == list(range(max(numbers) + 1))
        assert max(numbers) < k
        found = float(measure(ceilings.grouping_table(counts, best.groups)))
        assert found == pytest.approx(max(float(measure(table)) for table in tables), abs=1e-9)


@given(
    hypothesis_numpy.arrays(
        np.int64, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.integers(0, 20)
    )
)
def test_no_labelling_has_more_nmi_than_the_best_grouping(table: NDArray[np.int64]) -> None:
    """Also one that shares a label among parts."""
    if table.any():
        counts = table.sum(1)
        best = ceilings.best_grouping(counts, table.shape[1], "nmi")
        ceiling = float(parts.nmi(ceilings.grouping_table(counts, best.groups)))
        assert float(parts.nmi(table)) <= ceiling + 1e-9


def test_too_many_labels_are_merged_greedily_and_said_to_be() -> None:
    counts = np.random.default_rng(0).integers(100, 200, ceilings.MOST_EXACT + 1)
    found = ceilings.best_grouping(counts, 4, "nmi")
    assert not found.exact
    np.testing.assert_array_equal(found.groups, ceilings.greedy_grouping(counts, 4))
    # Large labels have parts of their own, which leaves few enough.
    counts[:3] = 10**6
    found = ceilings.best_grouping(counts, 6, "nmi")
    assert found.exact
    alone = found.groups[:3].tolist()
    assert all((found.groups == group).sum() == 1 for group in alone)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(1, 6))
def test_best_mean_iou_is_that_of_the_best_groups(counts: list[int], k: int) -> None:
    occurring = [i for i, n in enumerate(counts) if n]
    if not occurring:
        assert np.isnan(ceilings.best_mean_iou(np.array(counts), k))
        return
    best = 0.0
    for groups in partitions(occurring):
        if len(groups) <= k:
            part_of = np.full(len(counts), -1)
            for number, group in enumerate(groups):
                part_of[group] = number
            table = ceilings.grouping_table(counts, part_of)
            best = max(best, parts.matched_iou(table).mean_iou)
    assert ceilings.best_mean_iou(np.array(counts), k) == pytest.approx(best)
    merged = ceilings.grouping_table(counts, ceilings.greedy_grouping(counts, k))
    assert parts.matched_iou(merged).mean_iou <= best + 1e-12
    with_background = np.array([[7, *counts], [0, *counts]])
    n = len(occurring)
    expected = [(1 + n * best) / (1 + n), best]
    found = ceilings.best_mean_iou(with_background, k, background=True)
    np.testing.assert_allclose(found, expected)


@given(
    hypothesis_numpy.arrays(
        np.int64, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.integers(0, 20)
    )
)
def test_no_labelling_is_above_the_best_mean_iou(table: NDArray[np.int64]) -> None:
    if table.any():
        best = ceilings.best_mean_iou(table.sum(1), table.shape[1])
        assert parts.matched_iou(table).mean_iou <= best + 1e-12


@pytest.fixture(scope="module")
def counts_on_cub(shared_data: Path) -> NDArray[np.int64]:
    """How often each keypoint is visible in CUB's test images."""
    birds = read_birds(shared_data)
    return birds.visible[~birds.train].sum(0)


HEAD = {"beak", "crown", "forehead", "left eye", "nape", "right eye", "throat"}
BODY = {"back", "belly", "breast", "left wing", "right wing"}


@pytest.mark.parametrize(
    ("groups", "nmi", "ari"),
    [
        ([HEAD, BODY, {"left leg", "right leg"}, {"tail"}], 60.6, 23.8),
        (
            [
                {"beak", "crown", "forehead"},
                {"left eye", "right eye"},
                {"nape"},
                {"throat"},
                {"back", "left wing", "right wing"},
                {"belly", "breast"},
                {"left leg", "right leg"},
                {"tail"},
            ],
            85.2,
            60.1,
        ),
        ([{side + part for side in ("", "left ", "right ")} for part in
          ("eye", "leg", "wing", *(name for name in LANDMARKS if " " not in name))],
         96.0, 89.4),
        (4, 67.1, 34.5),
        ("best 4", 68.2, 36.9),
        (15, 100.0, 100.0),
        (1, 0.0, 0.0),
    ],
)  # fmt: skip
def test_ceilings_on_cub(
    counts_on_cub: NDArray[np.int64], groups: Any, nmi: float, ari: float
) -> None:
    assert counts_on_cub.sum() == 69_546
    if groups == "best 4":
        both = [ceilings.best_grouping(counts_on_cub, 4, name) for name in MEASURES]
        assert all(found.exact for found in both)
        np.testing.assert_array_equal(both[0].groups, both[1].groups)
        part_of = both[0].groups
    elif isinstance(groups, int):
        part_of = ceilings.greedy_grouping(counts_on_cub, groups)
    else:
        part_of = np.array(
            [next(k for k, names in enumerate(groups) if name in names) for name in LANDMARKS]
        )
    table = ceilings.grouping_table(counts_on_cub, part_of)
    assert round(100 * float(parts.nmi(table)), 1) == nmi
    assert round(100 * float(parts.ari(table)), 1) == ari


# ---------------------------------------------------------------------------- the authors' numbers


def percent(true: Any, pred: Any) -> tuple[float, float]:
    true, pred = parts.compact(np.asarray(true))[1], parts.compact(np.asarray(pred))[1]
    table = parts.contingency(true, pred, int(true.max()) + 1, int(pred.max()) + 1)
    return 100 * float(parts.nmi(table)), 100 * float(parts.ari(table))


def test_vectors_of_labels(vectors: dict[str, NDArray[Any]]) -> None:
    true, pred = vectors["lab_true"], vectors["lab_pred"]
    rows, columns = vectors["lab_contingency"].shape
    table = parts.contingency(true, pred, rows, columns)
    np.testing.assert_array_equal(table, vectors["lab_contingency"])
    assert parts.nmi(table) == pytest.approx(float(vectors["lab_nmi"]), rel=EXACT)
    for key in ("lab_ari", "lab_ari_overflow"):
        assert parts.ari(table) == pytest.approx(float(vectors[key]), rel=EXACT)
    constant = parts.contingency(true, np.zeros_like(pred), rows, columns)
    itself = parts.contingency(true, true, rows, rows)
    for measure in ("nmi", "ari"):
        found = [float(getattr(parts, measure)(table)) for table in (constant, itself)]
        np.testing.assert_allclose(found, vectors[f"lab_const_{measure}"], atol=EXACT)


@pytest.mark.parametrize("kind", ["pt", "pt_scops"])
def test_vectors_of_points(vectors: dict[str, NDArray[Any]], kind: str) -> None:
    true, pred = vectors[f"{kind}_gt_labels"], vectors[f"{kind}_pred_labels"]
    nmi, ari = percent(true, pred)
    assert nmi == pytest.approx(float(vectors[f"{kind}_fg_nmi"]), rel=1e-10)
    assert ari == pytest.approx(float(vectors[f"{kind}_fg_ari"]), rel=1e-10)
    nmi, ari = percent(true, vectors[f"{kind}_pred_labels_bg"])
    assert nmi == pytest.approx(float(vectors[f"{kind}_nmi"]), rel=1e-10)
    assert ari == pytest.approx(float(vectors[f"{kind}_ari"]), rel=1e-10)
    # The notebook's first FG-ARI took the labels with a background.
    assert ari == pytest.approx(float(vectors[f"{kind}_fg_ari_legacy"]), rel=1e-10)


# ---------------------------------------------------------------------------- files


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["score", "parts", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    true, pred = draw(9, 8, 7)
    true_values, pred_values = np.array([-7, 0, 3, 255, 70_000, 2**40]), np.array([5, -1, 8, 2**33])
    path = tmp_path / "parts.npz"
    np.savez(path, true=true_values[true], pred=pred_values[pred], other=np.zeros(3))
    found = run_cli(capsys, path)
    flat = true.ravel(), pred.ravel()
    assert found["nmi"] == pytest.approx(100 * normalized_mutual_info_score(*flat))
    assert found["ari"] == pytest.approx(100 * adjusted_rand_score(*flat))
    assert (found["n"], found["k"], found["labels"], found["images"]) == (504, 4, 6, 9)
    assert found["n_ignored"] == 0
    for key in ("nmi", "ari", "mean_iou"):
        low, high = found["interval95"][key]
        assert low < high
        assert low < found[key] + 5
    for key, measure in (("nmi", normalized_mutual_info_score), ("ari", adjusted_rand_score)):
        values = [100 * measure(t.ravel(), p.ravel()) for t, p in zip(true, pred, strict=True)]
        assert found["per_image"][key]["mean"] == pytest.approx(np.mean(values))
    order = np.argsort(pred_values)
    table = parts.contingency(true, pred, 6, 4)[:, order]
    np.testing.assert_array_equal(found["table"], table)
    assert found["parts"] == pred_values[order].tolist()
    matching = parts.matched_iou(table)
    assert found["mean_iou"] == pytest.approx(100 * matching.mean_iou)
    for row, partner, line in zip(true_values, matching.partner, found["per_label"], strict=True):
        assert line["label"] == row
        assert line["part"] == (None if partner < 0 else pred_values[order][partner])
    counts = table.sum(1)
    for name, measure in (("nmi", parts.nmi), ("ari", parts.ari)):
        best = max(float(measure(table)) for table in mergers(counts.tolist(), 4))
        assert found["ceiling"][name] == pytest.approx(100 * best)
    assert (found["ceiling"]["k"], found["ceiling"]["exact"]) == (4, True)
    assert sorted(itertools.chain(*found["ceiling"]["groups"])) == true_values.tolist()
    assert found == ruler.score(path, seed=0)
    assert found["interval95"] != ruler.score(path, seed=1)["interval95"]


def test_a_label_that_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    true, pred = draw(9, 8, 7)
    pred[true == 2] = 3
    pred[true != 2] %= 3
    true[4] = 2  # an image without anything that counts
    path = tmp_path / "parts.npz"
    np.savez(path, true=true - 2, pred=pred)
    found = run_cli(capsys, path, "--ignore", "0")
    kept = true != 2
    assert found["nmi"] == pytest.approx(100 * normalized_mutual_info_score(true[kept], pred[kept]))
    assert found["ari"] == pytest.approx(100 * adjusted_rand_score(true[kept], pred[kept]))
    assert (found["n"], found["n_ignored"]) == (kept.sum(), (~kept).sum())
    assert (found["k"], found["labels"], found["images"]) == (3, 5, 8)
    assert run_cli(capsys, path, "--ignore", "-2")["labels"] == 5


def test_several_labels_to_ignore_and_a_background(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    true, pred = draw(9, 40, seed=5)
    path = tmp_path / "parts.npz"
    np.savez(path, true=true, pred=pred)
    several = run_cli(capsys, path, "--ignore", "0", "--ignore", "2")
    kept = ~np.isin(true, (0, 2))
    assert several["nmi"] == pytest.approx(
        100 * normalized_mutual_info_score(true[kept], pred[kept])
    )
    assert several["settings"]["ignore"] == [0, 2]
    assert not any(key.startswith("fg_") for key in several)

    both = run_cli(capsys, path, "--ignore", "2", "--background", "0")
    without = run_cli(capsys, path, "--ignore", "2")
    assert {key: both[key] for key in without if key != "settings"} == {
        key: value for key, value in without.items() if key != "settings"
    }
    for key in ("nmi", "ari", "mean_iou", "majority_accuracy", "interval95", "per_image"):
        assert both[f"fg_{key}"] == several[key]
    assert both["fg_ceiling"] == several["ceiling"]


@pytest.mark.parametrize(
    ("ignore", "background", "message"),
    [
        ((0,), 0, "parts.npz: 0 is both --background and --ignore; give it once"),
        ((), 9, "parts.npz: no true label that counts is 9, which --background names; true holds"),
        ((1, 2, 3, 4), 0, "parts.npz: every true label is 0, which is the background"),
        ((0, 1, 2, 3, 4), None, "every true label is 0 or 1 or 2 or 3 or 4, which --ignore"),
    ],
)
def test_labels_that_leave_nothing(
    tmp_path: Path, ignore: tuple[int, ...], background: int | None, message: str
) -> None:
    true = np.arange(20).reshape(4, 5) % 5
    np.savez(tmp_path / "parts.npz", true=true, pred=true)
    with pytest.raises(BadInput, match=message):
        ruler.score(tmp_path / "parts.npz", ignore=ignore, background=background)


def test_points_without_images(tmp_path: Path) -> None:
    true, pred = draw(50)
    for arrays in ({"true": true, "pred": pred}, {"true": true[None], "pred": pred[None]}):
        np.savez(tmp_path / "parts.npz", **arrays)
        found = ruler.score(tmp_path / "parts.npz")
        assert found["interval95"] is found["per_image"] is found["images"] is None
        assert found["nmi"] == pytest.approx(100 * normalized_mutual_info_score(true, pred))


def test_one_part(tmp_path: Path) -> None:
    true, _ = draw(5, 50)
    np.savez(tmp_path / "parts.npz", true=true, pred=np.zeros_like(true))
    found = ruler.score(tmp_path / "parts.npz")
    assert (found["nmi"], found["ari"], found["k"]) == (0, 0, 1)
    assert (found["ceiling"]["nmi"], found["ceiling"]["ari"]) == (0, 0)
    assert found["interval95"]["nmi"] == found["interval95"]["ari"] == [0, 0]


INTS = np.arange(6).reshape(2, 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"true": INTS}, "no array named pred"),
        ({"truth": INTS, "pred": INTS}, "no array named true"),
        ({"true": INTS, "pred": INTS.T}, r"true has shape \[2, 3\], pred \[3, 2\]; give one"),
        ({"true": INTS, "pred": INTS[0]}, r"true has shape \[2, 3\], pred \[3\]"),
        ({"true": INTS, "pred": INTS * 1.0}, "pred is float64; labels must be integers"),
        ({"true": INTS.astype(str), "pred": INTS}, "true is <U21; labels must be integers"),
        ({"true": INTS.astype(object), "pred": INTS}, "cannot read the array 'true'.*refused"),
        ({"true": INTS[:0], "pred": INTS[:0]}, r"have shape \[0, 3\]; nothing is left to count"),
        ({"true": INTS * 0 + 4, "pred": INTS}, "every true label is 4, which --ignore leaves out"),
        ({"true": np.arange(65_537), "pred": np.zeros(65_537, int)}, "true has more than 65,536"),
        ({"true": np.zeros(65_537, int), "pred": np.arange(65_537)}, "pred has more than 65,536"),
        (
            {"true": np.arange(20_000), "pred": np.arange(20_000)},
            "20,000 true and 20,000 predicted labels have more than",
        ),
        (  # two small tables, but a thousand draws of them
            {"true": np.arange(800).reshape(2, 400), "pred": np.arange(800).reshape(2, 400)},
            "1,000 tables, of images or of draws of them, with 800 true and 800 predicted",
        ),
    ],
)
def test_files_that_cannot_be_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arrays: dict[str, Any], message: str
) -> None:
    path = tmp_path / "parts.npz"
    np.savez(path, **arrays)
    with pytest.raises(BadInput, match=message):
        ruler.score(path, ignore=(4,))
    assert main(["score", "parts", str(path), "--ignore", "4"]) == 1
    assert str(path) in capsys.readouterr().err


def test_commands_that_cannot_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "parts", "a.npz", "b.npz"]) == 1
    assert "takes one file" in capsys.readouterr().err
    assert main(["score", "parts", str(tmp_path / "absent.npz")]) == 1
    assert "no such file" in capsys.readouterr().err
