"""The ELBO taken apart, so that one thing in it can be changed and all else is as it was."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from gmlvm import GMLVM, VAE
from gmlvm.batches import Batch
from gmlvm.divergences import MMD
from gmlvm.enumeration import Dense, Enumeration, Resampled, Selection
from gmlvm.kl import categorical_kl
from gmlvm.objectives import VAETerms
from gmlvm.posterior import Posterior

#: The terms through which q_D is moved.
PULLS = ("reconstruction", "kl_z", "kl_k")


class Parts(NamedTuple):
    """What the ELBO of a batch is made of.

    Attributes:
        posterior: Of the B images.
        z: Codes, shape (B, K, D).
        chosen: The N terms of the sum over k that are decoded.
        error: Negative log-likelihood of each, shape (N,).
        kl_z: KL of q_C from p_C, shape (B, K).
    """

    posterior: Posterior
    z: Tensor
    chosen: Selection
    error: Tensor
    kl_z: Tensor


class Apart(VAE):
    """The VAE's own terms, each by a method that a subclass may change.

    Args:
        enumeration: Which terms of the sum over k are decoded; by default drawn ones.
        beta: Weight of both KL terms.
    """

    def __init__(self, enumeration: Enumeration | None = None, beta: float = 1.0) -> None:
        super().__init__(beta, enumeration or Resampled())

    def terms(self, model: GMLVM, batch: Batch, generator: torch.Generator | None) -> VAETerms:
        """Compute the terms; see :class:`gmlvm.VAE`."""
        parts = self.parts(model, model.pixels(batch.images), generator)
        reconstruction, kl_z, kl_k = self.reconstruction(parts), self.kl_z(parts), self.kl_k(model, parts)
        loss = reconstruction + self.price(model, parts, kl_z, kl_k, generator)
        zero = loss.new_zeros(())
        return VAETerms(loss, reconstruction, kl_z, kl_k, zero, zero)

    def parts(self, model: GMLVM, x: Tensor, generator: torch.Generator | None) -> Parts:
        """Encode images, choose terms of the sum over k, and decode a code for each."""
        posterior = model.posterior_of_pixels(x)
        chosen = self.enumeration.select(posterior.log_probs, generator)
        z = posterior.sample(generator)
        return _decoded(model, x, posterior, z, z[chosen.image, chosen.component], chosen)

    def reconstruction(self, parts: Parts) -> Tensor:
        """Expected negative log-likelihood, nats."""
        return parts.chosen.mean(parts.error, len(parts.z))

    def kl_z(self, parts: Parts) -> Tensor:
        """Expected KL of q_C, nats."""
        return (parts.posterior.log_probs.exp() * parts.kl_z).sum(1).mean()

    def kl_k(self, model: GMLVM, parts: Parts) -> Tensor:
        """KL of q_D, nats."""
        return categorical_kl(parts.posterior.log_probs, model.prior.logits).mean()

    def price(
        self, model: GMLVM, parts: Parts, kl_z: Tensor, kl_k: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """What is added to the reconstruction term."""
        return self.beta * (kl_z + kl_k)


class Priced(Apart):
    """The ELBO with a weight for each of its KL terms.

    Args:
        of_k: That of q_D's.
        of_z: That of q_C's.
        enumeration: See :class:`Apart`.
    """

    def __init__(self, of_k: float, of_z: float, enumeration: Enumeration | None = None) -> None:
        super().__init__(enumeration)
        self.of_k, self.of_z = of_k, of_z

    def price(
        self, model: GMLVM, parts: Parts, kl_z: Tensor, kl_k: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Each with its weight."""
        return self.of_k * kl_k + self.of_z * kl_z


