r"""What training minimises: the VAE's negative ELBO, and the WAE's transport cost with its penalty."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmlvm import distributed
from gmlvm.batches import Batch
from gmlvm.clusterer import Clusterer
from gmlvm.consistency import inconsistency
from gmlvm.divergences import MMD, Divergence
from gmlvm.enumeration import Dense, Enumeration, Resampled, Selection
from gmlvm.kl import categorical_kl
from gmlvm.model import GMLVM
from gmlvm.posterior import Posterior
from gmlvm.validation import check_number, check_type
from gmlvm.vat import Smoothness


class VAETerms(NamedTuple):
    """Terms of the negative ELBO, scalars in nats per image, each a mean over the batch.

    Attributes:
        loss: reconstruction + beta (kl_z + kl_k), and the weighted roughness and inconsistency.
        reconstruction: Expected negative log-likelihood, summed over pixels.
        kl_z: Expected KL of q_C(z|k,x) from p_C(z|k).
        kl_k: KL of q_D(k|x) from p_D.
        roughness: Change of q_D(k|x) under the worst small perturbation of x; zero where there is no smoothness term.
        inconsistency: How surely q_D misses the component that an image was drawn from
            (:func:`gmlvm.consistency.inconsistency`); zero where it has no weight.
    """

    loss: Tensor
    reconstruction: Tensor
    kl_z: Tensor
    kl_k: Tensor
    roughness: Tensor
    inconsistency: Tensor


class WAETerms(NamedTuple):
    """Terms of the relaxed transport cost, scalars, each a mean over the batch.

    Attributes:
        loss: reconstruction_weight * reconstruction + penalty_weight * divergence
            + smoothness.weight * roughness + consistency_weight * inconsistency.
        reconstruction: Expected squared error, summed over pixels, in squared pixel units per image.
        divergence: That of the codes from the prior: by default the squared MMD, which has no unit and can be negative.
        roughness: Change of q_D(k|x) under the worst small perturbation of x, nats; zero where there is no smoothness
            term.
        inconsistency: How surely q_D misses the component that an image was drawn from, nats
            (:func:`gmlvm.consistency.inconsistency`); zero where it has no weight.
    """

    loss: Tensor
    reconstruction: Tensor
    divergence: Tensor
    roughness: Tensor
    inconsistency: Tensor


#: Named scalars, ``loss`` first: a named tuple, or a mapping.
Terms: TypeAlias = "tuple[Tensor, ...] | Mapping[str, Tensor]"


class Objective(nn.Module, ABC):
    """A loss with named terms. Called with a model and a batch it gives the terms; ``loss`` comes first.

    What it holds as parameters is trained with the model, by the same optimiser, and saved in checkpoints; so are the
    parameters of parts that it holds. Arrays with a value for each training image can be indexed by ``batch.indices``.
    :func:`gmlvm.testing.check_objective` tries one out.
    """

    def forward(self, model: Clusterer, batch: Batch | Tensor, generator: torch.Generator | None = None) -> Terms:
        """Compute the terms.

        Args:
            model: The model.
            batch: A batch, or images alone: (B, C, H, W), ``uint8`` or floating point in [0, 1].
            generator: Source of randomness, on the model's device; torch's global one if left out.

        Returns:
            Named scalars, means over the batch; ``loss``, which is to be minimised, comes first.

        Raises:
            TypeError: If the images have another dtype.
            ValueError: If they have another shape or lie outside [0, 1].
        """
        return self.terms(model, batch if isinstance(batch, Batch) else Batch(batch), generator)

    @abstractmethod
    def terms(self, model: Any, batch: Batch, generator: torch.Generator | None) -> Terms:
        """Compute the terms of a batch; what an objective of one's own defines.

        Args:
            model: The model: a :class:`GMLVM`, or a :class:`Clusterer` if that is all that the objective needs.
            batch: The batch.
            generator: Source of all randomness, on the model's device.

        Returns:
            Named scalars, means over the batch, ``loss`` first.
        """


class VAE(Objective):
    r"""Negative evidence lower bound with the sum over k taken exactly, in nats per image.

    .. math::
        -ELBO = {} & \sum_k q_D(k|x) \left( -E_{q_C} \log p_G(x|z) + \beta\, KL(q_C(z|k,x) \,\|\, p_C(z|k)) \right) \\
            & + \beta\, KL(q_D(k|x) \,\|\, p_D)

    with one reparametrised sample of z for each k. The likelihood is Bernoulli on logits, summed over
    pixels; grey levels are taken as probabilities, so such values compare with one another only.

    Args:
        beta: Weight of both KL terms, at least 0; 1 is the bound itself.
        enumeration: Which terms of the sum over k are decoded; all of them by default.
        smoothness: A term that keeps q_D smooth, such as ``Smoothness(100.0)``; none if left out.
        consistency_weight: Weight of the inconsistency of drawn images, at least 0.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a weight is negative or not finite.

    Source: Gaujac, Feige and Barber (2018), section 2; chapter "How a VAE collapses".
    """

    def __init__(
        self,
        beta: float = 1.0,
        enumeration: Enumeration | None = None,
        *,
        smoothness: Smoothness | None = None,
        consistency_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.beta = check_number("beta", beta)
        self.enumeration = _enumeration(enumeration, Dense())
        self.smoothness = _smoothness(smoothness)
        self.consistency_weight = check_number("consistency_weight", consistency_weight)

    def terms(self, model: GMLVM, batch: Batch, generator: torch.Generator | None) -> VAETerms:
        """Compute the terms of the negative ELBO; see :class:`Objective`."""
        x, prior = model.pixels(batch.images), model.prior
        posterior, _, codes, chosen = _encode(model, x, self.enumeration, generator)
        logits = model.decoder_logits(codes)
        error = F.binary_cross_entropy_with_logits(logits, x[chosen.image], reduction="none")
        reconstruction = chosen.mean(error.flatten(1).sum(1), len(x))
        log_probs = posterior.log_probs
        kl_z = (log_probs.exp() * prior.component_kl(posterior.loc, posterior.scale)).sum(1).mean()
        kl_k = categorical_kl(log_probs, prior.logits).mean()
        bound = reconstruction + self.beta * (kl_z + kl_k)
        extra, *parts = _of_discrete_encoder(self, model, x, generator)
        return VAETerms(bound + extra, reconstruction, kl_z, kl_k, *parts)

    def extra_repr(self) -> str:
        """The settings for ``repr``."""
        return f"beta={self.beta}, enumeration={self.enumeration}, consistency_weight={self.consistency_weight}"


class WAE(Objective):
    r"""Transport cost from data to model, with the constraint on the codes relaxed to a penalty.

    .. math::
        & w \sum_k q_D(k|x)\, E_{q_C} \lVert x - G(z) \rVert^2 + \lambda\, D(Q, P) \\
            & + \gamma\, KL\big(q_D(\cdot|x) \,\|\, q_D(\cdot|x + r)\big) - \eta\, E_{k, z} \log q_D(k|G(z))

    where w is ``reconstruction_weight``, :math:`\lambda` is ``penalty_weight``, Q is the aggregated posterior, P the
    prior and D the ``penalty``: by default the squared MMD on pairs (k, z). The last two terms are no part of the
    paper's objective and are off by default: that of the ``smoothness``, with its weight :math:`\gamma` and the worst
    small perturbation r; and the inconsistency of what is drawn from component k of the prior, with
    :math:`\eta` for ``consistency_weight``.

    Args:
        penalty_weight: :math:`\lambda`, at least 0.
        penalty: The divergence, such as ``MMD("codes")`` for z alone, as the original has it; ``MMD()`` if left out.
        reconstruction_weight: w, at least 0. The optimiser sees little but the ratio of the two weights.
        enumeration: Which terms of the sum over k are decoded; by default an unbiased choice of one to three.
        smoothness: A term that keeps q_D smooth, such as ``Smoothness(20.0)``; none if left out.
        consistency_weight: :math:`\eta`, at least 0.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a weight is negative or not finite.

    Source: Tolstikhin et al. (2018), equation 4; Gaujac, Feige and Barber (2018), section 3; Miyato et al. (2019);
    chapter "Training the GM-WAE".
    """

    def __init__(
        self,
        penalty_weight: float,
        penalty: Divergence | None = None,
        *,
        reconstruction_weight: float = 1.0,
        enumeration: Enumeration | None = None,
        smoothness: Smoothness | None = None,
        consistency_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.penalty_weight = check_number("penalty_weight", penalty_weight)
        self.penalty = MMD() if penalty is None else penalty
        check_type("penalty", self.penalty, Divergence)
        self.reconstruction_weight = check_number("reconstruction_weight", reconstruction_weight)
        self.enumeration = _enumeration(enumeration, Resampled())
        self.smoothness = _smoothness(smoothness)
        self.consistency_weight = check_number("consistency_weight", consistency_weight)

    def terms(self, model: GMLVM, batch: Batch, generator: torch.Generator | None) -> WAETerms:
        """Compute the transport cost, the penalty and the terms of q_D; see :class:`Objective`."""
        x = model.pixels(batch.images)
        posterior, z, codes, chosen = _encode(model, x, self.enumeration, generator)
        images = model.decoder_logits(codes).sigmoid()
        error = (images - x[chosen.image]).square()
        reconstruction = chosen.mean(error.flatten(1).sum(1), len(x))
        divergence = self.penalty(posterior, z, model.prior, generator)
        extra, *parts = _of_discrete_encoder(self, model, x, generator)
        loss = self.reconstruction_weight * reconstruction + self.penalty_weight * divergence + extra
        return WAETerms(loss, reconstruction, divergence, *parts)

    def extra_repr(self) -> str:
        """The settings for ``repr``."""
        return (
            f"{self.penalty_weight}, reconstruction_weight={self.reconstruction_weight}, "
            f"enumeration={self.enumeration}, consistency_weight={self.consistency_weight}"
        )


class _Encoded(NamedTuple):
    """Posteriors and codes of the whole batch; the terms to decode of this process's rows, and their codes, (N, D)."""

    posterior: Posterior
    z: Tensor
    codes: Tensor
    chosen: Selection


