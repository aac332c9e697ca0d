"""A foreground that is found: by whom, how well, and the data set that is made of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import prepare_toy
from PIL import Image
from test_cub import CLASSES, make, reader

from partbench import cli, foreground
from partbench import config as grid
from partbench.data.batch import Batch
from partbench.data.cub import CUB
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.foreground import find_foreground
from partbench.method import DataInfo
from partbench.method import load as load_method
from partbench.outputs.part_maps import PartMaps
from partbench.run import Run, Runtime
from partbench.train import train

CPU = Runtime(device="cpu", threads=1, precision="32-true")


def trained(name: str, data: Path, out: Path, **settings: Any) -> Path:
    cls = load_method(name)
    made = cls.Settings.parse({**cls.REDUCED["demo"], **settings}, "test")
    train(Run(name, "demo", "toy", 0), made, CPU, data, out)
    return out / "model.pt"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Creatures before a plain ground, 32 px."""
    folder = tmp_path_factory.mktemp("plain")
    return prepare_toy(folder, train=128, test=32, clutter=False, noise=0.0, occluded=0.0)


def test_a_supervised_network_finds_the_foreground(plain: Path, tmp_path: Path) -> None:
    model = trained("foreground", plain, tmp_path / "run", epochs=12, batch_size=8)
    find_foreground("found", model, plain, tmp_path / "found", "cpu", 1)
    old, new = Prepared(plain), Prepared(tmp_path / "found")
    about = new.meta["foreground"]
    assert about["by"] == "foreground/demo/toy/0"
    assert about["of"] == "toy"
    assert new.meta["data_set"] == "found"
    assert new.meta["checksum"] != old.meta["checksum"]
    for name in ("train", "test"):
        before, after = old.split(name), new.split(name)
        np.testing.assert_array_equal(before.images, after.images)
        np.testing.assert_array_equal(before.annotation("parts"), after.annotation("parts"))
        true, found = before.annotation("mask"), after.annotation("mask")
        union = (true | found).sum((1, 2))
        overlap = 100 * ((true & found).sum((1, 2)) / union).mean()
        assert overlap == pytest.approx(about["mean IoU, %"][name])
        # All of it, the mean of the training masks' shape, would be some 30 %.
        assert overlap > 50
    # The original is as it was.
    np.testing.assert_array_equal(
        old.split("test").annotation("mask"), old.split("test").annotation("parts") > 0
    )


def test_the_principal_component_is_that_of_the_whole_collection(plain: Path) -> None:
    cls = load_method("principal_foreground")
    settings = cls.Settings.parse(cls.REDUCED["demo"], "test")
    method: Any = cls(settings, DataInfo(32, 0))
    images = torch.from_numpy(np.array(Prepared(plain).split("train").images[:40]))
    images = images.permute(0, 3, 1, 2) / 255
    method.fit(lambda: iter([Batch(images[:25], None), Batch(images[25:], None)]))
    rows = method.describe(images).movedim(1, -1)
    flat = rows.flatten(0, 2).double()
    centred = flat - flat.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(method.centre.double(), flat.mean(0), rtol=1e-4, atol=1e-5)
    cosine = (axes[0] @ method.axis.double()).abs().item()
    assert cosine == pytest.approx(1, abs=1e-4)
    scores = (rows - method.centre) @ method.axis
    rim = torch.ones(scores.shape[1:], dtype=torch.bool)
    rim[1:-1, 1:-1] = False
    assert scores[:, rim].mean() < scores.mean()
    found = method.part_maps(images)
    assert found.foreground.dtype == torch.bool
    assert found.foreground.shape == (40, 32, 32)
    assert 0 < found.foreground.float().mean() < 1


def test_images_without_any_difference_have_no_component() -> None:
    cls = load_method("principal_foreground")
    settings = cls.Settings.parse({**cls.REDUCED["demo"], "l2": False}, "test")
    method: Any = cls(settings, DataInfo(32, 0))
    with pytest.raises(BadInput, match="not finite, or the same everywhere"):
        method.fit(lambda: iter([Batch(torch.full((2, 3, 32, 32), torch.nan), None)]))


def test_a_method_that_is_told_the_foreground_finds_none(plain: Path, tmp_path: Path) -> None:
    model = trained("random_parts", plain, tmp_path / "run")
    with pytest.raises(BadInput, match="is told the foreground and finds none"):
        find_foreground("found", model, plain, tmp_path / "found", "cpu", 1)
    assert not (tmp_path / "found").exists()


CONFIG = {
    "name": "found",
    "seeds": [0],
    "data": {
        "toy": {"reader": "toy", "size": 32, "train": 64, "val": 1, "test": 16},
        "toy-found": {"of": "toy", "by": "foreground/demo/toy/0"},
    },
    "runs": [
        {"train": "toy-found", "methods": {"kmeans": ["demo"]}, "probes": {"parts": ["toy-found"]}}
    ],
}


