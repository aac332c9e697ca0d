"""The generation probe and its ruler: sets of images, good and useless, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import prepare_toy
from PIL import Image
from test_feature_networks import write_inception
from torch import Tensor

from partbench import cli
from partbench import method as methods
from partbench.data import archives
from partbench.data.archives import ARCHIVES
from partbench.data.batch import Batch
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.files import sha256
from partbench.methods.vae import VAE
from partbench.metrics import frechet
from partbench.metrics.generation import (
    density_coverage,
    inception_score,
    kernel_distance,
    log_probabilities,
    precision_recall,
)
from partbench.outputs import generated_images
from partbench.probe import Result, measure, read_cell
from partbench.probes.generation import (
    ENOUGH,
    Generation,
    GenerationSetting,
    GenerationSettings,
    metric_name,
)
from partbench.report.page import environment
from partbench.report.read import CellRecord
from partbench.report.section import MethodRecord, Task, sections
from partbench.run import Run, Runtime
from partbench.train import train

CPU = Runtime(device="cpu", threads=1)
FEW: dict[str, Any] = {"network": "random", "few": True, "draws": 3, "subsets": 5}


@pytest.fixture(scope="module")
def model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vae")
    changes = {"encoder_width": 8, "decoder_width": 8, "epochs": 1, "batch_size": 16}
    train(
        Run("vae", "demo", "toy", 0), methods.resolve(VAE, "demo", changes, "test"), CPU, tiny, out
    )
    return out / "model.pt"


def run(model: Path, data: Path, seed: int = 0, **settings: Any) -> Result:
    return Generation().run(model, data, GenerationSettings.parse(FEW | settings, "t"), seed, "cpu")


def values(result: Result, **setting: Any) -> dict[str, float]:
    wanted = GenerationSetting(**setting)
    return {m.metric: m.value for m in result.metrics if m.setting == wanted}


def copies(_: VAE, batch: Batch) -> Tensor:
    """Generate the images of the batch: the perfect generator."""
    return batch.images


def grey(_: VAE, batch: Batch) -> Tensor:
    return torch.full_like(batch.images, 0.5) + 1e-3 * torch.randn(len(batch.images), 1, 1, 1)


# What it measures.


def test_copies_are_perfect_and_grey_is_useless(
    model: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VAE, "generate", copies)
    best = values(run(model, tiny), n=32)
    monkeypatch.setattr(VAE, "generate", grey)
    worst = values(run(model, tiny), n=32)
    reference = best.pop("real_fd_random")
    assert worst.pop("real_fd_random") == reference
    assert reference > 0
    assert set(best) == {
        *("fd_random", "fd_infinity_random", "kd_random"),
        *("precision_random", "recall_random", "density_random", "coverage_random"),
    }
    assert best["fd_random"] == pytest.approx(0, abs=1e-6)
    assert abs(best["kd_random"]) < 0.1 * worst["kd_random"]
    assert best["precision_random"] == best["recall_random"] == best["coverage_random"] == 1
    assert worst["fd_random"] > 5 * reference
    assert worst["recall_random"] < 0.2
    assert worst["coverage_random"] < 0.2


def test_it_is_the_distance_of_the_images_that_the_model_generates(
    model: Path, tiny: Path, tmp_path: Path
) -> None:
    from partbench.model import load_model
    from partbench.nn.feature_networks import FeatureNetwork

    found = run(model, tiny, seed=5)
    _, method = load_model(model, "cpu")
    method.to(memory_format=torch.channels_last)
    test = Prepared(tiny).split("test")
    made: Any = method
    images = generated_images.write(
        made, test, 32, tmp_path / "i.npy", 5, torch.device("cpu"), "test"
    )
    network = FeatureNetwork("random", None, "cpu")
    features = [network(np.array(some)).features.numpy() for some in (images, test.images)]
    expected = frechet.distance_of_features(*features)
    assert values(found, n=32)["fd_random"] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(found.pictures["generated"], images[:24])
    np.testing.assert_array_equal(found.pictures["real"], test.images[:24])
    assert list(found.details["infinity"]) == ["n=32"]


def test_it_repeats_bit_for_bit_and_the_seed_counts(model: Path, tiny: Path) -> None:
    first, again, other = (run(model, tiny, seed=seed) for seed in (0, 0, 1))
    assert first.metrics == again.metrics
    assert values(first, n=32)["fd_random"] != values(other, n=32)["fd_random"]


def test_more_images_than_the_data_have(model: Path, tiny: Path) -> None:
    found = run(model, tiny, images=80)
    numbers = values(found, n=80)
    assert len(found.samples) == 32
    mean = found.samples["fd_random, n=80"].mean()
    assert numbers["fd_random"] == pytest.approx(mean)
    assert "real_fd_random" not in numbers  # there are 64 training images


def test_images_do_not_depend_on_how_many_there_are(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noise:
        learns_from = "images"

        def generate(self, batch: Batch) -> Tensor:
            return torch.rand(len(batch.images), 3, 4, 4)

    monkeypatch.setattr(generated_images, "BATCH", 10)
    test = Prepared(tiny).split("test")

    def made(n: int, seed: int = 0) -> np.ndarray:
        path = tmp_path / f"{n}.npy"
        device = torch.device("cpu")
        return np.array(generated_images.write(Noise(), test, n, path, seed, device, "test"))

    few, many = made(20), made(75)
    np.testing.assert_array_equal(few, many[:20])
    assert len(np.unique(many.reshape(75, -1), axis=0)) == 75
    assert not np.array_equal(few, made(20, seed=1))
    array = np.load(tmp_path / "75.npy", mmap_mode="r")
    assert array.shape == (75, 4, 4, 3)


def test_image_i_is_made_from_row_i(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Copies:
        learns_from = "images"

        generate = copies

    monkeypatch.setattr(generated_images, "BATCH", 10)
    test = Prepared(tiny).split("test")
    images = generated_images.write(
        Copies(), test, 70, tmp_path / "i.npy", 0, torch.device("cpu"), "test"
    )
    np.testing.assert_array_equal(images, np.array(test.images)[np.arange(70) % 32])


def test_the_legacy_contrast_is_a_number_of_its_own(
    model: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VAE, "generate", lambda _, batch: 0.25 + 0.5 * batch.images)
    found = run(model, tiny, stretched=True)
    plain, legacy = values(found, n=32), values(found, n=32, stretched=True)
    assert plain["fd_random"] > 1.5 * legacy["fd_random"]
    assert "real_fd_random" not in legacy
    shown = found.pictures["stretched"].reshape(24, -1)
    assert (shown.min(1) == 0).all()
    assert (shown.max(1) == 255).all()
    assert found.pictures["generated"].min() >= 63


def test_a_cell_is_whole_and_reads_back(model: Path, tiny: Path, tmp_path: Path) -> None:
    settings = GenerationSettings.parse(FEW, "test")
    out = tmp_path / "generation.json"
    measure(Generation(), Run("vae", "demo", "toy", 0), model, tiny, settings, CPU, out)
    record = read_cell(out)
    names = {metric["metric"]: metric["setting"] for metric in record["metrics"]}
    assert names["fd_random"] == {"n": 32}
    assert names["real_fd_random"] == {"n": 32}


def test_names_say_the_network_and_settings_the_rest() -> None:
    assert [metric_name(m, "inception") for m in ("fid", "kid", "is")] == ["fid", "kid", "is"]
    assert metric_name("fid_infinity", "dinov2") == "fd_infinity_dinov2"
    assert metric_name("kid", "mobilenet") == "kd_mobilenet"
    assert metric_name("real_fid", "random") == "real_fd_random"
    setting = GenerationSetting(n=10492, resize="ttur", stretched=True)
    assert str(setting) == "n=10492, ttur resize, contrast-stretched"
    assert GenerationSetting.parse(setting.record(), "test") == setting


# What the report shows of it.


def task_of(cell: Path, model: Path, tiny: Path, **settings: Any) -> Task:
    """Measure a cell; return the section's task with it alone."""
    parsed = GenerationSettings.parse(FEW | settings, "test")
    measure(Generation(), Run("vae", "demo", "toy", 0), model, tiny, parsed, CPU, cell)
    record = CellRecord("vae", "demo", "toy", "0", "toy", cell)
    method = MethodRecord("vae", "demo", "method", 0, [], [record], [])
    rows = [
        {"metric": m["metric"], "mean": m["value"], "settings": GenerationSetting(**m["setting"])}
        for m in read_cell(cell)["metrics"]
    ]
    return Task("generation", "toy", "toy", [method], pd.DataFrame(rows), None, [])


