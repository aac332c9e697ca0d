"""The landmark probe: MAFL's reference numbers, the fits, few-shot draws, and what it refuses."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.io import loadmat
from sealed import meta_of, reseal
from sklearn.linear_model import LinearRegression

from partbench import published
from partbench.cli import main
from partbench.config import check, probe_settings
from partbench.coordinates import of_borders, of_cells
from partbench.data.celeba import LANDMARK_FILE, read_landmarks
from partbench.data.mafl import MAFL
from partbench.data.prepared import FORMAT, Prepared
from partbench.errors import BadInput
from partbench.integrity import read_record, write_record
from partbench.metrics import landmarks as metrics
from partbench.metrics.landmarks import Truth
from partbench.probe import Metric, Result, measure
from partbench.probes.landmarks import Landmarks, LandmarkSetting, LandmarkSettings, kept_of
from partbench.run import Run, Runtime
from partbench.score.landmarks import score

Arrays = dict[str, NDArray[Any]]


# ---------------------------------------------------------------------------- MAFL's reference


@pytest.fixture(scope="module")
def mafl(shared_data: Path) -> dict[str, Arrays]:
    """Keypoints of a real method on all of MAFL, in the frame of the files: (row, column)."""
    folder = shared_data / "mafl_reference"
    return {
        split: {
            "points": loadmat(folder / f"{split}_pred_kp.mat")[f"{split}_pred_kp"],
            "landmarks": loadmat(folder / f"{split}_gt_kp.mat")[f"{split}_gt_kp"],
        }
        for split in ("train", "test")
    }


def in_pixels(points: NDArray[Any]) -> NDArray[np.float64]:
    row, column = np.moveaxis(points.astype(np.float64), -1, 0)
    return np.stack([89 + column * 178 / 1.25, 109 + row * 218 / 1.25], axis=-1)


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["score", "landmarks", "--protocol", "mafl", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("frame", "option", "test", "train"),
    [
        ("files", (), 3.481517, 3.427728),
        ("files", ("--no-intercept",), 3.481517, 3.427728),
        ("files", ("--intercept",), 3.260942, 3.196224),
        ("pixels", (), 3.853019, None),
        ("pixels", ("--intercept",), 3.496867, None),
    ],
)
def test_reference_on_all_of_mafl(
    mafl: dict[str, Arrays],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    frame: str,
    option: tuple[str, ...],
    test: float,
    train: float | None,
) -> None:
    for split, arrays in mafl.items():
        if frame == "pixels":
            arrays = {key: in_pixels(values) for key, values in arrays.items()}
        np.savez(tmp_path / f"{split}.npz", **arrays)
    files = tmp_path / "train.npz", tmp_path / "test.npz"
    found = run_cli(capsys, *files, *option, "--no-few-shot")
    assert found["value"] == pytest.approx(test, abs=1e-5)
    assert found["interval95"][0] < test < found["interval95"][1]
    assert (found["n_train"], found["n_test"], found["n_counted"]) == (19_000, 1_000, 1_000)
    assert (found["keypoints"], found["inputs"], found["rank"]) == (10, 20, 20)
    assert found["few_shot"] is None
    assert np.mean(found["per_landmark"]) == pytest.approx(found["value"])
    if frame == "pixels":
        assert found["mean_shape"] == pytest.approx(8.8943, abs=5e-5)
    if train is not None:
        found = run_cli(capsys, files[0], files[0], *option, "--no-few-shot")
        assert found["value"] == pytest.approx(train, abs=1e-5)


def test_mean_shape_of_the_real_faces(shared_data: Path, tmp_path: Path) -> None:
    reader = MAFL(shared_data, MAFL.Settings.parse({"subset": True, "size": 64}, "test"))
    rows = read_landmarks(shared_data / "celeba" / LANDMARK_FILE)
    for split, n in (("train", 4331), ("test", 237)):
        names = [reader.splits()[split][i] for i in reader.present(split)]
        assert len(names) == n
        landmarks = np.array([rows[name] for name in names])
        np.savez(tmp_path / f"{split}.npz", points=np.zeros((n, 1, 2)), landmarks=landmarks)
    found = score(tmp_path / "train.npz", tmp_path / "test.npz", intercept=True, curve=False)
    assert found["mean_shape"] == pytest.approx(9.3315, abs=5e-5)
    assert found["value"] == pytest.approx(found["mean_shape"])
    assert found["rank"] == 0


# ---------------------------------------------------------------------------- the fits


def make(
    n: int = 120, k: int = 4, n_landmarks: int = 3, n_test: int = 40, seed: int = 0
) -> tuple[tuple[Any, Any, Any], NDArray[np.float64], Truth]:
    """Training inputs, landmarks and visible; test inputs; truth with unequal normalisers."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n + n_test, 2 * k)) + rng.normal(size=2 * k)
    mixing = rng.normal(size=(2 * k, n_landmarks, 2))
    landmarks = np.tensordot(inputs, mixing, 1) + rng.normal(size=(n + n_test, n_landmarks, 2))
    landmarks += 30 * rng.normal(size=(n_landmarks, 2))
    visible = np.ones((n + n_test, n_landmarks), bool)
    truth = Truth(landmarks[n:], visible[n:], rng.uniform(5, 10, n_test))
    return (inputs[:n], landmarks[:n], visible[:n]), inputs[n:], truth


def hide(visible: NDArray[np.bool_], share: float, seed: int = 1) -> NDArray[np.bool_]:
    return visible & (np.random.default_rng(seed).random(visible.shape) >= share)


