r"""Enumeration of the discrete latent: which terms of :math:`\sum_k q_D(k|x) f_k(x)` are computed.

Every rule gives each image a few components with weights that stand for q_D. The weights of an image sum to one: its
most probable component takes what the others leave, :math:`1 - \sum_{k \ne \hat k} w_k`. So a term counts only by how
far it differs from the most probable one, which lowers bias and variance of value and gradient alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gmlvm.validation import check_number, check_positive_int

#: Probability below which a component can be left out. Gradients then differ by less than a thousandth.
TOLERANCE = 1e-4


class Selection(NamedTuple):
    """The N terms to compute, out of B times K.

    Attributes:
        image: Index of the image, int64, shape (N,).
        component: Index k, int64, shape (N,); no pair of image and component stands twice.
        weight: Weight of the term, shape (N,), differentiable in q_D; the weights of an image sum to one.

    Source: chapter "Speed and sums".
    """

    image: Tensor
    component: Tensor
    weight: Tensor

    def mean(self, values: Tensor, batch: int) -> Tensor:
        r"""The sum over k of :math:`q_D(k|x) f_k(x)`, as a mean over the batch.

        Args:
            values: :math:`f_k(x)` of each term, shape (N,).
            batch: B, the number of images.

        Returns:
            A scalar in the unit of ``values``, differentiable in them and in q_D.
        """
        return (self.weight * values).sum() / batch

    def of_images(self, rows: slice) -> Selection:
        """The terms of some images alone.

        Args:
            rows: Which images.

        Returns:
            Their terms, with indices that count from the first of them.
        """
        own = (self.image >= rows.start) & (self.image < rows.stop)
        return Selection(self.image[own] - rows.start, self.component[own], self.weight[own])


class Enumeration(ABC):
    """A rule that selects the terms of a sum over k.

    Source: chapter "Speed and sums".
    """

    @abstractmethod
    def select(
        self, log_probs: Tensor, generator: torch.Generator | None = None, *, fixed_shape: bool = False
    ) -> Selection:
        """Select terms.

        Args:
            log_probs: log q_D(k|x), normalised, shape (B, K).
            generator: Source of randomness, for rules that draw terms; torch's global one if left out.
            fixed_shape: Whether the number of terms is not to depend on values, so that a GPU need not wait for
                them. Rules that can fill up with terms of weight zero.

        Returns:
            The :class:`Selection`; its :meth:`Selection.mean` estimates the sum over k.
        """


@dataclass(frozen=True)
class Dense(Enumeration):
    """All B times K terms: exact.

    Source: chapter "Speed and sums".
    """

    def select(
        self, log_probs: Tensor, generator: torch.Generator | None = None, *, fixed_shape: bool = False
    ) -> Selection:
        """Select every term; see :class:`Enumeration`."""
        component = torch.arange(log_probs.shape[1], device=log_probs.device).expand(log_probs.shape)
        return _selection(component, log_probs.exp())


@dataclass(frozen=True)
class Truncated(Enumeration):
    r"""Only terms with q_D(k|x) above a tolerance: as q_D grows sharp, few of K are left.

    The error is :math:`\sum_k q_k (f_{\hat k} - f_k)` over the terms left out. With F the range of :math:`f_k(x)`
    over k, the value is off by at most :math:`(K - 1) \cdot \text{tolerance} \cdot F`, and the gradient in the logits
    of q_D, summed over its absolute values, by at most twice that. The gradient in anything behind :math:`f` is off by
    at most :math:`(K - 1) \cdot \text{tolerance} \cdot \max_k \lVert \nabla f_{\hat k} - \nabla f_k \rVert`.

    How many terms there are depends on the values, whatever ``fixed_shape``: a GPU has to wait for them at each step.

    Args:
        tolerance: Terms of no more probability than this are left out, but for each image's largest; in [0, 1/2].

    Raises:
        ValueError: If ``tolerance`` is out of range.

    Source: chapter "Speed and sums".
    """

    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        check_number("tolerance", self.tolerance, maximum=0.5)

    def select(
        self, log_probs: Tensor, generator: torch.Generator | None = None, *, fixed_shape: bool = False
    ) -> Selection:
        """Select the terms above the tolerance and each image's largest; see :class:`Enumeration`."""
        weight, kept = truncate(log_probs, self.tolerance)
        image, component = kept.nonzero(as_tuple=True)
        return Selection(image, component, weight[image, component])