def test_the_section_shows_generated_beside_real(model: Path, tiny: Path, tmp_path: Path) -> None:
    task = task_of(tmp_path / "generation.json", model, tiny, stretched=True)
    view = sections()["generation"].view(task)
    assert view is not None
    template: Any = environment().get_template("sections/generation.html").module
    page = str(template.task(view)) + str(template.intro())
    assert page.count("data:image/webp") == 3  # real, generated, contrast-stretched
    numbers = {m["metric"]: m for m in read_cell(tmp_path / "generation.json")["metrics"]}
    assert f"real_fd_random = {numbers['real_fd_random']['value']:.4g}" in page
    assert "VAE (demo), contrast-stretched" in page
    assert f"{task.methods[0].cells[0].record['details']['infinity']['n=32']['value']:.4g}" in page
    note = str(template.note(sections()["generation"].note(task.numbers)))
    assert "are no FID" in note
    of_inception = task.numbers.assign(metric="fid")
    assert "are no FID" not in str(template.note(sections()["generation"].note(of_inception)))


def test_a_section_of_the_distance_alone_or_of_damage(
    model: Path, tiny: Path, tmp_path: Path
) -> None:
    cell = tmp_path / "generation.json"
    task = task_of(cell, model, tiny, only_distance=True)
    view = sections()["generation"].view(task)
    assert view is not None
    assert not view["charts"]
    (tmp_path / "generation.npz").write_bytes(b"damaged")
    view = sections()["generation"].view(task_with(task, cell))
    assert view is not None
    assert view["real"] is None
    template: Any = environment().get_template("sections/generation.html").module
    assert "<img" not in str(template.task(view))
    cell.write_text("{}")
    assert sections()["generation"].view(task_with(task, cell)) is None


