"""The Gaussian-mixture latent variable model: prior, two encoders and a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from gmlvm import networks as nets
from gmlvm import storage
from gmlvm.architecture import Architecture
from gmlvm.clusterer import Clusterer
from gmlvm.full_prior import FullGaussianMixturePrior
from gmlvm.identity import FROZEN, differences, structure
from gmlvm.inference import inference
from gmlvm.posterior import Posterior
from gmlvm.prior import GaussianMixturePrior, Prior
from gmlvm.trial import try_networks
from gmlvm.validation import (
    check_finite,
    check_image_shape,
    check_positive_int,
    check_seed,
    check_shape,
    check_type,
)

_KIND = "gmlvm model"
# The priors that a file can name.
_PRIORS: dict[str, Any] = {"diagonal": GaussianMixturePrior, "full": FullGaussianMixturePrior}
# What the networks' values may be written in; torch computes little with smaller ones.
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class GMLVM(Clusterer):
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
        TypeError: If the prior is not a :class:`Prior` or a network not a module, or it gives something that isn't a
            tensor.
        ValueError: If ``image_shape`` is not three positive integers, a network raises an error, or what it gives has
            another shape, is not finite, or can't be what it stands for: scales that are not positive, probabilities
            for logits.

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
        check_type("prior", prior, Prior)
        super().__init__(discrete_encoder, image_shape)
        self._architecture = architecture
        self.prior = prior if any(parameter.requires_grad for parameter in prior.parameters()) else deepcopy(prior)
        check_type("continuous_encoder", continuous_encoder, nn.Module)
        check_type("decoder", decoder, nn.Module)
        self.continuous_encoder = continuous_encoder
        self.decoder = decoder
        try_networks(self.prior, discrete_encoder, continuous_encoder, decoder, self.image_shape)

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
            networks: ``"mlp"`` (fast), ``"deep"`` (the same with a larger discrete encoder) or ``"conv"`` (the
                original's).
            hidden_dim: Hidden units of the ``"mlp"`` and ``"deep"`` networks.
            component_hidden_dim: Hidden units of each component's continuous encoder.
            weight_std: Start all weights at N(0, weight_std squared), as the original did with 0.01;
                PyTorch's own start if left out.

        Returns:
            The untrained model, on the prior's device and in its dtype.

        Raises:
            TypeError: If a size is not an integer, or ``prior`` not a :class:`Prior`.
            ValueError: If a size is out of range, the networks are unknown, the prior has another K or D,
                or there is no regular simplex of K means in D dimensions.
        """
        shape = check_image_shape(image_shape)
        architecture = Architecture(shape, num_components, latent_dim, networks, hidden_dim, component_hidden_dim)
        seed = check_seed("seed", seed)
        if prior is None:
            prior = GaussianMixturePrior.simplex(num_components, latent_dim)
        check_type("prior", prior, Prior)
        if (prior.num_components, prior.latent_dim) != (num_components, latent_dim):
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
    def architecture(self) -> Architecture | None:
        """The sizes that the networks were built from, if they were; they may have been changed since."""
        return self._architecture

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

    @property
    def dtype(self) -> torch.dtype:
        """The type of its numbers."""
        return self.prior.loc.dtype

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
            ValueError: If ``x`` has another shape or lies outside [0, 1], or what the encoders give is no posterior
                (:meth:`gmlvm.Posterior.check`).

        Source: Gaujac, Feige and Barber (2018), section 2; chapter "Training the GM-WAE".
        """
        posterior = self.posterior_of_pixels(self.pixels(x))
        posterior.check()
        return posterior

    def posterior_of_pixels(self, pixels: Tensor) -> Posterior:
        """:meth:`posterior` of what :meth:`pixels` gave, without a look at any value.

        Args:
            pixels: Images in [0, 1], (B, C, H, W), in the model's dtype.

        Returns:
            The :class:`Posterior`, differentiable in the weights.
        """
        dtype = self.dtype  # even under autocast: probabilities and codes rounded to 8 bits would be biased
        loc, scale = self.continuous_encoder(pixels)
        return Posterior(self.discrete_encoder(pixels).to(dtype), loc.to(dtype), scale.to(dtype))

    def transform(self, x: Tensor | ArrayLike, batch_size: int = 1000) -> NDArray[np.float64]:
        """The code of each image, as :meth:`encode` gives it, for many images and as an array.

        Args:
            x: Images, (N, C, H, W), ``uint8`` or floating point in [0, 1].
            batch_size: Images encoded at once, at least 1.

        Returns:
            Codes in float64, shape (N, D).

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1], or what the encoders give is no posterior.
        """
        return torch.cat([self.encode(batch).cpu() for batch in self._batches(x, batch_size)]).double().numpy()

    def decoder_logits(self, z: Tensor) -> Tensor:
        """Logits of the pixels for codes.

        Args:
            z: Codes, shape (..., D).

        Returns:
            Logits, shape (..., C, H, W), differentiable in ``z`` and the weights.

        Raises:
            ValueError: If the last axis of ``z`` is not D.
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
            ValueError: If the last axis of ``z`` is not D, or ``z`` or what the decoder gives is not finite.
        """
        z = check_finite("z", self._codes(z))
        with inference(self):
            return check_finite("what the decoder gives", self.decoder_logits(z).sigmoid())

    def encode(self, x: Tensor | ArrayLike) -> Tensor:
        r"""One code for each image, without gradients: the mean of its most probable component.

        .. math:: z = \mathrm{loc}_{\hat k}(x), \quad \hat k = \arg\max_k q_D(k|x)

        Args:
            x: Images, (B, C, H, W), ``uint8`` or floating point in [0, 1].

        Returns:
            Codes, shape (B, D).

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1], or what the encoders give is no posterior.

        Source: chapter "Walking the latent space".
        """
        with inference(self):
            posterior = self.posterior(x)
        return _of_component(posterior.loc, posterior.logits.argmax(1))

    def reconstruct(self, x: Tensor | ArrayLike) -> Tensor:
        """Images after encoding and decoding, without gradients and without sampling.

        Args:
            x: Images, (B, C, H, W), ``uint8`` or floating point in [0, 1].

        Returns:
            Images in [0, 1], shape (B, C, H, W).

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1], or what a network gives is not finite.

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
            ValueError: If ``n``, ``component`` or ``temperature`` is out of range, or the prior or what the decoder
                gives is not finite.

        Source: Gaujac, Feige and Barber (2018), figure 2; chapter "Training the GM-WAE".
        """
        check_finite("the prior's weights", self.prior.probs)
        return self.decode(self.prior.sample(n, component, temperature, generator))

    def interpolate(self, a: Tensor | ArrayLike, b: Tensor | ArrayLike, steps: int = 20) -> Tensor:
        r"""Images along straight lines between codes, :math:`z_t = (1 - t)\, z_a + t\, z_b`.

        Args:
            a: Where to start: images (B, C, H, W), which are encoded first, or codes (B, D).
            b: Where to end, as many.
            steps: Points on each line, both ends among them; at least 2.

        Returns:
            Images in [0, 1], shape (B, steps, C, H, W).

        Raises:
            TypeError: If ``steps`` is not an integer or an image has the wrong dtype.
            ValueError: If the numbers differ, a shape fits neither images nor codes, or ``steps`` is below 2.

        Source: Gaujac, Feige and Barber (2018), figure 3; chapter "Walking the latent space".
        """
        steps = check_positive_int("steps", steps, minimum=2)
        start, end = (self._codes(ends) if np.ndim(ends) == 2 else self.encode(ends) for ends in (a, b))
        if start.shape != end.shape:
            raise ValueError(f"a and b must have the same shape, got codes {tuple(start.shape)} and {tuple(end.shape)}")
        check_shape("codes", start, (None, self.latent_dim), " (lines, latent_dim)")
        t = torch.linspace(0, 1, steps, device=start.device, dtype=start.dtype)[:, None]  # (steps, 1)
        return self.decode(torch.lerp(start[:, None], end[:, None], t))

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

    def save(self, path: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write weights, prior and structure to one safetensors file, with a digest of all of it.

        Any model can be saved. One of the standard networks, with the built-in prior, is built again by :meth:`load`;
        for networks of one's own :meth:`load` needs a model to load into, which :attr:`can_be_rebuilt` tells
        beforehand.

        Args:
            path: Where to write; the folder must exist.
            dtype: What the networks' floating-point values are rounded to in the file, ``torch.float16`` for one of
                half the size; as they are if left out. The prior is written as it is, and :meth:`load` gives a model in
                its own dtype again.

        Raises:
            TypeError: If a network's state holds something else than tensors, or ``dtype`` is no ``torch.dtype``.
            ValueError: If a weight is not finite, or too large for ``dtype``, or ``dtype`` is not ``torch.float16``,
                ``torch.bfloat16``, ``torch.float32`` or ``torch.float64``.
            OSError: If the file cannot be written.
        """
        state, header = self.state_dict(), {"structure": structure(self)} | (self._recipe() or {})
        _check_weights(state)
        if dtype is not None:
            state, header["stored"] = _rounded(state, dtype), str(dtype).removeprefix("torch.")
        storage.write(path, _KIND, header, state)

    @property
    def can_be_rebuilt(self) -> bool:
        """Whether :meth:`load` can build what :meth:`save` writes, as it can for standard networks and priors."""
        return self._recipe() is not None

    def _recipe(self) -> dict[str, Any] | None:
        """What :meth:`load` builds the model from again, if that gives this one but for the weights."""
        kind = next((name for name, prior in _PRIORS.items() if isinstance(self.prior, prior)), None)
        if self.architecture is None or kind is None:
            return None
        with torch.random.fork_rng(devices=[]):
            discrete, continuous, decoder = self.architecture.build()
        learn: Any = self.prior.learn
        prior = _new_prior(kind, torch.zeros_like(self.prior.loc), learn)
        parts = {"prior": prior, "discrete_encoder": discrete, "continuous_encoder": continuous, "decoder": decoder}
        # As parts, so that a subclass, which load builds as what it is called on, may have methods of its own.
        twin, own = structure(nn.ModuleDict(parts).to(prior.loc.dtype)), structure(self)
        if _differ(twin | {"": ""}, own | {"": ""}):
            return None
        return {"architecture": asdict(self.architecture), "prior": kind, "learn": learn}

    @classmethod
    def load(cls, path: str | Path, into: GMLVM | None = None, *, strict: bool = True) -> GMLVM:
        """Read a model that :meth:`save` wrote.

        Args:
            path: The file.
            into: A model to take the weights, for networks or a prior of one's own; built anew if left out. It is left
                as it was if the file doesn't fit.
            strict: Whether the parts of ``into`` must be of the classes and settings of those that were saved, as well
                as its weights of their names and shapes.

        Returns:
            The model in evaluation mode, on the CPU, in the dtype that it had; or ``into``, where and as it is.

        Raises:
            FileNotFoundError: If there is no such file.
            TypeError: If ``into`` is not a :class:`GMLVM`.
            ValueError: If the file is not a saved model, is damaged, does not fit, cannot be built without ``into``, or
                holds a weight that is not finite.
        """
        header, tensors = storage.read(path, _KIND)
        model = cls._rebuild(path, header, tensors) if into is None else into
        check_type("into", model, GMLVM)
        shapes, wanted = (
            {name: str(tuple(tensor.shape)) for name, tensor in state.items()}
            for state in (tensors, model.state_dict())
        )
        if unlike := differences(shapes, wanted):
            raise ValueError(f"{path} does not fit the model to load into ({unlike})")
        # What is built here is as it was by its sizes, though another version of torch may describe it in other words.
        saved = header.get("structure") if into is not None and strict else None
        if isinstance(saved, dict) and (unlike := _differ(saved, structure(model))):  # version 0.1 wrote none
            raise ValueError(
                f"{path} does not fit the model to load into ({unlike}); strict=False loads its weights all the same"
            )
        _check_weights(tensors)
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
            kind, learn = header.get("prior", "diagonal"), header.get("learn", ())
            prior = _new_prior(kind, torch.zeros_like(tensors["prior.loc"]), learn)
            return cls.for_images(prior=prior, **asdict(architecture))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} names an architecture that cannot be built: {error}") from error

    def _codes(self, z: Tensor | ArrayLike) -> Tensor:
        """Codes in the model's dtype and on its device."""
        if not isinstance(z, Tensor):
            z = torch.from_numpy(np.array(z, np.float64))  # a copy, since torch has no reversed arrays
        return z.to(self.device, self.dtype)


