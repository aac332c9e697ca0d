"""Measurements that are easy to get wrong unseen; each test fails on one such mistake."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_parts_probe as parts_probe
import torch
from conftest import prepare_toy
from numpy.typing import NDArray
from sealed import reseal
from sklearn.linear_model import LinearRegression
from torch import Tensor

from partbench import method as methods
from partbench.coordinates import of_pixels
from partbench.data.prepared import Prepared
from partbench.integrity import write_checksums
from partbench.method import DataInfo, StepFreeMethod, StepFreeSettings
from partbench.methods.dlp import DLP
from partbench.outputs import keypoints, part_maps
from partbench.outputs.capability import capabilities
from partbench.outputs.keypoints import Keypoints
from partbench.outputs.part_maps import PartMaps
from partbench.probes.landmarks import Landmarks, LandmarkSettings

SIZE, TEST = 32, 24
CPU = torch.device("cpu")


def with_test_images(folder: Path, images: NDArray[np.uint8], **annotations: Any) -> Prepared:
    """Return a small data set with given test images [TEST, SIZE, SIZE, 3] and annotations."""
    data = prepare_toy(folder, train=4, val=1, test=TEST)
    for name, array in {"images": images, **annotations}.items():
        np.save(data / f"test.{name}.npy", array)
    return Prepared(reseal(data))


def write(what: str, method: Any, data: Prepared, folder: Path) -> Path:
    """Write a method's outputs as `extract` does; return their folder."""
    folder.mkdir()
    capabilities()[what].write(method, data, folder, CPU, "test")
    write_checksums(folder)
    return folder


class Simple(StepFreeMethod):
    """A method of this file's images."""

    def __init__(self) -> None:
        super().__init__(StepFreeSettings(), DataInfo(SIZE, 0))


# ---------------------------------------------------------------------------- keypoints


class Spot(Simple):
    """One keypoint, the centre of mass of all light: it goes where the image's spot goes."""

    def frame(self) -> Any:
        return of_pixels(SIZE)

    def keypoints(self, images: Tensor) -> Keypoints:
        light = images.mean(1)
        line = torch.linspace(-1, 1, SIZE)
        x, y = (light.sum(axis) @ line for axis in (1, 2))
        return Keypoints(torch.stack([x, y], 1).unsqueeze(1) / light.sum((1, 2))[:, None, None])


class Still(Spot):
    """One keypoint that does not look at the image."""

    def keypoints(self, images: Tensor) -> Keypoints:
        return Keypoints(torch.full((len(images), 1, 2), 0.25))


def test_keypoints_of_warped_images_are_carried_back(tmp_path: Path) -> None:
    """What follows its spot comes back to it; what stays put comes back elsewhere."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(11, 20, (TEST, 2, 1, 1))
    y, x = np.mgrid[:SIZE, :SIZE]
    spots = np.exp(-((x - centres[:, 0]) ** 2 + (y - centres[:, 1]) ** 2) / 4)
    images = np.repeat((255 * spots).round().astype(np.uint8)[..., None], 3, axis=3)
    data = with_test_images(tmp_path / "data", images)
    moved = {}
    for method in (Spot(), Still()):
        torch.manual_seed(0)
        name = type(method).__name__
        folder = write("keypoints", method, data, tmp_path / name)
        read = keypoints.read(folder, {"train": 4, "test": TEST})
        moved[name] = np.abs(read.carried - read.points["test"])
    assert np.isfinite(moved["Spot"]).all()
    assert moved["Still"].mean() > 0.06  # a pixel
    assert moved["Spot"].mean() < 0.02


class Particles(DLP):
    """DLP with particles that are far apart without training: the colours' centres of mass."""

    def keypoints(self, images: Tensor) -> Keypoints:
        light = self.frame().cut(images) ** 4
        line = torch.linspace(-1, 1, light.shape[-1])
        x, y = (light.sum(axis) @ line for axis in (2, 3))
        own = torch.stack([x, y], 2) / light.sum((2, 3)).unsqueeze(2)
        return Keypoints(torch.cat([own, torch.zeros_like(own[:, :1])], 1), background=True)


def test_dlp_s_regression_is_in_the_frame_of_its_paper(tiny: Path, tmp_path: Path) -> None:
    """Particles from -1 to 1, landmarks in pixels from the window's corner, no intercept."""
    margin, data = 8, Prepared(tiny)
    small = {"channels": (4, 8), "prior_channels": (4, 8), "k": 3, "proposals": 6, "patch": 4}
    changes = {**small, "margin": margin, "perceptual": "pixels"}
    method = Particles(methods.resolve(DLP, "paper", changes, "test"), DataInfo(data.size, 0))
    folder = write("keypoints", method, data, tmp_path / "dlp")
    found = Landmarks().run(folder, tiny, LandmarkSettings(few_shot=()), 0, "cpu")
    errors = {str(m.setting): m.value for m in found.metrics if m.metric == "iod_error"}
    points = {
        name: np.load(folder / f"{name}.points.npy").astype(float) for name in ("train", "test")
    }
    window = data.size - 2 * margin
    by_frame = {
        (inputs, targets): landmark_error(
            data,
            points if inputs == "centred" else {n: (x + 1) / 2 * window for n, x in points.items()},
            margin if targets == "corner" else data.size / 2,
        )
        for inputs in ("centred", "corner")
        for targets in ("centred", "corner")
    }
    paper = by_frame.pop(("centred", "corner"))
    assert errors[""] == pytest.approx(paper, rel=1e-6)
    for other in by_frame.values():  # or nothing could be told
        assert other != pytest.approx(paper, rel=1e-2)


