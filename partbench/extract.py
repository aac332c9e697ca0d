"""One pass of a run over an evaluation set: everything the probes will read.

The folder of outputs holds, for the splits `train` and `test`, what the method offers:

    <split>.features.npy   float32 [N, D]
    <split>.points.npy     float32 [N, K, 2], keypoints (x, y) in the method's own frame
    <split>.logvar.npy     float32 [N, K, 2], log-variances of their posterior
    test.carried.npy       float32 [N, K, 2], keypoints of a warped copy of each image, carried
                           back to the places of the original that they show; NaN where that is
                           outside the window that the method sees
    keypoints.json         the frame, the paper's protocol, whether the last is the background
    <split>.centres.npy    float32 [N, K, 2], centres of mass of the parts, pixels
    <split>.mass.npy       float32 [N, K], pixels that each part takes
    test.labels.npy        uint8 [N, S, S], the part of each pixel, on the background too
    test.foreground.npy    bool [N, S, S], where the method finds the foreground itself
    test.agreement.npy     float32 [N], share of the foreground of a warped copy of each image
                           whose part is that of the place of the original that it shows; NaN
                           where there is no foreground; not with `crop: whole`
    parts.json             K, and what the centres took for foreground: own, mask or none

Beside it goes `pictures.npz` for the report: `originals`, `reconstructions` and `samples`, uint8
[n, S, S, 3], `keypoints` [n, K, 2] in pixels of the originals, and `moved` [T, S, S, 3], the
first image with its surest particle moving, `parts` [n, S, S], the part of each pixel, 255 on
the background, as far as the method makes them.
"""

import shutil
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.loader import to_float
from partbench.data.prepared import Prepared, Split
from partbench.errors import BadInput
from partbench.files import atomic, create_array, explained, write_json
from partbench.frame import Frame
from partbench.manipulate import surest, sweep
from partbench.method import PartMaps
from partbench.model import load_model
from partbench.nn.tps import STRONG, ThinPlateSpline, nearest, warp
from partbench.progress import Progress

BATCH = 256
PICTURES = 20
BACKGROUND = 255


def extract(
    model: Path,
    data: Path,
    needs: Collection[str],
    outputs: Path,
    pictures: Path,
    device: str,
    threads: int,
) -> None:
    """Write a run's outputs on a data set.

    Args:
        model: model.pt.
        data: folder of the prepared data set.
        needs: what the probes will read, attributes of `Method` such as `features`.
        outputs: folder to make; whole or absent.
        pictures: npz file to write.
        device: "cpu" or "cuda".
        threads: CPU threads.

    Raises:
        BadInput: the model or the data cannot be read, or features are not finite.
    """
    torch.set_num_threads(threads)
    run, loaded = load_model(model, device)
    method: Any = loaded  # what it offers is found out by asking
    prepared = Prepared(data)
    if prepared.size != method.data.size:
        raise BadInput(
            f"{model} was trained at {method.data.size} px, {data} is prepared at "
            f"{prepared.size} px; give both data sets the same `size`"
        )
    if prepared.whole and not set(needs) <= {"part_maps"}:
        raise BadInput(
            f"{data}: `crop: {prepared.meta['settings']['crop']}` keeps every image's aspect; only "
            "part maps are measured so, other probes need the same data with another `crop`"
        )
    method.to(memory_format=torch.channels_last)
    aside = outputs.with_name(outputs.name + ".part")
    with explained(outputs), torch.inference_mode():
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        if "features" in needs:
            for name in ("train", "test"):
                split, label = prepared.split(name), f"{run} features of {name}"
                _write(aside, split, label, lambda x, _: {"features": method.features(x)}, device)
        if "keypoints" in needs:
            torch.manual_seed(run.seed)
            _keypoints(method, prepared, aside, str(run))
        if "part_maps" in needs:
            torch.manual_seed(run.seed)
            _parts(method, prepared, aside, str(run))
        torch.manual_seed(run.seed)
        made = _pictures(method, prepared.split("test"))
        with atomic(pictures) as path, path.open("wb") as file:
            np.savez_compressed(file, **made)  # type: ignore[arg-type]
        shutil.rmtree(outputs, ignore_errors=True)
        aside.rename(outputs)


