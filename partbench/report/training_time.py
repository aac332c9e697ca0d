"""How long trainings took."""

from typing import Any

import numpy as np
import pandas as pd

RUN_KEYS = ("method", "variant", "train")


def training_seconds(metrics: pd.DataFrame) -> dict[tuple[Any, ...], float]:
    """Return the mean seconds of a run's training, by method, variant and training data.

    Args:
        metrics: the table.
    """
    done = metrics[metrics["status"] == "done"]
    runs = done.drop_duplicates([*RUN_KEYS, "seed"])
    seconds = {
        tuple(map(str, key)): float(same["seconds"].mean())
        for key, same in runs.groupby(list(RUN_KEYS))
    }
    return {key: value for key, value in seconds.items() if np.isfinite(value)}
