"""The Gaussian-mixture latent variable model: prior, two encoders and a decoder."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from gmlvm import networks as nets
from gmlvm import storage
from gmlvm.architecture import Architecture
from gmlvm.identity import FROZEN, differences, structure
from gmlvm.images import as_images
from gmlvm.posterior import Posterior
from gmlvm.prior import GaussianMixturePrior, Prior
from gmlvm.validation import (
    as_unit_interval,
    check_image_shape,
    check_positive_int,
    check_seed,
    check_shape,
    check_type,
)

_KIND = "gmlvm model"
# Images on which a new model's networks are tried.
_TRIED = 4
# Held while one thread has a model in evaluation mode that is not there by itself.
_MODES = threading.RLock()


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """No gradients and evaluation mode inside, every module's mode of before after it.

    Threads may share a model. One that is in evaluation mode by itself, as after training, is used by all at once; one
    that is not is used by one after the other.
    """
    with _MODES:
        modes = [(module, module.training) for module in model.modules()]
        if any(training for _, training in modes):
            model.eval()
            try:
                with torch.no_grad():
                    yield
            finally:
                for module, was_training in modes:
                    module.training = was_training
            return
    with torch.no_grad():
        yield


class GMLVM(nn.Module):
    r"""Gaussian-mixture latent variable model with amortised posteriors.

    .. math::
        p(x, z, k) &= p_D(k)\, N(z;\, m_k, s_k^2)\, p_G(x|z) \\
        q(k, z|x) &= q_D(k|x)\, N(z;\, \mathrm{loc}_k(x), \mathrm{scale}_k(x)^2)

    The model knows nothing of how it is trained: see :class:`gmlvm.VAE`, :class:`gmlvm.WAE` and
    :func:`gmlvm.fit`. Most readers build it with :meth:`for_images`.

    Networks of one's own are tried on a few images when the model is made. The two encoders may share a trunk. Images
    are taken as tensors or arrays, on any device, as :func:`gmlvm.images.as_images` reads them. Several threads may use
    a model that is not being trained.

    Args:
        prior: The mixture over codes. One that learns nothing is copied, so that no other model can change it; one that
            learns becomes part of the model.
        discrete_encoder: Module from images (B, C, H, W) to ``posterior_logits`` (B, K).
        continuous_encoder: Module from images to ``posterior_loc`` and ``posterior_scale``, each (B, K, D), the latter
            positive.
        decoder: Module from codes (N, D) to ``decoder_logits`` (N, C, H, W), or (N, C * H * W).
        image_shape: (C, H, W).
        architecture: What the networks were built from, if they can be built again.

    Raises:
        TypeError: If the prior is not a :class:`Prior`, or a network gives something that isn't a tensor.
        ValueError: If ``image_shape`` is not three positive integers, or what a network gives has another shape, is
            not finite, or can't be what it stands for: scales that are not positive, probabilities for logits.

    Source: Gaujac, Feige and Barber (2018), section 2; chapter "Training the GM-WAE".
    """

    def __init__(
        self,
        prior: Prior,
        discrete_encoder: nn.Module,
        continuous_encoder: nn.Module,
        decoder: nn.Module,
        image_shape: Sequence[int],
        architecture: Architecture | None = None,
    ) -> None:
        super().__init__()
        check_type("prior", prior, Prior)
        self.image_shape = check_image_shape(image_shape)
        self.architecture = architecture
        self.prior = prior if any(True for _ in prior.parameters()) else deepcopy(prior)
        self.discrete_encoder = discrete_encoder
        self.continuous_encoder = continuous_encoder
        self.decoder = decoder
        self._try_networks()

    @classmethod
    def for_images(
        cls,
        image_shape: Sequence[int],
        num_components: int = 10,
        latent_dim: int = 9,
        *,
        seed: int = 0,
        prior: Prior | None = None,
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
            seed: Seed of the weights, below 2^64; torch's global generators are left as they were.
            prior: A prior of K components in D dimensions; the simplex with edge 4 and scale 1 if left out.
            networks: ``"mlp"`` (fast) or ``"conv"`` (the original's).
            hidden_dim: Hidden units of the ``"mlp"`` networks.
            component_hidden_dim: Hidden units of each component's continuous encoder.
            weight_std: Start all weights at N(0, weight_std squared), as the original did with 0.01;
                PyTorch's own start if left out.

        Returns:
            The untrained model, on the prior's device and in its dtype.

        Raises:
            TypeError: If a size is not an integer.
            ValueError: If a size is out of range, the networks are unknown, the prior has another K or D,
                or there is no regular simplex of K means in D dimensions.

        Source: chapter "Training the GM-WAE".
        """
        shape = check_image_shape(image_shape)
        architecture = Architecture(shape, num_components, latent_dim, networks, hidden_dim, component_hidden_dim)
        check_seed("seed", seed)
        if prior is None:
            prior = GaussianMixturePrior.simplex(num_components, latent_dim)
        elif (prior.num_components, prior.latent_dim) != (num_components, latent_dim):
            raise ValueError(
                f"prior must have num_components={num_components} and latent_dim={latent_dim}, "
                f"got {prior.num_components} and {prior.latent_dim}"
            )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which seeds a GPU as well
            built = architecture.build()
            if weight_std is not None:
                for network in built:
                    nets.start_weights(network, weight_std)
        discrete, continuous, decoder = (network.to(prior.loc.device, prior.loc.dtype) for network in built)
        return cls(prior, discrete, continuous, decoder, shape, architecture)

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

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""From images to component, code and reconstruction: what one exports.

        Tensors in, tensors out, for any batch size, with nothing that depends on values, so that ``torch.export``,
        ``torch.jit.trace`` and ``torch.onnx.export`` take the model as it is. Put it into evaluation mode before.

        Args:
            x: Images in [0, 1], floating point, (B, C, H, W); not checked.

        Returns:
            :math:`q_D(k|x)`, (B, K); the code of the most probable component, (B, D); and its image in [0, 1],
            (B, C, H, W).
        """
        logits = self.discrete_encoder(x)
        loc, _ = self.continuous_encoder(x)
        code = _of_component(loc, logits.argmax(1))
        image = self.decoder(code).sigmoid().reshape(-1, *self.image_shape)
        return logits.softmax(1), code, image

    def posterior(self, x: Tensor | ArrayLike) -> Posterior:
        r"""Both posteriors, :math:`q_D(k|x)` and :math:`q_C(z|k,x)` for every k.

        Args:
            x: Images, (B, C, H, W), ``uint8`` or floating point in [0, 1].

        Returns:
            The :class:`Posterior`, differentiable in the weights.

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1], or a scale is not positive and finite.

        Source: Gaujac, Feige and Barber (2018), section 2; chapter "Training the GM-WAE".
        """
        posterior = self.posterior_of_pixels(self.pixels(x))
        _check_scale(posterior.scale)
        return posterior

    def pixels(self, x: Tensor | ArrayLike) -> Tensor:
        """Images as the networks take them.

        Args:
            x: Images, (B, C, H, W), ``uint8`` or floating point in [0, 1].

        Returns:
            The same in [0, 1], in the model's dtype and on its device.

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1].

        Source: chapter "Training the GM-WAE".
        """
        images = x if isinstance(x, Tensor) else as_images("x", x)
        check_shape("x", images, (None, *self.image_shape), " (batch, channels, height, width)")
        return as_unit_interval("x", images.to(self.device)).to(self.prior.loc.dtype)

    def posterior_of_pixels(self, pixels: Tensor) -> Posterior:
        """:meth:`posterior` of what :meth:`pixels` gave, without a look at any value.

        Args:
            pixels: Images in [0, 1], (B, C, H, W), in the model's dtype.

        Returns:
            The :class:`Posterior`, differentiable in the weights.

        Source: chapter "Training the GM-WAE".
        """
        dtype = self.prior.loc.dtype  # even under autocast: probabilities and codes rounded to 8 bits would be biased
        loc, scale = self.continuous_encoder(pixels)
        return Posterior(self.discrete_encoder(pixels).to(dtype), loc.to(dtype), scale.to(dtype))

    def predict_proba(self, x: Tensor | ArrayLike, batch_size: int = 1000) -> NDArray[np.float64]:
        """q_D(k|x) for many images; the continuous encoder is not run.

        Args:
            x: Images, (N, C, H, W), ``uint8`` or floating point in [0, 1].
            batch_size: Images encoded at once, at least 1.

        Returns:
            Probabilities in float64, shape (N, K), rows summing to one.

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1], or what the network gives is not finite.

        Source: Gaujac, Feige and Barber (2018), figure 5; chapter "Training the GM-WAE".
        """
        with inference(self):
            parts = [self.discrete_encoder(pixels).log_softmax(1).cpu() for pixels in self._batches(x, batch_size)]
        return _finite("q_D(k|x)", torch.cat(parts)).double().softmax(1).numpy()

    def predict(self, x: Tensor | ArrayLike, batch_size: int = 1000) -> NDArray[np.int64]:
        """The most probable component of each image, as a clustering in scikit-learn's sense.

        Args:
            x: Images, (N, C, H, W), ``uint8`` or floating point in [0, 1].
            batch_size: Images encoded at once, at least 1.

        Returns:
            Components, int64, shape (N,).

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1], or what the network gives is not finite.
        """
        components: NDArray[np.int64] = self.predict_proba(x, batch_size).argmax(1)
        return components

    def transform(self, x: Tensor | ArrayLike, batch_size: int = 1000) -> NDArray[np.float64]:
        """The code of each image, as :meth:`encode` gives it, for many images and as an array.

        Args:
            x: Images, (N, C, H, W), ``uint8`` or floating point in [0, 1].
            batch_size: Images encoded at once, at least 1.

        Returns:
            Codes in float64, shape (N, D).

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1], or a scale is not positive and finite.
        """
        return torch.cat([self.encode(pixels).cpu() for pixels in self._batches(x, batch_size)]).double().numpy()

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

    def decode(self, z: Tensor | ArrayLike) -> Tensor:
        """Images for codes: the decoder's mean, without gradients.

        Args:
            z: Codes, shape (..., D).

        Returns:
            Images in [0, 1], shape (..., C, H, W).

        Raises:
            ValueError: If the last axis of ``z`` is not D, or what the decoder gives is not finite.

        Source: Gaujac, Feige and Barber (2018), section 2; chapter "Training the GM-WAE".
        """
        z = torch.as_tensor(z, device=self.device, dtype=self.prior.loc.dtype)
        with inference(self):
            return _finite("what the decoder gives", self.decoder_logits(z).sigmoid())

    def encode(self, x: Tensor | ArrayLike) -> Tensor:
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
        return _finite("codes", _of_component(posterior.loc, posterior.logits.argmax(1)))

    def reconstruct(self, x: Tensor | ArrayLike) -> Tensor:
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

    def interpolate(self, a: Tensor | ArrayLike, b: Tensor | ArrayLike, steps: int = 20) -> Tensor:
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
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        if a.shape != b.shape:
            raise ValueError(f"a and b must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
        if a.ndim == 4:
            a, b = self.encode(a), self.encode(b)
        check_shape("codes", a, (None, self.latent_dim), " (lines, latent_dim)")
        t = torch.linspace(0, 1, steps, device=a.device, dtype=a.dtype)[:, None]  # (steps, 1)
        return self.decode(torch.lerp(a[:, None], b[:, None], t))

    def match_prior(self, x: Tensor | ArrayLike, noise: float = 0.1) -> None:
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
        """Write weights, prior and structure to one safetensors file, with a digest of all of it.

        Any model can be saved. One of the standard networks, with the built-in prior, is built again by :meth:`load`;
        for networks of one's own :meth:`load` needs a model to load into, which :attr:`can_be_rebuilt` tells
        beforehand.

        Args:
            path: Where to write; the folder must exist.

        Raises:
            ValueError: If a weight is not finite.
            OSError: If the file cannot be written.

        Source: chapter "Training the GM-WAE".
        """
        state = self.state_dict()
        _check_finite(state)
        header: dict[str, Any] = {"structure": structure(self), "architecture": None}
        if self.can_be_rebuilt:
            assert self.architecture is not None
            assert isinstance(self.prior, GaussianMixturePrior)
            header |= {"architecture": asdict(self.architecture), "learn": self.prior.learn}
        storage.write(path, _KIND, header, state)

    @property
    def can_be_rebuilt(self) -> bool:
        """Whether :meth:`load` can build what :meth:`save` writes: standard networks and prior, unchanged."""
        if self.architecture is None or type_before_parametrizations(self.prior) is not GaussianMixturePrior:
            return False
        with torch.random.fork_rng(devices=[]):
            twins = [network.to(self.prior.loc) for network in self.architecture.build()]
        own = (self.discrete_encoder, self.continuous_encoder, self.decoder)
        return not any(_differ(structure(twin), structure(network)) for twin, network in zip(twins, own, strict=True))

    @classmethod
    def load(cls, path: str | Path, into: GMLVM | None = None, *, strict: bool = True) -> GMLVM:
        """Read a model that :meth:`save` wrote.

        Args:
            path: The file.
            into: A model to take the weights, for networks or a prior of one's own; built anew if left out. It is left
                as it was if the file doesn't fit.
            strict: Whether its parts must be of the classes and settings of those that were saved, as well as its
                weights of their names and shapes.

        Returns:
            The model in evaluation mode, on the CPU; or ``into``, where it is.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a saved model, is damaged, does not fit, or cannot be built without ``into``.

        Source: chapter "Training the GM-WAE".
        """
        header, tensors = storage.read(path, _KIND)
        model = cls._rebuild(path, header, tensors) if into is None else into
        state = model.state_dict()
        shapes, wanted = ({name: str(tuple(t.shape)) for name, t in ts.items()} for ts in (tensors, state))
        saved = header.get("structure")  # which files of version 0.1 don't have
        unlike = differences(shapes, wanted) or (_differ(saved, structure(model)) if strict and saved else "")
        if unlike:
            raise ValueError(f"{path} does not fit the model to load into ({unlike})")
        _check_finite(tensors)
        model.load_state_dict(tensors)
        return model.eval()

    @classmethod
    def _rebuild(cls, path: str | Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> GMLVM:
        """A model of a file's architecture and prior, with any weights."""
        if header.get("architecture") is None:
            raise ValueError(
                f"{path} holds a model with networks or a prior of its own, which only you can build: "
                f"build it as it was, and call GMLVM.load(path, into=model)"
            )
        try:
            architecture = Architecture(**header["architecture"])
            size = (architecture.num_components, architecture.latent_dim)
            like = next(tensors[name] for name in ("decoder.0.weight", *tensors) if name in tensors)
            prior = GaussianMixturePrior(torch.zeros(size, dtype=like.dtype), learn=header.get("learn", ()))
            return cls.for_images(prior=prior, **asdict(architecture))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} names an architecture that cannot be built: {error}") from error

    def _batches(self, x: Tensor | ArrayLike, batch_size: int) -> Iterator[Tensor]:
        """Images as the networks take them, a batch at a time."""
        check_positive_int("batch_size", batch_size)
        images = x if isinstance(x, Tensor) else as_images("x", x)
        for batch in images.split(batch_size):
            yield self.pixels(batch)

    def _try_networks(self) -> None:
        """Raise if the networks do not do what they stand for, on a few images of noise."""
        noise = torch.rand((_TRIED, *self.image_shape), generator=torch.Generator().manual_seed(0))
        x = noise.to(self.prior.loc)
        tried, codes, pixels = len(x), self.num_components * len(x), self.image_shape
        size = (tried, self.num_components, self.latent_dim)
        device = self.prior.loc.device
        with inference(self), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            logits = _tried("discrete_encoder", self.discrete_encoder, x)
            check_shape("what discrete_encoder gives", logits, size[:2], " (batch, num_components)")
            pair = _tried("continuous_encoder", self.continuous_encoder, x)
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError(f"continuous_encoder must give a pair, loc and scale, got {type(pair).__name__}")
            for name, tensor in zip(("loc", "scale"), pair, strict=True):
                check_shape(
                    f"{name} that continuous_encoder gives", tensor, size, " (batch, num_components, latent_dim)"
                )
            images = _tried("decoder", self.decoder, pair[0].reshape(codes, self.latent_dim).to(x))
            if isinstance(images, Tensor) and images.ndim == 2:
                images = images.reshape(len(images), *pixels) if images.shape[1] == x[0].numel() else images
            check_shape("what decoder gives", images, (codes, *pixels), " (codes, channels, height, width)")
        for name, tensor in (("logits", logits), ("loc", pair[0]), ("decoder_logits", images)):
            _finite(name, tensor)
        _check_scale(pair[1])
        if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-4):
            raise ValueError("discrete_encoder must give logits, got rows that sum to one: leave out the softmax")
        if bool(((images >= 0) & (images <= 1)).all()) and bool(images.any()):  # a last layer of zeros gives zeros
            raise ValueError("decoder must give logits, got values that all lie between 0 and 1: leave out the sigmoid")


