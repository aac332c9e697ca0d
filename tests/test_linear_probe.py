"""The linear probe: the optimum against scikit-learn, the protocol, and what it refuses."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from partbench.errors import BadInput
from partbench.metrics.accuracy import label_ranks, wilson_interval
from partbench.metrics.held_out import draw_held_out
from partbench.metrics.logistic import LogisticModels, fit_logistic
from partbench.probes import linear
from partbench.probes.linear import LinearSettings, linear_probe
from partbench.score.linear import load_features, score

CS = (1e-4, 1e-2, 1.0, 100.0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):  # these products are too small for more
        yield


def make(
    n: int, d: int, n_classes: int, seed: int = 0, signal: float = 0.5
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Correlated features with unequal scales and offsets, and overlapping classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    latent = rng.normal(size=(n, 8)) + signal * rng.normal(size=(n_classes, 8))[labels]
    features = latent @ rng.normal(size=(8, d)) + rng.normal(size=(n, d))
    return features * rng.uniform(0.5, 2, d) + rng.normal(size=d), labels


def reference(x: NDArray, y: NDArray, c: float) -> LogisticRegression:
    model = LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=10_000)
    return model.fit(x.astype(np.float64), y)


def sklearn_layout(models: LogisticModels, i: int) -> NDArray[np.float64]:
    """Return coefficients and intercepts of C number i as scikit-learn lays them out."""
    both = np.column_stack([models.coef[i], models.intercept[i]])
    return both[1:] - both[:1] if len(both) == 2 else both


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize(("n", "d"), [(150, 20), (60, 200), (50, 50)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_scikit_learn(n: int, d: int, n_classes: int, dtype: type) -> None:
    x, y = make(n, d, n_classes)
    x = x.astype(dtype)
    models = fit_logistic(x, y, CS)
    scores = models.scores(x)
    for i, c in enumerate(CS):
        expected = reference(x, y, c)
        theirs = np.column_stack([expected.coef_, expected.intercept_])
        error = np.linalg.norm(sklearn_layout(models, i) - theirs)
        assert error <= 1e-4 * np.linalg.norm(theirs)
        np.testing.assert_array_equal(models.classes[scores[i].argmax(1)], expected.predict(x))


@pytest.mark.parametrize(("n", "d"), [(150, 20), (60, 200)])
def test_standardized_fit_equals_scikit_learns_on_standardized_features(n: int, d: int) -> None:
    x, y = make(n, d, 4)
    x[:, 3] = 0.1  # constant: its mean is not exactly 0.1
    models = fit_logistic(x, y, CS, standardize=True)
    scaled = StandardScaler().fit_transform(x)
    for i, c in enumerate(CS):
        expected = reference(scaled, y, c)
        np.testing.assert_allclose(
            models.scores(x)[i], expected.decision_function(scaled), atol=1e-4
        )
    assert np.abs(models.coef[:, :, 3]).max() == pytest.approx(0, abs=1e-12)


def test_stopping_rule_bounds_the_error() -> None:
    x, y = make(80, 300, 5)
    exact = fit_logistic(x, y, CS, tolerance=1e-11).coef
    for tolerance in (1e-1, 1e-3, 1e-5):
        error = fit_logistic(x, y, CS, tolerance=tolerance).coef - exact
        relative = np.linalg.norm(error, axis=(1, 2)) / np.linalg.norm(exact, axis=(1, 2))
        assert relative.max() <= tolerance * 1.01


def test_labels_that_depend_on_nothing_give_zero_weights() -> None:
    x = np.random.default_rng(0).normal(size=(30, 40))
    models = fit_logistic(np.concatenate([x, x]), np.repeat([0, 1], 30), CS)
    np.testing.assert_allclose(models.coef, 0, atol=1e-9)


def test_large_c_without_separation_converges() -> None:
    x, _ = make(2000, 30, 4)
    y = np.random.default_rng(1).integers(4, size=2000)
    models = fit_logistic(x, y, (1e4,))
    expected = reference(x, y, 1e4)
    np.testing.assert_allclose(models.coef[0], expected.coef_, atol=1e-5)


def test_large_c_with_separation_converges() -> None:
    # The objective's rounding errors exceed the last steps' gain here.
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=300)
    x = rng.normal(size=(300, 1)) + 11 * y[:, None]
    c = 1e6
    models = fit_logistic(x, y, (c,))
    weight, intercept = sklearn_layout(models, 0)[0]
    residual = 1 / (1 + np.exp(-(x[:, 0] * weight + intercept))) - y
    assert abs(weight + c * residual @ (x[:, 0] - x.mean())) <= 1e-4 * weight
    assert abs(c * residual.sum()) <= 1e-4 * weight


def test_too_few_steps_are_an_error() -> None:
    x, y = make(60, 20, 3)
    with pytest.raises(BadInput, match=r"C = 1, 100 has not converged after 3"):
        fit_logistic(x, y, (1e-6, 1.0, 100.0), max_steps=3)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), n_classes=st.integers(2, 5), wide=st.booleans())
def test_rotated_features_give_rotated_weights(seed: int, n_classes: int, wide: bool) -> None:
    n, d = (25, 40) if wide else (60, 12)
    x, y = make(n, d, n_classes, seed)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))
    plain, rotated = fit_logistic(x, y, CS), fit_logistic(x @ rotation, y, CS)
    for before, after in zip(plain.coef, rotated.coef, strict=True):
        error = np.linalg.norm(before @ rotation - after)
        assert error <= 1e-4 * np.linalg.norm(before) + 1e-9


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), copies=st.integers(2, 3))
def test_order_and_copies_of_samples(seed: int, copies: int) -> None:
    x, y = make(30, 35, 3, seed)
    order = np.random.default_rng(seed).permutation(np.tile(np.arange(30), copies))
    once = fit_logistic(x, y, CS)
    # Copies make the problem tall, and weigh the loss `copies` times.
    often = fit_logistic(x[order], y[order], [c / copies for c in CS])
    for before, after in zip(once.coef, often.coef, strict=True):
        assert np.linalg.norm(before - after) <= 1e-4 * np.linalg.norm(before) + 1e-9


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    for n, d in ((60, 20), (20, 60)):
        x, y = make(n, d, 3)
        whole = fit_logistic(x, y, CS, standardize=True, tolerance=1e-10)
        with monkeypatch.context() as patch:
            patch.setattr("partbench.metrics.feature_blocks._BLOCK", 7 * 20)
            parts = fit_logistic(x, y, CS, standardize=True, tolerance=1e-10)
            np.testing.assert_allclose(parts.scores(x), whole.scores(x), rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------------------- accuracy


def test_label_ranks() -> None:
    scores = np.array([[3.0, 1, 2], [1, 1, 1], [0, 0, 5], [9, 8, 7]])
    labels = np.array([20, 10, 20, 15])  # 15 is not a class
    np.testing.assert_array_equal(label_ranks(scores, labels, np.array([10, 20, 30])), [2, 0, 2, 3])


def test_wilson_interval() -> None:
    # R: prop.test(81, 263, correct = FALSE)$conf.int (Newcombe, Stat. Med. 17, 1998, table I)
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


# ---------------------------------------------------------------------------- protocol


def split(
    n_classes: int = 4, signal: float = 0.5, d: int = 60
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    x, y = make(400, d, n_classes, signal=signal)
    return x[:200], y[:200], x[200:], y[200:]


def test_perfect_features_score_everything() -> None:
    y = np.arange(300) % 10
    result = linear_probe(np.eye(10)[y[:200]], y[:200], np.eye(10)[y[200:]], y[200:])
    assert result.mean == 1
    assert result.top5 is not None
    assert result.top5.tolist() == [1]
    assert result.correct.all()


def test_random_labels_score_chance() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2200, 30))
    y = rng.integers(10, size=2200)
    result = linear_probe(x[:200], y[:200], x[200:], y[200:])
    assert result.mean == pytest.approx(0.1, abs=0.027)  # four standard errors
    assert result.top5 is not None
    assert result.top5[0] == pytest.approx(0.5, abs=0.045)


def test_outcome_is_that_of_scikit_learn_at_the_chosen_c() -> None:
    train, y, test, y_test = split()
    result = linear_probe(train, y, test, y_test)
    scaler = StandardScaler().fit(train)
    model = reference(scaler.transform(train), y, result.chosen_c[0])
    np.testing.assert_array_equal(
        result.correct[0], model.predict(scaler.transform(test)) == y_test
    )
    assert 0.3 < result.mean < 1
    assert result.accuracy[0] == result.correct.mean()
    assert result.top5 is None
    assert result.sd is None


def test_held_out_accuracy_is_that_of_scikit_learn() -> None:
    train, y, test, y_test = split()
    result = linear_probe(train, y, test, y_test)
    held = draw_held_out(y, 0.2, np.random.default_rng(0))
    assert np.bincount(y[held]).tolist() == [10] * 4
    scaled = StandardScaler().fit_transform(train)
    models = [reference(scaled[~held], y[~held], c) for c in result.cs]
    expected = [model.score(scaled[held], y[held]) for model in models]
    np.testing.assert_allclose(result.held_out_accuracy[0], expected)
    assert max(expected) == expected[result.cs.index(result.chosen_c[0])]


def test_ties_go_to_lower_log_loss_then_smaller_c(monkeypatch: pytest.MonkeyPatch) -> None:
    data = split()
    chosen = LinearSettings(cs=(10.0, 1.0, 0.1))
    for losses, expected in (((0.3, 0.2, 0.3), 1.0), ((0.2, 0.2, 0.2), 0.1)):
        held_out = (np.full(3, 0.5), np.array(losses))
        monkeypatch.setattr(linear, "_held_out_scores", lambda *_, h=held_out: h)
        result = linear_probe(*data, settings=chosen)
        assert result.chosen_c.tolist() == [expected]
        assert result.c_on_border.tolist() == [expected == 0.1]


def test_test_data_never_choose_c() -> None:
    train, y, test, y_test = split()
    before = linear_probe(train, y, test, y_test)
    after = linear_probe(train, y, 5 * test[::-1] + 1, (y_test + 1) % 4)
    assert after.chosen_c.tolist() == before.chosen_c.tolist()
    np.testing.assert_array_equal(after.held_out_accuracy, before.held_out_accuracy)
    assert after.mean != before.mean


def test_folds_are_separate_runs() -> None:
    train, y, test, y_test = split(n_classes=10)
    rng = np.random.default_rng(0)
    folds = np.stack([rng.permutation(200)[:90] for _ in range(3)])
    together = linear_probe(train, y, test, y_test, folds, seed=5)
    alone = [linear_probe(train[f], y[f], test, y_test, seed=5) for f in folds]
    np.testing.assert_array_equal(together.correct, np.concatenate([r.correct for r in alone]))
    assert together.chosen_c.tolist() == [r.chosen_c[0] for r in alone]
    assert together.mean == pytest.approx(np.mean([r.mean for r in alone]))
    assert together.sd == pytest.approx(np.std([r.mean for r in alone], ddof=1))
    assert together.n_train.tolist() == [90] * 3


def test_held_out_draw_follows_the_seed() -> None:
    codes = np.repeat([0, 1, 2], [50, 3, 1])
    draws = [draw_held_out(codes, 0.2, np.random.default_rng(s)) for s in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    assert np.bincount(codes[draws[0]], minlength=3).tolist() == [10, 1, 0]


def test_a_leak_between_samples_of_a_group_does_not_choose_c() -> None:
    """Near copies in a group are held out together, so they do not show what they have taught."""
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    labels = groups % 2
    films = draw.normal(size=(40, 200)) + 0.3 * (np.arange(40) % 2)[:, None]
    x = films[groups] + 0.01 * draw.normal(size=(200, 200))
    blind = linear_probe(x, labels, x, labels)
    aware = linear_probe(x, labels, x, labels, groups=groups)
    assert blind.held_out_accuracy.max() == 1
    assert aware.held_out_accuracy.max() < 1
    held = draw_held_out(labels, 0.2, np.random.default_rng(0), groups)
    assert not np.intersect1d(groups[held], groups[~held]).size
    scaled = StandardScaler().fit_transform(x)
    expected = [
        reference(scaled[~held], labels[~held], c).score(scaled[held], labels[held])
        for c in aware.cs
    ]
    np.testing.assert_allclose(aware.held_out_accuracy[0], expected)
    folds = [np.arange(0, 200, 2), np.arange(50, 150)]
    both = linear_probe(x, labels, x, labels, folds, groups=groups)
    for fold, found in zip(folds, both.held_out_accuracy, strict=True):
        alone = linear_probe(x[fold], labels[fold], x, labels, groups=groups[fold])
        np.testing.assert_array_equal(found, alone.held_out_accuracy[0])
    with pytest.raises(BadInput, match="every class has a single group"):
        linear_probe(x, labels, x, labels, groups=labels)


def test_memory_map_equals_array(tmp_path: Path) -> None:
    train, y, test, y_test = split()
    maps = []
    for name, x in (("train", train), ("test", test)):
        np.save(tmp_path / f"{name}.npy", x.astype(np.float32))
        maps.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    from_maps = linear_probe(maps[0], y, maps[1], y_test)
    from_arrays = linear_probe(train.astype(np.float32), y, test.astype(np.float32), y_test)
    np.testing.assert_array_equal(from_maps.correct, from_arrays.correct)
    np.testing.assert_array_equal(from_maps.held_out_accuracy, from_arrays.held_out_accuracy)


def test_test_samples_of_an_unseen_class_are_wrong() -> None:
    train, y, test, y_test = split()
    kept = y != 3
    result = linear_probe(train[kept], y[kept], test, y_test)
    assert not result.correct[0, y_test == 3].any()
    assert result.correct[0, y_test != 3].any()


# ---------------------------------------------------------------------------- bad input


def with_nan(x: NDArray) -> NDArray:
    x = x.copy()
    x[7, 2] = np.nan
    return x


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": lambda x: x[0]}, "training features: expected numbers of shape"),
        ({"train": lambda x: x.astype(str)}, "training features: expected numbers"),
        ({"train": lambda x: x[:0], "y": lambda y: y[:0]}, "training features: empty"),
        ({"train": with_nan}, "training features: row 7 holds nan"),
        ({"test": with_nan}, "test features: row 7 holds nan"),
        ({"train": np.ones_like}, "features are constant"),
        ({"test": lambda x: x[:, :5]}, "60 values per sample, test features 5"),
        ({"y": lambda y: y[:-1]}, "training labels: shape"),
        ({"y": lambda y: y / 2}, "training labels: float64"),
        ({"y_test": lambda y: y.astype(str)}, "test labels: <U"),
        ({"y": np.zeros_like}, "training samples: only the class 0"),
        ({"y": lambda y: np.arange(len(y))}, "every class has a single sample"),
    ],
)
def test_bad_arrays(changes: dict, message: str) -> None:
    data = dict(zip(("train", "y", "test", "y_test"), split(), strict=True))
    for key, change in changes.items():
        data[key] = change(data[key])
    with pytest.raises(BadInput, match=message):
        linear_probe(*data.values())


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        (np.zeros((0, 5), int), "empty"),
        (np.array([[0, 1], [2, 200]]), "fold 1 holds the index 200"),
        (np.array([[0, -1]]), "fold 0 holds the index -1"),
        (np.array([[0, 1, 1]]), "an index twice"),
        (np.array([[0.0, 1.0]]), "fold 0 is float64"),
        (np.array([[0, 4, 8]]), "fold 0: only the class 0"),
    ],
)
def test_bad_folds(folds: NDArray, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        linear_probe(*split(), folds=folds)


@pytest.mark.parametrize("cs", [(), (0.0,), (-1.0, 1.0), (np.inf,), (np.nan,)])
def test_bad_cs(cs: tuple[float, ...]) -> None:
    x, y = make(20, 5, 2)
    with pytest.raises(BadInput, match="cs"):
        fit_logistic(x, y, cs)
    with pytest.raises(BadInput, match="cs"):
        LinearSettings.parse({"cs": cs}, "here")


def test_fit_refuses_a_single_class_and_other_features() -> None:
    x, y = make(20, 5, 2)
    with pytest.raises(BadInput, match="only one class"):
        fit_logistic(x, np.zeros_like(y), CS)
    with pytest.raises(BadInput, match="row 7 holds nan"):
        fit_logistic(with_nan(x), y, CS)
    with pytest.raises(BadInput, match="4 per sample, but the training features have 5"):
        fit_logistic(x, y, CS).scores(x[:, :4])


# ---------------------------------------------------------------------------- files


def write(tmp_path: Path, name: str = "f.npz", **arrays: NDArray) -> Path:
    np.savez(tmp_path / name, **arrays)
    return tmp_path / name


def test_score(tmp_path: Path) -> None:
    train, y, test, y_test = split(n_classes=10)
    folds = np.stack([np.arange(100), np.arange(100, 200)])
    result = score(
        write(tmp_path, "train.npz", features=train, labels=y, folds=folds),
        write(tmp_path, "test.npz", features=test, labels=y_test),
        seed=3,
    )
    expected = linear_probe(train, y, test, y_test, folds, seed=3)
    assert json.loads(json.dumps(result)) == result
    assert result["value"] == pytest.approx(100 * expected.mean)
    assert result["per_fold"] == pytest.approx(100 * expected.accuracy)
    assert result["interval95"][0] < result["value"] < result["interval95"][1]
    assert result["n_test"] == 200
    assert result["version"] == linear.VERSION


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"feature": np.ones((3, 2)), "labels": np.arange(3)}, "did you mean 'features'"),
        ({"features": np.ones((3, 2))}, "no array named labels"),
        ({"features": np.ones(3), "labels": np.arange(3)}, r"f.npz: features: .* shape \[3\]"),
        (
            {"features": np.array([[1, 2], [3, np.nan]]), "labels": np.arange(2)},
            "f.npz: features: row 1 holds nan",
        ),
        ({"features": np.ones((3, 2)), "labels": np.arange(4)}, "f.npz: labels: shape"),
        ({"features": np.ones((3, 2)), "labels": np.ones(3)}, "f.npz: labels: float64"),
        ({"features": np.ones((3, 2), object), "labels": np.arange(3)}, "Python objects"),
        (
            {"features": np.ones((3, 2)), "labels": np.arange(3), "folds": np.array([[0, 3]])},
            "folds: fold 0 holds the index 3",
        ),
        (
            {"features": np.ones((3, 2)), "labels": np.arange(3), "folds": np.array([0, 1])},
            r"folds has shape \[2\]",
        ),
    ],
)
def test_bad_files(tmp_path: Path, arrays: dict[str, NDArray], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_features(write(tmp_path, **arrays))


def test_files_that_are_not_npz(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        load_features(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("features")
    with pytest.raises(BadInput, match="not an npz file"):
        load_features(tmp_path / "text.npz")
    (tmp_path / "empty.npz").touch()
    with pytest.raises(BadInput, match="not an npz file"):
        load_features(tmp_path / "empty.npz")
    np.save(tmp_path / "single.npy", np.ones(3))
    with pytest.raises(BadInput, match="single npy array"):
        load_features(tmp_path / "single.npy")
    path = write(tmp_path, features=np.ones((3, 2)), labels=np.arange(3))
    with pytest.raises(BadInput, match="no array named folds"):
        load_features(path, need_folds=True)
    damaged = bytearray(path.read_bytes())
    damaged[150] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(BadInput, match="cannot read the array"):
        load_features(path)
