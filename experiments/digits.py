"""Components that mean digits: the whole path, and the GM-WAE without a start beside it, seed by seed.

``python -m experiments.digits --output results/digits.json --methods path`` makes the file that the chapter "Components
that mean digits" reads. Labels are looked at when everything is trained, by what measures alone.
"""

from __future__ import annotations

import time
from typing import Any

from experiments import measures, runner
from experiments.seeds import SETTINGS as WAE_SETTINGS
from experiments.seeds import train
from gmlvm import GMLVM, WAE, cosine, datasets, fit, start_discrete_encoder

#: What the path does: a start for q_D, which then stays as it is; the GM-WAE; a Gaussian for each component's codes.
SETTINGS: dict[str, Any] = {
    **{name: WAE_SETTINGS[name] for name in ("num_components", "latent_dim", "penalty_weight", "steps")},
    "networks": "deep",
    "refining_steps": 5000,
}


def new_model(seed: int) -> GMLVM:
    """The model before any training.

    Args:
        seed: Seed of its weights.
    """
    sizes = {name: SETTINGS[name] for name in ("num_components", "latent_dim", "networks")}
    return GMLVM.for_images(datasets.mnist().image_shape, seed=seed, **sizes)


def path(seed: int) -> dict[str, Any]:
    """The whole path.

    Args:
        seed: Seed of everything.

    Returns:
        Seconds of each part, and the figures after the start, before and after the prior moves.
    """
    data, model = datasets.mnist(), new_model(seed)
    begun = time.perf_counter()
    start = start_discrete_encoder(model, data, refining_steps=SETTINGS["refining_steps"], seed=seed, progress=False)
    started = time.perf_counter()
    model.discrete_encoder.requires_grad_(False)
    objective = WAE(penalty_weight=SETTINGS["penalty_weight"])
    history = fit(model, objective, data, steps=SETTINGS["steps"], schedule=cosine, seed=seed, progress=False)
    return {
        "seconds": {
            "teacher": round(started - begun - start.taught.seconds - start.refined.seconds, 1),
            "distillation": round(start.taught.seconds, 1),
            "refinement": round(start.refined.seconds, 1),
            "training": round(history.seconds, 1),
        },
        **measures.with_fitted_prior(model),
    }


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
