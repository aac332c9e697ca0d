"""Prepared data: memory-mapped arrays that training reads, so that no epoch decodes an image.

A prepared data set is a folder:

    meta.json                what it is: reader, settings, classes, counts, checksum
    checksums.json           of the files below, compared where one is opened
    <split>.images.npy       uint8 [N, S, S, 3], or [N, T, S, S, 3] for clips
    <split>.extent.npy       int64 [N, 2], width and height; see below
    <split>.uncut.npy        int64 [N, 2], the same before a border was cut off
    <split>.region.npy       int64 [N, 4], (left, top, right, bottom) of what was resized, in pixels
                             of the original; with `extent`
    <split>.labels.npy       int64 [N]
    <split>.groups.npy       int64 [N], samples of one group are not independent
    <split>.landmarks.npy    float32 [N, L, 2], (x, y) in pixels of the prepared image
    <split>.visible.npy      bool [N, L]
    <split>.box.npy          float32 [N, 4] or [N, M, 4], (x, y, width, height), NaN where none
    <split>.objects.npy      int64 [N, M], class of each box, -1 where none
    <split>.attributes.npy   bool [N, A]
    <split>.mask.npy         bool [N, S, S], foreground
    <split>.parts.npy        uint8 [N, S, S], 0 is background, 255 to be left out
    <split>.clusters.npy     int64 [N], see `partbench.pseudo_labels`
    <split>.stream.npy       float32 [N, D], see `partbench.second_stream`
    <split>.folds.npy        int64 [F, n], indices into the split; only where it is whole
    <split>.neighbours.npy   int64 [N, 4, R], see `partbench.data.neighbours`
    <split>.distances.npy    float32 [N, 4, R], the same
    <split>.squashed.npy     uint8 [N, S, S, 3], the same
    <split>.names.txt        one line a sample

With the setting `wide`, splits that trainings read have a wider square W pixels wide besides, of
which a training draws another crop at every step (see `partbench.data.crop`):

    <split>.wide_images.npy  uint8 [N, W, W, 3]
    <split>.wide_region.npy  float32 [N, 4], (left, top, right, bottom): what crops are drawn from
    <split>.wide_mask.npy, .wide_parts.npy, .wide_landmarks.npy, .wide_visible.npy: as above

Images and names are always present; the rest depends on the data set. With `crop: whole`,
images keep their aspect: each lies in the upper left corner, as wide and high as `extent` says,
of a square twice as wide as `size`, the rest of which is black.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from partbench.data.batch import UNSUPERVISED, LearnsFrom
from partbench.data.crop import Cut
from partbench.errors import BadInput
from partbench.integrity import open_array, read_record

FORMAT = 2
"""Since 2 a folder has `checksums.json`."""
WHOLE = ("whole", "tight")
"""Values of `crop` that keep an image's aspect."""
CANVAS = 2
"""Side of the square that such images lie in, in units of `size`."""


def checksum_of(digests: Mapping[str, str]) -> str:
    """Return the checksum of a data set: the sha256 of its arrays' checksums.

    Args:
        digests: file -> sha256; names of samples do not count.
    """
    arrays = {name: digest for name, digest in digests.items() if name.endswith(".npy")}
    return hashlib.sha256(json.dumps(arrays, sort_keys=True).encode()).hexdigest()


class Split:
    """One split of a prepared data set; arrays are opened, not read."""

    def __init__(self, folder: Path, name: str, n: int, is_flow: bool = False) -> None:
        self.folder, self.name, self.n, self.is_flow = folder, name, n, is_flow

    def __len__(self) -> int:
        return self.n

    @cached_property
    def images(self) -> NDArray[Any]:
        """The images or clips."""
        return self._array("images")

    @property
    def frames(self) -> int:
        """Frames of a clip, 0 of single images."""
        return self.images.shape[1] if self.images.ndim == 5 else 0

    def _array(self, kind: str) -> NDArray[Any]:
        path = self.folder / f"{self.name}.{kind}.npy"
        return open_array(path, self.folder / "meta.json")

    def has(self, kind: str) -> bool:
        """Whether the data set has this annotation."""
        return (self.folder / f"{self.name}.{kind}.npy").exists()

    def annotation(self, kind: str) -> NDArray[Any]:
        """Return an annotation of all samples, an array of the list above, such as `labels`.

        Raises:
            BadInput: the data set does not have it.
        """
        if not self.has(kind):
            raise BadInput(
                f"{self.folder}: split '{self.name}' has no {kind}; use a data set that has, or "
                "look whether its reader has a setting that reads them"
            )
        return self._array(kind)


