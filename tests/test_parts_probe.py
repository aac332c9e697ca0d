"""The parts probe: labels against pixels and landmarks, and the regression from centres."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import test_cub
import torch
from conftest import prepare_toy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sealed import meta_of, reseal
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from partbench import method as methods
from partbench import plugins, published
from partbench.config import check, probe_settings
from partbench.data.batch import Batch
from partbench.data.loader import Loader, Schedule
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.extract import extract
from partbench.integrity import write_record
from partbench.method import DataInfo, Method, StepFreeMethod
from partbench.metrics.ceilings import grouping_table
from partbench.metrics.intervals import jackknife, over_seeds_and_samples
from partbench.metrics.parts import consistency, dominant
from partbench.model import load_model
from partbench.names import version_of
from partbench.nn.tps import STRONG, ThinPlateSpline, similarity, warp
from partbench.outputs import part_maps
from partbench.outputs.part_maps import PartMapCapability, PartMaps
from partbench.probe import Metric, Result
from partbench.probe import measure as measure_cell
from partbench.probes.parts import EXACT, MEASURES, Parts, PartSettings
from partbench.run import Run, Runtime
from partbench.testing import trained
from partbench.train import train

SIZE = 32


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy with the creatures as foreground."""
    data = prepare_toy(tmp_path_factory.mktemp("masked"))
    for split in ("train", "test"):
        np.save(data / f"{split}.mask.npy", np.load(data / f"{split}.parts.npy") > 0)
    return reseal(data)


def true_parts(data: Path) -> NDArray[np.uint8]:
    return np.load(data / "test.parts.npy")


def outputs(
    folder: Path,
    data: Path,
    labels: NDArray[Any],
    foreground: NDArray[Any] | str = "mask",
    k: int | None = None,
) -> Path:
    """Write what `extract` would of these labels of the test images; the centres are random."""
    folder.mkdir(exist_ok=True)
    k = int(labels.max()) + 1 if k is None else k
    np.save(folder / "test.labels.npy", labels.astype(np.uint8))
    np.save(folder / "test.agreement.npy", np.full(len(labels), 0.75, np.float32))
    if not isinstance(foreground, str):
        np.save(folder / "test.foreground.npy", foreground)
    own = foreground if isinstance(foreground, str) else "own"
    (folder / "parts.json").write_text(json.dumps({"k": k, "foreground": own}))
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        n = len(Prepared(data).split(name))
        centres = rng.uniform(0, SIZE, (n, k, 2)).astype(np.float32)
        np.save(folder / f"{name}.centres.npy", centres)
        np.save(folder / f"{name}.mass.npy", np.ones((n, k), np.float32))
    return reseal(folder)


def measure(source: Path, data: Path, **changes: Any) -> Result:
    return Parts().run(source, data, PartSettings.parse(changes, "test"), 0, "cpu")


def found(result: Result) -> dict[tuple[str, str], Metric]:
    table = {(m.metric, str(m.setting)): m for m in result.metrics}
    assert len(table) == len(result.metrics)
    return table


def value(result: Result, metric: str, setting: str) -> float:
    return found(result)[metric, setting].value


def test_numbers_are_those_of_all_pixels_together(masked: Path, tmp_path: Path) -> None:
    true = true_parts(masked)
    true[:, :3] = 255  # what is to be left out
    rng = np.random.default_rng(1)
    labels = np.where(rng.random(true.shape) < 0.5, true % 5, rng.integers(0, 5, true.shape))
    own = rng.random(true.shape) < 0.8
    data = copy_with(masked, tmp_path / "data", parts=true)
    result = measure(outputs(tmp_path / "out", data, labels, own), data)
    inside, counts = (true > 0) & (true < 255), true < 255
    full = np.where(own, labels + 1, 0)
    for name, score in (("nmi", normalized_mutual_info_score), ("ari", adjusted_rand_score)):
        expected = 100 * score(true[inside], labels[inside])
        assert value(result, f"fg_{name}", "K = 5") == pytest.approx(expected, rel=1e-9)
        expected = 100 * score(true[counts], full[counts])
        assert value(result, name, "K = 5, own foreground") == pytest.approx(expected, rel=1e-9)
        each = [100 * score(t[i], p[i]) for t, p, i in zip(true, labels, inside, strict=True)]
        mean = value(result, f"fg_{name}_per_image", "K = 5")
        assert mean == pytest.approx(np.mean(each), rel=1e-9)
    assert result.details["labels"] == ["background", *Prepared(data).meta["part_names"]]
    assert np.sum(result.details["table"]) == counts.sum()
    assert np.array(result.details["table"])[:, 0].sum() == (counts & ~own).sum()


def copy_with(data: Path, to: Path, **arrays: NDArray[Any]) -> Path:
    """Return a copy of a prepared data set with other annotations of the test images."""
    to.mkdir()
    for path in data.iterdir():
        (to / path.name).symlink_to(path)
    for kind, array in arrays.items():
        (to / f"test.{kind}.npy").unlink(missing_ok=True)
        np.save(to / f"test.{kind}.npy", array)
    return reseal(to)


