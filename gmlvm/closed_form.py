r"""The squared MMD between mixtures of diagonal Gaussians, without samples.

Every distribution that the penalty compares is a mixture of diagonal Gaussians, so the expectation of a kernel
over a pair of draws has a closed form. The squared MMD is data-data minus twice data-prior plus prior-prior; each
of the three has a function here, with the same two ways to compare as :func:`gmlvm.divergences.squared_mmd`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmlvm.divergences import DIVERGENCES, InverseMultiquadratic
from gmlvm.prior import GaussianMixturePrior
from gmlvm.validation import check_choice, check_positive_int, check_shape


def expected_kernel(kernel: InverseMultiquadratic, difference: Tensor, variance: Tensor, nodes: int = 8) -> Tensor:
    r"""Expectation of the kernel over a pair of independent Gaussian draws.

    From :math:`C / (C + r^2) = \int_0^\infty e^{-t (1 + r^2 / C)}\, dt`,

    .. math::
        E\, \frac{C}{C + \lVert a - b \rVert^2} = \int_0^\infty e^{-t} \prod_d
        \Big(1 + \frac{2 t v_d}{C}\Big)^{-1/2} \exp\Big(-\frac{t \Delta_d^2}{C + 2 t v_d}\Big)\, dt

    for :math:`a - b \sim N(\Delta, \operatorname{diag} v)`. The integral is taken by Gauss-Laguerre quadrature in
    :math:`u = t\, (1 + E \lVert a - b \rVert^2 / C)`, in which it is exact for vanishing variance.

    Args:
        kernel: The kernel, a sum over constants C.
        difference: :math:`\Delta`, the difference of the means, shape (..., D).
        variance: v, the sum of the variances, broadcasts to ``difference``, at least 0.
        nodes: Nodes of the quadrature, at least 1. For C down to a fifteenth of the mean squared distance eight
            give an error below 1e-4 in nine dimensions of similar variance (four, below 1e-3), and below 2e-2 in
            one dimension or where one has all of the variance.

    Returns:
        The expectation, shape (...), without unit.

    Raises:
        ValueError: If ``nodes`` is below 1.

    Source: Abramowitz and Stegun (1964), 25.4.45, for the quadrature.

    Example:
        >>> zero = torch.zeros(1)
        >>> round(expected_kernel(InverseMultiquadratic([1.0, 3.0]), zero, zero).item(), 4)  # without noise: kernel(0)
        2.0
    """
    check_positive_int("nodes", nodes)
    points, log_weights = (difference.new_tensor(values) for values in _quadrature(nodes))  # (Q,)
    squared = difference.square()
    mean_squared_distance = (squared + variance).sum(-1, keepdim=True)  # (..., 1)
    squared, variance = squared.unsqueeze(-2), variance.unsqueeze(-2)  # (..., 1, D)
    total = torch.zeros_like(mean_squared_distance.squeeze(-1))
    for constant in kernel.constants:
        rate = 1 + mean_squared_distance / constant  # (..., 1)
        t = points / rate  # (..., Q)
        spread = (2 / constant) * t.unsqueeze(-1) * variance  # (..., Q, D)
        exponent = ((t / constant).unsqueeze(-1) * squared / (1 + spread) + 0.5 * spread.log1p()).sum(-1)
        total = total + ((log_weights - t - exponent).exp().sum(-1) / rate.squeeze(-1))
    return total


def _quadrature(nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes u and, in logs for fear of overflow, weights of the integral over u without the factor exp(-u): (Q,)."""
    points, weights = np.polynomial.laguerre.laggauss(nodes)
    return points, np.log(weights) + points


