"""Preparation: decode a data set once into the arrays that `prepared` describes."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from partbench.data.crop import TRAINED
from partbench.data.image import Box, move_points, resize, resize_frames
from partbench.data.journal import Checksum, Journal
from partbench.data.prepared import CANVAS, FORMAT, WHOLE, checksum_of
from partbench.data.reader import Reader, Sample, check_limit
from partbench.data.sample_names import written
from partbench.errors import BadInput
from partbench.files import aside_of, create_array, explained, locked, put_in_place
from partbench.integrity import write_checksums, write_record
from partbench.progress import Progress

CHUNK, CHUNK_BYTES = 256, 32 << 20
"""Samples that a process decodes at once: so many, or fewer if they are larger than that."""
MOST_BROKEN = 100
"""Samples that cannot be used after which a preparation stops: the data must be the wrong ones."""
NOTE_SECONDS = 2.0
"""Between two notes in the journal: waiting for the disk after each chunk would cost more."""


def prepare(reader: Reader, name: str, out: Path, workers: int, code: str = "") -> None:
    """Decode a data set once, into the folder `out`.

    Written aside and renamed, so `out` is whole or absent. What a stopped process had decoded is
    not decoded again. Memory does not grow with the number of images.

    Args:
        reader: the data set.
        name: its name in the configuration.
        out: the folder to make; replaced if it is there.
        workers: processes.
        code: fingerprint of the code that prepares.

    Raises:
        BadInput: a file is missing, broken or impossible (see `DataSettings` for what may be
            skipped), or the disk is full.
    """
    aside = aside_of(out)
    with locked(out.parent / f".{out.name}"), explained(aside):
        for remark in reader.remarks():
            print(remark, file=sys.stderr, flush=True)
        all_names = reader.splits()
        check_limit(reader.settings, all_names, f"data set '{name}'")
        chosen = {split: _choose(reader, split, names) for split, names in all_names.items()}
        names = [choice.names for choice in chosen.values()]
        journal = Journal(aside, reader, names)
        splits = dict(journal.splits)
        digests: dict[str, str] = {}
        waiting = []
        for split in sorted(chosen.keys() - splits.keys()):
            part = _Preparation(reader, split, chosen[split], aside, journal)
            part.decode(workers)
            if part.skipped:
                waiting.append(part)
                continue
            splits[split] = part.complete()
            digests |= part.digests
        if waiting:
            used = {s: (aside / f"{s}.names.txt").read_text().splitlines() for s in splits}
            try:
                reader.check_used(used | {part.split: part.kept_names for part in waiting})
            except BadInput:
                journal.look_again()  # at what may be mended meanwhile
                raise
        splits |= {part.split: part.complete() for part in waiting}
        digests = write_checksums(aside, digests)
        meta = {
            "format": FORMAT,
            "code": code,
            "data_set": name,
            "reader": type(reader).__module__.rpartition(".")[2],
            "settings": reader.settings.model_dump(mode="json"),
            "class_names": list(reader.class_names),
            "landmark_names": list(reader.landmark_names),
            "landmark_swap": list(reader.landmark_swap),
            "attribute_names": list(reader.attribute_names),
            "part_names": list(reader.part_names),
            "licence": reader.licence,
            "splits": dict(sorted(splits.items())),
            "subset": any(s["missing"] for s in splits.values())
            or not splits.keys() >= reader.counts.keys(),
            "checksum": checksum_of(digests),
        }
        write_record(aside / "meta.json", meta)
        journal.path.unlink()
        put_in_place(aside, out)


class _Choice(NamedTuple):
    """Which samples of a split are prepared."""

    indices: Sequence[int]
    names: list[str]
    missing: int
    """Samples whose files are not there."""


def _choose(reader: Reader, split: str, names: Sequence[str]) -> _Choice:
    settings = reader.settings
    present = reader.present(split)
    missing = len(names) - len(present)
    if missing and not settings.subset:
        absent = min(set(range(len(names))) - set(present))
        raise BadInput(
            f"{reader.root}: {missing} of {len(names)} images of split '{split}' are missing, "
            f"the first is {names[absent]}; place them, or set `subset: true` to use those "
            "that are there"
        )
    if limit := settings.limit.get(split):
        draw = np.random.default_rng([0, len(present)]).permutation(len(present))[:limit]
        present = [present[i] for i in sorted(draw)]
    if not present:
        raise BadInput(f"{reader.root}: split '{split}' has no images")
    return _Choice(present, [names[i] for i in present], missing)


class _Preparation:
    """The preparation of one split."""

    def __init__(
        self,
        reader: Reader,
        split: str,
        choice: _Choice,
        folder: Path,
        journal: Journal,
    ) -> None:
        self.reader, self.split, self.choice = reader, split, choice
        self.folder, self.journal = folder, journal
        self.digests: dict[str, str] = {}
        """File -> sha256, of files that need not be read again."""

    @property
    def skipped(self) -> list[int]:
        """Positions of the samples that cannot be used, once all are decoded."""
        return sorted(i for c in self.journal.chunks[self.split].values() for i in c)

    @property
    def kept_names(self) -> list[str]:
        """Names of the others."""
        skipped = {*self.skipped}
        return [name for i, name in enumerate(self.choice.names) if i not in skipped]

    def complete(self) -> dict[str, Any]:
        """Write the split's files; return what meta.json says of it."""
        names, skipped = self.choice.names, self.skipped
        kept = np.delete(np.arange(len(names)), skipped)
        lines = "".join(f"{name}\n" for name in self.kept_names)
        if skipped:
            self.journal.moving(self.split)
            _compact(self.folder, self.split, kept)
        (self.folder / f"{self.split}.names.txt").write_text(lines)
        folds = self.reader.folds(self.split)
        if folds and len(kept) == len(self.reader.splits()[self.split]):
            np.save(self.folder / f"{self.split}.folds.npy", np.asarray(folds, np.int64))
        summary = {
            "n": len(kept),
            "missing": self.choice.missing,
            "skipped": [written(names[i]) for i in skipped],
        }
        self.journal.finish(self.split, summary)
        return summary

    def decode(self, workers: int) -> None:
        """Fill the arrays, chunk by chunk; what the journal has is there already."""
        indices = self.choice.indices
        finished = self.journal.chunks.get(self.split, {})
        arrays = self._open_arrays(new=not finished)
        size = max(min(CHUNK, CHUNK_BYTES // sum(array[0].nbytes for array in arrays.values())), 1)
        chunks = [
            (start, indices[start : start + size])
            for start in range(0, len(indices), size)
            if start not in finished
        ]
        paths = {kind: self.folder / f"{self.split}.{kind}.npy" for kind in arrays}
        images, checksum = arrays["images"], Checksum()
        todo = {start for start, _ in chunks}
        waiting: dict[int, list[int]] = {}
        noted = time.monotonic()

        def note() -> None:
            for path in paths.values():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())  # to the disk, before the journal says so
            self.journal.add_chunks(self.split, waiting)
            waiting.clear()

        done = len(indices) - sum(len(chunk) for _, chunk in chunks)
        work = _Work(self.reader, self.split, self.folder, list(arrays))
        broken: dict[int, str] = {}
        with Progress(f"prepare {self.split}", len(indices), "images", done) as progress:
            for start, faults in _run(work, chunks, workers):
                if faults and self.reader.settings.broken == "error":
                    # The others are decoded all the same, so that one message names all.
                    broken |= faults
                    if len(broken) >= MOST_BROKEN:
                        break
                    continue
                waiting[start] = list(faults)
                todo.remove(start)
                if self.reader.settings.broken == "error":  # else rows may move, and the header
                    front = min(todo, default=len(indices))
                    checksum.read(paths["images"], images.offset + front * images[0].nbytes)
                progress.advance(len(indices[start : start + size]))
                if time.monotonic() - noted >= NOTE_SECONDS:
                    note()
                    noted = time.monotonic()
        note()
        if broken:
            raise BadInput(_listed(broken))
        if self.reader.settings.broken == "error":
            self.digests[paths["images"].name] = checksum.of(paths["images"])

    def _open_arrays(self, new: bool) -> dict[str, np.memmap[Any, Any]]:
        """Return the arrays on disk, shaped after the first sample that can be read."""
        first = self._first()
        paths = {kind: self.folder / f"{self.split}.{kind}.npy" for kind in first}
        if not new:
            return {kind: np.load(path, mmap_mode="r") for kind, path in paths.items()}
        n = len(self.choice.indices)
        return {
            kind: create_array(paths[kind], value.dtype, (n, *value.shape))
            for kind, value in first.items()
        }

    def _first(self) -> dict[str, NDArray[Any]]:
        broken: dict[int, str] = {}
        for index in self.choice.indices:
            try:
                return convert(self.reader, self.reader.sample(self.split, index), self.split)
            except BadInput as error:
                broken[index] = str(error)
                if len(broken) >= MOST_BROKEN and self.reader.settings.broken == "error":
                    break
        if self.reader.settings.broken == "error":
            raise BadInput(_listed(broken))
        raise BadInput(f"{self.reader.root}: no image of split '{self.split}' can be decoded")


def _listed(broken: dict[int, str]) -> str:
    """Return one message that names all samples that cannot be used, in their order."""
    faults = [broken[position] for position in sorted(broken)]
    if len(faults) == 1:
        return faults[0]
    more = " or more" if len(faults) >= MOST_BROKEN else ""
    return "\n".join([f"{len(faults)}{more} samples cannot be used:", *faults])


class _Work(NamedTuple):
    """What a process needs to decode chunks of a split into its arrays."""

    reader: Reader
    split: str
    folder: Path
    kinds: list[str]

    def write(self, start: int, indices: Sequence[int]) -> dict[int, str]:
        """Decode samples to position `start` and on; return position -> fault."""
        paths = {kind: self.folder / f"{self.split}.{kind}.npy" for kind in self.kinds}
        arrays = {kind: np.load(path, mmap_mode="r") for kind, path in paths.items()}
        rows = {
            kind: np.zeros((len(indices), *array.shape[1:]), array.dtype)
            for kind, array in arrays.items()
        }
        faults: dict[int, str] = {}
        for i, index in enumerate(indices):
            try:
                sample = self.reader.sample(self.split, index)
                values = convert(self.reader, sample, self.split)
            except BadInput as error:
                faults[start + i] = str(error)
                continue
            for kind, row in rows.items():
                row[i] = values[kind]
        for kind, array in arrays.items():
            with paths[kind].open("rb+") as file:
                file.seek(array.offset + start * array[0].nbytes)
                file.write(rows[kind].data)
        return faults


def _run(
    work: _Work, chunks: list[tuple[int, Sequence[int]]], workers: int
) -> Iterator[tuple[int, dict[int, str]]]:
    """Decode chunk by chunk; yield the start of each, and position -> what is wrong there."""
    if workers == 1 or len(chunks) <= 1:
        for start, indices in chunks:
            yield start, work.write(start, indices)
        return
    # The reader goes to each process once: its lists may name a million images.
    with ProcessPoolExecutor(workers, initializer=_begin_work, initargs=(work,)) as pool:
        futures = {pool.submit(_go_on, start, indices): start for start, indices in chunks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_work: _Work


def _begin_work(work: _Work) -> None:
    global _work
    _work = work


def _go_on(start: int, indices: Sequence[int]) -> dict[int, str]:
    return _work.write(start, indices)


def _compact(folder: Path, split: str, kept: NDArray[np.int64]) -> None:
    """Rewrite the arrays of a split with the kept rows only."""
    for path in folder.glob(f"{split}.*.npy"):
        old = np.load(path, mmap_mode="r")
        new = create_array(folder / "compact.npy", old.dtype, (len(kept), *old.shape[1:]))
        for start in range(0, len(kept), CHUNK):
            new[start : start + CHUNK] = old[kept[start : start + CHUNK]]
        (folder / "compact.npy").replace(path)


def convert(reader: Reader, sample: Sample, split: str = "test") -> dict[str, NDArray[Any]]:
    """Return what is kept of a sample, cropped and resized to the prepared square.

    Args:
        reader: the data set.
        sample: one of its samples.
        split: its split; with the setting `wide`, those that trainings read keep more.

    Raises:
        BadInput: a visible landmark lies outside the image, or `wide` is asked for of clips.
    """
    size, height, width = reader.settings.size, *sample.image.shape[-3:-1]
    box, crop = reader.crop_box(sample), reader.settings.crop
    whole = crop in WHOLE
    shape = _whole_shape(size, box) if whole else reader.prepared_shape
    area = reader.settings.resample == "area"

    def cut(
        image: NDArray[np.uint8], nearest: bool, edge: bool, area: bool = False
    ) -> NDArray[np.uint8]:
        if not whole:
            return resize_frames(image, shape, box, nearest, edge, area)
        # Cut first, so that what is resized does not see what lies around it.
        left, top, right, bottom = (round(edge) for edge in box)
        image = image[top:bottom, left:right]
        made = resize(image, shape, (0, 0, *image.shape[1::-1]), nearest, area=area)
        canvas = np.zeros((CANVAS * size, CANVAS * size, *made.shape[2:]), np.uint8)
        canvas[: shape[1], : shape[0]] = made
        return canvas

    arrays: dict[str, NDArray[Any]] = {
        "images": cut(sample.image, nearest=False, edge=crop == "pad", area=area)
    }
    if whole:
        arrays["extent"] = arrays["uncut"] = np.array(shape, np.int64)
        arrays["region"] = np.array([round(edge) for edge in box], np.int64)
    if sample.label is not None:
        arrays["labels"] = np.asarray(sample.label, np.int64)
    if sample.group is not None:
        arrays["groups"] = np.asarray(sample.group, np.int64)
    if sample.landmarks is not None:
        visible = sample.visible
        if visible is None:
            visible = np.ones(sample.landmarks.shape[:-1], bool)
        inside = (sample.landmarks > -1).all(-1) & (sample.landmarks < (width, height)).all(-1)
        if (bad := np.argwhere(visible & ~inside)).size:
            where = tuple(bad[0])
            raise BadInput(
                f"{reader.root}: {sample.name}: landmark {reader.landmark_names[where[-1]]} at "
                f"{sample.landmarks[where].tolist()} lies outside the {width} x {height} image; "
                "correct its row in the annotation file"
            )
        moved = reader.move_points(sample, sample.landmarks, shape, box)
        arrays["landmarks"], arrays["visible"] = moved, visible & reader.in_view(moved, shape)
    if sample.box is not None:
        corners = np.stack([sample.box[..., :2], sample.box[..., :2] + sample.box[..., 2:]], -2)
        near, far = np.moveaxis(reader.move_points(sample, corners, shape, box), -2, 0)
        arrays["box"] = np.concatenate([near, far - near], -1)
    if sample.objects is not None:
        # The crop may cut objects, or leave them out.
        end = np.array(shape) - 0.5
        near, far = near.clip(-0.5, end), far.clip(-0.5, end)
        there = (far > near).all(-1)
        inside = np.concatenate([near, far - near], -1)
        arrays["box"] = np.where(there[:, None], inside, np.float32(np.nan))
        arrays["objects"] = np.where(there, sample.objects, -1)
    if sample.attributes is not None:
        arrays["attributes"] = sample.attributes
    if sample.mask is not None:
        mask = sample.mask.astype(np.uint8)
        # Of bytes 0 and 1, bilinear resizing rounds to the nearer one.
        arrays["mask"] = cut(mask, nearest=not reader.blends_masks, edge=False).astype(bool)
    if sample.parts is not None:
        arrays["parts"] = cut(sample.parts, nearest=not reader.blends_parts, edge=False)
    arrays = reader.finish(arrays)
    return arrays | (_wide(reader, sample) if reader.settings.wide and split in TRAINED else {})


def _wide(reader: Reader, sample: Sample) -> dict[str, NDArray[Any]]:
    """Return what is kept of the wide square of a training image."""
    if sample.image.ndim == 4:
        raise BadInput(f"{reader.root}: {sample.name} is a clip, and `wide` is of single images")
    square, region, side = reader.wide(sample)
    shape, edge = (side, side), reader.settings.crop == "pad"
    area = reader.settings.resample == "area"
    arrays: dict[str, NDArray[Any]] = {
        "wide_images": resize(sample.image, shape, square, nearest=False, edge=edge, area=area),
        "wide_region": np.array(region, np.float32),
    }
    if sample.landmarks is not None:
        arrays["wide_landmarks"] = move_points(sample.landmarks, shape, square)
        visible = sample.visible
        arrays["wide_visible"] = (
            np.ones(len(sample.landmarks), bool) if visible is None else visible
        )
    if sample.mask is not None:
        mask = resize(sample.mask.astype(np.uint8), shape, square, nearest=True)
        arrays["wide_mask"] = mask.astype(bool)
    if sample.parts is not None:
        blends = reader.blends_parts
        arrays["wide_parts"] = resize(sample.parts, shape, square, nearest=not blends)
    return arrays


def _whole_shape(size: int, box: Box) -> tuple[int, int]:
    """Return the width and height of an image whose shorter side is `size`, or which just fits.

    The longer side is rounded down, as torchvision's Resize does.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    short, long = min(width, height), max(width, height)
    longer = int(size * long / short)
    shorter = size
    if longer > CANVAS * size:
        shorter, longer = max(int(CANVAS * size * short / long), 1), CANVAS * size
    return (longer, shorter) if width > height else (shorter, longer)
