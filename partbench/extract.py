"""One pass of a run over an evaluation set: everything the probes will read.

The folder of outputs holds, for the splits `train` and `test`, what the method offers:

    <split>.features.npy   float32 [N, D]
    <split>.points.npy     float32 [N, K, 2], keypoints (x, y) in the method's own frame
    <split>.logvar.npy     float32 [N, K, 2], log-variances of their posterior
    test.carried.npy       float32 [N, K, 2], keypoints of a warped copy of each image, carried
                           back to the places of the original that they show; NaN where that is
                           outside the window that the method sees
    keypoints.json         the frame, the paper's protocol, whether the last is the background

Beside it goes `pictures.npz` for the report: `originals`, `reconstructions` and `samples`, uint8
[n, S, S, 3], `keypoints` [n, K, 2] in pixels of the originals, and `moved` [T, S, S, 3], the
first image with its surest particle moving, as far as the method makes them.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.loader import to_float
from partbench.data.prepared import Prepared, Split
from partbench.errors import BadInput
from partbench.files import atomic, create_array, explained, write_json
from partbench.frame import Frame
from partbench.manipulate import surest, sweep
from partbench.model import load_model
from partbench.nn.tps import STRONG, ThinPlateSpline, warp
from partbench.progress import Progress

BATCH = 256
PICTURES = 20


def extract(
    model: Path, data: Path, outputs: Path, pictures: Path, device: str, threads: int
) -> None:
    """Write a run's outputs on a data set.

    Args:
        model: model.pt.
        data: folder of the prepared data set.
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
    method.to(memory_format=torch.channels_last)
    aside = outputs.with_name(outputs.name + ".part")
    with explained(outputs), torch.inference_mode():
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        if hasattr(method, "features"):
            for name in ("train", "test"):
                split, label = prepared.split(name), f"{run} features of {name}"
                _write(aside, split, label, lambda x: {"features": method.features(x.to(device))})
        if hasattr(method, "keypoints"):
            torch.manual_seed(run.seed)
            _keypoints(method, prepared, aside, str(run))
        torch.manual_seed(run.seed)
        made = _pictures(method, prepared.split("test"))
        with atomic(pictures) as path, path.open("wb") as file:
            np.savez_compressed(file, **made)  # type: ignore[arg-type]
        shutil.rmtree(outputs, ignore_errors=True)
        aside.rename(outputs)


def _write(
    folder: Path, split: Split, label: str, compute: Callable[[Tensor], dict[str, Tensor]]
) -> None:
    """Write what `compute` makes of every batch of a split, one array a key."""
    arrays: dict[str, NDArray[np.float32]] = {}
    with Progress(label, len(split), "images") as progress:
        for start in range(0, len(split), BATCH):
            images = to_float(torch.from_numpy(np.array(split.images[start : start + BATCH])))
            for key, value in compute(images).items():
                made = value.float().cpu().numpy()
                if key != "carried" and not np.isfinite(made).all():
                    raise BadInput(f"{label}: {key} are not finite")
                if key not in arrays:
                    path = folder / f"{split.name}.{key}.npy"
                    arrays[key] = create_array(path, np.float32, (len(split), *made.shape[1:]))
                arrays[key][start : start + BATCH] = made
            progress.advance(len(images))


def _keypoints(method: Any, prepared: Prepared, folder: Path, label: str) -> None:
    frame: Frame = method.frame()
    warper = ThinPlateSpline(prepared.size).to(method.mean.device)
    background = False

    def find(images: Tensor) -> dict[str, Tensor]:
        nonlocal background
        found = method.keypoints(images)
        background = found.background
        made = {"points": found.points}
        return made if found.logvar is None else made | {"logvar": found.logvar}

    def find_warped(images: Tensor) -> dict[str, Tensor]:
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
        split = prepared.split(name)
        _write(folder, split, f"{label} keypoints of {name}", lambda x: find(x.to(device)))
    label = f"{label} keypoints of warped test"
    _write(folder, prepared.split("test"), label, lambda x: find_warped(x.to(device)))
    about = frame._asdict() | {"background": background, "protocol": method.protocol}
    write_json(folder / "keypoints.json", about)


def _pictures(method: Any, split: Split) -> dict[str, NDArray[Any]]:
    originals = np.array(split.images[:PICTURES])
    made: dict[str, NDArray[Any]] = {"originals": originals}
    if hasattr(method, "reconstruct"):
        images = to_float(torch.from_numpy(originals).to(method.mean.device))
        made["reconstructions"] = _to_bytes(method.reconstruct(images))
    if hasattr(method, "keypoints"):
        images = to_float(torch.from_numpy(originals).to(method.mean.device))
        made["keypoints"] = method.frame().to_pixels(method.keypoints(images).points).cpu().numpy()
    if hasattr(method, "move"):
        first = images[:1]
        made["moved"] = sweep(method, first, surest(method, first))
    if hasattr(method, "generate"):
        made["samples"] = _to_bytes(method.generate(PICTURES))
    return made


def _to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Return [n, 3, S, S] in [0, 1] as uint8 [n, S, S, 3]."""
    return (images.permute(0, 2, 3, 1) * 255).round().byte().cpu().numpy()
