"""A GM-VAE that starts from a trained GM-WAE, beside one that starts from nothing, over three seeds.

``python -m experiments.wae_start`` makes the files that the chapter "A VAE that starts from the WAE" reads; the
Makefile has the commands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from experiments import runner
from experiments.seeds import SETTINGS as WAE_SETTINGS
from experiments.seeds import train
from gmlvm import GMLVM, VAE, datasets, evaluate, fit
from gmlvm.enumeration import Resampled

#: The WAE is trained as in its chapter; the VAE after it for so many steps, at a constant learning rate, with the same
#: rule for its sum over k.
SETTINGS: dict[str, Any] = {
    **{name: WAE_SETTINGS[name] for name in ("num_components", "latent_dim", "penalty_weight")},
    "wae_steps": WAE_SETTINGS["steps"],
    "vae_steps": 10_000,
    "learning_rate": 1e-3,
}
#: VAE steps after which the model is measured.
LOOKS = (0, 10, 30, 100, 300, 1000, 3000, 10_000)
#: Steps that one value of the learning curves stands for.
WINDOW = 100


def plain(seed: int) -> GMLVM:
    """The GM-WAE of the chapter "Training the GM-WAE".

    Args:
        seed: Seed of everything.
    """
    return train(seed)[0]


def untrained(seed: int) -> GMLVM:
    """The same before its training.

    Args:
        seed: Seed of its weights.
    """
    shape = datasets.mnist().image_shape
    return GMLVM.for_images(shape, SETTINGS["num_components"], SETTINGS["latent_dim"], seed=seed)


def vae(beta: float, start: Callable[[int], GMLVM]) -> runner.Method:
    """Train a VAE, as a function of the seed.

    Args:
        beta: Weight of the KL terms.
        start: Gives the model to start from, for a seed.
    """

    def method(seed: int) -> dict[str, Any]:
        data, model = datasets.mnist(), start(seed)
        reports: list[dict[str, Any]] = []
        history = fit(
            model,
            VAE(beta, enumeration=Resampled()),
            data,
            steps=SETTINGS["vae_steps"],
            learning_rate=SETTINGS["learning_rate"],
            callbacks=dict.fromkeys(LOOKS, lambda run: reports.append(asdict(evaluate(run.model, data)))),
            seed=seed,
            progress=False,
        )
        curves = {name: values.reshape(-1, WINDOW).mean(1) for name, values in history.terms.items()}
        return {
            "seconds": round(history.seconds, 1),
            "reports": reports,
            "curves": {name: np.round(values, 3).tolist() for name, values in curves.items()},
        }

    return method


#: What is run for each seed.
METHODS = {
    "wae, beta 1": vae(1.0, plain),
    "wae, beta 10": vae(10.0, plain),
    "scratch, beta 1": vae(1.0, untrained),
    "scratch, beta 10": vae(10.0, untrained),
}

if __name__ == "__main__":
    runner.main("experiments.wae_start", {**SETTINGS, "looks": LOOKS, "window": WINDOW}, METHODS, range(3))
