"""Non-negative matrix factorisation of a tall matrix that is read block by block.

V ~ W H with V [n, C], W [n, K] and H [K, C], all at least 0, and the squared Frobenius norm of
V - W H made small. Rows are many, C is hundreds and K a few, so reading V is what costs time:
every update reads it once, as both of its products are taken while a block is in the cache, and
the error comes from those products.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Solver = Literal["multiplicative", "hals"]
SWEEPS = 3
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
    if len(blocks) < 2 * every:
        return h
    starts = itertools.accumulate((len(block) for block in blocks), initial=0)
    rows = [w[start : start + len(block)] for start, block in zip(starts, blocks, strict=False)]
    some = [blocks[i] for i in range(0, len(blocks), every)]
    return factorise(some, torch.cat(rows[::every]), h, solver="hals").h


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
            sweeps per reading of V (Gillis and Glineur, Neural Computation 2012), extrapolated
            with a momentum that falls whenever the error has risen (Ang and Gillis, Neural
            Computation 2019): fewer readings to the same error.
        fixed: leave H as it is; with it each row of W is a problem of its own.

    Returns:
        New tensors. Sums over rows are carried in float64 from block to block.
    """
    step = _multiply if solver == "multiplicative" else _descend
    w, h = w.clone(), h.clone()
    w_ahead, h_ahead = w.clone(), h
    squared = math.fsum(block.double().square().sum().item() for block in blocks)
    first = previous = error = _error(squared, h, *_products(blocks, w))
    momentum, most, done = 0.0, 1.0, 0
    while done < updates:
        hh = h_ahead @ h_ahead.T
        wv, ww = h.new_zeros(h.shape, dtype=torch.float64), hh.new_zeros(hh.shape).double()
        start = 0
        for block in blocks:
            rows = slice(start, start + len(block))
            new = step(w_ahead[rows], block @ h_ahead.T, hh)
            w_ahead[rows] = new.lerp(w[rows], -momentum).clamp_min_(0) if momentum else new
            w[rows] = new
            wv += w_ahead[rows].T @ block
            ww += w_ahead[rows].T @ w_ahead[rows]
            start += len(block)
        if not fixed:
            new = step(h_ahead.T.double(), wv.T, ww).T.to(h).contiguous()
            h_ahead = new.lerp(h, -momentum).clamp_min_(0) if momentum else new
            h = new
        done += 1
        last, error = error, _error(squared, h, wv, ww)
        if done % LOOK_EVERY == 1:
            if previous - error < tolerance * first:
                break
            previous = error
        if solver == "hals" and not fixed and done < updates:
            if error > last and momentum:  # too far: go back, and be more careful
                w_ahead.copy_(w)
                h_ahead, most, momentum = h, momentum, momentum / 1.5
            else:
                momentum = min(1.05 * momentum, most) if momentum else 0.5
                most = min(1.01 * most, 1.0)
    return Factors(w_ahead, h, error, done)


def _multiply(x: Tensor, linear: Tensor, quadratic: Tensor) -> Tensor:
    """Return x [m, K] times linear / (x quadratic), which lowers |x|^2_quadratic - 2 x.linear."""
    tiny = torch.finfo(x.dtype).tiny  # a row of zeros is 0 / 0, and stays 0
    return x * linear / (x @ quadratic).clamp_min(tiny)


def _descend(x: Tensor, linear: Tensor, quadratic: Tensor) -> Tensor:
    """Return x [m, K] after sweeps that put each column where it is best, given the others."""
    columns = x.T.clone(memory_format=torch.contiguous_format)  # its own, even of one column
    linear = linear.T.contiguous()
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
