"""A prepared data set with the foreground that a trained run predicts.

Some methods are told the foreground. This stage tells them a prediction instead of the truth: that
of a supervised network, as the part papers do for their test images, or of an unsupervised one. The
new data set is a folder of links to the arrays of the old one, with new masks.

Masks of crops may be found in the whole images and cut as these were: Choudhury et al. released
masks of whole images, of which their evaluation cuts the bird's box (`found_in`).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from partbench.data.crop import check_carried, check_same_crop
from partbench.data.image import resize
from partbench.data.loader import to_float
from partbench.data.prepared import Prepared, Split
from partbench.derived import put_derived
from partbench.errors import BadInput
from partbench.files import aside_of, create_array, explained, locked, make_empty
from partbench.integrity import verify
from partbench.model import load_model_for
from partbench.outputs.part_maps import HasPartMaps
from partbench.progress import Progress

BATCH = 64
WIDE = "wide_"
Masks = NDArray[np.bool_]
Found = Iterator[tuple[slice, Masks]]
"""Rows of a split and their masks, [B, h, w] from the upper left corner."""


def find_foreground(
    name: str,
    model: Path,
    data: Path,
    out: Path,
    device: str,
    threads: int,
    code: str = "",
    found_in: Path | None = None,
) -> None:
    """Write the data set `data` again, with the foreground that a run predicts as its masks.

    Args:
        name: of the new data set.
        model: model.pt of a run whose part maps include a foreground.
        data: folder of the prepared data set.
        out: folder to make; whole or absent.
        device: "cpu" or "cuda".
        threads: CPU threads.
        code: fingerprint of the code that finds it.
        found_in: folder of the same images before they were cut, to find it there; none: in `data`.

    Raises:
        BadInput: the model or the data cannot be read, do not fit or have another `crop`, or the
            run's method has no foreground of its own.
    """
    torch.set_num_threads(threads)
    prepared, whole = Prepared(data), None if found_in is None else Prepared(found_in)
    shown = whole or prepared
    run, method = load_model_for(shown, model, device)
    check_same_crop(method.data.crop, shown.cut.crop, f"{model} on {shown.folder}")
    if whole is not None:
        settings = prepared.meta["settings"], whole.meta["settings"]
        check_carried(*settings, f"{data} on {whole.folder}")
    if not isinstance(method, HasPartMaps):
        raise BadInput(f"{model}: {run.method} has no part maps, hence no foreground")
    method.to(memory_format=torch.channels_last)
    aside = aside_of(out)
    with locked(out.parent / f".{out.name}"), explained(aside):
        make_empty(aside)
        finder = _Finder(method, torch.device(device), str(run))
        overlap: dict[str, float] = {}
        for name_of_split in prepared.meta["splits"]:
            split = prepared.split(name_of_split)
            if whole is None:
                found = finder.of(split)
            else:
                found = finder.cut_from(whole.split(name_of_split), split)
            if (mean := _write(found, split, "mask", aside, str(run))) is not None:
                overlap[name_of_split] = mean
            if split.has(f"{WIDE}images"):
                _write(finder.of(split, WIDE), split, f"{WIDE}mask", aside, str(run))
        about = {
            "by": str(run),
            "of": prepared.meta["data_set"],
            "found in": shown.meta["data_set"],
            "mean IoU, %": overlap,
        }
        put_derived(prepared, aside, out, name, code, {"foreground": about})


class _Finder:
    """Finds the foreground by a trained method."""

    def __init__(self, method: HasPartMaps, device: torch.device, run: str) -> None:
        self.method, self.device, self.run = method, device, run

    def of(self, split: Split, prefix: str = "") -> Found:
        """Yield the foreground of a split's images, or with `prefix` of its wide squares."""
        images = split.annotation(f"{prefix}images") if prefix else split.images
        if images.ndim == 5:
            raise BadInput(f"{split.folder}: holds clips; a foreground is found in single images")
        extents = split.annotation("extent") if split.has("extent") else None
        size = BATCH if extents is None else 1
        for start in range(0, len(split), size):
            rows = slice(start, start + size)
            if extents is None:
                yield rows, self._predict(images[rows])
            else:
                width, height = extents[start].tolist()
                yield rows, self._predict(images[rows, :height, :width])

    def cut_from(self, whole: Split, crops: Split) -> Found:
        """Yield the foreground of crops, cut out of that of the images before they were cut."""
        row_of = {sample: row for row, sample in enumerate(_names(whole))}
        names, extents = _names(crops), whole.annotation("extent")
        if absent := [sample for sample in names if sample not in row_of]:
            raise BadInput(
                f"{whole.folder}: split '{whole.name}' lacks {absent[0]} of {crops.folder}; "
                "prepare both with the same samples"
            )
        sizes = whole.annotation("region")[:, 2:]
        for i, sample in enumerate(names):
            row = row_of[sample]
            width, height = extents[row].tolist()
            (mask,) = self._predict(whole.images[row : row + 1, :height, :width])
            yield slice(i, i + 1), _cut_as(crops, i, mask, sizes[row])[None]

    def _predict(self, images: NDArray[np.uint8]) -> Masks:
        batch = torch.from_numpy(np.array(images)).to(self.device)
        with torch.inference_mode():
            foreground = self.method.part_maps(to_float(batch)).foreground
        if foreground is None:
            raise BadInput(
                f"{self.run}: the method is told the foreground and finds none; in `by`, name a "
                "run of `foreground` or `principal_foreground`"
            )
        found: Masks = foreground.cpu().numpy()
        return found