def _write(
    folder: Path,
    split: Split,
    label: str,
    compute: Callable[[Tensor, slice], dict[str, Tensor]],
    device: torch.device | str,
) -> None:
    """Write what `compute` makes of a split, batch by batch (images, rows), an array a key."""
    arrays: dict[str, NDArray[Any]] = {}
    extents = split.annotation("extent") if split.has("extent") else None
    size = BATCH if extents is None else 1
    with Progress(label, len(split), "images") as progress:
        for start in range(0, len(split), size):
            rows = slice(start, start + size)
            images = to_float(torch.from_numpy(np.array(split.images[rows])).to(device))
            if extents is not None:
                images = images[:, :, : extents[start, 1], : extents[start, 0]]
            for key, value in compute(images, rows).items():
                made = (value.float() if value.is_floating_point() else value).cpu().numpy()
                if key not in ("carried", "agreement") and not np.isfinite(made).all():
                    raise BadInput(f"{label}: {key} are not finite")
                if key not in arrays:
                    path = folder / f"{split.name}.{key}.npy"
                    arrays[key] = create_array(path, made.dtype, (len(split), *made.shape[1:]))
                arrays[key][rows] = made
            progress.advance(len(images))


def _keypoints(method: Any, prepared: Prepared, folder: Path, label: str) -> None:
    frame: Frame = method.frame()
    warper = ThinPlateSpline(prepared.size).to(method.mean.device)
    background = False

    def find(images: Tensor, _: slice) -> dict[str, Tensor]:
        nonlocal background
        found = method.keypoints(images)
        background = found.background
        made = {"points": found.points}
        return made if found.logvar is None else made | {"logvar": found.logvar}

    def find_warped(images: Tensor, _: slice) -> dict[str, Tensor]:
        weights = warper.draw(len(images), STRONG)
        points = method.keypoints(warp(images, warper.grid(weights))).points
        last = prepared.size - 1  # warps count from -1 to 1 between the outermost pixels
        back = warper.carry_back(frame.to_pixels(points) / last * 2 - 1, weights)
        pixels = (back + 1) / 2 * last
        end = frame.left + frame.side
        seen = ((pixels >= frame.left - 0.5) & (pixels <= end - 0.5)).all(-1, keepdim=True)
        return {"carried": frame.from_pixels(pixels).where(seen, torch.nan)}

    device = method.mean.device
    for name in ("train", "test"):
        _write(folder, prepared.split(name), f"{label} keypoints of {name}", find, device)
    label = f"{label} keypoints of warped test"
    _write(folder, prepared.split("test"), label, find_warped, device)
    about = frame._asdict() | {"background": background, "protocol": method.protocol}
    write_json(folder / "keypoints.json", about)


