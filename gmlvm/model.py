"""The Gaussian-mixture latent variable model: prior, two encoders and a decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from gmlvm import networks as nets
from gmlvm import storage
from gmlvm.prior import GaussianMixturePrior
from gmlvm.validation import (
    as_unit_interval,
    check_choice,
    check_image_shape,
    check_positive_int,
    check_shape,
)

_KIND = "gmlvm model"


@dataclass(frozen=True)
class Posterior:
    """Both posteriors of a batch of images.

    Attributes:
        logits: Unnormalised log probabilities of q_D(k|x), shape (B, K).
        loc: Means of q_C(z|k,x), shape (B, K, D).
        scale: Standard deviations of q_C(z|k,x), shape (B, K, D), positive.

    Source: Gaujac, Feige and Barber (2018), section 2; chapter "Training the GM-WAE".
    """

    logits: Tensor
    loc: Tensor
    scale: Tensor

    @cached_property
    def log_probs(self) -> Tensor:
        """Normalised log q_D(k|x), nats, shape (B, K)."""
        return self.logits.log_softmax(-1)

    @property
    def probs(self) -> Tensor:
        """q_D(k|x), shape (B, K), rows summing to one."""
        return self.logits.softmax(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        r"""Draw one code for each image and component, :math:`z = \mathrm{loc} + \mathrm{scale} \cdot \epsilon`.

        Args:
            generator: Source of randomness, on the posterior's device; torch's global one if left out.

        Returns:
            Codes z, shape (B, K, D), differentiable in ``loc`` and ``scale``.
        """
        noise = torch.randn(self.loc.shape, generator=generator, device=self.loc.device, dtype=self.loc.dtype)
        return self.loc + self.scale * noise


@dataclass(frozen=True)
class Architecture:
    """The sizes from which :meth:`GMLVM.for_images` builds a model, and which a saved file carries.

    Attributes:
        image_shape: (C, H, W).
        num_components: Number of components K, at least 1.
        latent_dim: Dimension D of a code, at least 1.
        networks: ``"mlp"`` or ``"conv"``: kind of the discrete encoder and the decoder.
        hidden_dim: Hidden units of the discrete encoder and the decoder (``"mlp"`` alone).
        component_hidden_dim: Hidden units of each component's continuous encoder.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is out of range or ``networks`` is unknown.

    Source: chapter "Training the GM-WAE".
    """

    image_shape: tuple[int, int, int]
    num_components: int = 10
    latent_dim: int = 9
    networks: str = "mlp"
    hidden_dim: int = 512
    component_hidden_dim: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_shape", check_image_shape(self.image_shape))
        for name in ("num_components", "latent_dim", "hidden_dim", "component_hidden_dim"):
            check_positive_int(name, getattr(self, name))
        check_choice("networks", self.networks, ("mlp", "conv"))

    def build(self, prior: GaussianMixturePrior) -> GMLVM:
        """Build the networks with PyTorch's own start.

        Args:
            prior: The prior, of the same K and D.

        Returns:
            The untrained model, in the prior's dtype.
        """
        shape, k, d = self.image_shape, self.num_components, self.latent_dim
        if self.networks == "mlp":
            discrete = nets.mlp_discrete_encoder(shape, k, self.hidden_dim)
            decoder = nets.mlp_decoder(shape, d, self.hidden_dim)
        else:
            discrete = nets.conv_discrete_encoder(shape, k)
            decoder = nets.conv_decoder(shape, d)
        continuous = nets.ComponentEncoder(shape, k, d, self.component_hidden_dim)
        return GMLVM(prior, discrete, continuous, decoder, shape, architecture=self).to(prior.loc.dtype)


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """No gradients and evaluation mode inside, every module's mode of before after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, was_training in modes:
            module.training = was_training


