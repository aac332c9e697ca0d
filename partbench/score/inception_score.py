"""The Inception Score's ruler: probabilities or logits of classes that partbench did not make."""

from pathlib import Path
from typing import Any

import numpy as np

from partbench.errors import BadInput
from partbench.metrics.feature_blocks import check_features, check_finite
from partbench.metrics.generation import inception_score, log_probabilities
from partbench.probes.generation import VERSION
from partbench.score import arrays

ROUNDING = 1e-3
"""By which probabilities of an image may miss a sum of 1."""


def score(path: Path, *, splits: int = 10, seed: int = 0) -> dict[str, Any]:
    """Return the Inception Score of a file, over consecutive parts and over parts of shuffled rows.

    Args:
        path: npz with `logits` or `probs` [N, classes] of generated images; other arrays are
            ignored.
        splits: parts.
        seed: of the shuffling; torch-fidelity's is 2020.

    Returns:
        What a result file holds, ready for `json.dumps`; SDs are over parts, with ddof 0.

    Raises:
        BadInput: see `arrays.read`; none of the arrays or both; a wrong shape; values that are not
            finite; rows that are no probabilities; fewer rows than parts.
    """
    read = arrays.read(path, (), ("logits", "probs"))
    if len(read) != 1:
        raise BadInput(
            f"{path}: {'both of logits and probs' if read else 'no array named logits or probs'}; "
            "give one of them, [N, classes]"
        )
    ((name, values),) = read.items()
    check_features(values, f"{path}: {name}")
    check_finite(values, f"{path}: {name}")
    if name == "probs":
        sums = values.sum(1, dtype=np.float64)
        wrong = np.flatnonzero((np.abs(sums - 1) > ROUNDING) | (values < 0).any(1))
        if wrong.size:
            raise BadInput(
                f"{path}: probs: row {wrong[0]} sums to {sums[wrong[0]]:g} and its least value is "
                f"{values[wrong[0]].min():g}; give probabilities, or `logits`"
            )
        values = log_probabilities(values)
    if not 1 <= splits <= len(values):
        raise BadInput(f"{path}: {len(values)} rows make no {splits} parts; change --splits")
    consecutive = inception_score(values, splits)
    shuffled = inception_score(values, splits, shuffle=seed)
    return {
        "probe": "generation",
        "version": VERSION,
        "metric": "is",
        "direction": "higher is better",
        "value": consecutive.mean,
        "sd_over_parts": consecutive.sd,
        "shuffled": {"value": shuffled.mean, "sd_over_parts": shuffled.sd},
        "splits": splits,
        "n": len(values),
        "classes": values.shape[1],
        "seed": seed,
    }
