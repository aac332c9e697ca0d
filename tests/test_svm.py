"""Support vector machines: the optimum against scikit-learn, the protocol, and what it refuses."""

import json
import re
import tracemalloc
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from partbench.cli import main
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.data.reader import Reader, Sample
from partbench.errors import BadInput
from partbench.integrity import write_checksums
from partbench.metrics import svm
from partbench.metrics.held_out import draw_held_out
from partbench.metrics.intervals import by_group, over_seeds_and_samples
from partbench.metrics.svm import GAP, Loss, fit_svm, gram, solve
from partbench.names import version_of
from partbench.probe import GROUP_COLUMN, measure, read_cell
from partbench.probes.linear import Linear, LinearSetting, LinearSettings, svm_of
from partbench.probes.svm import SvmResult
from partbench.run import Run, Runtime

LOSSES: tuple[Loss, ...] = ("hinge", "squared hinge")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):  # these products are too small for more
        yield


def make(
    n: int, d: int, n_classes: int, seed: int = 0, signal: float = 0.5
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Overlapping classes in correlated features far from the origin."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes)
    latent = rng.normal(size=(n, 8)) + signal * rng.normal(size=(n_classes, 8))[labels]
    features = latent @ rng.normal(size=(8, d)) + rng.normal(size=(n, d))
    features = features / np.linalg.norm(features, axis=1, keepdims=True) + rng.normal(size=d)
    return features.astype(np.float32), labels


def objectives(
    x: NDArray, y: NDArray, coef: NDArray, intercept: NDArray, c: float, loss: Loss
) -> NDArray[np.float64]:
    """Return the objective of each class in feature space, [K]."""
    sign = np.where(y[:, None] == np.arange(len(coef)), 1, -1)
    below = np.maximum(1 - sign * (x.astype(np.float64) @ coef.T + intercept), 0)
    losses = below if loss == "hinge" else below**2
    return np.asarray((coef**2).sum(1) / 2 + c * losses.sum(0), np.float64)


def reference(
    x: NDArray, y: NDArray, c: float, loss: Loss
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return coefficients [K, D] and intercepts [K] of LIBLINEAR, its intercept almost free."""
    scaling, mean = 10.0, x.mean(0, dtype=np.float64)
    model = LinearSVC(
        C=c,
        loss="hinge" if loss == "hinge" else "squared_hinge",
        dual=loss == "hinge",
        intercept_scaling=scaling,
        tol=1e-6,
        max_iter=200_000,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the objective says how near it came
        model.fit(x - mean, y)
    coef, intercept = model.coef_, model.intercept_
    if len(coef) == 1:
        coef, intercept = np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])
    return coef, intercept - coef @ mean


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize(("n", "d"), [(140, 15), (60, 150), (50, 50)])
@pytest.mark.parametrize("loss", LOSSES)
def test_equals_scikit_learn(n: int, d: int, n_classes: int, loss: Loss) -> None:
    x, y = make(n, d, n_classes)
    cs = (0.1, 1.0, 10.0)
    models = fit_svm(x, y, cs, loss)
    for i, c in enumerate(cs):
        ours = objectives(x, y, models.coef[i], models.intercept[i], c, loss)
        np.testing.assert_allclose(ours, models.objective[i], rtol=1e-6)
        coef, intercept = reference(x, y, c, loss)
        theirs = objectives(x, y, coef, intercept, c, loss)
        # Neither is below the minimum: ours is at most the gap above it.
        assert (ours <= theirs * (1 + GAP)).all()
        assert (theirs <= ours * (1 + 2e-3)).all()
        if loss == "squared hinge":  # strictly convex in what it predicts
            np.testing.assert_allclose(
                models.scores(x)[i], x.astype(np.float64) @ coef.T + intercept, atol=0.03
            )


@pytest.mark.parametrize("loss", LOSSES)
def test_accuracy_is_scikit_learns_to_a_tenth_of_a_point(loss: Loss) -> None:
    x, y = make(20_600, 400, 5, signal=1.5)
    held, truth, x, y = x[600:], y[600:], x[:600], y[:600]
    coef, intercept = reference(x, y, 1.0, loss)
    theirs = (held @ coef.T.astype(np.float32) + intercept).argmax(1) == truth
    ours = fit_svm(x, y, [1.0], loss).scores(held)[0].argmax(1) == truth
    assert 0.5 < theirs.mean() < 0.95
    assert abs(ours.mean() - theirs.mean()) <= 0.001


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("c", [1e-5, 1.0, 100.0])
def test_the_gap_bounds_the_distance_to_the_minimum(loss: Loss, c: float) -> None:
    """No step in any of many directions leads below the objective less the gap."""
    x, y = make(60, 90, 3)
    models = fit_svm(x, y, [c], loss)
    assert (models.gap >= -1e-9).all()
    assert (models.gap <= GAP).all()
    best = objectives(x, y, models.coef[0], models.intercept[0], c, loss)
    draw = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        scale = size * np.linalg.norm(models.coef[0], axis=1).mean() / np.sqrt(90)
        for _ in range(20):
            coef = models.coef[0] + scale * draw.normal(size=models.coef[0].shape)
            intercept = models.intercept[0] + size * draw.normal(size=3)
            value = objectives(x, y, coef, intercept, c, loss)
            assert (value >= best * (1 - models.gap[0]) - 1e-12).all()


def test_a_machine_by_hand() -> None:
    """One feature, two samples at -1 and 3: the widest margin is w = 1/2, b = -1/2."""
    x, y = np.array([[-1.0], [3.0]]), np.array([0, 1])
    models = fit_svm(x, y, [100.0])
    np.testing.assert_allclose(models.coef[0], [[-0.5], [0.5]], atol=1e-3)
    np.testing.assert_allclose(models.intercept[0], [0.5, -0.5], atol=1e-3)
    assert models.objective[0] == pytest.approx([0.125, 0.125], rel=1e-3)


def test_a_small_c_limits_alpha() -> None:
    """With C = 0.01, both alphas are at C: w = 0.01 (3 + 1)."""
    models = fit_svm(np.array([[-1.0], [3.0]]), np.array([0, 1]), [0.01])
    np.testing.assert_allclose(models.coef[0], [[-0.04], [0.04]], rtol=1e-6)
    # The squared hinge: alpha = 2 C t, t = 1 - 4 alpha / 2 * 4 / 2 ...; both margins are equal.
    squared = fit_svm(np.array([[-1.0], [3.0]]), np.array([0, 1]), [0.01], "squared hinge")
    alpha = 2 / (16 + 2 / (2 * 0.01))  # of each; maximises 2 a - (4 a)^2 / 2 - a^2 / (2 C)
    np.testing.assert_allclose(squared.coef[0], [[-4 * alpha], [4 * alpha]], rtol=1e-4)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_classes=st.integers(2, 5),
    wide=st.booleans(),
    loss=st.sampled_from(LOSSES),
)
def test_rotated_and_moved_features(seed: int, n_classes: int, wide: bool, loss: Loss) -> None:
    n, d = (25, 40) if wide else (60, 12)
    x, y = make(n, d, n_classes, seed)
    draw = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(draw.normal(size=(d, d)))
    plain = fit_svm(x, y, [1.0], loss)
    moved = fit_svm(x @ rotation + draw.normal(size=d), y, [1.0], loss)
    np.testing.assert_allclose(moved.objective, plain.objective, rtol=2 * GAP)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), loss=st.sampled_from(LOSSES))
def test_order_and_copies_of_samples(seed: int, loss: Loss) -> None:
    x, y = make(30, 35, 3, seed)
    order = np.random.default_rng(seed).permutation(np.tile(np.arange(30), 2))
    once = fit_svm(x, y, [1.0], loss)
    twice = fit_svm(x[order], y[order], [0.5], loss)
    np.testing.assert_allclose(twice.objective, once.objective, rtol=2 * GAP)


def test_blocks_and_memory_maps_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    x, y = make(40, 300, 3)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for standardize in (False, True):
        whole = gram(x, standardize)
        expected = x - x.mean(0, dtype=np.float64)
        if standardize:
            expected /= expected.std(0)
        np.testing.assert_allclose(whole.products, expected @ expected.T, rtol=1e-9, atol=1e-9)
        with monkeypatch.context() as patch:
            patch.setattr(svm, "_BLOCK", 7 * 40)
            parts = gram(mapped, standardize)
            np.testing.assert_allclose(parts.products, whole.products, rtol=1e-9, atol=1e-9)
            models = fit_svm(mapped, y, [1.0], standardize=standardize)
        again = fit_svm(x, y, [1.0], standardize=standardize)
        np.testing.assert_allclose(models.scores(mapped), again.scores(x), atol=1e-3)
        machines = solve(whole.products, y, 3, 1.0)
        np.testing.assert_allclose(
            machines.scores(whole.products), again.scores(x)[0], rtol=1e-6, atol=1e-6
        )


def test_many_features_are_never_held_as_float64(tmp_path: Path) -> None:
    """At 300 x 60,000, float64 features would take 144 MB; blocks of 3 MB are allowed."""
    shape = (300, 60_000)
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, shape)
    draw = np.random.default_rng(0)
    for start in range(0, shape[0], 50):
        array[start : start + 50] = draw.standard_normal((50, shape[1]), np.float32)
    labels = np.arange(300) % 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svm, "_BLOCK", 400_000)
        tracemalloc.start()
        models = fit_svm(array, labels, [1.0])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert models.coef.nbytes < 2e6
    assert peak < 40e6


def test_fits_repeat_bit_for_bit() -> None:
    x, y = make(80, 200, 4)
    first, second = (fit_svm(x, y, [1.0, 100.0], "squared hinge") for _ in range(2))
    np.testing.assert_array_equal(first.coef, second.coef)
    np.testing.assert_array_equal(first.intercept, second.intercept)


# ---------------------------------------------------------------------------- what it refuses


def test_features_without_use() -> None:
    y = np.arange(20) % 2
    for value in (0.0, 0.1, 1e6 / 3):
        with pytest.raises(BadInput, match=r"all 3 features are constant over the 20 samples"):
            fit_svm(np.full((20, 3), value), y, [1.0])
    with pytest.raises(BadInput, match=r"only one class \(4\)"):
        fit_svm(make(20, 3, 2)[0], np.full(20, 4), [1.0])
    x = make(20, 3, 2)[0]
    x[7, 1] = np.nan
    with pytest.raises(BadInput, match=r"row 7 holds nan \(feature 1\)"):
        fit_svm(x, y, [1.0])
    for cs in ([], [0.0], [-1.0], [np.inf], [np.nan]):
        with pytest.raises(BadInput, match=r"each positive and finite"):
            fit_svm(make(20, 3, 2)[0], y, cs)


def test_a_constant_feature_beside_others() -> None:
    x, y = make(40, 10, 2)
    wider = np.concatenate([x, np.full((40, 1), 1e4 / 3)], axis=1)
    for standardize in (False, True):
        models = fit_svm(wider, y, [1.0], standardize=standardize)
        without = fit_svm(x, y, [1.0], standardize=standardize)
        assert np.abs(models.coef[..., -1]).max() < 1e-6
        np.testing.assert_allclose(models.objective, without.objective, rtol=2 * GAP)


def test_too_many_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svm, "MOST_SAMPLES", 19)
    x, y = make(20, 3, 2)
    with pytest.raises(BadInput, match=r"20 samples, whose Gram .* at most 19: set `limit`"):
        fit_svm(x, y, [1.0])


def test_machines_that_do_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svm, "_MOST_STEPS", 3)
    x, y = make(60, 10, 2)
    with pytest.raises(BadInput, match=r"C = 10 and the hinge has not converged: .*lower C"):
        fit_svm(x, y, [10.0])


# ---------------------------------------------------------------------------- the probe


def run(
    x: NDArray, y: NDArray, test: NDArray, truth: NDArray, folds: Any = None, **options: Any
) -> SvmResult:
    groups = options.pop("groups", None)
    seed = options.pop("seed", 0)
    given = LinearSettings.parse({"solver": "svm", "standardize": False} | options, "test")
    return svm_of(x, y, test, truth, folds, given, seed, groups)


@pytest.mark.parametrize("loss", LOSSES)
def test_perfect_and_useless_features(loss: Loss) -> None:
    labels, truth = np.arange(200) % 4, np.arange(1000) % 4
    perfect = run(np.eye(4)[labels], labels, np.eye(4)[truth], truth, loss=loss)
    assert perfect.fixed.correct.all()
    assert perfect.chosen.correct.all()
    draw = np.random.default_rng(0)
    useless = run(  # nothing separates them, so a great C takes LIBSVM long
        draw.normal(size=(200, 30)),
        labels,
        draw.normal(size=(1000, 30)),
        truth,
        loss=loss,
        c=1.0,
        cs=(0.01, 1.0),
    )
    for outcome in (useless.fixed, useless.chosen):
        assert 0.2 < outcome.correct.mean() < 0.3


def test_the_protocol_by_hand() -> None:
    x, y = make(120, 30, 3, signal=0.3)
    test, truth = make(300, 30, 3, signal=0.3)
    cs = (1e-3, 0.1, 10.0)
    result = run(x, y, test, truth, c=5.0, cs=cs, seed=3, held_out=0.25)
    held = draw_held_out(y, 0.25, np.random.default_rng(3))
    assert held.sum() == 30
    expected = [
        (fit_svm(x[~held], y[~held], [c]).scores(x[held])[0].argmax(1) == y[held]).mean()
        for c in cs
    ]
    np.testing.assert_allclose(result.held_out_accuracy[0], expected, atol=0.035)
    best = cs[int(result.held_out_accuracy[0].argmax())]
    assert result.chosen.c == best
    for outcome, c in ((result.fixed, 5.0), (result.chosen, best)):
        predicted = fit_svm(x, y, [c]).scores(test)[0].argmax(1)
        np.testing.assert_array_equal(outcome.predicted[0], predicted)
        np.testing.assert_array_equal(outcome.correct, predicted == truth)
        counts = outcome.confusion(truth, 3)
        assert counts.sum() == 300
        assert np.diagonal(counts).sum() == (predicted == truth).sum()
        assert counts[1, 2] == ((truth == 1) & (predicted == 2)).sum()
    kept = json.loads(json.dumps(result.details(truth, ["a", "b", "c"]), allow_nan=False))
    of_b = 100 * result.fixed.correct[truth == 1].mean()
    assert kept["fixed C"]["per class"][1] == pytest.approx(of_b)
    assert kept["fixed C"]["duality gap"][0] <= GAP


def test_folds_are_probes_of_their_own() -> None:
    x, y = make(90, 20, 3)
    test, truth = make(60, 20, 3)
    folds = [np.arange(0, 60), np.arange(30, 90)]
    both = run(x, y, test, truth, folds)
    for i, fold in enumerate(folds):
        alone = run(x[fold], y[fold], test, truth)
        np.testing.assert_array_equal(both.fixed.ranks[i], alone.fixed.ranks[0])
        np.testing.assert_array_equal(both.chosen.predicted[i], alone.chosen.predicted[0])
    assert both.n_train.tolist() == [60, 60]


def test_whole_groups_are_held_out() -> None:
    codes = np.repeat(np.arange(5), 40)
    groups = np.arange(200) // 4  # ten a class
    for seed in range(20):
        held = draw_held_out(codes, 0.2, np.random.default_rng(seed), groups)
        assert len(np.unique(held.reshape(-1, 4), axis=0)) == 2  # all or none of each
        assert (held.reshape(5, 40).sum(1) == 8).all()
    draws = [draw_held_out(codes, 0.2, np.random.default_rng(s), groups) for s in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), fraction=st.floats(0.01, 0.99), n=st.integers(2, 60))
def test_every_class_keeps_samples(seed: int, fraction: float, n: int) -> None:
    draw = np.random.default_rng(seed)
    codes = np.unique(draw.integers(4, size=n), return_inverse=True)[1]
    groups = draw.integers(8, size=n)
    for given_groups in (None, groups):
        held = draw_held_out(codes, fraction, draw, given_groups)
        assert set(codes[~held]) == set(codes)
        if given_groups is not None:
            assert not np.intersect1d(groups[held], groups[~held]).size


def test_a_leak_between_clips_of_a_film_does_not_choose_c() -> None:
    """Near copies in a group reward the largest C unless the whole group is held out."""
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    labels = groups % 2
    films = draw.normal(size=(40, 200)) + 0.3 * (np.arange(40) % 2)[:, None]
    x = films[groups] + 0.01 * draw.normal(size=(200, 200))
    blind = run(x, labels, x, labels)
    aware = run(x, labels, x, labels, groups=groups)
    assert blind.held_out_accuracy.max() == 1
    assert aware.held_out_accuracy.max() < 1


def test_what_the_probe_refuses() -> None:
    x, y = make(60, 10, 3)
    with pytest.raises(BadInput, match=r"none of the classes 3, 7, of which 2 of 3 test samples"):
        run(x, y, x[:3], np.array([0, 7, 3]))
    with pytest.raises(BadInput, match=r"fold 1: none of the class 2, of which 1 of 2 test sam"):
        run(x, y, x[:2], np.array([2, 0]), [np.arange(60), np.flatnonzero(y < 2)])
    with pytest.raises(BadInput, match=r"every class has a single group, so none can be held out"):
        run(x, y, x, y, groups=y)
    with pytest.raises(BadInput, match=r"every class has a single sample"):
        run(x[:2], np.array([0, 1]), x[:2], np.array([0, 1]))
    with pytest.raises(BadInput, match=r"test features 9; extract both with the same model"):
        run(x, y, x[:, :9], y)
    with pytest.raises(BadInput, match=r"only the class 1"):
        run(x, np.ones(60, int), x, np.ones(60, int))


def test_settings_of_the_other_solver() -> None:
    for wrong in ({"loss": "squared hinge"}, {"c": 3}):
        with pytest.raises(BadInput, match=r"those of `solver: svm`; set it, or leave them out"):
            LinearSettings.parse(wrong, "test")
        LinearSettings.parse({"solver": "svm"} | wrong, "test")
    with pytest.raises(BadInput, match=r"hinge"):
        LinearSettings.parse({"solver": "svm", "loss": "hinge2"}, "test")
    kept = LinearSettings().model_dump(mode="json")
    assert LinearSettings.parse(kept, "test") == LinearSettings()


# ---------------------------------------------------------------------------- cells and scores


def write_npz(path: Path, **arrays: NDArray) -> str:
    np.savez(path, **arrays)
    return str(path)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    status = main(["score", "linear", *words])
    out, err = capsys.readouterr()
    assert status == 0, err
    return dict(json.loads(out))


def test_score_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = make(300, 30, 3, signal=0.5)
    x, y, test, truth = x[:150], 2 * y[:150], x[150:], 2 * y[150:]
    films = np.arange(150) // 5
    files = [
        write_npz(tmp_path / "train.npz", features=x, labels=y),
        write_npz(tmp_path / "test.npz", features=test, labels=truth),
    ]
    scale = ["--settings", '{"standardize": false, "cs": [0.1, 10], "c": 1}']
    found = printed(capsys, "--solver", "svm", *scale, *files)
    predicted = np.array([0, 2, 4])[fit_svm(x, y, [1.0]).scores(test)[0].argmax(1)]
    assert found["value"] == pytest.approx(100 * (predicted == truth).mean())
    assert found["classes"] == [0, 2, 4]
    assert found["fixed C"]["confusion"][2][1] == ((truth == 4) & (predicted == 2)).sum()
    assert found["fixed C"]["C"] == [1.0]
    assert found["held out C"]["C"][0] in (0.1, 10)
    assert found["held_out_c"]["value"] == pytest.approx(found["held out C"]["per fold"][0])
    assert found["settings"]["solver"] == "svm"
    logistic = printed(capsys, *files)
    assert "held_out_c" not in logistic
    assert "n_groups" not in logistic

    files[1] = write_npz(tmp_path / "test.npz", features=test, labels=truth, groups=films)
    for words in (["--solver", "svm", *scale], []):
        grouped = printed(capsys, *words, *files)
        assert grouped["n_groups"] == 30
    right = (predicted == truth).astype(float)
    expected = over_seeds_and_samples(by_group(right[None], films))
    again = printed(capsys, "--solver", "svm", *scale, *files)
    assert again["value"] == found["value"]
    assert again["interval95"] == pytest.approx([100 * expected.low, 100 * expected.high])

    # Whole films of the training samples are held out.
    leaky = np.repeat(x[::5], 5, axis=0)
    of_train = {"features": leaky, "labels": np.repeat(y[::5], 5)}
    blind = write_npz(tmp_path / "blind.npz", **of_train)
    aware = write_npz(tmp_path / "aware.npz", **of_train, groups=films)
    accuracies = [
        max(printed(capsys, "--solver", "svm", *scale, file, files[1])["held-out accuracy"][0])
        for file in (blind, aware)
    ]
    assert accuracies[0] > accuracies[1]


def test_scores_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = make(20, 3, 2)
    plain = {"features": x, "labels": y}
    train = write_npz(tmp_path / "train.npz", **plain)
    for groups, why in (
        (np.arange(19), r"groups: shape \[19\], but there are 20 samples"),
        (np.linspace(0, 1, 20), r"groups: float64, but class labels must be integers"),
        (np.zeros(20, int), r"the test samples are of one group, which shows no spread"),
    ):
        test = write_npz(tmp_path / "test.npz", **plain, groups=groups)
        assert main(["score", "linear", "--solver", "svm", train, test]) == 1
        assert re.search(why, capsys.readouterr().err)
    assert main(["score", "linear", "--settings", '{"loss": "squared hinge"}', train, train]) == 1
    assert "those of `solver: svm`" in capsys.readouterr().err


class Films(Reader):
    """Grey clips of two actions, four of each film."""

    class_names = ("dark", "bright")
    counts: ClassVar = {"train": 24, "test": 16}

    def splits(self) -> dict[str, Sequence[str]]:
        """Return the numbers of the clips."""
        return {split: [f"{i:02d}" for i in range(n)] for split, n in self.counts.items()}

    def sample(self, split: str, index: int) -> Sample:
        """Return a clip whose grey is that of its action."""
        image = np.full((8, 8, 3), 60 + 120 * (index % 2), np.uint8)
        return Sample(f"{index:02d}", image, label=index % 2, group=10 * (index % 2) + index // 8)


def test_a_cell_keeps_the_groups_of_its_samples(tmp_path: Path) -> None:
    prepare(Films(tmp_path, Films.Settings(size=8)), "films", tmp_path / "data", 1)
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    draw = np.random.default_rng(0)
    for split, n in Films.counts.items():
        films = draw.normal(size=(10, 2, 40))[np.arange(n) // 8, np.arange(n) % 2]
        features = films + 0.1 * draw.normal(size=(n, 40))
        np.save(outputs / f"{split}.features.npy", features.astype(np.float32))
    write_checksums(outputs)
    out = tmp_path / "linear.json"
    given = LinearSettings.parse({"solver": "svm", "standardize": False}, "test")
    run_key = Run("raw_pixels", "paper", "films", 0)
    measure(Linear(), run_key, outputs, tmp_path / "data", given, Runtime(device="cpu"), out)
    record = read_cell(out)
    settings_of = [metric["setting"] for metric in record["metrics"]]
    assert settings_of == [{"svm": "hinge", "c": 100.0}, {"svm": "hinge"}]
    assert record["details"]["classes"] == ["dark", "bright"]
    kept = pd.read_parquet(out.with_suffix(".parquet"))
    assert kept[GROUP_COLUMN].tolist() == [10 * (i % 2) + i // 8 for i in range(16)]
    for metric in record["metrics"]:
        assert metric["value"] == pytest.approx(100 * kept[metric["samples"]].mean())
    # Whole films are held out: clips of one film are alike here, so it is the harder task.
    data = {n: Prepared(tmp_path / "data").split(n) for n in Films.counts}
    arrays = [np.load(outputs / f"{n}.features.npy") for n in Films.counts]
    labels = [np.array(split.annotation("labels")) for split in data.values()]
    groups = np.array(data["train"].annotation("groups"))
    aware, blind = (
        svm_of(arrays[0], labels[0], arrays[1], labels[1], None, given, 0, known)
        for known in (groups, None)
    )
    held_out = record["details"]["held-out accuracy"]
    np.testing.assert_allclose(held_out, 100 * aware.held_out_accuracy)
    assert np.mean(held_out) < 100 * blind.held_out_accuracy.mean()


def test_ucf101_is_measured_by_machines() -> None:
    for name in ("ucf101", "ucf101-2"):
        assert Linear.PAPER[version_of(name)] == {"solver": "svm", "standardize": False}
    assert str(LinearSetting(svm="squared hinge", c=100)) == "svm squared hinge, c 100.0"
    assert LinearSetting().record() == {}
