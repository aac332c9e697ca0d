"""Capabilities: what a method promises, what is written of it, and what is read again."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import draw_neighbours, prepare_toy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from partbench import config, plugins
from partbench import method as methods
from partbench.coordinates import Frame, RegressionOrigins, of_borders, of_cells, of_pixels
from partbench.data.batch import Batch
from partbench.data.neighbours import NeighbourSettings
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.integrity import write_checksums
from partbench.method import DataInfo, Method, StepFreeMethod, StepFreeSettings
from partbench.metrics.warps import part_agreement
from partbench.outputs import (
    features,
    generated_images,
    keypoints,
    mixed_scenes,
    movement,
    part_maps,
    predictions,
    reconstructions,
)
from partbench.outputs.capability import (
    capabilities,
    check_class,
    check_outputs,
    members,
    offered_by,
)
from partbench.outputs.keypoints import Keypoints
from partbench.outputs.part_maps import PartMaps
from partbench.testing import measured, trained

CPU = torch.device("cpu")
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Bare(StepFreeMethod):
    """A method that offers nothing."""

    def __init__(self, size: int = 32) -> None:
        super().__init__(StepFreeSettings(), DataInfo(size, 0))


class Everything(Bare):
    """A method that offers all there is of single images, each its simplest."""

    def features(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))

    def descriptors(self, images: Tensor) -> Tensor:
        return images.flatten(2).transpose(1, 2)

    def keypoints(self, images: Tensor) -> Keypoints:
        points = torch.stack([images.mean((2, 3)), images.amax((2, 3))], 2) - 0.5
        looks = torch.stack([images.mean((2, 3))] * 5, 2)
        return Keypoints(points, torch.zeros_like(points), background=True, appearance=looks)

    def part_maps(self, images: Tensor) -> PartMaps:
        bright = images.mean(1) > 0.5
        labels = bright.long()
        return PartMaps(torch.stack([~bright, bright], 1).float(), labels)

    def reconstruct(self, images: Tensor) -> Tensor:
        return images / 2

    def generate(self, batch: Batch) -> Tensor:
        return torch.rand(len(batch.images), 3, 32, 32)

    def replaced(self, batch: Batch) -> Tensor:
        return (torch.arange(4) < 2).expand(len(batch.images), -1)

    def move(self, images: Tensor, particle: int, shift: tuple[float, float]) -> Tensor:
        return images.roll(round(16 * shift[0]), 3)

    trunk_names = ("encoder", "discriminator")

    def trunks(self) -> dict[str, nn.Module]:
        return {"encoder": nn.Conv2d(3, 4, 3), "discriminator": nn.Flatten()}


def test_there_is_a_capability_for_everything_that_is_offered() -> None:
    assert set(offered_by(Everything)) == set(capabilities()) - {"predictions"}
    assert offered_by(Bare) == {}
    named = {need for probe in _probes() for need in probe.needs}
    assert named <= set(capabilities())


def _probes() -> list[Any]:
    from partbench.probe import Probe

    base: Any = Probe
    return [plugins.load("probes", name, base) for name in plugins.names("probes", base)]


@pytest.mark.parametrize("name", plugins.names("methods", Method))
def test_every_method_has_its_capabilities_whole(name: str) -> None:
    check_class(methods.load(name))
    assert offered_by(methods.load(name))


def test_the_members_of_a_promise_include_those_of_its_bases() -> None:
    assert members(keypoints.HasKeypoints) == ["frame", "keypoints", "protocol"]
    assert members(movement.HasMovement) == ["frame", "keypoints", "move", "protocol"]


# Half a capability, found when the configuration is read.


class MoveAlone(Bare):
    move = Everything.move


class PredictAlone(Bare):
    def predict(self, first: Tensor, steps: int) -> Tensor:
        return first[:, -1:].expand(-1, steps, -1, -1, -1)


class OtherProtocol(Bare):
    keypoints = Everything.keypoints
    protocol: ClassVar[Any] = {"points": "centred", "landmarks": "corner"}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (MoveAlone, r"MoveAlone has `move` but no `keypoints`; `HasMovement` in .*movement\.py"),
        (PredictAlone, r"PredictAlone has `predict` but no `predict_told`"),
        (OtherProtocol, r"OtherProtocol\.protocol is \{.*RegressionOrigins"),
    ],
)
def test_half_a_capability_is_refused(method: type, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_class(method)


def test_a_configuration_with_half_a_capability_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(methods, "load", lambda *_: MoveAlone)
    values = {
        "name": "x",
        "seeds": [0],
        "data": {"toy": {"reader": "toy"}},
        "runs": [{"train": "toy", "methods": {"mover": ["paper"]}, "probes": {"linear": ["toy"]}}],
    }
    with pytest.raises(BadInput, match="has `move` but no `keypoints`"):
        config.check(values, "test")


# A broken promise, found before the first step.


def breaking(member: str, value: Any) -> Method:
    """Return a method of which one member returns something else."""

    class Broken(Everything):
        pass

    setattr(Broken, member, lambda *_: value)
    return Broken()


POINTS = torch.zeros(2, 3, 2)
HALF, LABELS = torch.full((2, 2, 32, 32), 0.5), torch.zeros(2, 32, 32, dtype=torch.int64)
BROKEN: dict[str, tuple[str, Any, str]] = {
    "features that are a list": ("features", [1.0], r"features\(images\) is of type list"),
    "a map of features": ("features", torch.zeros(2, 4, 8, 8), r"must be .* \[2, D\]"),
    "features of float64": ("features", torch.zeros(2, 4).double(), "is float64"),
    "features that are not finite": ("features", torch.full((2, 4), torch.nan), "not finite"),
    "bare points": ("keypoints", POINTS, r"is of type Tensor; it must be a Keypoints"),
    "points of one image": ("keypoints", Keypoints(POINTS[:1]), r"\[2, K, 2\]"),
    "points in 3d": ("keypoints", Keypoints(torch.zeros(2, 3, 3)), r"\[2, K, 2\]"),
    "points in pixels": (
        "keypoints",
        Keypoints(torch.full((2, 3, 2), 20.0)),
        r"keypoint 0 of image 0 is \(20, 20\), pixel \(335\.5, 335\.5\), outside .* from -1 to 1",
    ),
    "log-variances of other points": (
        "keypoints",
        Keypoints(POINTS, torch.zeros(2, 2, 2)),
        r"logvar is float32 \[2, 2, 2\]",
    ),
    "appearances of other points": (
        "keypoints",
        Keypoints(POINTS, torch.zeros(2, 3, 2), appearance=torch.zeros(2, 4, 6)),
        r"appearance is float32 \[2, 4, 6\]",
    ),
    "parts of whole images at low resolution": (
        "whole_part_maps",
        PartMaps(HALF[..., ::2], LABELS),
        r"whole_part_maps\(images\)\.weights is float32",
    ),
    "only the background": (
        "keypoints",
        Keypoints(POINTS[:, :1], background=True),
        "only the background's keypoint",
    ),
    "no frame": ("frame", None, r"frame\(\) is of type NoneType; it must be a Frame"),
    "bare part maps": ("part_maps", (HALF, LABELS), "must be a PartMaps"),
    "maps of low resolution": (
        "part_maps",
        PartMaps(HALF[..., ::4, ::4], LABELS),
        r"weights is float32 \[2, 2, 8, 8\]; it must be .* \[2, K, 32, 32\]",
    ),
    "labels of low resolution": ("part_maps", PartMaps(HALF, LABELS[:, ::4]), r"\[2, 32, 32\]"),
    "weights below 0": ("part_maps", PartMaps(HALF - 0.6, LABELS), r"value -0\.1; .* from 0"),
    "weights of more than a pixel": ("part_maps", PartMaps(2 * HALF, LABELS), "2 of a pixel"),
    "labels from 1": ("part_maps", PartMaps(HALF, LABELS + 2), "value 2; it must be from 0 to 1"),
    "labels as numbers": ("part_maps", PartMaps(HALF, LABELS.float()), "is float32"),
    "a foreground of shares": (
        "part_maps",
        PartMaps(HALF, LABELS, HALF[:, 0]),
        r"foreground is float32 .* must be a tensor of bool",
    ),
    "reconstructions in grey levels": ("reconstruct", 200 * IMAGES, "from 0 to 1"),
    "generated images of another number": ("generate", IMAGES[:1], r"\[2, 3, S, S\]"),
    "a movement without channels": ("move", IMAGES[:, 0], r"\[2, 3, S', S'\]"),
    "no trunks": ("trunks", {}, "at least one"),
    "a bare trunk": ("trunks", nn.Flatten(), "of type Flatten; it must be networks by the names"),
    "a trunk that is a function": ("trunks", {"encoder": torch.relu}, "must be an nn.Module"),
    "a trunk of another name": (
        "trunks",
        {"encoder": nn.Flatten(), "decoder": nn.Flatten()},
        "has the parts encoder, decoder; `trunk_names` of the method names encoder, discriminator",
    ),
    "a trunk that mixes images": (
        "trunks",
        {"encoder": nn.Flatten(0)},
        r"trunks\(\)\['encoder'\]\(images\) is float32 \[6144\]; it must be .* \[2, D\]",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_refused_in_words(name: str) -> None:
    member, value, message = BROKEN[name]
    with pytest.raises(BadInput, match=message):
        check_outputs(breaking(member, value), IMAGES)


def test_a_check_changes_nothing() -> None:
    method = Everything()
    method.train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_outputs(method, IMAGES)
    assert method.training
    assert torch.equal(torch.get_rng_state(), before)
    assert not [p for p in method.parameters() if p.grad is not None]


# What is written is what is read.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(prepare_toy(tmp_path_factory.mktemp("outputs"), train=7, val=1, test=5))


def images_of(data: Prepared, split: str) -> Tensor:
    return torch.from_numpy(np.array(data.split(split).images)).permute(0, 3, 1, 2) / 255


SIZES = {"train": 7, "test": 5}


def test_features_come_back(data: Prepared, tmp_path: Path) -> None:
    method = Everything()
    capabilities()["features"].write(method, data, tmp_path, CPU, "test")
    write_checksums(tmp_path)
    for split, n in SIZES.items():
        expected = method.features(images_of(data, split)).numpy()
        np.testing.assert_array_equal(features.read(tmp_path, split, n), expected)
    with pytest.raises(BadInput, match=r"\[6 images, features\]"):
        features.read(tmp_path, "train", 6)


def test_keypoints_come_back(data: Prepared, tmp_path: Path) -> None:
    method = Everything()
    capabilities()["keypoints"].write(method, data, tmp_path, CPU, "test")
    write_checksums(tmp_path)
    read = keypoints.read(tmp_path, SIZES)
    assert read.frame == of_borders(32)
    assert read.protocol == RegressionOrigins("centred", "corner")
    assert read.background
    assert read.logvar is not None
    for split in SIZES:
        expected = method.keypoints(images_of(data, split)).points
        np.testing.assert_array_equal(read.points[split], expected)
        assert not read.logvar[split].any()
        assert read.appearance is not None
        means = images_of(data, split).mean((2, 3))
        np.testing.assert_array_equal(read.appearance[split], np.stack([means] * 5, 2))
    assert read.carried.shape == read.stayed.shape == (5, 3, 2)


def test_keypoints_that_stay_on_the_image_are_carried_back_to_their_places(
    data: Prepared, tmp_path: Path
) -> None:
    """A method that finds the same corner of the creature finds it in the warped copy, too."""

    class Follows(Bare):
        """Two constant points: their carried copies differ, unlike the points."""

        def keypoints(self, images: Tensor) -> Keypoints:
            return Keypoints(torch.tensor([[0.0, 0.0], [0.25, -0.25]]).expand(len(images), 2, 2))

    torch.manual_seed(0)
    capabilities()["keypoints"].write(Follows(), data, tmp_path, CPU, "test")
    write_checksums(tmp_path)
    read = keypoints.read(tmp_path, SIZES)
    # Constant points stay where they are under any warp.
    np.testing.assert_array_equal(read.stayed, read.carried)
    moved = np.abs(read.carried - read.points["test"]).max((1, 2))
    assert (moved > 1e-3).all()
    assert (moved < 0.8).all()


def test_part_maps_come_back(data: Prepared, tmp_path: Path) -> None:
    method = Everything()
    capabilities()["part_maps"].write(method, data, tmp_path, CPU, "test")
    write_checksums(tmp_path)
    read = part_maps.read(tmp_path, data)
    maps = method.part_maps(images_of(data, "test"))
    assert read.k == 2
    assert read.foreground_of == "mask"
    np.testing.assert_array_equal(read.labels, maps.labels)
    mask = np.asarray(data.split("test").annotation("mask"))
    weights = maps.weights.numpy() * mask[:, None]
    np.testing.assert_allclose(read.mass["test"], weights.sum((2, 3)))
    x = (weights * np.arange(32)).sum((2, 3)) / np.maximum(weights.sum((2, 3)), 1e-8)
    present = weights.sum((2, 3)) > 0
    np.testing.assert_allclose(read.centres["test"][..., 0][present], x[present], rtol=1e-5)
    assert read.agreement is not None
    assert read.agreement.shape == (5,)
    assert ((read.agreement >= 0) & (read.agreement <= 1)).all()


def test_a_foreground_of_its_own_comes_back(data: Prepared, tmp_path: Path) -> None:
    class Own(Everything):
        def part_maps(self, images: Tensor) -> PartMaps:
            maps = super().part_maps(images)
            return maps._replace(foreground=images[:, 0] > 0.5)

    capabilities()["part_maps"].write(Own(), data, tmp_path, CPU, "test")
    write_checksums(tmp_path)
    read = part_maps.read(tmp_path, data)
    assert read.foreground_of == "own"
    np.testing.assert_array_equal(read.foreground, images_of(data, "test")[:, 0] > 0.5)


def test_pictures_come_back(data: Prepared) -> None:
    method, split = Everything(), data.split("test")
    drawn = {"originals": np.array(split.images)}
    for capability in offered_by(Everything).values():
        drawn |= capability.draw(method, split, CPU)
    points = keypoints.Pictures.read(drawn)
    assert points is not None
    pixels = of_borders(32).to_pixels(method.keypoints(images_of(data, "test")).points)
    np.testing.assert_allclose(points.points, pixels)
    parts = part_maps.Pictures.read(drawn)
    assert parts is not None
    assert parts.parts.shape == (5, 32, 32)
    rebuilt = reconstructions.Pictures.read(drawn)
    assert rebuilt is not None
    assert rebuilt.reconstructions.max() <= 128
    generated, moved = generated_images.Pictures.read(drawn), movement.Pictures.read(drawn)
    assert generated is not None
    assert moved is not None
    assert len(moved.frames) == movement.FRAMES
    assert len(generated.images) == 5


def test_mixed_scenes_come_back_where_the_data_have_neighbours(tmp_path: Path) -> None:
    class Mixing(Everything):
        learns_from = "neighbours"

        def __init__(self) -> None:
            super().__init__()
            self.settings = NeighbourSettings()

        def generate(self, batch: Batch) -> Tensor:
            assert batch.candidates is not None
            return batch.candidates[:, 0]

    folder = prepare_toy(tmp_path, test=5)
    names = ("generated_images", "mixed_scenes")
    plain, method = Prepared(folder).split("test"), Mixing()
    assert [capabilities()[name].draw(method, plain, CPU) for name in names] == [{}, {}]

    draw_neighbours(folder, {"test": 5}, ranks=3)
    split = Prepared(folder).split("test")
    drawn: dict[str, Any] = {"originals": np.array(split.images)}
    for name in names:
        torch.manual_seed(3)
        drawn |= capabilities()[name].draw(method, split, CPU)
    scenes = mixed_scenes.Pictures.read(drawn)
    assert scenes is not None
    # Scenes and their pictures draw the same candidates.
    np.testing.assert_array_equal(scenes.candidates[:, 0], drawn["generated"])
    neighbours = split.annotation("neighbours")
    for i in range(4):
        found = (split.images[neighbours[:, i]] == scenes.candidates[:, i, None]).all((2, 3, 4))
        assert found.any(1).all()
    assert (scenes.kept[:, :16] == 128).all()
    np.testing.assert_array_equal(scenes.kept[:, 16:], split.images[:, 16:])
    for damage in ("replaced", "candidates_2", "originals"):
        assert mixed_scenes.Pictures.read(drawn | {damage: drawn[damage][:3]}) is None


@pytest.mark.parametrize(
    ("reader", "key"),
    [
        (keypoints.Pictures, "keypoints"),
        (part_maps.Pictures, "parts"),
        (reconstructions.Pictures, "reconstructions"),
        (generated_images.Pictures, "generated"),
        (movement.Pictures, "moved"),
        (mixed_scenes.Pictures, "replaced"),
    ],
)
def test_damaged_pictures_are_none(reader: Any, key: str) -> None:
    originals = np.zeros((4, 32, 32, 3), np.uint8)
    assert reader.read({}) is None
    assert reader.read({"originals": originals, key: np.zeros((4, 2))}) is None
    assert reader.read({"originals": originals.astype(float), key: originals.astype(float)}) is None


def test_films_come_back() -> None:
    films = predictions.Films(
        np.zeros((2, 5, 8, 8, 3), np.uint8),
        np.zeros((2, 3, 8, 8, 3), np.uint8),
        np.zeros((2, 3)),
        np.ones((2, 3)),
    )
    assert predictions.Films.read(films._asdict()) is not None
    for name in films._fields:
        assert predictions.Films.read({**films._asdict(), name: np.zeros(3)}) is None
        fewer = {k: v for k, v in films._asdict().items() if k != name}
        assert predictions.Films.read(fewer) is None


# Coordinates, and the agreement under warps.


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    side=st.integers(8, 64),
    margin=st.integers(0, 3),
    cells=st.integers(2, 16),
    points=arrays(np.float64, (3, 2), elements=st.floats(-1, 1)),
)
def test_pixels_and_points_are_each_others_inverse(
    side: int, margin: int, cells: int, points: Any
) -> None:
    for frame in (of_cells(side, cells, margin), of_borders(side, margin), of_pixels(side)):
        pixels = frame.to_pixels(points)
        np.testing.assert_allclose(frame.from_pixels(pixels), points, atol=1e-9)
        assert frame.contains(pixels, 1e-6).all()
    assert not Frame(0, 7, 0, 8).contains(np.array([8.0, 0.0]))


def test_agreement_counts_the_foreground_that_keeps_its_part() -> None:
    carried = np.array([[[1, 1], [2, 0]], [[0, 0], [0, 0]]])
    labels = np.array([[[1, 2], [2, 2]], [[1, 1], [1, 1]]])
    share = part_agreement(carried, labels)
    assert share.dtype == np.float32
    assert share[0] == np.float32(2 / 3)
    assert np.isnan(share[1])


def test_what_a_method_does_not_offer_is_not_written(tiny: Path, tmp_path: Path) -> None:
    model = trained("mean_shape", tiny, tmp_path)
    with pytest.raises(BadInput, match="mean_shape offers no features, but keypoints; name what"):
        measured("linear", model, tiny, tmp_path)
