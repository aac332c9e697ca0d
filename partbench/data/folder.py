"""Any folder of images: <split>/<class>/<image>, or <split>/<image> for images without labels."""

from collections.abc import Sequence
from functools import cached_property

from pydantic import Field

from partbench.data.image import SUFFIXES, read_image
from partbench.data.reader import DataSettings, Reader, Sample
from partbench.errors import BadInput


class FolderSettings(DataSettings):
    """Where the images lie."""

    path: str = Field(".", description="the data set's folder below the data root")
    splits: dict[str, str] = Field(
        default_factory=lambda: {"train": "train", "test": "test"},
        description="split -> its folder",
    )


class Folder(Reader):
    """The user's own images; classes are the names of the folders, sorted, over all splits."""

    Settings = FolderSettings

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        found = {}
        for split, folder in self.settings.splits.items():
            path = self.root / self.settings.path / folder
            if not path.is_dir():
                raise BadInput(
                    f"{path}: no such folder; split '{split}' is read from it. Place the images "
                    "there, or set `path` and `splits` of this data set (PARTBENCH_DATA sets the "
                    "data root)"
                )
            for inner in sorted(p for p in path.iterdir() if p.is_dir()):
                if not any(image.suffix.lower() in SUFFIXES for image in inner.iterdir()):
                    raise BadInput(f"{inner}: class folder without images; fill it or take it away")
            found[split] = sorted(
                str(image.relative_to(path))
                for pattern in ("*", "*/*")
                for image in path.glob(pattern)
                if image.suffix.lower() in SUFFIXES and image.is_file()
            )
            labelled = {"/" in name for name in found[split]}
            if len(labelled) > 1:
                raise BadInput(
                    f"{path}: some images lie in class folders and some beside them; move the "
                    "latter into a class folder, or into a split of their own"
                )
        return found

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
        """Return the images of each split, sorted by class and name."""
        return dict(self._names)

    def sample(self, split: str, index: int) -> Sample:
        """Return an image, with the number of its class folder if it lies in one."""
        name = self._names[split][index]
        path = self.root / self.settings.path / self.settings.splits[split] / name
        folder = name.rpartition("/")[0]
        label = self._class_number[folder] if folder else None
        return Sample(name, read_image(path), label=label)
