"""The setting to start with, on data of six kinds: the chapter "Choices" in one function, with nothing set by data.

``python -m experiments.recipe --output results/recipe.json`` makes the file that it reads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from experiments import imbalance, measures, other_data, runner, seeds
from experiments.shapes import coloured_shapes
from gmlvm import GMLVM, WAE, GaussianMixturePrior, InformationMaximisation, datasets, evaluate, fit_prior
from gmlvm.datasets import ImageData
from gmlvm.generation import own_samples
from gmlvm.merging import keep_components

#: Those of the path's start; then what the chapter adds.
SETTINGS: dict[str, Any] = {
    **{name: imbalance.SETTINGS[name] for name in ("refining_steps", "kmeans_starts", "rare", "rare_share")},
    "shape_shares": imbalance.SETTINGS["shape_shares"],
    "least_share": 0.005,
    "least_latent_dim": 9,
    "relative_weight": 2.0,
    "steps": 3000,
}


def four_numbers(model: GMLVM, data: ImageData) -> dict[str, Any]:
    """What the chapter looks at, and what needs labels.

    Args:
        model: The model.
        data: The images.
    """
    report = evaluate(model, data)
    return {
        "information": report.mutual_information / report.component_entropy,
        "error": report.reconstruction_error / data.total_variance,
        "own_samples": float(own_samples(model).mean()),
        "mixing": measures.mixing(data, model, seed=0),
        **asdict(report),
    }


def followed(source: Callable[[], ImageData]) -> runner.Method:
    """K-means, the teacher and the recipe on one data set, as a function of the seed.

    Args:
        source: Gives the data, which is asked for as many components as it has classes.
    """

    def method(seed: int) -> dict[str, Any]:
        data = source()
        figures, targets = other_data.yardsticks(data, len(data.class_names), seed)
        begun = time.perf_counter()
        groups = imbalance.started(data, targets, InformationMaximisation(balance=0.0), seed)
        shares = groups.predict_proba(data.train.images).mean(0)
        kept = np.flatnonzero(shares > SETTINGS["least_share"])
        k, d = len(kept), max(len(kept) - 1, SETTINGS["least_latent_dim"])
        prior = GaussianMixturePrior.simplex(k, d, logits=torch.tensor(np.log(shares[kept])))
        model = GMLVM.for_images(data.image_shape, k, d, prior=prior, networks="deep", seed=seed)
        model.discrete_encoder = keep_components(groups.discrete_encoder, kept).requires_grad_(False)
        seeds.train_whole(model, WAE(SETTINGS["relative_weight"] * data.total_variance), data, SETTINGS["steps"], seed)
        before = four_numbers(model, data)
        fit_prior(model, data)
        return {
            **figures,
            "seconds_after_the_teacher": round(time.perf_counter() - begun, 1),
            "total_variance": data.total_variance,
            "most_information": math.log(k),
            "before": before,
            "after": four_numbers(model, data),
        }

    return method


METHODS: dict[str, runner.Method] = {
    "small digits": followed(other_data.small_digits),
    "coloured shapes": followed(coloured_shapes),
    "unequal shapes": followed(imbalance.unequal_shapes),
    "MNIST": followed(datasets.mnist),
    "imbalanced MNIST": followed(imbalance.imbalanced),
    "Fashion-MNIST": followed(other_data.fashion),
}

if __name__ == "__main__":
    runner.main("experiments.recipe", SETTINGS, METHODS, range(3))