class GMLVM(nn.Module):
    r"""Gaussian-mixture latent variable model with amortised posteriors.

    .. math::
        p(x, z, k) &= p_D(k)\, N(z;\, m_k, s_k^2)\, p_G(x|z) \\
        q(k, z|x) &= q_D(k|x)\, N(z;\, \mathrm{loc}_k(x), \mathrm{scale}_k(x)^2)

    The model knows nothing of how it is trained: see :class:`gmlvm.VAE`, :class:`gmlvm.WAE` and
    :func:`gmlvm.fit`. Most readers build it with :meth:`for_images`.

    Args:
        prior: The mixture over codes.
        discrete_encoder: Module from images (B, C, H, W) to ``posterior_logits`` (B, K).
        continuous_encoder: Module from images to ``posterior_loc`` and ``posterior_scale``, each (B, K, D).
        decoder: Module from codes (N, D) to ``decoder_logits`` (N, C, H, W).
        image_shape: (C, H, W).
        architecture: What the networks were built from, if they can be built again; needed by :meth:`save`.

    Raises:
        ValueError: If ``image_shape`` is not three positive integers.

    Source: Gaujac, Feige and Barber (2018), section 2; chapter "Training the GM-WAE".
    """

    def __init__(
        self,
        prior: GaussianMixturePrior,
        discrete_encoder: nn.Module,
        continuous_encoder: nn.Module,
        decoder: nn.Module,
        image_shape: tuple[int, int, int],
        architecture: Architecture | None = None,
    ) -> None:
        super().__init__()
        self.image_shape = check_image_shape(image_shape)
        self.architecture = architecture
        self.prior = prior
        self.discrete_encoder = discrete_encoder
        self.continuous_encoder = continuous_encoder
        self.decoder = decoder

    @classmethod
    def for_images(
        cls,
        image_shape: Sequence[int],
        num_components: int = 10,
        latent_dim: int = 9,
        *,
        seed: int = 0,
        prior: GaussianMixturePrior | None = None,
        networks: str = "mlp",
        hidden_dim: int = 512,
        component_hidden_dim: int = 16,
        weight_std: float | None = None,
    ) -> GMLVM:
        """Build a model for images of one size, with the standard networks and the simplex prior.

        Args:
            image_shape: (C, H, W).
            num_components: Number of components K, at least 1.
            latent_dim: Dimension D of a code, at least 1.
            seed: Seed of the weights; torch's global generator is left as it was.
            prior: A prior of K components in D dimensions; the simplex with edge 4 and scale 1 if left out.
            networks: ``"mlp"`` (fast) or ``"conv"`` (the original's).
            hidden_dim: Hidden units of the ``"mlp"`` networks.
            component_hidden_dim: Hidden units of each component's continuous encoder.
            weight_std: Start all weights at N(0, weight_std squared), as the original did with 0.01;
                PyTorch's own start if left out.

        Returns:
            The untrained model, on the CPU, in the prior's dtype.

        Raises:
            TypeError: If a size is not an integer.
            ValueError: If a size is out of range, the networks are unknown, the prior has another K or D,
                or there is no regular simplex of K means in D dimensions.

        Source: chapter "Training the GM-WAE".
        """
        shape = check_image_shape(image_shape)
        architecture = Architecture(shape, num_components, latent_dim, networks, hidden_dim, component_hidden_dim)
        check_positive_int("seed", seed, minimum=0)
        if prior is None:
            prior = GaussianMixturePrior.simplex(num_components, latent_dim)
        elif (prior.num_components, prior.latent_dim) != (num_components, latent_dim):
            raise ValueError(
                f"prior must have num_components={num_components} and latent_dim={latent_dim}, "
                f"got {prior.num_components} and {prior.latent_dim}"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = architecture.build(prior)
            if weight_std is not None:
                for network in (model.discrete_encoder, model.continuous_encoder, model.decoder):
                    nets.start_weights(network, weight_std)
        return model

    @property
    def num_components(self) -> int:
        """K, the number of components."""
        return self.prior.num_components

    @property
    def latent_dim(self) -> int:
        """D, the dimension of a code."""
        return self.prior.latent_dim

    @property
    def device(self) -> torch.device:
        """Where the model's tensors are."""
        return self.prior.loc.device

    def posterior(self, x: Tensor) -> Posterior:
        r"""Both posteriors, :math:`q_D(k|x)` and :math:`q_C(z|k,x)` for every k.

        Args:
            x: Images, (B, C, H, W), ``uint8`` or floating point in [0, 1], on the model's device.

        Returns:
            The :class:`Posterior`, differentiable in the weights.

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1].

        Source: Gaujac, Feige and Barber (2018), section 2; chapter "Training the GM-WAE".
        """
        return self.posterior_of_pixels(self.pixels(x))

    def pixels(self, x: Tensor) -> Tensor:
        """Images as the networks take them.

        Args:
            x: Images, (B, C, H, W), ``uint8`` or floating point in [0, 1], on the model's device.

        Returns:
            The same in [0, 1], in the model's dtype.

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1].

        Source: chapter "Training the GM-WAE".
        """
        check_shape("x", x, (None, *self.image_shape), " (batch, channels, height, width)")
        return as_unit_interval("x", x).to(self.prior.loc.dtype)

    def posterior_of_pixels(self, pixels: Tensor) -> Posterior:
        """:meth:`posterior` of what :meth:`pixels` gave, without checking it again.

        Args:
            pixels: Images in [0, 1], (B, C, H, W), in the model's dtype.

        Returns:
            The :class:`Posterior`, differentiable in the weights.

        Source: chapter "Training the GM-WAE".
        """
        dtype = self.prior.loc.dtype  # even under autocast: probabilities and codes rounded to 8 bits would be biased
        loc, scale = self.continuous_encoder(pixels)
        return Posterior(self.discrete_encoder(pixels).to(dtype), loc.to(dtype), scale.to(dtype))

    def decoder_logits(self, z: Tensor) -> Tensor:
        """Logits of the pixels for codes.

        Args:
            z: Codes, shape (..., D).

        Returns:
            Logits, shape (..., C, H, W), differentiable in ``z`` and the weights.

        Raises:
            ValueError: If the last axis of ``z`` is not D.

        Source: Gaujac, Feige and Barber (2018), section 2; chapter "Training the GM-WAE".
        """
        if z.ndim == 0 or z.shape[-1] != self.latent_dim:
            raise ValueError(f"z must have shape (..., {self.latent_dim}), got {tuple(z.shape)}")
        logits: Tensor = self.decoder(z.reshape(-1, self.latent_dim))
        return logits.reshape(*z.shape[:-1], *self.image_shape)

    def decode(self, z: Tensor) -> Tensor:
        """Images for codes: the decoder's mean, without gradients.

        Args:
            z: Codes, shape (..., D).

        Returns:
            Images in [0, 1], shape (..., C, H, W).

        Raises:
            ValueError: If the last axis of ``z`` is not D.

        Source: Gaujac, Feige and Barber (2018), section 2; chapter "Training the GM-WAE".
        """
        with inference(self):
            return self.decoder_logits(z).sigmoid()

    def encode(self, x: Tensor) -> Tensor:
        r"""One code for each image, without gradients: the mean of its most probable component.

        .. math:: z = \mathrm{loc}_{\hat k}(x), \quad \hat k = \arg\max_k q_D(k|x)

        Args:
            x: Images, (B, C, H, W), ``uint8`` or floating point in [0, 1].

        Returns:
            Codes, shape (B, D).

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1].

        Source: chapter "Walking the latent space".
        """
        with inference(self):
            posterior = self.posterior(x)
        component = posterior.logits.argmax(1)
        return posterior.loc[torch.arange(len(x), device=x.device), component]

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images after encoding and decoding, without gradients and without sampling.

        Args:
            x: Images, (B, C, H, W), ``uint8`` or floating point in [0, 1].

        Returns:
            Images in [0, 1], shape (B, C, H, W).

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1].

        Source: Gaujac, Feige and Barber (2018), figure 2; chapter "Training the GM-WAE".
        """
        return self.decode(self.encode(x))

    def sample(
        self,
        n: int,
        component: int | Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw images from the model: a code from the prior, then the decoder's mean.

        Args:
            n: How many images, at least 1.
            component: One component for all, or n indices; drawn from the prior's weights if left out.
            temperature: Factor on the prior's standard deviations, at least 0.
            generator: Source of randomness, on the model's device; torch's global one if left out.

        Returns:
            Images in [0, 1], shape (n, C, H, W).

        Raises:
            TypeError: If ``n`` or ``component`` has the wrong type.
            ValueError: If ``n``, ``component`` or ``temperature`` is out of range.

        Source: Gaujac, Feige and Barber (2018), figure 2; chapter "Training the GM-WAE".
        """
        return self.decode(self.prior.sample(n, component, temperature, generator))

    def interpolate(self, a: Tensor, b: Tensor, steps: int = 20) -> Tensor:
        r"""Images along straight lines between codes, :math:`z_t = (1 - t)\, z_a + t\, z_b`.

        Args:
            a: Where to start: images (B, C, H, W), which are encoded first, or codes (B, D).
            b: Where to end, of the same shape as ``a``.
            steps: Points on each line, both ends among them; at least 2.

        Returns:
            Images in [0, 1], shape (B, steps, C, H, W).

        Raises:
            TypeError: If ``steps`` is not an integer or an image has the wrong dtype.
            ValueError: If the shapes differ or fit neither images nor codes, or ``steps`` is below 2.

        Source: Gaujac, Feige and Barber (2018), figure 3; chapter "Walking the latent space".
        """
        check_positive_int("steps", steps, minimum=2)
        if a.shape != b.shape:
            raise ValueError(f"a and b must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
        if a.ndim == 4:
            a, b = self.encode(a), self.encode(b)
        check_shape("codes", a, (None, self.latent_dim), " (lines, latent_dim)")
        t = torch.linspace(0, 1, steps, device=a.device, dtype=a.dtype)[:, None]  # (steps, 1)
        return self.decode(torch.lerp(a[:, None], b[:, None], t))

    def match_prior(self, x: Tensor, noise: float = 0.1) -> None:
        """Give the continuous encoder its matched start on a batch of images.

        Afterwards the codes of component k have the mean and variance of prior component k. See
        :meth:`gmlvm.networks.ComponentEncoder.match` for the formula. Meant for a new model: it undoes what the
        last layer of the continuous encoder has learned.

        Args:
            x: Images, (B, C, H, W), at least 2; a few thousand are plenty.
            noise: Share of the standard deviation left to the posterior, in (0, 1].

        Raises:
            TypeError: If the continuous encoder has no ``match`` method, or ``x`` has the wrong dtype.
            ValueError: If ``x`` or ``noise`` is out of range.

        Source: the closed form of the original's pretraining; chapter "How a VAE collapses".
        """
        pixels = self.pixels(x)
        match = getattr(self.continuous_encoder, "match", None)
        if match is None:
            raise TypeError(f"{type(self.continuous_encoder).__name__} has no match method; start without it")
        match(pixels, self.prior.loc, self.prior.scale, noise)

    def save(self, path: str | Path) -> None:
        """Write weights, prior and architecture to one safetensors file, its sizes in a JSON header.

        Args:
            path: Where to write; the folder must exist.

        Raises:
            ValueError: If the model was built from networks of one's own.
            OSError: If the file cannot be written.

        Source: chapter "Training the GM-WAE".
        """
        if self.architecture is None:
            raise ValueError("only a model built by GMLVM.for_images can be saved: this one has networks of its own")
        storage.write(Path(path), _KIND, {"architecture": asdict(self.architecture)}, self.state_dict())

    @classmethod
    def load(cls, path: str | Path) -> GMLVM:
        """Read a model that :meth:`save` wrote.

        Args:
            path: The file.

        Returns:
            The model, on the CPU and in evaluation mode.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a saved model, or its weights do not fit its architecture.

        Source: chapter "Training the GM-WAE".
        """
        header, tensors = storage.read(Path(path), _KIND)
        try:
            architecture = Architecture(**header["architecture"])
            prior = GaussianMixturePrior(tensors["prior.loc"], tensors["prior.scale"], tensors["prior.logits"])
            with torch.random.fork_rng(devices=[]):
                model = architecture.build(prior)
            model.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"the weights in {path} do not fit the architecture it names: {error}") from error
        return model.eval()
