"""Arrays of outputs on disk: written batch by batch, read as numbers of the expected shape."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench import integrity
from partbench.data.loader import to_float
from partbench.data.prepared import Prepared, Split
from partbench.errors import BadInput
from partbench.files import create_array
from partbench.metrics.landmarks import check_points
from partbench.progress import Progress

SPLITS = ("train", "test")
BATCH = 256
"""Images at once, or frames of clips."""
PICTURES = 20
"""Samples of the test split that are pictured, the first."""
AGAIN = "extract the run's outputs again"

Arrays = Mapping[str, NDArray[Any]]


def write_arrays(
    folder: Path,
    split: Split,
    label: str,
    compute: Callable[[Tensor, slice], Mapping[str, Tensor]],
    device: torch.device,
    gaps: Collection[str] = (),
) -> None:
    """Write what `compute` returns of a split as `<split>.<key>.npy`, an array [N, ...] a key.

    Args:
        folder: to write to.
        split: whose images are read; each without what lies around it, one at a time, where the
            split has extents.
        label: of the progress shown.
        compute: (images float32 [B, 3, H, W], rows of the split) -> key -> [B, ...].
        device: of the images.
        gaps: keys whose arrays may hold NaN, where a sample has no value.

    Raises:
        BadInput: any other array is not finite.
    """
    arrays: dict[str, NDArray[Any]] = {}
    extents = split.annotation("extent") if split.has("extent") else None
    size = max(BATCH // max(split.frames, 1), 1) if extents is None else 1
    with Progress(label, len(split), "images") as progress:
        for start in range(0, len(split), size):
            rows = slice(start, start + size)
            images = to_float(torch.from_numpy(np.array(split.images[rows])).to(device))
            if extents is not None:
                images = images[:, :, : extents[start, 1], : extents[start, 0]]
            for key, value in compute(images, rows).items():
                values = (value.float() if value.is_floating_point() else value).cpu().numpy()
                if key not in gaps and not np.isfinite(values).all():
                    raise BadInput(f"{label}: {key} are not finite")
                if key not in arrays:
                    path = folder / f"{split.name}.{key}.npy"
                    arrays[key] = create_array(path, values.dtype, (len(split), *values.shape[1:]))
                arrays[key][rows] = values
            progress.advance(len(images))


def write_both_splits(
    key: str,
    compute: Callable[[Tensor], Tensor],
    data: Prepared,
    folder: Path,
    device: torch.device,
    label: str,
) -> None:
    """Write what `compute` returns of the images of both `SPLITS`; see `write_arrays`."""
    for name in SPLITS:
        write_arrays(
            folder,
            data.split(name),
            f"{label} {key} of {name}",
            lambda images, _: {key: compute(images)},
            device,
        )


def read_floats(path: Path, n: int, *axes: str) -> NDArray[Any]:
    """Return numbers of n images with some more axes, [n, ...], as a memory map.

    Args:
        path: the npy file.
        n: images.
        axes: names of the other axes, for the message.

    Raises:
        BadInput: the file is missing or damaged, or has another shape.
    """
    found = open_array(path)
    if found.ndim != 1 + len(axes) or len(found) != n or found.dtype.kind != "f":
        raise BadInput(
            f"{path}: {found.dtype} of shape {list(found.shape)}; expected numbers of shape "
            f"[{', '.join([f'{n} images', *axes])}]; {AGAIN}"
        )
    return found


def open_array(path: Path) -> NDArray[Any]:
    """Return an npy file of a run's outputs as a memory map; see `integrity.open_array`."""
    return integrity.open_array(path, path.parent)


def read_numbers(path: Path) -> NDArray[np.float64]:
    """Return an npy file as float64; raises BadInput if it is missing, damaged or no numbers."""
    array = open_array(path)
    if array.dtype.kind not in "fiu":
        raise BadInput(f"{path}: {array.dtype}, expected numbers; {AGAIN}")
    return np.array(array, np.float64)


def read_points(path: Path, n: int) -> NDArray[np.float64]:
    """Return an npy file [n, K, 2] as float64.

    Raises:
        BadInput: it cannot be read, has another shape, or holds what is not finite.
    """
    points = read_numbers(path)
    check_points(points, n, str(path))
    return points


def first_images(split: Split, device: torch.device) -> Tensor:
    """Return the samples of a split that are pictured, float32 in [0, 1]."""
    return to_float(torch.from_numpy(np.array(split.images[:PICTURES])).to(device))


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Return [..., 3, S, S] in [0, 1] as uint8 [..., S, S, 3]."""
    array: NDArray[np.uint8] = (images.movedim(-3, -1) * 255).round().byte().cpu().numpy()
    return array


def read_images(arrays: Arrays, key: str) -> NDArray[np.uint8] | None:
    """Return pictures uint8 [n, H, W, 3], n at least 1; None if the arrays hold none."""
    images = arrays.get(key)
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        return None
    return images if len(images) else None
