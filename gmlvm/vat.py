r"""Virtual adversarial training: how much q_D(k|x) can change within a small ball around an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gmlvm import distributed
from gmlvm.kl import categorical_kl
from gmlvm.validation import check_number, check_shape

# The direction of the largest change is found by one gradient at this share of the radius.
_PROBE_SHARE = 0.5


class Smoothness(nn.Module):
    r"""A term that keeps q_D(k|x) smooth around the images, as a part that every objective takes.

    It is :func:`gmlvm.vat.virtual_adversarial_kl`, with perturbations that are a share of the distance to the nearest
    other image of the batch, or all of one length.

    Args:
        weight: Factor on the change of q_D, in the objective's unit for a nat, positive.
        share: Length of the perturbation in units of the distance to the nearest other image of the batch
            (:func:`gmlvm.vat.nearest_distance`), positive.
        radius: One length for all images instead, in units of x, positive.

    Raises:
        ValueError: If an argument is out of range.

    Source: Miyato et al. (2019); Hu et al. (2017), section 3.2; chapter "Components that mean digits".
    """

    def __init__(self, weight: float = 1.0, share: float = 0.2, radius: float | None = None) -> None:
        super().__init__()
        self.weight = check_number("weight", weight, exclusive=True)
        self.share = check_number("share", share, exclusive=True)
        self.radius = None if radius is None else check_number("radius", radius, exclusive=True)

    def forward(
        self,
        logits: Callable[[Tensor], Tensor],
        x: Tensor,
        generator: torch.Generator | None = None,
        log_probs: Tensor | None = None,
    ) -> Tensor:
        """The change of q_D under the worst perturbation, without the weight.

        Args:
            logits: Maps images (B, ...) to logits (B, K).
            x: Images, floating point, (B, ...); two or more for a share.
            generator: Source of randomness, on the device of ``x``; torch's global one if left out.
            log_probs: log q_D(k|x) where it is known, (B, K), so that the images go through the network once less.

        Returns:
            Nats, a scalar, mean over the batch.
        """
        radius = self.share * nearest_distance(x) if self.radius is None else self.radius
        return virtual_adversarial_kl(logits, x, radius, generator, log_probs)

    def extra_repr(self) -> str:
        """The settings for ``repr``."""
        length = f"share={self.share}" if self.radius is None else f"radius={self.radius}"
        return f"{self.weight}, {length}"


def nearest_distance(x: Tensor) -> Tensor:
    """Distance of each image to the nearest other one of the batch.

    Args:
        x: Images, floating point, (B, ...), 2 or more. Of several processes each gives its rows, and gets theirs.

    Returns:
        Euclidean distances in units of x, shape (B,); next to nothing where the same image comes twice.

    Raises:
        ValueError: If there is one image alone.

    Example:
        >>> nearest_distance(torch.tensor([[0.0], [1.0], [3.0]]))
        tensor([1., 1., 2.])
    """
    rows, everything = x.flatten(1), distributed.whole_rows(x.flatten(1))
    if len(everything) < 2:
        raise ValueError("a distance to the nearest other image needs 2 images or more, got 1")
    distance = torch.cdist(rows, everything)
    own = torch.arange(len(everything), device=x.device)[distributed.own_rows(len(everything))]
    return distance.scatter(1, own[:, None], torch.inf).amin(1)


def virtual_adversarial_kl(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    radius: float | Tensor = 2.0,
    generator: torch.Generator | None = None,
    log_probs: Tensor | None = None,
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
        radius: Euclidean length of the perturbation, in units of x, positive; or one for each input, (B,), at least
            0.
        generator: Source of randomness, on the device of ``x``; torch's global one if left out.
        log_probs: log q(.|x) where it is known, (B, K), so that x goes through ``logits`` once less.

    Returns:
        Nats, a scalar, mean over the batch, differentiable in the weights behind ``logits``.

    Raises:
        ValueError: If ``radius`` is a number and not positive, or it or ``log_probs`` has another shape.

    Source: Miyato et al. (2019), equations 5 to 13; chapter "Training the GM-WAE".

    Example:
        >>> virtual_adversarial_kl(lambda x: torch.zeros(len(x), 3), torch.rand(5, 2)).item()
        0.0
    """
    if not isinstance(radius, Tensor):
        check_number("radius", radius, exclusive=True)
    with running_statistics_kept(logits):
        target = _held(logits, x) if log_probs is None else log_probs.detach()
        check_shape("log_probs", target, (len(x), None), " (batch, num_components)")
        r = _worst(logits, x, target, radius, generator)
        return categorical_kl(target, logits(x + r).log_softmax(-1)).mean()


def worst_perturbation(
    logits: Callable[[Tensor], Tensor], x: Tensor, radius: float | Tensor, generator: torch.Generator | None = None
) -> Tensor:
    r"""The perturbation of each input that changes a categorical distribution most, to first order.

    Args:
        logits: Maps inputs (B, ...) to logits (B, K).
        x: Inputs, floating point, (B, ...).
        radius: Its Euclidean length: a number, or one for each input, (B,).
        generator: Source of randomness, on the device of ``x``; torch's global one if left out.

    Returns:
        r, of the shape of x, without gradients; zero where nothing changes q.

    Source: Miyato et al. (2019), equations 9 to 13.
    """
    return _worst(logits, x, _held(logits, x), radius, generator)


def _held(logits: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return logits(x).log_softmax(-1)


def _worst(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    radius: float | Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    if isinstance(radius, Tensor):
        radius = check_shape("radius", radius, (len(x),), " (batch,)").view(-1, *[1] * (x.ndim - 1))
    noise = distributed.noise_like(x, generator)
    with torch.enable_grad():
        probe = (radius * _PROBE_SHARE * _direction(noise)).requires_grad_()
        change = categorical_kl(target, logits(x + probe).log_softmax(-1)).sum()
        gradient = torch.zeros_like(x)
        if change.requires_grad:
            (gradient,) = torch.autograd.grad(change, probe, materialize_grads=True)
    return radius * _direction(gradient)


@contextmanager
def running_statistics_kept(logits: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Batch norms use the statistics of their batch but do not remember them: what is perturbed or drawn is no data.

    Args:
        logits: A module, or any function, of which nothing is known.
    """
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
    rows, tiny = vectors.flatten(1), torch.finfo(vectors.dtype).tiny
    # By the largest entry first: where q is nearly certain gradients are so small that their squares are zero.
    rows = rows / rows.abs().amax(1, keepdim=True).clamp_min(tiny)
    directions: Tensor = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(tiny)
    return directions.view_as(vectors)
