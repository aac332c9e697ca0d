"""Principal components, clusters and nearest neighbours against scikit-learn, numpy and faiss."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from partbench.errors import BadInput
from partbench.nn import nearest
from partbench.nn.clusters import (
    Components,
    faiss_on_gpu,
    k_means,
    merge_small,
    principal_components,
)
from partbench.nn.nearest import NONE, Found, Lists, Wanted
from partbench.shards import Shards

CPU = torch.device("cpu")
SEED = 5


def blobs(n: int = 600, dimensions: int = 24, centres: int = 12, seed: int = 0) -> NDArray[Any]:
    """Return rows around some centres, far from the origin, of a few directions."""
    draw = np.random.default_rng(seed)
    means = 3 * draw.normal(size=(centres, dimensions))
    spread = np.linspace(1.5, 0.1, dimensions)
    rows = means[draw.integers(centres, size=n)] + spread * draw.normal(size=(n, dimensions))
    return (rows + 20).astype(np.float32)


def shards(folder: Path, rows: NDArray[Any], size: int = 1 << 20) -> Shards:
    folder.mkdir(parents=True, exist_ok=True)
    made = Shards(folder, *rows.shape, rows=size)
    made.write(0, rows)
    return made


def everything(n: int, neighbours: int = 10, above: float = 0) -> Wanted:
    return Wanted(neighbours, np.arange(n), above)


def brute(rows: NDArray[Any], neighbours: int = 10) -> Found:
    """Return the nearest other rows by scikit-learn, in float64."""
    search = NearestNeighbors(n_neighbors=neighbours + 1, algorithm="brute")
    search.fit(rows.astype(np.float64))
    distances, near = search.kneighbors(rows.astype(np.float64))
    return near[:, 1:], (distances[:, 1:] ** 2).astype(np.float32)


# ---------------------------------------------------------------------------- shards


@settings(max_examples=30)
@given(
    n=st.integers(1, 40),
    size=st.integers(1, 15),
    block=st.integers(1, 13),
    seed=st.integers(0, 99),
)
def test_rows_come_back_from_their_shards(
    tmp_path_factory: pytest.TempPathFactory, n: int, size: int, block: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(n, 3)).astype(np.float32)
    made = Shards(folder, n, 3, rows=size)
    for start in range(0, n, block):
        made.write(start, rows[start : start + block])
    assert len(list(folder.iterdir())) == -(-n // size)
    some = draw.integers(n, size=(7, 2))
    np.testing.assert_array_equal(made.take(some), rows[some])
    whole = list(made.blocks(block))
    assert [start for start, _ in whole] == list(range(0, n, block))
    np.testing.assert_array_equal(np.concatenate([part for _, part in whole]), rows)


# ---------------------------------------------------------------------------- components


def test_components_are_scikit_learn_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partbench.nn.clusters.BLOCK", 100)
    rows = blobs()
    found = principal_components(shards(tmp_path, rows, 70), 8, np.arange(len(rows)), CPU)
    theirs = PCA(8).fit(rows.astype(np.float64))
    signs = np.sign((found.axes.numpy() * theirs.components_.T).sum(0))
    np.testing.assert_allclose(found.axes.numpy() * signs, theirs.components_.T, atol=1e-5)
    np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.reduced(rows) * signs, theirs.transform(rows), atol=1e-4)
    pairs = ((rows[:, None].astype(np.float64) - rows) ** 2).sum(2)
    assert found.spread == pytest.approx(pairs.mean(), rel=1e-6)


def test_whitening_is_that_of_faiss(tmp_path: Path) -> None:
    """As DeepCluster calls it: eigenvalues to the power of -0.5, then rows of unit length."""
    rows = blobs(2000) - 20  # faiss computes in float32
    found = principal_components(shards(tmp_path, rows), 8, np.arange(len(rows)), CPU)
    theirs = faiss.PCAMatrix(rows.shape[1], 8, -0.5)
    theirs.train(rows)
    expected = theirs.apply_py(rows)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    made = found.whitened(rows)
    signs = np.sign((made * expected).sum(0))
    np.testing.assert_allclose(made * signs, expected, atol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-5)


def test_components_without_variance_are_left_out(tmp_path: Path) -> None:
    rows = np.zeros((50, 6), np.float32)
    rows[:, 2], rows[:, 4] = np.random.default_rng(0).normal(size=(2, 50))
    found = principal_components(shards(tmp_path / "a", rows), 4, np.arange(50), CPU)
    assert found.axes.shape == (6, 2)
    assert np.isfinite(found.whitened(rows)).all()
    with pytest.raises(BadInput, match="the same features"):
        principal_components(shards(tmp_path / "b", rows * 0 + 3), 4, np.arange(50), CPU)
    rows[7, 0] = np.nan
    with pytest.raises(BadInput, match="not finite"):
        principal_components(shards(tmp_path / "c", rows), 4, np.arange(50), CPU)


def test_components_are_dealt_out_like_cards(tmp_path: Path) -> None:
    rows = blobs()
    store = shards(tmp_path, rows)
    found = principal_components(store, 11, np.arange(600), CPU)
    dealt = found.dealt(3)
    order = [0, 3, 6, 1, 4, 7, 2, 5, 8]
    np.testing.assert_allclose(dealt.reduced(rows), found.reduced(rows)[:, order], atol=1e-4)


# ---------------------------------------------------------------------------- clusters


def test_k_means_finds_blobs_whatever_the_threads() -> None:
    rows = blobs(1500, centres=6)
    labels, centroids = k_means(rows, 6, 100, SEED, gpu=False)
    again, _ = k_means(rows, 6, 100, SEED, gpu=False)
    np.testing.assert_array_equal(labels, again)
    faiss.omp_set_num_threads(2)
    try:
        other, places = k_means(rows, 6, 100, SEED, gpu=False)
    finally:
        faiss.omp_set_num_threads(1)
    np.testing.assert_array_equal(labels, other)
    np.testing.assert_array_equal(centroids, places)
    nearest_centroid = ((rows[:, None] - centroids) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(labels, nearest_centroid)
    for i in range(6):
        np.testing.assert_allclose(centroids[i], rows[labels == i].mean(0), rtol=1e-3)


@pytest.mark.parametrize(
    ("wanted", "gpus", "expected"), [(True, 2, True), (True, 0, False), (False, 2, False)]
)
def test_faiss_computes_on_the_gpu_where_it_is_wanted_and_can(
    wanted: bool, gpus: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: gpus)
    assert faiss_on_gpu(wanted) is expected


def test_small_clusters_join_the_nearest() -> None:
    centroids = np.array([[0.0], [1.0], [10.0], [12.5], [50.0]], np.float32)
    labels = np.repeat([0, 1, 2, 3], [20, 3, 4, 5])
    merged = merge_small(labels, centroids, 6)
    # The three join the twenty; four and five join each other; the fifth cluster has no row.
    np.testing.assert_array_equal(merged, np.repeat([0, 0, 3, 3], [20, 3, 4, 5]))
    np.testing.assert_array_equal(merge_small(labels, centroids, 3), labels)


@settings(max_examples=40)
@given(
    n=st.integers(1, 60), k=st.integers(1, 12), least=st.integers(1, 20), seed=st.integers(0, 99)
)
def test_no_small_cluster_is_left_beside_another(n: int, k: int, least: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = draw.integers(k, size=n)
    merged = merge_small(labels, draw.normal(size=(k, 2)).astype(np.float32), least)
    counts = np.bincount(merged)
    counts = counts[counts > 0]
    assert len(counts) == 1 or counts.min() >= least
    for label in np.unique(labels):  # clusters stay whole
        assert len(np.unique(merged[labels == label])) == 1


# ---------------------------------------------------------------------------- exact search


def same(found: Found, expected: Found) -> None:
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4)


@pytest.mark.parametrize("gpu", [False, True], indirect=True)
def test_neighbours_inside_clusters_are_scikit_learn_s(
    gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "QUERIES", 37)
    rows = blobs()
    labels = np.random.default_rng(1).integers(4, size=len(rows))
    found = nearest.in_clusters(shards(tmp_path, rows, 100), labels, everything(600), gpu)
    for label in range(4):
        members = np.flatnonzero(labels == label)
        near, distances = brute(rows[members])
        same((found[0][members], found[1][members]), (members[near], distances))


@pytest.mark.parametrize("gpu", [False, True], indirect=True)
def test_neighbours_of_all_are_scikit_learn_s(
    gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "BASE", 90)
    rows = blobs()
    own = np.array([3, 500, 77])
    found = nearest.of_all(shards(tmp_path, rows, 128), own, everything(600), gpu)
    near, distances = brute(rows)
    same(found, (near[own], distances[own]))


@pytest.mark.parametrize("gpu", [False, True], indirect=True)
def test_a_tile_is_no_neighbour_of_its_own_group_nor_of_the_same_picture(
    gpu: bool, tmp_path: Path
) -> None:
    rows = np.repeat(blobs(60), 5, 0)  # every picture five times
    rows += np.random.default_rng(0).normal(scale=1e-3, size=rows.shape).astype(np.float32)
    labels = np.zeros(len(rows), int)
    store = shards(tmp_path, rows)
    plain = nearest.in_clusters(store, labels, everything(300, 4), gpu)
    copies = np.arange(300) // 5
    assert (plain[0] != np.arange(300)[:, None]).all()
    assert (copies[plain[0]] == copies[:, None]).all()
    assert plain[1].max() < 0.01
    grouped = Wanted(4, copies, 0)
    for wanted in (grouped, everything(300, 4, above=0.01)):
        found = nearest.in_clusters(store, labels, wanted, gpu)
        assert (copies[found[0]] != copies[:, None]).all()
        assert found[1].min() > 0.01
    # Every neighbour was searched for, though the five copies fill the first places.
    assert (found[0] != NONE).all()
    pairs = ((rows[:, None].astype(np.float64) - rows) ** 2).sum(2)
    pairs[copies[:, None] == copies] = np.inf
    np.testing.assert_allclose(found[1], np.sort(pairs, 1)[:, :4], rtol=1e-3)


@pytest.mark.parametrize("gpu", [False, True], indirect=True)
def test_small_distances_are_not_rounded_away(gpu: bool, tmp_path: Path) -> None:
    """faiss expands the square, which rounds distances that are small beside the rows' lengths."""
    draw = np.random.default_rng(0)
    n = 2000  # for fewer, faiss subtracts
    base = np.repeat([[1.0], [-1.0]], n // 2, 0) + draw.normal(size=256)
    rows = (base + 0.01 * draw.normal(size=(n, 256))).astype(np.float32)
    found = nearest.in_clusters(shards(tmp_path, rows), np.zeros(n, int), everything(n), gpu)
    np.testing.assert_allclose(found[1], brute(rows)[1], rtol=1e-3)


def test_missing_neighbours_are_searched_for_or_repeated(tmp_path: Path) -> None:
    rows = blobs(300)
    labels = np.zeros(300, int)
    labels[:4], labels[4] = 1, 2  # four, and one alone
    store, wanted = shards(tmp_path, rows), everything(300)
    found = nearest.in_clusters(store, labels, wanted, gpu=False)
    assert (found[0][:4, 3:] == NONE).all()
    assert (found[0][4] == NONE).all()
    near, distances = brute(rows)
    whole = nearest.complete(store, tuple(a.copy() for a in found), wanted, True, False)  # type: ignore[arg-type]
    same((whole[0][:5], whole[1][:5]), (near[:5], distances[:5]))
    kept = nearest.complete(store, found, wanted, False, False)
    for row in range(4):
        np.testing.assert_array_equal(kept[0][row], np.tile(kept[0][row, :3], 4)[:10])
        assert set(kept[0][row]) == {0, 1, 2, 3} - {row}
        np.testing.assert_array_equal(kept[1][row, :3], kept[1][row, 3:6])
    same((kept[0][4:5], kept[1][4:5]), (near[4:5], distances[4:5]))
    with pytest.raises(BadInput, match="looks like the same quadrant of all others"):
        nearest.complete(store, found, everything(300, above=1e9), True, False)


@pytest.mark.parametrize("whole", [True, False])
def test_others_are_found_behind_any_number_of_the_same_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    monkeypatch.setattr(nearest, "BASE", 70)
    monkeypatch.setattr(nearest, "FLOATS", 2000)
    rows = blobs(160)
    rows[40:100] = rows[40]
    labels = np.ones(160, int)
    labels[40:100] = 0  # a cluster of the same picture alone
    store, wanted = shards(tmp_path, rows, 50), everything(160, above=1e-6)
    found = nearest.in_clusters(store, labels, wanted, gpu=False)
    assert (found[0][40:100] == NONE).all()
    found = nearest.complete(store, found, wanted, whole, gpu=False)
    others = np.flatnonzero(labels)
    pairs = ((rows[40].astype(np.float64) - rows[others]) ** 2).sum(1)
    order = pairs.argsort()[:10]
    assert (found[0][40:100] == others[order]).all()
    np.testing.assert_allclose(found[1][40:100], np.tile(pairs[order], (60, 1)), rtol=1e-4)


def test_all_are_searched_for_few_queries_at_once_where_many_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "FLOATS", 2000)
    rows = blobs(300)
    rows[20:] = rows[20]
    store, wanted = shards(tmp_path, rows), everything(300, above=1e-6)
    most = []
    search = nearest._search

    def watched(queries: Any, base: Any, k: int, gpu: bool) -> Any:
        most.append((k, len(queries)))
        return search(queries, base, k, gpu)

    monkeypatch.setattr(nearest, "_search", watched)
    found = nearest.of_all(store, np.arange(300), wanted, gpu=False)
    assert (found[0][20:] < 20).all()
    assert (found[0] != NONE).all()
    assert max(k for k, _ in most) == 300
    assert max(k * queries for k, queries in most) <= 2000


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether to search as on a GPU; the CPU takes its place, and faiss must not be asked."""
    if request.param:
        monkeypatch.setattr(nearest, "GPU", CPU)
        monkeypatch.setattr(nearest, "ON_GPU", 1000)  # queries in many parts
        monkeypatch.delattr(faiss, "knn")
    return bool(request.param)


@pytest.mark.parametrize("gpu", [True], indirect=True)
def test_a_gpu_finds_the_same_behind_any_number_of_the_same_picture(
    gpu: bool, tmp_path: Path
) -> None:
    rows = np.concatenate([np.repeat(blobs(1), 2100, 0), blobs(200, seed=1)])
    found = nearest.of_all(
        shards(tmp_path, rows), np.array([0, 2200]), everything(2300, above=1e-6), gpu
    )
    assert (found[0] >= 2100 - 1).all()
    pairs = ((rows[[0, 2200], None].astype(np.float64) - rows) ** 2).sum(2)
    pairs[0, :2100] = pairs[1, 2200] = np.inf
    np.testing.assert_allclose(found[1][0], np.sort(pairs[0])[:10], rtol=1e-4)


# ---------------------------------------------------------------------------- inverted file


def lists(**changes: int) -> Lists:
    return Lists(**{"lists": 16, "code": 8, "probes": 4, "shortlist": 60} | changes)


def learn(store: Shards, dimensions: int = 24) -> Components:
    return principal_components(store, dimensions, np.arange(len(store)), CPU)


def search(store: Shards, folder: Path, how: Lists, wanted: Wanted) -> Found:
    folder.mkdir()
    components = learn(store).dealt(how.code)
    chosen = np.arange(0, len(store), 2)
    index = nearest.build_lists(store, components, how, chosen, folder, SEED, gpu=False)
    return nearest.in_lists(store, np.arange(len(store)), components, index, how, wanted)


def test_an_inverted_file_finds_nearly_all_neighbours(tmp_path: Path) -> None:
    rows = blobs(3000, centres=40)
    store = shards(tmp_path / "rows", rows, 1250)
    wanted = everything(3000)
    found = search(store, tmp_path / "index", lists(), wanted)
    assert (tmp_path / "index" / "lists.ivfdata").stat().st_size >= 3000 * (8 + 8)
    assert len(list((tmp_path / "index").glob("0*.index"))) == 3
    exact, distances = brute(rows)
    hits = (found[0][:, :, None] == exact[:, None]).any(1)
    assert hits.mean() > 0.95
    # What it finds has exact distances, in their order.
    all_distances = ((rows[:, None].astype(np.float64) - rows[found[0]]) ** 2).sum(2)
    np.testing.assert_allclose(found[1], all_distances, rtol=1e-4)
    assert (np.diff(found[1], axis=1) >= 0).all()
    assert (found[1] >= distances * (1 - 1e-4)).all()
    again = search(store, tmp_path / "again", lists(), wanted)
    np.testing.assert_array_equal(found[0], again[0])
    few = search(store, tmp_path / "few", lists(probes=1, shortlist=11), wanted)
    assert (few[0][:, :, None] == exact[:, None]).any(1).mean() < hits.mean()


def test_all_lists_and_all_codes_are_an_exact_search(tmp_path: Path) -> None:
    rows = blobs(700)
    store = shards(tmp_path / "rows", rows, 300)
    found = search(store, tmp_path / "i", lists(probes=16, shortlist=700), everything(700))
    same(found, brute(rows))


def test_more_lists_are_searched_where_neighbours_are_missing(tmp_path: Path) -> None:
    rows = blobs(2000, centres=30)
    copies = np.arange(2000) // 200
    found = search(
        shards(tmp_path / "rows", rows[np.argsort(rows[:, 0])], 900),
        tmp_path / "index",
        lists(probes=1, shortlist=11),
        Wanted(10, copies, 0),
    )
    assert (found[0] != NONE).mean() > 0.99
    assert (copies[found[0]] != copies[:, None]).all()