class Cut(Apart):
    """The ELBO with some of its pulls on q_D cut: the value of each term is as it was, and all other gradients.

    Args:
        pulls: Which of :data:`PULLS` do not reach q_D.
        common: Whether what a pull has in common for all images of the batch is taken out of it: a component's mean
            error and mean KL.
    """

    def __init__(self, pulls: Collection[str] = (), *, common: bool = False) -> None:
        super().__init__(Dense())
        self.pulls, self.common = frozenset(pulls), common

    def reconstruction(self, parts: Parts) -> Tensor:
        """As the ELBO's."""
        weight, error = (values.reshape(parts.kl_z.shape) for values in (parts.chosen.weight, parts.error))
        return self._pulled("reconstruction", parts, weight, error)

    def kl_z(self, parts: Parts) -> Tensor:
        """As the ELBO's."""
        return self._pulled("kl_z", parts, parts.posterior.log_probs.exp(), parts.kl_z)

    def kl_k(self, model: GMLVM, parts: Parts) -> Tensor:
        """As the ELBO's."""
        value = super().kl_k(model, parts)
        return value.detach() if "kl_k" in self.pulls else value

    def left(self, values: Tensor, parts: Parts) -> Tensor:
        """What is left to pull q_D of a term's values, (B, K) each."""
        return _particular(values) if self.common else values

    def _pulled(self, name: str, parts: Parts, q: Tensor, values: Tensor) -> Tensor:
        """The mean of values under q, (B, K) each, with the gradient in q that is left."""
        fixed = q.detach()
        mean = (fixed * values).sum(1).mean()
        if name in self.pulls:
            return mean
        return mean + ((q - fixed) * self.left(values, parts).detach()).sum(1).mean()


class CommonAlone(Cut):
    """The opposite of the cut of what is common: of a pull nothing else is left."""

    def left(self, values: Tensor, parts: Parts) -> Tensor:
        """A component's mean over the batch."""
        return values.mean(0).expand_as(values)


class _Weighed(Cut):
    """A cut that knows how strong the pulls of its batch are."""

    def parts(self, model: GMLVM, x: Tensor, generator: torch.Generator | None) -> Parts:
        """As the ELBO's; how strong they pull is kept."""
        parts = super().parts(model, x, generator)
        with torch.no_grad():
            self._particular, self._whole = _strengths(parts)
        return parts


class Shrunk(_Weighed):
    """A control of the cut of what is common: the pulls are whole, and together as strong as that cut leaves them.

    Strong is the norm of their gradient in the logits of the batch; both have one factor.
    """

    def left(self, values: Tensor, parts: Parts) -> Tensor:
        """The values, times the factor of this batch."""
        return values * self._particular / self._whole.clamp_min(torch.finfo(self._whole.dtype).tiny)


class Slow(_Weighed):
    """Another control of that cut: the pulls are whole, and q_D's steps shorter by the factor by which it weakens them.

    The length of Adam's steps hardly depends on the size of a gradient, so to shrink the pulls is not to shrink the
    steps. Train with :meth:`optimizer`.
    """

    @property
    def factor(self) -> float:
        """That of the last batch."""
        return (self._particular / self._whole).item() if self._whole > 0 else 1.0

    def optimizer(self, model: GMLVM, learning_rate: float) -> Callable[[list[nn.Parameter]], Optimizer]:
        """Adam, at a rate for q_D that has the factor of each batch; what :func:`gmlvm.fit` takes.

        Args:
            model: The model that is trained.
            learning_rate: Of all else.
        """
        slow = {id(parameter) for parameter in model.discrete_encoder.parameters()}

        def shorten(adam: Optimizer, *arguments: object) -> None:
            adam.param_groups[0]["lr"] *= self.factor  # the loop sets the rate anew before each step

        def make(parameters: list[nn.Parameter]) -> Optimizer:
            groups = [[p for p in parameters if (id(p) in slow) == of_q_d] for of_q_d in (True, False)]
            adam = Adam([{"params": group} for group in groups], lr=learning_rate, fused=True)
            adam.register_step_pre_hook(shorten)
            return adam

        return make


def _particular(values: Tensor) -> Tensor:
    """Values, (B, K), without what they have in common for all images."""
    return values - values.mean(0)


def _strengths(parts: Parts) -> tuple[Tensor, Tensor]:
    """How strong the reconstruction and the KL of z pull together without what they have in common, and with it."""
    cost = parts.error.reshape(parts.kl_z.shape) + parts.kl_z
    q = parts.posterior.log_probs.exp()
    return _strength(q, _particular(cost)), _strength(q, cost)


def _strength(q: Tensor, values: Tensor) -> Tensor:
    """Norm of the gradient in the logits of the sum over images of the mean of values under q, (B, K) each."""
    strength: Tensor = torch.linalg.vector_norm(q * (values - (q * values).sum(1, keepdim=True)))
    return strength