def _new_prior(kind: str, loc: Tensor, learn: Sequence[str]) -> Prior:
    """A prior of one of the built-in kinds, with these means."""
    if kind not in _PRIORS:
        raise ValueError(f"no prior of kind {kind!r}")
    if kind == "diagonal":
        return GaussianMixturePrior(loc, learn=learn)
    return FullGaussianMixturePrior(
        loc, torch.eye(loc.shape[1], device=loc.device, dtype=loc.dtype).expand(len(loc), -1, -1), learn=learn
    )


def _of_component(loc: Tensor, component: Tensor) -> Tensor:
    """The rows (B, D) of codes (B, K, D) that belong to components (B,)."""
    index = component[:, None, None].expand(-1, 1, loc.shape[2])
    return loc.gather(1, index).squeeze(1)


def _check_weights(state: dict[str, Any]) -> None:
    """Raise for a state that can't be saved or used."""
    for name, value in state.items():
        check_type(f"{name} in the model's state", value, Tensor)
    bad = [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise ValueError(f"weights must be finite, got NaN or infinity in {', '.join(bad)}")


def _rounded(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """A state whose floating-point values, but for the prior's, are in another dtype."""
    check_type("dtype", dtype, torch.dtype)
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, _DTYPES))}; got {dtype}")
    rounded = {
        name: tensor.to(dtype) if tensor.is_floating_point() and not name.startswith("prior.") else tensor
        for name, tensor in state.items()
    }
    beyond = [name for name, tensor in rounded.items() if not bool(tensor.isfinite().all())]
    if beyond:
        raise ValueError(
            f"weights must lie within ±{torch.finfo(dtype).max:g} to be written in {dtype}, "
            f"got larger ones in {', '.join(beyond)}"
        )
    return rounded


def _differ(there: dict[str, str], here: dict[str, str]) -> str:
    """What differs between two structures, whatever is frozen."""
    return differences(*({name: text.removesuffix(FROZEN) for name, text in lines.items()} for lines in (there, here)))
