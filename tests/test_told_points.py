"""Trivial baselines of parts, which the annotations alone give: the published errors come out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from partbench import method as methods
from partbench.data.cub import CUB, LANDMARKS, read_birds
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.extract import extract
from partbench.method import DataInfo
from partbench.metrics import cub
from partbench.metrics.landmarks import flat
from partbench.outputs import part_maps
from partbench.outputs.told_points import Annotated
from partbench.probes.parts import Parts, PartSettings
from partbench.run import Run, Runtime
from partbench.train import train

PUBLISHED = {
    "image_midpoint": (27.3, 26.7, 27.2),
    "gt_keypoint_mean": (20.9, 22.4, 19.9),
    "throat_keypoint": (16.4, 14.9, 15.2),
}
"""Errors on CUB-001, 002 and 003, % of the box (Choudhury et al. 2021, Table 1)."""
CPU = Runtime(device="cpu", threads=1)


def made(name: str, **settings: Any) -> Any:
    cls = methods.load(name)
    return cls(methods.resolve(cls, "paper", settings, "test"), DataInfo(256, 0))


# ---------------------------------------------------------------------------- the rules

ABOUT = Annotated(
    names=("eye", "throat"),
    landmarks=np.array([[(10, 20), (30, 60)], [(5, 7), (1, 1)], [(8, 8), (9, 9)]], np.float32),
    visible=np.array([[True, True], [True, False], [False, False]]),
    extent=np.array([(64, 48)] * 3),
    uncut=np.array([(70, 50)] * 3),
)


def points(name: str, **settings: Any) -> tuple[list[Any], list[Any]]:
    found = made(name, **settings).told_points(ABOUT)
    assert found.centres.shape == (3, 1, 2)
    assert found.mass.shape == (3, 1)
    return found.centres[:, 0].tolist(), found.mass[:, 0].tolist()


def test_where_the_points_lie() -> None:
    assert points("image_midpoint") == ([[25, 35]] * 3, [1, 1, 1])
    assert points("image_midpoint", rule="plain") == ([[31.5, 23.5]] * 3, [1, 1, 1])
    assert points("gt_keypoint_mean") == ([[20, 40], [2.5, 3.5], [0, 0]], [1, 1, 1])
    plain = points("gt_keypoint_mean", rule="plain")
    assert plain == ([[20, 40], [5, 7], [0, 0]], [1, 1, 0])
    assert points("throat_keypoint") == ([[30, 60], [0, 0], [0, 0]], [1, 0, 0])
    assert points("throat_keypoint", landmark="eye")[1] == [1, 1, 0]
    with pytest.raises(BadInput, match="no landmark 'throats'; did you mean 'throat'"):
        points("throat_keypoint", landmark="throats")


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_every_pixel_has_the_one_part(name: str) -> None:
    maps = made(name).part_maps(torch.zeros(2, 3, 6, 9))
    assert (maps.weights == 1).all()
    assert maps.weights.shape == (2, 1, 6, 9)
    assert (maps.labels == 0).all()
    assert maps.foreground is not None
    assert maps.foreground.all()


# ---------------------------------------------------------------------------- published errors


def test_the_published_errors_by_the_authors_preparation(shared_data: Path) -> None:
    """Resize the shorter side to 256, round down; cut the border to multiples of 16."""
    birds = read_birds(shared_data)
    rows = np.flatnonzero(birds.labels < 3)
    landmarks, boxes = birds.landmarks[rows].astype(float), birds.boxes[rows].astype(float)
    visible = birds.visible[rows].copy()
    extent, uncut = np.zeros((2, len(rows), 2), np.int64)
    for i, row in enumerate(rows):
        path = shared_data / "CUB_200_2011" / "images" / birds.names[row]
        size = np.array(Image.open(path).size)
        uncut[i] = np.where(size == size.min(), 256, 256 * size / size.min())
        factor = uncut[i] / size
        corner = uncut[i] % 16 // 2
        extent[i] = uncut[i] // 16 * 16
        landmarks[i] = landmarks[i] * factor - corner
        inside = (landmarks[i] >= 0).all(1) & (landmarks[i] < extent[i]).all(1)
        visible[i] &= inside
        boxes[i, :2] = np.maximum(boxes[i, :2] * factor - corner, 0)
        boxes[i, 2:] = np.minimum(boxes[i, 2:] * factor, extent[i])
    landmarks = np.where(visible[..., None], landmarks, 0)
    about = Annotated(LANDMARKS, landmarks.astype(np.float32), visible, extent, uncut)
    fitted, labels = birds.train[rows], birds.labels[rows]
    truth = cub.in_box(landmarks, visible, boxes)
    for name, expected in PUBLISHED.items():
        told = made(name).told_points(about)
        at = np.where(told.mass[..., None] > 0, told.centres, 0)
        inputs = flat(cub.box_units(at, boxes))
        examples = (inputs[fitted], truth.landmarks[fitted], visible[fitted])
        errors = truth.errors(cub.predict(examples, inputs))
        found = [cub.micro_average(errors[~fitted & (labels == c)]) for c in range(3)]
        assert [round(value, 1) for value in found] == list(expected), name


@pytest.fixture(scope="module")
def whole(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CUB-001 to 003 at their own aspect."""
    values = {"crop": "whole", "size": 256, "classes": [1, 2, 3], "subset": True}
    out = tmp_path_factory.mktemp("cub") / "cub"
    prepare(CUB(shared_data, CUB.Settings.parse(values, "test")), "cub", out, workers=1)
    return out