def data_data(
    probs: Tensor,
    loc: Tensor,
    scale: Tensor,
    kernel: InverseMultiquadratic,
    divergence: str = "joint",
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
        divergence: ``"joint"`` or ``"marginal"``.
        kept: Codes that take part, bool, shape (B, K); the others must have weight zero. All if left out.

    Returns:
        A scalar without unit, differentiable in ``probs``, ``loc`` and ``scale``.

    Raises:
        ValueError: If a shape does not fit, B is below 2, or ``divergence`` is unknown.

    Source: Gretton et al. (2012), lemma 6; chapter "A sum that costs what it uses".
    """
    check_choice("divergence", divergence, DIVERGENCES)
    batch = _check_posterior(probs, loc, scale)
    if batch < 2:
        raise ValueError(f"pairs of different images need 2 images or more, got {batch}")
    image, component = _places(probs, kept)  # (N,)
    pairs = image[:, None] < image  # (N, N): every pair once, as the kernel is symmetric
    if divergence == "joint":
        pairs = pairs & (component[:, None] == component)
    first, second = pairs.nonzero(as_tuple=True)  # (P,)
    weight, loc, variance = probs[image, component], loc[image, component], scale[image, component].square()
    values = expected_kernel(kernel, loc[first] - loc[second], variance[first] + variance[second])
    return 2 * (weight[first] * weight[second] * values).sum() / (batch * (batch - 1))


def data_prior(
    probs: Tensor,
    loc: Tensor,
    scale: Tensor,
    prior: GaussianMixturePrior,
    kernel: InverseMultiquadratic,
    divergence: str = "joint",
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
        divergence: ``"joint"`` or ``"marginal"``.
        kept: Codes that take part, bool, shape (B, K); the others must have weight zero. All if left out.

    Returns:
        A scalar without unit, differentiable in ``probs``, ``loc`` and ``scale``.

    Raises:
        ValueError: If a shape does not fit or ``divergence`` is unknown.

    Source: Gretton et al. (2012), lemma 6; chapter "A sum that costs what it uses".
    """
    check_choice("divergence", divergence, DIVERGENCES)
    batch = _check_posterior(probs, loc, scale)
    check_shape("loc", loc, (batch, prior.num_components, prior.latent_dim), " (batch, num_components, latent_dim)")
    image, component = _places(probs, kept)  # (N,)
    weight, loc, variance = probs[image, component], loc[image, component], scale[image, component].square()
    if divergence == "joint":
        values = expected_kernel(kernel, loc - prior.loc[component], variance + prior.scale[component].square())
        return (weight * prior.probs[component] * values).sum() / batch
    difference = loc.unsqueeze(1) - prior.loc  # (N, K, D)
    values = expected_kernel(kernel, difference, variance.unsqueeze(1) + prior.scale.square())  # (N, K)
    return weight @ values @ prior.probs / batch


def prior_prior(
    prior: GaussianMixturePrior, kernel: InverseMultiquadratic, divergence: str = "joint", nodes: int = 8
) -> Tensor:
    r"""Mean kernel value over independent pairs of draws from the prior, a constant.

    .. math:: \sum_{k, k'} p_k\, p_{k'}\, E\, \kappa_{kk'}(y_k, y'_{k'})

    Args:
        prior: The prior.
        kernel: The kernel on codes.
        divergence: ``"joint"`` or ``"marginal"``.
        nodes: Nodes of the quadrature; see :func:`expected_kernel`.

    Returns:
        A scalar without unit.

    Raises:
        ValueError: If ``divergence`` is unknown or ``nodes`` is below 1.

    Source: Gretton et al. (2012), lemma 6; chapter "A sum that costs what it uses".
    """
    check_choice("divergence", divergence, DIVERGENCES)
    variance = prior.scale.square()
    if divergence == "joint":
        values = expected_kernel(kernel, torch.zeros_like(variance), 2 * variance, nodes)  # (K,)
        return (prior.probs.square() * values).sum()
    difference = prior.loc[:, None] - prior.loc  # (K, K, D)
    values = expected_kernel(kernel, difference, variance[:, None] + variance, nodes)  # (K, K)
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
