"""Prepared data: memory-mapped arrays that training reads, so that no epoch decodes an image.

A prepared data set is a folder:

    meta.json                what it is: reader, settings, classes, counts, checksum
    <split>.images.npy       uint8 [N, S, S, 3], or [N, T, S, S, 3] for clips
    <split>.labels.npy       int64 [N]
    <split>.landmarks.npy    float32 [N, L, 2], (x, y) in pixels of the prepared image
    <split>.visible.npy      bool [N, L]
    <split>.box.npy          float32 [N, 4] or [N, M, 4], (x, y, width, height), NaN where none
    <split>.objects.npy      int64 [N, M], class of each box, -1 where none
    <split>.mask.npy         bool [N, S, S], foreground
    <split>.parts.npy        uint8 [N, S, S], 0 is background, 255 to be left out
    <split>.folds.npy        int64 [F, n], indices into the split; only where it is whole
    <split>.names.txt        one line a sample

Only images and names are always there; the rest where the data set has it.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from partbench.data.image import move_points, resize
from partbench.data.reader import Reader, Sample
from partbench.errors import BadInput
from partbench.files import create_array, explained, locked, read_json, sha256, write_json
from partbench.progress import Progress

FORMAT = 1
CHUNK, CHUNK_BYTES = 256, 32 << 20
"""Samples that a process decodes at once: so many, or fewer if they are larger than that."""
NOTE_SECONDS = 10.0
"""Between two notes in the journal: waiting for the disk after each chunk would cost more."""


class Split:
    """One split of a prepared data set; arrays are opened, not read."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.images = self._array("images")

    def __len__(self) -> int:
        return len(self.images)

    def _array(self, kind: str) -> NDArray[Any]:
        path = self.folder / f"{self.name}.{kind}.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BadInput(f"{path}: {error}; delete {self.folder} and prepare again") from None

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
                f"{self.folder}: split '{self.name}' has no {kind}; measure on a data set that has"
            )
        return self._array(kind)


