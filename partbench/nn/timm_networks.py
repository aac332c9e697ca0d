"""Networks of timm by name, with weights from a file that a person places; nothing is downloaded.

timm is imported where it is used: it takes seconds, which other networks need not wait for.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from partbench.errors import BadInput
from partbench.nn.weights import read_state
from partbench.settings import nearest

TIMM = "timm:"
"""Begins the name of a network of timm."""


def check_name(name: str) -> None:
    """Raise ValueError unless timm has a network of that name, given without `TIMM`."""
    import timm

    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=5)
        raise ValueError(f"timm has no network '{name}'; {nearest(name, close)}")


def create(name: str) -> Any:
    """Return a network without its classifier, its weights drawn by torch's generator."""
    import timm

    return timm.create_model(name, pretrained=False, num_classes=0)


def read_weights(network: Any, path: Path, name: str, file: str, setting: str) -> None:
    """Give a network the weights in a file; a classifier in it is left out.

    Args:
        network: of `create`.
        path: the file.
        name: of the network, for messages.
        file: the setting that names the file, for messages.
        setting: the setting that names the network, for messages.

    Raises:
        BadInput: the file is missing, cannot be read, or holds another network.
    """
    what = f"the weights of {name}"
    state = read_state(path, what, file)
    own = network.state_dict()
    head = network.pretrained_cfg["classifier"]
    heads = tuple(f"{h}." for h in ([head] if isinstance(head, str) else head or ()))
    state = {k: v for k, v in state.items() if not k.startswith(heads)}
    try:
        network.load_state_dict(state)
    except RuntimeError:  # its message lists all names
        missing = sorted(own.keys() - state.keys()) or sorted(state.keys() - own.keys())
        why = f"`{missing[0]}` is on one side alone" if missing else "shapes differ"
        raise BadInput(
            f"{path} does not hold {what} by timm's names ({why}); replace it, or set `{setting}` "
            "to what it holds"
        ) from None
