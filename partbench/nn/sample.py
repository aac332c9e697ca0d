"""A uniform sample of rows that arrive block by block."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

SPARE = 64
"""Rows beside the n for which there is room at first: those as low as the highest of the n."""
COLUMNS = 16
"""Parts in which rows are brought into order, so that there is no second copy of all."""


def sample_rows(blocks: Iterable[Tensor], n: int) -> Tensor:
    """Return n rows drawn uniformly from blocks [m_i, C], or all if there are fewer, on the CPU.

    Each row draws a number from torch's global generator, and those with the lowest are kept. There
    is room for little more than n rows: one that is among the lowest takes the place of another
    that is not. Their order is that of arrival, or, once rows were left out, that of the numbers.
    """
    rows = torch.empty(0)
    numbers, places = torch.empty(0), torch.empty(0, dtype=torch.long)
    """Of the candidates, and where in `rows` each is; -1: its place was taken."""
    limit = math.inf
    """No row with a higher number is among the n lowest."""
    for block in blocks:
        if not len(rows):
            rows = torch.empty((n + SPARE, *block.shape[1:]), dtype=block.dtype)
        drawn = torch.rand(len(block))
        low = (drawn <= limit).nonzero().flatten()
        fresh = torch.full((len(low),), -1)
        numbers, places = torch.cat([numbers, drawn[low]]), torch.cat([places, fresh])
        new = torch.arange(len(numbers)) >= len(numbers) - len(low)
        kept = numbers <= (numbers.kthvalue(n).values if len(numbers) > n else math.inf)
        places[~kept] = -1
        arriving = kept & new
        free = torch.ones(len(rows), dtype=torch.bool)
        free[places[kept & ~new]] = False
        if (lacking := int(arriving.sum() - free.sum())) > 0:
            rows = torch.cat([rows, rows.new_empty((lacking, *rows.shape[1:]))])
            free = torch.cat([free, torch.ones(lacking, dtype=torch.bool)])
        places[arriving] = free.nonzero().flatten()[: int(arriving.sum())]
        rows[places[arriving]] = block[low[arriving[new]].to(block.device)].cpu()
        if len(numbers) > 2 * n:
            numbers, places = _lowest(numbers, places, n)
            limit = numbers[-1].item()
    if len(numbers) > n:
        numbers, places = _lowest(numbers, places, n)
    for part in rows.tensor_split(COLUMNS, 1) if len(places) else ():
        part[: len(places)] = part[places]
    return rows[: len(places)]


def _lowest(numbers: Tensor, places: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the n lowest numbers, ascending, and their places."""
    values, which = numbers.topk(n, largest=False)
    return values, places[which]
