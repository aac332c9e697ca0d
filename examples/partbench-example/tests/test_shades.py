"""Does the reader give what it promises?"""

from pathlib import Path

import numpy as np

from partbench.data.prepared import Prepared
from partbench.testing import prepared


def test_it_is_prepared(tmp_path: Path) -> None:
    """Images and labels are there, and belong together."""
    split = Prepared(prepared("shades", tmp_path, size=32)).split("test")
    assert split.images.shape == (32, 32, 32, 3)
    labels = np.array(split.annotation("labels"))
    brightness = split.images.mean((1, 2, 3))
    assert brightness[labels == 0].max() < brightness[labels == 1].min()


def test_it_is_the_same_each_time(tmp_path: Path) -> None:
    """Whoever prepares it gets the same images."""
    first, again = (
        Prepared(prepared("shades", tmp_path / name, size=32)).meta["checksum"]
        for name in ("first", "again")
    )
    assert first == again