def test_the_grid_holds_the_run_that_finds_a_foreground() -> None:
    config = grid.check(CONFIG, "test")
    assert set(grid.runs(config)) == {
        Run("kmeans", "demo", "toy-found", 0),
        Run("foreground", "demo", "toy", 0),
    }
    assert grid.data_settings(config, "toy-found").size == 32
    assert [str(cell.run) for cell in grid.cells(config)] == ["kmeans/demo/toy-found/0"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"of": "toys", "by": "foreground/demo/toy/0"}, "no data set 'toys' .*toy"),
        ({"of": "toy", "by": "foreground/demo/other/0"}, "no data set 'other'"),
        ({"of": "toy", "by": "foreground/demo/toy"}, "by"),
        ({"of": "toy", "by": "foregrund/demo/toy/0"}, "no 'foregrund'"),
        ({"of": "toy", "by": "vae/demo/toy/0"}, "vae offers no part maps"),
        ({"of": "toy"}, "by"),
        ({"of": "toy", "by": "foreground/demo/toy/0", "size": 3}, "size"),
    ],
)
def test_what_cannot_find_a_foreground(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        grid.check({**CONFIG, "data": {**CONFIG["data"], "toy-found": entry}}, "test")


def test_the_stage_writes_a_sheet_and_says_what_lacks(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained("principal_foreground", plain, tmp_path / "run")
    arguments = ["--data-set", "f", "--data", str(plain), "--out", str(tmp_path / "f")]
    arguments += ["--runtime", CPU.model_dump_json()]
    assert cli.main(["foreground", "--model", str(model), *arguments]) == 0
    assert (tmp_path / "f" / "sheet.png").exists()
    assert json.loads((tmp_path / "f" / "meta.json").read_text())["foreground"]["of"] == "toy"
    assert cli.main(["foreground", "--model", str(tmp_path / "no.pt"), *arguments]) == 1
    assert "no.pt: no such model" in capsys.readouterr().err


def boxed(folder: Path, crop: str, **settings: Any) -> Path:
    """Prepare creatures in another crop."""
    return prepare_toy(folder, train=24, test=8, crop=crop, **settings)


def test_a_foreground_learnt_on_other_crops_is_refused(plain: Path, tmp_path: Path) -> None:
    model = trained("foreground", plain, tmp_path / "run", epochs=1)
    whole = boxed(tmp_path / "whole", "whole")
    with pytest.raises(
        BadInput, match=r"learnt the foreground on `crop: center`, .* `crop: whole`"
    ):
        find_foreground("found", model, whole, tmp_path / "found", "cpu", 1)
    assert not (tmp_path / "found").exists()


def test_a_configuration_that_finds_it_in_other_crops_is_refused() -> None:
    data = {**CONFIG["data"], "whole": {"reader": "toy", "size": 32, "crop": "whole"}}  # type: ignore[dict-item]
    for of, by, fine in (("whole", "toy", False), ("whole", "whole", True), ("toy", "toy", True)):
        data["toy-found"] = {"of": of, "by": f"foreground/demo/{by}/0"}
        block = {
            "train": "toy",
            "methods": {"kmeans": ["demo"]},
            "probes": {"parts": ["toy-found"]},
        }
        values = {**CONFIG, "data": data, "runs": [block]}
        if fine:
            grid.check(values, "test")
            continue
        message = r"data.toy-found: foreground/demo/toy/0 on whole: learnt .* `crop: center`"
        with pytest.raises(BadInput, match=message):
            grid.check(values, "test")


def test_whole_images_are_learnt_from_to_find_it_in_whole_images(tmp_path: Path) -> None:
    data = boxed(tmp_path, "whole", clutter=False, noise=0.0, occluded=0.0)
    model = trained("foreground", data, tmp_path / "run", epochs=4, batch_size=8)
    find_foreground("found", model, data, tmp_path / "found", "cpu", 1)
    found = Prepared(tmp_path / "found")
    assert found.whole
    width, height = found.split("test").annotation("extent")[0].tolist()
    masks = found.split("test").annotation("mask")
    assert masks.shape == (8, 64, 64)
    assert not masks[:, height:].any()
    assert not masks[:, :, width:].any()


def test_of_wide_squares_it_is_found_too(plain: Path, tmp_path: Path) -> None:
    """Else a training on their crops would be told the truth."""
    data = boxed(tmp_path, "center", wide=True)
    model = trained("principal_foreground", data, tmp_path / "run")
    find_foreground("found", model, data, tmp_path / "found", "cpu", 1)
    old, new = Prepared(data).split("train"), Prepared(tmp_path / "found").split("train")
    np.testing.assert_array_equal(old.annotation("wide_images"), new.annotation("wide_images"))
    np.testing.assert_array_equal(old.annotation("wide_region"), new.annotation("wide_region"))
    masks = new.annotation("wide_mask")
    assert masks.shape == (24, 64, 64)
    assert (masks != old.annotation("wide_mask")).any((1, 2)).all()
    assert not Prepared(tmp_path / "found").split("test").has("wide_mask")


def test_methods_told_apart_by_their_crops(tmp_path: Path) -> None:
    """A configuration whose data cannot give a variant's crops is refused before anything runs."""
    data = {"toy": {"reader": "toy", "size": 32}}
    block = {"train": "toy", "methods": {"unsup_parts": ["cub"]}, "probes": {"parts": ["toy"]}}
    values = {"name": "a", "seeds": [0], "data": data, "runs": [block]}
    with pytest.raises(BadInput, match=r"unsup_parts: cub on toy: .* needs `crop: box` and `wide"):
        grid.check(values, "test")


class Red:
    """Takes for the foreground what is red."""

    data = DataInfo(64, 0, crop="whole")

    def to(self, **_: Any) -> None:
        """Move nothing."""

    def part_maps(self, images: torch.Tensor) -> PartMaps:
        red = images[:, 0] > 0.5
        return PartMaps(red[:, None].float(), red.long(), red)


def birds(root: Path, **settings: Any) -> CUB:
    """Birds that are red from (20, 12) to (44, 38) of 90 x 70, off the middle of their boxes."""
    make(root)
    boxes = [f"{i} {11 + i}.6 7.3 {52 - i}.5 41.8" for i in range(1, 5)]
    (root / "CUB_200_2011" / "bounding_boxes.txt").write_text("".join(f"{b}\n" for b in boxes))
    for i in range(4):
        image = np.zeros((70, 90, 3), np.uint8)
        image[12:38, 20:44, 0] = 255
        path = root / "CUB_200_2011" / "images" / CLASSES[i // 2] / f"bird_{i + 1}.jpg"
        Image.fromarray(image).save(path, quality=95)
    return reader(root, size=64, **settings)


def test_a_foreground_of_whole_images_is_cut_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("red", "paper", "birds", 0)
    monkeypatch.setattr(foreground, "load_model_for", lambda *_: (run, Red()))
    prepare(birds(tmp_path, crop="tight"), "cut", tmp_path / "cut", 1)
    prepare(birds(tmp_path, crop="whole", border="kept"), "uncut", tmp_path / "uncut", 1)
    names = tmp_path / "cut", tmp_path / "found"
    find_foreground("found", tmp_path, *names, "cpu", 1, found_in=tmp_path / "uncut")
    found = Prepared(tmp_path / "found")
    assert found.meta["foreground"]["found in"] == "uncut"
    for name in ("train", "test"):
        split = found.split(name)
        red, masks = split.images[..., 0] > 127, split.annotation("mask")
        for shown, mask in zip(red, masks, strict=True):
            assert 500 < shown.sum() < 3_000
            # Of the whole image one pixel is 1.4 of the crop.
            assert (shown != mask).sum() < 0.06 * shown.sum()
            for move in ((0, 3), (3, 0)):
                moved = np.roll(mask, move, (0, 1))
                assert (shown != moved).sum() > 0.1 * shown.sum()


def test_whole_images_that_do_not_hold_the_crops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("red", "paper", "birds", 0)
    monkeypatch.setattr(foreground, "load_model_for", lambda *_: (run, Red()))
    prepare(birds(tmp_path, crop="tight"), "cut", tmp_path / "cut", 1)
    prepare(birds(tmp_path, crop="whole"), "bordered", tmp_path / "bordered", 1)
    few = birds(tmp_path, crop="whole", border="kept", classes=[1])
    prepare(few, "few", tmp_path / "few", 1)
    names = tmp_path / "cut", tmp_path / "found"
    for folder, message in (
        ("bordered", "`border: kept`, not with `crop: whole` and `border: cut`"),
        ("few", "few: split 'test' lacks 002.Red_Kite/bird_4.jpg"),
    ):
        with pytest.raises(BadInput, match=message):
            find_foreground("found", tmp_path, *names, "cpu", 1, found_in=tmp_path / folder)
        assert not (tmp_path / "found").exists()


@pytest.mark.parametrize(
    ("of", "whole", "message"),
    [
        ("fg", "uncut", ""),
        ("whole", "uncut", r"whole on uncut: `found_in` is for .* `crop: tight`, .* `crop: whole`"),
        ("fg", "whole", "not with `crop: whole` and `border: cut`"),
        ("fg", "fg", "learnt the foreground on `crop: whole`, and the data have `crop: tight`"),
        ("fg", "no", "no data set 'no'"),
    ],
)
def test_which_images_may_be_cut_after_the_foreground_is_found(
    of: str, whole: str, message: str
) -> None:
    bird: dict[str, Any] = {"reader": "cub", "size": 64, "foreground": "box"}
    data = {
        "fg": {**bird, "crop": "tight"},
        "whole": {**bird, "crop": "whole"},
        "uncut": {**bird, "crop": "whole", "border": "kept"},
        "train": {**bird, "crop": "box"},
        "found": {"of": of, "by": "foreground/paper/whole/0", "found_in": whole},
    }
    block = {"train": "train", "methods": {"kmeans": ["demo"]}, "probes": {"parts": ["found"]}}
    values = {"name": "a", "seeds": [0], "data": data, "runs": [block]}
    if not message:
        assert Run("foreground", "paper", "whole", 0) in grid.runs(grid.check(values, "test"))
        return
    with pytest.raises(BadInput, match=message):
        grid.check(values, "test")
