r"""How probable images are under a model: the marginal likelihood, by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from gmlvm.inference import inference
from gmlvm.model import GMLVM
from gmlvm.posterior import Posterior
from gmlvm.validation import check_number, check_positive_int, check_seed, check_type


def bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    """Log probability of black and white images.

    Args:
        logits: The decoder's, shape (N, C, H, W).
        x: Images of zeros and ones, of the same shape.

    Returns:
        Nats, shape (N,), summed over pixels.

    Raises:
        ValueError: If a pixel is neither 0 nor 1: grey levels have no probability under this likelihood.

    Source: notation page.
    """
    if not bool(((x == 0) | (x == 1)).all()):
        raise ValueError("images must be black and white, 0 or 1, for a Bernoulli likelihood; binarise them first")
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def log_likelihood(
    model: GMLVM,
    images: Tensor | ArrayLike,
    samples: int = 100,
    *,
    observation: Callable[[Tensor, Tensor], Tensor] = bernoulli,
    tolerance: float = 0.0,
    codes_at_once: int = 10_000,
    seed: int = 0,
) -> NDArray[np.float64]:
    r"""Log of an unbiased estimate of :math:`p(x)`, in nats for each image.

    .. math::
        \hat p(x) = \sum_k p_D(k)\, \frac1S \sum_{s=1}^S \frac{p_C(z_{ks}|k)\, p_G(x|z_{ks})}{q_C(z_{ks}|k,x)},
        \qquad z_{ks} \sim q_C(z|k,x)

    The sum over k is exact, S codes for each component: so q_D takes no part, and one that is too sure does no harm.
    The logarithm is too low on average, by the less the more samples there are, and the more nearly q_C is the true
    posterior: a posterior that is too narrow, as a WAE's, needs very many.

    Args:
        model: The model.
        images: (N, C, H, W), as :meth:`gmlvm.GMLVM.posterior` takes them.
        samples: S, codes of each component, at least 1.
        observation: Log probability of images given the decoder's logits, each (N, C, H, W), to nats (N,).
        tolerance: Components of which q_D(k|x) is below this are left out, in [0, 1): cheaper, and never higher.
        codes_at_once: About as many codes are decoded at a time.
        seed: Seed of the codes, below 2^64.

    Returns:
        Nats, float64, shape (N,).

    Raises:
        TypeError: If ``model`` is no :class:`gmlvm.GMLVM`, or the images have another dtype.
        ValueError: If an argument is out of range, or the images have another shape or lie outside [0, 1], or the
            likelihood is not meant for them.

    Source: Burda et al. (2016), equation 8; notation page.
    """
    check_type("model", model, GMLVM)
    samples = check_positive_int("samples", samples)
    tolerance = check_number("tolerance", tolerance)
    if tolerance >= 1:
        raise ValueError(f"tolerance must be below 1, or no component is left, got {tolerance}")
    images = model._images(images)
    if len(images) == 0:
        raise ValueError(f"images must have shape (N, C, H, W), N at least 1, got {tuple(images.shape)}")
    batch = max(1, check_positive_int("codes_at_once", codes_at_once) // model.num_components)
    generator = torch.Generator(model.device).manual_seed(check_seed("seed", seed))
    found = []
    with inference(model):
        for part in images.split(batch):
            x = model.pixels(part)
            posterior = model.posterior(x)
            kept = posterior.probs >= tolerance
            kept.scatter_(1, posterior.logits.argmax(1, keepdim=True), True)
            image, component = kept.nonzero(as_tuple=True)
            at_once = max(1, codes_at_once // len(image))
            rounds = [at_once] * (samples // at_once) + [samples % at_once] * (samples % at_once > 0)
            weights = [
                _log_weights(model, x, posterior, image, component, count, observation, generator) for count in rounds
            ]
            of_component = torch.full_like(posterior.logits, -torch.inf, dtype=torch.float64)
            of_component[image, component] = torch.cat(weights).logsumexp(0) - math.log(samples)
            found.append((of_component + model.prior.logits).logsumexp(1).cpu())
    return torch.cat(found).numpy()


def _log_weights(
    model: GMLVM,
    x: Tensor,
    posterior: Posterior,
    image: Tensor,
    component: Tensor,
    samples: int,
    observation: Callable[[Tensor, Tensor], Tensor],
    generator: torch.Generator,
) -> Tensor:
    r""":math:`\log p_C(z|k) + \log p_G(x|z) - \log q_C(z|k,x)` of codes for each pair, float64, shape (S, N)."""
    loc, scale = posterior.loc[image, component], posterior.scale[image, component]  # (N, D)
    shape = (samples, *loc.shape)
    noise = torch.randn(shape, generator=generator, device=loc.device, dtype=loc.dtype)
    z = loc + scale * noise
    log_q = -(noise.double().square() / 2 + scale.double().log() + math.log(2 * math.pi) / 2).sum(2)
    log_p = model.prior.component_log_prob(z).gather(2, component[:, None].expand(samples, -1, 1)).squeeze(2)
    logits = model.decoder_logits(z).flatten(0, 1)  # (S N, C, H, W)
    seen = observation(logits, x[image.repeat(samples)]).unflatten(0, shape[:2])
    weights: Tensor = log_p.double() + seen.double() - log_q
    return weights
