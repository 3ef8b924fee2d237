"""Where a component's own samples come from: a model trained with its groups, or groups given to a model afterwards.

A VAE, and a WAE, with one Gaussian know nothing of groups. Here their codes are grouped afterwards as the path groups
the images, and each group gets its Gaussian. And mixtures of more components are fitted to the codes of the VAE, which
have no ground to be as few as groups are if they are only to draw.

``python -m experiments.origin --output results/origin.json`` makes the file that the chapter "A contest" reads beside
that of ``experiments.contest``, whose models with one Gaussian these are. (Of the WAE no file is committed.)
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from experiments import contest, measures, runner
from gmlvm import GMLVM, VAE, WAE, GaussianMixturePrior, Objective, datasets, embedding, fit_prior, pretrained
from gmlvm.generation import judge_samples

#: The contest's, for its models with one Gaussian.
SETTINGS: dict[str, Any] = {
    **{name: contest.SETTINGS[name] for name in ("num_components", "latent_dim", "penalty_weight", "steps")},
    "hidden_dim": contest.SETTINGS["hidden_dim"],
    "many": [10, 50, 100],
    "mixture_starts": 4,
}


class ForAll(nn.Module):
    """A continuous encoder with one component, whose codes serve for several.

    Args:
        encoder: The encoder.
        num_components: For how many.
    """

    def __init__(self, encoder: nn.Module, num_components: int) -> None:
        super().__init__()
        self.encoder, self.num_components = encoder, num_components

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations, (B, K, D) each, the same for every component."""
        loc, scale = self.encoder(x)  # (B, 1, D)
        return loc.expand(-1, self.num_components, -1), scale.expand(-1, self.num_components, -1)


def grouped(model: GMLVM, discrete_encoder: nn.Module, num_components: int) -> GMLVM:
    """A model with one Gaussian, with components that another's groups give it.

    Args:
        model: The model.
        discrete_encoder: Gives the groups of images.
        num_components: How many there are.
    """
    prior = GaussianMixturePrior(
        model.prior.loc.expand(num_components, -1), model.prior.scale.expand(num_components, -1)
    )
    encoder = ForAll(model.continuous_encoder, num_components)
    return GMLVM(prior, discrete_encoder, encoder, model.decoder, model.image_shape)


def afterwards(objective: Objective) -> runner.Method:
    """A model with one Gaussian, and with one for each of the path's groups, as a function of the seed.

    Args:
        objective: What is minimised.
    """

    def method(seed: int) -> dict[str, Any]:
        single, _ = contest.one_gaussian_model(objective, SETTINGS["steps"], seed)
        model = grouped(single, pretrained("gm-wae-digits").discrete_encoder, SETTINGS["num_components"])
        fit_prior(model, datasets.mnist())
        return {"one Gaussian": measures.measured(single), "groups of the path": measures.measured(model)}

    return method


def distances(model: GMLVM, mixture: GaussianMixture) -> dict[str, float]:
    """How far images are from the test images that a model draws at codes from a mixture.

    Args:
        model: The model, of which the decoder is used.
        mixture: Of its codes.
    """

    def draw(count: int, component: int | None) -> Tensor:
        codes, _ = mixture.sample(count)
        return measures.decoded(model, mixture, codes, count)

    samples = judge_samples(draw, 1, measures.classifier(), datasets.mnist())
    return {"frechet": samples.frechet, "kernel": samples.kernel}


def many_gaussians(seed: int) -> dict[str, Any]:
    """Mixtures of few and of many components on the codes of the VAE with one Gaussian.

    Args:
        seed: Seed of everything.
    """
    single, _ = contest.one_gaussian_model(VAE(), SETTINGS["steps"], seed)
    codes, found = single.transform(datasets.mnist().train.images), {}
    for count in SETTINGS["many"]:
        begun = time.perf_counter()
        mixture = embedding.likeliest_mixture(codes, count, seed, starts=SETTINGS["mixture_starts"])
        seconds = round(time.perf_counter() - begun, 1)
        mixture.random_state = np.random.RandomState(seed)
        found[f"{count} Gaussians"] = {"seconds": seconds, **distances(single, mixture)}
    return found


METHODS: dict[str, runner.Method] = {
    "VAE": afterwards(VAE()),
    "WAE": afterwards(WAE(penalty_weight=SETTINGS["penalty_weight"])),
    "VAE, many Gaussians": many_gaussians,
}

if __name__ == "__main__":
    runner.main("experiments.origin", SETTINGS, METHODS, range(5))
