"""A sum over rows that is computed for a few of them at a time, where all at once would take too much memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Values that are held at once on a CPU, where smaller pieces are also faster, and elsewhere, where larger ones are.
_HELD, _HELD_ON_DEVICE = 2**21, 2**26


class Part(Protocol):
    """A scalar from some of the rows and all of the others, additive in the rows."""

    def __call__(self, rows: Sequence[Tensor], others: Sequence[Tensor], /) -> Tensor: ...


def sum_in_pieces(part: Part, rows: Sequence[Tensor], others: Sequence[Tensor], values: float, dim: int = 0) -> Tensor:
    """The sum of ``part(rows, others)`` over pieces of the rows, which are few enough for the values that it holds.

    As the sum is a scalar, the gradient of each piece is taken at once, and nothing of it is kept for the way back. A
    single piece is left to autograd. So are all the rows where ``part`` uses anything else that asks for gradients (a
    kernel of one's own with a parameter): it would get none otherwise.

    Args:
        part: What is summed.
        rows: Tensors with equally many rows.
        others: Tensors that each piece uses whole.
        values: How many values ``part`` holds at once if it gets all rows.
        dim: The axis of the rows.

    Returns:
        A scalar, differentiable once in ``rows`` and ``others``.
    """
    held = _HELD if rows[0].device.type == "cpu" else _HELD_ON_DEVICE
    pieces = min(math.ceil(values / held), rows[0].shape[dim])
    if pieces <= 1 or (torch.is_grad_enabled() and _asks_for_more(part, [t.narrow(dim, 0, 1) for t in rows], others)):
        return part(rows, others)
    total: Tensor = _SumInPieces.apply(part, pieces, dim, len(rows), torch.is_grad_enabled(), *rows, *others)
    return total


def _asks_for_more(part: Part, row: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return part([tensor.detach() for tensor in row], [tensor.detach() for tensor in others]).requires_grad


class _SumInPieces(torch.autograd.Function):
    """The sum and, in the same pass, its gradients."""

    @staticmethod
    def forward(ctx: Any, part: Part, pieces: int, dim: int, count: int, graded: bool, *tensors: Tensor) -> Tensor:
        total = tensors[0].new_zeros(())
        needed = [graded and tensor.requires_grad for tensor in tensors]
        gradients = [torch.zeros_like(tensor) if need else None for tensor, need in zip(tensors, needed, strict=True)]
        for i in range(pieces):
            # Every row of so many, as the first rows can have more to do than the last.
            index = (*[slice(None)] * dim, slice(i, None, pieces))
            places = [index if n < count else ... for n in range(len(tensors))]
            piece = [t[p].detach().requires_grad_(need) for t, p, need in zip(tensors, places, needed, strict=True)]
            with torch.set_grad_enabled(any(needed)):
                value = part(piece[:count], piece[count:])
            total += value.detach()
            if any(needed):
                found = torch.autograd.grad(value, [t for t in piece if t.requires_grad], materialize_grads=True)
                for k, own in zip((k for k, need in enumerate(needed) if need), found, strict=True):
                    gradients[k][places[k]] += own
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (*[None] * 5, *(None if own is None else gradient * own for own in ctx.saved_tensors))