def landmark_error(data: Prepared, points: dict[str, NDArray[Any]], origin: float) -> float:
    """Return the error of landmarks counted from an origin, % inter-ocular, one by one."""
    train, test = data.split("train"), data.split("test")
    inputs = {name: x.reshape(len(x), -1) for name, x in points.items()}
    landmarks, visible = (np.array(test.annotation(k)) for k in ("landmarks", "visible"))
    distance = np.full(visible.shape, np.nan)
    for number in range(visible.shape[1]):
        seen = np.array(train.annotation("visible"))[:, number]
        target = np.array(train.annotation("landmarks"), np.float64)[:, number] - origin
        model = LinearRegression(fit_intercept=False).fit(inputs["train"][seen], target[seen])
        away = model.predict(inputs["test"]) + origin - landmarks[:, number]
        distance[:, number] = np.where(visible[:, number], np.hypot(*away.T), np.nan)
    eyes = np.hypot(*(landmarks[:, 0] - landmarks[:, 1]).T)
    counted = visible[:, :2].all(1)
    return float(100 * (np.nanmean(distance[counted], 1) / eyes[counted]).mean())


# ---------------------------------------------------------------------------- parts


class Halves(Simple):
    """A red and a green part that follow the image; around them, stripes that do not."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own = own

    def part_maps(self, images: Tensor) -> PartMaps:
        red, green, _ = images.unbind(1)
        inside = torch.maximum(red, green) > 0.5
        stripes = (torch.arange(SIZE) % 2).expand_as(red)
        labels = torch.where(inside, (green > red).long(), stripes)
        weights = torch.stack([labels == 0, labels == 1], 1).float()
        return PartMaps(weights, labels, inside if self.own else None)


@pytest.mark.parametrize("own", [False, True])
def test_agreement_under_warps_is_that_of_the_foreground(own: bool, tmp_path: Path) -> None:
    """Whoever knows it, data set or method; the background's stripes agree half the time."""
    images = np.zeros((TEST, SIZE, SIZE, 3), np.uint8)
    images[:, 10:22, 10:16, 0] = 255
    images[:, 10:22, 16:22, 1] = 255
    data = with_test_images(tmp_path / "data", images, mask=images.any(-1))
    torch.manual_seed(0)
    read = part_maps.read(write("part_maps", Halves(own), data, tmp_path / "out"), data)
    assert read.foreground_of == ("own" if own else "mask")
    assert read.agreement is not None
    assert read.agreement.mean() > 0.85


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy with the creatures as foreground."""
    data = prepare_toy(tmp_path_factory.mktemp("toy"))
    for split in ("train", "test"):
        np.save(data / f"{split}.mask.npy", np.load(data / f"{split}.parts.npy") > 0)
    return reseal(data)


def test_an_absent_part_lies_at_the_image_s_origin(toy: Path, tmp_path: Path) -> None:
    """As if its centre were pixel (0, 0), and not as if it were the corner of the bird's box."""
    labels, data = parts_probe.true_parts(toy) % 4, Prepared(toy)
    rng, k = np.random.default_rng(7), 4
    absent = {name: rng.random((len(data.split(name)), k)) < 0.3 for name in ("train", "test")}
    corners = {n: np.array(data.split(n).annotation("box"))[:, None, :2] for n in absent}
    assert np.abs(corners["test"]).max() > 2

    def errors(folder: Path, place: dict[str, Any] | None) -> dict[str, Any]:
        """Return the errors where absent parts are put at a place, or have no mass."""
        source = parts_probe.outputs(folder, toy, labels)
        for name, where in absent.items():
            path = source / f"{name}.centres.npy"
            if place is None:
                np.save(source / f"{name}.mass.npy", (~where).astype(np.float32))
            else:
                centres = np.where(where[..., None], place[name], np.load(path))
                np.save(path, centres.astype(np.float32))
        return parts_probe.measure(reseal(source), toy).details["landmarks"]

    massless = errors(tmp_path / "massless", None)
    assert massless
    assert massless == errors(tmp_path / "origin", dict.fromkeys(absent, 0))
    assert massless != errors(tmp_path / "corner", corners)


def test_parts_that_are_nowhere_do_not_lower_the_consistency(toy: Path, tmp_path: Path) -> None:
    """The mean is over the parts that are present somewhere, not over all K."""
    true = parts_probe.true_parts(toy)
    perfect = np.maximum(true, 1).astype(int) - 1
    source = parts_probe.outputs(tmp_path / "out", toy, perfect, k=int(true.max()) + 3)
    result = parts_probe.measure(source, toy)
    (share,) = (m.value for m in result.metrics if m.metric == "part_consistency")
    assert share == pytest.approx(100)