def _tried(name: str, network: nn.Module, x: Tensor) -> Any:
    try:
        return network(x)
    except Exception as error:
        raise ValueError(f"{name} failed on a batch of shape {tuple(x.shape)}: {error}") from error


def _of_component(loc: Tensor, component: Tensor) -> Tensor:
    """The rows (B, D) of codes (B, K, D) that belong to components (B,)."""
    index = component[:, None, None].expand(-1, 1, loc.shape[2])
    return loc.gather(1, index).squeeze(1)


def _check_scale(scale: Tensor) -> None:
    if not bool((scale.isfinite() & (scale > 0)).all()):
        raise ValueError(
            f"scales of q_C(z|k,x) must be positive and finite, got values from {scale.min().item():g} to "
            f"{scale.max().item():g}; is it a log-scale, give its exponential"
        )


def _finite(name: str, values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity: are the model's weights finite?")
    return values


def _check_finite(state: dict[str, Tensor]) -> None:
    """Raise for weights that are not finite."""
    bad = [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise ValueError(f"weights must be finite, got NaN or infinity in {', '.join(bad)}")


def _differ(there: dict[str, str], here: dict[str, str]) -> str:
    """What differs between two structures, whatever is frozen."""
    return differences(*({name: text.removesuffix(FROZEN) for name, text in lines.items()} for lines in (there, here)))
