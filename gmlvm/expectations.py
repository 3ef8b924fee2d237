r"""Expectations over k: which terms of :math:`\sum_k q_D(k|x) f_k(x)` are computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from gmlvm.validation import check_number


class Selection(NamedTuple):
    """The N terms to compute, out of B times K.

    Attributes:
        image: Index of the image, int64, shape (N,).
        component: Index k, int64, shape (N,).
        weight: Weight of the term, shape (N,), differentiable in q_D.

    Source: chapter "Training the GM-WAE".
    """

    image: Tensor
    component: Tensor
    weight: Tensor


class Expectation(ABC):
    """A rule that selects the terms of a sum over k.

    Source: chapter "Training the GM-WAE".
    """

    @abstractmethod
    def select(self, log_probs: Tensor) -> Selection:
        """Select terms.

        Args:
            log_probs: log q_D(k|x), normalised, shape (B, K).

        Returns:
            The :class:`Selection`. The sum over k of image i is the sum of ``weight * f`` over its terms.
        """


@dataclass(frozen=True)
class Dense(Expectation):
    """All B times K terms: exact.

    Source: chapter "Training the GM-WAE".
    """

    def select(self, log_probs: Tensor) -> Selection:
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
        tolerance: Smallest probability that is computed, in [0, 1/2).

    Raises:
        ValueError: If ``tolerance`` is out of range.

    Source: chapter "Training the GM-WAE".
    """

    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        check_number("tolerance", self.tolerance, maximum=0.5)

    def select(self, log_probs: Tensor) -> Selection:
        """Select the terms above the tolerance and each image's largest."""
        probs = log_probs.exp()
        kept = (probs > self.tolerance).scatter(1, probs.argmax(1, keepdim=True), True)
        image, component = kept.nonzero(as_tuple=True)
        return Selection(image, component, probs[image, component])
