"""One pass of a run over an evaluation set: writes all that the probes will read.

Each capability of `partbench.outputs` says which files it writes. Beside them goes an npz of
pictures for the report: `originals`, uint8 [n, S, S, 3], the first test samples, and what each
capability of the method draws of them.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from partbench.checkpoint import forget
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.files import aside_of, atomic, explained, make_empty, put_in_place
from partbench.integrity import write_checksums
from partbench.method import Method
from partbench.model import load_model_for
from partbench.outputs.arrays import PICTURES
from partbench.outputs.capability import Capability, offered_by
from partbench.run import Run


def extract(
    model: Path,
    data: Path,
    needs: Collection[str],
    outputs: Path,
    pictures: Path,
    device: str,
    threads: int,
) -> None:
    """Write a run's outputs on a data set; the run then no longer needs its checkpoints.

    Args:
        model: model.pt.
        data: folder of the prepared data set.
        needs: what the probes will read, names of capabilities.
        outputs: folder to make; whole or absent.
        pictures: npz file to write.
        device: "cpu" or "cuda".
        threads: CPU threads.

    Raises:
        BadInput: the model or the data cannot be read or do not fit, or an output is not finite.
    """
    torch.set_num_threads(threads)
    prepared = Prepared(data)
    run, method = load_model_for(prepared, model, device)
    forget(model.parent)
    method.to(memory_format=torch.channels_last)
    usable = _usable(method, prepared)
    if unfit := sorted(set(needs) - set(usable)):
        raise BadInput(_misfit(method, prepared, run.method, unfit))
    aside = aside_of(outputs)
    with explained(outputs), torch.inference_mode():
        make_empty(aside)
        for name in sorted(needs):
            torch.manual_seed(run.seed)
            usable[name].write(method, prepared, aside, torch.device(device), str(run))
        write_checksums(aside)
        with atomic(pictures) as path, path.open("wb") as file:
            arrays = _draw(method, run, prepared, usable, torch.device(device))
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        put_in_place(aside, outputs)


def _usable(method: Method, prepared: Prepared) -> dict[str, Capability]:
    """Return the method's capabilities that work on a data set, by name."""
    offered = offered_by(type(method))
    return {n: c for n, c in offered.items() if c.of_whole_images or not prepared.whole}


def _misfit(method: Method, prepared: Prepared, name: str, unfit: list[str]) -> str:
    """Return why some capabilities of a method cannot be written, for a message."""
    offered = offered_by(type(method))
    if lacking := [need for need in unfit if need not in offered]:
        return (
            f"{name} offers no {' and no '.join(lacking)}, but "
            f"{', '.join(offered) or 'nothing that can be written'}; name what it offers"
        )
    return (
        f"{prepared.folder}: `crop: {prepared.meta['settings']['crop']}` keeps every image's "
        f"aspect; {', '.join(unfit)} cannot be measured so, only part maps can: use the same data "
        "with another `crop`"
    )


def _draw(
    method: Method,
    run: Run,
    prepared: Prepared,
    usable: dict[str, Capability],
    device: torch.device,
) -> dict[str, NDArray[Any]]:
    """Return the arrays of the pictures."""
    split = prepared.split("test")
    arrays: dict[str, NDArray[Any]] = {"originals": np.array(split.images[:PICTURES])}
    for capability in usable.values():
        torch.manual_seed(run.seed)
        arrays |= capability.draw(method, split, device)
    return arrays
