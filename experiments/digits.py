"""Components that mean digits: the whole path, and the GM-WAE without a start beside it, seed by seed.

``python -m experiments.digits --output results/digits.json --methods path`` makes the file that the chapter "Components
that mean digits" reads. Labels are looked at when everything is trained, by what measures alone.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from experiments import measures, runner
from experiments.seeds import SETTINGS as WAE_SETTINGS
from experiments.seeds import train, train_whole
from gmlvm import GMLVM, WAE, Clusterer, GaussianMixturePrior, datasets, start_discrete_encoder
from gmlvm.datasets import ImageData
from gmlvm.networks import deep_discrete_encoder

#: What the path does: a start for q_D, which then stays as it is; the GM-WAE; a Gaussian for each component's codes.
SETTINGS: dict[str, Any] = {
    **{name: WAE_SETTINGS[name] for name in ("num_components", "latent_dim", "penalty_weight", "steps")},
    "networks": "deep",
    "refining_steps": 5000,
}


def new_model(data: ImageData, seed: int, num_components: int | None = None) -> GMLVM:
    """The model before any training.

    Args:
        data: Whose images it is for.
        seed: Seed of its weights, and of its prior's means where a simplex has no room for them.
        num_components: Number of components K, if not the path's.
    """
    k, d = num_components or SETTINGS["num_components"], SETTINGS["latent_dim"]
    prior = GaussianMixturePrior.scattered(k, d, seed=seed) if k > d + 1 else None
    return GMLVM.for_images(data.image_shape, k, d, seed=seed, prior=prior, networks=SETTINGS["networks"])


def new_encoder(data: ImageData, num_components: int, seed: int) -> Clusterer:
    """The path's discrete encoder by itself, untrained.

    Args:
        data: Whose images it is for.
        num_components: Number of components K.
        seed: Seed of its weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Clusterer(deep_discrete_encoder(data.image_shape, num_components), data.image_shape)


def follow(
    data: ImageData, seed: int, num_components: int | None = None, targets: Tensor | None = None
) -> tuple[GMLVM, dict[str, float]]:
    """Start q_D, freeze it, and train the rest as a GM-WAE.

    Args:
        data: Of which the images of the training split are used.
        seed: Seed of everything.
        num_components: Number of components K, if not the path's.
        targets: What the teacher said, if it was asked before.

    Returns:
        The model, with the prior that it began with, and the seconds of each part.
    """
    model, begun = new_model(data, seed, num_components), time.perf_counter()
    start = start_discrete_encoder(
        model, data, targets=targets, refining_steps=SETTINGS["refining_steps"], seed=seed, progress=False
    )
    started = time.perf_counter()
    model.discrete_encoder.requires_grad_(False)
    objective = WAE(penalty_weight=SETTINGS["penalty_weight"])
    history = train_whole(model, objective, data, SETTINGS["steps"], seed)
    seconds = {
        "teacher": started - begun - start.taught.seconds - start.refined.seconds,
        "distillation": start.taught.seconds,
        "refinement": start.refined.seconds,
        "training": history.seconds,
    }
    return model, {name: round(value, 1) for name, value in seconds.items()}


def path(seed: int) -> dict[str, Any]:
    """The whole path.

    Args:
        seed: Seed of everything.

    Returns:
        Seconds of each part, and the figures before and after the prior moves.
    """
    model, seconds = follow(datasets.mnist(), seed)
    return {"seconds": seconds, **measures.with_fitted_prior(model)}


def plain(seed: int) -> dict[str, Any]:
    """The GM-WAE as the chapter "Training the GM-WAE" has it, with no start, measured in the same way.

    Args:
        seed: Seed of everything.
    """
    model, history = train(seed)
    return {"seconds": round(history.seconds, 1), **measures.with_fitted_prior(model)}


METHODS: dict[str, runner.Method] = {"path": path, "plain": plain}

if __name__ == "__main__":
    runner.main("experiments.digits", SETTINGS, METHODS, range(10))
