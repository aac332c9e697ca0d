"""Does the probe give 100 % to perfect outputs, and chance to useless ones?"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partbench import plugins
from partbench.data.prepared import Prepared
from partbench.integrity import write_checksums
from partbench.probe import Probe
from partbench.testing import measured, prepared, trained


def measure(folder: Path, data: Path, features: dict[str, NDArray[np.float32]]) -> float:
    """Return the probe's first number of some features, split -> [N, D]."""
    folder.mkdir()
    for split, values in features.items():
        np.save(folder / f"{split}.features.npy", values)
    write_checksums(folder)
    cls = plugins.load("probes", "centroid", Probe)  # type: ignore[type-abstract]
    return cls().run(folder, data, cls.Settings(), 0, "cpu").metrics[0].value


def test_perfect_and_useless_features(tmp_path: Path) -> None:
    """The labels themselves are perfect; noise knows nothing of eight species."""
    data = prepared("toy", tmp_path, size=32, train=400, val=1, test=400)
    perfect, useless = {}, {}
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        labels = np.array(Prepared(data).split(split).annotation("labels"))
        perfect[split] = np.eye(8, dtype=np.float32)[labels]
        useless[split] = draw.normal(size=perfect[split].shape).astype(np.float32)
    assert measure(tmp_path / "perfect", data, perfect) == 100
    assert 5 < measure(tmp_path / "useless", data, useless) < 20


def test_a_method_is_measured(tmp_path: Path) -> None:
    """From images to numbers, as in the workflow."""
    data = prepared("toy", tmp_path, size=32, train=64, val=1, test=32)
    numbers = measured("centroid", trained("raw_pixels", data, tmp_path), data, tmp_path)
    assert all(0 <= value <= 100 for value in numbers.values())
