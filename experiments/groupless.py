"""Images without groups: do the numbers of the chapter "Choices", which need no label, show that there are none?

``python -m experiments.groupless --output results/groupless.json`` makes the file that it reads. Beside three data sets
that are one continuum each stand two that have groups.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_rand_score

from experiments import recipe, runner
from experiments.other_data import small_digits
from experiments.shapes import coloured_shapes
from gmlvm import datasets, learn_components
from gmlvm.datasets import ImageData, Split

#: Those of the chapter's live run, for each of several numbers of components and of two seeds.
SETTINGS: dict[str, Any] = {
    "numbers": [5, 10],
    "runs": 2,
    "refining_steps": 1500,
    "steps": 1500,
    "digit": 1,
    "draws": [6000, 1000],
}


def discs() -> ImageData:
    """Coloured shapes of one kind, which differ by place, size and colour alone."""
    return coloured_shapes(shares=(1.0, 0.0, 0.0, 0.0, 0.0))


def one_digit() -> ImageData:
    """One digit of MNIST."""
    data = datasets.mnist()

    def alone(split: Split) -> Split:
        assert split.labels is not None
        where = split.labels == SETTINGS["digit"]
        return Split(split.images[where], split.labels[where])

    return ImageData("one digit", alone(data.train), alone(data.test), data.class_names)


def one_gaussian() -> ImageData:
    """Draws from one Gaussian with mean and covariance of scikit-learn's digits, cut off at black and white."""
    images = small_digits().train.images.numpy()
    rows = images.reshape(len(images), -1) / 255
    draws = np.random.default_rng(0).multivariate_normal(rows.mean(0), np.cov(rows.T), sum(SETTINGS["draws"]))
    draws = draws.clip(0, 1).reshape(-1, *images.shape[2:])
    train, test = np.split(draws, [SETTINGS["draws"][0]])
    nothing = (np.zeros(len(split), dtype=int) for split in (train, test))
    return datasets.from_arrays(train, next(nothing), test, next(nothing), name="one Gaussian")


def learned_again(source: Callable[[], ImageData]) -> runner.Method:
    """The recipe several times on one data set, for each number of components, as a function of the seed.

    Args:
        source: Gives the data.
    """

    def method(seed: int) -> dict[str, Any]:
        data, found = source(), {}
        for k in SETTINGS["numbers"]:
            runs = [
                learn_components(
                    data,
                    k,
                    refining_steps=SETTINGS["refining_steps"],
                    steps=SETTINGS["steps"],
                    seed=seed * SETTINGS["runs"] + index,
                    progress=False,
                )
                for index in range(SETTINGS["runs"])
            ]
            groups = [learned.model.predict(data.test.images) for learned in runs]
            found[str(k)] = {
                "agreement": float(np.mean([adjusted_rand_score(*pair) for pair in combinations(groups, 2)])),
                "left": [learned.model.num_components for learned in runs],
                "own_before": [float(learned.own_samples.mean()) for learned in runs],
                "numbers": [recipe.four_numbers(learned.model, data) for learned in runs],
            }
        return found

    return method


METHODS: dict[str, runner.Method] = {
    "discs": learned_again(discs),
    "one digit": learned_again(one_digit),
    "one Gaussian": learned_again(one_gaussian),
    "small digits": learned_again(small_digits),
    "coloured shapes": learned_again(coloured_shapes),
}

if __name__ == "__main__":
    runner.main("experiments.groupless", SETTINGS, METHODS, range(3))
