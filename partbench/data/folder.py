"""Any folder of images: <split>/<class>/<image>, or <split>/<image> for unlabelled images.

Every file with the suffix of an image counts, even if it cannot be read: then it is an error or,
with `broken: skip`, listed. Other files and hidden ones (of macOS, `._a.jpg`) are ignored.
"""

import os
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field

from partbench.data.image import SUFFIXES, read_image
from partbench.data.reader import DataSettings, Reader, Sample
from partbench.data.sample_names import check_name
from partbench.errors import BadInput
from partbench.files import is_folder
from partbench.names import ByName, FolderPath

Splits = Annotated[ByName[FolderPath], Field(min_length=1)]

CLAIMED = SUFFIXES | {
    *(".apng", ".arw", ".avif", ".cr2", ".dib", ".dng", ".eps", ".heic", ".heif", ".ico"),
    *(".jfif", ".jp2", ".jpe", ".jxl", ".nef", ".pbm", ".pnm", ".psd", ".svg", ".tga"),
}
"""Suffixes of images; whether one can be read is for its content to say."""
SHOWN = 3
"""Ignored files that the line about them names."""


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
    def _listing(self) -> tuple[dict[str, list[str]], list[str]]:
        """The images of each split, and the files that are ignored."""
        images, ignored = {}, []
        for split, folder in self.settings.splits.items():
            path = self.root / self.settings.path / folder
            if not path.is_dir():
                raise BadInput(
                    f"{path}: no such folder; split '{split}' is read from it. Place the images "
                    "there, or set `path` and `splits` of this data set. PARTBENCH_DATA sets the "
                    "data root."
                )
            names, others = _list(path)
            images[split] = sorted(names)
            ignored += others
            labelled = {"/" in name for name in names}
            if len(labelled) > 1:
                raise BadInput(
                    f"{path}: some images lie in class folders and some beside them; move the "
                    "images beside them into a class folder or into another split"
                )
        return images, ignored

    @property
    def _names(self) -> dict[str, list[str]]:
        return self._listing[0]

    def remarks(self) -> Sequence[str]:
        """Return one line on the files that are ignored, if there are any."""
        ignored = self._listing[1]
        if not ignored:
            return []
        more = ", ..." if len(ignored) > SHOWN else ""
        return [
            f"{self.root / self.settings.path}: {len(ignored)} hidden files and files without the "
            f"suffix of an image are ignored: {', '.join(sorted(ignored)[:SHOWN])}{more}"
        ]

    def own_files(self) -> Sequence[Path]:
        """Return the splits' folders."""
        return [self.root / self.settings.path / name for name in self.settings.splits.values()]

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
            BadInput: a split's folder is missing, or only some of its images lie in class folders;
                a class folder has no images, holds folders, cannot be read or has a name that no
                line of text can hold.
        """
        return dict(self._names)

    def sample(self, split: str, index: int) -> Sample:
        """Return an image, labelled with the number of its class folder if it lies in one."""
        name = self._names[split][index]
        path = self.root / self.settings.path / self.settings.splits[split] / name
        check_name(str(path))
        folder = name.rpartition("/")[0]
        label = self._class_number[folder] if folder else None
        return Sample(name, read_image(path), label=label)


def _list(path: Path) -> tuple[list[str], list[str]]:
    """Return the images in a folder and in its class folders, and the files that are ignored."""
    folders, names, ignored = _scan(path)
    for folder in folders:
        check_name(str(path / folder))
        nested, inner, others = _scan(path / folder)
        if nested:
            raise BadInput(
                f"{path / folder / nested[0]}: a folder inside a class folder; images are read one "
                f"level deep, so move those in it to {path / folder}"
            )
        if not inner:
            raise BadInput(f"{path / folder}: class folder without images; fill or remove it")
        names += [f"{folder}/{name}" for name in inner]
        ignored += [f"{folder}/{name}" for name in others]
    return names, ignored


def _scan(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the names of the folders, the images and the ignored files that a folder holds."""
    folders, images, ignored = [], [], []
    try:
        with os.scandir(path) as entries:  # it avoids one slow stat per file
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    ignored.append(name)
                elif is_folder(entry):
                    folders.append(name)
                elif name[name.rfind(".") :].lower() in CLAIMED:
                    images.append(name)
                else:
                    ignored.append(name)
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read ({error.strerror}); make the folder readable"
        ) from None
    return folders, images, ignored