def duplicate(inputs: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([inputs, inputs[:, :3], np.zeros((len(inputs), 2))], axis=1)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("hidden", [0.0, 0.3])
@pytest.mark.parametrize(("n", "k"), [(120, 4), (5, 4), (8, 4), (9, 4), (1, 4), (30, 1)])
@pytest.mark.parametrize("change", [np.asarray, duplicate])
def test_equals_scipy_and_scikit_learn(
    n: int, k: int, hidden: float, intercept: bool, change: Callable[[Any], Any]
) -> None:
    (inputs, landmarks, visible), test, _ = make(n=n, k=k)
    inputs, test = change(inputs), change(test)
    visible = hide(visible, hidden)
    visible[0] = True
    mapped = metrics.fit(inputs, landmarks, visible, intercept)
    predicted = mapped(test)
    for i in range(landmarks.shape[1]):
        x, y = inputs[visible[:, i]], landmarks[visible[:, i], i]
        model = LinearRegression(fit_intercept=intercept).fit(x, y)
        np.testing.assert_allclose(predicted[:, i], model.predict(test), rtol=1e-8, atol=1e-8)
        x_mean, y_mean = (x.mean(0), y.mean(0)) if intercept else (0, 0)
        cutoff = max(x.shape) * np.finfo(float).eps  # scipy's own lets a doubled input through
        coef = scipy.linalg.lstsq(x - x_mean, y - y_mean, cond=cutoff)[0]
        np.testing.assert_allclose(mapped.coef[:, i], coef, rtol=1e-8, atol=1e-8)
    if not intercept:
        assert not mapped.offset.any()


def test_an_intercept_is_a_column_of_ones_where_the_solution_is_unique() -> None:
    (inputs, landmarks, visible), test, _ = make()
    ones = [np.concatenate([x, np.ones((len(x), 1))], axis=1) for x in (inputs, test)]
    np.testing.assert_allclose(
        metrics.fit(inputs, landmarks, visible, True)(test),
        metrics.fit(ones[0], landmarks, visible, False)(ones[1]),
        rtol=1e-10,
    )


def test_a_linear_map_is_found_exactly() -> None:
    (inputs, landmarks, visible), test, _ = make()
    mixing = np.random.default_rng(3).normal(size=(inputs.shape[1], 3, 2))
    for intercept, shift in ((False, 0.0), (True, 7.0)):
        exact = np.tensordot(test, mixing, 1) + shift
        truth = Truth(exact, np.ones(exact.shape[:2], bool), np.ones(len(exact)))
        mapped = metrics.fit(inputs, np.tensordot(inputs, mixing, 1) + shift, visible, intercept)
        assert truth.errors(mapped(test)).max() < 1e-8
    assert truth.errors(metrics.mean_shape(landmarks, visible)(test[:, :1])).min() > 1


def test_constant_keypoints_give_the_mean_shape() -> None:
    (_, landmarks, visible), _, truth = make()
    visible = hide(visible, 0.2)
    # The mean of 0.1 is not exactly 0.1: what rounding leaves must not become an input.
    train, test = np.full((len(landmarks), 6), 0.1), np.full((len(truth.landmarks), 6), 0.1)
    predicted = metrics.fit(train, landmarks, visible, True)(test)
    shape = [landmarks[visible[:, i], i].mean(0) for i in range(3)]
    np.testing.assert_allclose(predicted, np.broadcast_to(shape, predicted.shape), rtol=1e-12)
    baseline = metrics.mean_shape(landmarks, visible)(np.zeros((len(test), 1)))
    np.testing.assert_allclose(predicted, baseline, rtol=1e-12)
    assert metrics.spectrum(train, intercept=True)[1] == 0
    assert metrics.spectrum(train, intercept=False)[1] == 1


def test_spectrum_counts_independent_inputs() -> None:
    (inputs, _, _), _, _ = make()
    for intercept in (False, True):
        singular, rank = metrics.spectrum(duplicate(inputs), intercept)
        assert rank == 8
        assert len(singular) == 13
    assert metrics.spectrum(inputs[:5], False)[1] == 5
    assert metrics.spectrum(inputs[:5], True)[1] == 4


numbers = st.floats(-3, 3, allow_subnormal=False)
scales = st.floats(0.05, 20)


@given(
    shift=st.tuples(numbers, numbers),
    scale=scales,
    target_shift=st.tuples(numbers, numbers),
    target_scale=scales,
    order=st.permutations(range(4)),
    hidden=st.sampled_from([0.0, 0.3]),
)
def test_with_an_intercept_no_frame_matters(
    shift: tuple[float, float],
    scale: float,
    target_shift: tuple[float, float],
    target_scale: float,
    order: list[int],
    hidden: float,
) -> None:
    (inputs, landmarks, visible), test, truth = make()
    visible = hide(visible, hidden)

    def moved(x: NDArray[Any]) -> NDArray[Any]:
        points = x.reshape(len(x), 4, 2)[:, order]
        return (scale * points + shift).reshape(len(x), -1)

    def errors(intercept: bool, shift_too: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        before = truth.errors(metrics.fit(inputs, landmarks, visible, intercept)(test))
        change = (
            moved if shift_too else lambda x: scale * x.reshape(-1, 4, 2)[:, order].reshape(-1, 8)
        )
        offset = np.array(target_shift) if shift_too else 0
        mapped = metrics.fit(change(inputs), target_scale * landmarks + offset, visible, intercept)
        other = Truth(
            target_scale * truth.landmarks + offset, truth.visible, target_scale * truth.normaliser
        )
        return before, other.errors(mapped(change(test)))

    np.testing.assert_allclose(*errors(intercept=True, shift_too=True), rtol=1e-6, atol=1e-6)
    # Without, only the scales and the order do not matter.
    np.testing.assert_allclose(*errors(intercept=False, shift_too=False), rtol=1e-6, atol=1e-6)


def test_without_an_intercept_the_origin_matters() -> None:
    (inputs, landmarks, visible), test, truth = make()
    errors = [
        truth.errors(metrics.fit(inputs + shift, landmarks, visible, False)(test + shift))
        for shift in (0, 3)
    ]
    assert np.abs(errors[0] - errors[1]).max() > 1


# ---------------------------------------------------------------------------- errors


def test_errors_equal_a_loop_over_images_and_landmarks() -> None:
    _, _, truth = make()
    visible = hide(truth.visible, 0.4)
    visible[5] = False
    normaliser = truth.normaliser.copy()
    normaliser[7] = np.nan
    truth = Truth(truth.landmarks, visible, normaliser)
    predicted = truth.landmarks + np.random.default_rng(0).normal(size=(2, *truth.landmarks.shape))
    by_image = metrics.per_image(truth.errors(predicted))
    for draw in range(2):
        for i in range(len(visible)):
            distances = [
                100 * np.linalg.norm(predicted[draw, i, j] - truth.landmarks[i, j]) / normaliser[i]
                for j in range(3)
                if visible[i, j]
            ]
            if i in (5, 7):
                assert np.isnan(by_image[draw, i])
            elif distances:
                assert by_image[draw, i] == pytest.approx(np.mean(distances))


def test_curves_and_failures() -> None:
    errors = np.array([1.0, 4.0, np.nan, 10.0, 12.0, 30.0])
    assert metrics.failure_rate(errors, 10) == pytest.approx(40)
    np.testing.assert_allclose(
        metrics.cumulative_errors(errors, np.array([0, 1, 3.9, 10, 50])), [0, 0.2, 0.2, 0.6, 1]
    )
    grid = np.linspace(0, 10, 100_001)
    steps = metrics.cumulative_errors(errors, grid)
    assert metrics.area_under_curve(errors, 10) == pytest.approx(steps.mean(), abs=1e-4)


def test_normalisers() -> None:
    landmarks = np.array([[[0, 0], [3, 4], [9, 9]], [[1, 1], [1, 1], [2, 2]]], float)
    visible = np.array([[True, True, True], [True, False, True]])
    length = metrics.interocular(landmarks, visible, (0, 1), "test")
    np.testing.assert_array_equal(length, [5, np.nan])
    with pytest.raises(BadInput, match=r"faces: row 1 has both eyes at \[1.0, 1.0\]"):
        metrics.interocular(landmarks, np.ones((2, 3), bool), (0, 1), "faces")
    with pytest.raises(BadInput, match="landmarks 0 and 3, but there are 3"):
        metrics.interocular(landmarks, visible, (0, 3), "faces")
    box = np.array([[5, 5, 4, 9], [np.nan] * 4])
    visible[1] = False
    np.testing.assert_array_equal(metrics.box_side(box, visible, "box"), [6, np.nan])
    visible[1, 0] = True
    with pytest.raises(BadInput, match=r"box: row 1 is \[nan, .*no box of positive area"):
        metrics.box_side(box, visible, "box")
    with pytest.raises(BadInput, match=r"box: shape \[2, 3\]"):
        metrics.box_side(box[:, :3], visible, "box")


# ---------------------------------------------------------------------------- few annotations


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("hidden", [0.0, 0.3])
def test_few_shot_equals_one_fit_at_a_time(intercept: bool, hidden: float) -> None:
    (inputs, landmarks, visible), test, truth = make(n=60)
    visible = hide(visible, hidden)
    curve = metrics.few_shot(
        (inputs, landmarks, visible), test, truth, intercept, (1, 5, 20, 60, 90), 4, seed=3
    )
    assert list(curve) == [1, 5, 20, 60]
    assert [len(errors) for errors in curve.values()] == [4, 4, 4, 1]
    for n, errors in curve.items():
        rng = np.random.default_rng((3, n))
        for found in errors:
            use = metrics.draw(visible, n, rng) if n < 60 else visible
            assert (use.sum(0) == np.minimum(n, visible.sum(0))).all()
            assert not (use & ~visible).any()
            predicted = np.stack(
                [
                    LinearRegression(fit_intercept=intercept)
                    .fit(inputs[use[:, i]], landmarks[use[:, i], i])
                    .predict(test)
                    for i in range(3)
                ],
                axis=1,
            )
            expected = 100 * np.linalg.norm(predicted - truth.landmarks, axis=2)
            expected = (expected / truth.normaliser[:, None]).mean(1)
            np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_draws_follow_the_seed_and_not_the_other_sizes() -> None:
    train, test, truth = make(n=60)
    first, again, other, alone = (
        metrics.few_shot(train, test, truth, True, sizes, 3, seed)[10]
        for sizes, seed in (((1, 10), 0), ((1, 10), 0), ((1, 10), 1), ((10,), 0))
    )
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, alone)
    assert (first != other).any()
    assert (first[0] != first[1]).any()


def test_all_landmarks_of_a_draw_come_from_the_same_images_where_all_are_visible() -> None:
    use = metrics.draw(np.ones((50, 4), bool), 7, np.random.default_rng(0))
    assert use.all(1).sum() == use.any(1).sum() == 7


def test_many_draws_take_each_image_equally_often() -> None:
    rng = np.random.default_rng(0)
    visible = np.ones((10, 1), bool)
    counts = sum(metrics.draw(visible, 3, rng)[:, 0].astype(int) for _ in range(3000))
    # Binomial with mean 900 and SD 25.
    assert (np.abs(counts - 900) < 125).all()


# ---------------------------------------------------------------------------- a run's outputs


def write_outputs(
    folder: Path,
    data: Path,
    k: int = 4,
    background: bool = True,
    logvar: bool = True,
    appearance: bool = False,
) -> dict[str, Arrays]:
    """Fabricate a run's outputs: keypoints near the first landmarks, in a window with a margin."""
    rng = np.random.default_rng(0)
    prepared = Prepared(data)
    frame = of_cells(prepared.size, 8, margin=4)
    written: dict[str, Arrays] = {}
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        landmarks = np.array(prepared.split(name).annotation("landmarks"), np.float64)
        points = frame.from_pixels(landmarks[:, np.arange(k) % landmarks.shape[1]])
        points = points + 0.1 * rng.normal(size=points.shape)
        spread = rng.normal(size=points.shape) - 4
        if background:
            points = np.concatenate([points, np.zeros((len(points), 1, 2))], axis=1)
            spread = np.concatenate([spread, np.full((len(points), 1, 2), np.log(0.01))], axis=1)
        arrays = {"points": points} | ({"logvar": spread} if logvar else {})
        if name == "test":
            carried = points + 0.02 * rng.normal(size=points.shape)
            carried[0, 0] = np.nan
            arrays["carried"] = carried
            arrays["stayed"] = points + 0.1 * rng.normal(size=points.shape)
            arrays["stayed"][1, 2] = np.nan
        if appearance:
            arrays["appearance"] = rng.normal(size=(*points.shape[:2], 3))
        written[name] = {key: values.astype(np.float32) for key, values in arrays.items()}
        for key, values in written[name].items():
            np.save(folder / f"{name}.{key}.npy", values)
    protocol = {"points": "centred", "landmarks": "corner"}
    about = {**frame._asdict(), "background": background, "protocol": protocol}
    (folder / "keypoints.json").write_text(json.dumps(about))
    reseal(folder)
    return written


def run(source: Path, data: Path, seed: int = 0, **changes: Any) -> Result:
    settings = LandmarkSettings.parse({"few_shot": (1, 10), "draws": 3} | changes, "test")
    return Landmarks().run(source, data, settings, seed, "cpu")


def values(result: Result) -> dict[tuple[str, str], Metric]:
    found = {(m.metric, str(m.setting)): m for m in result.metrics}
    assert len(found) == len(result.metrics)
    return found


def expected_error(
    data: Path, inputs: dict[str, NDArray[Any]], intercept: bool, frame: str = "corner"
) -> NDArray[np.float64]:
    """Return per-image errors in % inter-ocular, by loops; NaN where an eye is hidden."""
    prepared = Prepared(data)
    landmarks, visible = (
        {name: np.array(prepared.split(name).annotation(kind)) for name in ("train", "test")}
        for kind in ("landmarks", "visible")
    )
    origin, unit = (4, 1) if frame == "corner" else (16, 24)
    targets = {name: (pixels - origin) / unit for name, pixels in landmarks.items()}
    flat = {name: x.reshape(len(x), -1).astype(np.float64) for name, x in inputs.items()}
    distances = np.full(visible["test"].shape, np.nan)
    for i in range(landmarks["test"].shape[1]):
        rows = visible["train"][:, i]
        model = LinearRegression(fit_intercept=intercept)
        model.fit(flat["train"][rows], targets["train"][rows, i])
        distance = np.linalg.norm(model.predict(flat["test"]) - targets["test"][:, i], axis=1)
        distances[:, i] = np.where(visible["test"][:, i], unit * distance, np.nan)
    eyes = landmarks["test"][:, 0] - landmarks["test"][:, 1]
    length = np.where(visible["test"][:, :2].all(1), np.linalg.norm(eyes, axis=1), np.nan)
    return 100 * np.nanmean(distances, axis=1) / length


@pytest.fixture(scope="module")
def outputs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Arrays]]:
    source = tmp_path_factory.mktemp("landmarks") / "outputs"
    return source, write_outputs(source, tiny)


