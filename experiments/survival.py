"""When the discrete latent survives: objectives, starts, sizes of q_C and decoders, each with each.

The convolutional decoder is a quarter as wide as the original's: 33,000 weights against the perceptron's
670,000, so that it differs in size as well as in kind.

``python -m experiments.survival --output results/survival.json`` makes the file that the chapter "When the discrete
latent survives" reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from typing import Any

import torch

from experiments import runner, seeds
from gmlvm import GMLVM, MMD, VAE, WAE, GaussianMixturePrior, Objective, datasets, evaluate, networks, pretrained
from gmlvm.enumeration import Resampled

#: What all runs share, and the axes of the map.
SETTINGS: dict[str, Any] = {
    "num_components": 10,
    "latent_dim": 9,
    "steps": 300,
    "weights": {"VAE, beta 1": 1.0, "VAE, beta 10": 10.0, "WAE on z": 200.0, "WAE on pairs": 100.0},
    "starts": ["near zero", "ordinary", "of q_D"],
    "hidden_dims": [16, 256],
    "decoders": ["mlp", "conv"],
    "filters": 8,
    "weight_std": 0.01,
}


def _objective(name: str) -> Objective:
    """One of the axis of objectives, with the terms of its sum over k drawn."""
    makers: dict[str, Callable[[float], Objective]] = {
        "VAE, beta 1": lambda weight: VAE(weight, Resampled()),
        "VAE, beta 10": lambda weight: VAE(weight, Resampled()),
        "WAE on z": lambda weight: WAE(weight, MMD("codes")),
        "WAE on pairs": WAE,
    }
    return makers[name](SETTINGS["weights"][name])


def new_model(start: str, hidden_dim: int, decoder: str, seed: int) -> GMLVM:
    """A model before its training; all have the same discrete encoder.

    Args:
        start: One of the starts: the original's, with weights near zero and q_C matched to the prior; PyTorch's own; or
            the discrete encoder of the model that the library ships, whose components mean digits.
        hidden_dim: Units of each component's continuous encoder.
        decoder: ``"mlp"`` or ``"conv"``.
        seed: Seed of the weights.
    """
    data, k, d = datasets.mnist(), SETTINGS["num_components"], SETTINGS["latent_dim"]
    shape, prior = data.image_shape, GaussianMixturePrior.simplex(k, d)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = (
            networks.deep_discrete_encoder(shape, k),
            networks.ComponentEncoder(shape, k, d, hidden_dim),
            networks.mlp_decoder(shape, d)
            if decoder == "mlp"
            else networks.conv_decoder(shape, d, SETTINGS["filters"]),
        )
        if start == "near zero":
            for network in built:
                networks.start_weights(network, SETTINGS["weight_std"])
    model = GMLVM(prior, *built, shape)
    if start == "of q_D":
        model.discrete_encoder = pretrained("gm-wae-digits").discrete_encoder.requires_grad_(True)
    return model


def cell(objective: str, start: str, hidden_dim: int, decoder: str) -> runner.Method:
    """One cell of the map, as a function of the seed.

    Args:
        objective: Its name.
        start: See :func:`new_model`.
        hidden_dim: See :func:`new_model`.
        decoder: See :func:`new_model`.
    """

    def method(seed: int) -> dict[str, Any]:
        model, data = new_model(start, hidden_dim, decoder, seed), datasets.mnist()
        matched = start == "near zero"
        history = seeds.train_whole(model, _objective(objective), data, SETTINGS["steps"], seed, matched_start=matched)
        return {"seconds": round(history.seconds, 1), "report": asdict(evaluate(model, data))}

    return method


METHODS: dict[str, runner.Method] = {
    f"{decoder} decoder, {hidden_dim} units, {start}, {objective}": cell(objective, start, hidden_dim, decoder)
    for decoder, hidden_dim, start, objective in product(
        SETTINGS["decoders"], SETTINGS["hidden_dims"], SETTINGS["starts"], SETTINGS["weights"]
    )
}

if __name__ == "__main__":
    runner.main("experiments.survival", SETTINGS, METHODS, range(5))
