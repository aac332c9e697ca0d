"""Files of weights that a person places below the data root, read without running their code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from partbench.errors import BadInput, in_short

NESTED = ("state_dict", "model", "teacher")
"""Keys under which a checkpoint may hold its state_dict."""
IMAGENET_LABELS = "ImageNet labels"
NO_LABELS = "images without labels"
NOTHING = "nothing"
"""What trained networks learnt from."""
WRAPPERS = ("module", "backbone", "encoder_q")
"""Components that files of self-supervised networks add to torchvision's names."""


def open_file(path: Path, what: str, remedy: str) -> Any:
    """Load a file of `torch.save` to the CPU, without running any code that it holds.

    Args:
        path: the file.
        what: content of the file, for the message, such as "the weights of vgg16".
        remedy: what the user can do if the file is missing.

    Raises:
        BadInput: the file is missing or cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(f"{path} ({what}) is missing; {remedy}") from None
    except Exception as error:  # torch raises anything on a damaged file
        raise wrong_content(path, what, error) from None


def wrong_content(path: Path, what: str, error: Exception, remedy: str = "") -> BadInput:
    """Return the error for a file that does not hold what it should.

    Args:
        path: the file.
        what: the content that it should have.
        error: the exception that reading it raised.
        remedy: an alternative for the user, such as ", or set `backbone` to what it holds".
    """
    return BadInput(f"{path} does not hold {what} ({in_short(error)}); replace it{remedy}")


def read_state(path: Path, what: str, setting: str) -> dict[str, Tensor]:
    """Return the tensors of a state_dict in a file by name, with WRAPPERS removed from the names.

    A file that holds no state_dict gives an empty dictionary.

    Args:
        path: a file with a state_dict, or with a checkpoint that has one under a key of NESTED.
        what: content of the file, for messages.
        setting: the setting that names the file, for messages.

    Raises:
        BadInput: the file is missing or cannot be read.
    """
    content = open_file(path, what, f"place it there, or change `{setting}`")
    for key in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    entries = content.items() if isinstance(content, Mapping) else ()
    return {
        ".".join(part for part in str(name).split(".") if part not in WRAPPERS): value
        for name, value in entries
        if isinstance(value, Tensor)
    }