@pytest.fixture(scope="module")
def result(outputs: tuple[Path, dict[str, Arrays]], tiny: Path) -> Result:
    return run(outputs[0], tiny)


def test_every_setting_equals_a_slow_version(
    result: Result, outputs: tuple[Path, dict[str, Arrays]], tiny: Path
) -> None:
    arrays = outputs[1]
    mu = {name: arrays[name]["points"] for name in arrays}
    both = {name: np.concatenate([mu[name], arrays[name]["logvar"]], 2) for name in arrays}
    designs = {
        "": mu,
        "no background": {name: x[:, :-1] for name, x in mu.items()},
        "mu+logvar": both,
        "mu+logvar, no background": {name: x[:, :-1] for name, x in both.items()},
    }
    found = values(result)
    for name, inputs in designs.items():
        for intercept in (False, True):
            setting = ", ".join(filter(None, [name, "intercept" if intercept else ""]))
            metric = found["iod_error", setting]
            expected = expected_error(tiny, inputs, intercept)
            np.testing.assert_allclose(result.samples[metric.samples], expected, rtol=1e-6)
            assert metric.value == pytest.approx(np.nanmean(expected))
            assert (metric.unit, metric.better) == ("% inter-ocular", "lower")
            assert metric.n == np.isfinite(expected).sum()
    few = {"n=58", "n=58, intercept"}  # see below
    assert {setting for metric, setting in found if metric == "iod_error"} - few == {
        ", ".join(filter(None, [name, end])) for name in designs for end in ("", "intercept")
    }


