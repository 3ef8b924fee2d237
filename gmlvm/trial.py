"""The trial that a model's networks go through when it is made: a wrong one is to show before it is trained."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gmlvm.inference import inference
from gmlvm.posterior import Posterior
from gmlvm.prior import Prior
from gmlvm.validation import check_finite, check_shape

# Images and codes that networks are tried on, and how far out codes lie that tell logits by their size.
_TRIED, _FAR = 4, 1e9


def try_clusterer(discrete: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Raise if a discrete encoder does not give logits, on a few images of noise; it is left as it was.

    Args:
        discrete: The discrete encoder.
        image_shape: (C, H, W).

    Returns:
        K, how many components it knows.

    Raises:
        TypeError: If it gives something that isn't a tensor.
        ValueError: If it raises an error, or gives something else than logits, (B, K).
    """
    weights = next(discrete.parameters(), torch.empty(0))
    with inference(discrete), _randomness_kept(discrete, weights.device):
        x = _noise(_TRIED, *image_shape).to(weights.device, weights.dtype)
        logits = _tried("discrete_encoder", discrete, x)
        check_shape("what discrete_encoder gives", logits, (_TRIED, None), " (batch, num_components)")
        _check_logits(logits)
    return int(logits.shape[1])


def try_networks(
    prior: Prior, discrete: nn.Module, continuous: nn.Module, decoder: nn.Module, image_shape: tuple[int, int, int]
) -> None:
    """Raise if a model's networks do not do what they stand for, on a few images and codes of noise.

    They are left as they were, but for lazy layers, which get their weights.

    Args:
        prior: The prior.
        discrete: The discrete encoder.
        continuous: The continuous encoder.
        decoder: The decoder.
        image_shape: (C, H, W).

    Raises:
        TypeError: If a network gives something that isn't a tensor.
        ValueError: If one raises an error, or what it gives has another shape, is not finite, or can't be what it
            stands for: scales that are not positive, probabilities for logits.
    """
    count = _TRIED + (prior.num_components == _TRIED)  # so that the first two axes can't be taken for each other
    x, z = _noise(count, *image_shape).to(prior.loc), 4 * _noise(count, prior.latent_dim).to(prior.loc) - 2
    networks = nn.ModuleList([discrete, continuous, decoder])
    with inference(networks), _randomness_kept(networks, prior.loc.device):
        logits = _tried("discrete_encoder", discrete, x)
        check_shape("what discrete_encoder gives", logits, (count, prior.num_components), " (batch, num_components)")
        pair = _tried("continuous_encoder", continuous, x)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"continuous_encoder must give a pair, loc and scale, got {type(pair).__name__}")
        size, axes = (*logits.shape, prior.latent_dim), " (batch, num_components, latent_dim)"
        for name, tensor in zip(("loc", "scale"), pair, strict=True):
            check_shape(f"{name} that continuous_encoder gives", tensor, size, axes)
        Posterior(logits, *pair).check()
        _check_logits(logits)
        images = _tried("decoder", decoder, z)
        if not isinstance(images, Tensor) or images.shape != (count, math.prod(image_shape)):
            check_shape("what decoder gives", images, x.shape, " (codes, channels, height, width)")
        check_finite("what decoder gives", images)
        # Logits may lie between 0 and 1, but not those of codes far out as well, unless they are constant.
        if _in_unit_interval(images):
            far = _tried("decoder", decoder, _FAR * z)
            if _in_unit_interval(far) and not torch.equal(images, far):
                raise ValueError("decoder must give logits, got values in [0, 1] alone: leave out the sigmoid")


def _noise(*shape: int) -> Tensor:
    """Numbers in [0, 1], the same each time."""
    return torch.rand(shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")


def _check_logits(logits: Tensor) -> None:
    check_finite("q_D(k|x)", logits.softmax(1))  # not its logits: minus infinity rules a component out
    if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-4):
        raise ValueError("discrete_encoder must give logits, got rows that sum to one: leave out the softmax")


def _randomness_kept(networks: nn.Module, device: torch.device) -> AbstractContextManager[None]:
    """Global generators as they were afterwards, unless a lazy layer draws its weights from them."""
    if any(map(is_lazy, networks.parameters())):
        return nullcontext()
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _tried(name: str, network: nn.Module, x: Tensor) -> Any:
    try:
        return network(x)
    except Exception as error:
        raise ValueError(f"{name} failed on a batch of shape {tuple(x.shape)}: {error}") from error


def _in_unit_interval(values: Tensor) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())
