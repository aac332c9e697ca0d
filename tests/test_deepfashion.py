"""The reader of DeepFashion In-shop."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partbench.data.deepfashion import BACKGROUND, LEGEND, DeepFashion, read_parts
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.errors import BadInput

COLOURS = np.array([BACKGROUND, *LEGEND.values()], np.uint8)
NAMES = {
    "train": ["MEN/Denim/id_00000001/01_1_front.jpg", "WOMEN/Tees/id_00000002/02_3_back.jpg"],
    "query": ["WOMEN/Dresses/id_00000003/01_1_front.jpg"],
    "gallery": ["WOMEN/Dresses/id_00000003/02_2_side.jpg", "MEN/Pants/id_00000004/01_4_full.jpg"],
}
SHAPE = (8, 8)


def reader(root: Path, **settings: Any) -> DeepFashion:
    return DeepFashion(root, DeepFashion.Settings.parse(settings, "test"))


def folder(root: Path) -> Path:
    return root / "In-shop Clothes Retrieval Benchmark"


def list_file(root: Path, part: str) -> Path:
    return folder(root) / "Anno" / "segmentation" / f"DeepFashion_segmentation_{part}.json"


def image_file(root: Path, name: str) -> Path:
    return folder(root) / "Img" / "img_highres" / name


def segment_file(root: Path, name: str) -> Path:
    return image_file(root, name.replace(".jpg", "_segment.png"))


def save_colours(path: Path, colours: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours.astype(np.uint8)).save(path)


def labels(seed: int) -> np.ndarray:
    """Numbers 0 to 15, each of them somewhere, [8, 8]."""
    return np.random.default_rng(seed).permutation(np.arange(64) % 16).reshape(SHAPE)


def make(root: Path) -> Path:
    """Five images, each with all 16 colours."""
    for part, names in NAMES.items():
        list_file(root, part).parent.mkdir(parents=True, exist_ok=True)
        rows = [{"id": i, "file_name": f"img_highres/{name}"} for i, name in enumerate(names)]
        list_file(root, part).write_text(json.dumps({"images": rows, "annotations": []}))
        for name in names:
            save_colours(image_file(root, name), np.full((*SHAPE, 3), 128))
    for seed, name in enumerate(name for names in NAMES.values() for name in names):
        save_colours(segment_file(root, name), COLOURS[labels(seed)])
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path)


def test_the_legend() -> None:
    assert len(np.unique(COLOURS, axis=0)) == 16
    assert len(DeepFashion.part_names) == 15
    assert DeepFashion.part_names[0] == "top"
    assert DeepFashion.part_names[-3:] == ("hair", "skin", "face")


def test_colours_become_parts_and_foreground(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(reader(root, size=8), "deepfashion", out, workers=1)
    data = Prepared(out)
    assert data.meta["part_names"] == list(LEGEND)
    assert (out / "train.names.txt").read_text().splitlines() == NAMES["train"]
    assert (out / "test.names.txt").read_text().splitlines() == NAMES["query"] + NAMES["gallery"]
    for split, seeds in (("train", (0, 1)), ("test", (2, 3, 4))):
        parts = data.split(split).annotation("parts")
        assert parts.dtype == np.uint8
        np.testing.assert_array_equal(parts, [labels(seed) for seed in seeds])
        np.testing.assert_array_equal(data.split(split).annotation("mask"), parts > 0)


# Neighbours of legend colours, and the two ends of the sorted table.
@pytest.mark.parametrize("colour", [(255, 250, 249), (0, 0, 1), (255, 255, 255), (250, 255, 250)])
def test_a_colour_outside_the_legend(colour: tuple[int, int, int], tmp_path: Path) -> None:
    colours = COLOURS[labels(0)]
    colours[2, 3:6] = colour
    save_colours(tmp_path / "a_segment.png", colours)
    pattern = (
        rf"a_segment.png: 3 pixels have colour \({', '.join(map(str, colour))}\), which is not"
    )
    with pytest.raises(BadInput, match=pattern):
        read_parts(tmp_path / "a_segment.png")


def test_an_image_with_a_colour_outside_the_legend_may_be_skipped(
    root: Path, tmp_path: Path
) -> None:
    save_colours(segment_file(root, NAMES["query"][0]), np.full((*SHAPE, 3), 1))
    with pytest.raises(BadInput, match=r"64 pixels have colour \(1, 1, 1\)"):
        prepare(reader(root, size=8), "deepfashion", tmp_path / "out", workers=1)
    prepare(reader(root, size=8, broken="skip"), "deepfashion", tmp_path / "out", workers=1)
    assert Prepared(tmp_path / "out").meta["splits"]["test"]["skipped"] == NAMES["query"]


def test_missing_and_broken_files(root: Path) -> None:
    data_set = reader(root)
    name = NAMES["train"][0]
    save_colours(segment_file(root, name), np.zeros((8, 9, 3)))
    with pytest.raises(BadInput, match=r"front.jpg: the image is \(8, 8\), .* is \(8, 9\)"):
        data_set.sample("train", 0)
    segment_file(root, name).write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(BadInput, match=r"01_1_front_segment.png: cannot be decoded"):
        data_set.sample("train", 0)
    segment_file(root, name).unlink()
    with pytest.raises(BadInput, match=r"_segment.png is missing; unpack img_highres_seg.*mmlab"):
        data_set.sample("train", 0)
    image_file(root, name).unlink()
    assert list(data_set.present("train")) == [1]
    with pytest.raises(BadInput, match=rf"1 of 2 images of split 'train'.*first is {name}"):
        prepare(data_set, "deepfashion", root / "out", workers=1)
    prepare(reader(root, size=8, subset=True), "deepfashion", root / "out", workers=1)
    assert (root / "out" / "train.names.txt").read_text().splitlines() == NAMES["train"][1:]


@pytest.mark.parametrize(
    "content", ['{"annotations": []}', '{"images": []}', '{"images": [{"id": 1}]}', "[1]"]
)
def test_a_list_without_images(content: str, root: Path) -> None:
    list_file(root, "gallery").write_text(content)
    with pytest.raises(BadInput, match=r"segmentation_gallery.json lists no images .* from mmlab"):
        reader(root).splits()


def test_a_list_that_is_missing_or_no_json(root: Path) -> None:
    list_file(root, "query").write_text("<html>")
    with pytest.raises(BadInput, match=r"segmentation_query.json is not json"):
        reader(root).splits()
    list_file(root, "query").unlink()
    with pytest.raises(BadInput, match=r"segmentation_query.json is missing; .* mmlab.*place it"):
        reader(root).splits()


def test_labels_blended_as_the_published_numbers_have_them(root: Path, tmp_path: Path) -> None:
    """Numbers between two labels appear, unlike with the other way to resize."""
    numbers = np.zeros(SHAPE, int)
    numbers[:, 4:] = 12
    for names in NAMES.values():
        for name in names:
            save_colours(segment_file(root, name), COLOURS[numbers])
    parts_by_setting = {}
    for legacy in ("none", "bilinear"):
        settings: dict[str, Any] = {"size": 15, "legacy_labels": legacy}
        prepare(reader(root, **settings), "mine", tmp_path / legacy, 1)
        split = Prepared(tmp_path / legacy).split("test")
        parts_by_setting[legacy] = np.array(split.annotation("parts"))
        assert set(np.unique(split.annotation("mask"))) == {False, True}
    assert set(np.unique(parts_by_setting["none"])) == {0, 12}
    image = Image.fromarray(numbers.astype(np.uint8))
    expected = np.asarray(image.resize((15, 15), Image.Resampling.BILINEAR))
    assert len(np.unique(expected)) > 2
    for parts in parts_by_setting["bilinear"]:
        np.testing.assert_array_equal(parts, expected)
