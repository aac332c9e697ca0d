"""Optical flow of clips, data sets of it, and the fusion of two streams."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkout import Checkout
from conftest import prepare_toy
from hypothesis import given, settings, strategies
from scipy.ndimage import gaussian_filter
from sealed import reseal
from sklearn.svm import SVC
from test_dag import rules
from test_ucf101 import claim, numbers, write_clip
from torch import Tensor, nn

from partbench import cli
from partbench import config as grid
from partbench import method as methods
from partbench.absent import absent_cells
from partbench.data.clips import read_clip, read_pairs
from partbench.data.loader import Loader, Schedule, turn_motion
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.data.toy import Toy
from partbench.data.ucf101 import UCF101
from partbench.derivations import FlowSettings
from partbench.errors import BadInput
from partbench.extract import extract
from partbench.flow import find_flow
from partbench.method import DataInfo
from partbench.nn.flow import FILES, load, of_network, pictures, turned, tvl1, untrained
from partbench.official_splits import addresses, split_means
from partbench.probe import measure, read_cell
from partbench.probes.fusion import Fusion, FusionSettings
from partbench.run import Run, Runtime
from partbench.second_stream import describe_stream
from partbench.train import train

CPU = Runtime(device="cpu", threads=1)
CLIPS: dict[str, Any] = {
    **{"kind": "clips", "size": 32, "frames": 2, "train": 48, "val": 1, "test": 24},
    **{"species": ["rabbit"], "clutter": False, "noise": 0.0},
}


def moving(right: float, down: float, side: tuple[int, int], n: int = 1) -> Tensor:
    """Return pairs of frames of patterns that move around a torus, uint8 [n, 2, H, W, 3]."""
    draw = np.random.default_rng(0)
    pairs = []
    for _ in range(n):
        noise = gaussian_filter(draw.random((*side, 3)), (3, 3, 0), mode="wrap")
        spectrum = np.fft.fft2(noise, axes=(0, 1))
        y, x = np.meshgrid(*map(np.fft.fftfreq, side), indexing="ij")
        phase = np.exp(-2j * np.pi * (right * x + down * y))[..., None]
        frames = np.stack([noise, np.fft.ifft2(spectrum * phase, axes=(0, 1)).real])
        low, high = frames.min(), frames.max()
        pairs.append((255 * (frames - low) / (high - low)).round().astype(np.uint8))
    return torch.from_numpy(np.stack(pairs))


def middle(flow: Tensor, border: int = 8) -> Tensor:
    return flow[..., border:-border, border:-border]


# Estimators.


@pytest.mark.parametrize(("right", "down"), [(2.5, -1.25), (-3.0, 0.0), (0.0, 0.0)])
def test_tv_l1_finds_a_translation(right: float, down: float) -> None:
    found = tvl1(moving(right, down, (64, 96), n=2))
    assert found.shape == (2, 2, 64, 96)
    assert found.dtype == torch.float32
    expected = torch.tensor([right, down]).view(2, 1, 1).expand(2, 48, 80)
    assert (middle(found) - expected).abs().mean() < 0.1


class Correlation(nn.Module):
    """Stands for RAFT: the whole displacement by phase correlation, one for the frame."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.sides: list[tuple[int, int]] = []

    def forward(self, one: Tensor, two: Tensor, num_flow_updates: int) -> list[Tensor]:
        assert -1 <= one.min() < 0 < one.max() <= 1
        height, width = one.shape[-2:]
        self.sides.append((height, width))
        cross = torch.fft.fft2(one.sum(1)).conj() * torch.fft.fft2(two.sum(1))
        peak = torch.fft.ifft2(cross / cross.abs().clamp_min(1e-9)).real.flatten(1).argmax(1)
        down, right = peak // width, peak % width
        way = torch.stack([(right + width / 2) % width - width / 2,
                           (down + height / 2) % height - height / 2], 1)  # fmt: skip
        return [torch.zeros(1), way[:, :, None, None].expand(-1, 2, height, width) * self.scale]


@pytest.mark.parametrize("side", [(128, 136), (48, 48), (240, 320), (130, 141)])
def test_what_raft_is_given_and_what_is_made_of_its_flow(side: tuple[int, int]) -> None:
    """Frames that are too small are enlarged, and their flow is in their own pixels again."""
    network = Correlation()
    found = of_network(network)(moving(4.0, -3.0, side, n=3))
    assert found.shape == (3, 2, *side)
    assert torch.allclose(found.mean((0, 2, 3)), torch.tensor([4.0, -3.0]), atol=0.35)
    for height, width in network.sides:
        assert height % 8 == width % 8 == 0
        assert min(height, width) >= 128


