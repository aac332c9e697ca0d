"""CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32 x 32, 100 classes."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pydantic import Field

from partbench.data.reader import DataSettings, Reader, Sample, Side
from partbench.errors import BadInput


class CIFAR100Settings(DataSettings):
    """Settings of CIFAR-100, by default at its native 32 x 32."""

    size: Side = Field(32, description="side of the prepared square images, pixels")


class CIFAR100(Reader):
    """CIFAR-100 as torchvision reads it; torchvision verifies the md5 of each file."""

    Settings = CIFAR100Settings
    references = ("krizhevsky2009cifar",)
    counts = {"train": 50_000, "test": 10_000}

    @cached_property
    def _sets(self) -> dict[str, Any]:
        # Imported here, because torchvision takes seconds to import and reading a configuration
        # does not need it.
        from torchvision.datasets import CIFAR100 as Archive

        folder = self.root / "cifar100"
        try:
            return {
                split: Archive(folder, train=split == "train", download=False)
                for split in ("train", "test")
            }
        except (RuntimeError, OSError) as error:
            raise BadInput(
                f"{folder}: CIFAR-100 is missing or damaged ({error}); delete the contents of the "
                "folder and run `partbench data fetch cifar100`"
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
