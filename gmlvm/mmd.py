r"""The squared MMD between the aggregated posterior and the prior, estimated from samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gmlvm.pieces import sum_in_pieces
from gmlvm.validation import check_choice, check_shape

#: The pair (k, z) is compared, or the code z alone.
ON = ("pairs", "codes")


def squared_mmd(
    probs: Tensor,
    z: Tensor,
    prior_probs: Tensor,
    prior_z: Tensor,
    kernel: Callable[[Tensor], Tensor],
    on: str = "pairs",
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

    With ``"pairs"``, :math:`\kappa_{kk'}(a, b) = 1[k = k']\, \kappa(a, b)` compares the pair (k, z); with
    ``"codes"``, :math:`\kappa_{kk'} = \kappa` compares z alone, as the original does. Pairs of one data
    point, and of one prior sample with itself, are left out: so the estimate is unbiased, and can be negative.

    Args:
        probs: :math:`q_{ik}` = q_D(k|x_i), or weights that stand for it, shape (B, K), B at least 2, rows summing to
            one.
        z: One code for each image and component, shape (B, K, D).
        prior_probs: :math:`p_k`, shape (K,).
        prior_z: M samples of each prior component, shape (K, M, D), M at least 2.
        kernel: The kernel on codes.
        on: ``"pairs"`` or ``"codes"``.
        kept: Codes that take part, bool, shape (B, K); the others must have weight zero. All if left out.
        prior_part: The last of the three sums where it is known, a constant; estimated from the samples if left out.

    Returns:
        A scalar without unit, differentiable in ``probs`` and ``z``.

    Raises:
        ValueError: If a shape does not fit, B or M is below 2, or ``on`` is unknown.

    Source: Gretton et al. (2012), lemma 6; Gaujac, Feige and Barber (2018), section 3;
    chapter "From transport to autoencoders".
    """
    check_choice("on", on, ON)
    check_shape("z", z, (None, None, None), " (batch, num_components, latent_dim)")
    batch, num_components, latent_dim = z.shape
    check_shape("prior_probs", prior_probs, (num_components,), " (num_components,)")
    check_shape("prior_z", prior_z, (num_components, None, latent_dim), " (num_components, samples, latent_dim)")
    samples = prior_z.shape[1]
    if batch < 2 or samples < 2:
        raise ValueError(f"an unbiased estimate needs 2 codes and 2 prior samples or more, got {batch} and {samples}")

    prior_weight = (prior_probs[:, None] / samples).expand(-1, samples)  # (K, M)
    if on == "codes":
        prior_weight, prior_z = prior_weight.reshape(1, -1), prior_z.reshape(1, -1, latent_dim)
    sample = torch.arange(prior_z.shape[1], device=z.device).expand(prior_weight.shape)
    prior = _Sets(prior_weight, prior_z, sample)  # (G, M)
    if prior_part is None:

        def reweight(first: Tensor, second: Tensor) -> Tensor:
            # Within a component the samples' own pairs are left out, and the rest reweighted; pairs of different
            # components are independent as they are.
            return (1 + (first // samples == second // samples).to(z) / (samples - 1)) * (first != second)

        prior_part = _kernel_sum(prior, prior, kernel, reweight)
    data = _data_sets(probs, z, on, kept)
    # Codes against codes and against prior samples at once, each with the factor of its sum.
    partners = _Sets(
        torch.cat([data.weight / (batch * (batch - 1)), prior.weight * (-2 / batch)], dim=1),
        torch.cat([data.codes, prior.codes], dim=1),  # (G, N + M, D)
        torch.cat([data.image, -1 - prior.image], dim=1),  # samples are of no image, all of which count from 0
    )
    return _kernel_sum(data, partners, kernel, torch.ne) + prior_part


def data_data(
    probs: Tensor, z: Tensor, kernel: Callable[[Tensor], Tensor], on: str = "pairs", kept: Tensor | None = None
) -> Tensor:
    r"""The data-data part of :func:`squared_mmd`: mean kernel value over pairs of codes of different images.

    Args:
        probs: q_D(k|x), or weights that stand for it, shape (B, K), B at least 2.
        z: One code for each image and component, shape (B, K, D).
        kernel: The kernel on codes.
        on: ``"pairs"`` or ``"codes"``.
        kept: Codes that take part, bool, shape (B, K); the others must have weight zero. All if left out.

    Returns:
        A scalar without unit, differentiable in ``probs`` and ``z``.

    Raises:
        ValueError: If a shape does not fit, B is below 2, or ``on`` is unknown.

    Source: Gretton et al. (2012), lemma 6; chapter "From transport to autoencoders".
    """
    check_choice("on", on, ON)
    check_shape("z", z, (None, None, None), " (batch, num_components, latent_dim)")
    if len(z) < 2:
        raise ValueError(f"pairs of different images need 2 images or more, got {len(z)}")
    data, batch = _data_sets(probs, z, on, kept), len(z)
    return _kernel_sum(data, data, kernel, torch.ne) / (batch * (batch - 1))


class _Sets(NamedTuple):
    """Codes in G sets, each of which is compared with itself alone: the K components (pairs), or one (codes).

    Attributes:
        weight: Weights, (G, N).
        codes: Codes, (G, N, D).
        image: The image that each belongs to, (G, N).
    """

    weight: Tensor
    codes: Tensor
    image: Tensor


def _data_sets(probs: Tensor, z: Tensor, on: str, kept: Tensor | None) -> _Sets:
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
    if on == "codes":
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
    a: _Sets,
    b: _Sets,
    kernel: Callable[[Tensor], Tensor],
    factor: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Sum over sets g and pairs (n, m) of both weights, the factor of both images, and the kernel of both codes."""

    def part(rows: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        (weight_a, a, image_a), (weight_b, b, image_b) = rows, others
        # |a - b|^2 = |a|^2 + |b|^2 - 2 a.b, as one batched product: (G, N, M).
        lengths = a.square().sum(-1).unsqueeze(2) + b.square().sum(-1).unsqueeze(1)
        squared_distance = torch.baddbmm(lengths, a, b.transpose(1, 2), alpha=-2).clamp_min(0)
        values = kernel(squared_distance) * factor(image_a.unsqueeze(2), image_b.unsqueeze(1))
        return (weight_a.unsqueeze(1) @ values @ weight_b.unsqueeze(2)).sum()

    return sum_in_pieces(part, a, b, held=a.weight.numel() * b.weight.shape[1], dim=1)
