r"""Divergences between the aggregated posterior and the prior, as parts of an objective; the MMD is built in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from gmlvm import closed_form, mmd
from gmlvm.enumeration import truncate
from gmlvm.kernels import DEFAULT_BANDWIDTHS, InverseMultiquadratic, Kernel, check_bandwidths, is_constant
from gmlvm.mmd import ON
from gmlvm.posterior import Posterior
from gmlvm.prior import GaussianMixturePrior, Prior
from gmlvm.validation import check_choice, check_number, check_positive_int, check_type

#: Which of the three parts of the squared MMD are taken in closed form.
ESTIMATORS = ("sampled", "half-closed", "closed")
# Quadrature nodes of the prior's own part, in float64, where it is computed once: it may as well be exact.
_CONSTANT_NODES = 64


class Divergence(nn.Module, ABC):
    """How far the codes of a batch are from the prior, as a part that :class:`gmlvm.WAE` takes.

    What it holds as parameters is trained and saved with the objective. :func:`gmlvm.testing.check_divergence` tries
    one out.

    Source: Tolstikhin et al. (2018), section 3; chapter "From transport to autoencoders".
    """

    @abstractmethod
    def forward(
        self, posterior: Posterior, z: Tensor, prior: Prior, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the divergence.

        Args:
            posterior: Both posteriors of a batch of B images.
            z: One sample of the posterior for each image and component, shape (B, K, D).
            prior: The prior, of the same K and D.
            generator: Source of randomness, on the codes' device; torch's global one if left out.

        Returns:
            A scalar, differentiable in the posterior, in ``z`` and in what the prior learns.
        """


