"""Principal components of rows that may lie in a memory map."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput

ROWS = 2**26
"""Numbers of a block that is converted to float64 at once."""
MOST = 20_000
"""Side of the greatest matrix whose eigenvectors are computed: 3.2 GB."""
LEAST = 1e-12
"""Share of the greatest variance below which a component is rounding."""


class Components(NamedTuple):
    """The first k principal components of rows [N, D]."""

    mean: NDArray[np.float64]
    """[D]."""
    directions: NDArray[np.float64]
    """[k, D], orthonormal; the entry of largest size in each is positive."""
    variances: NDArray[np.float64]
    """[k], of the rows along each, falling."""


def principal_components(rows: NDArray[np.floating], k: int, what: str) -> Components:
    """Return the exact principal components of rows, through the smaller of X'X and X X'.

    Args:
        rows: [N, D], an array or a memory map; it is read in blocks.
        k: components.
        what: the rows are, for messages, such as "descriptors".

    Raises:
        BadInput: the rows vary in fewer than k directions, or both N and D exceed `MOST`.
    """
    n, d = rows.shape
    if min(n, d) > MOST:
        raise BadInput(
            f"principal components of {n} {what} of {d} numbers need the eigenvectors of a matrix "
            f"of more than {MOST} rows; use fewer samples or shorter vectors"
        )
    if n < 2:
        raise BadInput(f"principal components of {what} need two of them; there are {n}")
    step = max(ROWS // d, 1)
    blocks = [slice(i, i + step) for i in range(0, n, step)]
    mean = sum((rows[b].sum(0, dtype=np.float64) for b in blocks), np.zeros(d)) / n

    def centred(block: slice) -> NDArray[np.float64]:
        return rows[block].astype(np.float64) - mean

    if d <= n:
        scatter = np.zeros((d, d))
        for b in blocks:
            x = centred(b)
            scatter += x.T @ x
    else:
        scatter = np.empty((n, n))
        for i, one in enumerate(blocks):
            x = centred(one)
            for other in blocks[: i + 1]:
                scatter[one, other] = x @ centred(other).T
                scatter[other, one] = scatter[one, other].T
    values, vectors = np.linalg.eigh(scatter)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > LEAST * max(values[0], np.finfo(float).tiny)).sum())
    if rank < k:
        raise BadInput(
            f"{n} {what} vary in {rank} directions only, so they have no {k} principal "
            f"components; ask for fewer"
        )
    if d <= n:
        directions = vectors[:, :k].T
    else:
        directions = np.zeros((k, d))
        for b in blocks:
            directions += vectors[b, :k].T @ centred(b)
        directions /= np.sqrt(values[:k, None])
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)
    return Components(mean, directions * np.sign(largest), values[:k] / n)
