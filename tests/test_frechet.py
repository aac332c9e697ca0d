"""The Frechet distance: known values, references, merging, first-order outcomes, its bias."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from partbench.errors import BadInput
from partbench.metrics import frechet
from partbench.metrics.frechet import Moments, Statistics


def by_torch_fidelity(x: np.ndarray, y: np.ndarray) -> float:
    statistics = [fid_features_to_statistics(torch.from_numpy(f)) for f in (x, y)]
    return next(iter(fid_statistics_to_metric(*statistics, verbose=False).values()))


# Values that the sheet of the protocol gives.


def test_known_values() -> None:
    r = np.random.RandomState(0)
    x, y = r.randn(500, 16), r.randn(400, 16) @ np.diag(np.linspace(0.5, 1.5, 16)) + 0.1
    assert frechet.distance_of_features(x, y) == pytest.approx(1.99968160257, abs=1e-11)
    x, y = r.randn(100, 256), r.randn(100, 256) + 0.05  # fewer samples than features
    assert frechet.distance_of_features(x, y) == pytest.approx(256.7868470, abs=1e-7)
    statistics = [Moments.of(f).statistics() for f in (x, y)]
    assert frechet.distance(*statistics) == pytest.approx(256.7868470, abs=1e-7)


def test_means_alone() -> None:
    d = 2048
    near, far = (Statistics(0, np.full(d, m), np.eye(d)) for m in (0.0, 1.0))
    assert frechet.distance(near, far) == pytest.approx(d, rel=1e-12)


def test_three_flat_images() -> None:
    found = Moments.of(np.array([[0.0] * 3, [0.5] * 3, [1.0] * 3])).statistics()
    np.testing.assert_allclose(found.mean, 0.5)
    np.testing.assert_allclose(found.covariance, 0.25)


SHAPES = st.tuples(
    st.integers(2, 60), st.integers(2, 60), st.integers(2, 40), st.integers(0, 2**32 - 1)
)


def drawn(shape: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    n, m, d, seed = shape
    r = np.random.default_rng(seed)
    scale = np.exp(r.normal(size=d))
    return r.normal(size=(n, d)) * scale, r.normal(size=(m, d)) * scale[::-1] + r.normal(size=d)


@given(SHAPES)
@settings(max_examples=60)
def test_it_agrees_with_torch_fidelity(shape: tuple[int, int, int, int]) -> None:
    x, y = drawn(shape)
    expected = by_torch_fidelity(x, y)
    statistics = [Moments.of(f).statistics() for f in (x, y)]
    scale = 1e-6 * max(1.0, sum(np.trace(s.covariance) for s in statistics))
    assert frechet.distance_of_features(x, y) == pytest.approx(expected, rel=1e-6, abs=scale)
    assert frechet.distance(*statistics) == pytest.approx(expected, rel=1e-6, abs=scale)


@given(SHAPES)
@settings(max_examples=40)
def test_invariances(shape: tuple[int, int, int, int]) -> None:
    x, y = drawn(shape)
    distance = frechet.distance_of_features(x, y)
    assert distance >= 0
    scale = np.square(x).sum(1).mean() + np.square(y).sum(1).mean()
    assert frechet.distance_of_features(y, x) == pytest.approx(distance, abs=1e-9 * scale)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(x.shape[1],) * 2))[0]
    moved = [3 * f @ turn + 5 for f in (x, y)]
    assert frechet.distance_of_features(*moved) == pytest.approx(9 * distance, abs=1e-7 * scale)
    assert frechet.distance_of_features(x, x) == pytest.approx(0, abs=1e-9 * scale)
    order = np.random.default_rng(2).permutation(len(x))
    assert frechet.distance_of_features(x[order], x) == pytest.approx(0, abs=1e-9 * scale)


def test_covariances_of_any_condition_keep_their_digits() -> None:
    """Eigenvalues of a product as small as its rounding would each add half of their digits."""
    d, n = 300, 200
    r = np.random.default_rng(0)
    variances = np.logspace(0, -12, d)
    x, y = (r.normal(size=(n, d)) * np.sqrt(variances) for _ in range(2))
    exact = frechet.distance_of_features(x, y)
    statistics = [Moments.of(f).statistics() for f in (x, y)]
    assert frechet.distance(*statistics) == pytest.approx(exact, rel=1e-6)
    full = [Statistics(0, np.zeros(d), np.diag(v)) for v in (variances, variances[::-1])]
    expected = 2 * variances.sum() - 2 * np.sqrt(variances * variances[::-1]).sum()
    assert frechet.distance(*full) == pytest.approx(expected, rel=1e-9)
    flat = np.diag(np.arange(d) < 50).astype(float)  # singular, and the other one hardly is not
    nearly = Statistics(0, np.zeros(d), flat + 1e-10 * np.eye(d))
    singular = Statistics(0, np.zeros(d), flat)
    found = [frechet.distance(a, b) for a, b in ((singular, nearly), (nearly, singular))]
    assert found == pytest.approx([250e-10] * 2, abs=1e-11)


def test_no_covariance_beside_one(recwarn: pytest.WarningsRecorder) -> None:
    some = Statistics(0, np.zeros(3), np.diag([1.0, 2.0, 3.0]))
    none = Statistics(0, np.array([2.0, 0.0, 0.0]), np.zeros((3, 3)))
    assert frechet.distance(some, none) == pytest.approx(10)
    assert frechet.distance(none, some) == pytest.approx(10)
    assert not recwarn.list


def test_all_images_alike() -> None:
    same = np.ones((5, 3))
    assert frechet.distance_of_features(same, same) == 0
    assert frechet.distance_of_features(same, same + 1) == pytest.approx(3)
    statistics = Moments.of(same).statistics()
    assert frechet.distance(statistics, statistics) == 0


# Statistics.


@given(SHAPES, st.lists(st.integers(0, 60), max_size=5))
@settings(max_examples=60)
def test_parts_merge_to_the_whole(shape: tuple[int, int, int, int], cuts: list[int]) -> None:
    x, _ = drawn(shape)
    whole = Moments(x.shape[1])
    for part in np.split(x, sorted(min(cut, len(x)) for cut in cuts)):
        moments = Moments(x.shape[1])
        if len(part):
            moments.add(part.astype(np.float32).astype(np.float64))
        whole.merge(pickle.loads(pickle.dumps(moments)))  # as it comes from another process
    found, rounded = whole.statistics(), x.astype(np.float32).astype(np.float64)
    assert found.n == len(x)
    np.testing.assert_allclose(found.mean, rounded.mean(0), rtol=1e-10, atol=1e-12)
    expected = np.cov(rounded, rowvar=False).reshape(found.covariance.shape)
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-9, atol=1e-9)


def test_far_from_0_nothing_is_lost() -> None:
    x = np.random.default_rng(0).normal(size=(9000, 3)) + 1e8  # more than one block
    found = Moments.of(x).statistics()
    np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), atol=1e-6)


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(BadInput, match="two images or more, and there are 1"):
        Moments.of(np.ones((1, 3))).statistics()


# Outcomes by image.


@pytest.mark.parametrize(("n", "m"), [(150, 150), (300, 150), (130, 150), (20, 24)])
def test_outcomes_are_the_jackknife_s(n: int, m: int) -> None:
    r = np.random.default_rng(3)
    d = 6 if n > 20 else 40
    x, y = r.normal(size=(n, d)) * np.linspace(0.5, 2, d), r.normal(size=(m, d)) + 0.3
    found = frechet.outcomes(x, y)
    assert found.shape == (m,)
    assert found.mean() == pytest.approx(frechet.distance_of_features(x, y), rel=1e-9)
    if n < d:
        return
    without = [
        frechet.distance_of_features(np.delete(x, np.arange(i, n, m), 0), np.delete(y, i, 0))
        for i in range(m)
    ]
    jackknife = (m - 1) * (np.mean(without) - np.array(without))
    assert np.corrcoef(jackknife, found)[0, 1] > 0.98
    assert found.std() == pytest.approx(jackknife.std(), rel=0.1)


def test_the_spread_of_outcomes_is_that_of_the_distance() -> None:
    r = np.random.default_rng(0)
    distances, errors = [], []
    for _ in range(150):
        x, y = r.normal(size=(400, 5)) * 1.5, r.normal(size=(400, 5))
        distances.append(frechet.distance_of_features(x, y))
        errors.append(frechet.outcomes(x, y).std(ddof=1) / 20)
    assert np.mean(errors) == pytest.approx(np.std(distances), rel=0.2)


# Infinitely many images.


def test_the_extrapolation_takes_the_bias_off() -> None:
    """The truth is 20 (1.2 - 1)^2; 60 images of 20 numbers are far above it."""
    r = np.random.default_rng(0)
    real = r.normal(size=(20_000, 20))
    truth = 20 * 0.2**2
    found, plain = [], []
    for seed in range(30):
        x = 1.2 * r.normal(size=(300, 20))
        found.append(frechet.infinity(x, real, 8, seed))
        plain.append(frechet.distance_of_features(x, real))
    values = np.array([f.value for f in found])
    bias, left = np.mean(plain) - truth, values.mean() - truth
    assert bias > 0.3
    assert abs(left) < 0.2 * bias
    halves = np.array([(f.high - f.low) / 2 / frechet.Z for f in found])
    assert 0.8 * values.std() < halves.mean() < 2.2 * values.std()
    assert sum(f.low < truth < f.high for f in found) >= 27


def test_the_extrapolation_repeats_and_says_its_sizes() -> None:
    r = np.random.default_rng(0)
    x, y = r.normal(size=(300, 4)), r.normal(size=(200, 4))
    first, again, other = (frechet.infinity(x, y, 4, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.value != other.value
    assert first.sizes[0] == 150
    assert first.sizes[-1] == 300
    assert len(first.sizes) == len(first.distances) == frechet.POINTS
    assert first.distances[-1] == pytest.approx(frechet.distance_of_features(x, y))
    with pytest.raises(BadInput, match="needs 8 or more of each set, and there are 300 and 5"):
        frechet.infinity(x, y[:5], 4, 0)