@pytest.fixture(scope="module")
def square(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some birds to train on; what they show does not matter."""
    limit = {"train": 2, "test": 1}
    values = {"size": 256, "classes": [1], "limit": limit, "subset": True}
    out = tmp_path_factory.mktemp("cub") / "square"
    prepare(CUB(shared_data, CUB.Settings.parse(values, "test")), "square", out, workers=1)
    return out


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_run_comes_near_the_published_errors(
    name: str, whole: Path, square: Path, tmp_path: Path
) -> None:
    """Trained, extracted and measured as any run is."""
    cls = methods.load(name)
    found = measured(name, whole, square, tmp_path)
    for number, expected in enumerate(PUBLISHED[name], start=1):
        assert found[f"CUB-{number:03d}"] == pytest.approx(expected, abs=0.16)
    assert cls.role == "floor"
    for metric in ("fg_nmi", "fg_ari", "nmi", "ari"):
        assert found[metric] == pytest.approx(0, abs=1e-9)


def measured(name: str, data: Path, square: Path, out: Path) -> dict[str, float]:
    """Return the landmark errors by class, and NMI and ARI, of a run on a data set."""
    resolved = methods.resolve(methods.load(name), "paper", {}, "test")
    train(Run(name, "paper", "square", 0), resolved, CPU, square, out / "run")
    extract(out / "run/model.pt", data, ["part_maps"], out / "outputs", out / "p.npz", "cpu", 1)
    result = Parts().run(out / "outputs", data, PartSettings(), 0, "cpu")
    numbers = {m.setting.on: m.value for m in result.metrics if m.metric == "landmark_error"}  # type: ignore[attr-defined]
    return numbers | {m.metric: m.value for m in result.metrics if not m.setting.on}  # type: ignore[attr-defined]


def test_told_points_reach_the_outputs_as_they_are(tiny: Path, tmp_path: Path) -> None:
    data = Prepared(tiny)
    method = made("gt_keypoint_mean")
    run = Run("gt_keypoint_mean", "demo", "toy", 0)
    train(run, method.settings, CPU, tiny, tmp_path / "run")
    extract(
        tmp_path / "run/model.pt", tiny, ["part_maps"], tmp_path / "o", tmp_path / "p", "cpu", 1
    )
    read = part_maps.read(tmp_path / "o", data)
    assert (read.k, read.foreground_of, read.told) == (1, "own", True)
    for name in ("train", "test"):
        split = data.split(name)
        expected: NDArray[Any] = cub.mean_keypoint(
            np.array(split.annotation("landmarks")), np.array(split.annotation("visible"))
        )
        np.testing.assert_allclose(read.centres[name], expected, atol=1e-4)
        assert (read.mass[name] == 1).all()
