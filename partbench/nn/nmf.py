"""Non-negative matrix factorisation of a tall matrix that is read block by block.

V [n, C] is approximated by W [n, K] times H [K, C], all of them at least 0, so that the squared
Frobenius norm of V - W H is small. n is large, C is in the hundreds and K is small, so reading V
takes most of the time. Every update therefore reads V once: it computes both products of a block
while the block is in the cache, and the error from those products.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Solver = Literal["multiplicative", "hals"]
SWEEPS = 3
"""Sweeps of coordinate descent over each factor per reading of V."""
CHECK_EVERY = 10
"""Updates from one check of the error to the next."""


class Factors(NamedTuple):
    """The result of a factorisation."""

    w: Tensor
    """[n, K]."""
    h: Tensor
    """[K, C]."""
    error: float
    """Frobenius norm of V - W H."""
    updates: int
    """Number of updates made."""


def initial(blocks: Sequence[Tensor], factors: int) -> tuple[Tensor, Tensor]:
    """Draw the first W [n, K] and H [K, C]: |N(0, 1)| sqrt(mean of V / K).

    The draws come from torch's CPU generator, W before H, so that they are the same on any device.
    """
    rows, width = sum(len(block) for block in blocks), blocks[0].shape[1]
    total = math.fsum(block.double().sum().item() for block in blocks)
    scale = math.sqrt(total / (rows * width) / factors)
    w, h = torch.randn(rows, factors).abs() * scale, torch.randn(factors, width).abs() * scale
    return w.to(blocks[0]), h.to(blocks[0])


def ahead(blocks: Sequence[Tensor], w: Tensor, h: Tensor, every: int = 16) -> Tensor:
    """Return an H [K, C] to start from, fitted by `hals` to every `every`-th block only.

    A small share of many rows determines H almost completely. If that share is fewer than two
    blocks, the given H is returned. The other arguments are those of `factorise`.
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
    """Factorise V, starting from W and H.

    The order of the updates is that published for Deep Feature Factorization. An update computes
    W, then H with the new W. After updates 1, 11, 21, ... the error is checked. Updates stop when
    the error has fallen, since the previous check, by less than `tolerance` times the first error.

    Args:
        blocks: the rows of V in blocks [n_i, C], not negative, float32 or float64.
        w: the W to start from, [n, K], not negative.
        h: the H to start from, [K, C], not negative.
        updates: largest number of updates.
        tolerance: see above; 0 stops early only if the error has risen since the previous check.
        solver: `multiplicative` is the published solver (Lee and Seung, NIPS 2000); a factor that
            is 0 stays 0. `hals` is exact coordinate descent on the columns of W and the rows of H,
            with several sweeps per reading of V (Gillis and Glineur, Neural Computation 2012). It
            extrapolates with a momentum that falls whenever the error has risen (Ang and Gillis,
            Neural Computation 2019), and reaches the same error with fewer readings.
        fixed: keep H as it is; each row of W is then a problem of its own.

    Returns:
        Factors in new tensors. Sums over rows are accumulated in float64 from block to block.
    """
    step = _multiply if solver == "multiplicative" else _descend
    w, h = w.clone(), h.clone()
    w_ahead, h_ahead = w.clone(), h
    squared = math.fsum(block.double().square().sum().item() for block in blocks)
    first_error = checked_error = error = _error(squared, h, *_products(blocks, w))
    momentum, momentum_limit, count = 0.0, 1.0, 0
    while count < updates:
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
        count += 1
        previous_error, error = error, _error(squared, h, wv, ww)
        if count % CHECK_EVERY == 1:
            if checked_error - error < tolerance * first_error:
                break
            checked_error = error
        if solver == "hals" and not fixed and count < updates:
            if error > previous_error and momentum:  # a step too far: undo it, lower the momentum
                w_ahead.copy_(w)
                h_ahead, momentum_limit, momentum = h, momentum, momentum / 1.5
            else:
                momentum = min(1.05 * momentum, momentum_limit) if momentum else 0.5
                momentum_limit = min(1.01 * momentum_limit, 1.0)
    return Factors(w_ahead, h, error, count)


def _multiply(x: Tensor, linear: Tensor, quadratic: Tensor) -> Tensor:
    """Return x [m, K] times linear / (x quadratic), which lowers |x|^2_quadratic - 2 x.linear."""
    tiny = torch.finfo(x.dtype).tiny  # without it, a row of zeros would be 0 / 0
    return x * linear / (x @ quadratic).clamp_min(tiny)


def _descend(x: Tensor, linear: Tensor, quadratic: Tensor) -> Tensor:
    """Return x [m, K] after sweeps that set each column to its optimum given the others."""
    columns = x.T.clone(memory_format=torch.contiguous_format)  # a copy even of a single column
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
    for block, rows in zip(blocks, w.split([len(block) for block in blocks]), strict=True):
        wv += rows.T @ block
        ww += rows.T @ rows
    return wv, ww


def _error(squared: float, h: Tensor, wv: Tensor, ww: Tensor) -> float:
    """Return |V - W H| from |V|^2, W^T V and W^T W; a square that rounds below 0 counts as 0."""
    h = h.double()
    return math.sqrt(max(squared - 2 * (wv * h).sum().item() + (ww * (h @ h.T)).sum().item(), 0))