def task_with(task: Task, cell: Path) -> Task:
    """Return a task whose files are read again."""
    record = CellRecord("vae", "demo", "toy", "0", "toy", cell)
    return task._replace(methods=[task.methods[0]._replace(cells=[record])])


# What it refuses.


def test_few_images_must_be_asked_for(model: Path, tiny: Path) -> None:
    with pytest.raises(BadInput, match="32 generated and 32 real images; of fewer than 2,048"):
        run(model, tiny, few=False)
    with pytest.raises(BadInput, match=f"{ENOUGH} generated and 32 real images"):
        run(model, tiny, few=False, images=ENOUGH)
    few = run(model, tiny, images=4, only_distance=True)
    assert values(few, n=4)["fd_random"] > 0


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "few that were not asked for": ({"images": 100, "few": False}, "fewer than 2,048 .*few: true"),
    "one": ({"images": 1}, "`images: 1`: give two or more"),
    "no neighbours": ({"images": 4}, "4 images have no 5 neighbours; .*`only_distance`"),
    "nor of precision": ({"images": 9, "neighbours": 9}, "9 images have no 9 neighbours"),
    "no extrapolation": ({"images": 7}, "needs 8 or more; give more, or set `only_distance`"),
    "no parts": ({"images": 9, "network": "inception"}, r"9 images make no 10 parts \(`splits`\)"),
    "no resize": ({"resize": "clean"}, "`random` sees images at their own size, .*`resize: clean`"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_settings_that_cannot_work_are_refused(name: str) -> None:
    changes, message = IMPOSSIBLE[name]
    with pytest.raises(BadInput, match=message):
        GenerationSettings.parse(FEW | changes, "runs[0]")


@pytest.mark.parametrize(
    "changes",
    [
        {"images": ENOUGH, "few": False},
        {"images": 2, "only_distance": True},
        {"images": 8},
        {"images": 10, "network": "inception"},
        {"network": "mobilenet", "resize": "clean"},
    ],
)
def test_settings_that_barely_work(changes: dict[str, Any]) -> None:
    GenerationSettings.parse(FEW | changes, "runs[0]")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"density_neighbours": 32}, "32 real images; 32 images have no 32 neighbours"),
        ({"network": "inception", "splits": 33}, "32 images make no 33 parts"),
    ],
)
def test_too_few_test_images_are_noticed_before_a_network_is_read(
    changes: dict[str, Any], message: str, model: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("partbench.probes.generation.load_network")
    with pytest.raises(BadInput, match=message):
        run(model, tiny, **changes)


BROKEN: dict[str, tuple[Any, str]] = {
    "not finite": (
        lambda _, batch: batch.images / 0,
        r"vae\.generate\(batch\): generated images are not finite; the training diverged",
    ),
    "one image too few": (lambda _, batch: batch.images[1:], r"must be .* \[32, 3, S, S\]"),
    "grey": (lambda _, batch: batch.images[:, :1], r"must be .* \[32, 3, S, S\]"),
    "beyond white": (lambda _, batch: batch.images + 1, "it must be from 0 to 1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_refused(
    name: str, model: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, message = BROKEN[name]
    monkeypatch.setattr(VAE, "generate", generate)
    with pytest.raises(BadInput, match=message):
        run(model, tiny)


def test_images_of_several_sizes_are_refused(tiny: Path, tmp_path: Path) -> None:
    class Grows:
        learns_from = "images"

        side = 4

        def generate(self, batch: Batch) -> Tensor:
            self.side += 1
            return torch.rand(len(batch.images), 3, self.side, self.side)

    test = Prepared(tiny).split("test")
    with pytest.raises(BadInput, match=r"\[6, 6\] pixels after images of \[5, 5\]"):
        generated_images.write(
            Grows(), test, 200, tmp_path / "i.npy", 0, torch.device("cpu"), "test"
        )


def test_clips_and_long_images_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="clips or images at their own aspect"):
        run(model, prepare_toy(tmp_path, crop="whole", train=4, test=2))


# The library's measures.


def test_the_inception_score_of_the_sheet() -> None:
    logits = 2 * np.random.RandomState(0).randn(1000, 20)
    found = inception_score(logits)
    assert found == pytest.approx((3.316840449, 0.126554364), abs=1e-9)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert inception_score(log_probabilities(p)) == pytest.approx(found, abs=1e-12)
    # Sure of its classes and even among them: as many as there are; unsure: one.
    sure = log_probabilities(np.eye(20)[np.arange(1000) % 20])
    assert inception_score(sure).mean == pytest.approx(20)
    assert inception_score(np.zeros((1000, 20))).mean == pytest.approx(1)
    ordered = log_probabilities(np.eye(20)[np.arange(1000) // 50])
    assert inception_score(ordered).mean == pytest.approx(2)  # the trap of ordered images
    assert inception_score(ordered, shuffle=0).mean > 18


def test_the_kernel_distance_is_unbiased() -> None:
    r = np.random.default_rng(0)
    same = [kernel_distance(*r.normal(size=(2, 60, 5)), 1, 60, 0).mean for _ in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(60)
    x, y = r.normal(size=(2, 60, 5))
    assert kernel_distance(x, y + 1, 1, 60, 0).mean > 10 * np.std(same)


def test_neighbourhoods_by_hand() -> None:
    r = np.random.default_rng(0)
    made, true = r.normal(size=(70, 3)), r.normal(size=(50, 3)) + 0.5
    between = np.linalg.norm(true[:, None] - made, axis=2)
    within = np.linalg.norm(true[:, None] - true, axis=2)
    radii = np.sort(within, 1)[:, 5]
    found = density_coverage(made, true, 5)
    inside = between < radii[:, None]
    assert found.density == pytest.approx(inside.sum() / (5 * 70))
    assert found.coverage == pytest.approx(inside.any(1).mean())
    radii = np.sort(within, 1)[:, 3]
    near = precision_recall(made, true, 3)
    assert near.precision == pytest.approx((between <= radii[:, None]).any(0).mean())
    far = precision_recall(made + 100, true, 3)
    assert far == (0, 0)
    assert density_coverage(made + 100, true, 5) == (0, 0)


# The ruler.


def write_folder(folder: Path, n: int, size: int = 24, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    for i in range(n):
        pixels = draw.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04}.png")
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: Any) -> dict[str, Any]:
    assert cli.main(["score", *map(str, words)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    assert cli.main(["score", *map(str, words)]) == 1
    found = capsys.readouterr()
    assert found.out == ""
    assert "Traceback" not in found.err
    return found.err


def write_features(path: Path, n: int = 60, d: int = 4, seed: int = 0, **more: Any) -> Path:
    features = np.random.default_rng(seed).normal(size=(n, d)) + seed
    np.savez(path, features=features, **more)
    return path


def write_statistics(path: Path, features: Path, **more: Any) -> Path:
    values = np.load(features)["features"]
    given = {"mu": values.mean(0), "sigma": np.cov(values, rowvar=False)}
    np.savez(path, **given | more)
    return path


def test_features_and_statistics_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (write_features(tmp_path / f"{i}.npz", 60 + i, seed=i) for i in range(2))
    s, t = (write_statistics(tmp_path / f"s{p.name}", p, n=60 + i) for i, p in enumerate((a, b)))
    of_features = said(capsys, "generation", a, b, "--few")
    expected = frechet.distance_of_features(*(np.load(p)["features"] for p in (a, b)))
    assert of_features["value"] == pytest.approx(expected)
    low, high = of_features["interval95"]
    assert low < expected < high
    low, high = of_features["infinity"]["interval95"]
    assert low < of_features["infinity"]["value"] < high
    assert of_features["metric"] == "frechet_distance"
    assert (of_features["n_generated"], of_features["n_real"]) == (60, 61)
    for pair in ((s, t), (a, t), (s, b)):
        found = said(capsys, "generation", *pair, "--few")
        assert found["value"] == pytest.approx(expected, rel=1e-9)
        assert found["kernel_distance"] is found["infinity"] is None
    assert said(capsys, "generation", a, a, "--few")["value"] == pytest.approx(0, abs=1e-9)


def test_folders_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (write_folder(tmp_path / str(i), 40, seed=i) for i in range(2))
    (a / ".hidden.png").write_bytes(b"")
    (a / "notes.txt").write_text("")
    found = said(capsys, "generation", a, b, "--few", "--network", "random")
    assert found["metric"] == "fd_random"
    assert found["n_generated"] == found["n_real"] == 40
    same = said(capsys, "generation", a, a, "--few", "--network", "random", "--only-distance")
    assert same["value"] == pytest.approx(0, abs=1e-7)
    assert same["precision"] is None
    some = said(capsys, "generation", a, b, "--few", "--network", "random", "--images", 30)
    assert some["setting"] == "n=30"


def official(root: Path, monkeypatch: pytest.MonkeyPatch, digest: str) -> None:
    """Let the table of official files have another checksum of the Inception network."""
    (file,) = ARCHIVES["inception"]
    changed = {"inception": (dataclasses.replace(file, sha256=digest),)}
    monkeypatch.setattr(archives, "ARCHIVES", ARCHIVES | changed)
    monkeypatch.setenv("PARTBENCH_DATA", str(root))


def test_the_inception_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (write_folder(tmp_path / str(i), 12, seed=i) for i in range(2))
    path = write_inception(tmp_path)
    official(tmp_path, monkeypatch, sha256(path))
    found = said(capsys, "generation", a, b, "--few", "--settings", '{"draws": 2, "subsets": 2}')
    assert found["metric"] == "fid"
    assert found["setting"] == "n=12, ttur resize"
    assert found["n_features"] == 2048
    assert found["inception_score"] >= 1
    official(tmp_path, monkeypatch, "0" * 64)
    message = refused(capsys, "generation", a, b, "--few")
    assert f"{path}: its sha256 is" in message
    path.unlink()
    message = refused(capsys, "generation", a, b, "--few")
    assert "is missing; run `partbench data fetch inception`" in message


def test_bad_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_folder(tmp_path / "good", 12)
    random = ("--few", "--network", "random")
    message = refused(capsys, "generation", good, good, *random, "--images", 13)
    assert f"{good}: 12 images, and 13 are asked for" in message
    (tmp_path / "empty").mkdir()
    message = refused(capsys, "generation", tmp_path / "empty", good, *random)
    assert "empty: 0 images, and 1 are asked for" in message
    message = refused(capsys, "generation", good, good, "--network", "random")
    assert "of fewer than 2,048" in message
    mixed = write_folder(tmp_path / "mixed", 40)
    Image.new("RGB", (24, 25)).save(mixed / "0035.png")
    message = refused(capsys, "generation", good, mixed, *random)
    assert f"{mixed}/0035.png: 24 x 25 pixels, and {mixed}/0000.png has 24 x 24" in message
    (mixed / "0035.png").write_bytes(b"GIF89a")
    assert "0035.png: cannot be decoded" in refused(capsys, "generation", good, mixed, *random)
    message = refused(capsys, "generation", good, tmp_path / "absent", *random)
    assert "absent: no such file" in message
    message = refused(capsys, "generation", good, good, "--few", "--network", "inceptoin")
    assert "'network' is 'inceptoin'" in message
    assert "GENERATED REAL" in refused(capsys, "generation", good)
    stretched = ("--settings", '{"stretched": true}')
    assert "stretch the files here" in refused(capsys, "generation", good, good, *stretched)


EYE = np.eye(4)
BAD_FILES: dict[str, tuple[dict[str, Any], str]] = {
    "no array": ({"feature": np.ones((60, 4))}, "no array named features, nor mu and sigma"),
    "mu alone": ({"mu": np.ones(4)}, "no array named features, nor mu and sigma"),
    "a list": ({"features": np.ones(60)}, r"expected numbers of shape [samples, features]"),
    "words": ({"features": np.full((60, 4), "a")}, "expected numbers of shape"),
    "not finite": ({"features": np.full((60, 4), np.nan)}, "features: row 0"),
    "other features": ({"features": np.ones((60, 5))}, "sets of 5 and 4 features"),
    "one row": ({"features": np.ones((1, 4))}, "1 generated and 60 real images"),
    "sigma of another shape": ({"mu": np.ones(4), "sigma": np.eye(3)}, "expected [D] and [D, D]"),
    "mu of two axes": ({"mu": np.ones((4, 1)), "sigma": EYE}, "expected [D] and [D, D]"),
    "sigma of words": ({"mu": np.ones(4), "sigma": EYE.astype(str)}, "give plain numbers"),
    "sigma not finite": ({"mu": np.ones(4), "sigma": EYE * np.nan}, "sigma: row 0"),
    "sigma not symmetric": ({"mu": np.ones(4), "sigma": np.tri(4)}, "is no covariance"),
    "negative variances": ({"mu": np.ones(4), "sigma": -EYE}, "is no covariance"),
    "n of images": ({"mu": np.ones(4), "sigma": EYE, "n": np.ones(3)}, "give one whole number"),
    "n too small": ({"mu": np.ones(4), "sigma": EYE, "n": 1}, "1 generated and 60 real images"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_features(tmp_path / "good.npz")
    values, message = BAD_FILES[name]
    bad = tmp_path / "bad.npz"
    np.savez(bad, **values)
    found = refused(capsys, "generation", bad, good, "--few")
    assert message in found
    assert str(bad) in found


def test_the_ruler_of_the_inception_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logits = 2 * np.random.RandomState(0).randn(1000, 20)
    np.savez(tmp_path / "l.npz", logits=logits)
    p = np.exp(logits)
    np.savez(tmp_path / "p.npz", probs=p / p.sum(1, keepdims=True))
    for name in ("l.npz", "p.npz"):
        found = said(capsys, "is", tmp_path / name)
        assert found["value"] == pytest.approx(3.316840449, abs=1e-9)
        assert found["sd_over_parts"] == pytest.approx(0.126554364, abs=1e-9)
    one = said(capsys, "is", tmp_path / "l.npz", "--splits", 1)
    assert one["value"] > found["value"]
    assert one["sd_over_parts"] == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"logit": np.ones((20, 3))}, "no array named logits or probs"),
        ({"logits": np.ones((20, 3)), "probs": np.ones((20, 3)) / 3}, "both of logits and probs"),
        ({"logits": np.ones(20)}, "expected numbers of shape [samples, features]"),
        ({"logits": np.full((20, 3), np.inf)}, "logits: row 0"),
        ({"probs": np.ones((20, 3))}, "probs: row 0 sums to 3"),
        ({"probs": np.tile([1.5, -0.5], (20, 1))}, "its least value is -0.5"),
        ({"logits": np.ones((9, 3))}, "9 rows make no 10 parts"),
    ],
)
def test_bad_files_of_the_inception_score(
    values: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "bad.npz", **values)
    assert message in refused(capsys, "is", tmp_path / "bad.npz")
