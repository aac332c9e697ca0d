"""A trained model as a file: `model.pt`, opened without running anything that stands in it."""

import json
from pathlib import Path
from typing import Any, Literal

import torch

from partbench import method as methods
from partbench.data.prepared import Prepared
from partbench.errors import BadInput, in_short
from partbench.files import atomic
from partbench.integrity import check_archive
from partbench.method import DataInfo, Method
from partbench.run import Run, Runtime

FORMAT = 1
SNAPSHOT = "epoch_{}.pt"
"""Beside model.pt, the model after an epoch, counted from 1; 0 is before the first."""


def device_of(runtime: Runtime) -> str:
    """Return "cuda" or "cpu".

    Raises:
        BadInput: a GPU is asked for and there is none.
    """
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("runtime.device is 'cuda', but torch sees no GPU; set 'cpu' or 'auto'")
    if runtime.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return runtime.device


def precision_of(runtime: Runtime) -> Literal["32-true", "bf16-mixed"]:
    """Return the arithmetic of trainings: as asked for, or what is fast on this device.

    Without bfloat16 in hardware it is emulated, slower than float32.
    """
    if runtime.precision != "auto":
        return runtime.precision
    if device_of(runtime) == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities()
        fast = able.get("avx512_bf16", False) or able.get("amx_bf16", False)
    return "bf16-mixed" if fast else "32-true"


def save_model(method: Method, identity: dict[str, Any], path: Path) -> None:
    """Write a trained method.

    Args:
        method: the method.
        identity: `format`, `run`, `settings` and the `data` checksum, plain json.
        path: the file to write, atomically.
    """
    with atomic(path) as aside:
        torch.save(
            {
                "identity": json.dumps(identity, sort_keys=True),
                "data": tuple(method.data),
                "state": method.state_dict(),
            },
            aside,
        )


def load_model(path: Path, device: str) -> tuple[Run, Method]:
    """Return the run and the trained method, in eval mode.

    Raises:
        BadInput: the file is no model of partbench, is damaged, or is of another version.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such model; train it, or correct the path")
    check_archive(path)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        identity = json.loads(state["identity"])
    except Exception as error:  # torch raises anything on a damaged file
        raise BadInput(
            f"{path} is no model of partbench or is damaged ({in_short(error)}); delete it and "
            "train again"
        ) from None
    if identity["format"] != FORMAT:
        raise BadInput(
            f"{path} was written by another version (format {identity['format']}, this one "
            f"reads {FORMAT}); delete it and train again"
        )
    run = Run(**identity["run"])
    cls = methods.load(run.method, str(path))
    settings = cls.Settings.parse(identity["settings"], str(path))
    method = cls(settings, DataInfo(*state["data"]))
    try:
        method.load_state_dict(state["state"])
    except RuntimeError as error:
        raise BadInput(
            f"{path} does not fit the present partbench/methods/{run.method}.py ({error}); "
            "delete it and train again"
        ) from None
    return run, method.to(device).eval()


def snapshots(model: Path) -> dict[int, Path]:
    """Return the models that a run kept on its way to model.pt: epoch -> file, ascending."""
    paths = model.parent.glob(SNAPSHOT.format("*"))
    return dict(sorted((int(path.stem.rpartition("_")[2]), path) for path in paths))


def load_model_for(prepared: Prepared, path: Path, device: str) -> tuple[Run, Method]:
    """Return the run and the trained method that `load_model` does, for a data set.

    Raises:
        BadInput: also if the data set has another size than the training data.
    """
    run, method = load_model(path, device)
    if prepared.size != method.data.size:
        raise BadInput(
            f"{path} was trained at {method.data.size} px, {prepared.folder} is prepared at "
            f"{prepared.size} px; give both data sets the same `size`"
        )
    return run, method
