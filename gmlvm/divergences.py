r"""Divergences between distributions: closed-form KL terms, and the squared MMD estimated from samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gmlvm.prior import GaussianMixturePrior
from gmlvm.validation import check_choice, check_number, check_shape

DIVERGENCES = ("joint", "marginal")
# Kernel constants in units of the mean squared distance between two codes of one prior component. Wider than the
# original's (0.1 to 10): wide kernels see a component's mean and variance from afar.
DEFAULT_FACTORS = (0.8, 2.4, 8.0, 24.0, 80.0)


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

    Source: Kingma and Welling (2014), appendix B; chapter "Training the GM-WAE".

    Example:
        >>> gaussian_kl(torch.ones(1), torch.ones(1), torch.zeros(1), torch.ones(1)).item()
        0.5
    """
    if loc.shape != scale.shape:
        raise ValueError(f"loc and scale must have the same shape, got {tuple(loc.shape)} and {tuple(scale.shape)}")
    ratio = (scale / prior_scale).square()
    distance = ((loc - prior_loc) / prior_scale).square()
    return 0.5 * (ratio + distance - 1 - ratio.log()).sum(-1)


def categorical_kl(log_probs: Tensor, prior_log_probs: Tensor) -> Tensor:
    r"""KL divergence between categorical distributions, :math:`\sum_k q_k (\log q_k - \log p_k)`.

    Args:
        log_probs: :math:`\log q`, normalised, shape (..., K).
        prior_log_probs: :math:`\log p`, normalised, broadcasts to ``log_probs``.

    Returns:
        Nats, shape (...), summed over K.

    Raises:
        ValueError: If the numbers of components differ.

    Source: Cover and Thomas (2006), section 2.3; chapter "Training the GM-WAE".

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
    # A component of probability zero adds nothing, though its log is minus infinity.
    return torch.where(probs > 0, probs * (log_probs - prior_log_probs), torch.zeros_like(probs)).sum(-1)


@dataclass(frozen=True)
class InverseMultiquadratic:
    r"""Sum of inverse multiquadratic kernels, :math:`\kappa(a, b) = \sum_s C_s / (C_s + \lVert a - b \rVert^2)`.

    Its tails are heavy, so codes far from the prior still feel a pull.

    Args:
        constants: The :math:`C_s`, in squared units of z, at least one, positive.

    Raises:
        ValueError: If there is no constant, or one is not positive.

    Source: Tolstikhin et al. (2018), section 4; chapter "Training the GM-WAE".

    Example:
        >>> InverseMultiquadratic([1.0, 3.0])(torch.tensor(1.0)).item()  # 1/2 + 3/4
        1.25
    """

    constants: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.constants) == 0:
            raise ValueError("constants must hold at least one value, got none")
        for value in self.constants:
            check_number("constants", value, exclusive=True)

    @classmethod
    def for_prior(
        cls, prior: GaussianMixturePrior, factors: Sequence[float] = DEFAULT_FACTORS
    ) -> InverseMultiquadratic:
        r"""Constants :math:`C_s = 2 D \bar s^2 \cdot \text{factor}_s`, with the prior's mean variance.

        :math:`2 D \bar s^2` is the mean squared distance between two codes of one component.

        Args:
            prior: The prior whose units the codes have.
            factors: One for each kernel, positive.

        Returns:
            The kernel.

        Raises:
            ValueError: If there is no factor, or one is not positive.
        """
        unit = 2 * prior.latent_dim * prior.scale.square().mean().item()
        return cls(tuple(unit * factor for factor in factors))

    def __call__(self, squared_distance: Tensor) -> Tensor:
        """Kernel values for squared distances, of the same shape, in (0, number of constants]."""
        values = [constant / (constant + squared_distance) for constant in self.constants]
        return torch.stack(values).sum(0) if len(values) > 1 else values[0]


def squared_mmd(
    probs: Tensor,
    z: Tensor,
    prior_probs: Tensor,
    prior_z: Tensor,
    kernel: InverseMultiquadratic,
    divergence: str = "joint",
) -> Tensor:
    r"""Unbiased estimate of the squared MMD between the aggregated posterior and the prior.

    .. math::
        \widehat{MMD}^2 =
            \frac{1}{B(B-1)} \sum_{i \ne j} \sum_{k, k'} q_{ik} q_{jk'}\, \kappa_{kk'}(z_{ik}, z_{jk'})
            - \frac{2}{B} \sum_i \sum_{k, k'} q_{ik}\, p_{k'} \operatorname{mean}_m \kappa_{kk'}(z_{ik}, y_{k'm})
            + \sum_{k, k'} p_k\, p_{k'} \operatorname{mean}_{(k, m) \ne (k', m')} \kappa_{kk'}(y_{km}, y_{k'm'})

    With ``"joint"``, :math:`\kappa_{kk'}(a, b) = 1[k = k']\, \kappa(a, b)` compares the pair (k, z); with
    ``"marginal"``, :math:`\kappa_{kk'} = \kappa` compares z alone, as the original does. Pairs of one data
    point, and of one prior sample with itself, are left out: so the estimate is unbiased, and can be negative.

    Args:
        probs: :math:`q_{ik}` = q_D(k|x_i), shape (B, K), B at least 2, rows summing to one.
        z: One code for each image and component, shape (B, K, D).
        prior_probs: :math:`p_k`, shape (K,).
        prior_z: M samples of each prior component, shape (K, M, D), M at least 2.
        kernel: The kernel on codes.
        divergence: ``"joint"`` or ``"marginal"``.

    Returns:
        A scalar without unit, differentiable in ``probs`` and ``z``.

    Raises:
        ValueError: If a shape does not fit, B or M is below 2, or ``divergence`` is unknown.

    Source: Gretton et al. (2012), lemma 6; Gaujac, Feige and Barber (2018), section 3; chapter "Training the GM-WAE".
    """
    check_choice("divergence", divergence, DIVERGENCES)
    check_shape("z", z, (None, None, None), " (batch, num_components, latent_dim)")
    batch, num_components, latent_dim = z.shape
    check_shape("probs", probs, (batch, num_components), " (batch, num_components)")
    check_shape("prior_probs", prior_probs, (num_components,), " (num_components,)")
    check_shape("prior_z", prior_z, (num_components, None, latent_dim), " (num_components, samples, latent_dim)")
    samples = prior_z.shape[1]
    if batch < 2 or samples < 2:
        raise ValueError(f"an unbiased estimate needs 2 codes and 2 prior samples or more, got {batch} and {samples}")

    data = sampled_data_data(probs, z, kernel, divergence)
    weight, codes = _sets(probs.t() / batch, z.transpose(0, 1), divergence)
    prior_weight = (prior_probs[:, None] / samples).expand(-1, samples)  # (K, M)
    prior_weight, prior_z = _sets(prior_weight, prior_z, divergence)
    cross = _kernel_sum(weight, codes, prior_weight, prior_z, kernel)
    # Within a component the samples' own pairs are left out, and the rest reweighted; pairs of different
    # components are independent as they are.
    count = prior_z.shape[1]
    component = torch.arange(count, device=z.device) // samples
    reweight = (1 + (component[:, None] == component).to(z) / (samples - 1)).fill_diagonal_(0)
    prior = _kernel_sum(prior_weight, prior_z, prior_weight, prior_z, kernel, reweight)
    return data - 2 * cross + prior


def sampled_data_data(probs: Tensor, z: Tensor, kernel: InverseMultiquadratic, divergence: str = "joint") -> Tensor:
    r"""The data-data part of :func:`squared_mmd`: mean kernel value over pairs of codes of different images.

    Args:
        probs: q_D(k|x_i), shape (B, K), B at least 2.
        z: One code for each image and component, shape (B, K, D).
        kernel: The kernel on codes.
        divergence: ``"joint"`` or ``"marginal"``.

    Returns:
        A scalar without unit, differentiable in ``probs`` and ``z``.

    Raises:
        ValueError: If a shape does not fit, B is below 2, or ``divergence`` is unknown.

    Source: Gretton et al. (2012), lemma 6; chapter "Training the GM-WAE".
    """
    check_choice("divergence", divergence, DIVERGENCES)
    check_shape("z", z, (None, None, None), " (batch, num_components, latent_dim)")
    check_shape("probs", probs, tuple(z.shape[:2]), " (batch, num_components)")
    batch = len(z)
    if batch < 2:
        raise ValueError(f"pairs of different images need 2 images or more, got {batch}")
    weight, codes = _sets(probs.t() / batch, z.transpose(0, 1), divergence)
    # The image that each code of a set belongs to: (N,).
    owner = torch.arange(batch, device=z.device).repeat(codes.shape[1] // batch)
    distinct = owner[:, None] != owner  # (N, N)
    return _kernel_sum(weight, codes, weight, codes, kernel, distinct) * batch / (batch - 1)


def _sets(weight: Tensor, codes: Tensor, divergence: str) -> tuple[Tensor, Tensor]:
    """Weights (G, N) and codes (G, N, D) of the sets that are compared, each with itself alone.

    From (K, M) and (K, M, D): the K components one by one (joint), or all codes in one set (marginal).
    """
    if divergence == "joint":
        return weight, codes
    return weight.reshape(1, -1), codes.reshape(1, -1, codes.shape[-1])


def _kernel_sum(
    weight_a: Tensor,
    a: Tensor,
    weight_b: Tensor,
    b: Tensor,
    kernel: InverseMultiquadratic,
    mask: Tensor | None = None,
) -> Tensor:
    """Sum over sets g and pairs (n, m) of weight_a[g, n] weight_b[g, m] mask[n, m] kernel(a[g, n], b[g, m])."""
    # |a - b|^2 = |a|^2 + |b|^2 - 2 a.b, as one batched product: (G, N, M).
    squared_distance = (
        a.square().sum(-1).unsqueeze(2) + b.square().sum(-1).unsqueeze(1) - 2 * a @ b.transpose(1, 2)
    ).clamp_min(0)
    values = kernel(squared_distance)
    if mask is not None:
        values = values * mask
    return torch.einsum("gn,gnm,gm->", weight_a, values, weight_b)
