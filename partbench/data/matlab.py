"""MATLAB files, opened without running anything that stands in them."""

from pathlib import Path
from typing import Any

from scipy.io import loadmat

from partbench.errors import BadInput, in_short


def read_mat(path: Path, key: str, source: str) -> Any:
    """Return the variable `key` of a MATLAB file; structs have attributes, sides of 1 are gone.

    Raises:
        BadInput: the file is missing or damaged, or has no such variable.
    """
    try:
        with path.open("rb") as file:
            return loadmat(file, squeeze_me=True, struct_as_record=False, variable_names=[key])[key]
    except FileNotFoundError:
        raise BadInput(f"{path} is missing; {source}: place the file there") from None
    except Exception as error:  # a damaged byte makes scipy raise nearly anything
        raise BadInput(
            f"{path}: no whole MATLAB file that holds '{key}' ({in_short(error)}); {source}: "
            "place the file again"
        ) from None
