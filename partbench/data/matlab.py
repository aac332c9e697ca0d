"""Read MATLAB files without running any code that they contain."""

from pathlib import Path
from typing import Any

from scipy.io import loadmat

from partbench.errors import BadInput, in_short


def read_mat(path: Path, key: str, source: str) -> Any:
    """Return the variable `key` of a MATLAB file.

    The fields of a struct become attributes. Dimensions of length 1 are removed.

    Args:
        path: the file.
        key: the name of the variable.
        source: where a user gets the file, for the error message.

    Raises:
        BadInput: the file is missing or damaged, or lacks the variable.
    """
    try:
        with path.open("rb") as file:
            return loadmat(file, squeeze_me=True, struct_as_record=False, variable_names=[key])[key]
    except FileNotFoundError:
        raise BadInput(f"{path} is missing; get it from {source} and place it there") from None
    except Exception as error:  # one damaged byte can make scipy raise any exception
        raise BadInput(
            f"{path}: not a complete MATLAB file with '{key}' ({in_short(error)}); place the file "
            f"again, from {source}"
        ) from None