def test_perfect_labels_reach_everything(masked: Path, tmp_path: Path) -> None:
    true = true_parts(masked)
    result = measure(outputs(tmp_path, masked, np.maximum(true, 1) - 1), masked)
    for name in ("nmi", "ari", "mean_iou"):
        for ruler, setting in (("fg_", "K = 6"), ("", "K = 6, ground-truth mask")):
            assert value(result, f"{ruler}{name}", setting) == pytest.approx(100)
            assert value(result, f"oracle_{ruler}{name}", setting) == pytest.approx(100)
    assert value(result, "part_consistency", "K = 6") == pytest.approx(100)
    assert value(result, "equivariance_agreement", "K = 6") == pytest.approx(75)
    assert result.details["oracle groups"] == [[n] for n in Prepared(masked).meta["part_names"]]


def test_constant_labels_say_nothing(masked: Path, tmp_path: Path) -> None:
    labels = np.zeros_like(true_parts(masked))
    result = measure(outputs(tmp_path, masked, labels, k=1), masked)
    for name in ("nmi", "ari", "oracle_fg_nmi"):
        ruler = "" if name.startswith("oracle") else "fg_"
        assert value(result, f"{ruler}{name}", "K = 1") == 0
    # The mask alone finds the background: why the setting says whose it was.
    assert value(result, "ari", "K = 1, ground-truth mask") > 50
    assert all(np.isfinite(metric.value) for metric in result.metrics)


