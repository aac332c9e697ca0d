"""LORBMS's transfer protocol: against a plain loop, its two readings, and what it must not see."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sealed import reseal
from torch import Tensor, nn

from partbench.data.fold_stream import FoldStream
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.data.random_crops import RandomCrops
from partbench.data.toy import Toy
from partbench.errors import BadInput
from partbench.method import load, resolve
from partbench.metrics.accuracy import running_accuracy, running_weights
from partbench.model import load_model
from partbench.nn.alexnet import alexnet_trunk
from partbench.nn.scene_networks import PatchDiscriminator, SceneEncoder
from partbench.probe import Result, measure, read_cell
from partbench.probes import transfer
from partbench.probes.transfer import Transfer, TransferSetting, TransferSettings
from partbench.run import Run, Runtime
from partbench.train import train

CPU = Runtime(device="cpu", threads=1)
QUICK = {"epochs": 4, "batch_size": 10, "learning_rate": 3e-3}
FOLDS = np.stack([np.random.default_rng(i).permutation(60)[:24] for i in range(3)])


class Folded(Toy):
    """Toy with three overlapping folds."""

    def folds(self, split: str) -> Sequence[Sequence[int]]:
        return FOLDS.tolist() if split == "train" else ()


def toy(folder: Path, reader: type[Toy] = Folded, **changes: Any) -> Path:
    sizes = {"train": 60, "val": 1, "test": 37}
    settings = reader.Settings.parse({"size": 32} | sizes | changes, "test")
    prepare(reader(folder, settings), "toy", folder / "toy", workers=1)
    return folder / "toy"


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("folded"))


@pytest.fixture(scope="module")
def trained(folded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained encoder as a model."""
    # Eight channels: with fewer, oneDNN 3.13 writes past the gradient of a strided 1 x 1
    # convolution, channels last, on one thread of a processor without AVX-512.
    chosen = resolve(load("random_init"), "demo", {"encoder_width": 8}, "test")
    out = tmp_path_factory.mktemp("model")
    train(Run("random_init", "demo", "toy", 0), chosen, CPU, folded, out)
    return out / "model.pt"


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy, beside which the probe keeps its state."""
    path = tmp_path / "model.pt"
    path.write_bytes(trained.read_bytes())
    return path


def settings(**changes: Any) -> TransferSettings:
    return TransferSettings.parse(QUICK | changes, "test")


def run(model: Path, data: Path, seed: int = 0, **changes: Any) -> Result:
    return Transfer().run(model, data, settings(**changes), seed, "cpu")


def value(result: Result, network: str = "frozen", reading: str = "all test images") -> float:
    chosen = TransferSetting(part="encoder", network=network, reading=reading)  # type: ignore[arg-type]
    (found,) = (m.value for m in result.metrics if m.setting == chosen)
    return found


# Against a loop over one fold that batches and shares nothing.


def steps_of(data: Path, fold: NDArray[Any], seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return images and labels of each step of a fold, made one image at a time."""
    split = Prepared(data).split("train")
    images, labels = np.array(split.images), np.array(split.annotation("labels"))
    union = np.unique(FOLDS)
    shown: list[tuple[Tensor, int]] = []
    steps = QUICK["epochs"] * (len(fold) // QUICK["batch_size"] + 1)
    number = 0
    while len(shown) < steps * QUICK["batch_size"]:
        draw = np.random.default_rng([seed, number])
        order = draw.permutation(union)
        crops = RandomCrops.drawn(len(order), 32, draw)
        for i, row in enumerate(order):
            if row in fold:
                one = torch.from_numpy(images[[row]])
                shown.append((crops.some(np.array([i])).of(one)[0], int(labels[row])))
        number += 1
    size = int(QUICK["batch_size"])
    return [
        (
            torch.stack([image for image, _ in shown[step * size : (step + 1) * size]]),
            torch.tensor([label for _, label in shown[step * size : (step + 1) * size]]),
        )
        for step in range(int(steps))
    ]


def plain(
    model: Path, data: Path, fold: NDArray[Any], tuned: bool
) -> tuple[nn.Linear, NDArray[np.bool_]]:
    """Return the layer after training, and which test images are right."""
    _, method = load_model(model, "cpu")
    trunk = copy.deepcopy(method.trunks()["encoder"])  # type: ignore[operator]
    prepared = Prepared(data)
    width = trunk(torch.zeros(1, 3, 32, 32)).numel()
    head = nn.Linear(width, prepared.classes)
    with torch.no_grad():
        head.weight.copy_(
            torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0)) * 0.02
        )
        head.bias.fill_(0.02)
    learnt = [*head.parameters(), *(trunk.parameters() if tuned else ())]
    adam = torch.optim.Adam(learnt, lr=QUICK["learning_rate"], betas=(0.5, 0.999))
    for images, labels in steps_of(data, fold, 0):
        trunk.train(tuned)
        x = trunk(method.normalize(images)).flatten(1)
        loss = F.cross_entropy(head(x if tuned else x.detach()), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
    trunk.eval()
    test = prepared.split("test")
    right = []
    for image, label in zip(test.images, test.annotation("labels"), strict=True):
        middle = RandomCrops.central(1, 32).of(torch.from_numpy(np.array(image))[None])
        with torch.no_grad():
            logits = head(trunk(method.normalize(middle)).flatten(1))
        right.append(bool(logits.argmax() == label))
    return head, np.array(right)


def test_frozen_folds_trained_together_are_those_trained_alone(model: Path, folded: Path) -> None:
    result = run(model, folded, training=["frozen"])
    alone = [plain(model, folded, fold, tuned=False) for fold in FOLDS]
    saved = torch.load(model.with_name("transfer-toy.encoder.frozen.pt"), weights_only=True)
    for i, (head, _) in enumerate(alone):
        torch.testing.assert_close(
            saved["network"]["weight"][i], head.weight.data, atol=1e-4, rtol=0
        )
        torch.testing.assert_close(saved["network"]["bias"][i], head.bias.data, atol=1e-4, rtol=0)
    right = np.stack([outcomes for _, outcomes in alone])
    np.testing.assert_array_equal(result.samples.iloc[:, 0], right.mean(0))
    per_fold = result.details["encoder, frozen"]["per fold"]
    np.testing.assert_allclose(per_fold, 100 * right.mean(1))
    assert np.ptp(per_fold) > 0
    assert value(result) == pytest.approx(np.mean(per_fold))
    sd = result.details["encoder, frozen"]["sd over folds"]
    assert sd == pytest.approx(np.std(per_fold, ddof=1))


def test_fine_tuning_can_be_shorter_and_of_fewer_folds(model: Path, folded: Path) -> None:
    reduced = run(model, folded, tuned_epochs=2, tuned_folds=2).details
    alone = run(model, folded, epochs=2, training=["fine-tuned"]).details
    key = "encoder, fine-tuned"
    assert reduced[key]["per fold"] == alone[key]["per fold"][:2]
    whole = run(model, folded, training=["frozen"]).details
    assert reduced["encoder, frozen"] == whole["encoder, frozen"]
    assert len(whole["encoder, frozen"]["per fold"]) == 3


def test_the_plan_counts_what_a_network_is_trained_on(model: Path) -> None:
    _, method = load_model(model, "cpu")

    def images(**changes: Any) -> list[tuple[float, bool]]:
        """Return the images of each network, and whether it goes backward too."""
        passes = Transfer.trained(settings(epochs=6, **changes), method.to("meta"), 5000)
        return [(n, any(p.requires_grad for p in trunk.parameters())) for trunk, n in passes]

    assert images(training=["frozen"]) == [(30_000, False)]
    assert images(training=["fine-tuned"]) == [(60_000, True)]
    assert images(training=["fine-tuned"], tuned_epochs=2, tuned_folds=3) == [(6_000, True)]
    assert images(tuned_folds=20) == [(30_000, False), (60_000, True)]


def test_a_tuned_network_is_the_one_trained_alone(model: Path, folded: Path) -> None:
    result = run(model, folded, training=["fine-tuned"])
    per_fold = result.details["encoder, fine-tuned"]["per fold"]
    for i, fold in enumerate(FOLDS):
        _, right = plain(model, folded, fold, tuned=True)
        assert per_fold[i] == pytest.approx(100 * right.mean(), abs=100 / len(right) + 1e-9)


def test_a_step_takes_the_fold_s_images_and_every_image_once_a_pass(folded: Path) -> None:
    stream = FoldStream(Prepared(folded).split("train"), FOLDS, 10, 3)
    assert stream.steps_per_epoch == 3
    places = np.concatenate([stream.places(step) for step in range(12)], 1)
    for fold, of_fold in zip(FOLDS, places, strict=True):
        assert (np.diff(of_fold) > 0).all()
        rows = stream.shown(of_fold).rows
        for start in range(0, 120, len(fold)):
            assert set(rows[start : start + len(fold)]) == set(fold)
    first, second = (stream.shown(places[0][i : i + 24]).rows for i in (0, 24))
    assert first.tolist() != second.tolist()


# The readings.


def as_the_thesis(correct: NDArray[np.bool_], batch: int) -> tuple[float, float]:
    """Return mean and "SD" of the sheet's definition, from TensorFlow's running accuracy."""
    means, sds = [], []
    for fold in correct:
        total = count = 0
        readings = []
        endless = [i % len(fold) for i in range(2 * len(fold) + batch)]
        for step in range(len(fold) // batch + 1):
            total += sum(bool(fold[i]) for i in endless[step * batch : (step + 1) * batch])
            count += batch
            readings.append(total / count)
        means.append(np.mean(readings))
        sds.append(np.std(readings))
    return float(np.mean(means)), float(np.std(sds))


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31))
def test_the_legacy_reading_is_the_sheet_s(n: int, batch: int, seed: int) -> None:
    correct = np.random.default_rng(seed).random((3, n)) < 0.6
    mean, sd = as_the_thesis(correct, batch) if batch <= n else (None, None)
    weights = running_weights(n, batch)
    assert weights.sum() == pytest.approx(1)
    assert running_accuracy(correct, batch).mean(1) == pytest.approx(correct @ weights)
    if mean is not None:
        assert float((correct @ weights).mean()) == pytest.approx(mean)
        assert running_accuracy(correct, batch).std(1).std() == pytest.approx(sd)


