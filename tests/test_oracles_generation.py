"""Measures of generated images against the numbers of the public reference implementations."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle_vectors import Vectors

from partbench.metrics import frechet
from partbench.metrics.frechet import Moments, Statistics
from partbench.metrics.generation import inception_score, kernel_distance, precision_recall
from partbench.nn.feature_networks import Resize, resized

REFERENCES = ("torch_fidelity", "pytorch_fid", "clean_fid")


@pytest.fixture(scope="module")
def vectors(oracles: Path) -> Vectors:
    return Vectors(oracles / "generation_metrics.npz")


@pytest.mark.parametrize("reference", REFERENCES)
def test_frechet_distance(vectors: Vectors, reference: str) -> None:
    x, y = vectors["fd_x"], vectors["fd_y"]
    expected = vectors[f"fd_{reference}"]
    np.testing.assert_allclose(frechet.distance_of_features(x, y), expected, rtol=1e-9)
    given = [Statistics(0, vectors[f"fd_mu_{s}"], vectors[f"fd_sigma_{s}"]) for s in "xy"]
    np.testing.assert_allclose(frechet.distance(*given), expected, rtol=1e-9)
    same = vectors[f"fd_same_{reference}"]
    np.testing.assert_allclose(frechet.distance_of_features(x, x), same, atol=1e-8)


@pytest.mark.parametrize("reference", REFERENCES)
def test_frechet_distance_of_fewer_samples_than_features(vectors: Vectors, reference: str) -> None:
    x, y = vectors["fd_def_x"], vectors["fd_def_y"]
    expected = vectors[f"fd_def_{reference}"]
    np.testing.assert_allclose(frechet.distance_of_features(x, y), expected, rtol=1e-6)
    statistics = [Moments.of(features).statistics() for features in (x, y)]
    np.testing.assert_allclose(frechet.distance(*statistics), expected, rtol=1e-6)


def test_statistics(vectors: Vectors) -> None:
    for name in "xy":
        found = Moments.of(vectors[f"fd_{name}"]).statistics()
        np.testing.assert_allclose(found.mean, vectors[f"fd_mu_{name}"], rtol=1e-12)
        np.testing.assert_allclose(found.covariance, vectors[f"fd_sigma_{name}"], atol=1e-14)


@pytest.mark.parametrize("reference", [*REFERENCES[:2], "clean_fid", "exact"])
def test_frechet_distance_of_two_normals(vectors: Vectors, reference: str) -> None:
    d = vectors["fd_x"].shape[1]
    near = Statistics(0, np.zeros(d), np.eye(d))
    far = Statistics(0, np.full(d, 0.5), 4 * np.eye(d))
    found = frechet.distance(near, far)
    np.testing.assert_allclose(found, vectors[f"fd_analytic_{reference}"], rtol=1e-9)


def test_kernel_distance(vectors: Vectors) -> None:
    x, y = vectors["fd_x"], vectors["fd_y"]
    subsets, size = vectors["kid_idx_x"].shape
    found = kernel_distance(x, y, subsets, size, seed=2020)
    np.testing.assert_allclose(found.mean, vectors["kid_mean"], rtol=1e-9)
    np.testing.assert_allclose(found.sd, vectors["kid_std"], rtol=1e-9)
    rng = np.random.RandomState(2020)
    for i, value in enumerate(vectors["kid_per_subset"]):
        some, others = (rng.choice(len(f), size, replace=False) for f in (x, y))
        np.testing.assert_array_equal(some, vectors["kid_idx_x"][i])
        np.testing.assert_array_equal(others, vectors["kid_idx_y"][i])
        one = kernel_distance(x[some], y[others], 1, size, seed=0)
        np.testing.assert_allclose(one.mean, value, rtol=1e-9)


def test_kernel_distance_of_one_subset(vectors: Vectors) -> None:
    n = int(vectors["mmd2_n"])
    found = kernel_distance(vectors["fd_x"][:n], vectors["fd_y"][:n], 1, n, seed=0)
    np.testing.assert_allclose(found.mean, vectors["mmd2_unbiased"], rtol=1e-9)


def test_inception_score(vectors: Vectors) -> None:
    logits = vectors["is_logits"]
    found = inception_score(logits)
    np.testing.assert_allclose(found, [vectors["is_mean"], vectors["is_std"]], rtol=1e-9)
    shuffled = [vectors["is_shuffled_mean"], vectors["is_shuffled_std"]]
    np.testing.assert_allclose(inception_score(logits, shuffle=2020), shuffled, rtol=1e-9)
    order = vectors["is_permutation"]
    np.testing.assert_allclose(inception_score(logits[order]), shuffled, rtol=1e-9)
    np.testing.assert_allclose(inception_score(logits, 1), [vectors["is_one_split"], 0], rtol=1e-9)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall(vectors: Vectors, k: int) -> None:
    found = precision_recall(vectors["pr_generated"], vectors["pr_real"], k)
    precision, recall, score = vectors[f"pr_k{k}"]
    np.testing.assert_allclose(found, [precision, recall], rtol=1e-6)
    together = 2 * found.precision * found.recall / (found.precision + found.recall)
    np.testing.assert_allclose(together, score, rtol=1e-6)


@pytest.mark.parametrize(
    ("mode", "key", "scale", "tolerance"),
    [
        ("ttur", "rs_tf1_bilinear", 1.0, 1e-3),
        ("pytorch", "rs_half_pixel_bilinear", 255.0, 1e-6),
        ("clean", "rs_clean_bicubic", 1.0, 1e-3),
        ("clean", "rs_clean_bicubic_shrink", 1.0, 1e-3),
    ],
)
def test_resizing(vectors: Vectors, mode: Resize, key: str, scale: float, tolerance: float) -> None:
    images = torch.from_numpy(vectors["rs_in"]).float()
    expected = vectors[key]
    found = resized(images, expected.shape[2:], mode).numpy() / scale
    np.testing.assert_allclose(found, expected, atol=tolerance)
    others: list[Callable[[], object]] = [
        lambda m=other: resized(images, expected.shape[2:], m)  # type: ignore[misc]
        for other in {"ttur", "pytorch", "clean"} - {mode}
    ]
    for other in others:  # each mode is another one
        assert np.abs(np.asarray(other()) / scale - expected).max() > 100 * tolerance
