r"""Two more divergences from optimal transport, by the library POT: sliced Wasserstein and Sinkhorn.

Both compare the weighted codes of a batch with weighted samples of the prior, and take distances in units of
:math:`\sqrt{2 D \bar s^2}`, the root mean squared distance between two codes of one prior component. So they have no
unit, as the MMD has none. Unlike the MMD they are biased upwards on a batch: two samples of one distribution are some
way apart, the further the fewer codes there are.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gmlvm.divergences import Divergence
from gmlvm.enumeration import truncate
from gmlvm.mmd import ON
from gmlvm.posterior import Posterior
from gmlvm.prior import Prior
from gmlvm.validation import check_choice, check_number, check_positive_int


class Transport(Divergence):
    r"""A divergence between two weighted samples: the codes of a batch, and draws from the prior.

    Code :math:`z_{ik}` has the weight :math:`q_D(k|x_i) / B`; of each prior component M samples have :math:`p_k / M`.
    On pairs (k, z) the squared distance of two samples is

    .. math:: \lVert a - b \rVert^2 + 1[k \ne k']\, c^2

    with c the ``component_distance``: what one component has too much can be carried to another, at that price. So the
    weights of the components are compared as well, and need not agree for the divergence to be finite.

    Args:
        on: ``"pairs"`` compares the pair (k, z), ``"codes"`` z alone.
        component_distance: c, in units of the distance between two codes of one prior component, positive; used on
            pairs.
        prior_samples: M, samples drawn from each prior component, at least 1.
        tolerance: Probability of an image that may be left out, in [0, 1/2]; see :class:`gmlvm.MMD`.

    Raises:
        ImportError: If POT is not installed.
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range or unknown.
    """

    def __init__(
        self,
        on: str = "pairs",
        *,
        component_distance: float = 1.0,
        prior_samples: int = 16,
        tolerance: float = 1e-3,
    ) -> None:
        super().__init__()
        pot()
        self.on = check_choice("on", on, ON)
        self.component_distance = check_number("component_distance", component_distance, exclusive=True)
        self.prior_samples = check_positive_int("prior_samples", prior_samples)
        self.tolerance = check_number("tolerance", tolerance, maximum=0.5)

    @abstractmethod
    def between(
        self,
        weight: Tensor,
        codes: Tensor,
        prior_weight: Tensor,
        prior_codes: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """The divergence of two weighted samples.

        Args:
            weight: Weights of the codes, shape (N,), positive, summing to one.
            codes: The codes, shape (N, D), or (N, D + K) on pairs.
            prior_weight: Weights of the prior's samples, shape (K M,), likewise.
            prior_codes: The samples, shape (K M, D) or (K M, D + K).
            generator: Source of randomness, on the codes' device; torch's global one if left out.

        Returns:
            A scalar without unit, differentiable in weights and codes.
        """

    def forward(
        self, posterior: Posterior, z: Tensor, prior: Prior, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the divergence; see :class:`gmlvm.Divergence`. Without unit; biased upwards."""
        with torch.autocast(z.device.type, enabled=False):  # distances are small differences of large numbers
            weight, kept = truncate(posterior.log_probs, self.tolerance / prior.num_components)  # (B, K)
            image, component = kept.nonzero(as_tuple=True)  # (N,)
            prior_z = prior.sample_each(self.prior_samples, generator).flatten(0, 1)  # (K M, D)
            prior_component = torch.arange(prior.num_components, device=z.device).repeat_interleave(self.prior_samples)
            unit = (2 * prior.scale.detach().square().mean(0).sum()).sqrt()
            return self.between(
                weight[image, component] / len(z),
                self._places(z[image, component] / unit, component, prior),
                prior.probs[prior_component] / self.prior_samples,
                self._places(prior_z / unit, prior_component, prior),
                generator,
            )

    def _places(self, codes: Tensor, component: Tensor, prior: Prior) -> Tensor:
        """The codes, on pairs with K coordinates more, in which two components are ``component_distance`` apart."""
        if self.on == "codes":
            return codes
        corners = F.one_hot(component, prior.num_components) * (self.component_distance / 2**0.5)
        return torch.cat([codes, corners.to(codes)], dim=1)

    def extra_repr(self) -> str:
        """The settings for ``repr``."""
        return (
            f"{self.on!r}, component_distance={self.component_distance}, prior_samples={self.prior_samples}, "
            f"tolerance={self.tolerance}"
        )


class SlicedWasserstein(Transport):
    r"""The squared sliced Wasserstein distance of order 2: the mean over directions of that on a line.

    .. math::
        SW_2^2 = E_\theta\, W_2^2(\theta^\top z, \theta^\top y), \qquad \theta \text{ uniform on the unit sphere}

    On a line the optimal plan is sorting, so it costs next to nothing. The directions are drawn anew at each step. On
    a batch it is biased upwards: as B and M grow it approaches the distance of the distributions.

    Args:
        on: ``"pairs"`` compares the pair (k, z), ``"codes"`` z alone.
        projections: Directions drawn at each step, at least 1.
        component_distance: See :class:`Transport`.
        prior_samples: M, samples drawn from each prior component, at least 1.
        tolerance: Probability of an image that may be left out, in [0, 1/2].

    Raises:
        ImportError: If POT is not installed.
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range or unknown.

    Source: Bonneel et al. (2015); chapter "Optimal transport".
    """

    def __init__(
        self,
        on: str = "pairs",
        *,
        projections: int = 50,
        component_distance: float = 1.0,
        prior_samples: int = 16,
        tolerance: float = 1e-3,
    ) -> None:
        super().__init__(on, component_distance=component_distance, prior_samples=prior_samples, tolerance=tolerance)
        self.projections = check_positive_int("projections", projections)

    def between(
        self,
        weight: Tensor,
        codes: Tensor,
        prior_weight: Tensor,
        prior_codes: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """The mean of the squared distances along drawn directions; see :class:`Transport`."""
        shape = (codes.shape[1], self.projections)
        directions = torch.randn(shape, generator=generator, device=codes.device, dtype=codes.dtype)
        directions = F.normalize(directions, dim=0)
        squared: Tensor = pot().wasserstein_1d(
            codes @ directions, prior_codes @ directions, weight, prior_weight, p=2
        )  # one for each direction
        return squared.mean()

    def extra_repr(self) -> str:
        """The settings for ``repr``."""
        return f"{super().extra_repr()}, projections={self.projections}"


class Sinkhorn(Transport):
    r"""The Sinkhorn divergence: transport with an entropy, less what it costs from each sample to itself.

    .. math::
        S_\varepsilon(a, b) = OT_\varepsilon(a, b) - \tfrac12 OT_\varepsilon(a, a) - \tfrac12 OT_\varepsilon(b, b),
        \qquad
        OT_\varepsilon(a, b) = \min_{\pi \in \Pi(a, b)} \sum_{nm} \pi_{nm} \lVert a_n - b_m \rVert^2
        + \varepsilon \sum_{nm} \pi_{nm} \log \pi_{nm}

    Without regularisation it is the squared Wasserstein distance. With more it takes fewer iterations and its bias on
    a batch, which is upwards, is smaller. Its gradient is that of the optimum (envelope theorem), so the iterations are
    not kept. It costs memory and time as the square of the number of codes, that of the pairs.

    Args:
        on: ``"pairs"`` compares the pair (k, z), ``"codes"`` z alone.
        regularisation: :math:`\varepsilon`, in units of the mean squared distance between two codes of one prior
            component, positive.
        iterations: At most so many Sinkhorn iterations; POT warns if they are not enough. At least 1.
        component_distance: See :class:`Transport`.
        prior_samples: M, samples drawn from each prior component, at least 1.
        tolerance: Probability of an image that may be left out, in [0, 1/2].

    Raises:
        ImportError: If POT is not installed.
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range or unknown.

    Source: Genevay et al. (2019); chapter "Optimal transport".
    """

    # Largest error of the plan's weights, above the rounding of float32.
    _ERROR = 1e-5

    def __init__(
        self,
        on: str = "pairs",
        *,
        regularisation: float = 1.0,
        iterations: int = 1000,
        component_distance: float = 1.0,
        prior_samples: int = 16,
        tolerance: float = 1e-3,
    ) -> None:
        super().__init__(on, component_distance=component_distance, prior_samples=prior_samples, tolerance=tolerance)
        self.regularisation = check_number("regularisation", regularisation, exclusive=True)
        self.iterations = check_positive_int("iterations", iterations)

    def between(
        self,
        weight: Tensor,
        codes: Tensor,
        prior_weight: Tensor,
        prior_codes: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """The transport between both less half of that within each; see :class:`Transport`."""
        data, prior = (weight, codes), (prior_weight, prior_codes)
        return self._cost(*data, *prior) - (self._cost(*data, *data) + self._cost(*prior, *prior)) / 2

    def _cost(self, weight: Tensor, codes: Tensor, other_weight: Tensor, other_codes: Tensor) -> Tensor:
        ot = pot()
        cost: Tensor = ot.solve(
            ot.dist(codes, other_codes),  # squared distances
            weight,
            other_weight,
            reg=self.regularisation,
            reg_type="entropy",
            max_iter=self.iterations,
            tol=self._ERROR,
            grad="envelope",
        ).value
        return cost

    def extra_repr(self) -> str:
        """The settings for ``repr``."""
        return f"{super().extra_repr()}, regularisation={self.regularisation}, iterations={self.iterations}"


def pot() -> Any:
    """The library POT.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import ot
    except ImportError as error:
        raise ImportError(
            "sliced Wasserstein and Sinkhorn divergences need POT; install it by: pip install POT"
        ) from error
    return ot
