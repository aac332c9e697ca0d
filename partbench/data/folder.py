"""Any folder of images: <split>/<class>/<image>, or <split>/<image> for unlabelled images.

Every file with the suffix of an image counts, even if it cannot be read: then it is an error or,
with `broken: skip`, listed. Other files and hidden ones (of macOS, `._a.jpg`) are ignored.

Landmarks and boxes stand in files (`annotations`), masks and part maps beside the images. All are
in the pixels of the upright image. A split has an annotation for each of its images, or for none.
"""

import os
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from partbench.data.annotation_files import (
    Images,
    Places,
    landmark_names,
    may_hold,
    place,
    read_marks,
    where,
)
from partbench.data.clips import VIDEOS, read_clip
from partbench.data.image import SUFFIXES, read_image
from partbench.data.label_maps import Labels, read_labels, read_mask, read_parts
from partbench.data.reader import UNSURE, DataSettings, Reader, Sample
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


LABELS = "labels.yaml"
"""The file of labels that need not be there, as long as none are needed."""
Ending = Annotated[str, Field(pattern=r"^([\w.-]*\.png)?$", max_length=64)]


class FolderSettings(DataSettings):
    """Where the images and their annotations lie."""

    path: FolderPath = Field(".", description="the data set's folder below the data root")
    splits: Splits = Field(
        default_factory=lambda: {"train": "train", "test": "test"},
        description="split -> its folder",
    )
    crop: Literal["center", "stretch", "pad", "whole", "box"] = Field(  # type: ignore[assignment]
        "center",
        description="as for every reader, or box: the object's annotated box, 5 % wider on each "
        "side, its short side extended to make a square, black outside the image",
    )
    annotations: list[FolderPath] = Field(
        default_factory=list,
        description="files of landmarks and boxes below `path`: COCO's json, or a CSV with the "
        "columns image,landmark,x,y,visible or image,x,y,width,height",
    )
    occluded: bool = Field(
        True,
        description="landmarks that a COCO file calls labelled but not visible count as visible",
    )
    masks: Ending = Field(
        "",
        description="ending of the file of an image's foreground, a PNG of 0 and 255 (or 1) beside "
        "it: with `.mask.png`, cat.mask.png is of cat.jpg; empty: there is none",
    )
    parts: Ending = Field(
        "",
        description="ending of the file of an image's parts, a PNG of their numbers beside it; 0 "
        "is background, 255 unsure; empty: there is none",
    )
    labels: FolderPath = Field(
        LABELS, description="file of the names of parts and landmarks below `path`"
    )
    frames: int = Field(
        0,
        ge=0,
        description="0: the files are images; else they are video clips, and so many frames of "
        "each are read, evenly spaced",
    )

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.masks and self.masks == self.parts:
            raise ValueError("`masks` and `parts` have the same ending; they are different files")
        if self.crop == "box" and not self.annotations:
            raise ValueError("`crop: box` needs boxes; name their file in `annotations`")
        if self.frames and (self.annotations or self.masks or self.parts or self.crop == "box"):
            raise ValueError(
                "`annotations`, `masks` and `parts` are of single images, and `frames` makes the "
                "files clips; leave one of them out"
            )
        if self.frames == 1:
            raise ValueError("a clip has at least 2 `frames`; 0 is for images")
        return self


