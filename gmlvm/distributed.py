"""Several processes that share one batch: each holds its rows, and all draw the same random numbers.

With one process every function here gives back what it got.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from gmlvm.posterior import Posterior


def world_size() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if world_size() > 1 else 0


def own_rows(count: int) -> slice:
    """Rows of a whole batch that this process holds.

    Args:
        count: Images of the whole batch.

    Raises:
        ValueError: If the processes cannot share them evenly.
    """
    share, rest = divmod(count, world_size())
    if rest:
        raise ValueError(f"{world_size()} processes must share a batch evenly, got {count} images")
    return slice(rank() * share, (rank() + 1) * share)


def whole_batch(posterior: Posterior) -> Posterior:
    """The posteriors of the whole batch from those of each process's rows.

    Differentiable: the gradient of every process's loss comes back to the rows that it concerns, so that the mean over
    processes, which training takes, is the gradient of one process with the whole batch.

    Args:
        posterior: Posteriors of this process's rows, as many as every other process has.

    Returns:
        Posteriors of all rows, in the order of the processes.
    """
    if world_size() == 1:
        return posterior
    return replace(posterior, **{name: whole_rows(getattr(posterior, name)) for name in ("logits", "loc", "scale")})


def whole_rows(x: Tensor) -> Tensor:
    """Rows of the whole batch from those of each process; differentiable as :func:`whole_batch` is."""
    if world_size() == 1:
        return x
    rows: Tensor = _Gather.apply(x)
    return rows


def noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of the shape of ``x``: this process's rows of what one process would draw."""
    count = len(x) * world_size()
    noise = torch.randn((count, *x.shape[1:]), generator=generator, device=x.device, dtype=x.dtype)
    return noise[own_rows(count)]


class _Gather(torch.autograd.Function):
    """All processes' rows; on the way back, the sum of what all of them ask of this process's rows.

    torch.distributed.nn has the same, but permutes gradients that are not contiguous.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total[own_rows(len(total))]
