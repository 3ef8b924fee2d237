r"""Kernels on codes as functions of the squared distance, and their expectations over Gaussians."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from gmlvm.prior import Prior
from gmlvm.validation import check_number, check_positive_int

#: Bandwidths of the default kernel, in units of the mean squared distance between two codes of one prior component.
#: As wide as the original's (0.8 to 80 in this unit): with the simplex prior of ten components, whose codes are 1.9
#: units apart across components, all but the first are wider than the whole prior. They see a component's mean and
#: variance from afar, and little of how its codes fill it, which takes bandwidths of 0.1 to 0.3.
DEFAULT_BANDWIDTHS = (0.8, 2.4, 8.0, 24.0, 80.0)


class Kernel(ABC):
    """A positive definite kernel on codes that depends on their distance alone.

    :func:`gmlvm.testing.check_kernel` tries one out.

    Source: Gretton et al. (2012), section 2; chapter "From transport to autoencoders".
    """

    @abstractmethod
    def __call__(self, squared_distance: Tensor) -> Tensor:
        """Kernel values.

        Args:
            squared_distance: Squared Euclidean distances, any shape, at least 0.

        Returns:
            Values of the same shape, without unit, differentiable.
        """

    def expected(self, difference: Tensor, variance: Tensor, nodes: int = 8) -> Tensor:
        r"""Expectation of the kernel over a pair of independent Gaussian draws, where there is a closed form.

        Args:
            difference: :math:`\Delta`, the difference of the means, shape (..., D).
            variance: v, the sum of the variances, broadcasts to ``difference``, at least 0.
            nodes: Nodes of a quadrature, for kernels that need one, at least 1.

        Returns:
            The expectation, shape (...), without unit.

        Raises:
            NotImplementedError: If the kernel has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no closed form over Gaussians; estimate it from samples")

    @property
    def has_closed_form(self) -> bool:
        """Whether :meth:`expected` is there."""
        return type(self).expected is not Kernel.expected


@dataclass(frozen=True)
class InverseMultiquadratic(Kernel):
    r"""Sum of inverse multiquadratic kernels, :math:`\kappa(a, b) = \sum_s C_s / (C_s + \lVert a - b \rVert^2)`.

    Its tails are heavy, so codes far from the prior still feel a pull.

    Args:
        constants: Squared bandwidths :math:`C_s`, in squared units of z, at least one, positive.

    Raises:
        ValueError: If there is no constant, or one is not positive or asks for gradients.

    Source: Tolstikhin et al. (2018), section 4; chapter "From transport to autoencoders".

    Example:
        >>> InverseMultiquadratic([1.0, 3.0])(torch.tensor(1.0)).item()  # 1/2 + 3/4
        1.25
    """

    constants: Sequence[float | Tensor]

    def __post_init__(self) -> None:
        if len(self.constants) == 0:
            raise ValueError("constants must hold at least one value, got none")
        for value in self.constants:
            if not isinstance(value, Tensor):
                check_number("constants", value, exclusive=True)
            elif value.requires_grad:
                raise ValueError(
                    "constants that ask for gradients would get none; write a kernel of your own to learn them"
                )
        object.__setattr__(self, "constants", tuple(self.constants))

    @classmethod
    def for_prior(cls, prior: Prior, bandwidths: Sequence[float] = DEFAULT_BANDWIDTHS) -> InverseMultiquadratic:
        r"""Constants :math:`C_s = 2 D \bar s^2 \cdot \text{bandwidth}_s`, with the prior's mean variance.

        :math:`2 D \bar s^2` is the mean squared distance between two codes of one component. Of a prior that learns
        its scales the kernel follows the values, and no gradient takes that way.

        Args:
            prior: The prior whose units the codes have.
            bandwidths: One for each kernel, in that unit, positive.

        Returns:
            The kernel. Its constants are numbers where the prior is on the CPU; elsewhere they stay on the device, so
            that nothing waits for them.

        Raises:
            ValueError: If there is no bandwidth, or one is not positive.
        """
        check_bandwidths(bandwidths)
        variance = prior.scale.detach().square().mean()
        unit = 2 * prior.latent_dim * (variance.item() if variance.device.type == "cpu" else variance)
        return cls(tuple(unit * bandwidth for bandwidth in bandwidths))

    def __call__(self, squared_distance: Tensor) -> Tensor:
        """Kernel values for squared distances, of the same shape, in (0, number of constants]."""
        values: Tensor = _InverseMultiquadraticSum.apply(squared_distance, tuple(self.constants))
        return values

    def expected(self, difference: Tensor, variance: Tensor, nodes: int = 8) -> Tensor:
        r"""Expectation of the kernel over a pair of independent Gaussian draws.

        From :math:`C / (C + r^2) = \int_0^\infty e^{-t (1 + r^2 / C)}\, dt`,

        .. math::
            E\, \frac{C}{C + \lVert a - b \rVert^2} = \int_0^\infty e^{-t} \prod_d
            \Big(1 + \frac{2 t v_d}{C}\Big)^{-1/2} \exp\Big(-\frac{t \Delta_d^2}{C + 2 t v_d}\Big)\, dt

        for :math:`a - b \sim N(\Delta, \operatorname{diag} v)`. The integral is taken by Gauss-Laguerre quadrature in
        :math:`u = t\, (1 + E \lVert a - b \rVert^2 / C)`, in which it is exact for vanishing variance.

        Args:
            difference: :math:`\Delta`, the difference of the means, shape (..., D).
            variance: v, the sum of the variances, broadcasts to ``difference``, at least 0.
            nodes: Nodes of the quadrature, at least 1. For C down to a fifteenth of the mean squared distance eight
                give an error below 1e-4 in nine dimensions of similar variance (four, below 1e-3), and below 2e-2 in
                one dimension or where one has all of the variance.

        Returns:
            The expectation, shape (...), without unit.

        Raises:
            ValueError: If ``nodes`` is below 1.

        Source: Abramowitz and Stegun (1964), 25.4.45, for the quadrature.

        Example:
            >>> zero = torch.zeros(1)
            >>> round(InverseMultiquadratic([1.0, 3.0]).expected(zero, zero).item(), 4)  # without noise: kernel(0)
            2.0
        """
        check_positive_int("nodes", nodes)
        points, log_weights = (difference.new_tensor(values) for values in _quadrature(nodes))  # (Q,)
        squared = difference.square()
        mean_squared_distance = (squared + variance).sum(-1, keepdim=True)  # (..., 1)
        squared, variance = squared.unsqueeze(-2), variance.unsqueeze(-2)  # (..., 1, D)
        total = torch.zeros_like(mean_squared_distance.squeeze(-1))
        for constant in self.constants:
            rate = 1 + mean_squared_distance / constant  # (..., 1)
            t = points / rate  # (..., Q)
            spread = (2 / constant) * t.unsqueeze(-1) * variance  # (..., Q, D)
            exponent = ((t / constant).unsqueeze(-1) * squared / (1 + spread) + 0.5 * spread.log1p()).sum(-1)
            total = total + ((log_weights - t - exponent).exp().sum(-1) / rate.squeeze(-1))
        return total


