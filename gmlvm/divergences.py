r"""Divergences between distributions: closed-form KL terms, and the squared MMD estimated from samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

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

    Source: Kingma and Welling (2014), appendix B; chapter "How a VAE collapses".

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
    # A component of probability zero adds nothing, though its log is minus infinity.
    return torch.where(probs == 0, 0, probs * (log_probs - prior_log_probs)).sum(-1)


@dataclass(frozen=True)
class InverseMultiquadratic:
    r"""Sum of inverse multiquadratic kernels, :math:`\kappa(a, b) = \sum_s C_s / (C_s + \lVert a - b \rVert^2)`.

    Its tails are heavy, so codes far from the prior still feel a pull.

    Args:
        constants: The :math:`C_s`, in squared units of z, at least one, positive.

    Raises:
        ValueError: If there is no constant, or one is not positive.

    Source: Tolstikhin et al. (2018), section 4; chapter "From transport to autoencoders".

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
        values: Tensor = _InverseMultiquadraticSum.apply(squared_distance, tuple(self.constants))
        return values


class _InverseMultiquadraticSum(torch.autograd.Function):
    """The sum and its derivative in one pass, which saves one tensor for the way back instead of two a constant."""

    @staticmethod
    def forward(ctx: Any, squared_distance: Tensor, constants: tuple[float, ...]) -> Tensor:
        total, slope = torch.zeros_like(squared_distance), torch.zeros_like(squared_distance)
        for constant in constants:
            reciprocal = (squared_distance + constant).reciprocal_()
            total.add_(reciprocal, alpha=constant)
            slope.addcmul_(reciprocal, reciprocal, value=-constant)
        ctx.save_for_backward(slope)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None


def squared_mmd(
    probs: Tensor,
    z: Tensor,
    prior_probs: Tensor,
    prior_z: Tensor,
    kernel: InverseMultiquadratic,
    divergence: str = "joint",
    *,
    kept: Tensor | None = None,
    prior_part: Tensor | None = None,
) -> Tensor:
    r"""Unbiased estimate of the squared MMD between the aggregated posterior and the prior.

    .. math::
        \widehat{MMD}^2 =
            {} & \frac{1}{B(B-1)} \sum_{i \ne j} \sum_{k, k'} q_{ik} q_{jk'}\, \kappa_{kk'}(z_{ik}, z_{jk'}) \\
            & - \frac{2}{B} \sum_i \sum_{k, k'} q_{ik}\, p_{k'} \operatorname{mean}_m \kappa_{kk'}(z_{ik}, y_{k'm}) \\
            & + \sum_{k, k'} p_k\, p_{k'} \operatorname{mean}_{(k, m) \ne (k', m')} \kappa_{kk'}(y_{km}, y_{k'm'})

    With ``"joint"``, :math:`\kappa_{kk'}(a, b) = 1[k = k']\, \kappa(a, b)` compares the pair (k, z); with
    ``"marginal"``, :math:`\kappa_{kk'} = \kappa` compares z alone, as the original does. Pairs of one data
    point, and of one prior sample with itself, are left out: so the estimate is unbiased, and can be negative.

    Args:
        probs: :math:`q_{ik}` = q_D(k|x_i), or weights that stand for it, shape (B, K), B at least 2, rows summing to
            one.
        z: One code for each image and component, shape (B, K, D).
        prior_probs: :math:`p_k`, shape (K,).
        prior_z: M samples of each prior component, shape (K, M, D), M at least 2.
        kernel: The kernel on codes.
        divergence: ``"joint"`` or ``"marginal"``.
        kept: Codes that take part, bool, shape (B, K); the others must have weight zero. All if left out.
        prior_part: The last of the three sums where it is known, a constant; estimated from the samples if left out.

    Returns:
        A scalar without unit, differentiable in ``probs`` and ``z``.

    Raises:
        ValueError: If a shape does not fit, B or M is below 2, or ``divergence`` is unknown.

    Source: Gretton et al. (2012), lemma 6; Gaujac, Feige and Barber (2018), section 3;
    chapter "From transport to autoencoders".
    """
    check_choice("divergence", divergence, DIVERGENCES)
    check_shape("z", z, (None, None, None), " (batch, num_components, latent_dim)")
    batch, num_components, latent_dim = z.shape
    check_shape("prior_probs", prior_probs, (num_components,), " (num_components,)")
    check_shape("prior_z", prior_z, (num_components, None, latent_dim), " (num_components, samples, latent_dim)")
    samples = prior_z.shape[1]
    if batch < 2 or samples < 2:
        raise ValueError(f"an unbiased estimate needs 2 codes and 2 prior samples or more, got {batch} and {samples}")

    prior_weight = (prior_probs[:, None] / samples).expand(-1, samples)  # (K, M)
    if divergence == "marginal":
        prior_weight, prior_z = prior_weight.reshape(1, -1), prior_z.reshape(1, -1, latent_dim)
    if prior_part is None:
        # Within a component the samples' own pairs are left out, and the rest reweighted; pairs of different
        # components are independent as they are.
        component = torch.arange(prior_z.shape[1], device=z.device) // samples
        reweight = (1 + (component[:, None] == component).to(z) / (samples - 1)).fill_diagonal_(0)
        prior_part = _kernel_sum(prior_weight, prior_z, prior_weight, prior_z, kernel, reweight)
    data = _data_sets(probs, z, divergence, kept)
    # Codes against codes and against prior samples at once, each with the factor of its sum.
    partners = torch.cat([data.codes, prior_z], dim=1)  # (G, N + M, D)
    partner_weight = torch.cat([data.weight / (batch * (batch - 1)), prior_weight * (-2 / batch)], dim=1)
    counted = F.pad(_distinct(data), (0, prior_z.shape[1]), value=True)  # (G, N, N + M)
    return _kernel_sum(data.weight, data.codes, partner_weight, partners, kernel, counted) + prior_part


