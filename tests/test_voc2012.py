"""The reader of PASCAL VOC 2012's classification task."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from partbench.data.batch import Batch
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.data.voc2012 import CLASSES, VOC2012
from partbench.errors import BadInput
from partbench.method import DataInfo, load, resolve
from partbench.model import load_model
from partbench.run import Run, Runtime
from partbench.train import train

NAMES = [f"2008_{i:06d}" for i in range(11_540)]
PRESENT = (0, 3, 4, 9)


def reader(root: Path, **settings: Any) -> VOC2012:
    return VOC2012(root, VOC2012.Settings.parse(settings, "test"))


def make(root: Path) -> Path:
    """Four photos; photo i shows class i, person, and something difficult of class i + 1."""
    folder = root / "VOCdevkit" / "VOC2012"
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (folder / "JPEGImages").mkdir()
    (lists / "trainval.txt").write_text("\n".join(NAMES) + "\n")
    for column, name in enumerate(CLASSES):
        lines = []
        for i, photo in enumerate(NAMES):
            shown = column == i % 20 or name == "person"
            mark = 1 if shown else 0 if column == i % 20 + 1 else -1
            lines.append(f"{photo} {mark:2d}")
        (lists / f"{name}_trainval.txt").write_text("\n".join(lines) + "\n")
    for i in PRESENT:
        level = np.full((20, 30, 3), 20 * i, np.uint8)
        Image.fromarray(level).save(folder / "JPEGImages" / f"{NAMES[i]}.jpg")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="module")
def prepared(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "voc2012"
    prepare(reader(root, size=16, subset=True), "voc2012", out, workers=1)
    return out


def test_classes_become_attributes_and_difficult_ones_do_not_count(prepared: Path) -> None:
    data = Prepared(prepared)
    assert data.meta["attribute_names"] == list(CLASSES)
    assert data.attributes == 20
    assert data.classes == 0
    split = data.split("train")
    attributes = np.array(split.annotation("attributes"))
    for row, i in zip(attributes, PRESENT, strict=True):
        assert {CLASSES[c] for c in np.flatnonzero(row)} == {CLASSES[i], "person"}
    np.testing.assert_allclose(split.images[:, 8, 8, 0], [20 * i for i in PRESENT], atol=2)
    assert data.meta["splits"]["train"]["missing"] == 11_536


def test_lists_that_are_not_whole(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"11536 of 11540 .*'train' are missing"):
        prepare(reader(root), "voc2012", tmp_path / "out", workers=1)
    with pytest.raises(BadInput, match=r"trainval\.txt is missing; get the archive from host"):
        reader(tmp_path).splits()
    other = make(tmp_path / "other")
    lists = other / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main"
    for text, message in (
        (f"{NAMES[0]} 2\n", f"photo {NAMES[0]} is marked '2', not 1, 0 or -1"),
        (f"{NAMES[0]} 1\n", f"photo {NAMES[1]} is marked '', not 1, 0 or -1"),
    ):
        (lists / "cow_trainval.txt").write_text(text)
        with pytest.raises(BadInput, match=f"cow_trainval.txt: the {message}"):
            reader(other, subset=True).sample("train", 0)
    (lists / "trainval.txt").write_text("\n".join([*NAMES[:-1], NAMES[0]]))
    with pytest.raises(BadInput, match="names 11,539 photos in 11,540 lines, not 11,540"):
        reader(other).splits()


def made(variant: str, size: int, attributes: int, **changes: Any) -> Any:
    cls = load("supervised_attributes")
    settings = resolve(cls, variant, changes, "test")
    return cls(settings, DataInfo(size, 0, attributes=attributes))


def test_the_control_is_the_thesis_s() -> None:
    with torch.device("meta"):
        method = made("paper", 256, 20)
    s = method.settings
    assert s.epochs * s.images_per_epoch // s.batch_size == 80_000
    assert (s.optimizer, s.learning_rate, s.batch_size, s.window) == ("sgd", 1e-3, 10, 224)
    assert s.drops == (10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 70_000)
    assert method.head[1].weight.shape == (20, 192 * 49)
    method.optimizers()
    method.after_step(25_000)
    assert method.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 / 4)


def test_its_loss_is_the_mean_over_attributes() -> None:
    method = made("demo", 32, 3)
    told = torch.tensor([[True, False, True], [False, False, True]])
    images = torch.rand(2, 3, 32, 32)
    torch.manual_seed(4)
    terms = method(Batch(images, told), "all")
    torch.manual_seed(4)
    logits = method.logits(images)
    each = torch.where(told, F.softplus(-logits), F.softplus(logits))
    torch.testing.assert_close(terms["loss"], each.mean())
    assert terms["accuracy"] == ((logits > 0) == told).float().mean()


def test_it_trains_on_attributes(prepared: Path, tmp_path: Path) -> None:
    changes = {"batch_size": 2, "epochs": 2, "dense_layers": [1, 1], "first": 4, "growth": 2}
    settings = resolve(load("supervised_attributes"), "demo", changes, "test")
    run = Run("supervised_attributes", "demo", "voc2012", 0)
    train(run, settings, Runtime(device="cpu", threads=1), prepared, tmp_path)
    _, method = load_model(tmp_path / "model.pt", "cpu")
    assert method.data.attributes == 20
    with torch.inference_mode():
        assert method.trunks()["encoder"](torch.rand(1, 3, 24, 24)).shape == (1, 32, 6, 6)  # type: ignore[operator]