def test_names_of_parts_do_not_matter(masked: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    true = true_parts(masked)
    labels = (true + rng.integers(0, 2, true.shape)) % 4
    one = measure(outputs(tmp_path / "one", masked, labels), masked)
    other = measure(outputs(tmp_path / "other", masked, rng.permutation(4)[labels]), masked)
    for key, metric in found(one).items():
        if "landmark_error" not in key[0]:
            assert found(other)[key].value == pytest.approx(metric.value, abs=1e-9), key


def test_random_labels_are_worth_nothing(masked: Path, tmp_path: Path) -> None:
    labels = np.random.default_rng(3).integers(0, 4, true_parts(masked).shape)
    result = measure(outputs(tmp_path, masked, labels), masked)
    assert abs(value(result, "fg_nmi", "K = 4")) < 0.5
    assert abs(value(result, "fg_ari", "K = 4")) < 0.5
    assert 60 < value(result, "oracle_fg_nmi", "K = 4") < 100


def test_every_setting_names_k(masked: Path, tmp_path: Path) -> None:
    labels = np.random.default_rng(4).integers(0, 3, true_parts(masked).shape)
    result = measure(outputs(tmp_path, masked, labels, k=7), masked)
    assert all("K = 7" in str(metric.setting).split(", ") for metric in result.metrics)


def test_without_a_foreground_there_is_no_background(masked: Path, tmp_path: Path) -> None:
    labels = true_parts(masked) % 3
    result = measure(outputs(tmp_path, masked, labels, "none"), masked)
    assert {m.metric for m in result.metrics}.isdisjoint({"nmi", "ari", "mean_iou"})
    assert not result.details["background column"]
    assert result.details["labels"][0] != "background"


@pytest.mark.parametrize(
    ("made_with", "fg", "full"),
    [
        ({"foreground": "box"}, "K = 2", "K = 2, box as foreground"),
        (
            {"legacy_labels": "bilinear"},
            "K = 2, bilinear labels",
            "K = 2, ground-truth mask, bilinear labels",
        ),
    ],
)
def test_settings_say_how_the_data_were_made(
    made_with: dict[str, str], fg: str, full: str, masked: Path, tmp_path: Path
) -> None:
    data = copy_with(masked, tmp_path / "data")
    reseal(data, settings=meta_of(data)["settings"] | made_with)
    result = measure(outputs(tmp_path / "out", data, true_parts(data) % 2), data)
    assert {("fg_nmi", fg), ("nmi", full)} <= set(found(result))


def test_settings_say_what_departs_from_the_authors_preparation(tmp_path: Path) -> None:
    root = test_cub.make(tmp_path)
    values = {"points": "exact", "mask_resize": "nearest", "border": "kept"}
    for i, changes in enumerate([{}, values, *({key: v} for key, v in values.items())]):
        reader = test_cub.reader(root, size=24, crop="whole", foreground="box", **changes)
        data = test_cub.prepare_one(reader, tmp_path / str(i)).folder
        source = outputs(tmp_path / f"out{i}", data, np.zeros((2, 48, 48), int), k=2)
        for metric in measure(source, data, pooled_classes=[]).metrics:
            if metric.metric != "equivariance_agreement":
                departures = metric.setting.record().get("departures", [])
                assert len(departures) == len(changes), (changes, metric)


def settings_of_the_paper(dataset: str) -> set[tuple[str, str]]:
    claims = [c for c in published.load() if c.has_run and c.probe == "parts"]
    return {(c.metric, c.words) for c in claims if version_of(c.eval) == dataset}


def test_what_the_paper_measures_is_measured_here(birds: Path, tmp_path: Path) -> None:
    """The names of the published rows are those of the probe, or no number would meet its own."""
    labels = np.zeros((2, 48, 48), int)
    data = copy_with(birds, tmp_path / "data")
    meta = meta_of(data)
    meta["class_names"] = [*meta["class_names"], *(f"class {i}" for i in range(3, 201))]
    known = set()
    for number, (crop, foreground) in enumerate(
        [("whole", labels == 0), ("whole", "mask"), ("tight", "mask")]
    ):
        source = outputs(tmp_path / str(number), birds, labels, foreground, k=4)
        # The square that such images lie in is twice as wide.
        settings_ = meta["settings"] | {"crop": crop, "size": 24, "classes": []}
        predicted = {"foreground": {"by": "a run"}} if isinstance(foreground, str) else {}
        write_record(data / "meta.json", meta | {"settings": settings_} | predicted)
        known |= set(found(measure(source, data, pooled_classes=[1, 2])))
    # CUB-003 has no images in the miniature, and the baselines have one part.
    missing = settings_of_the_paper("cub") - known
    assert {name for name in missing if "K = 4" in name[1]} == {
        ("landmark_error", "CUB-003, K = 4, whole images")
    }
    assert {(metric, words.replace("K = 1", "K = 4")) for metric, words in missing} - known == {
        ("landmark_error", "CUB-003, K = 4, whole images")
    }


def test_what_the_paper_measures_on_deepfashion(masked: Path, tmp_path: Path) -> None:
    true = true_parts(masked)
    source = outputs(tmp_path / "out", masked, true % 4, true > 0)
    data = copy_with(masked, tmp_path / "data")
    reseal(data, settings=meta_of(data)["settings"] | {"legacy_labels": "bilinear"})
    known = set(found(measure(source, masked))) | set(found(measure(source, data)))
    reseal(data, foreground={"by": "a run"})
    told = outputs(tmp_path / "told", masked, true % 4)
    known |= set(found(measure(told, data)))
    assert settings_of_the_paper("deepfashion") <= known


def test_the_legacy_number_of_the_paper_is_of_a_predicted_foreground(
    birds: Path, tmp_path: Path
) -> None:
    data = copy_with(birds, tmp_path / "data")
    labels = np.random.default_rng(8).integers(0, 3, (2, 48, 48))
    source = outputs(tmp_path / "out", data, labels)

    def legacy() -> dict[str, Any]:
        metrics = measure(source, data, pooled_classes=[]).metrics
        (one,) = (m.setting.record() for m in metrics if getattr(m.setting, "legacy", False))
        return one

    paper = {"k": 3, "crop": "stretch", "legacy": True}
    assert legacy() == paper | {"foreground": "box"}
    reseal(data, settings=meta_of(data)["settings"] | {"foreground": "masks"})
    assert legacy() == paper | {"foreground": "mask"}
    reseal(data, foreground={"by": "a run"})
    assert legacy() == paper


def test_oracles_and_constants_are_references(masked: Path, birds: Path, tmp_path: Path) -> None:
    """They are the same for every method, so that none is judged by them."""
    rng = np.random.default_rng(11)
    true = true_parts(masked)
    for data, shape in ((masked, true.shape), (birds, (2, 48, 48))):
        several = [
            measure(
                outputs(tmp_path / f"{data.name}{i}", data, rng.integers(0, 4, shape), k=4),
                data,
                pooled_classes=[],
            )
            for i in range(2)
        ]
        constants = {m.metric for m in several[0].metrics if m.reference}
        assert {m for m, _ in found(several[0]) if m.startswith(("oracle", "const"))} == constants
        assert "constant_landmark_error" in constants
        for key, metric in found(several[0]).items():
            if metric.reference:
                assert found(several[1])[key].value == pytest.approx(metric.value)
                assert (metric.note == EXACT) == key[0].endswith(("nmi", "ari"))


def test_oracles_are_the_best_groupings(masked: Path, tmp_path: Path) -> None:
    """Both oracles are the best of all groupings, one by one."""
    true = np.zeros_like(true_parts(masked))
    sizes = np.array([9, 6, 5, 4, 3, 2]) * 100
    flat = true.reshape(-1)
    flat[: sizes.sum()] = np.repeat(np.arange(1, 7), sizes)
    data = copy_with(masked, tmp_path / "data", parts=true)
    for k in (2, 3, 4):
        result = measure(outputs(tmp_path / str(k), data, true % k, "none", k=k), data)
        for name, measured in MEASURES.items():
            tables = [
                grouping_table(np.append(0, sizes), np.append(-1, groups))
                for groups in np.ndindex(*[k] * 6)
            ]
            best = 100 * float(measured(np.array([pad(t, k) for t in tables])).max())
            assert value(result, f"oracle_fg_{name}", f"K = {k}") == pytest.approx(best)


def pad(table: NDArray[Any], k: int) -> NDArray[Any]:
    return np.pad(table, ((0, 0), (0, k - table.shape[1])))


def test_the_outcomes_by_image_have_the_value_as_mean(masked: Path, tmp_path: Path) -> None:
    true = true_parts(masked)
    noise = np.random.default_rng(5).integers(0, 6, true.shape)
    result = measure(outputs(tmp_path, masked, np.where(noise < 3, true % 4, noise % 4)), masked)
    assert set(result.samples) == {metric.samples for metric in result.metrics}
    for metric in result.metrics:
        outcomes = result.samples[metric.samples].to_numpy()
        assert np.nanmean(outcomes) == pytest.approx(metric.value)
    # The jackknife's interval and the bootstrap's are two estimates of one thing.
    for name in ("fg_nmi, K = 4", "fg_ari, K = 4", "nmi, K = 4, ground-truth mask"):
        low, high = result.details["bootstrap95"][name]
        interval = over_seeds_and_samples(result.samples[name].to_numpy()[None])
        assert high - low == pytest.approx(interval.high - interval.low, rel=0.4)


@given(seed=st.integers(0, 99), n=st.integers(2, 12))
@settings(max_examples=20)
def test_the_jackknife_of_a_mean_is_the_mean(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=n)
    sums = np.stack([values, np.ones(n)], axis=1)
    np.testing.assert_allclose(jackknife(lambda s: s[:, 0] / s[:, 1], sums), values)


def test_the_jackknife_of_a_ratio_leaves_empty_samples_out() -> None:
    sums = np.array([[1.0, 2.0], [0, 0], [3, 1], [2, 2]])
    outcomes = jackknife(lambda s: s[:, 0] / s[:, 1], sums)
    assert np.isnan(outcomes[1])
    without = np.array([5 / 3, 3 / 4, 4 / 3])
    expected = 6 / 5 + 2 * (without.mean() - without)
    np.testing.assert_allclose(outcomes[[0, 2, 3]], expected)
    np.testing.assert_allclose(jackknife(lambda s: s[:, 0] / s[:, 1], sums[:2]), [0.5, np.nan])


def test_consistency_by_hand() -> None:
    tables = np.zeros((4, 3, 2), int)  # four images, three true labels, two parts
    tables[0, :, 0] = [5, 1, 0]
    tables[1, :, 0] = [4, 0, 3]
    tables[2, :, 0] = [0, 9, 0]
    tables[3, :, 0] = [99, 0, 0]
    tables[:3, 2, 1] = [6, 1, 8]
    tables[3, 0, 1] = 1  # a hundredth of the image
    votes = dominant(tables, 0.02)
    assert votes[:, 0].tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert votes[:, 1].tolist() == [[0, 0, 1]] * 3 + [[0, 0, 0]]
    assert consistency(votes.sum(0)) == pytest.approx((3 / 4 + 1) / 2)
    assert consistency(dominant(tables, 0.005).sum(0)) == pytest.approx(3 / 4)


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature CUB, stretched images, boxes as foreground."""
    root = tmp_path_factory.mktemp("birds")
    reader = test_cub.reader(test_cub.make(root), size=48, crop="stretch", foreground="box")
    test_cub.prepare_one(reader, root / "cub")
    return root / "cub"


def test_labels_at_the_landmarks_of_birds(birds: Path, tmp_path: Path) -> None:
    split = Prepared(birds).split("test")
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 3, (len(split), 48, 48))
    own = rng.random(labels.shape) < 0.6
    result = measure(outputs(tmp_path, birds, labels, own), birds, pooled_classes=[])
    true, pred, full = [], [], []
    for i, (points, visible) in enumerate(
        zip(split.annotation("landmarks"), split.annotation("visible"), strict=True)
    ):
        for number in np.flatnonzero(visible):
            x, y = (round(float(c) - 0.5) for c in points[number])  # to even, as Python does
            true.append(number)
            pred.append(labels[i, y, x])
            full.append(labels[i, y, x] + 1 if own[i, y, x] else 0)
    assert len(true) > 10
    whole = "K = 3, stretched images"
    for name, score in (("nmi", normalized_mutual_info_score), ("ari", adjusted_rand_score)):
        expected = 100 * score(true, pred)
        assert value(result, f"fg_{name}", whole) == pytest.approx(expected, rel=1e-9)
        expected = 100 * score(true, full)
        full_setting = "K = 3, own foreground, stretched images"
        assert value(result, name, full_setting) == pytest.approx(expected, rel=1e-9)
    legacy = value(
        result, "fg_ari", "K = 3, own foreground, stretched images, legacy: labels with background"
    )
    assert legacy == value(result, "ari", full_setting)
    assert legacy != pytest.approx(value(result, "fg_ari", whole))
    assert result.details["at"] == "landmarks"
    assert result.details["labels"] == list(test_cub.LANDMARKS)
    assert "fg_mean_iou" not in {metric.metric for metric in result.metrics}


def test_landmarks_outside_of_the_image_are_on_the_background(birds: Path, tmp_path: Path) -> None:
    landmarks = np.full_like(Prepared(birds).split("test").annotation("landmarks"), 99)
    data = copy_with(birds, tmp_path / "data", landmarks=landmarks)
    labels = np.ones((2, 48, 48), int)
    # The first column is the background's where somebody knows it, else part 0's.
    for foreground in (np.ones(labels.shape, bool), "none"):
        source = outputs(tmp_path / f"out{len(foreground)}", data, labels, foreground)
        result = measure(source, data, pooled_classes=[])
        assert result.details["background column"] == (len(foreground) == 2)
        table = np.array(result.details["table"])
        assert table[:, 0].sum() == table.sum() > 0


def test_the_regression_from_centres(birds: Path, tmp_path: Path) -> None:
    """A part that lies on a landmark predicts the landmarks at constant offsets without error."""
    labels = np.zeros((2, 48, 48), int)
    source = outputs(tmp_path, birds, labels, k=2)
    for name in ("train", "test"):
        split = Prepared(birds).split(name)
        seen = split.annotation("landmarks")[:, :2]
        np.save(source / f"{name}.centres.npy", seen.astype(np.float32))
    reseal(source)
    result = measure(source, birds, pooled_classes=[1, 2])
    settings_ = [s for metric, s in found(result) if metric == "landmark_error"]
    assert settings_ == [
        *("CUB-001, K = 2, stretched images", "CUB-002, K = 2, stretched images"),
        "2 classes, K = 2, stretched images",
    ]
    assert set(result.details["landmarks"]) == set(settings_)
    errors = result.details["landmarks"]["2 classes, K = 2, stretched images"]
    assert list(errors) == list(test_cub.LANDMARKS)
    assert errors["back"] == pytest.approx(0, abs=1e-4)
    assert errors["tail"] is None  # no training image shows it
    metric = found(result)["landmark_error", settings_[0]]
    assert (metric.unit, metric.better, metric.n) == ("% of box", "lower", 1)
    assert [m for m, s in found(result) if s == settings_[0]] == [
        *("landmark_error", "constant_landmark_error")
    ]


@pytest.fixture(scope="module")
def albatrosses(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CUB-001, 002 and 003, real images stretched to squares."""
    reader = test_cub.reader(shared_data, size=16, crop="stretch", classes=[1, 2, 3], subset=True)
    out = tmp_path_factory.mktemp("albatrosses") / "cub"
    if not all(reader.present(split) for split in ("train", "test")):
        pytest.skip("no images of these classes are there")
    return test_cub.prepare_one(reader, out).folder


@pytest.mark.parametrize(
    ("points", "published"),
    [
        (slice(0, 15), (20.9, 22.5, 19.9)),  # Choudhury et al., Table 1, "GT keypoint avg"
        (slice(14, 15), (16.4, 14.9, 15.3)),  # "throat keypoint only"
    ],
)
def test_the_paper_s_baselines_through_preparation(
    points: slice, published: tuple[float, ...], albatrosses: Path, tmp_path: Path
) -> None:
    """Errors are shares of the box, so a stretched image of 16 pixels changes none of them."""
    prepared = Prepared(albatrosses)
    assert not prepared.meta["subset"]
    n = len(prepared.split("test"))
    source = outputs(tmp_path, albatrosses, np.zeros((n, 16, 16), int), "none")
    for name in ("train", "test"):
        # Landmarks that are not visible are pixel (0, 0) of the original, as in the paper's code.
        landmarks = prepared.split(name).annotation("landmarks")[:, points]
        np.save(source / f"{name}.centres.npy", landmarks.mean(1, keepdims=True))
    reseal(source)
    result = measure(source, albatrosses)
    for bird, error, constant in zip((1, 2, 3), published, (28.5, 27.4, 29.2), strict=True):
        setting = f"CUB-00{bird}, K = 1, stretched images"
        assert value(result, "landmark_error", setting) == pytest.approx(error, abs=0.1)
        found_ = value(result, "constant_landmark_error", setting)
        assert found_ == pytest.approx(constant, abs=0.06)


def test_on_cub_centres_count_from_pixel_1(birds: Path, tmp_path: Path) -> None:
    values = {
        "name": "x",
        "seeds": [0],
        "data": {"cub-fg": {"reader": "cub"}, "toy": {"reader": "toy"}},
    }
    block = {"train": "toy", "methods": {"random_parts": ["paper"]}, "probes": {"parts": ["toy"]}}
    config = check(values | {"runs": [block]}, "test")
    of = {name: probe_settings(config, "parts", name) for name in ("cub-fg", "toy")}
    assert of["cub-fg"] == PartSettings(first_pixel=1)
    assert of["toy"] == PartSettings()
    source = outputs(tmp_path, birds, np.zeros((2, 48, 48), int), k=2)
    for name in ("train", "test"):
        centres = np.load(source / f"{name}.centres.npy")
        np.save(source / f"{name}.moved.npy", centres + 1)
    from_1 = measure(source, birds, first_pixel=1, pooled_classes=[])
    for name in ("train", "test"):
        np.save(source / f"{name}.centres.npy", np.load(source / f"{name}.moved.npy"))
    reseal(source)
    moved = measure(source, birds, pooled_classes=[])
    assert from_1.details["landmarks"] == moved.details["landmarks"]


def test_absent_parts_lie_at_the_origin_or_nowhere(masked: Path, tmp_path: Path) -> None:
    source = outputs(tmp_path, masked, true_parts(masked) % 4)
    rng = np.random.default_rng(7)
    absent = {}
    for name in ("train", "test"):
        mass = rng.random((len(Prepared(masked).split(name)), 4)).astype(np.float32)
        absent[name] = mass < 0.3
        np.save(source / f"{name}.mass.npy", np.where(absent[name], 0, mass))
    reseal(source)

    def errors() -> dict[str, Any]:
        return {rule: measure(source, masked, absent=rule).details for rule in ("origin", "mean")}

    before = errors()
    for name, where in absent.items():
        centres = np.load(source / f"{name}.centres.npy")
        np.save(source / f"{name}.centres.npy", np.where(where[..., None], 5, centres))
    reseal(source)
    assert errors() == before  # where a part without mass lies does not matter
    assert before["origin"]["landmarks"] != before["mean"]["landmarks"]


def test_a_real_floor_from_end_to_end(masked: Path, tmp_path: Path) -> None:
    run = Run("random_parts", "k8", "toy", 0)
    made = methods.resolve(methods.load("random_parts"), "k8", {}, "test")
    cpu = Runtime(device="cpu", threads=1, precision="32-true")
    train(run, made, cpu, masked, tmp_path / "run")
    out = tmp_path / "out"
    extract(tmp_path / "run" / "model.pt", masked, ["part_maps"], out, tmp_path / "p.npz", "cpu", 1)
    result = measure(out, masked)
    assert value(result, "fg_nmi", "K = 8") < 10
    assert value(result, "part_consistency", "K = 8") < 50
    assert value(result, "equivariance_agreement", "K = 8") < 40
    floor = value(result, "constant_landmark_error", "all, K = 8, centre crops")
    assert value(result, "landmark_error", "all, K = 8, centre crops") > 0.9 * floor


def test_a_cell_has_what_the_summary_reads(masked: Path, tmp_path: Path) -> None:
    source = outputs(tmp_path / "out", masked, true_parts(masked) % 3)
    run, cell = Run("random_parts", "paper", "toy", 0), tmp_path / "parts.json"
    cpu = Runtime(device="cpu", threads=1, precision="32-true")
    measure_cell(Parts(), run, source, masked, PartSettings(), cpu, cell)
    record, samples = json.loads(cell.read_text()), pd.read_parquet(cell.with_suffix(".parquet"))
    assert len(samples) == len(true_parts(masked))
    for metric in record["metrics"]:
        outcomes = samples[metric["samples"]]
        assert outcomes.mean() == pytest.approx(metric["value"])
        assert outcomes.notna().sum() == metric["n"]


def test_a_real_ceiling_from_end_to_end(masked: Path, tmp_path: Path) -> None:
    run = Run("supervised_parts", "demo", "toy", 0)
    cls: Any = methods.load("supervised_parts")
    made = methods.resolve(cls, "demo", {"epochs": 40, "batch_size": 8, "depth": 3}, "test")
    cpu = Runtime(device="cpu", threads=1, precision="32-true")
    train(run, made, cpu, masked, tmp_path / "run")
    _, method = load_model(tmp_path / "run" / "model.pt", "cpu")
    counts = np.bincount(np.load(masked / "train.parts.npy").ravel(), minlength=7)
    taught: Any = method
    assert taught.target_of[0] == 0
    groups = [taught.target_of[part].item() for part in range(1, 7)]
    assert set(groups) == {1, 2, 3, 4}
    assert (taught.target_of[7:] == -1).all()
    assert len({groups[i] for i in np.argsort(counts[1:])[:2]}) == 1  # the smallest are one
    out = tmp_path / "out"
    extract(tmp_path / "run" / "model.pt", masked, ["part_maps"], out, tmp_path / "p.npz", "cpu", 1)
    result = measure(out, masked)
    assert value(result, "oracle_fg_nmi", "K = 4") > value(result, "fg_nmi", "K = 4") > 30
    assert value(result, "ari", "K = 4, own foreground") > 50
    assert value(result, "part_consistency", "K = 4") > 60


@pytest.mark.parametrize("flip", [False, True])
def test_parts_reach_training_with_their_images(flip: bool, masked: Path) -> None:
    split = Prepared(masked).split("train")
    values = methods.resolve(methods.load("supervised_parts"), "demo", {"flip": flip}, "test")
    schedule = Schedule(len(split), values, 0)
    batch = next(Loader(split, schedule, torch.device("cpu"), "parts").batches())
    rows = schedule.indices(0)
    images, parts = split.images[rows], split.annotation("parts")[rows]
    mirrored = 0
    assert batch.parts is not None
    for i, (image, known) in enumerate(zip(batch.images, batch.parts.numpy(), strict=True)):
        there = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        turned = not np.array_equal(there, images[i])
        np.testing.assert_array_equal(there, images[i][:, ::-1] if turned else images[i])
        np.testing.assert_array_equal(known, parts[i][:, ::-1] if turned else parts[i])
        mirrored += turned
    assert (mirrored > 0) == flip


def test_nothing_to_be_told(masked: Path, tmp_path: Path) -> None:
    cls: Any = methods.load("supervised_parts")
    method = cls(methods.resolve(cls, "demo", {}, "test"), DataInfo(32, 0))
    empty = Batch(torch.zeros(2, 3, 32, 32), None, parts=torch.zeros(2, 32, 32, dtype=torch.uint8))
    with pytest.raises(BadInput, match="no training image has a labelled part"):
        method.fit(lambda: iter([empty]))


def drop(name: str) -> Any:
    return lambda source, data: (source / name).unlink()


def save(name: str, array: NDArray[Any]) -> Any:
    return lambda source, data: np.save(source / name, array)


def write(name: str, text: str) -> Any:
    return lambda source, data: (source / name).write_text(text)


def without(*kinds: str) -> Any:
    def change(source: Path, data: Path) -> None:
        for kind in kinds:
            (data / f"test.{kind}.npy").unlink()

    return change


def replaced(kind: str, array: NDArray[Any]) -> Any:
    def change(source: Path, data: Path) -> None:
        (data / f"test.{kind}.npy").unlink()
        np.save(data / f"test.{kind}.npy", array)

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            drop("test.labels.npy"),
            r"test.labels.npy is damaged.*No such file.*out and run the same command",
        ),
        (drop("parts.json"), "parts.json is damaged.*cannot be read"),
        (write("parts.json", '{"k": 4}'), "no key 'foreground'"),
        (write("parts.json", '{"k": 4, "foreground": "sky"}'), "'sky'"),
        (write("parts.json", '{"k": 0, "foreground": "own"}'), "1 to 255 parts"),
        (write("parts.json", '{"k": "4", "foreground": "own"}'), "'4' parts"),
        (write("parts.json", '{"k": 2, "foreground": "none"}'), r"\[64, 4, 2\] .* and 2 parts"),
        (save("test.labels.npy", np.full((32, 32, 32), 7, np.uint8)), r"label 7, but .* 4 parts"),
        (write("parts.json", '{"k": 4, "foreground": "own"}'), r"test\.foreground\.npy"),
        (save("test.labels.npy", np.zeros((32, 16, 16), np.uint8)), r"\[32, 16, 16\]; expected"),
        (save("test.labels.npy", np.zeros((32, 32, 32))), "float64"),
        (save("test.agreement.npy", np.full(32, np.nan)), "no foreground in any image"),
        (save("test.agreement.npy", np.ones(5)), "for 32 test images"),
        (save("train.mass.npy", np.ones((64, 3))), "extract the run's outputs again"),
        (save("train.centres.npy", np.full((64, 4, 2), np.inf)), "finite"),
        (without("mask"), "has no mask"),
        (without("parts", "landmarks"), "neither parts nor landmarks"),
        (replaced("parts", np.zeros((32, 32, 32), np.uint8)), "no foreground in any image"),
        (replaced("parts", np.full((32, 32, 32), 9, np.uint8)), r"image 0: true has the label 9"),
        (replaced("parts", np.ones((32, 8, 8), np.uint8)), r"\[32, 8, 8\]"),
        (replaced("box", np.zeros((32, 4), np.float32)), "no box of positive area"),
    ],
)
def test_bad_input(damage: Any, message: str, masked: Path, tmp_path: Path) -> None:
    data = copy_with(masked, tmp_path / "data")
    source = outputs(tmp_path / "out", data, true_parts(data) % 4)
    damage(source, data)
    reseal(source)
    reseal(data)
    with pytest.raises(BadInput, match=message):
        measure(source, data)