@dataclass(frozen=True)
class TopM(Enumeration):
    r"""The m largest terms exactly, and one drawn from the rest: unbiased, at a fixed cost of m + 1 terms.

    .. math::
        \sum_{k \in T} q_k f_k + R\, f_{k'}, \qquad R = 1 - \sum_{k \in T} q_k, \quad
        k' \sim q_k / R \text{ on } k \notin T

    with T the m largest. The weight of the drawn term has the value R and the gradient
    :math:`R\, \nabla \log q_{k'}`, so that the gradient is unbiased as well. With m at least K - 1 nothing is
    left to draw from, and the sum is exact.

    Args:
        m: Terms that are computed exactly, at least 1.

    Raises:
        TypeError: If ``m`` is not an integer.
        ValueError: If it is below 1.

    Source: Liu et al. (2019), section 3; chapter "Speed and sums".
    """

    m: int = 1

    def __post_init__(self) -> None:
        check_positive_int("m", self.m)

    def select(
        self, log_probs: Tensor, generator: torch.Generator | None = None, *, fixed_shape: bool = False
    ) -> Selection:
        """Select the m largest terms and draw one of the others; see :class:`Enumeration`."""
        num_components = log_probs.shape[1]
        if self.m >= num_components - 1:
            return Dense().select(log_probs)
        top = log_probs.detach().topk(self.m, dim=1).indices  # (B, m), the largest first
        rest = log_probs.detach().scatter(1, top, -torch.inf)  # (B, K)
        # What torch.multinomial does, without its look at the values, for which a GPU would have to wait.
        clocks = torch.empty_like(rest).exponential_(generator=generator)
        drawn = (rest.softmax(1) / clocks).argmax(1, keepdim=True)  # (B, 1)
        log_prob = log_probs.gather(1, drawn)  # (B, 1)
        # The second factor is one, with the gradient of the logarithm: the score function of the draw.
        drawn_weight = rest.exp().sum(1, keepdim=True) * (log_prob - log_prob.detach()).exp()
        others = torch.cat([log_probs.gather(1, top[:, 1:]).exp(), drawn_weight], dim=1)  # (B, m)
        weight = torch.cat([1 - others.sum(1, keepdim=True), others], dim=1)  # (B, m + 1)
        return _selection(torch.cat([top, drawn], dim=1), weight)


@dataclass(frozen=True)
class Resampled(Enumeration):
    r"""Terms with q_D(k|x) of at least 1/m exactly, the smaller ones by chance: unbiased, at most m + 1 terms.

    A term below 1/m is kept with probability :math:`m\, q_k`, and then weighs 1/m, whatever it was. Its expected
    weight is :math:`q_k`. The draws of one image are stratified: with R the total of its small terms, :math:`m R`
    terms are kept, rounded up or down. So an image costs :math:`1 + \sum_{k \ne \hat k} \min(1, m\, q_k)` terms on
    average, whatever K, and one as q_D grows sharp.

    The weight of a kept small term has the gradient :math:`\nabla q_k / (m\, q_k)`, so that the gradient of the sum is
    unbiased as well. No weight is negative. Weights of different images are independent, so sums over pairs of
    images are unbiased too.

    Args:
        m: Inverse of the probability from which terms are exact, at least 1.

    Raises:
        TypeError: If ``m`` is not an integer.
        ValueError: If it is below 1.

    Source: Fearnhead and Clifford (2003), with a threshold that is fixed; chapter "Speed and sums".
    """

    m: int = 2

    def __post_init__(self) -> None:
        check_positive_int("m", self.m)

    def select(
        self, log_probs: Tensor, generator: torch.Generator | None = None, *, fixed_shape: bool = False
    ) -> Selection:
        """Select the terms of 1/m or more and the largest, draw from the others; see :class:`Enumeration`."""
        probs = log_probs.exp()
        with torch.no_grad():
            top = probs.argmax(1, keepdim=True)  # (B, 1)
            chance = (self.m * probs).scatter_(1, top, 0)  # (B, K)
            large = chance >= 1
            # The small terms' chances side by side, and a comb of unit spacing laid over them, shifted at random: a
            # term is kept if a tooth falls into its stretch.
            shift = torch.rand(len(probs), 1, generator=generator, device=probs.device, dtype=probs.dtype)
            teeth = torch.cat([shift, shift + chance.masked_fill(large, 0).cumsum(1)], dim=1).floor()
            drawn = teeth[:, 1:] > teeth[:, :-1]
            factor = drawn / chance.clamp_min(torch.finfo(probs.dtype).tiny) + large
            kept = (drawn | large).scatter_(1, top, True)
        weight = _with_rest(probs * factor, top)  # (B, K)
        if fixed_shape:  # m + 1 places an image; free ones hold terms of weight zero
            component = kept.to(probs).topk(min(self.m + 1, probs.shape[1]), dim=1).indices
            return _selection(component, weight.gather(1, component))
        image, component = kept.nonzero(as_tuple=True)
        return Selection(image, component, weight[image, component])


def truncate(log_probs: Tensor, tolerance: float = TOLERANCE) -> tuple[Tensor, Tensor]:
    """Weights in which no component of little probability takes part; see :class:`Truncated`.

    Args:
        log_probs: log q_D(k|x), normalised, shape (B, K).
        tolerance: Components of no more probability than this are left out, but for each image's largest.

    Returns:
        The weights, shape (B, K), rows summing to one, zero where a component is left out, differentiable in q_D;
        and which take part, bool, shape (B, K).

    Source: chapter "Speed and sums".
    """
    probs = log_probs.exp()
    with torch.no_grad():
        top = probs.argmax(1, keepdim=True)  # (B, 1)
        kept = (probs > tolerance).scatter_(1, top, False)
        weight_of_others = kept.to(probs.dtype)
        kept = kept.scatter(1, top, True)
    return _with_rest(probs * weight_of_others, top), kept


def _selection(component: Tensor, weight: Tensor) -> Selection:
    """Equally many terms for each image, from (B, M) and (B, M)."""
    image = torch.arange(len(component), device=component.device).repeat_interleave(component.shape[1])
    return Selection(image, component.flatten(), weight.flatten())


def _with_rest(others: Tensor, top: Tensor) -> Tensor:
    """Weights (B, M) that sum to one, from those of all but the term at index ``top``, (B, 1), where there is zero."""
    return others.scatter(1, top, 1 - others.sum(1, keepdim=True))