def test_raft_of_torchvision_runs_and_repeats() -> None:
    torch.manual_seed(0)
    estimate = of_network(untrained("raft_small"))
    pairs = moving(1.0, 1.0, (20, 24))
    found = estimate(pairs)
    assert found.shape == (1, 2, 20, 24)
    assert found.isfinite().all()
    assert found.std() > 0
    assert torch.equal(found, estimate(pairs))


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_weights_of_raft(name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    cpu = torch.device("cpu")
    assert FlowSettings(network=name).fetched == (name,)
    with pytest.raises(BadInput, match=rf"{name}.*is missing; run `partbench data fetch {name}`"):
        load(name, cpu)
    (tmp_path / "weights").mkdir()
    path = tmp_path / FILES[name]
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(BadInput, match=f"does not hold the weights of {name}"):
        load(name, cpu)
    torch.manual_seed(1)
    network = untrained(name)
    torch.save(network.state_dict(), path)
    pairs = moving(1.0, 0.0, (16, 16))
    assert torch.equal(load(name, cpu)(pairs), of_network(network)(pairs))


@pytest.mark.parametrize("name", sorted(FILES))
def test_trained_raft_finds_a_translation(shared_data: Path, name: Any, monkeypatch: Any) -> None:
    if not (shared_data / FILES[name]).exists():
        pytest.skip(f"{FILES[name]} is not among the real sample data")
    monkeypatch.setenv("PARTBENCH_DATA", str(shared_data))
    found = load(name, torch.device("cpu"))(moving(4.0, -2.0, (128, 128)))
    expected = torch.tensor([4.0, -2.0]).view(2, 1, 1)
    assert (middle(found) - expected).abs().mean() < 0.5


# Pictures.


def test_pictures_of_flow() -> None:
    flow = torch.tensor([[0.0, 0], [10, 0], [0, -10], [-40, 40], [3, 4]]).T.view(1, 2, 1, 5)
    expected = [[128, 128, 128], [192, 128, 192], [128, 64, 192], [1, 255, 255], [147, 153, 160]]
    assert pictures(flow, 20.0)[0, 0].tolist() == expected


@given(seed=strategies.integers(0, 2**32 - 1), bound=strategies.floats(0.5, 50))
@settings(max_examples=30)
def test_a_mirrored_clip_has_mirrored_motion(seed: int, bound: float) -> None:
    """In the networks' pictures and in the training's bytes alike."""
    flow = 10 * torch.randn(2, 2, 4, 6, generator=torch.Generator().manual_seed(seed))
    of_mirrored = flow.flip(-1) * torch.tensor([-1.0, 1.0]).view(2, 1, 1)
    expected = pictures(of_mirrored, bound)
    mirrored = pictures(flow, bound).flip(2)
    shown = turned(mirrored.movedim(-1, -3) / 255)
    torch.testing.assert_close(shown, expected.movedim(-1, -3) / 255, atol=1 / 254, rtol=0)
    some = mirrored.numpy().copy()
    turn_motion(some, np.array([True, False]))
    assert np.abs(some[0].astype(int) - expected[0].numpy()).max() <= 1  # halves round to even
    assert np.array_equal(some[1], mirrored[1].numpy())


# Pairs of frames.


@pytest.mark.parametrize(("length", "count"), [(40, 4), (5, 5), (3, 7), (2, 1)])
def test_a_pair_is_a_frame_and_the_next_of_the_video(
    length: int, count: int, tmp_path: Path
) -> None:
    path = write_clip(tmp_path / "v.avi", length)
    firsts = [min(first, length - 2) for first in numbers(read_clip(path, count))]
    for claimed in (length, 0, 1, length + 30):
        claim(path, claimed)
        pairs = read_pairs(path, count)
        assert numbers(pairs[:, 0]) == firsts
        assert numbers(pairs[:, 1]) == [first + 1 for first in firsts]


def test_a_video_of_one_frame_does_not_move(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "v.avi", 1)
    for claimed in (1, 5):
        claim(path, claimed)
        with pytest.raises(BadInput, match=r"v.avi: cannot be decoded \(it has a single frame"):
            read_pairs(path, 3)


def test_pairs_of_drawn_clips(tmp_path: Path) -> None:
    reader = Toy(tmp_path, Toy.Settings.parse(CLIPS | {"frames": 5, "noise": 0.06}, "test"))
    clip, pairs = reader.sample("train", 3).image, reader.pairs("train", 3)
    assert np.array_equal(pairs[:, 0], clip)
    assert np.array_equal(pairs[:-1, 1], clip[1:])
    assert not np.array_equal(pairs[-1, 1], clip[-1])
    images = Toy(tmp_path, Toy.Settings.parse({"size": 32}, "test"))
    with pytest.raises(BadInput, match="single images; optical flow is of clips"):
        images.pairs("train", 0)


# Data sets.


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_toy(tmp_path_factory.mktemp("clips"), **CLIPS)


@pytest.fixture(scope="module")
def flow(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("flow") / "flow"
    find_flow("toy-flow", clips, out, FlowSettings(network="tvl1", bound=4.0), "cpu", 1)
    return out


def test_a_data_set_of_flow_repeats_all_but_its_frames(clips: Path, flow: Path) -> None:
    old, new = Prepared(clips), Prepared(flow)
    assert (new.is_flow, old.is_flow) == (True, False)
    assert new.meta["flow"] == {"of": "toy", "network": "tvl1", "bound": 4.0}
    assert new.meta["checksum"] != old.meta["checksum"]
    reader = Toy(clips, Toy.Settings.parse(CLIPS, "test"))
    for split in ("train", "val", "test"):
        there = np.array(new.split(split).images)
        assert there.shape == old.split(split).images.shape
        assert np.array_equal(
            new.split(split).annotation("labels"), old.split(split).annotation("labels")
        )
        pairs = torch.from_numpy(reader.pairs(split, 0))
        assert np.array_equal(there[0], pictures(tvl1(pairs), 4.0).numpy())
    assert (flow / "train.labels.npy").samefile(clips / "train.labels.npy")
    moves = np.array(new.split("train").images[..., 2])
    assert (moves > 160).any(axis=(1, 2, 3)).mean() > 0.5
    assert np.median(moves) < 140  # most of a picture is ground, which stays


def test_flow_is_cropped_as_the_frames_were(tmp_path: Path) -> None:
    """Of a clip of 48 x 32 px, of which the middle square is prepared."""
    name = "BabyCrawling/v_BabyCrawling_g01_c01.avi"
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    lists.joinpath("classInd.txt").write_text("1 BabyCrawling\n")
    lists.joinpath("trainlist01.txt").write_text(f"{name} 1\n")
    lists.joinpath("testlist01.txt").write_text(name.replace("g01", "g02") + "\n")
    for group in ("g01", "g02"):
        write_clip(tmp_path / "UCF-101" / name.replace("g01", group))
    reader = UCF101(tmp_path, UCF101.Settings.parse({"size": 16, "frames": 3}, "test"))
    prepare(reader, "mine", tmp_path / "mine", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARTBENCH_DATA", str(tmp_path))
        # Motion to the right in the left quarter of the frame and nowhere else.
        still = torch.zeros(3, 2, 32, 48)
        still[:, 0, :, :12] = 20.0
        patch.setattr("partbench.flow.load", lambda *_: lambda pairs: still)
        find_flow("mine-flow", tmp_path / "mine", tmp_path / "out", FlowSettings(), "cpu", 1)
    images = np.array(Prepared(tmp_path / "out").split("test").images)
    assert images.shape == (1, 3, 16, 16, 3)
    assert (images[0, 0, :, 0, 0] > 240).all()  # the quarter reaches 4 of 32 columns into it
    assert (images[0, 0, :, 4:, 0] == 128).all()


def test_flow_is_of_clips(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds single images; optical flow is of clips"):
        find_flow("flow", tiny, tmp_path / "out", FlowSettings(network="tvl1"), "cpu", 1)
    assert not (tmp_path / "out").exists()


def test_training_mirrors_the_motion_too(flow: Path, clips: Path) -> None:
    """Of each mirrored frame, the loader turns the motion to the right around."""
    cls = methods.load("fv_vae")
    chosen = methods.resolve(cls, "demo", {"flip": True, "batch_size": 8}, "test")
    split = Prepared(flow).split("train")
    schedule = Schedule(len(split), chosen, 0)
    batch = next(Loader(split, schedule, torch.device("cpu"), "labels", one_frame=True).batches())
    drawn = np.array(split.images)[schedule.indices(0)].astype(int)
    shown = (batch.images * 255).round().int().movedim(1, -1).numpy()
    kinds = set()
    for clip, found in zip(drawn, shown, strict=True):
        there = [np.array_equal(frame, found) for frame in clip]
        mirrored = clip[:, :, ::-1].copy()
        mirrored[..., 0] = 256 - mirrored[..., 0]
        around = [np.array_equal(frame, found) for frame in mirrored]
        assert any(there) or any(around)
        kinds.add(any(there))
    assert kinds == {True, False}


def test_ten_crops_mirror_the_motion_too() -> None:
    torch.manual_seed(0)
    cls = methods.load("pooling")
    chosen = methods.resolve(cls, "demo", {"views": 10, "window": 24}, "test")
    of_flow, of_frames = (
        cls(chosen, DataInfo(32, 3, is_flow=told)).eval() for told in (True, False)
    )
    images = torch.rand(2, 3, 32, 32)
    told, plain = (method.by_frame(images) for method in (of_flow, of_frames))
    assert torch.equal(told[:, :5], plain[:, :5])
    expected = of_frames.by_frame(turned(images.flip(-1)).flip(-1))[:, 5:]
    torch.testing.assert_close(told[:, 5:], expected)
    assert not torch.allclose(told[:, 5:], plain[:, 5:])


# Two streams.


def trained(name: str, data: Path, on: str, out: Path) -> Path:
    cls = methods.load(name)
    train(Run(name, "demo", on, 0), methods.resolve(cls, "demo", {}, "test"), CPU, data, out)
    return out / "model.pt"


@pytest.fixture(scope="module")
def streams(clips: Path, flow: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frames, with what a run sees of their flow."""
    out = tmp_path_factory.mktemp("streams")
    model = trained("pooling", flow, "toy-flow", out / "run")
    describe_stream("toy-both", model, clips, flow, out / "both", "cpu", 1)
    return out / "both"


def test_frames_and_flow_from_clips_to_the_fused_number(
    clips: Path, flow: Path, streams: Path, tmp_path: Path
) -> None:
    model = trained("pooling", clips, "toy", tmp_path / "run")
    extract(
        *(model, streams, ["features"], tmp_path / "outputs", tmp_path / "pictures.npz"),
        device="cpu",
        threads=1,
    )
    run, out = Run("pooling", "demo", "toy", 0), tmp_path / "fusion.json"
    chosen = FusionSettings(cs=(0.1, 10.0))
    measure(Fusion(), run, tmp_path / "outputs", streams, chosen, CPU, out)
    record = read_cell(out)
    values = {
        (m["setting"].get("c"), m["setting"].get("stream")): m["value"] for m in record["metrics"]
    }
    assert values.keys() == {(c, s) for c in (100.0, None) for s in (None, "first", "second")}
    # By scikit-learn, each class against the rest.
    data = Prepared(streams)
    labels, truth = (np.array(data.split(s).annotation("labels")) for s in ("train", "test"))
    scores = []
    for features in (
        [np.load(tmp_path / "outputs" / f"{s}.features.npy") for s in ("train", "test")],
        [np.array(data.split(s).annotation("stream")) for s in ("train", "test")],
    ):
        machines = [
            SVC(C=100.0, kernel="linear", tol=1e-6).fit(features[0], labels == k)
            for k in np.unique(labels)
        ]
        scores.append(np.stack([m.decision_function(features[1]) for m in machines], 1))
    for stream, of_stream in (("first", scores[0]), ("second", scores[1]), (None, sum(scores))):
        accuracy = 100 * (np.asarray(of_stream).argmax(1) == truth).mean()
        assert values[100.0, stream] == pytest.approx(accuracy, abs=100 / len(truth) + 1e-9)


def test_what_a_second_stream_is(clips: Path, flow: Path, streams: Path) -> None:
    both = Prepared(streams)
    about = both.meta["second stream"]
    assert (about["by"], about["of"]) == ("pooling/demo/toy-flow/0", "toy")
    assert about["stream checksum"] == Prepared(flow).meta["checksum"]
    assert both.split("train").annotation("stream").shape == (48, 64)
    assert not both.is_flow
    assert (streams / "train.images.npy").samefile(clips / "train.images.npy")


def test_streams_of_other_clips_are_refused(
    clips: Path, flow: Path, streams: Path, tmp_path: Path
) -> None:
    model = trained("pooling", flow, "toy-flow", tmp_path / "run")
    fewer = prepare_toy(tmp_path, **CLIPS | {"train": 40})
    with pytest.raises(BadInput, match="hold other samples in the split 'train'"):
        describe_stream("both", model, fewer, flow, tmp_path / "both", "cpu", 1)
    other = prepare_toy(tmp_path / "other", **CLIPS)
    np.save(other / "test.labels.npy", np.zeros(24, np.int64))
    reseal(other)
    with pytest.raises(BadInput, match="have other labels in the split 'test'"):
        describe_stream("both", model, other, flow, tmp_path / "both", "cpu", 1)
    assert not (tmp_path / "both").exists()


def test_two_streams_tell_more_than_one(tmp_path: Path) -> None:
    """Where each sees the class with noise of its own."""
    data, source = prepare_toy(tmp_path, size=8, train=400, test=400), tmp_path / "source"
    source.mkdir()
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        labels = np.arange(400) % 4
        np.save(data / f"{split}.labels.npy", labels)
        for path in (source / f"{split}.features.npy", data / f"{split}.stream.npy"):
            seen = np.eye(4)[labels] + 0.5 * draw.standard_normal((400, 4))
            np.save(path, seen.astype(np.float32))
    reseal(data)
    reseal(source)
    result = Fusion().run(source, data, FusionSettings(c=1.0, cs=(0.1, 1.0)), 0, "cpu")
    found = {(m.setting.c, m.setting.stream): m.value for m in result.metrics}  # type: ignore[attr-defined]
    for c in (1.0, None):
        assert found[c, None] > max(found[c, "first"], found[c, "second"]) + 5
        assert found[c, "first"] != found[c, "second"]
    assert [m.reference for m in result.metrics] == [False, False, True] * 2
    alone = Fusion().run(source, data, FusionSettings(c=1.0, cs=(0.1,), weight=1e-9), 0, "cpu")
    assert alone.metrics[0].value == found[1.0, "first"]


# Configurations.

UCF: dict[str, Any] = {"reader": "ucf101", "size": 32, "frames": 2}
TWO: dict[str, Any] = {
    "name": "two",
    "seeds": [0],
    "data": {
        **{f"ucf101-{i}": {**UCF, "fold": i} for i in (1, 2, 3)},
        **{f"ucf101-flow-{i}": {"of": f"ucf101-{i}", "flow": {}} for i in (1, 2, 3)},
        **{
            f"ucf101-two-{i}": {
                "of": f"ucf101-{i}",
                "by": f"pooling/demo/ucf101-flow-{i}/0",
                "stream": f"ucf101-flow-{i}",
            }
            for i in (1, 2, 3)
        },
    },
    "runs": [
        {
            "train": f"ucf101-{i}",
            "methods": {"pooling": ["demo"]},
            "probes": {"linear": [f"ucf101-{i}"], "fusion": [f"ucf101-two-{i}"]},
        }
        for i in (1, 2, 3)
    ],
}


def two(**data: Any) -> grid.Config:
    values = copy.deepcopy(TWO)
    for name, changes in data.items():
        values["data"][name.replace("_", "-")].update(changes)
    return grid.check(values, "test")


def test_the_mean_over_splits_of_two_streams() -> None:
    names = [f"ucf101-two-{i}" for i in (1, 2, 3)]
    assert split_means(two())["ucf101-two"] == names
    assert split_means(two()).keys() == {"ucf101", "ucf101-flow", "ucf101-two"}
    found = addresses(two())
    assert ("pooling", "demo", "ucf101", "ucf101-two", "fusion") in found
    assert ("pooling", "demo", "ucf101", "ucf101", "linear") in found
    assert len(found) == 8
    for changes in (
        {"ucf101_flow_3": {"of": "ucf101-2"}},
        {"ucf101_flow_2": {"flow": {"bound": 10.0}}},
    ):
        assert "ucf101-flow" not in split_means(two(**changes))
    by = {"by": "pooling/demo/ucf101-flow-1/0"}
    assert "ucf101-two" not in split_means(two(ucf101_two_2=by))
    same = {f"ucf101_two_{i}": by for i in (2, 3)}
    assert "ucf101-two" not in split_means(two(**same))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ucf101_flow_1": {"of": "ucf101-two-1"}}, "no data set 'ucf101-two-1'"),
        ({"ucf101_flow_1": {"of": "images"}}, "images holds single images; optical flow is of"),
        ({"ucf101_flow_1": {"flow": {"network": "raft"}}}, "flow.network"),
        ({"ucf101_two_1": {"stream": "ucf101-flaw-1"}}, "did you mean 'ucf101-flow-1'"),
        ({"ucf101_two_1": {"stream": "ucf101-two-2"}}, "no data set 'ucf101-two-2'"),
        ({"ucf101_two_1": {"by": "mean_shape/demo/ucf101-1/0"}}, "mean_shape offers no features"),
        ({"ucf101_two_1": {"by": "pooling/dmo/ucf101-1/0"}}, "did you mean 'demo'"),
    ],
)
def test_configurations_of_streams_that_cannot_work(change: dict[str, Any], message: str) -> None:
    values = copy.deepcopy(TWO)
    values["data"]["images"] = {"reader": "toy", "size": 32}
    for name, changes in change.items():
        values["data"][name.replace("_", "-")].update(changes)
    with pytest.raises(BadInput, match=message):
        grid.check(values, "test")


def test_a_probe_of_two_streams_needs_the_second() -> None:
    values = copy.deepcopy(TWO)
    values["runs"][0]["probes"]["fusion"] = ["ucf101-1"]
    with pytest.raises(BadInput, match=r"features of a second stream.*stream: DATA"):
        grid.check(values, "test")


def test_streams_wait_for_what_their_making_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("PARTBENCH_OFFLINE", "1")

    def lacking() -> dict[str, str]:
        found = absent_cells(two(), tmp_path / "results")
        return {cell.rpartition("/")[2]: why for cell, why in found.items() if "-1/0/" in cell}

    def make(*places: str) -> None:
        for place in places:
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place).touch()

    assert lacking()["fusion"].startswith("the data set ucf101-1 lacks")
    make("results/data/ucf101-1/meta.json")
    assert lacking().keys() == {"fusion"}  # the videos are read again
    assert "UCF101.rar" in lacking()["fusion"]
    (tmp_path / "UCF-101").mkdir()
    (tmp_path / "ucfTrainTestlist").mkdir()
    assert lacking()["fusion"].startswith("the weights raft_large lacks")
    make(FILES["raft_large"])
    assert not lacking()


@pytest.mark.timeout(300)
def test_the_workflow_makes_two_streams(tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench")
    tiny = CLIPS | {"reader": "toy", "train": 18, "test": 12}
    values: dict[str, Any] = {
        "name": "streams",
        "comparable": False,
        "seeds": [0],
        "runtime": {"device": "cpu", "threads": 1},
        "data": {
            "toy-frames": tiny,
            "toy-flow": {"of": "toy-frames", "flow": {"network": "tvl1"}},
            "toy-both": {
                **{"of": "toy-frames", "stream": "toy-flow"},
                **{"by": "pooling/demo/toy-flow/0"},
            },
        },
        "probes": {"fusion": {"cs": [1.0]}},
        "runs": [
            {
                "train": "toy-frames",
                "methods": {"pooling": ["demo"]},
                "probes": {"fusion": ["toy-both"]},
            }
        ],
    }
    cell = "results/streams/cells/pooling/demo/toy-frames/0/toy-both/fusion.json"
    target = ("--", cell)
    here.make(here.configure(values), *target)
    record = read_cell(here.folder / cell)
    assert [m["metric"] for m in record["metrics"]] == ["top1"] * 6
    assert (here.folder / "results/streams/data/toy-flow/sheet.png").exists()
    assert "Nothing to be done" in here.make(here.configure(values), *target)
    other = copy.deepcopy(values)
    other["data"]["toy-flow"]["flow"]["bound"] = 5.0
    planned = rules(here.planned(here.configure(other), *target))
    assert {"flow", "second_stream", "train_pooling", "probe_fusion"} <= set(planned)
    assert "prepare" not in planned
    raft = copy.deepcopy(values)
    raft["data"]["toy-flow"]["flow"] = {}
    assert "fetch_weights" in rules(here.planned(here.configure(raft), *target))


def test_the_plan_and_the_check_name_streams(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    path = tmp_path / "two.yaml"
    import yaml

    path.write_text(yaml.safe_dump(TWO))
    cli.main(["check", str(path)])
    text = capsys.readouterr().out
    assert "ucf101-flow-1: optical flow of ucf101-1 by raft_large" in text
    assert "ucf101-two-1: ucf101-1 with what pooling/demo/ucf101-flow-1/0 sees of" in text
    cli.main(["plan", str(path)])
    assert "ucf101-two-1 ?" in capsys.readouterr().out
