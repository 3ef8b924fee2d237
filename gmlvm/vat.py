r"""Virtual adversarial training: how much q_D(k|x) can change within a small ball around an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gmlvm import distributed
from gmlvm.kl import categorical_kl
from gmlvm.validation import check_number

# The direction of the largest change is found by one gradient at this share of the radius.
_PROBE_SHARE = 0.5


def virtual_adversarial_kl(
    logits: Callable[[Tensor], Tensor], x: Tensor, radius: float = 2.0, generator: torch.Generator | None = None
) -> Tensor:
    r"""Change of a categorical distribution under the worst perturbation of its input.

    .. math::
        KL\big(q(\cdot|x) \,\|\, q(\cdot|x + r)\big), \qquad
        r \approx \arg\max_{\lVert r \rVert \le \text{radius}} KL\big(q(\cdot|x) \,\|\, q(\cdot|x + r)\big)

    Small for a q that draws its borders where there are no data. The direction of r is that of one gradient,
    taken at a random point of the ball; q(.|x) itself is held fixed, as a target.

    Args:
        logits: Maps inputs (B, ...) to logits (B, K).
        x: Inputs, floating point, (B, ...).
        radius: Euclidean length of the perturbation, in units of x, positive.
        generator: Source of randomness, on the device of ``x``; torch's global one if left out.

    Returns:
        Nats, a scalar, mean over the batch, differentiable in the weights behind ``logits``.

    Raises:
        ValueError: If ``radius`` is not positive.

    Source: Miyato et al. (2019), equations 5 to 13; chapter "Training the GM-WAE".

    Example:
        >>> virtual_adversarial_kl(lambda x: torch.zeros(len(x), 3), torch.rand(5, 2)).item()
        0.0
    """
    check_number("radius", radius, exclusive=True)
    with _running_statistics_kept(logits):
        return _change(logits, x, radius, generator)


def _change(logits: Callable[[Tensor], Tensor], x: Tensor, radius: float, generator: torch.Generator | None) -> Tensor:
    with torch.no_grad():
        target = logits(x).log_softmax(-1)
    noise = distributed.noise_like(x, generator)
    with torch.enable_grad():
        probe = (radius * _PROBE_SHARE * _direction(noise)).requires_grad_()
        change = categorical_kl(target, logits(x + probe).log_softmax(-1)).sum()
        gradient = torch.zeros_like(x)
        if change.requires_grad:
            (gradient,) = torch.autograd.grad(change, probe, materialize_grads=True)
    return categorical_kl(target, logits(x + radius * _direction(gradient)).log_softmax(-1)).mean()


@contextmanager
def _running_statistics_kept(logits: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Batch norms use the statistics of their batch but do not remember them: perturbed images are not data."""
    modules = logits.modules() if isinstance(logits, nn.Module) else ()
    norms: list[Any] = [
        module for module in modules if getattr(module, "track_running_stats", False) and module.training
    ]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _direction(vectors: Tensor) -> Tensor:
    """Each of (B, ...) with Euclidean length one; zero stays zero."""
    length: Tensor = vectors.flatten(1).norm(dim=1).clamp_min(torch.finfo(vectors.dtype).tiny)
    return vectors / length.view(-1, *[1] * (vectors.ndim - 1))