def data_data(
    probs: Tensor, z: Tensor, kernel: InverseMultiquadratic, divergence: str = "joint", kept: Tensor | None = None
) -> Tensor:
    r"""The data-data part of :func:`squared_mmd`: mean kernel value over pairs of codes of different images.

    Args:
        probs: q_D(k|x), or weights that stand for it, shape (B, K), B at least 2.
        z: One code for each image and component, shape (B, K, D).
        kernel: The kernel on codes.
        divergence: ``"joint"`` or ``"marginal"``.
        kept: Codes that take part, bool, shape (B, K); the others must have weight zero. All if left out.

    Returns:
        A scalar without unit, differentiable in ``probs`` and ``z``.

    Raises:
        ValueError: If a shape does not fit, B is below 2, or ``divergence`` is unknown.

    Source: Gretton et al. (2012), lemma 6; chapter "From transport to autoencoders".
    """
    check_choice("divergence", divergence, DIVERGENCES)
    check_shape("z", z, (None, None, None), " (batch, num_components, latent_dim)")
    if len(z) < 2:
        raise ValueError(f"pairs of different images need 2 images or more, got {len(z)}")
    data, batch = _data_sets(probs, z, divergence, kept), len(z)
    total = _kernel_sum(data.weight, data.codes, data.weight, data.codes, kernel, _distinct(data))
    return total / (batch * (batch - 1))


class _Sets(NamedTuple):
    """Codes in G sets, each of which is compared with itself alone: the K components (joint), or one (marginal).

    Attributes:
        weight: Weights, (G, N).
        codes: Codes, (G, N, D).
        image: The image that each belongs to, (G, N).
    """

    weight: Tensor
    codes: Tensor
    image: Tensor


def _distinct(data: _Sets) -> Tensor:
    """Which pairs of a set belong to two images: bool, (G, N, N)."""
    return data.image.unsqueeze(2) != data.image.unsqueeze(1)


def _data_sets(probs: Tensor, z: Tensor, divergence: str, kept: Tensor | None) -> _Sets:
    """The sets of a batch, from weights (B, K) and codes (B, K, D).

    On a CPU they hold no more than is kept; on other devices everything, as a size that depends on values would have
    to be waited for.
    """
    check_shape("probs", probs, tuple(z.shape[:2]), " (batch, num_components)")
    if kept is not None:
        check_shape("kept", kept, tuple(z.shape[:2]), " (batch, num_components)")
    if z.device.type != "cpu":
        kept = None
    image = torch.arange(len(z), device=z.device)
    if divergence == "marginal":
        image = image[:, None].expand(probs.shape)
        if kept is None:
            return _Sets(probs.reshape(1, -1), z.reshape(1, -1, z.shape[-1]), image.reshape(1, -1))
        return _Sets(probs[kept][None], z[kept][None], image[kept][None])
    probs, z = probs.t(), z.transpose(0, 1)  # (K, B) and (K, B, D)
    if kept is None:
        return _Sets(probs, z, image.expand(probs.shape))
    # As many places for each component as the fullest needs; free ones hold codes of weight zero.
    image = kept.t().to(z).topk(int(kept.sum(0).max()), dim=1).indices  # (K, N)
    return _Sets(probs.gather(1, image), z.gather(1, image.unsqueeze(2).expand(-1, -1, z.shape[2])), image)


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
    lengths = a.square().sum(-1).unsqueeze(2) + b.square().sum(-1).unsqueeze(1)
    squared_distance = torch.baddbmm(lengths, a, b.transpose(1, 2), alpha=-2).clamp_min(0)
    values = kernel(squared_distance)
    if mask is not None:
        values = values * mask
    return (weight_a.unsqueeze(1) @ values @ weight_b.unsqueeze(2)).sum()
