r"""Objectives that train a discrete encoder by itself, with no decoder: what a component is to mean."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gmlvm import distributed
from gmlvm.batches import Batch
from gmlvm.clusterer import Clusterer
from gmlvm.kl import categorical_kl
from gmlvm.objectives import Objective
from gmlvm.validation import check_number, check_shape, check_type
from gmlvm.vat import Smoothness


class InformationTerms(NamedTuple):
    """Terms of information maximisation, scalars in nats.

    Attributes:
        loss: smoothness.weight * roughness + weight * (conditional_entropy - balance * entropy), or with the KL from
            given shares for the negative entropy.
        roughness: Change of q_D(k|x) under the worst small perturbation of x, mean over the batch.
        conditional_entropy: H(k|x), the entropy of q_D(k|x), mean over the batch.
        entropy: H(k), the entropy of the batch's mean q_D(k|x).
    """

    loss: Tensor
    roughness: Tensor
    conditional_entropy: Tensor
    entropy: Tensor


class DistillationTerms(NamedTuple):
    """Terms of distillation, scalars in nats, each a mean over the batch.

    Attributes:
        loss: cross_entropy + smoothness.weight * roughness.
        cross_entropy: Of q_D(k|x) relative to the teacher's probabilities.
        roughness: Change of q_D(k|x) under the worst small perturbation of x.
    """

    loss: Tensor
    cross_entropy: Tensor
    roughness: Tensor


class InformationMaximisation(Objective):
    r"""Regularised information maximisation with virtual adversarial training, as IMSAT has it.

    .. math::
        \gamma\, KL\big(q_D(\cdot|x) \,\|\, q_D(\cdot|x + r)\big)
        + w \big( H(k|x) - \nu\, H(k) \big)

    Small where q_D is sure of each image, uses its components evenly, and draws its boundaries where there are no
    images. No decoder takes part and no label is looked at. Where groups are of unequal size, an even use cuts the
    large ones and joins small ones to others: with ``shares`` the KL of the mean q_D(k|x) from these takes the place
    of :math:`-H(k)`.

    Args:
        smoothness: The first term with its weight :math:`\gamma`; ``Smoothness()`` if left out.
        weight: w, at least 0.
        balance: :math:`\nu`, at least 0: how much the use of the components is worth. At 1 the bracket is
            the negative mutual information of image and component.
        shares: Of the images that each component is to have, shape (K,), positive, summing to one; even ones if left
            out.

    Raises:
        TypeError: If ``smoothness`` has the wrong type, or ``shares`` is not a tensor.
        ValueError: If a weight is negative or not finite, or ``shares`` are not positive or do not sum to one.

    Source: Hu et al. (2017), equation 10; chapter "Components that mean digits".
    """

    shares: Tensor | None

    def __init__(
        self,
        smoothness: Smoothness | None = None,
        *,
        weight: float = 0.1,
        balance: float = 4.0,
        shares: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.smoothness = Smoothness() if smoothness is None else smoothness
        check_type("smoothness", self.smoothness, Smoothness)
        self.weight = check_number("weight", weight)
        self.balance = check_number("balance", balance)
        if shares is not None:
            check_shape("shares", shares, (None,), " (num_components,)")
            if not bool((shares > 0).all()) or not torch.allclose(shares.sum(), torch.ones_like(shares[0])):
                raise ValueError(f"shares must be positive and sum to one, got {shares}")
            shares = shares.detach().clone()
        self.register_buffer("shares", shares)

    def terms(self, model: Clusterer, batch: Batch, generator: torch.Generator | None) -> InformationTerms:
        """Compute roughness and entropies; see :class:`gmlvm.Objective`."""
        x = model.pixels(batch.images)
        log_probs = model.discrete_encoder(x).log_softmax(1)  # (B, K)
        # Over several processes as well: H(k) of a part of the batch would be too small.
        mean = distributed.whole_rows(log_probs).exp().mean(0)  # (K,)
        log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
        conditional, entropy = _entropy(log_probs).mean(), _entropy(log_mean)
        use = entropy
        if self.shares is not None:
            check_shape("shares", self.shares, tuple(log_mean.shape), " (num_components,)")
            use = -categorical_kl(log_mean, self.shares.to(log_mean).log())
        roughness = self.smoothness(model.discrete_encoder, x, generator, log_probs)
        loss = self.smoothness.weight * roughness + self.weight * (conditional - self.balance * use)
        return InformationTerms(loss, roughness, conditional, entropy)

    def extra_repr(self) -> str:
        """The settings for ``repr``."""
        shares = "" if self.shares is None else f", shares={self.shares.tolist()}"
        return f"weight={self.weight}, balance={self.balance}{shares}"


class Distillation(Objective):
    r"""Bring q_D(k|x) to a teacher's probabilities for each training image, and keep it smooth.

    .. math:: - \sum_k t_k(x) \log q_D(k|x) + \gamma\, KL\big(q_D(\cdot|x) \,\|\, q_D(\cdot|x + r)\big)

    Args:
        targets: The teacher's probabilities for the training images, in their order, shape (N, K), rows summing to one.
            With labels one-hot it trains a classifier.
        smoothness: The second term with its weight :math:`\gamma`; ``Smoothness()`` if left out.

    Raises:
        TypeError: If ``targets`` is not a tensor, or ``smoothness`` has the wrong type.
        ValueError: If the targets are not probabilities.

    Source: Hinton et al. (2015), section 2; Miyato et al. (2019); chapter "Components that mean digits".
    """

    targets: Tensor

    def __init__(self, targets: Tensor, smoothness: Smoothness | None = None) -> None:
        super().__init__()
        check_shape("targets", targets, (None, None), " (images, num_components)")
        if not bool((targets >= 0).all()) or not torch.allclose(targets.sum(1), torch.ones_like(targets[:, 0])):
            raise ValueError("targets must be probabilities, with rows that sum to one")
        self.register_buffer("targets", targets.detach().clone())
        self.smoothness = Smoothness() if smoothness is None else smoothness
        check_type("smoothness", self.smoothness, Smoothness)

    def terms(self, model: Clusterer, batch: Batch, generator: torch.Generator | None) -> DistillationTerms:
        """Compute the cross-entropy and the roughness; see :class:`gmlvm.Objective`."""
        if batch.indices is None:
            raise ValueError("targets belong to the images of a data set, and the batch does not say which it has")
        x = model.pixels(batch.images)
        log_probs = model.discrete_encoder(x).log_softmax(1)  # (B, K)
        targets = check_shape("targets", self.targets, (None, log_probs.shape[1]), " (images, num_components)")
        cross_entropy = -(targets[batch.indices].to(log_probs) * log_probs).sum(1).mean()
        roughness = self.smoothness(model.discrete_encoder, x, generator, log_probs)
        return DistillationTerms(cross_entropy + self.smoothness.weight * roughness, cross_entropy, roughness)


def _entropy(log_probs: Tensor) -> Tensor:
    # Of logarithms: the slope of p log p at a probability that is rounded to zero is infinite.
    return -categorical_kl(log_probs, torch.zeros_like(log_probs))