def _parts(method: Any, prepared: Prepared, folder: Path, label: str) -> None:
    device = method.mean.device
    warper = None if prepared.whole else ThinPlateSpline(prepared.size).to(device)
    own, count = False, 0

    def find(split: Split, images: Tensor, rows: slice) -> dict[str, Tensor]:
        nonlocal own, count
        found: PartMaps = method.part_maps(images)
        weights, masks = found.weights, _masks(split, rows, images)
        own, count = found.foreground is not None, weights.shape[1]
        if masks is not None and not own:
            weights = weights * masks.unsqueeze(1)
        mass = weights.sum((2, 3))
        size = weights.new_tensor(weights.shape[:1:-1])  # width and height
        along = [torch.arange(n, device=device, dtype=torch.float32) for n in images.shape[2:]]
        moment = torch.stack([weights.sum(2) @ along[1], weights.sum(3) @ along[0]], -1)
        # A part without mass is in the middle.
        there = mass.unsqueeze(-1) > 1e-8
        centres = torch.where(there, moment / mass.clamp_min(1e-8).unsqueeze(-1), (size - 1) / 2)
        made = {"centres": centres, "mass": mass}
        if split.name == "test":
            made |= _labelled(found, images, masks)
        return made

    def _labelled(found: PartMaps, images: Tensor, masks: Tensor | None) -> dict[str, Tensor]:
        rest = [prepared.canvas - n for n in images.shape[2:]]
        around = (0, rest[1], 0, rest[0])
        made = {"labels": F.pad(found.labels.byte(), around)}
        if found.foreground is not None:
            made["foreground"], masks = F.pad(found.foreground, around), found.foreground
        if warper is None:
            return made
        # Labels as numbers can be sampled at the nearest pixel only; 0 is what comes from outside.
        shown = found.labels + 1
        if masks is not None:
            shown = shown * (masks > 0)
        grid = warper.grid(warper.draw(len(images), STRONG))
        carried = nearest(shown.unsqueeze(1).float(), grid).squeeze(1)
        there = method.part_maps(warp(images, grid)).labels + 1
        seen = carried > 0
        return made | {"agreement": ((there == carried) & seen).sum((1, 2)) / seen.sum((1, 2))}

    for name in ("train", "test"):
        split = prepared.split(name)
        _write(folder, split, f"{label} parts of {name}", partial(find, split), device)
    mask = "mask" if prepared.split("test").has("mask") else "none"
    write_json(folder / "parts.json", {"parts": count, "foreground": "own" if own else mask})


def _masks(split: Split, rows: slice, images: Tensor) -> Tensor | None:
    """Return the data set's foreground where the images are, [B, H, W] float32, if it has one."""
    if not split.has("mask"):
        return None
    masks = split.annotation("mask")[rows, : images.shape[2], : images.shape[3]]
    return torch.from_numpy(np.array(masks)).to(images.device).float()


def _pictures(method: Any, split: Split) -> dict[str, NDArray[Any]]:
    originals = np.array(split.images[:PICTURES])
    made: dict[str, NDArray[Any]] = {"originals": originals}
    if hasattr(method, "reconstruct"):
        images = to_float(torch.from_numpy(originals).to(method.mean.device))
        made["reconstructions"] = _to_bytes(method.reconstruct(images))
    if hasattr(method, "keypoints"):
        images = to_float(torch.from_numpy(originals).to(method.mean.device))
        made["keypoints"] = method.frame().to_pixels(method.keypoints(images).points).cpu().numpy()
    if hasattr(method, "part_maps"):
        images = to_float(torch.from_numpy(originals).to(method.mean.device))
        made["parts"] = _pictured_parts(method, split, images)
    if hasattr(method, "move"):
        first = images[:1]
        made["moved"] = sweep(method, first, surest(method, first))
    if hasattr(method, "generate"):
        made["samples"] = _to_bytes(method.generate(PICTURES))
    return made


def _pictured_parts(method: Any, split: Split, images: Tensor) -> NDArray[np.uint8]:
    """Return the part of each pixel of the split's first images, [n, S, S]."""
    n, _, height, width = images.shape
    pieces = [(slice(0, n), width, height)]
    if split.has("extent"):  # as they are measured: each without what is around it
        extents = split.annotation("extent")[:n].tolist()
        pieces = [(slice(i, i + 1), *extent) for i, extent in enumerate(extents)]
    parts = np.full((n, height, width), BACKGROUND, np.uint8)
    for rows, right, bottom in pieces:
        inside = images[rows, :, :bottom, :right]
        found: PartMaps = method.part_maps(inside)
        masks = _masks(split, rows, inside)
        shown = found.foreground if masks is None or found.foreground is not None else masks > 0
        labels = found.labels if shown is None else found.labels.where(shown, BACKGROUND)
        parts[rows, :bottom, :right] = labels.byte().cpu().numpy()
    return parts


def _to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Return [n, 3, S, S] in [0, 1] as uint8 [n, S, S, 3]."""
    return (images.permute(0, 2, 3, 1) * 255).round().byte().cpu().numpy()