def _write(found: Found, split: Split, kind: str, folder: Path, run: str) -> float | None:
    """Write the masks of a split; return their mean overlap with true ones, %, if there are any.

    Args:
        found: rows of the split, and their masks.
        split: of the data set that is repeated.
        kind: of array, mask or wide_mask.
        folder: to write to.
        run: that finds them, for the progress.
    """
    truth = split.annotation(kind) if split.has(kind) else None
    side = split.annotation(f"{kind.removesuffix('mask')}images").shape[-2]
    masks = create_array(folder / f"{split.name}.{kind}.npy", np.bool_, (len(split), side, side))
    overlaps = []
    with Progress(f"{run} foreground of {split.name}, {kind}", len(split), "images") as progress:
        for rows, predicted in found:
            place = (rows, slice(predicted.shape[1]), slice(predicted.shape[2]))
            masks[place] = predicted
            if truth is not None:
                union = (predicted | truth[place]).sum((1, 2))
                shared = (predicted & truth[place]).sum((1, 2))
                overlaps.append(shared[union > 0] / union[union > 0])
            progress.advance(len(predicted))
    masks.flush()
    return 100 * float(np.concatenate(overlaps).mean()) if overlaps else None


def _cut_as(crops: Split, row: int, mask: Masks, size: NDArray[np.int64]) -> Masks:
    """Return a whole image's mask cut and resized as a crop of it was.

    Args:
        crops: the split of the crop.
        row: the crop.
        mask: [h, w], of the whole image.
        size: [2], width and height of the original, pixels.
    """
    scale = np.tile(mask.shape[::-1] / size, 2)
    left, top, right, bottom = (crops.annotation("region")[row] * scale).tolist()
    uncut, extent = crops.annotation("uncut")[row], crops.annotation("extent")[row]
    shape = (int(uncut[0]), int(uncut[1]))
    # Of bytes 0 and 1, bilinear resizing rounds to the nearer one.
    made = resize(mask.astype(np.uint8), shape, (left, top, right, bottom), nearest=False)
    (x, y), (width, height) = ((uncut - extent) // 2).tolist(), extent.tolist()
    return made[y : y + height, x : x + width].astype(bool)


def _names(split: Split) -> list[str]:
    """Return the names of a split's samples."""
    path = split.folder / f"{split.name}.names.txt"
    verify(path, split.folder / "meta.json")
    return path.read_text().splitlines()