def test_64_of_stl10_s_test_images_count_twice() -> None:
    assert running_accuracy(np.ones((10, 8000), bool), 128).shape == (10, 63)
    weights = running_weights(8000, 128)
    last = 1 / (63 * 63 * 128)
    assert weights[-64:] == pytest.approx(last)
    assert weights[0] == weights[63] == pytest.approx(weights[64] + last)
    assert weights[0] * 8000 == pytest.approx(4.7, abs=0.1)


def test_a_cell_has_both_readings_and_every_image_s_outcomes(model: Path, folded: Path) -> None:
    out = model.parent / "transfer.json"
    measure(Transfer(), Run("random_init", "demo", "toy", 0), model, folded, settings(), CPU, out)
    record = read_cell(out)
    assert [m["setting"] for m in record["metrics"]] == [
        {"part": "encoder", "network": network} | reading
        for network in ("frozen", "fine-tuned")
        for reading in ({}, {"reading": "running mean"})
    ]
    details = record["details"]["encoder, frozen"]
    assert details["head"] == details["features"] * 8 + 8
    assert record["metrics"][1]["value"] == pytest.approx(np.mean(details["running mean per fold"]))
    assert not list(model.parent.glob("transfer-toy*"))


def test_the_layers_have_as_many_weights_as_the_thesis_says() -> None:
    images = torch.zeros(1, 3, 96, 96)
    networks = (SceneEncoder(), alexnet_trunk(), PatchDiscriminator().trunk)
    with torch.inference_mode():
        widths = [network(images).numel() for network in networks]
    assert [10 * (width + 1) for width in widths] == [17_290, 40_970, 120_970]