def test_regression_from_what_else_describes_keypoints(tiny: Path, tmp_path: Path) -> None:
    arrays = write_outputs(tmp_path / "all", tiny, appearance=True)
    kinds = ("points", "logvar", "appearance")
    design = {name: np.concatenate([a[kind] for kind in kinds], 2) for name, a in arrays.items()}
    found = run(tmp_path / "all", tiny, few_shot=())
    for intercept in (False, True):
        column = "iod_error, mu+logvar+features" + (", intercept" if intercept else "")
        expected = expected_error(tiny, design, intercept)
        np.testing.assert_allclose(found.samples[column], expected, rtol=1e-6)
    # Without log-variances nothing says which inputs are the paper's.
    write_outputs(tmp_path / "places", tiny, logvar=False, appearance=True)
    settings_ = {s.inputs for m in run(tmp_path / "places", tiny).metrics if (s := m.setting)}
    assert settings_ == {"mu"}


def test_regression_from_few_particles_by_their_variance(
    outputs: tuple[Path, dict[str, Arrays]], tiny: Path
) -> None:
    source, arrays = outputs
    logvar = arrays["train"]["logvar"].astype(np.float64)
    means = [np.mean([row[k].sum() for row in logvar]) for k in range(logvar.shape[1])]
    order = sorted(range(len(means)), key=lambda k: means[k])
    assert len(order) == 5  # the background competes
    for top in (2, 3):
        found = run(source, tiny, few_shot=(), top=top)
        for variance, chosen in (("lowest", order[:top]), ("highest", order[-top:])):
            design = {name: a["points"][:, sorted(chosen)] for name, a in arrays.items()}
            for intercept in (False, True):
                setting = LandmarkSetting(top=top, variance=variance, intercept=intercept)
                expected = expected_error(tiny, design, intercept)
                column = f"iod_error, {setting}"
                np.testing.assert_allclose(found.samples[column], expected, rtol=1e-6)
    for top in (0, 5, 6):
        metrics = run(source, tiny, few_shot=(), top=top).metrics
        assert all(m.setting.top is None for m in metrics)


def test_regression_without_the_last_tenth_of_the_training_images(
    outputs: tuple[Path, dict[str, Arrays]], tiny: Path, tmp_path: Path
) -> None:
    source, arrays = outputs
    kept = LandmarkSetting(annotations=58)  # 64 less a tenth of it
    found = run(source, tiny, few_shot=())
    first = {"train": arrays["train"]["points"][:58], "test": arrays["test"]["points"]}
    cut = tmp_path / "cut"
    cut.mkdir()
    for path in tiny.iterdir():
        if path.name.startswith("train.") and path.suffix == ".npy":
            np.save(cut / path.name, np.load(path)[:58])
        elif path.name != "meta.json":
            (cut / path.name).symlink_to(path)
    meta = meta_of(tiny)
    meta["splits"]["train"]["n"] = 58
    write_record(cut / "meta.json", meta)
    reseal(cut)
    for setting in (kept, kept.model_copy(update={"intercept": True})):
        expected = expected_error(cut, first, setting.intercept)
        np.testing.assert_allclose(found.samples[f"iod_error, {setting}"], expected, rtol=1e-6)
    assert kept.record() == {"annotations": 58}
    without = values(run(source, tiny, few_shot=(), held_out=0))
    assert ("iod_error", str(kept)) not in without
    assert kept_of(19_000, 0.1) == 17_100  # MAFL, KeyNet's code
    assert kept_of(9, 0.1) == 0


