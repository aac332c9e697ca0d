"""States of trainings, in files from which they resume after a stop.

`save` and `load` keep that of a probe that trains.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from partbench.errors import in_short
from partbench.files import atomic
from partbench.integrity import check_archive

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")
"""Of a training, in its run's folder: the newest, and the one before it."""


def save(path: Path, identity: str, state: Mapping[str, Any]) -> None:
    """Write the state of a fit.

    Args:
        path: the file to write, atomically.
        identity: everything on which the fit depends.
        state: tensors, numbers and what `state_dict` returns.
    """
    with atomic(path) as aside:
        torch.save({"identity": identity, **state}, aside)


def load(path: Path, identity: str, device: torch.device) -> dict[str, Any] | None:
    """Return the state of exactly this fit, or None where it starts over.

    A damaged file is moved aside.

    Args:
        path: what `save` wrote, if anything.
        identity: see `save`.
        device: where the tensors go.
    """
    if not path.exists():
        return None
    try:
        check_archive(path)
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises anything on a damaged file
        move_aside(path, "damaged", f"is damaged ({in_short(error)})")
        return None
    return state if state.get("identity") == identity else None


def forget(run: Path) -> None:
    """Remove the checkpoints of a finished training.

    The training leaves them: if its job is killed between the model and the end, Snakemake deletes
    the model, and the next attempt makes it again of the last checkpoint.

    Args:
        run: folder of the run.
    """
    for name in CHECKPOINTS:
        (run / name).unlink(missing_ok=True)


def move_aside(path: Path, suffix: str, why: str) -> None:
    """Keep a state that cannot be resumed out of the way, and say so."""
    aside = path.with_name(f"{path.name}.{suffix}")
    path.replace(aside)
    print(f"{path} {why}: moved to {aside.name}, not resumed", flush=True)
