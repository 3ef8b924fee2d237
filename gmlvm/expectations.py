r"""Expectations over k: which terms of :math:`\sum_k q_D(k|x) f_k(x)` are computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gmlvm.validation import check_number, check_positive_int


class Selection(NamedTuple):
    """The N terms to compute, out of B times K.

    Attributes:
        image: Index of the image, int64, shape (N,).
        component: Index k, int64, shape (N,).
        weight: Weight of the term, shape (N,), differentiable in q_D.
        control: Where each image's last term was drawn, a control variate for the gradient, shape (B,): of value
            zero and mean gradient zero. None where no term was drawn.

    Source: chapter "Training the GM-WAE".
    """

    image: Tensor
    component: Tensor
    weight: Tensor
    control: Tensor | None = None

    def mean(self, values: Tensor, batch: int) -> Tensor:
        r"""The sum over k of :math:`q_D(k|x) f_k(x)`, as a mean over the batch.

        Args:
            values: :math:`f_k(x)` of each term, shape (N,).
            batch: B, the number of images.

        Returns:
            A scalar in the unit of ``values``, differentiable in them and in q_D.
        """
        total = (self.weight * values).sum()
        if self.control is not None:
            # What a drawn term is like matters only as far as it differs from those computed exactly.
            exact = values.detach().view(batch, -1)[:, :-1]
            total = total + (self.control * exact.mean(1)).sum()
        return total / batch


class Expectation(ABC):
    """A rule that selects the terms of a sum over k.

    Source: chapter "Training the GM-WAE".
    """

    @abstractmethod
    def select(self, log_probs: Tensor, generator: torch.Generator | None = None) -> Selection:
        """Select terms.

        Args:
            log_probs: log q_D(k|x), normalised, shape (B, K).
            generator: Source of randomness, for rules that draw terms; torch's global one if left out.

        Returns:
            The :class:`Selection`; its :meth:`Selection.mean` estimates the sum over k.
        """


@dataclass(frozen=True)
class Dense(Expectation):
    """All B times K terms: exact.

    Source: chapter "Training the GM-WAE".
    """

    def select(self, log_probs: Tensor, generator: torch.Generator | None = None) -> Selection:
        """Select every term."""
        probs = log_probs.exp()
        image, component = probs.new_ones(probs.shape).nonzero(as_tuple=True)
        return Selection(image, component, probs.flatten())


@dataclass(frozen=True)
class Truncated(Expectation):
    r"""Only terms with q_D(k|x) above a tolerance: as q_D grows sharp, few of K are left.

    The value is off by at most :math:`\text{tolerance} \cdot K \cdot \max_k |f_k(x)|`. The largest term is always
    kept.

    Args:
        tolerance: Terms of no more probability than this are left out, in [0, 1/2].

    Raises:
        ValueError: If ``tolerance`` is out of range.

    Source: chapter "Training the GM-WAE".
    """

    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        check_number("tolerance", self.tolerance, maximum=0.5)

    def select(self, log_probs: Tensor, generator: torch.Generator | None = None) -> Selection:
        """Select the terms above the tolerance and each image's largest."""
        probs = log_probs.exp()
        kept = (probs > self.tolerance).scatter(1, probs.argmax(1, keepdim=True), True)
        image, component = kept.nonzero(as_tuple=True)
        return Selection(image, component, probs[image, component])


@dataclass(frozen=True)
class TopM(Expectation):
    r"""The m largest terms exactly, and one drawn from the rest: unbiased, at a fixed cost of m + 1 terms.

    .. math::
        \sum_{k \in T} q_k f_k + R\, f_{k'}, \qquad R = 1 - \sum_{k \in T} q_k, \quad
        k' \sim q_k / R \text{ on } k \notin T

    with T the m largest. The weight of the drawn term has the value R and the gradient
    :math:`R\, \nabla \log q_{k'}`, so that the gradient is unbiased as well; the mean of the exact terms serves as
    its baseline. With m at least K - 1 nothing is left to draw from, and the sum is exact.

    Args:
        m: Terms that are computed exactly, at least 1.

    Raises:
        TypeError: If ``m`` is not an integer.
        ValueError: If it is below 1.

    Source: Liu et al. (2019), section 3.
    """

    m: int = 1

    def __post_init__(self) -> None:
        check_positive_int("m", self.m)

    def select(self, log_probs: Tensor, generator: torch.Generator | None = None) -> Selection:
        """Select the m largest terms and draw one of the others."""
        num_components = log_probs.shape[1]
        if self.m >= num_components - 1:
            return Dense().select(log_probs)
        top = log_probs.detach().topk(self.m, dim=1).indices  # (B, m)
        rest = log_probs.detach().scatter(1, top, -torch.inf)  # (B, K)
        drawn = torch.multinomial(rest.softmax(1), 1, generator=generator)  # (B, 1)
        drawn_log_prob = log_probs.gather(1, drawn)
        # One, with the gradient of the logarithm: the score function of the draw.
        score = (drawn_log_prob - drawn_log_prob.detach()).exp()
        exact = log_probs.gather(1, top).exp()  # (B, m)
        drawn_weight = rest.exp().sum(1, keepdim=True) * score  # (B, 1)
        # What is left of one has the same value and the exact gradient.
        left = 1 - exact.sum(1)
        control = (left - left.detach()) - (drawn_weight - drawn_weight.detach()).squeeze(1)
        weight = torch.cat([exact, drawn_weight], dim=1)
        component = torch.cat([top, drawn], dim=1)  # (B, m + 1)
        image = torch.arange(len(log_probs), device=log_probs.device).repeat_interleave(self.m + 1)
        return Selection(image, component.flatten(), weight.flatten(), control)
