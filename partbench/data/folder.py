"""Any folder of images: <split>/<class>/<image>, or <split>/<image> for unlabelled images."""

import os
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field

from partbench.data.image import SUFFIXES, read_image
from partbench.data.reader import DataSettings, Reader, Sample
from partbench.errors import BadInput
from partbench.names import ByName, FolderPath

Splits = Annotated[ByName[FolderPath], Field(min_length=1)]


class FolderSettings(DataSettings):
    """Where the images lie."""

    path: FolderPath = Field(".", description="the data set's folder below the data root")
    splits: Splits = Field(
        default_factory=lambda: {"train": "train", "test": "test"},
        description="split -> its folder",
    )


class Folder(Reader):
    """A user's own images. The classes are the sorted names of the class folders of all splits."""

    Settings = FolderSettings

    @property
    def split_names(self) -> Collection[str]:
        """Names of the splits."""
        return self.settings.splits.keys()

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        images = {}
        for split, folder in self.settings.splits.items():
            path = self.root / self.settings.path / folder
            if not path.is_dir():
                raise BadInput(
                    f"{path}: no such folder; split '{split}' is read from it. Place the images "
                    "there, or set `path` and `splits` of this data set. PARTBENCH_DATA sets the "
                    "data root."
                )
            images[split] = sorted(_images(path))
            labelled = {"/" in name for name in images[split]}
            if len(labelled) > 1:
                raise BadInput(
                    f"{path}: some images lie in class folders and some beside them; move the "
                    "images beside them into a class folder or into another split"
                )
        return images

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]
        """Names of the class folders."""
        return sorted(
            {n.rpartition("/")[0] for names in self._names.values() for n in names if "/" in n}
        )

    @cached_property
    def _class_number(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.class_names)}

    def splits(self) -> dict[str, Sequence[str]]:
        """Return the images of each split, sorted by class and name.

        Raises:
            BadInput: a split's folder is missing, or only some of its images lie in class folders,
                or a class folder has no images.
        """
        return dict(self._names)

    def sample(self, split: str, index: int) -> Sample:
        """Return an image, labelled with the number of its class folder if it lies in one."""
        name = self._names[split][index]
        path = self.root / self.settings.path / self.settings.splits[split] / name
        folder = name.rpartition("/")[0]
        label = self._class_number[folder] if folder else None
        return Sample(name, read_image(path), label=label)


def _images(path: Path) -> Iterator[str]:
    """Yield the images in a folder and in its class folders.

    `os.scandir` avoids one slow stat per file.
    """
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir():
                with os.scandir(entry) as inner:
                    names = [e.name for e in inner if _is_image(e)]
                if not names:
                    raise BadInput(f"{entry.path}: class folder without images; fill or remove it")
                yield from (f"{entry.name}/{name}" for name in names)
            elif _is_image(entry):
                yield entry.name


def _is_image(entry: os.DirEntry[str]) -> bool:
    return Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file()
