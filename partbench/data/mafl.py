"""MAFL: 20,000 CelebA faces on which keypoints are evaluated (Zhang et al., ECCV 2014)."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from partbench.data.celeba import (
    DLP_BOX,
    LANDMARK_FILE,
    LANDMARKS,
    SWAP,
    FaceSettings,
    read_face,
    read_landmarks,
    read_mafl_list,
    row_of,
)
from partbench.data.reader import Reader, Sample


class MAFL(Reader):
    """MAFL's 19,000 training and 1,000 test faces of CelebA, with five landmarks each."""

    Settings = FaceSettings
    landmark_names = LANDMARKS
    landmark_swap = SWAP
    licence = "non-commercial research (CelebA's)"
    references = ("zhang2014mafl", "liu2015celeba")
    counts = {"train": 19_000, "test": 1_000}

    def crop_box(self, sample: Sample) -> tuple[float, float, float, float]:
        """Return the region of a face to prepare: (left, top, right, bottom) in pixels."""
        return DLP_BOX if self.settings.crop == "dlp" else super().crop_box(sample)

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        folder = self.root / "celeba"
        return {
            "train": read_mafl_list(folder, "training"),
            "test": read_mafl_list(folder, "testing"),
        }

    @cached_property
    def _landmarks(self) -> dict[str, NDArray[np.float32]]:
        return read_landmarks(self.root / "celeba" / LANDMARK_FILE)

    def splits(self) -> dict[str, Sequence[str]]:
        """Return train and test in the order of the lists."""
        return dict(self._names)

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the images that are present."""
        folder = self.root / "celeba" / "img_align_celeba"
        files = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        return [i for i, name in enumerate(self._names[split]) if name in files]

    def sample(self, split: str, index: int) -> Sample:
        """Return a face with its landmarks.

        Raises:
            BadInput: see `read_face`, `read_landmarks` and `row_of` of `celeba`.
        """
        name = self._names[split][index]
        landmarks = row_of(name, self._landmarks, LANDMARK_FILE)
        return Sample(name, read_face(self.root, name), landmarks=landmarks)