# Networks that see the class, and that see nothing.


class Fake:
    """A method with trunks as they are given."""

    data = None

    def __init__(self, **trunks: nn.Module) -> None:
        self._trunks = trunks
        self.mean = torch.zeros(())

    def trunks(self) -> Mapping[str, nn.Module]:
        return self._trunks

    def normalize(self, images: Tensor) -> Tensor:
        return images


class Sees(nn.Module):
    """Reads a class from the brightness of an image."""

    def forward(self, images: Tensor) -> Tensor:
        grey = 255 * images[:, :, 12:20, 12:20].mean((1, 2, 3))
        return F.one_hot((grey / 30).round().long().clamp(0, 7), 8).float()


class Blind(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.ones(len(images), 5)


class Breaks(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.full((len(images), 5), torch.inf)


def with_trunks(monkeypatch: pytest.MonkeyPatch, **trunks: nn.Module) -> None:
    fake = Fake(**trunks)
    monkeypatch.setattr(transfer, "load_model", lambda path, device: (None, fake))


@pytest.fixture
def bright(folded: Path, tmp_path: Path) -> Path:
    """The same data; each image is as bright as its class is high."""
    data = toy(tmp_path / "bright")
    for split in ("train", "test"):
        images = np.load(data / f"{split}.images.npy")
        images[:] = 30 * np.load(data / f"{split}.labels.npy")[:, None, None, None]
        np.save(data / f"{split}.images.npy", images)
    reseal(data)
    return data


def test_perfect_and_useless_features(
    monkeypatch: pytest.MonkeyPatch, model: Path, bright: Path
) -> None:
    with_trunks(monkeypatch, encoder=Sees(), discriminator=Blind())
    result = run(model, bright, training=["frozen"], epochs=60)
    train, test = (Prepared(bright).split(name).annotation("labels") for name in ("train", "test"))
    met = np.stack([np.isin(test, train[fold]) for fold in FOLDS])  # no fold can learn the others
    assert met.mean() > 0.9
    assert value(result) == pytest.approx(100 * met.mean())
    running = 100 * running_accuracy(met, 10).mean()
    assert value(result, reading="running mean") == pytest.approx(running)
    shares = np.bincount(test) / 37
    for accuracy in result.details["discriminator, frozen"]["per fold"]:
        assert min(abs(accuracy - 100 * shares)) < 1e-9
    assert result.details["discriminator, frozen"]["head"] == 8 * 6


# What does not change it, and what must.


def test_the_same_seed_gives_the_same_numbers(model: Path, folded: Path) -> None:
    first, again = (run(model, folded) for _ in range(2))
    for path in model.parent.glob("transfer-toy*"):
        path.unlink()
    fresh = run(model, folded)
    assert first.details == again.details == fresh.details
    assert first.samples.equals(fresh.samples)
    assert run(model, folded, seed=1, training=["frozen"]).details != {
        "encoder, frozen": first.details["encoder, frozen"]
    }


class Stop(BaseException):
    pass


@pytest.mark.parametrize(("network", "after"), [("frozen", 5), ("fine-tuned", 17)])
def test_stopped_and_resumed_is_uninterrupted(
    monkeypatch: pytest.MonkeyPatch, model: Path, folded: Path, network: str, after: int
) -> None:
    whole = run(model, folded, training=[network])
    state = model.with_name(f"transfer-toy.encoder.{network}.pt")
    heads = torch.load(state, weights_only=True)["network"]
    state.unlink()
    clock, counted = iter(range(0, 10**6, 100)), []

    def advance(self: Any, *rest: Any) -> None:
        counted.append(self)
        if len(counted) == after:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(transfer.time, "monotonic", lambda: next(clock))
        patch.setattr(transfer.Progress, "advance", advance)
        with pytest.raises(Stop):
            run(model, folded, training=[network])
    assert torch.load(state, weights_only=True)["step"] > 0
    resumed = run(model, folded, training=[network])
    assert resumed.details == whole.details
    after_all = torch.load(state, weights_only=True)["network"]
    assert all(torch.equal(after_all[key], heads[key]) for key in heads)


def test_spectral_norm_advances_with_a_tuned_network_and_stands_in_a_frozen_one(
    monkeypatch: pytest.MonkeyPatch, model: Path, folded: Path
) -> None:
    discriminator = PatchDiscriminator(4, 2).trunk
    before = {key: value.clone() for key, value in discriminator.state_dict().items()}
    vectors = [key for key in before if key.endswith(".u")]
    assert vectors
    with_trunks(monkeypatch, discriminator=discriminator)
    run(model, folded, training=["frozen"], epochs=1)
    assert all(torch.equal(discriminator.state_dict()[key], before[key]) for key in before)
    clock, steps = iter(range(0, 10**6, 100)), []

    def advance(self: Any, *rest: Any) -> None:
        steps.append(self)
        if len(steps) == 3:
            raise Stop

    monkeypatch.setattr(transfer.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(transfer.Progress, "advance", advance)
    with pytest.raises(Stop):
        run(model, folded, training=["fine-tuned"])
    state = torch.load(
        model.with_name("transfer-toy.discriminator.fine-tuned.pt"), weights_only=True
    )
    assert all(not torch.allclose(state["network"][f"0.{key}"], before[key]) for key in vectors)


def test_a_state_of_other_settings_or_a_damaged_one_is_not_taken_up(
    model: Path, folded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(model, folded, training=["frozen"])
    state = model.with_name("transfer-toy.encoder.frozen.pt")
    run(model, folded, training=["frozen"], learning_rate=1e-5)
    assert run(model, folded, training=["frozen"]).details == first.details
    state.write_bytes(state.read_bytes()[:-100])
    assert run(model, folded, training=["frozen"]).details == first.details
    assert "is damaged" in capsys.readouterr().out


def test_nothing_is_learnt_from_the_test_images(model: Path, folded: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    run(model, folded, training=["frozen"])
    state = model.with_name("transfer-toy.encoder.frozen.pt")
    heads = torch.load(state, weights_only=True)["network"]["weight"]
    other = toy(tmp_path / "other")
    test = np.load(other / "test.images.npy")
    np.save(other / "test.images.npy", 255 - test)
    labels = np.load(other / "test.labels.npy")
    np.save(other / "test.labels.npy", (labels + 1) % 8)
    reseal(other)
    run(model, other, training=["frozen"])
    assert torch.equal(torch.load(state, weights_only=True)["network"]["weight"], heads)
    assert model.read_bytes() == before


def test_data_without_folds_are_one_fold(model: Path, tmp_path: Path) -> None:
    result = run(model, toy(tmp_path, Toy), training=["frozen"])
    details = result.details["encoder, frozen"]
    assert len(details["per fold"]) == 1
    assert details["sd over folds"] is details["sd of the thesis"] is None


def test_images_of_another_size_than_the_training_s(model: Path, tmp_path: Path) -> None:
    result = run(model, toy(tmp_path, size=48), training=["frozen"], epochs=1)
    assert result.details["encoder, frozen"]["features"] == 16 * 6 * 6


# Bad input.


def test_images_that_a_network_cannot_read(
    monkeypatch: pytest.MonkeyPatch, model: Path, folded: Path
) -> None:
    with_trunks(monkeypatch, encoder=alexnet_trunk())
    with pytest.raises(BadInput, match=r"encoder of .* cannot read images of 32 px .* `size`"):
        run(model, folded)


def test_features_that_are_not_finite(
    monkeypatch: pytest.MonkeyPatch, model: Path, folded: Path
) -> None:
    with_trunks(monkeypatch, encoder=Breaks())
    with pytest.raises(BadInput, match=r"loss is nan; lower probes\.transfer\.learning_rate"):
        run(model, folded, training=["frozen"])


def test_folds_outside_of_the_training_images(model: Path, tmp_path: Path) -> None:
    data = toy(tmp_path)
    folds = FOLDS.copy()
    folds[1, 3] = 60
    np.save(data / "train.folds.npy", folds)
    reseal(data)
    with pytest.raises(BadInput, match="fold 1 holds the index 60"):
        run(model, data)


def test_whole_images_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="transfer needs square images"):
        run(model, toy(tmp_path, crop="whole"))


@pytest.mark.parametrize("wrong", [{"training": []}, {"training": ["warm"]}, {"epochs": 0}])
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(wrong))):
        settings(**wrong)


def test_the_defaults_are_the_thesis_s() -> None:
    s = TransferSettings()
    assert (s.epochs, s.batch_size, s.learning_rate, s.beta1) == (200, 128, 1e-3, 0.5)
    assert json.loads(s.model_dump_json())["training"] == ["frozen", "fine-tuned"]
    assert 1000 // s.batch_size + 1 == 8
