"""Crops that trainings draw anew at every step: what they show, and that they repeat."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from partbench import method as methods
from partbench.data import crop
from partbench.data.catalogue import prepared_bytes
from partbench.data.crop import Cut, TrainingCropSettings, check_crop, draw_crops, square_around
from partbench.data.image import move_points, resize
from partbench.data.loader import Loader, Schedule
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.data.reader import DataSettings, Reader, Sample
from partbench.data.resample import move_landmarks, resample, resample_labels
from partbench.errors import BadInput
from partbench.method import MethodSettings
from partbench.run import Run, Runtime
from partbench.train import train

CPU = torch.device("cpu")


# ---------------------------------------------------------------------------- drawing


def regions(n: int = 2000, seed: int = 0) -> NDArray[np.float32]:
    """Boxes of all aspects, (left, top, right, bottom)."""
    draw = np.random.default_rng(seed)
    near, sides = draw.uniform(0, 50, (n, 2)), draw.uniform(5, 80, (n, 2))
    return np.concatenate([near, near + sides], 1).astype(np.float32)


def test_jittered_boxes_by_the_protocol_s_words() -> None:
    """Pad 5 % and move each side by up to 5 %, then grow the short side to a square."""
    boxes, draw = regions(), np.random.default_rng(1)
    found = draw_crops(boxes, TrainingCropSettings(training_crop="box"), draw)
    numbers = np.random.default_rng(1).uniform(-1, 1, (len(boxes), 2, 2))
    for (left, top, right, bottom), made, ((a, b), (c, d)) in zip(
        boxes.astype(float), found, numbers, strict=True
    ):
        w, h = right - left, bottom - top
        left, right = left - (0.05 + 0.05 * a) * w, right + (0.05 + 0.05 * c) * w
        top, bottom = top - (0.05 + 0.05 * b) * h, bottom + (0.05 + 0.05 * d) * h
        side = max(right - left, bottom - top)
        middle = np.array([left + right, top + bottom]) / 2
        np.testing.assert_allclose(made, [*(middle - side / 2), *(middle + side / 2)], rtol=1e-6)


def test_without_jitter_a_crop_is_the_fixed_square() -> None:
    boxes = regions(50)
    settings = TrainingCropSettings(training_crop="box", box_jitter=0)
    found = draw_crops(boxes, settings, np.random.default_rng(0))
    for (left, top, right, bottom), made in zip(boxes.astype(float), found, strict=True):
        box = np.array([left - 0.5, top - 0.5, right - left, bottom - top])
        np.testing.assert_allclose(made, square_around(box), rtol=1e-6)


@pytest.mark.parametrize("shape", [(40, 10), (10, 40), (30, 30), (31, 30)])
def test_every_jittered_crop_lies_in_the_wide_square(shape: tuple[int, int]) -> None:
    box = np.array([7, -3, *shape], np.float32)
    wide = crop.wide_around(box, 64)
    region = np.repeat(np.array([wide.region], np.float32), 4000, 0)
    draw = np.random.default_rng(0)
    found = draw_crops(region, TrainingCropSettings(training_crop="box"), draw)
    assert found.min() > -0.01
    assert found.max() < wide.side + 0.01
    assert np.ptp(found, 0).min() > 0.05 * max(shape) * wide.side / 1.3 / max(shape)
    sides = (found[:, 2:] - found[:, :2]) * 1.3 / wide.side
    assert 1.0 - 1e-6 <= sides.min() < 1.06 < 1.15 < sides.max() <= 1.2 + 1e-6
    # Of the scale of the prepared square.
    assert (found[:, 2] - found[:, 0]).mean() == pytest.approx(64, rel=0.05)


def test_random_crops_have_the_asked_area_and_aspect_and_lie_inside() -> None:
    images = regions()
    settings = TrainingCropSettings(training_crop="random")
    found = draw_crops(images, settings, np.random.default_rng(0))
    assert (found[:, :2] >= images[:, :2] - 1e-3).all()
    assert (found[:, 2:] <= images[:, 2:] + 1e-3).all()
    w, h = (found[:, 2:] - found[:, :2]).T
    of_image = (images[:, 2:] - images[:, :2]).astype(float)
    aspect = of_image[:, 0] / of_image[:, 1]
    assert (w / h >= 3 / 4 - 1e-6).all()
    assert (w / h <= 4 / 3 + 1e-6).all()
    near = (aspect > 0.75) & (aspect < 4 / 3)
    share = (w * h / of_image.prod(1))[near]
    assert 0.5 - 1e-6 <= share.min() < 0.52
    assert 0.95 < share.max() <= 1 + 1e-6
    # Too long for half of its area: the largest of an allowed aspect, in the middle.
    long = aspect > 8 / 3
    assert long.any()
    np.testing.assert_allclose(h[long], of_image[long, 1], rtol=1e-5)
    np.testing.assert_allclose((w / h)[long], 4 / 3, rtol=1e-5)
    middle, of = (found[long, :2] + found[long, 2:]) / 2, images[long]
    np.testing.assert_allclose(middle, (of[:, :2] + of[:, 2:]) / 2, rtol=1e-4)


def test_aspects_are_as_often_below_one_as_above() -> None:
    square = np.repeat(np.array([[0, 0, 10, 10]], np.float32), 4000, 0)
    found = draw_crops(
        square, TrainingCropSettings(training_crop="random"), np.random.default_rng(0)
    )
    w, h = (found[:, 2:] - found[:, :2]).T
    assert (w > h).mean() == pytest.approx(0.5, abs=0.03)


# ---------------------------------------------------------------------------- resampling


CROPS = np.array(
    [[0, 0, 40, 30], [3.2, 4.7, 30.1, 21.3], [10, 2, 17.5, 30], [0.4, 0.2, 39.9, 29.9]]
)


def picture(seed: int) -> NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((40, 30), Image.Resampling.BICUBIC))


def test_crops_are_pillow_s() -> None:
    images = np.stack([picture(i) for i in range(4)])
    found = resample(torch.from_numpy(images), torch.from_numpy(CROPS), 16)
    assert found.dtype == torch.float32
    for image, box, made in zip(images, CROPS, found, strict=True):
        expected = resize(image, (16, 16), tuple(box), nearest=False)
        theirs = torch.from_numpy(expected.copy()).permute(2, 0, 1)
        # Pillow rounds twice.
        assert (made * 255 - theirs).abs().max() <= 1.02


def test_labels_are_pillow_s() -> None:
    labels = np.random.default_rng(0).integers(0, 9, (4, 30, 40), dtype=np.uint8)
    found = resample_labels(torch.from_numpy(labels), torch.from_numpy(CROPS), 16)
    for image, box, made in zip(labels, CROPS, found, strict=True):
        expected = resize(image, (16, 16), tuple(box), nearest=True)
        np.testing.assert_array_equal(made.numpy(), expected)
    masks = torch.from_numpy(labels > 4)
    assert resample_labels(masks, torch.from_numpy(CROPS), 16).dtype == torch.bool


def test_landmarks_move_with_the_images() -> None:
    points = np.random.default_rng(0).uniform(0, 30, (4, 5, 2)).astype(np.float32)
    landmarks = np.concatenate([points, np.ones((4, 5, 1), np.float32)], 2)
    landmarks[0, 0] = (5, 5, 0)
    found = move_landmarks(torch.from_numpy(landmarks), torch.from_numpy(CROPS), 16).numpy()
    for before, box, made in zip(landmarks, CROPS, found, strict=True):
        expected = move_points(before[:, :2], (16, 16), tuple(box))
        np.testing.assert_allclose(made[:, :2], expected, atol=1e-4)
        inside = ((expected >= -0.5) & (expected <= 15.5)).all(1)
        np.testing.assert_array_equal(made[:, 2] > 0, inside & (before[:, 2] > 0))
    assert found[0, 0, 2] == 0
    assert 0 < found[..., 2].mean() < 1


# ---------------------------------------------------------------------------- data and batches


class Blots(Reader):
    """A white blot, whose corners are landmarks, on noise; the mask is what is white."""

    landmark_names = ("left", "right")
    landmark_swap: Sequence[int] = (1, 0)
    part_names = ("left", "right")
    shape = (60, 90)

    def splits(self) -> dict[str, Sequence[str]]:
        return {split: [str(i) for i in range(24)] for split in ("train", "test")}

    def sample(self, split: str, index: int) -> Sample:
        draw = np.random.default_rng(index)
        height, width = self.shape
        image = draw.integers(0, 100, (height, width, 3), dtype=np.uint8)
        w, h = draw.integers(16, 36, 2).tolist()
        x, y = int(draw.integers(4, width - w - 4)), int(draw.integers(4, height - h - 4))
        parts = np.zeros(self.shape, np.uint8)
        parts[y : y + h, x : x + w // 2], parts[y : y + h, x + w // 2 : x + w] = 1, 2
        image[parts > 0] = 255
        middle = y + h / 2 - 0.5
        points = np.array([(x + w / 4 - 0.5, middle), (x + 3 * w / 4 - 0.5, middle)], np.float32)
        box = np.array([x - 0.5, y - 0.5, w, h], np.float32)
        return Sample(
            str(index), image, landmarks=points, box=box, mask=parts > 0, parts=parts, label=0
        )


class BlotSettings(DataSettings):
    crop: Any = "box"


def blots(folder: Path, **settings: Any) -> Prepared:
    made = BlotSettings.parse({"size": 32, "crop": "box", "wide": True} | settings, "test")
    prepare(type("Blots", (Blots,), {"Settings": BlotSettings})(folder, made), "blots",
            folder / "blots", workers=1)  # fmt: skip
    return Prepared(folder / "blots")


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return blots(tmp_path_factory.mktemp("boxed"))


def loader(
    data: Prepared,
    learns_from: Any = "mask",
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
    **settings: Any,
) -> Loader:
    values = {"epochs": 4, "batch_size": 6, "flip": True, "training_crop": "box"} | settings
    parsed = MethodSettings.parse(values, "test")
    split = data.training_split(learns_from, parsed.training_crop == "window")
    schedule = Schedule(len(split), parsed, seed)
    swap, (rank, world) = data.meta["landmark_swap"], share
    return Loader(split, schedule, CPU, learns_from, landmark_swap=swap, rank=rank, world=world)


def test_wide_squares_are_kept_of_training_images_beside_the_usual_ones(
    boxed: Prepared, tmp_path: Path
) -> None:
    train_split, test = boxed.split("train"), boxed.split("test")
    assert train_split.annotation("wide_images").shape == (24, 38, 38, 3)  # 32 / 1.1 * 1.3
    assert train_split.annotation("wide_mask").shape == (24, 38, 38)
    assert not test.has("wide_images")
    plain = blots(tmp_path, wide=False)
    assert not plain.split("train").has("wide_images")
    for kind in ("images", "mask", "parts", "landmarks", "visible", "box"):
        for split in ("train", "test"):
            np.testing.assert_array_equal(
                boxed.split(split).annotation(kind), plain.split(split).annotation(kind)
            )
    region = train_split.annotation("wide_region")
    w, h = (region[:, 2:] - region[:, :2]).T
    np.testing.assert_allclose(np.maximum(w, h), 38 / 1.3, rtol=1e-5)
    # The region is the white box: all of it, and nothing else.
    for (left, top, right, bottom), mask in zip(
        region, train_split.annotation("wide_mask"), strict=True
    ):
        assert mask.sum() == pytest.approx((right - left) * (bottom - top), rel=0.15)
        rows, columns = np.nonzero(mask)
        middle = np.array([left + right, top + bottom]) / 2
        np.testing.assert_allclose([columns.mean() + 0.5, rows.mean() + 0.5], middle, atol=0.6)


@pytest.mark.parametrize(
    ("kind", "settings"), [("box", {}), ("random", {"crop": "pad"})], ids=["box", "random"]
)
def test_images_masks_parts_and_landmarks_are_cut_together(
    kind: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    data = blots(tmp_path, **settings)
    asked = {"training_crop": kind}
    batches = [loader(data, told, **asked).batches() for told in ("mask", "parts", "landmarks")]
    mirrored = 0
    for with_mask, with_parts, with_points in zip(*batches, strict=True):
        images, masks, parts = with_mask.images, with_mask.masks, with_parts.parts
        assert torch.equal(images, with_parts.images)
        assert torch.equal(images, with_points.images)
        assert images.shape == (6, 3, 32, 32)
        assert masks is not None
        assert parts is not None
        assert with_points.landmarks is not None
        # White on the mask and dark off it, but for two pixels on each side of its border.
        off = F.max_pool2d(masks, 5, 1, 2) == 0
        on = F.max_pool2d(1 - masks, 5, 1, 2) == 0
        for known in (on, off):  # where the crop ends, what pooling sees of a border is cut off
            known[:, [0, -1]] = known[:, :, [0, -1]] = False
        assert images.amin(1)[on].min() > 0.75
        assert not off.any() or images.amax(1)[off].max() < 0.45
        assert on.flatten(1).any(1).float().mean() > 0.5
        assert torch.equal(parts > 0, masks > 0)
        for labels, points in zip(parts, with_points.landmarks, strict=True):
            order = []
            for x, y, visible in points.tolist():
                if visible and 1 < x < 30 and 1 < y < 30:
                    order.append(int(labels[round(y), round(x)]))
            # The left landmark lies on the left part or, mirrored, on what was the right one.
            assert order in ([1, 2], [2, 1], [1], [2], [])
            mirrored += order == [2, 1]
    assert 10 < mirrored < 80


def test_no_two_crops_of_an_image_are_alike(boxed: Prepared) -> None:
    first = [batch.images for batch in loader(boxed, "images", flip=False).batches()]
    both = [batch.images for batch in loader(boxed, "images").batches()]
    rows = [loader(boxed).schedule.indices(step) for step in range(len(first))]
    seen: dict[int, list[Any]] = {i: [] for i in range(24)}
    for images, indices in zip(first, rows, strict=True):
        for image, i in zip(images, indices.tolist(), strict=True):
            seen[i].append(image)
    for crops in seen.values():
        assert len(crops) == 4
        assert all(not torch.equal(crops[0], other) for other in crops[1:])
    assert sum(not torch.equal(a, b) for a, b in zip(first, both, strict=True)) == len(first)


def test_half_of_the_crops_are_mirrored(boxed: Prepared) -> None:
    """Without jitter, crops are the prepared images, or their mirror images."""
    batches = loader(boxed, "images", box_jitter=0).batches()
    fixed = boxed.split("train").images
    mirrored = []
    for step, batch in enumerate(batches):
        rows = loader(boxed).schedule.indices(step)
        expected = torch.from_numpy(fixed[rows]).permute(0, 3, 1, 2) / 255
        for image, one in zip(batch.images, expected, strict=True):
            errors = [(image - one).abs().mean().item(), (image.flip(-1) - one).abs().mean().item()]
            assert min(errors) < 0.04
            mirrored.append(errors[1] < errors[0])
    assert 0.35 < np.mean(mirrored) < 0.65


def test_crops_repeat_and_can_be_entered_at_any_step(boxed: Prepared) -> None:
    whole = [batch.images for batch in loader(boxed, seed=3).batches()]
    again = [batch.images for batch in loader(boxed, seed=3).batches(5)]
    assert all(torch.equal(a, b) for a, b in zip(whole[5:], again, strict=True))
    other = next(loader(boxed, seed=4).batches()).images
    assert not torch.equal(whole[0], other)


@pytest.mark.parametrize("told", ["mask", "parts", "landmarks"])
@pytest.mark.parametrize("kind", ["box", "window"])
def test_processes_cut_and_mirror_as_one_does(told: str, kind: str, tmp_path: Path) -> None:
    data = blots(tmp_path) if kind == "box" else blots(tmp_path, crop="whole", wide=False)
    whole, *shares = (
        loader(data, told, share=share, training_crop=kind).batches()
        for share in ((0, 1), (0, 2), (1, 2))
    )
    for batch, *held in zip(whole, *shares, strict=True):
        for of_all, *of_each in zip(batch, *held, strict=True):
            if of_all is not None:
                assert torch.equal(of_all, torch.cat(of_each))


def test_what_is_fitted_sees_the_fixed_crops(boxed: Prepared) -> None:
    seen = torch.cat([batch.images for batch in loader(boxed).ordered()])
    expected = torch.from_numpy(np.array(boxed.split("train").images)).permute(0, 3, 1, 2) / 255
    assert torch.equal(seen, expected)


def test_a_training_on_crops_repeats_bit_for_bit(boxed: Prepared, tmp_path: Path) -> None:
    cls = methods.load("foreground")
    values = cls.REDUCED["demo"] | {"training_crop": "box", "batch_size": 6, "epochs": 3}
    settings = cls.Settings.parse(values, "test")
    run, runtime = Run("foreground", "demo", "blots", 0), Runtime(device="cpu", threads=1)
    states = []
    for name in ("whole", "again"):
        train(run, settings, runtime, boxed.folder, tmp_path / name)
        states.append(torch.load(tmp_path / name / "model.pt", weights_only=True)["state"])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    fixed = cls.Settings.parse(values | {"training_crop": "fixed"}, "test")
    train(run, fixed, runtime, boxed.folder, tmp_path / "fixed")
    other = torch.load(tmp_path / "fixed" / "model.pt", weights_only=True)["state"]
    assert not all(torch.equal(states[0][key], other[key]) for key in other)


# ---------------------------------------------------------------------------- windows


def test_windows_of_whole_images(tmp_path: Path) -> None:
    data = blots(tmp_path, crop="whole", wide=False)
    split = data.training_split("parts", windows=True)
    assert split.annotation("extent").tolist() == [[48, 32]] * 24
    seen = set()
    asked = {"training_crop": "window", "flip": False}
    for told in ("parts", "landmarks"):
        batches = loader(data, told, **asked)
        for step, batch in enumerate(batches.batches()):
            for i, image in enumerate(batch.images):
                index = batches.schedule.indices(step)[i]
                original = (
                    torch.from_numpy(np.array(split.images[index, :32, :48])).permute(2, 0, 1) / 255
                )
                found = [x for x in range(17) if torch.equal(image, original[:, :, x : x + 32])]
                assert len(found) == 1
                seen.add(found[0])
                if batch.parts is not None:
                    labels = split.annotation("parts")[index, :32, found[0] : found[0] + 32]
                    np.testing.assert_array_equal(batch.parts[i], labels)
                if batch.landmarks is not None:
                    points = split.annotation("landmarks")[index] - [found[0], 0]
                    np.testing.assert_allclose(batch.landmarks[i, :, :2], points, atol=1e-4)
                    inside = (points >= -0.5).all(1) & (points <= 31.5).all(1)
                    np.testing.assert_array_equal(batch.landmarks[i, :, 2] > 0, inside)
    assert seen == set(range(17))
    middle = next(loader(data, "mask", **asked).ordered()).images[0]
    original = torch.from_numpy(np.array(split.images[0, :32, 8:40])).permute(2, 0, 1) / 255
    assert torch.equal(middle, original)


def test_windows_of_square_images_are_the_images(boxed: Prepared) -> None:
    fixed = loader(boxed, training_crop="fixed").batches()
    for one, other in zip(fixed, loader(boxed, training_crop="window").batches(), strict=True):
        assert torch.equal(one.images, other.images)


# ---------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("kind", "cut", "message"),
    [
        ("box", Cut("box", False), "needs `crop: box` and `wide: true`, or set"),
        ("box", Cut("pad", True), "needs `crop: box` and `wide: true`, or set"),
        ("random", Cut("pad", False), "needs `wide: true` and a `crop` that starts from the whole"),
        ("random", Cut("box", True), "needs `wide: true` and a `crop` that starts from the whole"),
        ("fixed", Cut("whole", False), "keeps every image's aspect, .* `training_crop: window`"),
        ("fixed", Cut("tight", False), "keeps every image's aspect, .* `training_crop: window`"),
    ],
)
def test_data_that_cannot_give_a_crop(kind: Any, cut: Cut, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_crop(TrainingCropSettings(training_crop=kind), cut, "birds")


@pytest.mark.parametrize(
    ("kind", "cut"),
    [
        ("box", Cut("box", True)),
        ("random", Cut("pad", True)),
        ("fixed", Cut("box", False)),
        ("window", Cut("whole", False)),
        ("window", Cut("box", True)),
    ],
)
def test_data_that_can(kind: Any, cut: Cut) -> None:
    check_crop(TrainingCropSettings(training_crop=kind), cut, "birds")


def test_wide_squares_of_images_that_keep_their_aspect_make_no_sense() -> None:
    with pytest.raises(BadInput, match="`wide` makes squares, and `crop: whole` keeps"):
        DataSettings.parse({"crop": "whole", "wide": True}, "data.birds")
    with pytest.raises(BadInput, match="box_jitter"):
        TrainingCropSettings.parse({"box_jitter": 0.06}, "test")


def test_a_training_without_wide_squares_stops_before_it_starts(tmp_path: Path) -> None:
    data = blots(tmp_path, wide=False)
    cls = methods.load("foreground")
    settings = cls.Settings.parse(cls.REDUCED["demo"] | {"training_crop": "box"}, "test")
    with pytest.raises(BadInput, match=r"`crop: box` and `wide: false`, .* `training_crop` is box"):
        train(
            Run("foreground", "demo", "blots", 0),
            settings,
            Runtime(device="cpu", threads=1),
            data.folder,
            tmp_path / "run",
        )


def test_the_plan_counts_wide_squares() -> None:
    made = [
        prepared_bytes(
            type("Many", (Blots,), {"counts": {"train": 10, "test": 7}})(
                Path(), BlotSettings.parse({"size": 32, **values}, "test")
            )
        )
        for values in ({}, {"wide": True}, {"wide": True, "crop": "pad"})
    ]
    usual = 17 * 3 * 32**2
    assert made == [usual, usual + 10 * 3 * 38**2, usual + 10 * 3 * 64**2]
    assert math.isclose(38, 32 / 1.1 * 1.3, abs_tol=0.5)