def _encode(model: GMLVM, x: Tensor, rule: Enumeration, generator: torch.Generator | None) -> _Encoded:
    """Encode this process's rows, select terms, and draw a code for each image and component.

    Off the CPU the number of terms is fixed, so that no step waits for a value. But not where the decoder has batch
    norms: the places of weight zero would take part in their means and variances.
    """
    posterior = distributed.whole_batch(model.posterior_of_pixels(x))
    fixed_shape = x.device.type != "cpu" and not any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.decoder.modules()
    )
    chosen = rule.select(posterior.log_probs, generator, fixed_shape=fixed_shape)
    z = posterior.sample(generator)  # (B, K, D)
    if distributed.world_size() > 1:
        rows = distributed.own_rows(len(z))
        chosen = chosen.of_images(rows)
        return _Encoded(posterior, z, z[rows][chosen.image, chosen.component], chosen)
    return _Encoded(posterior, z, z[chosen.image, chosen.component], chosen)


def _of_discrete_encoder(
    objective: VAE | WAE, model: GMLVM, x: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What both objectives may add about q_D: the weighted sum, roughness and inconsistency."""
    roughness = wrong = total = x.new_zeros(())
    if objective.smoothness is not None:
        roughness = objective.smoothness(model.discrete_encoder, x, generator)
        total = total + objective.smoothness.weight * roughness
    if objective.consistency_weight > 0:
        wrong = inconsistency(model, len(x), generator)
        total = total + objective.consistency_weight * wrong
    return total, roughness, wrong


def _smoothness(given: Smoothness | None) -> Smoothness | None:
    if given is not None:
        check_type("smoothness", given, Smoothness)
    return given


def _enumeration(given: Enumeration | None, default: Enumeration) -> Enumeration:
    rule = default if given is None else given
    if not isinstance(rule, Enumeration):
        raise TypeError(f"enumeration must be an Enumeration such as Dense() or Truncated(), got {given!r}")
    return rule
