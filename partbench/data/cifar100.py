"""CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32 x 32, 100 classes."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pydantic import Field

from partbench.data.reader import DataSettings, Reader, Sample
from partbench.errors import BadInput


class CIFAR100Settings(DataSettings):
    """Native resolution."""

    size: int = Field(32, ge=8, description="side of the prepared square images, pixels")


class CIFAR100(Reader):
    """torchvision's reader, which verifies the files' md5."""

    Settings = CIFAR100Settings
    counts = {"train": 50_000, "test": 10_000}

    @cached_property
    def _sets(self) -> dict[str, Any]:
        # Imported late: every look at a configuration would wait seconds for torchvision.
        from torchvision.datasets import CIFAR100 as Archive

        folder = self.root / "cifar100"
        try:
            return {
                split: Archive(folder, train=split == "train", download=False)
                for split in ("train", "test")
            }
        except (RuntimeError, OSError) as error:
            raise BadInput(
                f"{folder}: CIFAR-100 is missing or damaged ({error}); delete what is there and "
                "run `partbench data fetch cifar100`"
            ) from None

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]
        """The hundred fine classes."""
        return list(self._sets["train"].classes)

    def splits(self) -> dict[str, Sequence[str]]:
        """Return train and test; a sample's name is its number."""
        return {split: [f"{i:05d}" for i in range(len(s))] for split, s in self._sets.items()}

    def sample(self, split: str, index: int) -> Sample:
        """Return an image and its fine class."""
        data = self._sets[split]
        return Sample(f"{index:05d}", data.data[index], label=data.targets[index])