def test_no_part_takes_enough_of_an_image(masked: Path, tmp_path: Path) -> None:
    labels = np.random.default_rng(9).integers(0, 4, true_parts(masked).shape)
    source = outputs(tmp_path, masked, labels)
    with pytest.raises(BadInput, match=r"no part takes 100% .* lower probes.parts.least_share"):
        measure(source, masked, least_share=1)


def test_landmarks_that_cannot_be_read(birds: Path, tmp_path: Path) -> None:
    data = copy_with(birds, tmp_path / "data")
    landmarks = np.array(Prepared(data).split("test").annotation("landmarks"))
    landmarks[0, 0] = np.nan
    source = outputs(tmp_path / "out", data, np.zeros((2, 48, 48), int))
    replaced("landmarks", landmarks)(source, data)
    reseal(data)
    with pytest.raises(BadInput, match="image 0 has a visible landmark that is not finite"):
        measure(source, data)
    replaced("visible", np.zeros(landmarks.shape[:2], bool))(source, data)
    reseal(data)
    with pytest.raises(BadInput, match="no visible landmark in any image"):
        measure(source, data)


def test_parts_of_images_at_their_own_aspect(tmp_path: Path) -> None:
    root = test_cub.make(tmp_path)
    square = test_cub.reader(root, size=24, crop="stretch", foreground="box")
    whole = test_cub.reader(root, size=24, crop="whole", foreground="box", border="kept")
    test_cub.prepare_one(square, tmp_path / "square")
    data = tmp_path / "cub"
    split = test_cub.prepare_one(whole, data).split("test")
    cls = methods.load("random_parts")
    run = Run("random_parts", "paper", "square", 0)
    made = cls.Settings.parse({"k": 3}, "test")
    train(run, made, Runtime(threads=1), tmp_path / "square", tmp_path / "run")
    model, out = tmp_path / "run" / "model.pt", tmp_path / "out"
    extract(model, data, ["part_maps"], out, tmp_path / "p.npz", "cpu", 1)
    labels = np.load(out / "test.labels.npy")
    assert labels.shape == (2, 48, 48)
    assert split.annotation("extent").tolist() == [[36, 24], [36, 24]]
    assert not labels[:, 24:].any()
    assert not labels[:, :, 36:].any()
    agreement = np.load(out / "test.agreement.npy")
    assert ((agreement >= 0) & (agreement <= 1)).all()
    # Each part's centre is the mean place of its pixels within the box.
    y, x = np.mgrid[:48, :48]
    inside = (labels[0] == 1) & split.annotation("mask")[0]
    expected = [x[inside].mean(), y[inside].mean()]
    np.testing.assert_allclose(np.load(out / "test.centres.npy")[0, 1], expected, rtol=1e-5)
    result = measure(out, data, pooled_classes=[])
    settings_ = {str(metric.setting) for metric in result.metrics}
    kept = "whole images, border kept"
    assert {f"K = 3, {kept}", f"K = 3, box as foreground, {kept}"} <= settings_
    with pytest.raises(BadInput, match="random_parts offers no features, but part_maps"):
        extract(model, data, ["part_maps", "features"], out, tmp_path / "p.npz", "cpu", 1)
    features = trained("random_init", tmp_path / "square", tmp_path / "floor", "demo")
    with pytest.raises(BadInput, match=r"keeps every image's aspect; features .* only part maps"):
        extract(features, data, ["features"], out, tmp_path / "p.npz", "cpu", 1)


