"""Does k die for the penalty on z, or for its weight? Both penalties over a range of weights, all else equal.

``python -m experiments.penalties --output results/penalties.json`` makes the file that the chapter "Training the
GM-WAE" reads, which has some of these weights.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from experiments import runner, seeds
from gmlvm import GMLVM, MMD, WAE, datasets, evaluate

#: What all runs share, and the weights: in units of the data's total variance, by what the penalty compares.
SETTINGS: dict[str, Any] = {
    "num_components": 10,
    "latent_dim": 9,
    "steps": 1000,
    "relative_weights": {"codes": [0.5, 2.0, 5.0, 10.0, 20.0, 40.0], "pairs": [0.3, 2.0, 5.0, 20.0]},
}


def weighed(on: str, relative_weight: float) -> runner.Method:
    """A GM-WAE with one penalty and one weight, from the ordinary start, as a function of the seed.

    Args:
        on: What the penalty compares; see :class:`gmlvm.MMD`.
        relative_weight: Of the penalty, in units of the total variance.
    """

    def method(seed: int) -> dict[str, Any]:
        data = datasets.mnist()
        model = GMLVM.for_images(data.image_shape, SETTINGS["num_components"], SETTINGS["latent_dim"], seed=seed)
        objective = WAE(relative_weight * data.total_variance, MMD(on))
        history = seeds.train_whole(model, objective, data, SETTINGS["steps"], seed)
        return {"seconds": round(history.seconds, 1), **asdict(evaluate(model, data))}

    return method


#: By name, such as ``"codes, weight 0.5"``.
METHODS: dict[str, runner.Method] = {
    f"{on}, weight {weight:g}": weighed(on, weight)
    for on, weights in SETTINGS["relative_weights"].items()
    for weight in weights
}

if __name__ == "__main__":
    runner.main("experiments.penalties", SETTINGS, METHODS, range(3))
