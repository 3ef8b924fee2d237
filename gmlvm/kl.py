"""Divergences of Kullback and Leibler in closed form, in nats."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_kl(loc: Tensor, scale: Tensor, prior_loc: Tensor, prior_scale: Tensor) -> Tensor:
    r"""KL divergence between diagonal Gaussians.

    .. math::
        KL = \sum_d \log\frac{s_d}{\sigma_d} + \frac{\sigma_d^2 + (\mu_d - m_d)^2}{2 s_d^2} - \frac12

    Args:
        loc: :math:`\mu`, shape (..., D).
        scale: :math:`\sigma`, shape (..., D), positive.
        prior_loc: :math:`m`, broadcasts to ``loc``.
        prior_scale: :math:`s`, broadcasts to ``loc``, positive.

    Returns:
        Nats, shape (...), summed over D.

    Raises:
        ValueError: If ``loc`` and ``scale`` differ in shape.

    Source: Kingma and Welling (2014), appendix B; chapter "How a VAE collapses".

    Example:
        >>> gaussian_kl(torch.ones(1), torch.ones(1), torch.zeros(1), torch.ones(1)).item()
        0.5
    """
    if loc.shape != scale.shape:
        raise ValueError(f"loc and scale must have the same shape, got {tuple(loc.shape)} and {tuple(scale.shape)}")
    ratio = scale / prior_scale
    distance = (loc - prior_loc) / prior_scale
    # Not the logarithm of the squared ratio, which would underflow.
    return (0.5 * (ratio.square() + distance.square() - 1) - ratio.log()).sum(-1)


def categorical_kl(log_probs: Tensor, prior_log_probs: Tensor) -> Tensor:
    r"""KL divergence between categorical distributions, :math:`\sum_k q_k (\log q_k - \log p_k)`.

    A component of probability zero adds nothing, neither to the value nor to the gradient.

    Args:
        log_probs: :math:`\log q`, normalised, shape (..., K).
        prior_log_probs: :math:`\log p`, normalised, broadcasts to ``log_probs``.

    Returns:
        Nats, shape (...), summed over K.

    Raises:
        ValueError: If the numbers of components differ.

    Source: Cover and Thomas (2006), section 2.3; chapter "How a VAE collapses".

    Example:
        >>> certain, uniform = torch.tensor([0.0, -torch.inf]), torch.tensor([0.5, 0.5]).log()
        >>> round(categorical_kl(certain, uniform).item(), 4)  # log 2
        0.6931
    """
    if log_probs.shape[-1] != prior_log_probs.shape[-1]:
        raise ValueError(
            f"both must have the same number of components, got {log_probs.shape[-1]} and {prior_log_probs.shape[-1]}"
        )
    probs = log_probs.exp()
    # Masked before the product: minus infinity times zero has no value, and no gradient.
    ratio = torch.where(probs == 0, 0, log_probs - prior_log_probs)
    return (probs * ratio).sum(-1)
