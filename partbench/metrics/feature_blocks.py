"""Features [n, D] read in blocks: checks, float64 blocks of rows or columns, linear scores.

Features may be a memory map larger than the memory; no function here holds them whole as float64.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput

FloatArray = NDArray[np.float64]

_BLOCK = 1 << 22  # float64 elements that are converted at a time: 32 MiB
_EPS = float(np.finfo(np.float64).eps)


def linear_scores(features: NDArray, coef: FloatArray, intercept: FloatArray) -> FloatArray:
    """Return `features @ coef.T + intercept`, float64 [N, M], reading the features by row blocks.

    Args:
        features: [N, D] numbers, an array or a memory map.
        coef: [M, D] float64.
        intercept: [M] float64.

    Raises:
        BadInput: the number of features differs from D, or a feature is not finite.
    """
    check_features(features, "test features")
    if features.shape[1] != coef.shape[1]:
        raise BadInput(
            f"test features: {features.shape[1]} per sample, but the training features have "
            f"{coef.shape[1]}; extract both with the same model."
        )
    scores = np.empty((len(features), len(coef)))
    for start, block in row_blocks(features, "test features"):
        np.matmul(block, coef.T, out=scores[start : start + len(block)])
    scores += intercept
    return scores


def check_features(features: NDArray, where: str) -> None:
    """Refuse, with `BadInput`, what is not an [n, D] array of real numbers with n, D > 0."""
    if features.ndim != 2 or features.dtype.kind not in "fiu":
        raise BadInput(
            f"{where}: expected numbers of shape [samples, features], got {features.dtype} of "
            f"shape {list(features.shape)}."
        )
    if 0 in features.shape:
        raise BadInput(f"{where}: empty, shape {list(features.shape)}; give at least one sample.")


def check_finite(features: NDArray, where: str) -> None:
    """Refuse, with `BadInput` that names the row, features [n, D] with NaN or infinity."""
    size = _block_length(features.shape[1])
    for start in range(0, len(features), size):
        _check_block(features[start : start + size], where, first_row=start)


def check_labels(labels: NDArray, n: int, where: str) -> None:
    """Refuse, with `BadInput`, what is not an [n] array of integers."""
    if labels.dtype.kind not in "iu":
        raise BadInput(
            f"{where}: {labels.dtype}, but class labels must be integers; number the classes."
        )
    if labels.shape != (n,):
        raise BadInput(
            f"{where}: shape {list(labels.shape)}, but there are {n} samples; give one label each."
        )


def check_cs(cs: Sequence[float]) -> None:
    """Refuse, with `BadInput`, an empty list and values that are not positive and finite."""
    if len(cs) == 0 or not all(0 < c < np.inf for c in cs):
        raise BadInput(f"cs: {list(cs)}; give at least one C, each positive and finite.")


def deviation(variance: FloatArray, mean: FloatArray, n: int) -> FloatArray:
    """Return standard deviations, with 1 for features that vary by no more than rounding."""
    constant = variance <= n * _EPS * variance + (n * _EPS * mean) ** 2
    return np.where(constant, 1.0, np.sqrt(variance))


def row_blocks(features: NDArray, where: str = "features") -> Iterator[tuple[int, FloatArray]]:
    """Yield (first row, fresh float64 block of rows), checked to be finite."""
    size = _block_length(features.shape[1])
    for start in range(0, len(features), size):
        block = np.array(features[start : start + size], dtype=np.float64)
        _check_block(block, where, first_row=start)
        yield start, block


def column_blocks(
    features: NDArray, elements: int | None = None
) -> Iterator[tuple[int, FloatArray]]:
    """Yield (first column, fresh float64 block of columns), checked to be finite.

    Args:
        features: [n, D].
        elements: of a block, roughly; None: 32 MiB.
    """
    size = _block_length(len(features), elements)
    for start in range(0, features.shape[1], size):
        block = np.array(features[:, start : start + size], dtype=np.float64, order="C")
        _check_block(block, "features", first_column=start)
        yield start, block


def _block_length(across: int, elements: int | None = None) -> int:
    """Return how many rows (columns) of `across` elements to read at a time."""
    return max(1, (elements or _BLOCK) // across)


def _check_block(block: NDArray, where: str, first_row: int = 0, first_column: int = 0) -> None:
    finite = np.isfinite(block)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise BadInput(
            f"{where}: row {first_row + row} holds {block[row, column]} (feature "
            f"{first_column + column}); features must be finite, check the model on that sample."
        )
