"""The embedded data set: same bytes everywhere, annotations that fit the pixels."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partbench.data.reader import Sample
from partbench.data.toy import ACTIONS, LANDMARKS, PART_OF_GROUP, PARTS, SPECIES, Toy
from partbench.data.toy import GROUP_NUMBER as GROUPS
from partbench.errors import BadInput

PART_OF_LANDMARK = [PART_OF_GROUP[GROUPS[group]] for group in LANDMARKS.values()]
KINDS = ("images", "scenes", "clips")


def toy(**settings: Any) -> Toy:
    return Toy(Path("unused"), Toy.Settings.parse(settings, "test"))


def arrays(sample: Sample) -> list[np.ndarray]:
    values = (sample.image, sample.landmarks, sample.visible, sample.box, sample.parts)
    return [value for value in values if value is not None]


def fingerprint(*samples: Sample) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        for array in arrays(sample):
            digest.update(str((array.shape, array.dtype.name)).encode())
            digest.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))))
    return digest.hexdigest()


@pytest.fixture(scope="module")
def images() -> list[Sample]:
    reader = toy()
    return [reader.sample("train", i) for i in range(160)]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("images", "cd2ec695c657faf715fecc786d2f59b1cb46ecac5859d36328f40decf7affd97"),
        ("scenes", "27ea3f7c4f3639bfc8dd3d252ef18d3c0542e42cf86a9926f52e6b80c7f9e421"),
        ("clips", "50d967fa6bcbff7864ff975ae2558b8fdb63c895e9398ef00381d4222f364cf7"),
    ],
)
def test_bytes_are_the_same_on_every_machine(kind: str, expected: str) -> None:
    reader = toy(kind=kind, size=48, seed=7)
    assert fingerprint(*(reader.sample("test", i) for i in range(10))) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_depends_on_nothing_drawn_before(kind: str) -> None:
    first, second = toy(kind=kind), toy(kind=kind, train=9)
    forward = [fingerprint(first.sample("train", i)) for i in range(5)]
    backward = [fingerprint(second.sample("train", i)) for i in reversed(range(5))]
    assert forward == backward[::-1]


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_samples_are_alike_across_indices_splits_and_seeds(kind: str) -> None:
    drawn = [
        toy(kind=kind, size=16, seed=seed).sample(split, index).image.tobytes()
        for seed in (0, 1)
        for split in ("train", "val", "test")
        for index in range(4)
    ]
    assert len(set(drawn)) == len(drawn)


def test_splits_have_the_sizes_asked_for_and_unique_names() -> None:
    reader = toy(train=24, val=3, test=8)
    splits = reader.splits()
    assert {split: len(names) for split, names in splits.items()} == {
        "train": 24,
        "val": 3,
        "test": 8,
    }
    assert len(set(splits["train"])) == 24
    assert [reader.sample("train", i).name for i in range(24)] == list(splits["train"])


def test_image_shapes_and_types() -> None:
    sample = toy(size=40).sample("train", 3)
    assert [(a.shape, a.dtype.name) for a in arrays(sample)] == [
        ((40, 40, 3), "uint8"),
        ((10, 2), "float32"),
        ((10,), "bool"),
        ((4,), "float32"),
        ((40, 40), "uint8"),
    ]
    assert sample.label == 3


def test_clip_shapes_and_types() -> None:
    sample = toy(kind="clips", size=40, frames=5).sample("train", 7)
    assert [(a.shape, a.dtype.name) for a in arrays(sample)] == [
        ((5, 40, 40, 3), "uint8"),
        ((5, 10, 2), "float32"),
        ((5, 10), "bool"),
        ((5, 4), "float32"),
        ((5, 40, 40), "uint8"),
    ]
    assert sample.label == 7 % len(ACTIONS)


def test_scene_shapes_and_types() -> None:
    sample = toy(kind="scenes", size=40).sample("train", 0)
    assert [(a.shape, a.dtype.name) for a in arrays(sample)] == [
        ((40, 40, 3), "uint8"),
        ((40, 40), "uint8"),
    ]
    assert sample.label is None


def test_names_describe_what_the_samples_hold() -> None:
    reader = toy()
    assert tuple(reader.class_names) == tuple(SPECIES)
    assert tuple(toy(kind="clips").class_names) == ACTIONS
    swapped = [reader.landmark_names[i] for i in reader.landmark_swap]
    other = {"left": "right", "right": "left"}
    assert swapped == [
        " ".join(other.get(word, word) for word in name.split()) for name in reader.landmark_names
    ]
    scenes = toy(kind="scenes")
    assert not scenes.class_names
    assert not scenes.landmark_names
    assert not scenes.landmark_swap


def test_left_is_at_the_right_of_an_upright_creature(images: list[Sample]) -> None:
    # The creatures face the viewer and lean only a little, so this is true of all of them.
    for sample in images:
        left, right = sample.landmarks[0], sample.landmarks[1]
        assert left[0] > right[0]


def test_visible_landmarks_lie_on_their_part(images: list[Sample]) -> None:
    for sample in images:
        column, row = np.floor(sample.landmarks[sample.visible] + 0.5).astype(int).T
        assert min(column.min(), row.min()) >= 0
        assert max(column.max(), row.max()) < 64
        expected = np.array(PART_OF_LANDMARK)[sample.visible]
        np.testing.assert_array_equal(sample.parts[row, column], expected)


def test_every_landmark_is_mostly_visible_and_some_are_hidden(images: list[Sample]) -> None:
    rate = np.mean([sample.visible for sample in images], axis=0)
    assert rate.min() > 0.6
    assert rate[3:].max() < 1


def test_a_landmark_marks_what_it_is_named_after() -> None:
    """Noses are black unless an arm is in front of the face."""
    black = []
    for index in range(24):
        sample = toy(size=192, noise=0, occluded=0).sample("train", index)
        column, row = np.floor(sample.landmarks[2] + 0.5).astype(int)
        black.append(sample.image[row, column].max() < 32)
    assert np.mean(black) > 0.85


def test_the_box_is_tight(images: list[Sample]) -> None:
    for sample in images:
        left, top, width, height = sample.box
        assert width * height > 0.15 * 64 * 64
        rows, columns = np.nonzero(sample.parts)
        assert (columns.min() - 0.5, rows.min() - 0.5) == (left, top)
        assert (columns.max() + 0.5, rows.max() + 0.5) == (left + width, top + height)


def test_classes_are_balanced_and_every_part_shows(images: list[Sample]) -> None:
    assert set(Counter(sample.label for sample in images).values()) == {160 // len(SPECIES)}
    shown = np.array([np.bincount(s.parts.ravel(), minlength=7) > 0 for s in images])
    assert shown.shape[1] == len(PARTS) + 1
    assert (shown.mean(0) > 0.7).all()


def test_colour_and_position_do_not_tell_the_species(images: list[Sample]) -> None:
    """Choosing the class with the nearest mean colour and place is near chance (1/8)."""
    rows = []
    for sample in images:
        colour = sample.image[sample.parts > 0].mean(0)
        centre = sample.box[:2] + sample.box[2:] / 2
        rows.append(np.concatenate([colour, centre]))
    features, labels = np.array(rows), np.array([sample.label for sample in images])
    features = (features - features.mean(0)) / features.std(0)
    train, test = np.arange(160) < 80, np.arange(160) >= 80
    means = np.array([features[train & (labels == c)].mean(0) for c in range(len(SPECIES))])
    nearest = ((features[test, None] - means) ** 2).sum(2).argmin(1)
    assert (nearest == labels[test]).mean() < 0.35


def test_resolution_changes_the_pixels_and_not_the_drawing() -> None:
    small, large = toy(size=64), toy(size=128)
    for index in range(16):
        a, b = small.sample("train", index), large.sample("train", index)
        np.testing.assert_allclose((a.landmarks + 0.5) * 2, b.landmarks + 0.5, atol=1e-3)
        halved = b.parts.reshape(64, 2, 64, 2).transpose(0, 2, 1, 3).reshape(64, 64, 4)
        uniform = (halved == halved[..., :1]).all(-1)
        assert (a.parts == halved[..., 0])[uniform].mean() > 0.99


def test_scenes_hold_the_number_of_creatures_asked_for() -> None:
    """Each creature has one quadrant to itself, and its torso stays inside it."""
    for most, quadrants in ((1, {1}), (2, {2}), (4, {2, 3, 4})):
        reader = toy(kind="scenes", creatures=most)
        counts = set()
        for index in range(20):
            parts = reader.sample("train", index).parts
            torso = parts == PARTS.index("torso") + 1
            halves = (slice(0, 32), slice(32, 64))
            counts.add(sum(int(torso[r, c].any()) for r in halves for c in halves))
        assert counts == quadrants


def test_clips_move_in_front_of_a_still_background() -> None:
    reader = toy(kind="clips", noise=0)
    for index in range(2 * len(ACTIONS)):
        sample = reader.sample("train", index)
        travel = np.ptp(sample.landmarks, axis=0).max(1)
        assert travel.max() > 2
        # A pixel away from the creature in all frames keeps its colour.
        near = (sample.parts > 0).any(0)
        near[1:] |= near[:-1].copy()
        near[:-1] |= near[1:].copy()
        near[:, 1:] |= near[:, :-1].copy()
        near[:, :-1] |= near[:, 1:].copy()
        still = sample.image[:, ~near]
        assert still.shape[1] > 500
        np.testing.assert_array_equal(still, np.broadcast_to(still[:1], still.shape))


def test_occluders_hide_parts_of_the_creature() -> None:
    free, hidden = toy(occluded=0), toy(occluded=1)

    def area(reader: Toy) -> float:
        return float(np.mean([reader.sample("train", i).parts > 0 for i in range(40)]))

    assert area(hidden) < 0.98 * area(free)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"knd": "images"}, "did you mean 'kind'"),
        ({"kind": "image"}, "kind"),
        ({"seed": -1}, "seed"),
        ({"creatures": 5}, "creatures"),
        ({"noise": 2.0}, "noise"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        toy(**settings)
