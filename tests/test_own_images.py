"""Real images with landmarks and parts of their own, from CSV and PNG to the probes' numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_annotations import BOXES, CSV, MAPS, POINTS, prepared, write

from partbench import method as methods
from partbench.data.ccp import CCP
from partbench.data.celeba import read_landmarks
from partbench.data.cub import CUB, LANDMARKS
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.extract import extract
from partbench.metrics import part_agreement
from partbench.probes.landmarks import Landmarks, LandmarkSettings
from partbench.probes.linear import Linear, LinearSettings
from partbench.probes.parts import Parts, PartSettings
from partbench.run import Run, Runtime
from partbench.score.parts import score
from partbench.train import train

CPU = Runtime(device="cpu", threads=1)


def measured(
    name: str, data: Prepared, out: Path, needs: set[str], variant: str = "demo", **changes: Any
) -> Path:
    """Train a method for some epochs and write its outputs; return their folder."""
    cls = methods.load(name)
    values = methods.resolve(cls, variant, changes, "test")
    train(Run(name, variant, "mine", 0), values, CPU, data.folder, out / name)
    model, outputs = out / name / "model.pt", out / f"{name}.outputs"
    extract(model, data.folder, needs, outputs, out / f"{name}.npz", "cpu", 1)
    return outputs


def test_real_faces_from_a_csv_to_landmarks_and_classes(shared_data: Path, tmp_path: Path) -> None:
    """Faces that look left or right: 120 to train on, 40 to measure."""
    faces = read_landmarks(shared_data / "celeba" / "list_landmarks_align_celeba.txt")
    there = sorted(path.name for path in (shared_data / "celeba" / "img_align_celeba").iterdir())
    chosen = [name for name in there if name in faces][:160]
    names = ("left eye", "right eye", "nose", "left mouth", "right mouth")
    rows: list[list[Any]] = []
    for i, name in enumerate(chosen):
        points = faces[name]
        side = "left" if points[2, 0] < points[:2, 0].mean() else "right"
        path = tmp_path / ("train" if i < 120 else "test") / side / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((shared_data / "celeba" / "img_align_celeba" / name).read_bytes())
        rows += [[name, *of] for of in zip(names, *points.T.tolist(), [1] * 5, strict=True)]
    write(tmp_path / "landmarks.csv", POINTS, rows)
    data = prepared(tmp_path, **CSV, size=32, crop="stretch")
    test = data.split("test")
    listed = (data.folder / "test.names.txt").read_text().split()
    expected = np.stack(
        [(faces[n.rpartition("/")[2]] + 0.5) * (32 / 178, 32 / 218) for n in listed]
    )
    np.testing.assert_allclose(test.annotation("landmarks"), expected - 0.5, atol=1e-4)

    settings = LandmarkSettings(few_shot=(), held_out=0.0)
    errors = {}
    for name, epochs in (("keynet", 1), ("supervised_landmarks", 40)):
        outputs = measured(name, data, tmp_path, {"keypoints"}, epochs=epochs, batch_size=8)
        result = Landmarks().run(outputs, data.folder, settings, 0, "cpu")
        errors[name] = {
            (n.metric, str(n.setting)): n.value for n in result.metrics if np.isfinite(n.value)
        }
    shape = errors["keynet"]["mean_shape", ""]
    assert 5 < shape < 20
    assert errors["supervised_landmarks"]["iod_error", "intercept"] < 0.9 * shape

    outputs = measured("raw_pixels", data, tmp_path, {"features"}, "paper")
    result = Linear().run(outputs, data.folder, LinearSettings(cs=(1e-3,)), 0, "cpu")
    assert any(number.metric == "top1" and number.value > 50 for number in result.metrics)


def test_real_birds_are_those_of_their_own_reader(shared_data: Path, tmp_path: Path) -> None:
    """The same images by CUB's reader and as a person's own: the same arrays, bit for bit."""
    values = {"size": 48, "crop": "box", "classes": [1, 2], "subset": True}
    cub = CUB(shared_data, CUB.Settings.parse(values | {"limit": {"train": 8, "test": 6}}, "test"))
    prepare(cub, "cub", tmp_path / "cub", workers=1)
    official = Prepared(tmp_path / "cub")
    points: list[list[Any]] = []
    boxes: list[list[Any]] = []
    for split in ("train", "test"):
        every = list(cub.splits()[split])
        for name in (tmp_path / "cub" / f"{split}.names.txt").read_text().splitlines():
            sample = cub.sample(split, every.index(name))
            path = tmp_path / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((shared_data / "CUB_200_2011" / "images" / name).read_bytes())
            marks = zip(LANDMARKS, sample.landmarks, sample.visible, strict=True)  # type: ignore[arg-type]
            points += [[name, k, *xy.tolist(), int(seen)] for k, xy, seen in marks]
            x, y, *sides = sample.box.tolist()  # type: ignore[union-attr]
            boxes.append([name, x + 0.5, y + 0.5, *sides])
    write(tmp_path / "points.csv", POINTS, points)
    write(tmp_path / "boxes.csv", BOXES, boxes)
    mine = prepared(tmp_path, annotations=["points.csv", "boxes.csv"], size=48, crop="box")
    assert mine.meta["landmark_names"] == list(LANDMARKS)
    for split in ("train", "test"):
        names = (tmp_path / "cub" / f"{split}.names.txt").read_text().splitlines()
        by_name = sorted(range(len(names)), key=names.__getitem__)
        for kind in ("images", "labels", "landmarks", "visible", "box"):
            one, other = (
                data.split(split).images if kind == "images" else data.split(split).annotation(kind)
                for data in (mine, official)
            )
            np.testing.assert_array_equal(one, other[by_name], err_msg=f"{split} {kind}")
    outputs = measured("random_keypoints", mine, tmp_path, {"keypoints"}, "paper")
    chosen = LandmarkSettings(normaliser="box", few_shot=(), held_out=0.0)
    numbers = Landmarks().run(outputs, mine.folder, chosen, 0, "cpu").metrics
    assert any(number.metric == "box_error" and number.value > 0 for number in numbers)


def test_real_clothes_from_png_to_parts(shared_data: Path, tmp_path: Path) -> None:
    """Photos of people with some labels of clothes, one of them unsure."""
    ccp = CCP(shared_data, CCP.Settings.parse({"subset": True}, "test"))
    names = list(ccp.part_names)
    unsure, kept = names.index("skin") + 1, sorted({names.index(n) + 1 for n in ("hair", "jeans")})
    (tmp_path / "labels.yaml").write_text(
        json.dumps({"parts": {str(n): names[n - 1] for n in kept}}).replace('"', " ")
    )
    for split, count in (("train", 16), ("test", 12)):
        (tmp_path / split).mkdir()
        for index in ccp.present(split)[:count]:
            sample = ccp.sample(split, index)
            assert sample.parts is not None
            path = tmp_path / split / sample.name
            path.write_bytes((shared_data / "ccp" / "photos" / sample.name).read_bytes())
            parts = np.where(np.isin(sample.parts, kept), sample.parts, 0)
            parts = np.where(sample.parts == unsure, 255, parts).astype(np.uint8)
            Image.fromarray(parts).save(path.with_suffix(".parts.png"))
            Image.fromarray(sample.mask).save(path.with_suffix(".mask.png"))
    data = prepared(tmp_path, **MAPS, size=64, crop="pad")
    assert data.meta["part_names"] == [names[n - 1] for n in kept]
    outputs = measured("unsup_parts", data, tmp_path, {"part_maps"}, epochs=1, images_per_epoch=16)
    result = Parts().run(outputs, data.folder, PartSettings(least_share=0.001), 0, "cpu")
    values = {number.metric: number.value for number in result.metrics}
    assert {"fg_nmi", "fg_ari", "nmi", "mean_iou", "part_consistency"} <= values.keys()
    # The headline, of the same arrays by the command and by the library.
    true = data.split("test").annotation("parts")
    pred = np.load(outputs / "test.labels.npy")
    np.savez(tmp_path / "parts.npz", true=true, pred=pred)
    told = score(tmp_path / "parts.npz", ignore=[255], background=0)
    found = part_agreement(true, pred, ignore=[0, 255])
    for name in ("nmi", "ari", "mean_iou"):
        assert told[f"fg_{name}"] == pytest.approx(values[f"fg_{name}"], rel=1e-9, abs=1e-9)
        assert told[f"fg_{name}"] == getattr(found, name).value
    assert 0 <= values["fg_nmi"] <= values["oracle_fg_nmi"] <= 100 + 1e-9
