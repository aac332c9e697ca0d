"""Non-negative matrix factorisation of a tall matrix that is read block by block.

V ~ W H with V [n, C], W [n, K] and H [K, C], all at least 0, and the squared Frobenius norm of
V - W H made small. Rows are many, C is hundreds and K a few, so reading V is what costs time:
every update reads it once, as both of its products are taken while a block is in the cache, and
the error comes from those products.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Solver = Literal["multiplicative", "hals"]
SWEEPS = 4
"""Of coordinate descent on each factor between two readings of V."""
LOOK_EVERY = 10


class Factors(NamedTuple):
    """What a factorisation has found."""

    w: Tensor
    """[n, K]."""
    h: Tensor
    """[K, C]."""
    error: float
    """Frobenius norm of V - W H."""
    updates: int
    """Updates made."""


def initial(blocks: Sequence[Tensor], factors: int) -> tuple[Tensor, Tensor]:
    """Return W [n, K] and H [K, C] before the first update: |N(0, 1)| sqrt(mean of V / K).

    The draws are torch's, W before H, on the CPU, so that they are the same on any device.
    """
    rows, width = sum(len(block) for block in blocks), blocks[0].shape[1]
    total = math.fsum(block.double().sum().item() for block in blocks)
    scale = math.sqrt(total / (rows * width) / factors)
    w, h = torch.randn(rows, factors).abs() * scale, torch.randn(factors, width).abs() * scale
    return w.to(blocks[0]), h.to(blocks[0])


def ahead(blocks: Sequence[Tensor], w: Tensor, h: Tensor, every: int = 16) -> Tensor:
    """Return H [K, C] factorised by `hals` from every so manyth block, to begin all of them with.

    Where rows are many, few of them say nearly all of H. Arguments as of `factorise`; H comes back
    as it is where a share of the blocks would be one or none.
    """
    some = blocks[::every] if len(blocks) >= 2 * every else []
    starts = range(0, len(w), len(blocks[0]))[::every]
    parts = [w[start : start + len(block)] for start, block in zip(starts, some, strict=False)]
    return factorise(some, torch.cat(parts), h, solver="hals").h if some else h


def factorise(
    blocks: Sequence[Tensor],
    w: Tensor,
    h: Tensor,
    *,
    updates: int = 200,
    tolerance: float = 1e-4,
    solver: Solver = "multiplicative",
    fixed: bool = False,
) -> Factors:
    """Return a factorisation, found from W and H on.

    The order is the published one of Deep Feature Factorization: an update is W, then H with the
    new W; after updates 1, 11, 21, ... the error is looked at, and the last update is the one
    after which it has fallen by less than `tolerance` of the first error since the last look.

    Args:
        blocks: the rows of V, some [n_i, C] at a time, not negative, float32 or float64.
        w: [n, K], not negative.
        h: [K, C], not negative.
        updates: at most.
        tolerance: 0: never stop before.
        solver: `multiplicative` (Lee and Seung, NIPS 2000), the published one: a factor that is 0
            stays 0. `hals`: exact coordinate descent on the columns of W and the rows of H, some
            sweeps per reading of V (Gillis and Glineur, Neural Computation 2012): fewer readings
            to the same error.
        fixed: leave H as it is; with it each row of W is a problem of its own.

    Returns:
        New tensors. Sums over rows are carried in float64 from block to block.
    """
    step = _multiply if solver == "multiplicative" else _descend
    w, h = w.clone(), h.clone()
    squared = math.fsum(block.double().square().sum().item() for block in blocks)
    first = previous = error = _error(squared, h, *_products(blocks, w))
    done = 0
    while done < updates:
        hh = h @ h.T
        wv, ww = h.new_zeros(h.shape, dtype=torch.float64), hh.new_zeros(hh.shape).double()
        start = 0
        for block in blocks:
            part = w[start : start + len(block)]
            part.copy_(step(part, block @ h.T, hh))
            wv += part.T @ block
            ww += part.T @ part
            start += len(block)
        if not fixed:
            h = step(h.T.double(), wv.T, ww).T.to(h)
        done += 1
        look = done % LOOK_EVERY == 1
        if look or done == updates:
            error = _error(squared, h, wv, ww)
        if look:
            if previous - error < tolerance * first:
                break
            previous = error
    return Factors(w, h.contiguous(), error, done)


def _multiply(x: Tensor, linear: Tensor, quadratic: Tensor) -> Tensor:
    """Return x [m, K] times linear / (x quadratic), which lowers |x|^2_quadratic - 2 x.linear."""
    tiny = torch.finfo(x.dtype).tiny  # a row of zeros is 0 / 0, and stays 0
    return x * linear / (x @ quadratic).clamp_min(tiny)


def _descend(x: Tensor, linear: Tensor, quadratic: Tensor) -> Tensor:
    """Return x [m, K] after sweeps that put each column where it is best, given the others."""
    columns, linear = x.T.contiguous(), linear.T.contiguous()
    for _ in range(SWEEPS):
        for k, row in enumerate(quadratic):
            if row[k] > 0:
                slope = linear[k] - row @ columns
                columns[k] = (columns[k] + slope / row[k]).clamp_min_(0)
    return columns.T


def _products(blocks: Sequence[Tensor], w: Tensor) -> tuple[Tensor, Tensor]:
    """Return W^T V and W^T W in float64."""
    factors = w.shape[1]
    wv = w.new_zeros(factors, blocks[0].shape[1], dtype=torch.float64)
    ww = w.new_zeros(factors, factors, dtype=torch.float64)
    for block, part in zip(blocks, w.split([len(block) for block in blocks]), strict=True):
        wv += part.T @ block
        ww += part.T @ part
    return wv, ww


def _error(squared: float, h: Tensor, wv: Tensor, ww: Tensor) -> float:
    """Return |V - W H| from |V|^2, W^T V and W^T W: rounding may leave less than 0 of nothing."""
    h = h.double()
    return math.sqrt(max(squared - 2 * (wv * h).sum().item() + (ww * (h @ h.T)).sum().item(), 0))
