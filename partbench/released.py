"""A run without training: weights that the authors of a paper released, to be measured."""

from typing import Any

from partbench.files import data_root, sha256
from partbench.method import Method, release_of
from partbench.nn.released import read_released


def load_released(method: Method) -> dict[str, Any]:
    """Give a method the weights that its authors released; return what `train.json` keeps of them.

    All of the method's state is replaced, so that nothing depends on the run's seed.

    Args:
        method: the method, whose settings name the weights.

    Returns:
        `name`, a name of `partbench data list`; the `file` below the data root; its `bytes` and
        `sha256`, by which runs can be told apart where the authors published no checksum.

    Raises:
        BadInput: the file is missing, or does not hold this method's weights.
    """
    release = release_of(type(method), method.settings)
    path = data_root() / release.file
    state = read_released(path, method.authors(), method.state_dict(), release.name)
    method.load_state_dict(state)
    return {
        "name": release.name,
        "file": release.file,
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
    }
