"""A toy of two dimensions: points in the unit square from a known model, networks for them, and how to draw both.

A point is an image of two pixels, (1, 1, 2), so all of the library works on it. The prior's component k keeps one
colour and one marker in every picture.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Circle
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from gmlvm import GMLVM, Divergence, GaussianMixturePrior, Posterior, Prior
from gmlvm.kl import categorical_kl
from gmlvm.networks import ComponentEncoder, mlp_decoder, mlp_discrete_encoder
from gmlvm.plots import PALETTE

SHAPE = (1, 1, 2)
#: Standard deviation of a point around what its code is decoded to.
NOISE = 0.02
MARKERS = "os^"


def new_prior() -> GaussianMixturePrior:
    """Three Gaussians in the plane, five standard deviations apart."""
    return GaussianMixturePrior.simplex(3, 2, edge=5.0)


def decode(z: Tensor) -> Tensor:
    r"""The decoder that makes the toy: turn each code by half its length, shrink it, and move it into the square.

    .. math:: G(z) = (1/2, 1/2) + 0.075\, R(\lVert z \rVert / 2)\, z

    with R for the rotation by an angle in radians. It can be inverted, and has no steep place.

    Args:
        z: Codes, shape (..., 2).

    Returns:
        Points, shape (..., 2).

    Source: chapter "Mixtures as latent variables".
    """
    angle = z.norm(dim=-1) / 2
    cos, sin, (x, y) = angle.cos(), angle.sin(), z.unbind(-1)
    return 0.5 + 0.075 * torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)


def draw(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw from the toy: a component, a code, the point it is decoded to, and noise.

    Args:
        n: How many points, at least 1.
        seed: Seed of the draws.

    Returns:
        Points in [0, 1], shape (n, 1, 1, 2), and their components, int64, (n,).
    """
    prior, generator = new_prior(), torch.Generator().manual_seed(seed)
    k = prior.sample_component(n, generator)
    points = decode(prior.sample(n, k, generator=generator))
    points = points + NOISE * torch.randn(n, 2, generator=generator)
    return points.clamp(0, 1).view(n, *SHAPE), k


class _Spread(nn.Module):
    """Points of the unit square, centred and about one unit apart."""

    def forward(self, x: Tensor) -> Tensor:
        return 5 * (x - 0.5)


def new_model(seed: int = 0) -> GMLVM:
    """An untrained model for the toy, with its prior and small networks; the posterior of a code starts narrow.

    Args:
        seed: Seed of the weights; torch's global generator is left as it was.
    """
    prior = new_prior()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        codes = ComponentEncoder(SHAPE, prior.num_components, prior.latent_dim)
        with torch.no_grad():
            codes.bias[:, prior.latent_dim :] -= 2  # of the logarithm of the scale
        return GMLVM(
            prior,
            nn.Sequential(_Spread(), mlp_discrete_encoder(SHAPE, prior.num_components, 64)),
            nn.Sequential(_Spread(), codes),
            mlp_decoder(SHAPE, prior.latent_dim, 64),
            SHAPE,
        )


class KLOfEachImage(Divergence):
    r"""The divergences of the ELBO as a penalty, so that a VAE is a WAE with another penalty.

    .. math:: E_x \big( \textstyle\sum_k q_D(k|x)\, KL(q_C(z|k,x) \,\|\, p_C(z|k)) + KL(q_D(k|x) \,\|\, p_D) \big)

    With the likelihood :math:`N(x;\, G(z), \sigma^2 I)` the negative ELBO is, but for a constant,
    :math:`1 / 2 \sigma^2` times the squared error plus :math:`2 \sigma^2` times this, in nats for each image.

    Source: Kingma and Welling (2014); chapter "From transport to autoencoders".
    """

    def forward(
        self, posterior: Posterior, z: Tensor, prior: Prior, generator: torch.Generator | None = None
    ) -> Tensor:
        """The mean over the batch, nats; see :class:`gmlvm.Divergence`."""
        kl_z = (posterior.probs * prior.component_kl(posterior.loc, posterior.scale)).sum(1)  # (B,)
        return (kl_z + categorical_kl(posterior.log_probs, prior.logits)).mean()


def blend(probs: ArrayLike) -> NDArray[np.float64]:
    """The colours of the components, mixed by their probabilities.

    Args:
        probs: Shape (..., 3), the last axis summing to one.

    Returns:
        Red, green and blue in [0, 1], shape (..., 3).
    """
    colors: NDArray[np.float64] = np.asarray(probs, dtype=float) @ np.array([to_rgb(color) for color in PALETTE[:3]])
    return colors


def draw_codes(ax: Axes, z: Tensor, k: Tensor, prior: Prior, *, size: float = 3) -> Axes:
    """Codes in the colours of their components, over rings around the prior's: two standard deviations.

    Args:
        ax: Where to draw.
        z: Codes, shape (N, 2).
        k: Their components, shape (N,).
        prior: The prior, of three round components in the plane.
        size: Of the markers.

    Returns:
        The axis.
    """
    for component, marker in enumerate(MARKERS):
        color, loc = PALETTE[component], prior.loc[component].tolist()
        ring = Circle((loc[0], loc[1]), 2 * prior.scale[component, 0].item(), fill=False, color=color, linewidth=1.5)
        ax.add_patch(ring)
        ax.plot(*z[k == component].T, marker, color=color, markersize=size, alpha=0.6, markeredgewidth=0)
    ax.set(aspect="equal", xlabel="$z_1$", ylabel="$z_2$")
    return ax


def draw_posterior(ax: Axes, model: GMLVM, points: Tensor) -> Axes:
    """Points in the plane, and behind them q_D in the mixed colours of the components; lines where the first changes.

    Args:
        ax: Where to draw.
        model: The model.
        points: Shape (N, 1, 1, 2).

    Returns:
        The axis.
    """
    grid = np.linspace(0, 1, 101)
    plane = np.stack(np.meshgrid(grid, grid), axis=-1)  # rows go up, columns to the right
    probs = model.predict_proba(plane.reshape(-1, *SHAPE)).reshape(101, 101, 3)
    ax.imshow(blend(probs), extent=(0, 1, 0, 1), origin="lower", alpha=0.45, interpolation="bilinear")
    if np.ptp(probs.argmax(-1)) > 0:
        for component in np.unique(probs.argmax(-1)):
            lead = probs[..., component] - np.delete(probs, component, axis=-1).max(-1)
            ax.contour(grid, grid, lead, [0.0], colors="black", linewidths=0.8)
    ax.plot(*points.view(-1, 2).T, "k.", markersize=1.5, alpha=0.5)
    ax.set(xlim=(0.1, 0.9), ylim=(0.1, 0.9), aspect="equal", xticks=[], yticks=[])
    ax.grid(False)
    return ax