class Halves:
    """Two parts, left and right, of images of any size."""

    mean = torch.zeros(1)

    def part_maps(self, images: torch.Tensor) -> PartMaps:
        width = images.shape[3]
        labels = (torch.arange(width) >= width / 2).long().expand(len(images), *images.shape[2:])
        return PartMaps(torch.stack([labels == 0, labels == 1], 1).float(), labels)


def test_pictures_of_images_at_their_own_aspect_show_what_is_measured(tmp_path: Path) -> None:
    whole = test_cub.reader(test_cub.make(tmp_path), size=24, crop="whole", border="kept")
    test_cub.prepare_one(whole, tmp_path / "cub")
    split = Prepared(tmp_path / "cub").split("test")
    assert split.annotation("extent").tolist() == [[36, 24], [36, 24]]
    parts = PartMapCapability().draw(Halves(), split, torch.device("cpu"))["parts"]
    assert parts.shape == (2, 48, 48)
    assert (parts[:, :24, :18] == 0).all()
    assert (parts[:, :24, 18:36] == 1).all()
    assert (parts[:, 24:] == 255).all()
    assert (parts[:, :, 36:] == 255).all()


class Otherwise(Halves):
    """Whose parts of whole images are its square parts the other way round."""

    def whole_part_maps(self, images: torch.Tensor) -> PartMaps:
        maps = self.part_maps(images)
        return PartMaps(maps.weights.flip(1), 1 - maps.labels)