class Prepared:
    """A prepared data set.

    Raises:
        BadInput: the folder is not one, or was made by another version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = read_record(folder / "meta.json")
        if self.meta.get("format") != FORMAT:
            raise BadInput(
                f"{folder} was prepared by another version (format {self.meta.get('format')}, "
                f"this one reads {FORMAT}); delete the folder and prepare again"
            )

    @property
    def size(self) -> int:
        """Side of the images, pixels; with `crop: whole` the shorter one."""
        return int(self.meta["settings"]["size"])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.meta["class_names"])

    @property
    def landmarks(self) -> int:
        """Number of landmarks, 0 if there are none."""
        return len(self.meta["landmark_names"])

    @property
    def attributes(self) -> int:
        """Number of attributes, 0 if there are none."""
        return len(self.meta["attribute_names"])

    @property
    def clusters(self) -> int:
        """Number of clusters, 0 if there are none."""
        return int(self.meta.get("clusters", {}).get("clusters", 0))

    def split(self, name: str) -> Split:
        """Return a split.

        Raises:
            BadInput: there is none of that name.
        """
        if name not in self.meta["splits"]:
            raise BadInput(f"{self.folder}: no split '{name}', only {list(self.meta['splits'])}")
        return Split(self.folder, name, self.meta["splits"][name]["n"], self.is_flow)

    @property
    def is_flow(self) -> bool:
        """Whether the images are pictures of optical flow, whose colours turn with a mirror."""
        return "flow" in self.meta

    @property
    def canvas(self) -> int:
        """Side of the arrays that images lie in, pixels."""
        return self.size * (CANVAS if self.whole else 1)

    @property
    def whole(self) -> bool:
        """Whether images keep their aspect, each with its own extent."""
        return self.meta["settings"].get("crop") in WHOLE

    @property
    def cut(self) -> Cut:
        """How images were cut out of their originals."""
        settings = self.meta["settings"]
        return Cut(settings.get("crop", ""), settings.get("wide", False))

    def training_split(self, learns_from: LearnsFrom, windows: bool = False) -> Split:
        """Return what a method trains on.

        Args:
            learns_from: images, neighbours or clusters: the split `unlabeled` where there is one,
                else `train`; labels, landmarks, mask or parts: `train`.
            windows: whether the training cuts squares out of whole images.

        Raises:
            BadInput: the data set lacks what the method learns from, a class of its test samples
                has no training sample to learn from, or its images are not square.
        """
        if self.whole and not windows:
            raise BadInput(
                f"{self.folder}: `crop: {self.meta['settings']['crop']}` keeps every image's "
                "aspect, and trainings need squares; train on the same data with another `crop`, "
                "or set `training_crop: window`"
            )
        unlabeled = learns_from in UNSUPERVISED and "unlabeled" in self.meta["splits"]
        split = self.split("unlabeled" if unlabeled else "train")
        if learns_from != "images":
            split.annotation(learns_from)
        if learns_from == "labels":
            self._check_classes()
        return split

    def _check_classes(self) -> None:
        """Refuse, with `BadInput`, classes of test samples that have no training sample."""
        if "test" not in self.meta["splits"] or not self.split("test").has("labels"):
            return
        labels = {name: set(self.split(name).annotation("labels")) for name in ("train", "test")}
        unknown = sorted(labels["test"] - labels["train"])
        if unknown:
            first = self.meta["class_names"][unknown[0]]
            more = f" and {len(unknown) - 1} more classes" if len(unknown) > 1 else ""
            raise BadInput(
                f"{self.folder}: '{first}'{more} of the split 'test' has no sample in the split "
                "'train', so nothing can learn it; add some, or leave such samples out of 'test'"
            )
