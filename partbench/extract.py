"""One pass of a run over an evaluation set: everything the probes will read.

The folder of outputs holds `<split>.features.npy` [N, D] float32 for the splits `train` and
`test`, if the method offers features. Beside it goes `pictures.npz` for the report: `originals`,
`reconstructions` and `samples`, uint8 [n, S, S, 3], as far as the method makes them.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.loader import to_float
from partbench.data.prepared import Prepared, Split
from partbench.errors import BadInput
from partbench.files import atomic, create_array, explained
from partbench.model import load_model
from partbench.progress import Progress

BATCH = 256
PICTURES = 12


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
    run, method = load_model(model, device)
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
                _features(method, prepared.split(name), aside / f"{name}.features.npy", str(run))
        torch.manual_seed(run.seed)
        made = _pictures(method, prepared.split("test"))
        with atomic(pictures) as path, path.open("wb") as file:
            np.savez_compressed(file, **made)  # type: ignore[arg-type]
        shutil.rmtree(outputs, ignore_errors=True)
        aside.rename(outputs)


def _features(method: Any, split: Split, path: Path, label: str) -> None:
    device = method.mean.device
    array: NDArray[np.float32] | None = None
    with Progress(f"{label} {split.name}", len(split), "images") as progress:
        for start in range(0, len(split), BATCH):
            images = torch.from_numpy(np.array(split.images[start : start + BATCH])).to(device)
            features = method.features(to_float(images)).float().cpu().numpy()
            if not np.isfinite(features).all():
                raise BadInput(f"{label}: features of split '{split.name}' are not finite")
            if array is None:
                array = create_array(path, np.float32, (len(split), features.shape[1]))
            array[start : start + BATCH] = features
            progress.advance(len(images))


def _pictures(method: Any, split: Split) -> dict[str, NDArray[np.uint8]]:
    originals = np.array(split.images[:PICTURES])
    made = {"originals": originals}
    if hasattr(method, "reconstruct"):
        images = to_float(torch.from_numpy(originals).to(method.mean.device))
        made["reconstructions"] = _to_bytes(method.reconstruct(images))
    if hasattr(method, "generate"):
        made["samples"] = _to_bytes(method.generate(PICTURES))
    return made


def _to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Return [n, 3, S, S] in [0, 1] as uint8 [n, S, S, 3]."""
    return (images.permute(0, 2, 3, 1) * 255).round().byte().cpu().numpy()
