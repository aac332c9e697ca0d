"""A prepared data set with a run's features of the same clips, seen otherwise.

Two-stream methods describe a clip twice, by its frames and by its optical flow, and join the two at
the end. This stage keeps what a run describes of one stream beside the other, for a probe that
joins them. The new data set is a folder of links to the arrays of the old one, with the features
beside them.
"""

from pathlib import Path

import numpy as np
import torch

from partbench.data.prepared import Prepared, Split
from partbench.derived import put_derived
from partbench.errors import BadInput
from partbench.files import aside_of, explained, locked, make_empty
from partbench.integrity import verify
from partbench.model import load_model_for
from partbench.outputs.arrays import SPLITS
from partbench.outputs.features import Features, HasFeatures


def describe_stream(
    name: str,
    model: Path,
    data: Path,
    stream: Path,
    out: Path,
    device: str,
    threads: int,
    code: str = "",
) -> None:
    """Write the data set `data` again, with a run's features of the samples in `stream`.

    Args:
        name: of the new data set.
        model: model.pt of a run whose method offers features.
        data: folder of the prepared data set.
        stream: folder of the same samples, seen otherwise.
        out: folder to make; whole or absent.
        device: "cpu" or "cuda".
        threads: CPU threads.
        code: fingerprint of the code that describes them.

    Raises:
        BadInput: the model or the data cannot be read or do not fit, the run's method offers no
            features, the two data sets have other samples, or a feature is not finite.
    """
    torch.set_num_threads(threads)
    prepared, seen = Prepared(data), Prepared(stream)
    run, method = load_model_for(seen, model, device)
    method.to(memory_format=torch.channels_last)
    if not isinstance(method, HasFeatures):
        raise BadInput(f"{model}: {run.method} offers no features")
    for split in SPLITS:
        _check_same(prepared.split(split), seen.split(split))
    aside = aside_of(out)
    with locked(out.parent / f".{out.name}"), explained(aside), torch.inference_mode():
        make_empty(aside)
        torch.manual_seed(run.seed)
        Features().write(method, seen, aside, torch.device(device), str(run))
        for split in SPLITS:
            (aside / f"{split}.features.npy").rename(aside / f"{split}.stream.npy")
        about = {
            "by": str(run),
            "of": prepared.meta["data_set"],
            "stream": seen.meta["data_set"],
            "stream checksum": seen.meta["checksum"],
        }
        put_derived(prepared, aside, out, name, code, {"second stream": about})


def _check_same(one: Split, other: Split) -> None:
    """Refuse, with `BadInput`, splits that differ in their samples or labels."""
    if _names(one) != _names(other):
        raise BadInput(
            f"{one.folder} and {other.folder} hold other samples in the split '{one.name}'; "
            "prepare both from the same clips"
        )
    if not np.array_equal(one.annotation("labels"), other.annotation("labels")):
        raise BadInput(
            f"{one.folder} and {other.folder} have other labels in the split '{one.name}'"
        )


def _names(split: Split) -> list[str]:
    path = split.folder / f"{split.name}.names.txt"
    verify(path, split.folder / "meta.json")
    return path.read_text().splitlines()
