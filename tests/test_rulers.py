"""The rulers as a library: they are the probes' numbers, in batches too, and say what is wrong."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from partbench import metrics
from partbench.metrics import frechet
from partbench.metrics.intervals import over_seeds_and_samples
from partbench.metrics.landmark_factors import Factors
from partbench.metrics.landmarks import fit
from partbench.rulers.common import array
from partbench.score import landmarks as of_landmarks
from partbench.score import linear as of_linear
from partbench.score import parts as of_parts

BATCHES = (1, 7, 1000)


def faces(n: int, seed: int = 0, hidden: float = 0.2) -> tuple[NDArray[Any], ...]:
    """Keypoints [n, 4, 2], landmarks [n, 5, 2] that they tell in part, and visibility."""
    draw = np.random.default_rng(seed)
    points = draw.normal(size=(n, 4, 2))
    weights = np.random.default_rng(99).normal(size=(8, 10))
    noise = 0.3 * draw.normal(size=(n, 10))
    landmarks = (points.reshape(n, -1) @ weights + noise).reshape(n, 5, 2) + np.array([40, 30])
    return points, landmarks, draw.random((n, 5)) >= hidden


def batches(k: int, *arrays: NDArray[Any]) -> list[tuple[NDArray[Any], ...]]:
    return list(zip(*(np.array_split(values, k) for values in arrays), strict=True))


def close(one: Any, other: Any) -> None:
    """Two estimates agree to 1e-12 of themselves, and in all that is no number exactly."""
    np.testing.assert_allclose(one.value, other.value, rtol=1e-12)
    assert (one.interval is None) == (other.interval is None)
    if one.interval is not None:
        np.testing.assert_allclose(one.interval, other.interval, rtol=1e-12)
    assert one[2:] == other[2:]


# ---------------------------------------------------------------------------- landmarks


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("k", BATCHES)
def test_landmarks_in_batches_are_those_of_the_whole(k: int, intercept: bool) -> None:
    train, test = faces(1500), faces(1100, seed=1)
    whole = metrics.landmark_error(
        *train[:2], *test[:2], train_visible=train[2], test_visible=test[2], intercept=intercept
    )
    ruler = metrics.LandmarkError(intercept=intercept)
    for batch in batches(k, *train):
        ruler.fit(*batch)
    for batch in batches(k, *test):
        ruler.update(*batch)
    close(ruler.compute(), whole)
    assert whole.value > 100 or whole.value > 0
    assert whole.interval[0] < whole.value < whole.interval[1]


@pytest.mark.parametrize("intercept", [True, False])
def test_factors_find_the_map_that_least_squares_finds(intercept: bool) -> None:
    """Also where columns are constant, far from the origin, or repeat one another."""
    points, landmarks, visible = faces(60, hidden=0.3)
    inputs = points.reshape(60, -1)
    inputs[:, 3] = 7.0
    inputs[:, 5] = inputs[:, 4] * 1e-4
    inputs[:, 6] = inputs[:, 1]
    inputs[:, 7] += 1e3
    use = visible.copy()
    use[:, 4] = False
    use[::20, 4] = True  # three images for eight inputs
    expected = fit(inputs, landmarks, use, intercept)
    factors = Factors(8, 5, intercept)
    for start in range(0, 60, 7):
        rows = slice(start, start + 7)
        factors.add(inputs[rows], np.where(use[rows, :, None], landmarks[rows], 0), use[rows])
    found = factors.solve()
    np.testing.assert_allclose(found(inputs), expected(inputs), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.coef[:, :4], expected.coef[:, :4], rtol=1e-6, atol=1e-8)


def test_landmarks_are_those_of_the_command(tmp_path: Path) -> None:
    train, test = faces(80), faces(50, seed=1)
    box = np.tile((0.0, 0.0, 30.0, 50.0), (50, 1))
    paths = tmp_path / "train.npz", tmp_path / "test.npz"
    for path, (points, landmarks, visible) in zip(paths, (train, test), strict=True):
        np.savez(path, points=points, landmarks=landmarks, visible=visible, box=box)
    for normaliser, of in (("iod", {}), ("box", {"box": box}), ("image", {"side": 64.0})):
        side = {"side": 64.0} if normaliser == "image" else {}
        told: Any = of_landmarks.score(*paths, normaliser=normaliser, curve=False, **side)
        found = metrics.landmark_error(
            *train[:2],
            *test[:2],
            train_visible=train[2],
            test_visible=test[2],
            normaliser=normaliser,
            **of,
        )
        assert found.value == told["value"]
        assert list(found.interval) == told["interval95"]
        assert (found.unit, found.version) == (told["unit"], told["version"])
        assert found.n == told["n_counted"]


def test_perfect_and_useless_keypoints() -> None:
    points, landmarks, _ = faces(60, hidden=0)
    whole = metrics.landmark_error(landmarks, landmarks, landmarks, landmarks)
    assert whole.value < 1e-10
    useless = metrics.landmark_error(0 * points, landmarks, 0 * points, landmarks, intercept=True)
    shape = np.broadcast_to(landmarks.mean(0), landmarks.shape)
    eyes = np.linalg.norm(landmarks[:, 0] - landmarks[:, 1], axis=-1)
    expected = (np.linalg.norm(landmarks - shape, axis=-1).mean(1) / eyes).mean()
    assert useless.value == pytest.approx(100 * expected, rel=1e-12)


# ---------------------------------------------------------------------------- parts


def labelled(n: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    draw = np.random.default_rng(seed)
    true = draw.integers(0, 5, (n, 6, 5))
    pred = np.where(draw.random(true.shape) < 0.6, true % 3, draw.integers(0, 3, true.shape))
    return np.where(draw.random(true.shape) < 0.1, 255, true), pred


@pytest.mark.parametrize("interval", [True, False])
@pytest.mark.parametrize("k", BATCHES)
def test_parts_in_batches_are_those_of_the_whole(k: int, interval: bool) -> None:
    true, pred = labelled(1200)
    whole = metrics.part_agreement(true, pred, ignore=(0, 255), interval=interval, draws=40)
    ruler = metrics.PartAgreement(5, 3, ignore=(0, 255), interval=interval, draws=40)
    for batch in batches(k, true, pred):
        ruler.update(*batch)
    for one, other in zip(ruler.compute(), whole, strict=True):
        close(one, other)
        assert one == other  # counts are whole numbers
    assert (whole.nmi.interval is None) is not interval


def test_parts_are_those_of_the_command_and_of_scikit_learn(tmp_path: Path) -> None:
    true, pred = labelled(20)
    np.savez(tmp_path / "a.npz", true=true, pred=pred)
    told = of_parts.score(tmp_path / "a.npz", ignore=[255])
    found = metrics.part_agreement(true, pred, ignore=[255])
    for name in ("nmi", "ari", "mean_iou"):
        estimate = getattr(found, name)
        assert estimate.value == told[name]
        assert list(estimate.interval) == told["interval95"][name]
        assert (estimate.n, estimate.version) == (told["images"], told["version"])
    kept = true != 255
    nmi = normalized_mutual_info_score(true[kept], pred[kept])
    assert found.nmi.value == pytest.approx(100 * nmi, rel=1e-12)
    ari = adjusted_rand_score(true[kept], pred[kept])
    assert found.ari.value == pytest.approx(100 * ari, rel=1e-12)
    ceiling = metrics.part_ceiling(true, 3, ignore=[255])
    assert ceiling.nmi == pytest.approx(told["ceiling"]["nmi"], rel=1e-12)
    assert ceiling.ari == pytest.approx(told["ceiling"]["ari"], rel=1e-12)
    assert ceiling.exact


# ---------------------------------------------------------------------------- features


def classes(n: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, n)
    return (draw.normal(size=(n, 6)) + 0.9 * np.eye(6)[labels]).astype(np.float32), labels


@pytest.mark.parametrize("k", BATCHES)
@pytest.mark.parametrize("solver", ["logistic", "svm"])
def test_features_in_batches_are_those_of_the_whole(solver: str, k: int) -> None:
    train, test = classes(120, 0), classes(1050, 1)
    given_settings = {"cs": [0.01, 1.0], "solver": solver}
    whole = metrics.linear_accuracy(*train, *test, **given_settings)
    ruler = metrics.LinearAccuracy(**given_settings)
    for batch in batches(k, *train):
        ruler.fit(*batch)
    for batch in batches(k, *test):
        ruler.update(*batch)
    assert ruler.compute() == whole


def test_features_are_those_of_the_command(tmp_path: Path) -> None:
    train, test = classes(90, 0), classes(60, 1)
    groups = np.arange(60) // 6
    folds = np.arange(90).reshape(2, 45)
    np.savez(tmp_path / "train.npz", features=train[0], labels=train[1], folds=folds)
    np.savez(tmp_path / "test.npz", features=test[0], labels=test[1], groups=groups)
    told = of_linear.score(tmp_path / "train.npz", tmp_path / "test.npz", seed=3)
    found = metrics.linear_accuracy(*train, *test, folds=list(folds), test_groups=groups, seed=3)
    assert found.value == told["value"]
    assert list(found.interval) == told["interval95"]
    assert (found.unit, found.n, found.version) == ("%", 60, told["version"])


# ---------------------------------------------------------------------------- Frechet


@pytest.mark.parametrize(("n", "d"), [(1100, 6), (1100, 1200), (1020, 1019), (5000, 3)])
@pytest.mark.parametrize("k", BATCHES)
def test_frechet_in_batches_is_that_of_the_whole_bit_for_bit(k: int, n: int, d: int) -> None:
    draw = np.random.default_rng(0)
    generated = draw.normal(size=(n, d)).astype(np.float32)
    real = (draw.normal(size=(n + 5, d)) @ np.diag(draw.random(d)) + 0.1).astype(np.float32)
    real[:, 0] = 3.25  # a dead feature
    ruler = metrics.FrechetDistance()
    for (batch,) in batches(k, generated):
        ruler.update(batch, real=False)
    for (batch,) in batches(k, real):
        ruler.update(batch, real=True)
    found = ruler.compute()
    assert found.value == metrics.frechet_distance(generated, real, interval=False).value
    assert found.value == frechet.distance_of_features(generated, real)
    assert found.value > 0


def test_frechet_keeps_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "ROWS", 16)
    ruler = metrics.FrechetDistance()
    draw = np.random.default_rng(0)
    kept = []
    for _ in range(40):
        ruler.update(draw.normal(size=(11, 4)), real=True)
        gathered = ruler._sets[True]
        kept.append(sum(map(len, gathered._few)) + sum(map(len, gathered._rest)))
    assert max(kept) < 16 + 11


def test_frechet_has_the_interval_of_its_outcomes() -> None:
    draw = np.random.default_rng(0)
    generated, real = draw.normal(size=(60, 3)), draw.normal(size=(50, 3)) + 0.5
    found = metrics.frechet_distance(generated, real)
    expected = over_seeds_and_samples(frechet.outcomes(generated, real)[None])
    assert found.interval == (expected.low, expected.high)
    assert found.value == pytest.approx(expected.mean, rel=1e-10)
    assert metrics.frechet_distance(real, real).value < 1e-8


# ---------------------------------------------------------------------------- any input


@settings(max_examples=40)
@given(
    n=st.integers(1, 12),
    k=st.integers(1, 5),
    cuts=st.lists(st.integers(0, 12), max_size=4),
    seed=st.integers(0, 1000),
)
def test_any_batches_of_parts_even_empty_ones(n: int, k: int, cuts: list[int], seed: int) -> None:
    draw = np.random.default_rng(seed)
    true, pred = draw.integers(0, 4, (n, 3)), draw.integers(0, k, (n, 3))
    ruler = metrics.PartAgreement(4, k, ignore=[3], draws=10)
    places = sorted(min(cut, n) for cut in cuts)
    for one, other in zip(np.split(true, places), np.split(pred, places), strict=True):
        ruler.update(torch.from_numpy(one), torch.from_numpy(other))
    if (true == 3).all():
        with pytest.raises(ValueError, match="no label counts"):
            ruler.compute()
        return
    assert ruler.compute() == metrics.part_agreement(true, pred, ignore=[3], draws=10)


@settings(max_examples=40)
@given(
    n=st.integers(2, 14),
    points=st.integers(1, 4),
    cuts=st.lists(st.integers(0, 14), max_size=4),
    seed=st.integers(0, 1000),
)
def test_any_batches_of_landmarks(n: int, points: int, cuts: list[int], seed: int) -> None:
    draw = np.random.default_rng(seed)
    keypoints, landmarks = draw.normal(size=(n, points, 3)), draw.normal(size=(n, 2, 2))
    whole = metrics.landmark_error(keypoints, landmarks, keypoints[::-1], landmarks, intercept=True)
    ruler = metrics.LandmarkError(intercept=True)
    places = sorted(min(cut, n) for cut in cuts)
    for one, other in zip(np.split(keypoints, places), np.split(landmarks, places), strict=True):
        ruler.fit(one, other)
    for one, other in zip(
        np.split(keypoints[::-1], places), np.split(landmarks, places), strict=True
    ):
        ruler.update(one, other)
    found = ruler.compute()
    assert found.value == pytest.approx(whole.value, rel=1e-7)  # some maps are ill-conditioned
    assert found.n == whole.n == n


@settings(max_examples=30)
@given(
    n=st.integers(2, 9),
    d=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 9), max_size=4),
    seed=st.integers(0, 1000),
)
def test_any_batches_of_images(n: int, d: int, cuts: list[int], seed: int) -> None:
    draw = np.random.default_rng(seed)
    generated, real = draw.normal(size=(n, d)), draw.normal(size=(n, d))
    ruler = metrics.FrechetDistance()
    places = sorted(min(cut, n) for cut in cuts)
    for one, other in zip(np.split(generated, places), np.split(real, places), strict=True):
        ruler.update(one, real=False).update(other, real=True)
    assert ruler.compute().value == frechet.distance_of_features(generated, real)


NAN = np.nan
P, L = np.zeros((3, 2, 2)), np.ones((3, 2, 2)) * [[1, 2], [3, 4]]
F, Y = np.random.default_rng(0).normal(size=(6, 2)), np.array([0, 1, 0, 1, 0, 1])
T, HALF = np.zeros((2, 3), int), np.array([[1, 0]] * 3)


def spoilt(values: NDArray[Any], value: float = NAN) -> NDArray[Any]:
    spoilt = values.copy()
    spoilt[1] = value
    return spoilt


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "points NaN": (
        lambda: metrics.landmark_error(spoilt(P), L, P, L),
        r"train_points: row 1, keypoint 0 is \[nan, nan\]; give finite numbers",
    ),
    "landmarks NaN": (
        lambda: metrics.landmark_error(P, L, P, spoilt(L)),
        r"test_landmarks: row 1 has landmark 0 at \[nan, nan\]; mark it as invisible",
    ),
    "landmarks shape": (
        lambda: metrics.landmark_error(P, L[..., 0], P, L),
        r"train_landmarks have shape \[3, 2\]; expected \[N, L, 2\]",
    ),
    "points shape": (
        lambda: metrics.landmark_error(P, L, P[:2], L),
        r"test_points have shape \[2, 2, 2\]; expected \[3, K, values\]",
    ),
    "other keypoints": (
        lambda: metrics.landmark_error(P, L, np.zeros((3, 5, 2)), L),
        r"points and landmarks of an image have shapes \[5, 2\] and \[2, 2\], those before \[2, 2",
    ),
    "visible": (
        lambda: metrics.landmark_error(P, L, P, L, test_visible=2 * np.ones((3, 2))),
        "test_visible holds other values than true and false",
    ),
    "unseen": (
        lambda: metrics.landmark_error(P, L, P, L, train_visible=HALF),
        "train_landmarks: landmark 1 is visible in no image that counts",
    ),
    "huge": (
        lambda: metrics.landmark_error(P + 1e200, L, P, L),
        "train_points holds values beyond",
    ),
    "one point": (
        lambda: metrics.landmark_error(P, 0 * L, P, 0 * L),
        r"test_landmarks: row 0 has both eyes at",
    ),
    "eyes": (
        lambda: metrics.landmark_error(P, L, P, L, eyes=(0, 7)),
        "the eyes are landmarks 0 an",
    ),
    "same eyes": (lambda: metrics.LandmarkError(eyes=(1, 1)), r"eyes are \(1, 1\)"),
    "side": (lambda: metrics.LandmarkError(side=3), "`side` is for the normaliser 'image'"),
    "no side": (lambda: metrics.LandmarkError(normaliser="image"), "which needs it"),
    "normaliser": (lambda: metrics.LandmarkError(normaliser="nose"), "give one of iod, box, image"),
    "no box": (
        lambda: metrics.landmark_error(P, L, P, L, normaliser="box"),
        "`box` is for the normaliser 'box', which needs it",
    ),
    "text": (
        lambda: metrics.landmark_error([["a"]], L, P, L),
        "train_points is <U1; give an array",
    ),
    "ragged": (lambda: metrics.landmark_error([[1], [1, 2]], L, P, L), "train_points is object"),
    "update first": (lambda: metrics.LandmarkError().update(P, L), "`update` before `fit`"),
    "fit last": (
        lambda: metrics.LandmarkError().fit(P, L).update(P, L).fit(P, L),
        "`fit` after `update`",
    ),
    "never seen": (
        lambda: metrics.LandmarkError().fit(P, L, HALF).update(P, L),
        "landmark 1 is visible in no training image",
    ),
    "nothing": (lambda: metrics.LandmarkError().compute(), "no image counts"),
    "label NaN": (
        lambda: metrics.part_agreement(T + NAN, T),
        "true is float64; labels must be int",
    ),
    "label shape": (
        lambda: metrics.part_agreement(T, T[:1]),
        r"true has shape \[2, 3\], pred \[1, 3\]",
    ),
    "no labels": (lambda: metrics.part_agreement(T[:0], T[:0]), "nothing to count"),
    "all ignored": (lambda: metrics.part_agreement(T, T, ignore=[0]), "no label counts"),
    "part": (
        lambda: metrics.PartAgreement(2, 2).update(T, T + 2),
        "pred has the label 2, but there",
    ),
    "true": (lambda: metrics.PartAgreement(2, 2).update(T - 1, T), "true has the label -1, but"),
    "flat": (lambda: metrics.PartAgreement(2, 2).update(T[0], T[0]), r"expected \[images, ...\]"),
    "no parts": (lambda: metrics.PartAgreement(2, 0), "give at least one of each"),
    "ceiling": (lambda: metrics.part_ceiling(T, 0), "into 0 groups"),
    "no ceiling": (lambda: metrics.part_ceiling(T, 2, ignore=[0]), "no label counts"),
    "features NaN": (
        lambda: metrics.linear_accuracy(F, Y, spoilt(F), Y),
        r"test_features: .*row 1",
    ),
    "features shape": (
        lambda: metrics.linear_accuracy(F[:, 0], Y, F, Y),
        r"train_features: expected numbers of shape \[samples, features\]",
    ),
    "labels": (
        lambda: metrics.linear_accuracy(F, Y + 0.5, F, Y),
        "train_labels: float64, but class",
    ),
    "fewer labels": (lambda: metrics.linear_accuracy(F, Y[:3], F, Y), r"train_labels: shape \[3\]"),
    "one class": (lambda: metrics.linear_accuracy(F, 0 * Y, F, Y), "only the class 0"),
    "setting": (lambda: metrics.LinearAccuracy(sc=[1]), "unknown key 'sc'; did you mean"),
    "widths": (
        lambda: metrics.LinearAccuracy().fit(F, Y).update(F[:, :1], Y),
        "features have 1 values a sample, those before 2",
    ),
    "no samples": (lambda: metrics.LinearAccuracy().fit(F, Y).compute(), "there are no samples"),
    "groups": (lambda: metrics.linear_accuracy(F, Y, F, Y, train_groups=Y), "for solver='svm'"),
    "images NaN": (lambda: metrics.frechet_distance(F, spoilt(F, np.inf)), "real: .*row 1"),
    "one image": (lambda: metrics.frechet_distance(F[:1], F), "generated: a covariance needs two"),
    "other features": (lambda: metrics.frechet_distance(F, F[:, :1]), "sets of 2 and 1 features"),
    "one of a set": (
        lambda: metrics.FrechetDistance().update(F, real=True).compute(),
        "there are 0 generated and 6 real ones",
    ),
    "later features": (
        lambda: metrics.FrechetDistance().update(F, real=True).update(F[:, :1], real=False),
        "sets of 1 and 2 features",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_a_value_error_that_says_what(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_ruler_can_start_again() -> None:
    ruler: Any
    for ruler in (metrics.LandmarkError(), metrics.LinearAccuracy(cs=[1.0])):
        ruler.fit(L, L) if isinstance(ruler, metrics.LandmarkError) else ruler.fit(F, Y)
        ruler.reset()
        with pytest.raises(ValueError, match="no"):
            ruler.compute()
    parts = metrics.PartAgreement(1, 1, interval=False).update(T, T)
    parts.reset()
    with pytest.raises(ValueError, match="no label counts"):
        parts.compute()


def test_tensors_of_any_kind() -> None:
    points, landmarks, visible = faces(30)
    expected = metrics.landmark_error(points, landmarks, points, landmarks, test_visible=visible)
    tensors = (torch.tensor(points, requires_grad=True), torch.tensor(landmarks))
    assert (
        metrics.landmark_error(*tensors, *tensors, test_visible=torch.tensor(visible)) == expected
    )
    assert array(torch.ones(2, dtype=torch.bfloat16), "a").dtype == np.float32


# ---------------------------------------------------------------------------- the import


def test_importing_them_is_cheap_and_asks_for_nothing() -> None:
    program = (
        "import sys, partbench.metrics as m\n"
        "loaded = [n for n in ('torch', 'scipy', 'sklearn', 'pandas', 'PIL') if n in sys.modules]\n"
        "assert not loaded, loaded\n"
        "assert set(m.RULERS) <= set(dir(m))\n"
        "from partbench.metrics import part_agreement, landmarks\n"
        "assert part_agreement([[0, 1]], [[1, 0]]).nmi.value == 100\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_ruler_is_there_and_documented() -> None:
    for name in metrics.RULERS:
        ruler = getattr(metrics, name)
        assert ruler.__name__ == name
        assert len(ruler.__doc__) > 100
    with pytest.raises(AttributeError, match="no attribute 'landmark_eror'"):
        _ = metrics.landmark_eror
