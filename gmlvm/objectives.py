r"""What training minimises: the VAE's negative ELBO, and the WAE's transport cost with its penalty."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmlvm import closed_form, divergences
from gmlvm.divergences import DEFAULT_FACTORS, DIVERGENCES, InverseMultiquadratic, categorical_kl, gaussian_kl
from gmlvm.expectations import Dense, Expectation, Resampled, Selection, truncate
from gmlvm.model import GMLVM, Posterior
from gmlvm.prior import GaussianMixturePrior
from gmlvm.smoothness import adversarial_change
from gmlvm.validation import check_choice, check_number, check_positive_int

#: How the squared MMD is estimated: which of its three parts are taken in closed form.
ESTIMATORS = ("sampled", "half-closed", "closed")


class VAETerms(NamedTuple):
    """Terms of the negative ELBO, scalars in nats per image, each a mean over the batch.

    Attributes:
        loss: reconstruction + beta (kl_z + kl_k).
        reconstruction: Expected negative log-likelihood, summed over pixels.
        kl_z: Expected KL of q_C(z|k,x) from p_C(z|k).
        kl_k: KL of q_D(k|x) from p_D.
    """

    loss: Tensor
    reconstruction: Tensor
    kl_z: Tensor
    kl_k: Tensor


class WAETerms(NamedTuple):
    """Terms of the relaxed transport cost, scalars, each a mean over the batch.

    Attributes:
        loss: reconstruction_weight * reconstruction + penalty_weight * divergence
            + smoothness_weight * roughness.
        reconstruction: Expected squared error, summed over pixels, in squared pixel units per image.
        divergence: Unbiased squared MMD, without unit; it can be negative.
        roughness: Change of q_D(k|x) under the worst small perturbation of x, nats; zero where its weight is,
            as it is then not computed.
    """

    loss: Tensor
    reconstruction: Tensor
    divergence: Tensor
    roughness: Tensor


class Objective(ABC):
    """A loss with named terms. Calling it on a model and a batch gives the terms; ``loss`` comes first.

    Source: chapter "Training the GM-WAE".
    """

    #: Names of the terms, in order.
    term_names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def __call__(self, model: GMLVM, x: Tensor, generator: torch.Generator | None = None) -> VAETerms | WAETerms:
        """Compute the terms.

        Args:
            model: The model.
            x: Images, (B, C, H, W), ``uint8`` or floating point in [0, 1], on the model's device.
            generator: Source of randomness, on the model's device; torch's global one if left out.

        Returns:
            Named scalars, means over the batch; ``loss``, which is to be minimised, comes first.

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1].
        """


@dataclass(frozen=True)
class VAE(Objective):
    r"""Negative evidence lower bound with the sum over k taken exactly, in nats per image.

    .. math::
        -ELBO = {} & \sum_k q_D(k|x) \left( -E_{q_C} \log p_G(x|z) + \beta\, KL(q_C(z|k,x) \,\|\, p_C(z|k)) \right) \\
            & + \beta\, KL(q_D(k|x) \,\|\, p_D)

    with one reparametrised sample of z for each k. The likelihood is Bernoulli on logits, summed over
    pixels; grey levels are taken as probabilities, so such values compare with one another only.

    Args:
        beta: Weight of both KL terms, at least 0; 1 is the bound itself.
        expectation: Which terms of the sum over k are decoded; all of them by default.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``beta`` is negative or not finite.

    Source: Gaujac, Feige and Barber (2018), section 2; chapter "How a VAE collapses".
    """

    term_names: ClassVar[tuple[str, ...]] = VAETerms._fields

    beta: float = 1.0
    expectation: Expectation = field(default_factory=Dense)

    def __post_init__(self) -> None:
        check_number("beta", self.beta)
        _check_expectation(self.expectation)

    def __call__(self, model: GMLVM, x: Tensor, generator: torch.Generator | None = None) -> VAETerms:
        """Compute the terms of the negative ELBO; see :class:`Objective`."""
        x, prior = model.pixels(x), model.prior
        posterior = model.posterior_of_pixels(x)
        log_probs = posterior.log_probs
        chosen = _select(self.expectation, model, log_probs, generator)
        z = posterior.sample(generator)[chosen.image, chosen.component]  # (N, D)
        error = F.binary_cross_entropy_with_logits(model.decoder_logits(z), x[chosen.image], reduction="none")
        reconstruction = chosen.mean(error.flatten(1).sum(1), len(x))
        kl_z = gaussian_kl(posterior.loc, posterior.scale, prior.loc, prior.scale)  # (B, K)
        kl_z = (log_probs.exp() * kl_z).sum(1).mean()
        kl_k = categorical_kl(log_probs, prior.logits).mean()
        return VAETerms(reconstruction + self.beta * (kl_z + kl_k), reconstruction, kl_z, kl_k)


@dataclass(frozen=True)
class WAE(Objective):
    r"""Transport cost from data to model, with the constraint on the codes relaxed to a penalty.

    .. math::
        & w \sum_k q_D(k|x)\, E_{q_C} \lVert x - G(z) \rVert^2 + \lambda\, MMD^2(Q, P) \\
            & + \gamma\, KL\big(q_D(\cdot|x) \,\|\, q_D(\cdot|x + r)\big)

    where w is ``reconstruction_weight``, :math:`\lambda` is ``penalty_weight``, Q is the aggregated posterior
    and P the prior; on pairs (k, z) if the divergence is ``"joint"``, on z alone if ``"marginal"``. The last
    term, with :math:`\gamma` for ``smoothness_weight`` and r the worst perturbation of length
    ``smoothness_radius``, is no part of the paper's objective and is off by default.

    Args:
        penalty_weight: :math:`\lambda`, at least 0.
        divergence: ``"joint"`` or ``"marginal"``.
        reconstruction_weight: w, at least 0. The optimiser sees little but the ratio of the two weights.
        expectation: Which terms of the sum over k are decoded; by default an unbiased choice of one to three.
        factors: Kernel constants in units of the prior's mean squared distance within a component.
        estimator: How the squared MMD is estimated: ``"sampled"``; ``"half-closed"``, with closed forms for all that
            the prior is part of; or ``"closed"``, with no sample at all. What the prior has to itself is always
            closed, and computed once.
        prior_samples: Samples drawn from each prior component at each step if ``"sampled"``, at least 2.
        smoothness_weight: :math:`\gamma`, at least 0.
        smoothness_radius: Length of the perturbation, in units of x, positive; see
            :func:`gmlvm.smoothness.adversarial_change`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a weight is negative or not finite, ``divergence`` or ``estimator`` is unknown, a factor or
            the radius is not positive or ``prior_samples`` is below 2.

    Source: Tolstikhin et al. (2018), equation 4; Gaujac, Feige and Barber (2018), section 3; Miyato et al. (2019);
    chapter "Training the GM-WAE".
    """

    term_names: ClassVar[tuple[str, ...]] = WAETerms._fields

    penalty_weight: float
    divergence: str = "joint"
    reconstruction_weight: float = 1.0
    expectation: Expectation = field(default_factory=Resampled)
    factors: Sequence[float] = DEFAULT_FACTORS
    estimator: str = "sampled"
    prior_samples: int = 16
    smoothness_weight: float = 0.0
    smoothness_radius: float = 2.0

    def __post_init__(self) -> None:
        check_number("penalty_weight", self.penalty_weight)
        check_number("reconstruction_weight", self.reconstruction_weight)
        check_choice("divergence", self.divergence, DIVERGENCES)
        _check_expectation(self.expectation)
        InverseMultiquadratic(self.factors)  # checks them
        object.__setattr__(self, "factors", tuple(map(float, self.factors)))
        check_choice("estimator", self.estimator, ESTIMATORS)
        check_positive_int("prior_samples", self.prior_samples, minimum=2)
        check_number("smoothness_weight", self.smoothness_weight)
        check_number("smoothness_radius", self.smoothness_radius, exclusive=True)

    def __call__(self, model: GMLVM, x: Tensor, generator: torch.Generator | None = None) -> WAETerms:
        """Compute the transport cost, the penalty and the roughness; see :class:`Objective`."""
        x = model.pixels(x)
        posterior = model.posterior_of_pixels(x)
        log_probs = posterior.log_probs
        chosen = _select(self.expectation, model, log_probs, generator)
        z = posterior.sample(generator)  # (B, K, D)
        images = model.decoder_logits(z[chosen.image, chosen.component]).sigmoid()
        error = (images - x[chosen.image]).square()
        reconstruction = chosen.mean(error.flatten(1).sum(1), len(x))
        divergence = self.penalty(model.prior, posterior, z, generator)
        roughness = torch.zeros_like(divergence)
        if self.smoothness_weight > 0:
            roughness = adversarial_change(model.discrete_encoder, x, self.smoothness_radius, generator)
        loss = (
            self.reconstruction_weight * reconstruction
            + self.penalty_weight * divergence
            + self.smoothness_weight * roughness
        )
        return WAETerms(loss, reconstruction, divergence, roughness)

    def penalty(
        self,
        prior: GaussianMixturePrior,
        posterior: Posterior,
        z: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Unbiased squared MMD of codes against the prior.

        Codes of components with next to no probability are left out (:func:`gmlvm.expectations.truncate`). It is not
        estimated from drawn terms, as the sum over k of the cost can be: its gradient would be much noisier.

        Args:
            prior: The prior.
            posterior: Both posteriors of a batch.
            z: One sample of the posterior for each image and component, shape (B, K, D).
            generator: Source of randomness.

        Returns:
            A scalar without unit; see :func:`gmlvm.divergences.squared_mmd`.
        """
        # Not under autocast: distances are small differences of large numbers.
        with torch.autocast(z.device.type, enabled=False):
            return self._penalty(prior, posterior, z, generator)

    def _penalty(
        self, prior: GaussianMixturePrior, posterior: Posterior, z: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        loc, scale = posterior.loc, posterior.scale
        kernel, constant = _prior_part(prior, tuple(self.factors), self.divergence)
        weight, kept = truncate(posterior.log_probs)  # (B, K)
        if self.estimator == "sampled":
            prior_z = prior.sample_each(self.prior_samples, generator)  # (K, M, D)
            return divergences.squared_mmd(
                weight, z, prior.probs, prior_z, kernel, self.divergence, kept=kept, prior_part=constant
            )
        if self.estimator == "closed":
            data = closed_form.data_data(weight, loc, scale, kernel, self.divergence, kept)
        else:
            data = divergences.data_data(weight, z, kernel, self.divergence, kept)
        cross = closed_form.data_prior(weight, loc, scale, prior, kernel, self.divergence, kept)
        return data - 2 * cross + constant


def _select(rule: Expectation, model: GMLVM, log_probs: Tensor, generator: torch.Generator | None) -> Selection:
    """The terms to decode. Off the CPU their number is fixed, so that no step waits for a value.

    But not where the decoder has batch norms: the places of weight zero would take part in their means and variances.
    """
    fixed_shape = log_probs.device.type != "cpu" and not any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.decoder.modules()
    )
    return rule.select(log_probs, generator, fixed_shape=fixed_shape)


