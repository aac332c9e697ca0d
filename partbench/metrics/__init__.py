"""The definitions of all numbers, as pure functions; and the rulers as a library.

`from partbench.metrics import landmark_error` gives a function of arrays or tensors, documented in
`partbench.rulers`. A ruler is imported where it is first asked for.
"""

from importlib import import_module
from typing import Any

RULERS = {
    "landmark_error": "landmarks",
    "LandmarkError": "landmarks",
    "part_agreement": "parts",
    "PartAgreement": "parts",
    "part_ceiling": "parts",
    "linear_accuracy": "features",
    "LinearAccuracy": "features",
    "frechet_distance": "images",
    "FrechetDistance": "images",
}
"""Name -> its module in `partbench.rulers`."""


def __getattr__(name: str) -> Any:
    """Return a ruler."""
    if name not in RULERS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"partbench.rulers.{RULERS[name]}"), name)


def __dir__() -> list[str]:
    """Return the names of the rulers."""
    return [*globals(), *RULERS]