def test_a_landmark_that_only_the_held_out_images_show(
    outputs: tuple[Path, dict[str, Arrays]], tiny: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in tiny.iterdir():
        (data / path.name).symlink_to(path)
    visible = np.load(tiny / "train.visible.npy")
    visible[:58, 3] = False
    visible[58:, 3] = True
    (data / "train.visible.npy").unlink()
    np.save(data / "train.visible.npy", visible)
    reseal(data)
    with pytest.raises(BadInput, match=r"first 58 training .*held_out.*is visible in no image"):
        run(outputs[0], data)
    run(outputs[0], data, held_out=0)


def test_the_implicit_intercept_of_the_background(result: Result) -> None:
    found = values(result)
    gain = found["implicit_intercept", ""].value
    without = found["iod_error", "mu+logvar, no background"].value
    assert gain == pytest.approx(without - found["iod_error", "mu+logvar"].value)
    assert abs(gain) > 0.01
    # The constant is an intercept and nothing else.
    np.testing.assert_allclose(
        result.samples["iod_error, mu+logvar"],
        result.samples["iod_error, mu+logvar, no background, intercept"],
        rtol=1e-6,
    )
    # With mu alone the background is zeros, and with an intercept it is nothing.
    for a, b in (("", "no background"), ("intercept", "no background, intercept")):
        assert found["iod_error", a].value == pytest.approx(found["iod_error", b].value)


def test_only_what_the_keypoints_have_is_measured(tiny: Path, tmp_path: Path) -> None:
    write_outputs(tmp_path / "plain", tiny, background=False, logvar=False)
    found = values(run(tmp_path / "plain", tiny))
    few = {"n=58", "n=58, intercept"}
    measured = {setting for metric, setting in found if metric == "iod_error"}
    assert measured - few == {"", "intercept"}
    assert ("implicit_intercept", "") not in found
    write_outputs(tmp_path / "logvar", tiny, background=False)
    found = values(run(tmp_path / "logvar", tiny, few_shot=()))
    measured = {setting for metric, setting in found if metric == "iod_error"}
    assert measured - few == {"", "intercept", "mu+logvar", "mu+logvar, intercept"}
    assert not [metric for metric, _ in found if metric.startswith("few_shot")]


def test_every_number_is_the_mean_of_its_column(result: Result) -> None:
    for metric in result.metrics:
        column = result.samples[metric.samples]
        assert metric.value == pytest.approx(metric.scale * np.nanmean(column)), metric
        assert metric.n == column.notna().sum()


def test_other_metrics(result: Result, outputs: tuple[Path, dict[str, Arrays]], tiny: Path) -> None:
    found = values(result)
    errors = result.samples["iod_error, intercept"].dropna()
    assert found["failure_rate", "intercept"].value == pytest.approx(100 * (errors > 10).mean())
    assert found["failure_rate", "intercept"].unit == "%"
    test = Prepared(tiny).split("test")
    zeros = {name: np.zeros((n, 1, 2)) for name, n in (("train", 64), ("test", len(test)))}
    baseline = np.nanmean(expected_error(tiny, zeros, True))
    assert found["mean_shape", ""].value == pytest.approx(baseline)
    assert baseline > found["iod_error", "intercept"].value

    arrays = outputs[1]["test"]
    frame = of_cells(32, 8, margin=4)
    moved = frame.to_pixels(arrays["points"]) - frame.to_pixels(arrays["carried"])
    shares = 100 * np.linalg.norm(moved[:, :-1], axis=2) / 24
    assert np.isnan(shares[0, 0])
    np.testing.assert_allclose(
        result.samples["equivariance"], np.nanmean(shares, axis=1), rtol=1e-4
    )
    assert found["equivariance", ""].unit == "% of window side"
    # What staying put would score, over the keypoints that both are known of.
    stay = frame.to_pixels(arrays["points"]) - frame.to_pixels(arrays["stayed"])
    still = 100 * np.linalg.norm(stay[:, :-1], axis=2) / 24
    both = np.isfinite(shares) & np.isfinite(still)
    assert not both[0, 0]
    assert not both[1, 2]
    over = found["equivariance_over_staying", ""]
    assert over.value == pytest.approx(100 * shares[both].sum() / still[both].sum(), rel=1e-4)
    assert (over.unit, over.better, over.n) == ("% of staying put", "lower", len(shares))
    assert {m.metric for m in result.metrics if m.reference} == {"mean_shape"}


def test_keypoints_that_do_not_move_are_told_from_those_that_follow(
    outputs: tuple[Path, dict[str, Arrays]], tiny: Path, tmp_path: Path
) -> None:
    """The distance alone is best for points near the centre, which stay where they are."""
    written = write_outputs(tmp_path / "out", tiny)["test"]
    points, stayed = written["points"], written["stayed"]
    for carried, share in ((stayed, 100), (points, 0), ((points + stayed) / 2, 50)):
        np.save(tmp_path / "out" / "test.carried.npy", carried)
        reseal(tmp_path / "out")
        found = values(run(tmp_path / "out", tiny, few_shot=()))
        assert found["equivariance_over_staying", ""].value == pytest.approx(share, abs=1e-3)
    near = 0.1 * (stayed - points) + points  # a tenth of the way, of the distance and of staying
    for key, array in (("carried", (points + near) / 2), ("stayed", near)):
        np.save(tmp_path / "out" / f"test.{key}.npy", array)
    reseal(tmp_path / "out")
    close = values(run(tmp_path / "out", tiny, few_shot=()))
    assert close["equivariance", ""].value < 0.2 * found["equivariance", ""].value
    assert close["equivariance_over_staying", ""].value == pytest.approx(50, abs=1e-3)
    np.save(tmp_path / "out" / "test.stayed.npy", points)
    reseal(tmp_path / "out")
    with pytest.raises(BadInput, match="no keypoint of a warped copy can be compared"):
        run(tmp_path / "out", tiny)


def test_few_shot_rows(result: Result) -> None:
    found = values(result)
    rows = {setting: m for (metric, setting), m in found.items() if metric == "few_shot_iod_error"}
    assert set(rows) == {f"n={n}{ending}" for n in (1, 10, 64) for ending in ("", ", intercept")}
    assert rows["n=64"].value == pytest.approx(found["iod_error", ""].value)
    assert rows["n=64, intercept"].value == pytest.approx(found["iod_error", "intercept"].value)
    point = result.details["few-shot"]["intercept"]["10"]
    assert rows["n=10, intercept"].value == pytest.approx(point["mean"])
    assert rows["n=10, intercept"].note == f"SD over 3 draws {point['sd']:.2f}"
    assert result.details["few-shot"][""]["64"]["sd"] is None


def test_frames(tiny: Path, outputs: tuple[Path, dict[str, Arrays]], tmp_path: Path) -> None:
    source, arrays = outputs
    mu = {name: arrays[name]["points"] for name in arrays}
    corner = {name: (x.astype(np.float64) + 1) / 2 * 24 for name, x in mu.items()}
    by_frame = {}
    for points, inputs in (("centred", mu), ("corner", corner)):
        for landmarks in ("corner", "centred"):
            found = run(source, tiny, points_frame=points, landmarks_frame=landmarks, few_shot=())
            np.testing.assert_allclose(
                found.samples["iod_error"],
                expected_error(tiny, inputs, False, landmarks),
                rtol=1e-6,
            )
            assert found.details["frames"] == {"points": points, "landmarks": landmarks}
            by_frame[points, landmarks] = found
    honest = [values(found)["iod_error", "intercept"].value for found in by_frame.values()]
    assert honest == pytest.approx([honest[0]] * 4)
    faces = [found.details["faces"]["worst"][0]["predicted"] for found in by_frame.values()]
    np.testing.assert_allclose(faces, [faces[0]] * 4, atol=1e-6)
    # The default is what the outputs say of their paper.
    copy = tmp_path / "copy"
    write_outputs(copy, tiny)
    about = read_record(copy / "keypoints.json")
    for points, landmarks in by_frame:
        about["protocol"] = {"points": points, "landmarks": landmarks}
        write_record(copy / "keypoints.json", about)
        paper = values(run(copy, tiny, few_shot=()))["iod_error", ""].value
        assert paper == values(by_frame[points, landmarks])["iod_error", ""].value


def test_normalisers_of_a_run(outputs: tuple[Path, dict[str, Arrays]], tiny: Path) -> None:
    test = Prepared(tiny).split("test")
    by_eyes = run(outputs[0], tiny, few_shot=())
    # The eyes of each image, and that image's mean distance in pixels by way of them.
    landmarks = np.array(test.annotation("landmarks"), np.float64)
    distance = by_eyes.samples["iod_error"] * np.linalg.norm(
        landmarks[:, 0] - landmarks[:, 1], axis=1
    )
    box = np.array(test.annotation("box"), np.float64)
    known = distance.notna()
    for name, unit, length in (
        ("box", "% of box", np.sqrt(box[:, 2] * box[:, 3])),
        ("image", "% of image side", np.full(len(test), 32.0)),
    ):
        for frame in ("corner", "centred"):
            found = run(outputs[0], tiny, normaliser=name, landmarks_frame=frame, few_shot=())
            metric = values(found)[f"{name}_error", "intercept"]
            assert metric.unit == unit
            assert metric.n == 32
        in_paper = run(outputs[0], tiny, normaliser=name, few_shot=(1,))
        np.testing.assert_allclose(
            in_paper.samples[f"{name}_error"][known], (distance / length)[known], rtol=1e-6
        )
        assert (f"few_shot_{name}_error", "n=1") in values(in_paper)


def test_details(result: Result, tiny: Path) -> None:
    details = json.loads(json.dumps(result.details, allow_nan=False))
    assert details["k"] == 5
    assert details["inputs"][""] == details["inputs"][""] | {"number": 10, "rank": 8}
    assert len(details["inputs"]["intercept"]["singular values"]) == 10
    curve = details["cumulative errors"]["intercept"]
    assert len(curve["thresholds"]) == len(curve["share"]) == 61
    assert curve["thresholds"][-1] == 15
    assert set(details["landmarks"][""]) == set(Prepared(tiny).meta["landmark_names"])
    errors = result.samples["iod_error, intercept"]
    best, worst = (details["faces"][name] for name in ("best", "worst"))
    assert [face["index"] for face in best] == errors.nsmallest(8).index.tolist()
    assert [face["index"] for face in worst] == errors.nlargest(8).index.tolist()
    for face in best + worst:
        visible = np.array(face["visible"])
        true, predicted = np.array(face["true"]), np.array(face["predicted"])
        distance = np.linalg.norm(predicted - true, axis=1)[visible].mean()
        length = np.linalg.norm(true[0] - true[1])
        assert face["error"] == errors[face["index"]]
        assert 100 * distance / length == pytest.approx(face["error"])


def test_a_cell_is_written_and_follows_the_seed(
    outputs: tuple[Path, dict[str, Arrays]], tiny: Path, tmp_path: Path
) -> None:
    settings = LandmarkSettings(few_shot=(10,), draws=2)
    found = []
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        out = tmp_path / name / "landmarks.json"
        key = Run("dlp", "k4", "toy", seed)
        measure(Landmarks(), key, outputs[0], tiny, settings, Runtime(device="cpu"), out)
        cell = json.loads(out.read_text())
        found.append(
            {
                (m["metric"], str(LandmarkSetting.parse(m["setting"], "cell"))): m["value"]
                for m in cell["metrics"]
            }
        )
        table = pd.read_parquet(out.with_suffix(".parquet"))
        assert {m["samples"] for m in cell["metrics"]} == set(table.columns)
    assert found[0] == found[1]
    assert {key for key in found[0] if found[0][key] != found[2][key]} == {
        ("few_shot_iod_error", "n=10"), ("few_shot_iod_error", "n=10, intercept")
    }  # fmt: skip


def write_mafl_like(folder: Path) -> Path:
    """Write a prepared data set with MAFL's counts, and images of one pixel."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    names = ["left eye", "right eye", "nose", "left mouth corner", "right mouth corner"]
    meta = {
        "format": FORMAT,
        "settings": {"size": 128},
        "landmark_names": names,
        "data_set": "mafl",
    }
    splits = {"train": 19_000, "test": 1_000}
    shape = rng.uniform(30, 90, (5, 2))
    counts = {split: {"n": n} for split, n in splits.items()}
    (folder / "meta.json").write_text(json.dumps(meta | {"splits": counts}))
    for split, n in splits.items():
        np.save(folder / f"{split}.images.npy", np.zeros((n, 1, 1, 3), np.uint8))
        landmarks = (shape + rng.normal(size=(n, 5, 2))).astype(np.float32)
        np.save(folder / f"{split}.landmarks.npy", landmarks)
        np.save(folder / f"{split}.visible.npy", np.ones((n, 5), bool))
    return reseal(folder)


def test_every_published_number_of_the_three_papers_is_measured(tmp_path: Path) -> None:
    data = write_mafl_like(tmp_path / "mafl")
    rng = np.random.default_rng(0)
    source = tmp_path / "outputs"
    source.mkdir()
    for split, n in (("train", 19_000), ("test", 1_000)):
        for kind in ("points", "logvar", "carried", "stayed"):
            np.save(source / f"{split}.{kind}.npy", rng.normal(size=(n, 4, 2)).astype(np.float32))
    about = of_borders(128, 16)._asdict() | {"background": True}
    about["protocol"] = {"points": "centred", "landmarks": "corner"}
    (source / "keypoints.json").write_text(json.dumps(about))
    reseal(source)
    # The data set's own settings, as a configuration that names it would have them.
    plain = {"name": "x", "seeds": [0], "data": {"mafl": {"reader": "mafl"}}}
    block = {"train": "mafl", "methods": {"random_init": ["paper"]}}
    block["probes"] = {"landmarks": ["mafl"]}
    config = check(plain | {"runs": [block]}, "test")
    settings = probe_settings(config, "landmarks", "mafl")
    assert settings == LandmarkSettings()
    measured = Landmarks().run(source, data, settings.model_copy(update={"draws": 2}), 0, "cpu")
    claims = [c for c in published.load() if c.probe == "landmarks" and c.has_run]
    assert Counter(c.method for c in claims) == {"dlp": 8, "keynet": 11, "zhang": 3}
    numbers = {(m.metric, json.dumps(m.setting.record(), sort_keys=True)) for m in measured.metrics}
    units = {m.metric: m.unit for m in measured.metrics}
    for claim in claims:
        assert (claim.metric, claim.address.settings) in numbers
        assert claim.unit == units[claim.metric]


# ---------------------------------------------------------------------------- bad outputs


def with_value(array: NDArray[Any], place: tuple[Any, ...], value: float) -> NDArray[Any]:
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "test.points",
            lambda x: with_value(x, (7, 2, 1), np.nan),
            r"test.points.npy: row 7, keypoint 2 is \[.*nan\]",
        ),
        (
            "train.logvar",
            lambda x: with_value(x, (3, 0, 0), np.inf),
            "train.logvar.npy: row 3, keypoint 0",
        ),
        ("train.points", lambda x: x[:-1], r"expected numbers of shape \[64 images"),
        ("train.points", lambda x: x[:, :-1], r"keypoints of shape \[4, 2\], test images \[5, 2\]"),
        ("train.logvar", lambda x: x[:, :-1], r"log-variances have \[4, 2\], keypoints \[5, 2\]"),
        ("test.points", lambda x: x.astype(complex), "complex"),
        ("test.carried", lambda x: x[:, :-1], r"test.carried.npy: shape \[32, 4, 2\]"),
        ("test.carried", lambda x: np.full_like(x, np.nan), "no keypoint was carried back"),
        ("test.stayed", lambda x: x[:, :-1], r"test.stayed.npy: shape \[32, 4, 2\]"),
        ("train.appearance", lambda x: x[:, :-1], r"train.appearance.npy: 4 keypoints, but .* 5"),
        ("test.appearance", lambda x: x[..., :-1], "appearances of shape"),
        ("test.appearance", lambda x: x[:-1], r"test.appearance.npy.*\[32 images, keypoints"),
    ],
)
def test_bad_outputs(
    tiny: Path, tmp_path: Path, file: str, change: Callable[[Any], Any], message: str
) -> None:
    source = tmp_path / "outputs"
    write_outputs(source, tiny, appearance=True)
    path = source / f"{file}.npy"
    np.save(path, change(np.load(path)))
    reseal(source)
    with pytest.raises(BadInput, match=message):
        run(source, tiny)


def test_missing_outputs(tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "outputs"
    write_outputs(source, tiny)
    about = read_record(source / "keypoints.json")
    for change, message in (
        ({"side": None}, "no key 'side'"),
        ({"protocol": {"points": "centred"}}, "no key 'landmarks'"),
        ({"protocol": {"points": "middle", "landmarks": "corner"}}, "protocol.points is 'middle'"),
    ):
        changed = {k: v for k, v in (about | change).items() if v is not None}
        write_record(source / "keypoints.json", changed)
        with pytest.raises(BadInput, match=message):
            run(source, tiny)
    write_record(source / "keypoints.json", about)
    for name in ("test.carried", "train.logvar", "train.points"):
        (source / f"{name}.npy").unlink()
        with pytest.raises(
            BadInput, match=rf"{name}.npy is damaged.*No such file.*outputs and run the same"
        ):
            run(source, tiny)
    (source / "keypoints.json").unlink()
    with pytest.raises(BadInput, match=r"keypoints\.json"):
        run(source, tiny)


def test_only_a_background_is_no_keypoint(tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "outputs"
    write_outputs(source, tiny)
    for path in source.glob("*.npy"):
        np.save(path, np.load(path)[:, -1:])
    reseal(source)
    with pytest.raises(BadInput, match="only the background"):
        run(source, tiny)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eyes": (1, 1)}, "two different"),
        ({"draws": 1}, "draws"),
        ({"few_shot": (0,)}, "few_shot"),
        ({"normaliser": "face"}, "normaliser"),
        ({"frame": "corner"}, "unknown key 'frame'"),
    ],
)
def test_bad_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        LandmarkSettings.parse(values, "here")


# ---------------------------------------------------------------------------- files


def files(
    tmp_path: Path, train: dict[str, Any] | None = None, test: dict[str, Any] | None = None
) -> tuple[Path, Path]:
    """Write good files with some arrays changed (None: left out)."""
    (inputs, landmarks, _), test_inputs, truth = make()
    arrays = {
        "train": {"points": inputs.reshape(-1, 4, 2), "landmarks": landmarks} | (train or {}),
        "test": {"points": test_inputs.reshape(-1, 4, 2), "landmarks": truth.landmarks}
        | (test or {}),
    }
    for name, values in arrays.items():
        kept = {key: value for key, value in values.items() if value is not None}
        np.savez(tmp_path / f"{name}.npz", **kept)
    return tmp_path / "train.npz", tmp_path / "test.npz"


def test_score_with_extra_visible_and_box(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(5)
    (inputs, landmarks, visible), test_inputs, truth = make()
    seen, seen_test = hide(visible, 0.3), hide(truth.visible, 0.3, seed=2)
    extra, extra_test = rng.normal(size=(120, 4, 3)), rng.normal(size=(40, 4, 3))
    box = rng.uniform(5, 9, (40, 4))
    paths = files(
        tmp_path,
        {"extra": extra, "visible": seen.astype(np.uint8)},
        {"extra": extra_test, "visible": seen_test, "box": box},
    )
    found = run_cli(capsys, *paths, "--normaliser", "box", "--intercept", "--seed", 4)
    x, x_test = (
        np.concatenate([a.reshape(-1, 4, 2), b], axis=2).reshape(len(a), -1)
        for a, b in ((inputs, extra), (test_inputs, extra_test))
    )
    distance = np.full(seen_test.shape, np.nan)
    for i in range(3):
        model = LinearRegression().fit(x[seen[:, i]], landmarks[seen[:, i], i])
        distance[:, i] = np.linalg.norm(model.predict(x_test) - truth.landmarks[:, i], axis=1)
    errors = 100 * np.where(seen_test, distance, np.nan) / np.sqrt(box[:, 2] * box[:, 3])[:, None]
    some = seen_test.any(1)
    assert found["value"] == pytest.approx(np.nanmean(errors[some], axis=1).mean())
    assert found["per_landmark"] == pytest.approx(np.nanmean(errors, axis=0))
    assert (found["metric"], found["unit"]) == ("box_error", "% of box")
    assert (found["inputs"], found["n_counted"]) == (20, some.sum())
    assert list(found["few_shot"]) == ["1", "5", "10", "100", "120"]
    assert found["few_shot"]["120"] == {"mean": pytest.approx(found["value"]), "sd": None}
    assert found["settings"]["intercept"] is True
    in_sides = score(*paths, intercept=True, normaliser="image", side=50.0, curve=False)
    expected = np.where(seen_test, 2 * distance, np.nan)[some]
    assert in_sides["value"] == pytest.approx(np.nanmean(expected, axis=1).mean())


def test_fewer_samples_than_unknowns_give_the_least_norm(tmp_path: Path) -> None:
    (inputs, landmarks, _), _, truth = make(n=5)
    paths = files(tmp_path, {"points": inputs.reshape(-1, 4, 2), "landmarks": landmarks})
    found = score(*paths, curve=False)
    test = np.load(paths[1])["points"].reshape(-1, 8)
    coef = np.linalg.pinv(inputs) @ landmarks.reshape(5, -1)
    truth = Truth(np.load(paths[1])["landmarks"], np.ones((40, 3), bool), np.ones(40))
    eyes = np.linalg.norm(truth.landmarks[:, 0] - truth.landmarks[:, 1], axis=1)
    errors = truth._replace(normaliser=eyes).errors((test @ coef).reshape(-1, 3, 2))
    assert found["value"] == pytest.approx(errors.mean())
    assert (found["rank"], found["inputs"]) == (5, 8)


def points_with(row: int, value: float) -> NDArray[np.float64]:
    return with_value(np.random.default_rng(0).normal(size=(120, 4, 2)), (row, 1, 0), value)


def faces_with(change: Callable[[NDArray[Any]], Any]) -> NDArray[np.float64]:
    landmarks = make()[2].landmarks.copy()
    change(landmarks)
    return landmarks


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"points": points_with(7, np.nan)}, {}, "train.npz: points: row 7, keypoint 1 is"),
        ({"points": None, "point": np.ones(3)}, {}, "no array named points.*\n.*'points'"),
        ({"points": np.ones((120, 8))}, {}, r"train.npz: points: .* shape \[120, 8\]"),
        ({"points": np.ones((119, 4, 2))}, {}, "119 rows of points, 120 of landmarks"),
        ({"points": np.full((120, 4, 2), "a")}, {}, "plain numbers"),
        ({}, {"points": np.ones((40, 3, 2))}, r"of shape \[4, 2\], test images \[3, 2\]"),
        ({}, {"landmarks": np.ones((40, 2, 2))}, r"landmarks of shape \[3, 2\], test images"),
        ({"extra": np.ones((120, 3, 1))}, {}, "extra has 3 keypoints, points has 4"),
        ({"extra": np.ones((120, 4, 1))}, {}, r"of shape \[4, 3\], test images \[4, 2\]"),
        ({"visible": np.ones((120, 2))}, {}, r"train.npz: visible has shape \[120, 2\]"),
        ({"visible": np.zeros((120, 3))}, {}, "train.npz: no landmark is visible"),
        ({"visible": np.eye(3)[np.zeros(120, int)]}, {}, "train.npz: landmark 1 is visible in no"),
        ({}, {"visible": np.ones((40, 3)) * [1, 1, 0]}, "test.npz: landmark 2 is visible in no"),
        ({}, {"visible": np.ones((40, 3)) * [0, 1, 1]}, "test.npz: landmark 0 is visible in no"),
        (
            {},
            {"landmarks": faces_with(lambda x: np.copyto(x[6, 1], x[6, 0]))},
            "test.npz: row 6 has both eyes at",
        ),
        (
            {},
            {"landmarks": faces_with(lambda x: x[9, 2].fill(np.nan))},
            r"test.npz: row 9 has landmark 2 at \[nan, nan\]",
        ),
        (
            {},
            {"visible": np.concatenate([np.ones((1, 3)), np.ones((39, 3)) * [1, 0, 1]])},
            "1 image that counts",
        ),
    ],
)
def test_bad_files(
    tmp_path: Path, train: dict[str, Any], test: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        score(*files(tmp_path, train, test), curve=False)


def test_bad_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(path) for path in files(tmp_path)]
    for arguments, message in (
        (paths[:1], "takes two files"),
        ([*paths, "--normaliser", "box"], "no array named box"),
        ([*paths, "--normaliser", "image"], "needs the image's side"),
        ([*paths, "--normaliser", "image", "--side", "0"], "--side is 0"),
    ):
        assert main(["score", "landmarks", *arguments]) == 1
        assert message in capsys.readouterr().err
    for arguments in (["linear", *paths, "--intercept"], ["landmarks", *paths, "--settings", "{}"]):
        with pytest.raises(SystemExit):
            main(["score", *arguments])