def _check_expectation(expectation: object) -> None:
    if not isinstance(expectation, Expectation):
        raise TypeError(f"expectation must be an Expectation such as Dense() or Truncated(), got {expectation!r}")


# Quadrature nodes of the prior's own part, in float64: as it is needed once, it may as well be exact.
_CONSTANT_NODES = 64
# What depends on the prior alone, by prior: what its buffers were, and for each setting the kernel and a constant.
_PriorParts = dict[tuple[tuple[float, ...], str], tuple[InverseMultiquadratic, Tensor]]
_PRIOR_PARTS: WeakKeyDictionary[GaussianMixturePrior, tuple[tuple[tuple[int, int], ...], _PriorParts]] = (
    WeakKeyDictionary()
)


def _prior_part(
    prior: GaussianMixturePrior, factors: tuple[float, ...], divergence: str
) -> tuple[InverseMultiquadratic, Tensor]:
    """The kernel in the prior's units and the prior-prior part of the squared MMD, computed once for each prior."""
    state = tuple((buffer.data_ptr(), buffer._version) for buffer in prior.buffers())
    known, parts = _PRIOR_PARTS.get(prior, (None, {}))
    if known != state:  # new, or loaded or moved since
        parts = {}
        _PRIOR_PARTS[prior] = (state, parts)
    if (factors, divergence) not in parts:
        kernel = InverseMultiquadratic.for_prior(prior, factors)
        constant = closed_form.prior_prior(deepcopy(prior).cpu().double(), kernel, divergence, _CONSTANT_NODES)
        parts[factors, divergence] = (kernel, constant.to(prior.loc))
    return parts[factors, divergence]