@pytest.mark.parametrize("crop", ["whole", "stretch"])
def test_whole_images_are_measured_by_the_method_s_own_rule(
    crop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = test_cub.reader(test_cub.make(tmp_path), size=32, crop=crop, foreground="box")
    data = test_cub.prepare_one(reader, tmp_path / "cub")
    width = int(data.split("test").annotation("extent")[0, 0]) if crop == "whole" else 32
    monkeypatch.setattr(ThinPlateSpline, "draw", still)
    read = {}
    for method in (Halves(), Otherwise()):
        folder = tmp_path / type(method).__name__
        folder.mkdir()
        PartMapCapability().write(method, data, folder, torch.device("cpu"), "test")
        read[type(method)] = part_maps.read(reseal(folder), data)
    plain, other = read[Halves], read[Otherwise]
    assert (plain.labels[:, :32, :width] == other.labels[:, :32, :width]).all() == (
        crop == "stretch"
    )
    swapped = plain.centres["train"][:, :: -1 if crop == "whole" else 1]
    np.testing.assert_array_equal(other.centres["train"], swapped)
    # Without a warp every part stays where it is, in images of any shape.
    np.testing.assert_array_equal(other.agreement, 1)
    pictures = [
        PartMapCapability().draw(m, data.split("test"), torch.device("cpu"))["parts"]
        for m in (Halves(), Otherwise())
    ]
    assert np.array_equal(*pictures) == (crop == "stretch")


def still(warper: ThinPlateSpline, n: int, spread: Any) -> torch.Tensor:
    """The weights of warps that move nothing."""
    weights = torch.zeros(n, len(warper.control), 2)
    return similarity(weights, torch.zeros(n), torch.ones(n), torch.zeros(n, 2))


def test_warps_of_rectangles_against_loops() -> None:
    height, width = 6, 11
    warper = ThinPlateSpline((height, width), control=4)
    torch.manual_seed(0)
    weights = warper.draw(3, STRONG.times(2))
    grid = warper.grid(weights)
    assert grid.shape == (3, height, width, 2)
    control = [(x, y) for y in np.linspace(-1, 1, 4) for x in np.linspace(-1, 1, 4)]
    for n, row, column in np.ndindex(3, height, width):
        place = np.array([2 * column / (width - 1) - 1, 2 * row / (height - 1) - 1])
        squared = [((place - c) ** 2).sum() for c in control]
        terms = [*(r * np.log(r + 1e-5) for r in squared), 1, *place]
        expected = np.array(terms) @ weights[n].numpy()
        np.testing.assert_allclose(grid[n, row, column], expected, atol=1e-5)
    images = torch.rand(3, 2, height, width)
    identity = warper.grid(still(warper, 3, None))
    torch.testing.assert_close(warp(images, identity), images, rtol=0, atol=1e-5)
    square, sides = ThinPlateSpline(5), ThinPlateSpline((5, 5))
    torch.testing.assert_close(square.basis, sides.basis, rtol=0, atol=0)


PART_METHODS = [
    n for n in plugins.names("methods", Method) if hasattr(methods.load(n), "part_maps")
]


@pytest.mark.parametrize("name", PART_METHODS)
def test_part_maps_of_images_that_are_not_square(name: str) -> None:
    cls = methods.load(name)
    settings_ = methods.resolve(cls, "demo", {}, "test")
    torch.manual_seed(0)
    method: Any = cls(settings_, DataInfo(32, 0)).eval()
    if issubclass(cls, StepFreeMethod):
        squares = Batch(torch.rand(20, 3, 32, 32), None, None, torch.ones(20, 32, 32))
        method.fit(lambda: iter([squares]))
    with torch.inference_mode():
        found = part_maps.locator(method, True)(torch.rand(1, 3, 32, 48))
    k = found.weights.shape[1]
    assert found.weights.shape == (1, k, 32, 48)
    assert found.labels.shape == (1, 32, 48)
    assert 0 <= found.labels.min() <= found.labels.max() < k
    assert found.foreground is None or found.foreground.shape == (1, 32, 48)
