"""The setting to start with, on data of six kinds: the chapter "Choices" in one function, with nothing set by data.

``python -m experiments.recipe --output results/recipe.json`` makes the file that it reads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from experiments import imbalance, measures, other_data, runner
from experiments.shapes import coloured_shapes
from gmlvm import GMLVM, datasets, evaluate, learn_components
from gmlvm.datasets import ImageData
from gmlvm.generation import own_samples

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
        "information": report.mutual_information / max(report.component_entropy, 1e-9),  # none of one component
        "error": report.reconstruction_error / data.total_variance,
        "own_samples": float(own_samples(model).mean()),
        "mixing": measures.mixing(data, model, seed=0),
        **asdict(report),
    }


def followed(source: Callable[[], ImageData], asked: int | None = None) -> runner.Method:
    """K-means, the teacher and the recipe on one data set, as a function of the seed.

    Args:
        source: Gives the data.
        asked: How many components it is asked for; as many as it has classes if left out.
    """

    def method(seed: int) -> dict[str, Any]:
        data = source()
        figures, targets = other_data.yardsticks(data, asked or len(data.class_names), seed)
        begun = time.perf_counter()
        learned = learn_components(
            data,
            targets.shape[1],
            targets=targets,
            refining_steps=SETTINGS["refining_steps"],
            latent_dim=SETTINGS["least_latent_dim"],
            least_share=SETTINGS["least_share"],
            relative_weight=SETTINGS["relative_weight"],
            steps=SETTINGS["steps"],
            seed=seed,
            progress=False,
        )
        seconds, model, fitted = time.perf_counter() - begun, learned.model, learned.model.prior
        model.prior = learned.training_prior
        before = four_numbers(model, data)
        model.prior = fitted
        return {
            **figures,
            "seconds_after_the_teacher": round(seconds, 1),
            "total_variance": data.total_variance,
            "most_information": math.log(model.num_components),
            "shares": learned.shares.tolist(),
            "own_samples": learned.own_samples.tolist(),
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
    "small digits, 15 asked": followed(other_data.small_digits, 15),
    "imbalanced MNIST, 15 asked": followed(imbalance.imbalanced, 15),
}

if __name__ == "__main__":
    runner.main("experiments.recipe", SETTINGS, METHODS, range(3))