class MMD(Divergence):
    r"""The squared maximum mean discrepancy, without bias but for a tolerance; see :func:`gmlvm.mmd.squared_mmd`.

    Codes of components with next to no probability are left out: for each image those below ``tolerance`` / K, which
    have at most ``tolerance`` of its probability together, whatever K is. Their mass goes to the most probable
    component. The sum over codes is not estimated from drawn terms, as that of the cost can be: its gradient would be
    much noisier.

    Args:
        on: ``"pairs"`` compares the pair (k, z), ``"codes"`` z alone, as the original does.
        kernel: The kernel on codes, in units of z; a sum of inverse multiquadratics if left out, of the bandwidths that
            follow.
        bandwidths: Squared bandwidths of that sum, in units of the mean squared distance :math:`2 D \bar s^2` between
            two codes of one prior component; see :data:`gmlvm.kernels.DEFAULT_BANDWIDTHS` for what the defaults see.
        estimator: ``"sampled"``; ``"half-closed"``, with closed forms for all that the prior is part of; or
            ``"closed"``, with no sample at all. What the prior has to itself is closed wherever it can be.
        prior_samples: Samples drawn from each prior component if ``"sampled"``, at least 2.
        tolerance: Probability of an image that may be left out, in [0, 1/2]. The relative error of the gradient is
            about as large, for every K.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range or unknown, both ``kernel`` and ``bandwidths`` are given, or a closed form is
            asked for that the kernel doesn't have.

    Source: Gretton et al. (2012), lemma 6; Gaujac, Feige and Barber (2018), section 3;
    chapter "From transport to autoencoders".
    """

    def __init__(
        self,
        on: str = "pairs",
        *,
        kernel: Kernel | Callable[[Tensor], Tensor] | None = None,
        bandwidths: Sequence[float] | None = None,
        estimator: str = "sampled",
        prior_samples: int = 16,
        tolerance: float = 1e-3,
    ) -> None:
        super().__init__()
        self.on = check_choice("on", on, ON)
        if kernel is not None and bandwidths is not None:
            raise ValueError(f"either a kernel or the bandwidths of the default one, got both: {kernel}, {bandwidths}")
        if kernel is not None and not callable(kernel):
            raise TypeError(f"kernel must be a function of squared distances, got {kernel!r}")
        self.kernel = kernel
        self.bandwidths = check_bandwidths(DEFAULT_BANDWIDTHS if bandwidths is None else bandwidths)
        self.estimator = check_choice("estimator", estimator, ESTIMATORS)
        self.prior_samples = check_positive_int("prior_samples", prior_samples, minimum=2)
        self.tolerance = check_number("tolerance", tolerance, maximum=0.5)
        if estimator != "sampled" and not self._closed(kernel):
            raise ValueError(
                f"estimator {estimator!r} needs a kernel with a closed form over Gaussians, got {kernel!r}"
            )
        # The prior's values of the last time, the settings, and the prior-prior part that goes with them.
        self._known: tuple[Tensor, object, Tensor] | None = None

    def forward(
        self, posterior: Posterior, z: Tensor, prior: Prior, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the squared MMD; see :class:`Divergence`. Without unit; it can be negative."""
        if self.estimator != "sampled":
            check_type("prior, for closed forms,", prior, GaussianMixturePrior)
        # Not under autocast: distances are small differences of large numbers.
        with torch.autocast(z.device.type, enabled=False):
            kernel = self.kernel
            if kernel is None:
                kernel = InverseMultiquadratic.for_prior(prior, self.bandwidths)
            weight, kept = truncate(posterior.log_probs, self.tolerance / prior.num_components)  # (B, K)
            prior_part = self._prior_part(prior, kernel)
            if self.estimator == "sampled":
                prior_z = prior.sample_each(self.prior_samples, generator)  # (K, M, D)
                return mmd.squared_mmd(
                    weight, z, prior.probs, prior_z, kernel, self.on, kept=kept, prior_part=prior_part
                )
            assert isinstance(prior, GaussianMixturePrior)
            assert isinstance(kernel, Kernel)
            if self.estimator == "closed":
                data = closed_form.data_data(weight, posterior.loc, posterior.scale, kernel, self.on, kept)
            else:
                data = mmd.data_data(weight, z, kernel, self.on, kept)
            cross = closed_form.data_prior(weight, posterior.loc, posterior.scale, prior, kernel, self.on, kept)
            assert prior_part is not None
            return data - 2 * cross + prior_part

    def extra_repr(self) -> str:
        """The settings for ``repr``."""
        kernel = f"bandwidths={self.bandwidths}" if self.kernel is None else f"kernel={self.kernel}"
        return (
            f"{self.on!r}, {kernel}, estimator={self.estimator!r}, prior_samples={self.prior_samples}, "
            f"tolerance={self.tolerance}"
        )

    @staticmethod
    def _closed(kernel: object) -> bool:
        return kernel is None or (isinstance(kernel, Kernel) and kernel.has_closed_form)

    def _prior_part(self, prior: Prior, kernel: Kernel | Callable[[Tensor], Tensor]) -> Tensor | None:
        """The part that the prior has to itself, in closed form where there is one.

        It is computed each time, with its gradient, where anything in it is learned, where a kernel of one's own may
        change, and off the CPU, where to compare is to wait; else only if the prior has other values than before.
        """
        if not (isinstance(prior, GaussianMixturePrior) and isinstance(kernel, Kernel) and kernel.has_closed_form):
            return None
        parts = (prior.logits, prior.loc, prior.scale)
        learned = any(part.requires_grad for part in parts)
        if learned or prior.loc.device.type != "cpu" or not is_constant(kernel):
            return closed_form.prior_prior(prior, kernel, self.on)
        values = torch.cat([part.flatten() for part in parts])
        settings, known = (kernel, self.on, values.dtype), self._known
        if known is None or known[1] != settings or not torch.equal(known[0], values):
            constant = closed_form.prior_prior(deepcopy(prior).double(), kernel, self.on, _CONSTANT_NODES)
            known = self._known = (values, settings, constant.to(values))
        return known[2]
