"""A prepared data set with the foreground that a trained run predicts.

Some methods are told the foreground. This stage tells them a prediction instead of the truth: that
of a supervised network, as the part papers do for their test images, or of an unsupervised one. The
new data set is a folder of links to the arrays of the old one, with new masks.
"""

from pathlib import Path

import numpy as np
import torch

from partbench.data.crop import check_same_crop
from partbench.data.loader import to_float
from partbench.data.prepared import Prepared
from partbench.derived import put_derived
from partbench.errors import BadInput
from partbench.files import aside_of, create_array, explained, locked, make_empty
from partbench.model import load_model_for
from partbench.outputs.part_maps import HasPartMaps
from partbench.progress import Progress

BATCH = 64
WIDE = "wide_"


def find_foreground(
    name: str, model: Path, data: Path, out: Path, device: str, threads: int, code: str = ""
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

    Raises:
        BadInput: the model or the data cannot be read, do not fit or have another `crop`, or the
            run's method has no foreground of its own.
    """
    torch.set_num_threads(threads)
    prepared = Prepared(data)
    run, method = load_model_for(prepared, model, device)
    check_same_crop(method.data.crop, prepared.cut.crop, f"{model} on {data}")
    if not isinstance(method, HasPartMaps):
        raise BadInput(f"{model}: {run.method} has no part maps, hence no foreground")
    method.to(memory_format=torch.channels_last)
    aside = aside_of(out)
    with locked(out.parent / f".{out.name}"), explained(aside):
        make_empty(aside)
        overlap: dict[str, float] = {}
        for split in prepared.meta["splits"]:
            label = f"{run} foreground of {split}"
            mean = _write_masks(method, prepared, split, aside, torch.device(device), label)
            if mean is not None:
                overlap[split] = mean
            if prepared.split(split).has(f"{WIDE}images"):
                label = f"{run} foreground of {split}, wide squares"
                _write_masks(method, prepared, split, aside, torch.device(device), label, WIDE)
        about = {"by": str(run), "of": prepared.meta["data_set"], "mean IoU, %": overlap}
        put_derived(prepared, aside, out, name, code, {"foreground": about})


def _write_masks(
    method: HasPartMaps,
    prepared: Prepared,
    name: str,
    folder: Path,
    device: torch.device,
    label: str,
    prefix: str = "",
) -> float | None:
    """Write a split's masks; return their mean overlap with the true ones, %, if there are any.

    With `prefix`, they are those of the wide squares.
    """
    split = prepared.split(name)
    images = split.annotation(f"{prefix}images") if prefix else split.images
    side = images.shape[-2]
    if images.ndim == 5:
        raise BadInput(f"{prepared.folder}: holds clips; a foreground is found in single images")
    extents = split.annotation("extent") if split.has("extent") else None
    kind = f"{prefix}mask"
    truth = split.annotation(kind) if split.has(kind) else None
    masks = create_array(folder / f"{name}.{kind}.npy", np.bool_, (len(split), side, side))
    size = BATCH if extents is None else 1
    overlaps = []
    with Progress(label, len(split), "images") as progress, torch.inference_mode():
        for start in range(0, len(split), size):
            rows = slice(start, start + size)
            width, height = (side, side) if extents is None else extents[start].tolist()
            batch = torch.from_numpy(np.array(images[rows, :height, :width]))
            foreground = method.part_maps(to_float(batch.to(device))).foreground
            if foreground is None:
                raise BadInput(
                    f"{label}: the method is told the foreground and finds none; in `by`, name a "
                    "run of `foreground` or `principal_foreground`"
                )
            predicted = foreground.cpu().numpy()
            masks[rows, :height, :width] = predicted
            if truth is not None:
                true = truth[rows, :height, :width]
                union = (predicted | true).sum((1, 2))
                overlaps.append((predicted & true).sum((1, 2))[union > 0] / union[union > 0])
            progress.advance(len(batch))
    masks.flush()
    return 100 * float(np.concatenate(overlaps).mean()) if overlaps else None
