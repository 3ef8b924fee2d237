r"""The prior over codes: a mixture, :math:`p(z) = \sum_k p_D(k)\, p_C(z|k)`; the built one has diagonal Gaussians."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn.utils import parametrize

from gmlvm.kl import gaussian_kl
from gmlvm.validation import check_choice, check_number, check_positive_int, check_seed, check_shape

#: What a prior can learn.
LEARNABLE = ("loc", "scale", "weights")


class Prior(nn.Module, ABC):
    r"""A mixture of K components over codes of dimension D, of which each has a mean and standard deviations.

    A prior of one's own says its weights, means and standard deviations, and how to draw from a component and to weigh
    a code under it; the rest follows. What it holds as parameters is trained, what it holds as buffers is not; both are
    saved. :func:`gmlvm.testing.check_prior` tries one out.

    Attributes:
        logits: Log weights :math:`\log p_D(k)`, normalised, shape (K,).
        loc: Means of the components, shape (K, D).
        scale: Standard deviations of the components in each direction, shape (K, D), positive.

    Source: Gaujac, Feige and Barber (2018), section 2; chapter "Mixtures as latent variables".
    """

    logits: Tensor
    loc: Tensor
    scale: Tensor

    @abstractmethod
    def component_log_prob(self, z: Tensor) -> Tensor:
        r"""Log density of each component, :math:`\log p_C(z|k)`.

        Args:
            z: Codes, shape (..., D).

        Returns:
            Nats, shape (..., K), one value for each code and component, summed over D.

        Raises:
            ValueError: If the last axis of ``z`` is not D.
        """

    @abstractmethod
    def component_kl(self, loc: Tensor, scale: Tensor) -> Tensor:
        r"""KL divergence of a diagonal Gaussian for each component from that component.

        Args:
            loc: Means, shape (..., K, D).
            scale: Standard deviations, shape (..., K, D), positive.

        Returns:
            Nats, shape (..., K), summed over D.
        """

    @abstractmethod
    def codes(self, noise: Tensor, component: Tensor) -> Tensor:
        """Codes from standard normal noise.

        Args:
            noise: Shape (..., D); scaled down, it gives codes near the means.
            component: The component of each code, int64, shape (...).

        Returns:
            Codes z, shape (..., D), differentiable in what the prior learns.
        """

    @property
    def num_components(self) -> int:
        """K, the number of components."""
        return self.loc.shape[0]

    @property
    def latent_dim(self) -> int:
        """D, the dimension of a code."""
        return self.loc.shape[1]

    @property
    def probs(self) -> Tensor:
        """Weights :math:`p_D(k)`, shape (K,), summing to one."""
        return self.logits.exp()

    def log_prob(self, z: Tensor) -> Tensor:
        r"""Log density of the mixture, :math:`\log \sum_k p_D(k)\, p_C(z|k)`.

        Args:
            z: Codes, shape (..., D).

        Returns:
            Nats, shape (...), one exact value for each code.

        Raises:
            ValueError: If the last axis of ``z`` is not D.

        Source: notation page; chapter "Mixtures as latent variables".
        """
        return (self.logits + self.component_log_prob(z)).logsumexp(-1)

    def log_responsibilities(self, z: Tensor) -> Tensor:
        r"""Log probability of each component given a code.

        .. math:: \log r_k(z) = \log \frac{p_D(k)\, p_C(z|k)}{\sum_{k'} p_D(k')\, p_C(z|k')}

        Args:
            z: Codes, shape (..., D).

        Returns:
            Nats, shape (..., K), normalised over K.

        Raises:
            ValueError: If the last axis of ``z`` is not D.

        Source: Bishop (2006), equation 9.13; chapter "Mixtures as latent variables".

        Example:
            >>> prior = GaussianMixturePrior(torch.tensor([[-1.0], [1.0]]))
            >>> prior.log_responsibilities(torch.zeros(1)).exp()
            tensor([0.5000, 0.5000])
        """
        return (self.logits + self.component_log_prob(z)).log_softmax(-1)

    def sample_component(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw component indices from the weights.

        Args:
            n: How many, at least 1.
            generator: Source of randomness, on the prior's device; torch's global one if left out.

        Returns:
            Indices k, int64, shape (n,).

        Raises:
            TypeError: If ``n`` is not an integer.
            ValueError: If ``n`` is below 1.
        """
        check_positive_int("n", n)
        return torch.multinomial(self.probs, n, replacement=True, generator=generator)

    def sample(
        self,
        n: int,
        component: int | Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""Draw codes: first k, then z, for a Gaussian :math:`z = m_k + \text{temperature} \cdot s_k\, \epsilon`.

        Args:
            n: How many codes, at least 1.
            component: One component for all codes, or n indices (int64, shape (n,)); drawn from the
                weights if left out.
            temperature: Factor on every standard deviation, at least 0: 0.5 stays near the modes.
            generator: Source of randomness, on the prior's device; torch's global one if left out.

        Returns:
            Codes z, shape (n, D).

        Raises:
            TypeError: If ``n`` is not an integer or ``component`` neither an integer nor an int64 tensor.
            ValueError: If ``n``, ``component`` or ``temperature`` is out of range.

        Source: Gaujac, Feige and Barber (2018), figure 2; chapter "Training the GM-WAE".
        """
        check_positive_int("n", n)
        check_number("temperature", temperature)
        k = self.sample_component(n, generator) if component is None else self._check_component(component, n)
        noise = torch.randn(n, self.latent_dim, generator=generator, device=self.loc.device, dtype=self.loc.dtype)
        return self.codes(temperature * noise, k)

    def sample_each(self, samples: int, generator: torch.Generator | None = None) -> Tensor:
        r"""Draw equally many codes from every component.

        Args:
            samples: M, codes of each component, at least 1.
            generator: Source of randomness, on the prior's device; torch's global one if left out.

        Returns:
            Codes z, shape (K, M, D).

        Raises:
            TypeError: If ``samples`` is not an integer.
            ValueError: If ``samples`` is below 1.
        """
        shape = (self.num_components, check_positive_int("samples", samples), self.latent_dim)
        noise = torch.randn(shape, generator=generator, device=self.loc.device, dtype=self.loc.dtype)
        component = torch.arange(self.num_components, device=self.loc.device)
        return self.codes(noise, component[:, None].expand(shape[:2]))

    def extra_repr(self) -> str:
        """Sizes for ``repr``."""
        return f"num_components={self.num_components}, latent_dim={self.latent_dim}"

    def _check_codes(self, z: Tensor) -> None:
        if z.ndim == 0 or z.shape[-1] != self.latent_dim:
            raise ValueError(f"z must have shape (..., {self.latent_dim}), got {tuple(z.shape)}")

    def _check_component(self, component: int | Tensor, n: int) -> Tensor:
        if isinstance(component, Integral) and not isinstance(component, bool):
            k = torch.full((n,), int(component), device=self.loc.device)
        elif isinstance(component, Tensor) and component.dtype == torch.int64:
            k = check_shape("component", component, (n,), " (n,)").to(self.loc.device)
        else:
            raise TypeError(f"component must be an integer or an int64 tensor, got {component!r}")
        if int(k.min()) < 0 or int(k.max()) >= self.num_components:
            raise ValueError(f"component must lie in 0..{self.num_components - 1}, got {component}")
        return k


class GaussianMixturePrior(Prior):
    r"""A mixture of K diagonal Gaussians over codes of dimension D.

    .. math:: p(z) = \sum_{k=1}^K p_D(k)\, N(z;\, m_k, \operatorname{diag} s_k^2)

    What is named in ``learn`` is trained with the model, everything else stays as it is given; both move with the
    module, and are saved with it. Scales are learned by their logarithm and weights as logits, so that they stay
    positive and normalised. Each is read anew at every use: a value that is changed counts from then on.

    Args:
        loc: Means :math:`m_k`, shape (K, D), floating point and finite; copied.
        scale: Standard deviations :math:`s_k`, shape (K, D) or anything that broadcasts to it, positive.
        logits: Unnormalised log weights, shape (K,). Uniform weights if left out.
        learn: What is trained: any of ``"loc"``, ``"scale"`` and ``"weights"``.

    Raises:
        TypeError: If ``loc`` is not a floating-point tensor.
        ValueError: If a shape does not fit, a value is not finite, a scale is not positive, ``learn`` has another
            name, or a value asks for gradients and is not to be learned.

    Source: Gaujac, Feige and Barber (2018), section 2; chapter "Training the GM-WAE".

    Example:
        >>> prior = GaussianMixturePrior(torch.zeros(1, 2), 1.0)
        >>> round(prior.log_prob(torch.zeros(2)).item(), 4)  # -log(2 pi)
        -1.8379
    """

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor | float = 1.0,
        logits: Tensor | None = None,
        *,
        learn: Iterable[str] = (),
    ) -> None:
        super().__init__()
        check_means(loc)
        #: What is trained, in the order of the arguments.
        self.learn = check_learn(learn, loc=loc, scale=scale, weights=logits)
        scale = torch.as_tensor(scale, dtype=loc.dtype, device=loc.device).detach()
        try:
            scale = scale.expand(loc.shape).clone()
        except RuntimeError:
            raise ValueError(f"scale must broadcast to {tuple(loc.shape)}, got shape {tuple(scale.shape)}") from None
        if not bool((scale.isfinite() & (scale > 0)).all()):
            raise ValueError(f"scale must be positive and finite, got values from {scale.min()} to {scale.max()}")
        register(self, "logits", check_logits(logits, loc), self.learn)
        register(self, "loc", loc.detach().clone(), self.learn)
        register(self, "scale", scale, self.learn, _Exponential())

    @classmethod
    def simplex(
        cls,
        num_components: int,
        latent_dim: int,
        edge: float = 4.0,
        scale: float = 1.0,
        *,
        logits: Tensor | None = None,
        learn: Iterable[str] = (),
    ) -> GaussianMixturePrior:
        r"""One scale, and means that are vertices of a regular simplex around the origin.

        Every pair of means is ``edge`` apart, which needs K :math:`\le` D + 1. In the plane (D = 2) more
        components are set on a circle, neighbours ``edge`` apart.

        Args:
            num_components: K, at least 1.
            latent_dim: D, at least 1.
            edge: Distance between means, in units of z, positive.
            scale: Standard deviation of every component in every direction, positive.
            logits: Unnormalised log weights, shape (K,). Equal weights if left out.
            learn: What is trained; see the class.

        Returns:
            The prior, with means of shape (K, D).

        Raises:
            TypeError: If a size is not an integer.
            ValueError: If a size, ``edge`` or ``scale`` is out of range, or K > D + 1 with D other than 2.

        Source: notation page; chapter "Mixtures as latent variables".

        Example:
            >>> loc = GaussianMixturePrior.simplex(3, 2, edge=4.0).loc
            >>> torch.pdist(loc).round(decimals=4)
            tensor([4., 4., 4.])
        """
        check_positive_int("num_components", num_components)
        check_positive_int("latent_dim", latent_dim)
        check_number("edge", edge, exclusive=True)
        check_number("scale", scale, exclusive=True)
        if num_components <= latent_dim + 1:
            loc = _regular_simplex(num_components, latent_dim) * edge
        elif latent_dim == 2:
            angle = 2 * math.pi * torch.arange(num_components, dtype=torch.float64) / num_components
            radius = edge / (2 * math.sin(math.pi / num_components))
            loc = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
        else:
            raise ValueError(
                f"a regular simplex of {num_components} means needs latent_dim >= {num_components - 1}, "
                f"got {latent_dim} (in latent_dim 2 any number of means is set on a circle; elsewhere "
                f"GaussianMixturePrior.scattered has no such limit)"
            )
        return cls(loc.to(torch.get_default_dtype()), scale, logits, learn=learn)

    @classmethod
    def scattered(
        cls,
        num_components: int,
        latent_dim: int,
        edge: float = 4.0,
        scale: float = 1.0,
        *,
        seed: int = 0,
        logits: Tensor | None = None,
        learn: Iterable[str] = (),
    ) -> GaussianMixturePrior:
        """One scale, and means in random directions, for more components than a simplex has room for.

        The means lie on a sphere around the origin, as wide as it takes for the nearest two to be ``edge`` apart.

        Args:
            num_components: K, at least 2.
            latent_dim: D, at least 2.
            edge: Least distance between two means, in units of z, positive.
            scale: Standard deviation of every component in every direction, positive.
            seed: Seed of the directions, below 2^64.
            logits: Unnormalised log weights, shape (K,). Equal weights if left out.
            learn: What is trained; see the class.

        Returns:
            The prior, with means of shape (K, D).

        Raises:
            TypeError: If a size is not an integer.
            ValueError: If a size, ``edge``, ``scale`` or ``seed`` is out of range.

        Example:
            >>> loc = GaussianMixturePrior.scattered(30, 9).loc
            >>> torch.pdist(loc).min().round(decimals=3)
            tensor(4.)
        """
        check_positive_int("num_components", num_components, minimum=2)
        check_positive_int("latent_dim", latent_dim, minimum=2)
        check_number("edge", edge, exclusive=True)
        check_number("scale", scale, exclusive=True)
        generator = torch.Generator().manual_seed(check_seed("seed", seed))
        directions = torch.randn(num_components, latent_dim, generator=generator)
        directions /= directions.norm(dim=1, keepdim=True)
        return cls(edge * directions / torch.pdist(directions).min(), scale, logits, learn=learn)

    def component_log_prob(self, z: Tensor) -> Tensor:
        r"""Log density of each component, :math:`\log N(z; m_k, \operatorname{diag} s_k^2)`; see :class:`Prior`."""
        self._check_codes(z)
        log_prob: Tensor = Independent(Normal(self.loc, self.scale), 1).log_prob(z.unsqueeze(-2))
        return log_prob

    def component_kl(self, loc: Tensor, scale: Tensor) -> Tensor:
        """KL divergence from each component, by :func:`gmlvm.kl.gaussian_kl`; see :class:`Prior`."""
        return gaussian_kl(loc, scale, self.loc, self.scale)

    def codes(self, noise: Tensor, component: Tensor) -> Tensor:
        r"""Codes :math:`m_k + s_k \epsilon` from noise; see :class:`Prior`."""
        return self.loc[component] + self.scale[component] * noise


class _Exponential(nn.Module):
    """Keeps a learned scale positive."""

    def forward(self, log_scale: Tensor) -> Tensor:
        return log_scale.exp()

    def right_inverse(self, scale: Tensor) -> Tensor:
        return scale.log()


class _LogSoftmax(nn.Module):
    """Keeps learned log weights normalised."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(0)

    def right_inverse(self, log_probs: Tensor) -> Tensor:
        return log_probs


def check_means(loc: Tensor) -> None:
    """Raise unless these are the means of a mixture, (K, D)."""
    check_shape("loc", loc, (None, None), " (num_components, latent_dim)")
    if not loc.is_floating_point():
        raise TypeError(f"loc must be floating point, got {loc.dtype}")
    if loc.numel() == 0 or not bool(loc.isfinite().all()):
        raise ValueError(f"loc must hold at least one component, all finite; got shape {tuple(loc.shape)}: {loc}")


def check_logits(logits: Tensor | None, loc: Tensor) -> Tensor:
    """Normalised log weights, (K,), of unnormalised ones; uniform if left out."""
    if logits is None:
        logits = loc.new_zeros(len(loc))
    check_shape("logits", logits, (len(loc),), " (num_components,)")
    if not bool(logits.isfinite().all()):
        raise ValueError(f"logits must be finite, got {logits}")
    return logits.detach().to(loc).log_softmax(0)


def check_learn(learn: Iterable[str], **values: object) -> tuple[str, ...]:
    """What is to be trained, in the order of :data:`LEARNABLE`; no other of the values may ask for gradients."""
    names = (learn,) if isinstance(learn, str) else tuple(learn)
    for name in names:
        check_choice("learn", name, LEARNABLE)
    for name, value in values.items():
        if isinstance(value, Tensor) and value.requires_grad and name not in names:
            raise ValueError(
                f"the prior copies its arguments, so {name} that asks for gradients would never be trained; "
                f'pass learn=("{name}",) to train it, or detach it'
            )
    return tuple(name for name in LEARNABLE if name in names)


def register(prior: Prior, name: str, value: Tensor, learn: tuple[str, ...], form: nn.Module | None = None) -> None:
    """Give a prior a value: one to train, in a form in which it stays valid, or one that stays as it is."""
    kind = {"logits": "weights", "scale_tril": "scale"}.get(name, name)
    if kind not in learn:
        prior.register_buffer(name, value)
        return
    prior.register_parameter(name, nn.Parameter(value))
    form = _LogSoftmax() if name == "logits" else form
    if form is not None:
        parametrize.register_parametrization(prior, name, form)


def _regular_simplex(num_components: int, latent_dim: int) -> Tensor:
    """Vertices with unit edges, centred on the origin: float64, shape (K, D).

    Added one axis at a time: vertex k stands above the centroid of the k vertices before it, at the
    height that makes all distances one.
    """
    loc = torch.zeros(num_components, latent_dim, dtype=torch.float64)
    for k in range(1, num_components):
        loc[k] = loc[:k].mean(0)
        loc[k, k - 1] = math.sqrt((k + 1) / (2 * k))
    return loc - loc.mean(0)
