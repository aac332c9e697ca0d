"""UCF101 (Soomro et al., 2012): 13,320 clips of 101 actions, 320 x 240."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from partbench.data.clips import read_clip, read_pairs
from partbench.data.reader import DataSettings, Reader, Sample
from partbench.errors import BadInput

COUNTS = {
    1: {"train": 9_537, "test": 3_783},
    2: {"train": 9_586, "test": 3_734},
    3: {"train": 9_624, "test": 3_696},
}
GROUPS = 100
"""More than an action has, which are 25."""
SOURCE = "www.crcv.ucf.edu/data/UCF101.php"


class UCF101Settings(DataSettings):
    """Which official split is used, and how many frames of each clip."""

    crop: Literal["center", "stretch", "pad", "whole", "frame"] = Field(  # type: ignore[assignment]
        "center",
        description="as of every data set; frame: the whole frame, 4/3 as wide as `size`, for "
        "methods that crop it themselves (`any_aspect`)",
    )
    fold: Literal[1, 2, 3] = Field(1, description="official split of train and test clips")
    frames: int = Field(
        25,
        ge=1,
        description="frames per clip, evenly spaced; a shorter clip repeats frames",
    )


class UCF101(Reader):
    """The clips of UCF-101 in the official lists. Files lie in class folders or all in one folder.

    The clips of a group are cut from one film. The lists keep a group in one split; a random split
    would not. File names are compared without regard to case, because the lists and the archives
    disagree on the case of HandstandPushups.
    """

    Settings = UCF101Settings
    official_splits = len(COUNTS)
    licence = "none stated; clips from YouTube"
    references = ("soomro2012ucf101",)

    def __init__(self, root: Path, settings: Any) -> None:
        super().__init__(root, settings)
        self.counts = COUNTS[settings.fold]

    def _lines(self, name: str) -> list[list[str]]:
        path = self.root / "ucfTrainTestlist" / name
        if not path.exists():
            raise BadInput(
                f"{path} is missing; get UCF101TrainTestSplits-RecognitionTask.zip from {SOURCE} "
                f"and unpack it into {self.root}"
            )
        return [line.split() for line in path.read_text().splitlines() if line.strip()]

    @property
    def frames(self) -> int:
        """Number of frames of a clip."""
        return int(self.settings.frames)

    @property
    def prepared_shape(self) -> tuple[int, int]:
        """Width and height of prepared frames."""
        size = self.settings.size
        return (round(4 / 3 * size) if self.settings.crop == "frame" else size), size

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]
        """Names of the 101 actions, in the order of their numbers."""
        lines = self._lines("classInd.txt")
        for number, line in enumerate(lines, start=1):
            if len(line) != 2 or line[0] != str(number):
                raise BadInput(
                    f"{self.root}/ucfTrainTestlist/classInd.txt, line {number}: expected "
                    f"{number} and an action, got {' '.join(line)!r}; unpack the lists again"
                )
        return [name for _, name in lines]

    @cached_property
    def _labels(self) -> dict[str, int]:
        return {name.lower(): label for label, name in enumerate(self.class_names)}

    @cached_property
    def _files(self) -> dict[str, str]:
        """File name in lower case -> path below the root."""
        folder = self.root / "UCF-101"
        if not folder.is_dir():
            raise BadInput(f"{folder} is missing; get UCF101.rar from {SOURCE} and unpack it there")
        files: dict[str, str] = {}
        for path in sorted(folder.rglob("*")):
            key, name = path.name.lower(), str(path.relative_to(self.root))
            if path.suffix.lower() != ".avi":
                continue
            if key in files:
                raise BadInput(
                    f"{folder}: {files[key]} and {name} are the same clip of the lists; delete one"
                )
            files[key] = name
        return files

    def _file(self, name: str) -> str | None:
        return self._files.get(name.rpartition("/")[2].lower())

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        names = {}
        for split in ("train", "test"):
            file = self._list(split).name
            names[split] = [name for name, *_ in self._lines(file)]
            for name, *number in self._lines(file):
                label = self._labels.get(name.partition("/")[0].lower())
                if label is None or number not in ([], [str(label + 1)]):
                    raise BadInput(
                        f"{self.root}/ucfTrainTestlist/{file}: {' '.join([name, *number])} "
                        "contradicts classInd.txt; unpack the lists again"
                    )
        self._check_lists(names)
        if self.settings.subset:
            names = {s: n for s, n in names.items() if any(map(self._file, n))}
            if not names:
                raise BadInput(
                    f"{self.root / 'UCF-101'}: no clip of the lists; get UCF101.rar from {SOURCE} "
                    "and unpack it there"
                )
        return names

    def _check_lists(self, names: dict[str, list[str]]) -> None:
        """Refuse, with `BadInput`, lists that let a film into both splits, or repeat a clip."""
        films: dict[tuple[str, int], str] = {}
        for split, of_split in names.items():
            counts = Counter(name.lower() for name in of_split)
            for name in of_split:
                if counts[name.lower()] > 1:
                    raise BadInput(f"{self._list(split)}: {name} stands twice; unpack them again")
                film = (name.partition("/")[0].lower(), self._group(name))
                if films.setdefault(film, split) != split:
                    raise BadInput(
                        f"{self._list(split)}: {name} is of group g{film[1]:02d}, which the other "
                        "list has, too; a film in both splits makes the test easy: unpack the "
                        "lists again"
                    )

    def check_used(self, used: Mapping[str, Sequence[str]]) -> None:
        """Refuse, with `BadInput`, test clips of actions of which there is no training clip."""
        if not all(used.values()) or len(used) < 2:
            return
        actions = {s: Counter(name.partition("/")[0] for name in n) for s, n in used.items()}
        if lacking := sorted(actions["test"].keys() - actions["train"].keys()):
            listed = ", ".join(f"{name} ({actions['test'][name]})" for name in lacking)
            raise BadInput(
                f"{self.root / 'UCF-101'}: test clips, but no training clip of the list "
                f"{self._list('train').name}, are there of: {listed}; place training clips of "
                "these actions that can be decoded, or take their test clips away"
            )

    def _list(self, split: str) -> Path:
        return self.root / "ucfTrainTestlist" / f"{split}list{self.settings.fold:02d}.txt"

    def splits(self) -> dict[str, Sequence[str]]:
        """Return train and test; for a subset, only splits with clips that are present.

        Raises:
            BadInput: the folder of clips or a list is missing, or a list is invalid, or a subset
                has no clip, or test clips of an action without training clips.
        """
        there = {s: [name for name in n if self._file(name)] for s, n in self._names.items()}
        self.check_used(there)
        return dict(self._names)

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the clips that are present."""
        return [i for i, name in enumerate(self._names[split]) if self._file(name)]

    def sample(self, split: str, index: int) -> Sample:
        """Return frames of a clip, uint8 [T, H, W, 3], and its action.

        Raises:
            BadInput: the clip is missing; see also `read_clip`.
        """
        name = self._names[split][index]
        clip = read_clip(self._path(name), self.settings.frames)
        label = self._labels[name.partition("/")[0].lower()]
        return Sample(name, clip, label=label, group=label * GROUPS + self._group(name))

    def pairs(self, split: str, index: int) -> NDArray[np.uint8]:
        """Return each frame of a clip with the next one of its video; see `Reader.pairs`."""
        return read_pairs(self._path(self._names[split][index]), self.settings.frames)

    def _path(self, name: str) -> Path:
        file = self._file(name)
        if file is None:
            raise BadInput(
                f"{self.root / 'UCF-101'}: {name} is missing; place it there, or set `subset: true`"
            )
        return self.root / file

    def _group(self, name: str) -> int:
        """Return the number of the film that a clip was cut from, among those of its action."""
        found = re.search(r"_g(\d+)_c\d+\.avi$", name.lower())
        if found is None or not 0 < int(found[1]) < GROUPS:
            raise BadInput(
                f"{self.root}/ucfTrainTestlist: {name} names no group from g01 to g{GROUPS - 1}, "
                "as v_<action>_g08_c01.avi does; unpack the lists again"
            )
        return int(found[1])
