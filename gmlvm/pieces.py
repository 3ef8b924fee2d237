"""A sum over rows that is computed for a few of them at a time, where all at once would take too much memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Values that a piece may hold: on a CPU, where small pieces are also faster, and elsewhere, where large ones are.
_CPU, _DEVICE = 2**21, 2**26
# A scalar from some of the rows and all of the others, additive in the rows.
Part = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


def sum_in_pieces(part: Part, rows: Sequence[Tensor], others: Sequence[Tensor], held: float, dim: int = 0) -> Tensor:
    """The sum of ``part(rows, others)`` over pieces of the rows, which are few enough for the values that it holds.

    As the sum is a scalar, the gradient of each piece is taken at once, and nothing of it is kept for the way back. A
    single piece is left to autograd. So are all the rows where ``part`` uses anything else that asks for gradients (a
    kernel of one's own with a parameter): it would get none otherwise.

    Args:
        part: What is summed.
        rows: Tensors with equally many rows.
        others: Tensors that each piece uses whole.
        held: How many values ``part`` would hold in one tensor if it got all rows.
        dim: The axis of the rows.

    Returns:
        A scalar, differentiable once in ``rows`` and ``others``.
    """
    bound = _CPU if rows[0].device.type == "cpu" else _DEVICE
    pieces = min(math.ceil(held / bound), rows[0].shape[dim])
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
        needed = [i for i, tensor in enumerate(tensors) if graded and tensor.requires_grad]
        gradients = {i: torch.zeros_like(tensors[i]) for i in needed}
        total = tensors[0].new_zeros(())
        for first in range(pieces):
            # Every row of so many, as the first rows can have more to do than the last.
            index = (*[slice(None)] * dim, slice(first, None, pieces))
            places = [index if i < count else () for i in range(len(tensors))]
            piece = [
                tensor[place].detach().requires_grad_(i in gradients)
                for i, (tensor, place) in enumerate(zip(tensors, places, strict=True))
            ]
            with torch.set_grad_enabled(bool(needed)):
                value = part(piece[:count], piece[count:])
            total += value.detach()
            if needed:
                found = torch.autograd.grad(value, [piece[i] for i in needed], materialize_grads=True)
                for i, own in zip(needed, found, strict=True):
                    gradients[i][places[i]] += own
        ctx.save_for_backward(*(gradients.get(i) for i in range(len(tensors))))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        own = (None if total is None else gradient * total for total in ctx.saved_tensors)
        return None, None, None, None, None, *own
