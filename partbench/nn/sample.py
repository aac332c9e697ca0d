"""A uniform sample of rows that arrive block by block."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def sample_rows(blocks: Iterable[Tensor], n: int) -> Tensor:
    """Return n rows drawn uniformly from blocks [m_i, C], or all if there are fewer, on the CPU.

    Each row draws a number from torch's global generator, and those with the lowest are kept.
    """
    rows: list[Tensor] = []
    numbers: list[Tensor] = []
    limit = math.inf
    """No row with a higher number is among the n lowest."""
    for block in blocks:
        drawn = torch.rand(len(block))
        low = drawn <= limit
        rows.append(block[low.to(block.device)].cpu())
        numbers.append(drawn[low])
        if sum(map(len, rows)) > 2 * n:
            rows, numbers = _lowest(rows, numbers, n)
            limit = numbers[0][-1].item()
    if sum(map(len, rows)) > n:
        rows, numbers = _lowest(rows, numbers, n)
    return torch.cat(rows) if rows else torch.empty(0)


def _lowest(rows: list[Tensor], numbers: list[Tensor], n: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the n rows with the lowest numbers, in the order of these."""
    values, places = torch.cat(numbers).topk(n, largest=False)
    return [torch.cat(rows)[places]], [values]