class Scheduled(Apart):
    """KL annealing: the price of k, or of z, rises from nothing.

    Args:
        steps: After which it is full.
        of_k: Whether the price of k rises.
        of_z: Whether that of z does.
    """

    count: Tensor

    def __init__(self, steps: int, *, of_k: bool = False, of_z: bool = False) -> None:
        super().__init__()
        self.steps, self.of_k, self.of_z = steps, of_k, of_z
        self.register_buffer("count", torch.zeros(()))

    def price(
        self, model: GMLVM, parts: Parts, kl_z: Tensor, kl_k: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Both divergences, with the weights of this step."""
        share = (self.count / self.steps).clamp(max=1)
        if self.training:
            self.count += 1
        return (share if self.of_z else 1) * kl_z + (share if self.of_k else 1) * kl_k


class FreeBits(Apart):
    """The KL of k costs nothing up to some nats, as a mean over the batch.

    Args:
        nats: What is free.
    """

    def __init__(self, nats: float) -> None:
        super().__init__()
        self.nats = nats

    def price(
        self, model: GMLVM, parts: Parts, kl_z: Tensor, kl_k: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Both divergences, that of k from the free nats on."""
        return kl_z + kl_k.clamp(min=self.nats)


class Encouraged(Apart):
    """A reward for the entropy of the use of the components, or for the information that k has of x.

    Args:
        weight: Nats of the objective for a nat.
        information: Whether it is for I(x; k); for the entropy if not.
    """

    def __init__(self, weight: float, *, information: bool) -> None:
        super().__init__()
        self.weight, self.information = weight, information

    def price(
        self, model: GMLVM, parts: Parts, kl_z: Tensor, kl_k: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Both divergences, less the reward."""
        entropy, information = use(parts.posterior.log_probs)
        return kl_z + kl_k - self.weight * (information if self.information else entropy)


class TowardsWAE(Apart):
    """The path from the ELBO to the WAE: the KLs give way to the MMD on pairs.

    Args:
        share: Of the KLs that is taken away, in [0, 1].
        penalty_weight: Of the MMD, times that share.
    """

    def __init__(self, share: float, penalty_weight: float) -> None:
        super().__init__()
        self.share, self.penalty_weight, self.penalty = share, penalty_weight, MMD()

    def price(
        self, model: GMLVM, parts: Parts, kl_z: Tensor, kl_k: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """What is left of the KLs, and the divergence."""
        divergence: Tensor = self.penalty(parts.posterior, parts.z, model.prior, generator)
        return (1 - self.share) * (kl_z + kl_k) + self.share * self.penalty_weight * divergence


class Relaxed(Apart):
    """One relaxed draw of k by the Gumbel-softmax, in place of the sum over k: the decoder sees a mean of codes.

    Args:
        temperature: Of the relaxation.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def parts(self, model: GMLVM, x: Tensor, generator: torch.Generator | None) -> Parts:
        """One code for each image, of whatever component is the most probable."""
        posterior = model.posterior_of_pixels(x)
        gumbel = -torch.empty_like(posterior.logits).exponential_(generator=generator).log()
        weight = ((posterior.log_probs + gumbel) / self.temperature).softmax(1)
        z = posterior.sample(generator)
        image = torch.arange(len(x), device=x.device)
        one = Selection(image, posterior.logits.argmax(1), torch.ones_like(weight[:, 0]))
        return _decoded(model, x, posterior, z, (weight.unsqueeze(2) * z).sum(1), one)


def _decoded(model: GMLVM, x: Tensor, posterior: Posterior, z: Tensor, codes: Tensor, chosen: Selection) -> Parts:
    """The parts that follow from the codes, (N, D), of the terms chosen."""
    logits = model.decoder_logits(codes)
    error = F.binary_cross_entropy_with_logits(logits, x[chosen.image], reduction="none").flatten(1).sum(1)
    return Parts(posterior, z, chosen, error, model.prior.component_kl(posterior.loc, posterior.scale))


def use(log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy of the mean of q_D over images, and what k tells of the image, both in nats and differentiable.

    Args:
        log_probs: log q_D(k|x), shape (B, K).
    """
    mean = log_probs.exp().mean(0).clamp_min(torch.finfo(log_probs.dtype).tiny)
    entropy = -(mean * mean.log()).sum()
    return entropy, entropy + (log_probs.exp() * log_probs).sum(1).mean()
