r"""The squared MMD between mixtures of diagonal Gaussians, without samples.

Every distribution that the penalty compares is a mixture of diagonal Gaussians, so the expectation of a kernel
over a pair of draws has a closed form. The squared MMD is data-data minus twice data-prior plus prior-prior; each
of the three has a function here, with the same two ways to compare as :func:`gmlvm.mmd.squared_mmd`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gmlvm.kernels import Kernel
from gmlvm.mmd import ON
from gmlvm.pieces import sum_in_pieces
from gmlvm.prior import GaussianMixturePrior
from gmlvm.validation import check_choice, check_positive_int, check_shape

# Nodes of the quadrature, for kernels that need one.
_NODES = 8


def data_data(
    probs: Tensor,
    loc: Tensor,
    scale: Tensor,
    kernel: Kernel,
    on: str = "pairs",
    kept: Tensor | None = None,
) -> Tensor:
    r"""Mean kernel value over pairs of codes of different images, unbiased.

    .. math::
        \frac{1}{B(B-1)} \sum_{i \ne j} \sum_{k, k'} q_{ik} q_{jk'}\, E\, \kappa_{kk'}(z_{ik}, z_{jk'})

    Args:
        probs: q_D(k|x_i), or weights that stand for it, shape (B, K), B at least 2.
        loc: Means of q_C(z|k,x_i), shape (B, K, D).
        scale: Its standard deviations, shape (B, K, D).
        kernel: The kernel on codes.
        on: ``"pairs"`` or ``"codes"``.
        kept: Codes that take part, bool, shape (B, K); the others must have weight zero. All if left out.

    Returns:
        A scalar without unit, differentiable in ``probs``, ``loc`` and ``scale``.

    Raises:
        ValueError: If a shape does not fit, B is below 2, or ``on`` is unknown.

    Source: Gretton et al. (2012), lemma 6; chapter "Speed and sums".
    """
    check_choice("on", on, ON)
    batch = _check_posterior(probs, loc, scale)
    if batch < 2:
        raise ValueError(f"pairs of different images need 2 images or more, got {batch}")
    codes = _codes(probs, loc, scale, kept)

    def part(rows: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        weight, loc, variance, image, component = rows
        other_weight, other_loc, other_variance, other_image, other_component = others
        pairs = image[:, None] < other_image  # (N, N): every pair once, as the kernel is symmetric
        if on == "pairs":
            pairs = pairs & (component[:, None] == other_component)
        first, second = pairs.nonzero(as_tuple=True)  # (P,)
        values = kernel.expected(loc[first] - other_loc[second], variance[first] + other_variance[second], _NODES)
        return (weight[first] * other_weight[second] * values).sum()

    partners = (len(codes.weight) if on == "codes" else batch) / 2  # of each code, on average
    total = sum_in_pieces(part, codes, codes, held=_NODES * codes.loc.numel() * partners)
    return 2 * total / (batch * (batch - 1))


def data_prior(
    probs: Tensor,
    loc: Tensor,
    scale: Tensor,
    prior: GaussianMixturePrior,
    kernel: Kernel,
    on: str = "pairs",
    kept: Tensor | None = None,
) -> Tensor:
    r"""Mean kernel value over pairs of a code and a draw from the prior.

    .. math:: \frac{1}{B} \sum_i \sum_{k, k'} q_{ik}\, p_{k'}\, E\, \kappa_{kk'}(z_{ik}, y_{k'})

    Args:
        probs: q_D(k|x_i), or weights that stand for it, shape (B, K).
        loc: Means of q_C(z|k,x_i), shape (B, K, D).
        scale: Its standard deviations, shape (B, K, D).
        prior: The prior, of the same K and D.
        kernel: The kernel on codes.
        on: ``"pairs"`` or ``"codes"``.
        kept: Codes that take part, bool, shape (B, K); the others must have weight zero. All if left out.

    Returns:
        A scalar without unit, differentiable in ``probs``, ``loc`` and ``scale``.

    Raises:
        ValueError: If a shape does not fit or ``on`` is unknown.

    Source: Gretton et al. (2012), lemma 6; chapter "Speed and sums".
    """
    check_choice("on", on, ON)
    batch = _check_posterior(probs, loc, scale)
    check_shape("loc", loc, (batch, prior.num_components, prior.latent_dim), " (batch, num_components, latent_dim)")
    codes = _codes(probs, loc, scale, kept)
    return _kernel_sum(codes.weight, codes.loc, codes.variance, codes.component, prior, kernel, on) / batch


def prior_prior(prior: GaussianMixturePrior, kernel: Kernel, on: str = "pairs", nodes: int = _NODES) -> Tensor:
    r"""Mean kernel value over independent pairs of draws from the prior, a constant.

    .. math:: \sum_{k, k'} p_k\, p_{k'}\, E\, \kappa_{kk'}(y_k, y'_{k'})

    Args:
        prior: The prior.
        kernel: The kernel on codes.
        on: ``"pairs"`` or ``"codes"``.
        nodes: Nodes of the quadrature; see :meth:`gmlvm.kernels.Kernel.expected`.

    Returns:
        A scalar without unit.

    Raises:
        ValueError: If ``on`` is unknown or ``nodes`` is below 1.

    Source: Gretton et al. (2012), lemma 6; chapter "Speed and sums".
    """
    check_choice("on", on, ON)
    check_positive_int("nodes", nodes)
    component = torch.arange(prior.num_components, device=prior.loc.device)
    return _kernel_sum(prior.probs, prior.loc, prior.scale.square(), component, prior, kernel, on, nodes)


def _check_posterior(probs: Tensor, loc: Tensor, scale: Tensor) -> int:
    """The batch size, if the shapes of a posterior fit together."""
    check_shape("loc", loc, (None, None, None), " (batch, num_components, latent_dim)")
    check_shape("scale", scale, tuple(loc.shape), " (batch, num_components, latent_dim)")
    check_shape("probs", probs, tuple(loc.shape[:2]), " (batch, num_components)")
    return len(loc)


class _Codes(NamedTuple):
    """The N codes that take part.

    Attributes:
        weight: Weights, (N,).
        loc: Means, (N, D).
        variance: Variances, (N, D).
        image: The image that each belongs to, (N,).
        component: Its component, (N,).
    """

    weight: Tensor
    loc: Tensor
    variance: Tensor
    image: Tensor
    component: Tensor


def _codes(probs: Tensor, loc: Tensor, scale: Tensor, kept: Tensor | None) -> _Codes:
    if kept is None:
        kept = torch.ones_like(probs, dtype=torch.bool)
    check_shape("kept", kept, tuple(probs.shape), " (batch, num_components)")
    image, component = kept.nonzero(as_tuple=True)
    return _Codes(probs[image, component], loc[image, component], scale[image, component].square(), image, component)


def _kernel_sum(
    weight: Tensor,
    loc: Tensor,
    variance: Tensor,
    component: Tensor,
    prior: GaussianMixturePrior,
    kernel: Kernel,
    on: str,
    nodes: int = _NODES,
) -> Tensor:
    """Sum over N Gaussians and the prior's components of both weights and the expected kernel."""

    def part(rows: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        (weight, loc, variance, component), (prior_weight, prior_loc, prior_variance) = rows, others
        if on == "pairs":  # each with its own component alone
            values = kernel.expected(loc - prior_loc[component], variance + prior_variance[component], nodes)  # (N,)
            return (weight * prior_weight[component] * values).sum()
        difference = loc.unsqueeze(1) - prior_loc  # (N, K, D)
        values = kernel.expected(difference, variance.unsqueeze(1) + prior_variance, nodes)  # (N, K)
        return weight @ values @ prior_weight

    partners = prior.num_components if on == "codes" else 1
    rows, others = (weight, loc, variance, component), (prior.probs, prior.loc, prior.scale.square())
    return sum_in_pieces(part, rows, others, held=nodes * loc.numel() * partners)
