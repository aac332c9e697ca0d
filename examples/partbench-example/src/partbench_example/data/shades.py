"""Grey squares, dark or bright: a data set without files."""

from collections.abc import Sequence

import numpy as np

from partbench.data.reader import Reader, Sample


class Shades(Reader):
    """Two classes that differ in brightness."""

    class_names = ("dark", "bright")
    licence = "none needed"
    counts = {"train": 64, "test": 32}

    def splits(self) -> dict[str, Sequence[str]]:
        """Return the numbers of the squares."""
        return {split: [f"{i:03d}" for i in range(n)] for split, n in self.counts.items()}

    def sample(self, split: str, index: int) -> Sample:
        """Draw a noisy square."""
        label = index % 2
        draw = np.random.default_rng([split == "test", index])
        image = draw.integers(100 * label, 100 * label + 156, (40, 40, 3), dtype=np.uint8)
        return Sample(f"{index:03d}", image, label=label)
