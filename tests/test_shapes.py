"""The shapes of Deep Latent Particles: as many, as large and as apart as the paper's."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.data.shapes import Shapes
from partbench.errors import BadInput


def reader(folder: Path = Path(), **settings: Any) -> Shapes:
    return Shapes(folder, Shapes.Settings.parse(settings, "test"))


def test_each_drawing_has_two_to_five_shapes_of_eleven_to_thirteen_pixels() -> None:
    made, colours, counts = reader(), set(), Counter[int]()
    for index in range(150):
        sample = made.sample("train", index)
        assert sample.mask is not None
        assert sample.image.shape == (64, 64, 3)
        assert (sample.image[~sample.mask] == (0, 255, 255)).all()
        found = {tuple(colour) for colour in sample.image[sample.mask].tolist()}
        counts[len(found)] += 1
        colours |= found
        for colour in found:
            shape = (sample.image == colour).all(2) & sample.mask
            assert ndimage.label(shape)[1] == 1
            rows, columns = np.nonzero(shape)
            for places in (rows, columns):
                assert 8 <= np.ptp(places) + 1 <= 14
                assert places.min() >= 0
            # Half of the square around it at least, all of it at most: triangle to rectangle.
            assert 40 <= shape.sum() <= 14**2
    assert set(counts) == {2, 3, 4, 5}
    assert min(counts.values()) > 15
    assert len(colours) > 400
    assert 190 < np.array(list(colours)).max() <= 200


def test_drawings_follow_from_seed_split_and_number() -> None:
    one, other = reader().sample("train", 3).image, reader().sample("train", 3).image
    np.testing.assert_array_equal(one, other)
    for changed in (
        reader(seed=1).sample("train", 3),
        reader().sample("test", 3),
        reader().sample("train", 4),
    ):
        assert (changed.image != one).any()


def test_all_kinds_are_drawn() -> None:
    """By how much of their box they fill: half, pi / 4, all of it."""
    made, shares = reader(fewest=1, most=1), []
    for index in range(200):
        mask = made.sample("test", index).mask
        assert mask is not None
        rows, columns = np.nonzero(mask)
        shares.append(mask.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1)))
    assert 0.15 < np.mean(np.array(shares) > 0.99) < 0.35  # rectangles
    assert 0.15 < np.mean(np.array(shares) < 0.62) < 0.4  # triangles
    assert 0.35 < np.mean((np.array(shares) > 0.62) & (np.array(shares) < 0.99)) < 0.65


def test_it_is_prepared_as_any_data_set(tmp_path: Path) -> None:
    made = reader(tmp_path, train=6, val=2, test=3)
    assert made.counts == {"train": 6, "val": 2, "test": 3}
    prepare(made, "shapes", tmp_path / "shapes", workers=1)
    data = Prepared(tmp_path / "shapes")
    np.testing.assert_array_equal(data.split("train").images[2], made.sample("train", 2).image)
    assert data.split("test").annotation("mask").any((1, 2)).all()
    assert data.size == 64


@pytest.mark.parametrize("wrong", [{"most": 1}, {"smallest": 14}, {"size": 13}, {"most": 0}])
def test_what_cannot_be_drawn(wrong: dict[str, int]) -> None:
    with pytest.raises(BadInput, match=r"must not exceed|do not fit|'most' is 0"):
        reader(**wrong)
