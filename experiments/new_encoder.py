"""A trained WAE gets a new discrete encoder and goes on as a VAE: does the ELBO find its components again?

Three times: with all trained on, with decoder and q_C held still, and with all trained on where the WAE, before it gets
the new encoder, has gone on as a VAE until its decoder and q_C suit the ELBO.

``python -m experiments.new_encoder --output results/new_encoder.json`` makes the file that the chapter "A VAE that
starts from the WAE" reads.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

from experiments import runner
from experiments.wae_start import SETTINGS as WAE_START
from experiments.wae_start import plain, untrained
from gmlvm import GMLVM, VAE, datasets, evaluate, fit
from gmlvm.enumeration import Resampled

#: The WAE is that of its chapter, the VAE that of ``experiments.wae_start`` with beta = 1. The new encoder has the
#: weights of an untrained model with a seed that is so much higher.
SETTINGS: dict[str, Any] = {
    **{name: WAE_START[name] for name in ("num_components", "latent_dim", "penalty_weight", "wae_steps")},
    "settling_steps": 1000,
    "steps": 600,
    "other_seed": 5,
}
#: Steps after which a model is measured.
LOOKS = (0, 100, 300, 600)


def go_on(model: GMLVM, steps: int, seed: int, **options: Any) -> None:
    """Train as a VAE.

    Args:
        model: The model.
        steps: How many.
        seed: Seed of batches and samples.
        **options: More of :func:`gmlvm.fit`'s.
    """
    fit(model, VAE(enumeration=Resampled()), datasets.mnist(), steps=steps, seed=seed, progress=False, **options)


def found(model: GMLVM, seed: int, held: bool) -> list[dict[str, Any]]:
    """What a new discrete encoder has found of a model's components, at each look.

    Args:
        model: The model; it is not changed.
        seed: Seed of everything.
        held: Whether all but the new encoder is held still.
    """
    model = copy.deepcopy(model)
    model.requires_grad_(not held)
    model.discrete_encoder = untrained(seed + SETTINGS["other_seed"]).discrete_encoder
    reports: list[dict[str, Any]] = []
    looks = dict.fromkeys(LOOKS, lambda run: reports.append(asdict(evaluate(run.model, datasets.mnist()))))
    go_on(model, SETTINGS["steps"], seed, callbacks=looks)
    return reports


def method(seed: int) -> dict[str, Any]:
    """One WAE, and what a new encoder finds of it in each of the three ways.

    Args:
        seed: Seed of everything.
    """
    wae = plain(seed)
    figures: dict[str, Any] = {"WAE": asdict(evaluate(wae, datasets.mnist()))}
    figures["trained on"] = found(wae, seed, held=False)
    figures["held still"] = found(wae, seed, held=True)
    go_on(wae, SETTINGS["settling_steps"], seed)
    figures["settled WAE"] = asdict(evaluate(wae, datasets.mnist()))
    figures["settled, trained on"] = found(wae, seed, held=False)
    return figures


METHODS: dict[str, runner.Method] = {"new encoder": method}

if __name__ == "__main__":
    runner.main("experiments.new_encoder", {**SETTINGS, "looks": LOOKS}, METHODS, range(5))
