"""Squared error against how well the codes fill the prior: weights of the penalty, narrower kernels, consistency.

``python -m experiments.tradeoff --output results/tradeoff.json`` makes the file that the chapter "What carries the
path" reads.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import product
from typing import Any

from experiments import ablations, digits, measures, runner, seeds
from gmlvm import MMD, WAE, datasets
from gmlvm.kernels import DEFAULT_BANDWIDTHS

#: The path's; a training for each combination of the lists.
SETTINGS: dict[str, Any] = {
    **digits.SETTINGS,
    "penalty_weights": [30.0, 100.0, 300.0, 1000.0],
    "kernels": {"wide": list(DEFAULT_BANDWIDTHS), "narrow": [0.1, 0.3, 0.8, 2.4, 8.0, 24.0]},
    "consistency_weights": [0.0, 10.0],
}


def grid(seed: int) -> dict[str, Any]:
    """Every combination from one start, q_D frozen.

    Args:
        seed: Seed of everything.
    """
    start, figures = ablations.started(seed)
    start.discrete_encoder.requires_grad_(False)
    found = []
    for kernels, penalty, consistency in product(
        SETTINGS["kernels"], SETTINGS["penalty_weights"], SETTINGS["consistency_weights"]
    ):
        model, data = deepcopy(start), datasets.mnist()
        divergence = MMD(bandwidths=tuple(SETTINGS["kernels"][kernels]))
        objective = WAE(penalty, divergence, consistency_weight=consistency)
        history = seeds.train_whole(model, objective, data, SETTINGS["steps"], seed)
        setting = {"kernels": kernels, "penalty_weight": penalty, "consistency_weight": consistency}
        mixing = measures.mixing(data, model, seed)
        seconds = round(history.seconds, 1)
        found.append({**setting, "seconds": seconds, "mixing": mixing, **measures.with_fitted_prior(model)})
    return {"start": figures, "trainings": found}


METHODS: dict[str, runner.Method] = {"grid": grid}

if __name__ == "__main__":
    runner.main("experiments.tradeoff", SETTINGS, METHODS, range(3))
