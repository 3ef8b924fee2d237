"""Does a penalty weight travel? Weights in units of the data's total variance, on data of other sizes and contrasts.

``python -m experiments.weights --output results/weights.json`` makes the file that the chapter "Choices" reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from experiments import measures, runner, seeds
from experiments.imbalance import unequal_shapes
from experiments.other_data import fashion, small_digits
from experiments.shapes import coloured_shapes
from gmlvm import GMLVM, WAE, datasets, evaluate
from gmlvm.datasets import ImageData, Split

#: What all runs share, and the weights: of the penalty, in units of the total variance.
SETTINGS: dict[str, Any] = {
    "steps": 1000,
    "relative_weights": [0.1, 0.3, 1.0, 2.0, 5.0, 20.0],
    "contrast": 0.2,
}


def faint(data: ImageData) -> ImageData:
    """The same images with little contrast, around a middle grey.

    Args:
        data: The images.
    """

    def pale(split: Split) -> Split:
        grey = 127.5 + SETTINGS["contrast"] * (split.images.float() - 127.5)
        return Split(grey.round().to(torch.uint8), split.labels)

    return ImageData(f"faint {data.name}", pale(data.train), pale(data.test), data.class_names)


def weighed(source: Callable[[], ImageData], networks: str = "deep") -> runner.Method:
    """A GM-WAE for each weight, with as many components as classes, as a function of the seed.

    Args:
        source: Gives the data.
        networks: See :meth:`gmlvm.GMLVM.for_images`; those of ``"deep"`` have a batch norm where ``"mlp"`` has none.
    """

    def method(seed: int) -> dict[str, Any]:
        data = source()
        k, variance = len(data.class_names), data.total_variance
        found = []
        for weight in SETTINGS["relative_weights"]:
            model = GMLVM.for_images(data.image_shape, k, k - 1, seed=seed, networks=networks)
            objective = WAE(weight * variance)
            seeds.train_whole(model, objective, data, SETTINGS["steps"], seed)
            report, mixing = asdict(evaluate(model, data)), measures.mixing(data, model, seed)
            found.append({"relative_weight": weight, "mixing": mixing, **report})
        return {"total_variance": variance, "trainings": found}

    return method


METHODS: dict[str, runner.Method] = {
    "MNIST": weighed(datasets.mnist),
    "faint MNIST": weighed(lambda: faint(datasets.mnist())),
    "faint MNIST, no batch norm": weighed(lambda: faint(datasets.mnist()), "mlp"),
    "Fashion-MNIST": weighed(fashion),
    "small digits": weighed(small_digits),
    "coloured shapes": weighed(coloured_shapes),
    "unequal shapes": weighed(unequal_shapes),
}

if __name__ == "__main__":
    runner.main("experiments.weights", SETTINGS, METHODS, range(3))