class _InverseMultiquadraticSum(torch.autograd.Function):
    """The sum and its derivative in one pass, which saves one tensor for the way back instead of two a constant."""

    @staticmethod
    def forward(ctx: Any, squared_distance: Tensor, constants: tuple[float | Tensor, ...]) -> Tensor:
        total, slope = torch.zeros_like(squared_distance), torch.zeros_like(squared_distance)
        for constant in constants:
            reciprocal = (squared_distance + constant).reciprocal_()
            if isinstance(constant, Tensor):
                weighted = reciprocal * constant
                total.add_(weighted)
                slope.addcmul_(weighted, reciprocal, value=-1)
            else:  # a number saves one pass over the distances
                total.add_(reciprocal, alpha=constant)
                slope.addcmul_(reciprocal, reciprocal, value=-constant)
        ctx.save_for_backward(slope)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None


def _quadrature(nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes u and, in logs for fear of overflow, weights of the integral over u without the factor exp(-u): (Q,)."""
    points, weights = np.polynomial.laguerre.laggauss(nodes)
    return points, np.log(weights) + points


@dataclass(frozen=True)
class Gaussian(Kernel):
    r"""Sum of Gaussian kernels, :math:`\kappa(a, b) = \sum_s \exp(-\lVert a - b \rVert^2 / 2 l_s^2)`.

    Its tails are light: codes far from everything feel next to no pull.

    Args:
        bandwidths: The widths :math:`l_s`, not squared, in units of z, at least one, positive.

    Raises:
        ValueError: If there is no bandwidth, or one is not positive.

    Source: Gretton et al. (2012), section 2.2; chapter "From transport to autoencoders".

    Example:
        >>> round(Gaussian([1.0])(torch.tensor(2.0)).item(), 4)  # exp(-1)
        0.3679
    """

    bandwidths: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "bandwidths", check_bandwidths(self.bandwidths))

    def __call__(self, squared_distance: Tensor) -> Tensor:
        """Kernel values for squared distances, of the same shape, in (0, number of bandwidths]."""
        return torch.stack([(squared_distance * (-0.5 / width**2)).exp() for width in self.bandwidths]).sum(0)

    def expected(self, difference: Tensor, variance: Tensor, nodes: int = 8) -> Tensor:
        r"""Expectation over a pair of independent Gaussian draws; see :class:`Kernel`.

        .. math::
            E\, \kappa = \sum_s \prod_d \Big(\frac{l_s^2}{l_s^2 + v_d}\Big)^{1/2}
            \exp\Big(-\frac{\Delta_d^2}{2 (l_s^2 + v_d)}\Big)
        """
        total = torch.zeros_like(difference[..., 0])
        for width in self.bandwidths:
            wider = variance + width**2
            log_factors = 0.5 * (2 * np.log(width) - wider.log()) - 0.5 * difference.square() / wider
            total = total + log_factors.sum(-1).exp()
        return total


def is_constant(kernel: Kernel) -> bool:
    """Whether a kernel is one of this module, of numbers alone, so that its values can't change.

    Args:
        kernel: The kernel.
    """
    if type(kernel) is InverseMultiquadratic:
        return not any(isinstance(value, Tensor) for value in kernel.constants)
    return type(kernel) is Gaussian


def check_bandwidths(bandwidths: Sequence[float]) -> tuple[float, ...]:
    """Return bandwidths as numbers if there is at least one, and all are positive.

    Args:
        bandwidths: The bandwidths.

    Raises:
        TypeError: If one is not a number.
        ValueError: If there is none, or one is not positive.
    """
    if len(bandwidths) == 0:
        raise ValueError("bandwidths must hold at least one value, got none")
    return tuple(check_number("bandwidths", value, exclusive=True) for value in bandwidths)
