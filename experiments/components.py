"""Other numbers of components than ten: styles of digits, and how many groups the images have by themselves.

``python -m experiments.components --output results/components.json`` makes the file that the chapter "Beyond MNIST"
reads.
"""

from __future__ import annotations

from typing import Any

from experiments import digits, measures, runner
from gmlvm import datasets

#: The path's.
SETTINGS: dict[str, Any] = dict(digits.SETTINGS)


def many(num_components: int) -> runner.Method:
    """The path with so many components, and what is left when they are merged to ten, as a function of the seed.

    Args:
        num_components: Number of components K.
    """

    def method(seed: int) -> dict[str, Any]:
        data = datasets.mnist()
        model, seconds = digits.follow(data, seed, num_components)
        figures = {"seconds": seconds, **measures.with_fitted_prior(model)}
        if num_components > SETTINGS["num_components"]:
            figures["merged"] = measures.merged(data, model, SETTINGS["num_components"], seed)
        return figures

    return method


#: What is run for each seed, by name.
METHODS: dict[str, runner.Method] = {f"K = {k}": many(k) for k in (7, 20, 30)}

if __name__ == "__main__":
    runner.main("experiments.components", SETTINGS, METHODS, range(5))
