"""One batch that several processes share, computed as if one process held all of it.

Each of `world` processes holds an equal share of the batch: process r the samples from r n on, in
the order of the whole. Every process computes a loss of its own, and the training loop averages
their gradients. So a loss that is a mean over samples, or a sum over them divided by their number,
needs nothing of what follows. The rest of the contract:

- Every process draws what the whole batch draws, by the same seed, and keeps the rows of its own
  samples: `own(torch.randn(whole(n), 2))` in place of `torch.randn(n, 2)`. What is drawn once for
  the batch is drawn as ever, and so is the same everywhere.
- A loss that compares samples, sums over the batch, or divides by what its samples hold, reads the
  whole batch: `gathered`, `total`, `averaged`. All processes then compute the loss of the whole.
  These functions pass gradients back to the process that they belong to, so the average over
  processes is the gradient of that loss.
- BatchNorm and Dropout do this by themselves, once `share_layers` was called.

With one process, and outside of training steps, every function returns what it is given.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


class _Share(NamedTuple):
    rank: int
    world: int


_share = _Share(0, 1)


@contextmanager
def shared(rank: int, world: int) -> Iterator[None]:
    """Let the batches in this block be shares of larger ones.

    Args:
        rank: of this process.
        world: number of processes.
    """
    global _share
    before, _share = _share, _Share(rank, world)
    try:
        yield
    finally:
        _share = before


def whole(n: int) -> int:
    """Return the number of samples of all processes, of which this one has n."""
    return n * _share.world


def own(drawn: Tensor, dim: int = 0) -> Tensor:
    """Return what belongs to this process's samples of what was drawn for the whole batch.

    Args:
        drawn: its size along `dim` is `whole` of the share.
        dim: counts samples.
    """
    return drawn if _share.world == 1 else drawn.chunk(_share.world, dim)[_share.rank]


def own_rows(n: int) -> slice:
    """Return the places of this process's n samples in the whole batch."""
    return slice(_share.rank * n, (_share.rank + 1) * n)


def whole_like(x: Tensor) -> Tensor:
    """Return a tensor shaped as that of the whole batch, of which x is a share, for `rand_like`.

    Its order in memory is that of x, since draws fill memory in order. Its values mean nothing.
    """
    return x if _share.world == 1 else torch.cat([x.detach()] * _share.world)


def gathered(x: Tensor) -> Tensor:
    """Return the rows of all processes, [n, ...] -> [whole n, ...], with gradient."""
    return x if _share.world == 1 else _Gathered.apply(x, *_share)


def total(x: Tensor) -> Tensor:
    """Return the sum over the processes, of the shape of x, with gradient."""
    return x if _share.world == 1 else _Total.apply(x)


def averaged(x: Tensor) -> Tensor:
    """Return the mean over the processes, of the shape of x, with gradient."""
    return x if _share.world == 1 else total(x) / _share.world


def share_layers(module: nn.Module) -> None:
    """Let every BatchNorm and Dropout of a module see a shared batch as one.

    The module's structure, parameters and buffers stay as they are. Their kinds that compute
    otherwise, such as AlphaDropout, raise TypeError in a training step.
    """
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.forward = MethodType(_batch_norm, layer)  # type: ignore[method-assign]
        elif isinstance(layer, _DropoutNd):
            layer.forward = MethodType(_dropout, layer)


def _batch_norm(layer: Any, x: Tensor) -> Tensor:
    """Take the place of the forward of a BatchNorm."""
    if _share.world == 1 or not layer.training:
        return type(layer).forward(layer, x)
    _check_computes(layer, _BatchNorm)
    out, mean, var = _Normalised.apply(x, layer.weight, layer.bias, layer.eps)
    if layer.track_running_stats:
        layer.num_batches_tracked.add_(1)
        momentum = layer.momentum
        if momentum is None:
            momentum = 1 / layer.num_batches_tracked
        count = whole(x.numel() // x.shape[1])
        layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), momentum)
        unbiased = (var * (count / max(count - 1, 1))).to(layer.running_var.dtype)
        layer.running_var.lerp_(unbiased, momentum)
    return out


def _dropout(layer: Any, x: Tensor) -> Tensor:
    """Take the place of the forward of a Dropout whose first dimension counts samples."""
    if _share.world == 1 or not layer.training:
        return type(layer).forward(layer, x)
    _check_computes(layer, nn.Dropout)
    ones = torch.ones_like(whole_like(x))
    return x * own(F.dropout(ones, layer.p))


def _check_computes(layer: Any, kind: type[nn.Module]) -> None:
    if type(layer).forward is not kind.forward:
        raise TypeError(f"{type(layer).__name__} does not know batches that processes share")


def _summed(x: Tensor) -> Tensor:
    """Return the sum over the processes, without gradient."""
    x = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x)
    return x


def _stacked(x: Tensor) -> Tensor:
    """Return the values of all processes, [world, ...], without gradient."""
    x = x.detach().contiguous()
    parts = [torch.empty_like(x) for _ in range(_share.world)]
    dist.all_gather(parts, x)
    return torch.stack(parts)


class _Total(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _summed(grad)


class _Gathered(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: int, world: int) -> Tensor:
        ctx.rank, ctx.world = rank, world
        return _stacked(x).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _summed(grad).chunk(ctx.world)[ctx.rank], None, None


class _Normalised(Function):
    """BatchNorm with the mean and the variance of all processes, in float32 or better."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        dims = [d for d in range(x.ndim) if d != 1]
        shape = [-1 if d == 1 else 1 for d in range(x.ndim)]
        wide = x.double() if x.dtype == torch.float64 else x.float()
        count = whole(x.numel() // x.shape[1])
        own_var, own_mean = torch.var_mean(wide, dims, correction=0)
        means, variances = _stacked(torch.stack([own_mean, own_var])).unbind(1)
        mean, var = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        inverse = (var + eps).rsqrt()
        out = (wide - mean.view(shape)) * inverse.view(shape)
        if weight is not None:
            out = out * weight.view(shape)
        if bias is not None:
            out = out + bias.view(shape)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.dims, ctx.shape, ctx.count, ctx.biased = dims, shape, count, bias is not None
        ctx.mark_non_differentiable(mean, var)
        return out.to(x.dtype), mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor | None, Any, None]:
        x, weight, mean, inverse = ctx.saved_tensors
        grad = grad.to(mean.dtype)
        unit = (x.to(mean.dtype) - mean.view(ctx.shape)) * inverse.view(ctx.shape)
        own_sums = torch.stack([grad.sum(ctx.dims), (grad * unit).sum(ctx.dims)])
        of_grad, of_product = (_summed(own_sums) / ctx.count).unbind()
        scale = inverse if weight is None else inverse * weight
        through = grad - of_grad.view(ctx.shape) - unit * of_product.view(ctx.shape)
        of_x = (through * scale.view(ctx.shape)).to(x.dtype)
        of_weight = None if weight is None else own_sums[1].to(weight.dtype)
        return of_x, of_weight, own_sums[0] if ctx.biased else None, None