class Prepared:
    """A prepared data set.

    Raises:
        BadInput: the folder is not one, or was made by another version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = read_json(folder / "meta.json")
        if self.meta.get("format") != FORMAT:
            raise BadInput(
                f"{folder} was prepared by another version (format {self.meta.get('format')}, "
                f"this one reads {FORMAT}); delete the folder and prepare again"
            )

    @property
    def size(self) -> int:
        """Side of the images, pixels."""
        return int(self.meta["settings"]["size"])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.meta["class_names"])

    def split(self, name: str) -> Split:
        """Return a split.

        Raises:
            BadInput: there is none of that name.
        """
        if name not in self.meta["splits"]:
            raise BadInput(f"{self.folder}: no split '{name}', only {list(self.meta['splits'])}")
        return Split(self.folder, name)

    def training_split(self, labels: bool) -> Split:
        """Return what a method trains on: `unlabeled` where there is one, else `train`.

        Raises:
            BadInput: labels are needed and the data set has none.
        """
        if labels:
            split = self.split("train")
            split.annotation("labels")
            return split
        return self.split("unlabeled" if "unlabeled" in self.meta["splits"] else "train")


def prepare(reader: Reader, name: str, out: Path, workers: int) -> None:
    """Decode a data set once, into the folder `out`.

    Written aside and renamed, so `out` is whole or absent. What a stopped process had decoded is
    not decoded again. Memory does not grow with the number of images.

    Args:
        reader: the data set.
        name: its name in the configuration.
        out: the folder to make; replaced if it is there.
        workers: processes.

    Raises:
        BadInput: a file is missing, broken or impossible (see `DataSettings` for what may be
            skipped), or the disk is full.
    """
    aside = out.with_name(out.name + ".part")
    with locked(out.parent / f".{out.name}"), explained(aside):
        chosen = {split: _choose(reader, split, names) for split, names in reader.splits().items()}
        journal = _Journal(aside, reader, chosen)
        splits = {
            split: journal.splits.get(split)
            or _prepare_split(reader, split, present, aside, workers, journal)
            for split, present in chosen.items()
        }
        arrays = sorted(aside.glob("*.npy"))
        meta = {
            "format": FORMAT,
            "data_set": name,
            "reader": type(reader).__module__.rpartition(".")[2],
            "settings": reader.settings.model_dump(mode="json"),
            "class_names": list(reader.class_names),
            "landmark_names": list(reader.landmark_names),
            "landmark_swap": list(reader.landmark_swap),
            "part_names": list(reader.part_names),
            "licence": reader.licence,
            "splits": splits,
            "subset": any(s["missing"] for s in splits.values())
            or not splits.keys() >= reader.counts.keys(),
            "checksum": sha256(*arrays),
        }
        write_json(aside / "meta.json", meta)
        journal.path.unlink()
        shutil.rmtree(out, ignore_errors=True)
        aside.rename(out)


class _Journal:
    """What has been decoded into a folder, so that a stopped preparation can go on.

    A file of json lines: what is being made; then the chunks that are on the disk; and the
    splits that are finished.
    """

    def __init__(self, folder: Path, reader: Reader, chosen: dict[str, Sequence[int]]) -> None:
        self.path = folder / "journal.jsonl"
        self.chunks: dict[str, dict[int, list[int]]] = {}
        """Split -> start of a chunk -> positions of the images in it that were skipped."""
        self.splits: dict[str, dict[str, Any]] = {}
        begun = {
            "format": FORMAT,
            "reader": type(reader).__module__,
            "settings": reader.settings.model_dump(mode="json"),
            "code": sha256(*sorted(Path(__file__).parent.glob("*.py"))),
            "samples": hashlib.sha256(
                json.dumps(
                    [[names[i] for i in chosen[split]] for split, names in reader.splits().items()]
                ).encode()
            ).hexdigest(),
        }
        lines = self._lines()
        if not lines or lines[0] != begun:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._write(begun)
            return
        for line in lines[1:]:
            if "chunk" in line:
                self.chunks.setdefault(line["split"], {})[line["chunk"]] = line["skipped"]
            elif "done" in line:
                self.splits[line["split"]] = line["done"]
            else:  # compaction had begun and moved rows
                self.chunks.pop(line["split"], None)

    def _lines(self) -> list[dict[str, Any]]:
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]

    def _write(self, *lines: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

    def add_chunks(self, split: str, chunks: dict[int, list[int]]) -> None:
        """Note chunks whose arrays are on the disk."""
        self.chunks.setdefault(split, {}).update(chunks)
        self._write(
            *({"split": split, "chunk": start, "skipped": s} for start, s in chunks.items())
        )

    def compacting(self, split: str) -> None:
        """Note that rows of the arrays are about to move."""
        self._write({"split": split})

    def finish(self, split: str, summary: dict[str, Any]) -> None:
        """Note that a split is whole."""
        self._write({"split": split, "done": summary})


def _choose(reader: Reader, split: str, names: Sequence[str]) -> Sequence[int]:
    """Return the indices of the samples of a split that are to be prepared."""
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
    return present


def _prepare_split(
    reader: Reader,
    split: str,
    present: Sequence[int],
    folder: Path,
    workers: int,
    journal: _Journal,
) -> dict[str, Any]:
    names = reader.splits()[split]
    _decode(reader, split, present, folder, workers, journal)
    skipped = sorted(i for chunk in journal.chunks[split].values() for i in chunk)
    kept = np.delete(np.arange(len(present)), skipped)
    if skipped:
        journal.compacting(split)
        _compact(folder, split, kept)
    lines = [names[present[i]] for i in kept.tolist()]
    (folder / f"{split}.names.txt").write_text("".join(f"{line}\n" for line in lines))
    folds = reader.folds(split)
    if folds and len(kept) == len(names):
        np.save(folder / f"{split}.folds.npy", np.asarray(folds, np.int64))
    summary = {
        "n": len(kept),
        "missing": len(names) - len(reader.present(split)),
        "skipped": [names[present[i]] for i in skipped],
    }
    journal.finish(split, summary)
    return summary


def _decode(
    reader: Reader,
    split: str,
    present: Sequence[int],
    folder: Path,
    workers: int,
    journal: _Journal,
) -> None:
    """Fill the arrays of a split, chunk by chunk; what the journal has is there already."""
    finished = journal.chunks.get(split, {})
    arrays = _open_arrays(reader, split, present, folder, new=not finished)
    size = max(min(CHUNK, CHUNK_BYTES // sum(array[0].nbytes for array in arrays.values())), 1)
    chunks = [
        (start, present[start : start + size])
        for start in range(0, len(present), size)
        if start not in finished
    ]
    waiting: dict[int, list[int]] = {}
    noted = time.monotonic()

    def note() -> None:
        for array in arrays.values():
            array.flush()  # to the disk, before the journal says so
        journal.add_chunks(split, waiting)
        waiting.clear()

    done = len(present) - sum(len(indices) for _, indices in chunks)
    with Progress(f"prepare {split}", len(present), "images", done) as progress:
        for start, faults in _run_chunks(reader, split, chunks, folder, list(arrays), workers):
            if faults and reader.settings.broken == "error":
                note()
                raise BadInput(next(iter(faults.values())))
            waiting[start] = list(faults)
            progress.advance(len(present[start : start + size]))
            if time.monotonic() - noted >= NOTE_SECONDS:
                note()
                noted = time.monotonic()
    note()


def _open_arrays(
    reader: Reader, split: str, present: Sequence[int], folder: Path, new: bool
) -> dict[str, np.memmap[Any, Any]]:
    """Return the arrays of a split on disk, shaped after the first sample that can be read."""
    for index in present:
        try:
            first = convert(reader, reader.sample(split, index))
            break
        except BadInput:
            if reader.settings.broken == "error":
                raise
    else:
        raise BadInput(f"{reader.root}: no image of split '{split}' can be decoded")
    paths = {kind: folder / f"{split}.{kind}.npy" for kind in first}
    if not new:
        return {kind: np.load(path, mmap_mode="r+") for kind, path in paths.items()}
    return {
        kind: create_array(paths[kind], value.dtype, (len(present), *value.shape))
        for kind, value in first.items()
    }


def convert(reader: Reader, sample: Sample) -> dict[str, NDArray[Any]]:
    """Return what is kept of a sample, cropped and resized to the prepared square.

    Raises:
        BadInput: a visible landmark lies outside the image.
    """
    size, height, width = reader.settings.size, *sample.image.shape[-3:-1]
    box = reader.crop_box(width, height)
    arrays: dict[str, NDArray[Any]] = {"images": _frames(sample.image, size, box, nearest=False)}
    if sample.label is not None:
        arrays["labels"] = np.asarray(sample.label, np.int64)
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
        moved = move_points(sample.landmarks, size, box)
        kept = (moved >= -0.5).all(-1) & (moved <= size - 0.5).all(-1)  # of the crop
        arrays["landmarks"], arrays["visible"] = moved, visible & kept
    if sample.box is not None:
        corners = np.stack([sample.box[..., :2], sample.box[..., :2] + sample.box[..., 2:]], -2)
        near, far = np.moveaxis(move_points(corners, size, box), -2, 0)
        arrays["box"] = np.concatenate([near, far - near], -1)
    if sample.objects is not None:
        # The crop may cut objects, or leave them out.
        near, far = near.clip(-0.5, size - 0.5), far.clip(-0.5, size - 0.5)
        there = (far > near).all(-1)
        inside = np.concatenate([near, far - near], -1)
        arrays["box"] = np.where(there[:, None], inside, np.float32(np.nan))
        arrays["objects"] = np.where(there, sample.objects, -1)
    if sample.mask is not None:
        mask = sample.mask.astype(np.uint8)
        arrays["mask"] = _frames(mask, size, box, nearest=True).astype(bool)
    if sample.parts is not None:
        arrays["parts"] = _frames(sample.parts, size, box, nearest=True)
    return arrays


def _frames(
    image: NDArray[np.uint8], size: int, box: tuple[float, float, float, float], nearest: bool
) -> NDArray[np.uint8]:
    if image.ndim == (3 if nearest else 4):
        return np.stack([resize(frame, size, box, nearest) for frame in image])
    return resize(image, size, box, nearest)


def _run_chunks(
    reader: Reader,
    split: str,
    chunks: list[tuple[int, Sequence[int]]],
    folder: Path,
    kinds: list[str],
    workers: int,
) -> Iterator[tuple[int, dict[int, str]]]:
    """Decode chunk by chunk; yield the start of each, and position -> what is wrong there."""
    work = _Work(reader, split, folder, kinds)
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


class _Work(NamedTuple):
    """What a process needs to decode chunks of a split into its arrays."""

    reader: Reader
    split: str
    folder: Path
    kinds: list[str]

    def write(self, start: int, indices: Sequence[int]) -> dict[int, str]:
        """Decode samples to position `start` and on; return position -> fault."""
        arrays = {
            kind: np.load(self.folder / f"{self.split}.{kind}.npy", mmap_mode="r+")
            for kind in self.kinds
        }
        faults: dict[int, str] = {}
        for position, index in enumerate(indices, start):
            try:
                values = convert(self.reader, self.reader.sample(self.split, index))
            except BadInput as error:
                faults[position] = str(error)
                continue
            for kind, array in arrays.items():
                array[position] = values[kind]
        return faults


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
