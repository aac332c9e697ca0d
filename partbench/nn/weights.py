"""Weights in files that a person places below the data root, read without running their code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from partbench.errors import BadInput, in_short

NESTED = ("state_dict", "model", "teacher")
"""Under what a checkpoint may hold its state_dict."""
WRAPPERS = ("module", "backbone", "encoder_q")
"""What the files of self-supervised networks put into torchvision's names."""


def open_file(path: Path, what: str, remedy: str) -> Any:
    """Return what `torch.save` wrote to a file, on the CPU; nothing that it holds is run.

    Args:
        path: the file.
        what: the file holds, for the message, such as "the weights of vgg16".
        remedy: what a user can do where the file is missing.

    Raises:
        BadInput: the file is missing or cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(f"{path} is missing, {what}; {remedy}") from None
    except Exception as error:  # torch raises anything on a damaged file
        raise misplaced(path, what, error) from None


def misplaced(path: Path, what: str, error: Exception, remedy: str = "") -> BadInput:
    """Return the error of a file that does not hold what it should.

    Args:
        path: the file.
        what: it should hold.
        error: raised by the attempt to read it.
        remedy: what else a user can do, such as ", or set `backbone` to what it holds".
    """
    return BadInput(
        f"{path} does not hold {what} ({in_short(error)}); delete it and place it anew{remedy}"
    )


def read_state(path: Path, what: str, setting: str) -> dict[str, Tensor]:
    """Return the tensors of a state_dict in a file by their names, without WRAPPERS.

    Args:
        path: a state_dict, or a checkpoint with one under NESTED.
        what: the file is, for messages.
        setting: that names the file, for messages.

    Raises:
        BadInput: the file is missing or cannot be read.
    """
    content = open_file(path, what, f"place it there, or change `{setting}`")
    for key in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    named = content.items() if isinstance(content, Mapping) else ()
    return {
        ".".join(part for part in str(name).split(".") if part not in WRAPPERS): value
        for name, value in named
        if isinstance(value, Tensor)
    }