class Folder(Reader):
    """A user's own images. The classes are the sorted names of the class folders of all splits."""

    Settings = FolderSettings

    @property
    def frames(self) -> int:
        """Number of frames of a clip, 1 of images."""
        return max(self.settings.frames, 1)

    def has(self, annotation: str) -> bool | None:
        """Return whether samples have an annotation; see `Reader.has`."""
        if annotation in ("landmarks", "visible", "box"):  # reading all of them takes long
            what = "box" if annotation == "box" else "landmarks"
            files = [self._folder / name for name in self.settings.annotations]
            found = {may_hold(path, what) for path in files}
            return True if True in found else None if None in found else False
        if annotation == "mask":
            return bool(self.settings.masks or self.settings.parts)
        return super().has(annotation)

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
            names, others = self._list(path)
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
            f"{self._folder}: {len(ignored)} hidden files and files without the suffix of "
            f"{'a video' if self.settings.frames else 'an image'} are ignored: "
            f"{', '.join(sorted(ignored)[:SHOWN])}{more}"
        ]

    @property
    def _folder(self) -> Path:
        return self.root / self.settings.path

    def own_files(self) -> Sequence[Path]:
        """Return the splits' folders and the files of annotations."""
        files = [*self.settings.splits.values(), *self.settings.annotations]
        names_labels = self.settings.annotations or self.settings.parts
        return [self._folder / name for name in files + [self.settings.labels] * bool(names_labels)]

    @cached_property
    def _labels(self) -> Labels:
        path = self._folder / self.settings.labels
        if path.exists() or self.settings.labels != LABELS:
            return read_labels(path)
        return Labels()

    @cached_property
    def part_names(self) -> Sequence[str]:  # type: ignore[override]
        """Names of the parts, by their numbers in the part maps."""
        if not self.settings.parts:
            return ()
        if not self._labels.parts:
            raise BadInput(
                f"{self._folder / self.settings.labels} names no parts, and part maps hold "
                "numbers; write, for example, `parts: {1: head, 2: wing}` into it"
            )
        return [self._labels.parts[number] for number in sorted(self._labels.parts)]

    @cached_property
    def _annotated(self) -> tuple[list[str], dict[str, Places]]:
        """The landmarks, and where they and the boxes of each split lie."""
        paths = [self._folder / name for name in self.settings.annotations]
        marks = [mark for path in paths for mark in read_marks(path, self.settings.occluded)]
        names = landmark_names(marks, self._labels, self._folder / self.settings.labels)
        images = Images(self._names, self.settings.splits)
        return names, place(marks, images, names)

    @property
    def landmark_names(self) -> Sequence[str]:  # type: ignore[override]
        """Names of the landmarks, in the order of the file of labels, else of the annotations."""
        return self._annotated[0] if self.settings.annotations else ()

    @cached_property
    def landmark_swap(self) -> Sequence[int]:  # type: ignore[override]
        """The landmark of the original that each landmark of a mirrored image is."""
        names = list(self.landmark_names)
        if not names or not self._labels.mirrored:
            return ()
        pairs = self._labels.mirrored
        other = dict(pairs) | {b: a for a, b in pairs}
        return [names.index(other.get(name, name)) for name in names]

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
                line of text can hold; the files of annotations or labels are missing or wrong.
        """
        _ = self.landmark_names, self.part_names
        if self.settings.crop == "box":
            for split, places in self._annotated[1].items():
                if not places.has_boxes:
                    raise BadInput(
                        f"{self._folder}: `crop: box` needs a box of each image, and "
                        f"{' and '.join(self.settings.annotations)} has none of the split "
                        f"'{split}'; add them, or set another `crop`"
                    )
        return dict(self._names)

    def sample(self, split: str, index: int) -> Sample:
        """Return an image, labelled with the number of its class folder if it lies in one.

        Raises:
            BadInput: it cannot be decoded, lacks an annotation that others of its split have, or
                has one that does not fit it.
        """
        name, settings = self._names[split][index], self.settings
        path = self._folder / settings.splits[split] / name
        check_name(str(path))
        folder = name.rpartition("/")[0]
        label = self._class_number[folder] if folder else None
        if settings.frames:
            return Sample(name, read_clip(path, settings.frames), label=label)
        image = read_image(path)
        annotated: dict[str, Any] = {}
        if settings.annotations:
            annotated = self._places(split, index, path, image.shape[1::-1])
        if settings.parts:
            file, labels = path.with_name(path.stem + settings.parts), self._labels
            of_names = self._folder / settings.labels
            annotated["parts"] = parts = read_parts(file, path, image.shape[:2], labels, of_names)
            annotated["mask"] = (parts > 0) & (parts < UNSURE)
        if settings.masks:
            file = path.with_name(path.stem + settings.masks)
            annotated["mask"] = read_mask(file, path, image.shape[:2])
        return Sample(name, image, label=label, **annotated)

    def _places(self, split: str, index: int, path: Path, size: tuple[int, ...]) -> dict[str, Any]:
        """Return the landmarks and the box of an image of `size` (width, height)."""
        names, places = self._annotated[0], self._annotated[1][split]
        there, files = places.files[index] >= 0, " and ".join(self.settings.annotations)
        upright = f"the image, which is {size[0]} x {size[1]} once it is upright"

        def stands(what: int) -> str:
            file = self._folder / self.settings.annotations[places.files[index, what]]
            return where(file, places.numbers[index, what])

        for wanted, found, what in (
            (places.has_landmarks, there[:-1].any(), "landmarks"),
            (places.has_boxes, there[-1], "box"),
        ):
            if wanted and not found:
                raise BadInput(
                    f"{path}: {files} has no {what} of this image, but of others in the split "
                    f"'{split}'; add its lines, or set `broken: skip` for this data set to leave "
                    "such images out and list them"
                )
        annotated: dict[str, Any] = {}
        if places.has_landmarks:
            annotated["landmarks"] = points = places.landmarks[index]
            annotated["visible"] = visible = places.visible[index]
            outside = ((points <= -1) | (points >= size)).any(1) & visible
            if outside.any():
                i = int(outside.argmax())
                x, y = points[i].tolist()
                raise BadInput(
                    f"{stands(i)}: {path.name}: the landmark {names[i]} at ({x:g}, {y:g}) lies "
                    f"outside {upright}; correct it, or set visible to 0"
                )
        if places.has_boxes:
            annotated["box"] = box = places.box[index]
            near = box[:2] + 0.5
            far = near + box[2:]
            if (near >= size).any() or (far <= 0).any():
                raise BadInput(
                    f"{stands(-1)}: {path.name}: the box from {near.tolist()} to {far.tolist()} "
                    f"lies outside {upright}; correct it"
                )
        return annotated

    def _list(self, path: Path) -> tuple[list[str], list[str]]:
        """Return the images in a folder and in its class folders, and the files ignored."""
        folders, names, ignored = self._scan(path)
        for folder in folders:
            check_name(str(path / folder))
            nested, inner, others = self._scan(path / folder)
            if nested:
                raise BadInput(
                    f"{path / folder / nested[0]}: a folder inside a class folder; images are read "
                    f"one level deep, so move those in it to {path / folder}"
                )
            if not inner:
                what = "clips" if self.settings.frames else "images"
                hint = ""
                if not self.settings.frames and any(_suffix(name) in VIDEOS for name in others):
                    hint = ", or set `frames` of this data set to read the clips in it"
                raise BadInput(
                    f"{path / folder}: class folder without {what}; fill or remove it{hint}"
                )
            names += [f"{folder}/{name}" for name in inner]
            ignored += [f"{folder}/{name}" for name in others]
        return names, ignored

    def _scan(self, path: Path) -> tuple[list[str], list[str], list[str]]:
        """Return the names of the folders, the images and the ignored files in a folder.

        Masks and part maps are neither.
        """
        claimed = VIDEOS if self.settings.frames else CLAIMED
        maps = tuple(ending for ending in (self.settings.masks, self.settings.parts) if ending)
        folders, images, ignored = [], [], []
        for name, folder in _entries(path):
            if name.startswith("."):
                ignored.append(name)
            elif folder:
                folders.append(name)
            elif name.endswith(maps):
                continue
            elif _suffix(name) in claimed:
                images.append(name)
            else:
                ignored.append(name)
        return folders, images, ignored


def _suffix(name: str) -> str:
    return name[name.rfind(".") :].lower()


def _entries(path: Path) -> list[tuple[str, bool]]:
    """Return the names in a folder, and whether each is one; no file is looked at."""
    try:
        with os.scandir(path) as entries:  # it avoids one slow stat per file
            return [(entry.name, is_folder(entry)) for entry in entries]
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read ({error.strerror}); make the folder readable"
        ) from None
