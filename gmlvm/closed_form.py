r"""The squared MMD between mixtures of diagonal Gaussians, without samples.

Every distribution that the penalty compares is a mixture of diagonal Gaussians, so the expectation of a kernel
over a pair of draws has a closed form. The squared MMD is data-data minus twice data-prior plus prior-prior; each
of the three has a function here, with the same two ways to compare as :func:`gmlvm.mmd.squared_mmd`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gmlvm.kernels import Kernel
from gmlvm.mmd import ON, sum_in_pieces
from gmlvm.prior import GaussianMixturePrior
from gmlvm.validation import check_choice, check_shape


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

    Source: Gretton et al. (2012), lemma 6; chapter "A sum that costs what it uses".
    """
    check_choice("on", on, ON)
    batch = _check_posterior(probs, loc, scale)
    if batch < 2:
        raise ValueError(f"pairs of different images need 2 images or more, got {batch}")
    image, component = _places(probs, kept)  # (N,)
    pairs = image[:, None] < image  # (N, N): every pair once, as the kernel is symmetric
    if on == "pairs":
        pairs = pairs & (component[:, None] == component)
    first, second = pairs.nonzero(as_tuple=True)  # (P,)
    weight, loc, variance = probs[image, component], loc[image, component], scale[image, component].square()
    values = kernel.expected(loc[first] - loc[second], variance[first] + variance[second])
    return 2 * (weight[first] * weight[second] * values).sum() / (batch * (batch - 1))


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

    Source: Gretton et al. (2012), lemma 6; chapter "A sum that costs what it uses".
    """
    check_choice("on", on, ON)
    batch = _check_posterior(probs, loc, scale)
    check_shape("loc", loc, (batch, prior.num_components, prior.latent_dim), " (batch, num_components, latent_dim)")
    image, component = _places(probs, kept)  # (N,)
    weight, loc, variance = probs[image, component], loc[image, component], scale[image, component].square()
    if on == "pairs":
        values = kernel.expected(loc - prior.loc[component], variance + prior.scale[component].square())
        return (weight * prior.probs[component] * values).sum() / batch
    difference = loc.unsqueeze(1) - prior.loc  # (N, K, D)
    values = kernel.expected(difference, variance.unsqueeze(1) + prior.scale.square())  # (N, K)
    return weight @ values @ prior.probs / batch


def prior_prior(prior: GaussianMixturePrior, kernel: Kernel, on: str = "pairs", nodes: int = 8) -> Tensor:
    r"""Mean kernel value over independent pairs of draws from the prior, a constant.

    .. math:: \sum_{k, k'} p_k\, p_{k'}\, E\, \kappa_{kk'}(y_k, y'_{k'})

    Args:
        prior: The prior.
        kernel: The kernel on codes.
        on: ``"pairs"`` or ``"codes"``.
        nodes: Nodes of the quadrature; see :func:`expected_kernel`.

    Returns:
        A scalar without unit.

    Raises:
        ValueError: If ``on`` is unknown or ``nodes`` is below 1.

    Source: Gretton et al. (2012), lemma 6; chapter "A sum that costs what it uses".
    """
    check_choice("on", on, ON)
    variance = prior.scale.square()
    if on == "pairs":
        values = kernel.expected(torch.zeros_like(variance), 2 * variance, nodes)  # (K,)
        return (prior.probs.square() * values).sum()
    difference = prior.loc[:, None] - prior.loc  # (K, K, D)
    values = kernel.expected(difference, variance[:, None] + variance, nodes)  # (K, K)
    return prior.probs @ values @ prior.probs


def _check_posterior(probs: Tensor, loc: Tensor, scale: Tensor) -> int:
    """The batch size, if the shapes of a posterior fit together."""
    check_shape("loc", loc, (None, None, None), " (batch, num_components, latent_dim)")
    check_shape("scale", scale, tuple(loc.shape), " (batch, num_components, latent_dim)")
    check_shape("probs", probs, tuple(loc.shape[:2]), " (batch, num_components)")
    return len(loc)


def _places(probs: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """Image and component of each code that takes part, (N,) each."""
    if kept is None:
        kept = torch.ones_like(probs, dtype=torch.bool)
    check_shape("kept", kept, tuple(probs.shape), " (batch, num_components)")
    image, component = kept.nonzero(as_tuple=True)
    return image, component
