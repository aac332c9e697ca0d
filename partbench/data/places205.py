"""Places205 (Zhou et al., NIPS 2014): 2,448,873 training and 20,500 validation images."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd

from partbench.data.image import read_image
from partbench.data.reader import Reader, Sample
from partbench.errors import BadInput

SOURCE = "places.csail.mit.edu/downloadData.html"


class Places205(Reader):
    """The images of images256 in the official csv lists, placed by hand.

    The split `test` is the validation list.
    """

    licence = "academic research and education"
    references = ("zhou2014places",)
    counts = {"train": 2_448_873, "test": 20_500}

    @cached_property
    def _lists(self) -> dict[str, pd.DataFrame]:
        folder = self.root / "places205" / "trainvalsplit_places205"
        lists = {}
        for split, file in (("train", "train_places205.csv"), ("test", "val_places205.csv")):
            if not (folder / file).exists():
                raise BadInput(
                    f"{folder / file} is missing; get trainvalsplit_places205.tar.gz and "
                    f"imagesPlaces205_resize.tar.gz from {SOURCE}, then unpack the first into "
                    f"{folder} and the second into {folder.parent}"
                )
            lists[split] = pd.read_csv(folder / file, header=None, names=["name", "label"])
        return lists

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]
        """The 205 scenes, in the order of their numbers."""
        first = self._lists["train"].drop_duplicates("label").sort_values("label")
        return [str(name).rpartition("/")[0] for name in first["name"]]

    def splits(self) -> dict[str, Sequence[str]]:
        """Return train and test.

        Raises:
            BadInput: a list is missing.
        """
        return {split: table["name"].tolist() for split, table in self._lists.items()}

    def own_files(self) -> Sequence[Path]:
        """Return the folders of the lists and of the images."""
        return [self.root / "places205" / name for name in ("trainvalsplit_places205", "images256")]

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the images that are present."""
        images = self.root / "places205" / "images256"
        names = self._lists[split]["name"]
        return [i for i, name in enumerate(names) if (images / name).exists()]

    def sample(self, split: str, index: int) -> Sample:
        """Return an image and its scene."""
        name, label = self._lists[split].iloc[index]
        return Sample(name, read_image(self.root / "places205" / "images256" / name), int(label))
