"""The released weights of FV-VAE: a MATLAB file with one struct, read without running any code.

Fields and shapes are those of the files in the authors' repository at commit 07e9cbe. Caffe's order
is (1, 1, in, out) for the encoder, a convolution, and (1, 1, out, in) for the decoder, a
deconvolution.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import loadmat
from torch import Tensor

from partbench.errors import BadInput, in_short
from partbench.nn.activations import BLOCK_NORM
from partbench.nn.released import Authors, Release

WEIGHTS = {
    f"split{i}": Release(
        f"fv_vae_split{i}",
        f"weights/fv_vae/caffe_vae_weights_ucf101_split{i}_vgg19.mat",
        {"encoder_layers": 1, "views": 10},
    )
    for i in (1, 2, 3)
}
"""Variant of our method -> the authors' weights of it."""
STRUCT = "caffe_vae_weights"
NAMES = {
    "encoder.1.weight": "encoder.w",
    "encoder.1.bias": "encoder.b",
    "decoder.weight": "decoder.w",
    "decoder.bias": "decoder.b",
    "log_sigma_x": "decoder_sigma",
}
"""Our name -> theirs."""


def authors(absent: Collection[str]) -> Authors:
    """Return how the authors' file holds the autoencoder.

    Args:
        absent: our names of what it lacks: the code's standard deviations, the classifier, and the
            norms of the training data's vectors, which are measured again.
    """

    def turn(name: str, value: Tensor) -> Tensor:
        return value.log() if name == "log_sigma_x" else value

    return Authors(NAMES, absent=tuple(absent), turn=turn, opened=read)


def read(path: Path, what: str, remedy: str) -> dict[str, Tensor]:
    """Return the tensors of a file by the names above, in torch's order (out, in).

    Args:
        path: the file.
        what: its content, for messages.
        remedy: what the user can do if the file is missing.

    Raises:
        BadInput: the file is missing or damaged, or holds something else.
    """
    try:
        with path.open("rb") as file:
            struct = loadmat(file, variable_names=[STRUCT])[STRUCT]
        encoder, decoder = _field(struct, "encoder"), _field(struct, "decoder")
        if encoder.shape != (1, 1):
            raise ValueError(f"the encoder has {encoder.size} layers, those released have one")
        for layer, expected in ((encoder, "Linear"), (decoder, "ReLU")):
            act = str(_field(layer, "act").item())
            if act != expected:
                raise ValueError(f"an activation is {act!r}, not {expected!r}")
        if (norm := _field(struct, "norm_scale").item()) != BLOCK_NORM:
            raise ValueError(f"norm_scale is {norm}, not {BLOCK_NORM:g}")
        tensors = {
            "encoder.w": _numbers(encoder, "w").T,
            "encoder.b": _numbers(encoder, "b"),
            "decoder.w": _numbers(decoder, "w"),
            "decoder.b": _numbers(decoder, "b"),
            "decoder_sigma": _numbers(struct, "decoder_sigma"),
        }
        if not (tensors["decoder_sigma"] > 0).all():
            raise ValueError("a standard deviation is not positive")
        return tensors
    except FileNotFoundError:
        raise BadInput(f"{path} ({what}) is missing; {remedy}") from None
    except Exception as error:  # one damaged byte can make scipy raise any exception
        raise BadInput(
            f"{path} is not a MATLAB file with {what} ({in_short(error)}); {remedy}"
        ) from None


def _field(struct: Any, name: str) -> Any:
    """Return a field of a struct of one element; raises if there is none."""
    if struct.dtype.names is None or name not in struct.dtype.names:
        raise ValueError(f"there is no field {name}")
    return struct[name].flat[0]


def _numbers(struct: Any, name: str) -> Tensor:
    """Return a field of shape [n, 1] as [n], of shape [1, 1, n, m] as [n, m]."""
    array = _field(struct, name)
    vector, matrix = array.shape[1:] == (1,), array.ndim == 4 and array.shape[:2] == (1, 1)
    if array.dtype.kind != "f" or not (vector or matrix):
        raise ValueError(f"{name} is {array.dtype} of shape {list(array.shape)}")
    array = array[:, 0] if vector else array[0, 0]
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
