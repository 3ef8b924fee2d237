"""When the discrete latent dies: GM-VAE and GM-WAE from several starts, over five seeds.

``python -m experiments.collapse --output results/collapse.json`` makes the file that the chapter "How a VAE
collapses" reads.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from experiments import paper, runner
from gmlvm import GMLVM, VAE, Objective, Run, datasets, evaluate, fit, metrics
from gmlvm.enumeration import Resampled, Truncated

#: What all runs share: the paper's learning rate and batch.
SETTINGS: dict[str, Any] = {"num_components": 10, "latent_dim": 9, "batch_size": 128, "learning_rate": 8e-4}
#: The paper's penalty: on z alone, with its weights, and its kernels in units of the prior.
PAPER_WAE = paper.wae()
#: The paper's start of all weights, at N(0, 0.01 squared); None is PyTorch's own.
SMALL = 0.01
#: Steps at which the use of the components is measured.
LOOKS = (0, 5, 10, 15, 20, 25, 30, 35, 40, 50, 75, 100, 150, 200, 300, 500, 700, 1000)


def run(
    objective: Objective, networks: str, weight_std: float | None, matched_start: bool, steps: int
) -> runner.Method:
    """One cell of the table, as a function of the seed.

    Args:
        objective: What is minimised.
        networks: ``"mlp"`` or ``"conv"``.
        weight_std: Start of the weights.
        matched_start: Whether q_C starts matched to the prior.
        steps: Length of the training.
    """

    def method(seed: int) -> dict[str, Any]:
        data = datasets.mnist()
        model = GMLVM.for_images(
            data.image_shape,
            SETTINGS["num_components"],
            SETTINGS["latent_dim"],
            seed=seed,
            networks=networks,
            weight_std=weight_std,
        )
        looks = [step for step in LOOKS if step <= steps]
        course: dict[str, list[float]] = {"component_entropy": [], "mutual_information": []}

        def look(run: Run) -> None:
            probs = run.model.predict_proba(data.test.images)
            course["component_entropy"].append(metrics.component_entropy(probs))
            course["mutual_information"].append(metrics.mutual_information(probs))

        history = fit(
            model,
            objective,
            data,
            steps=steps,
            batch_size=SETTINGS["batch_size"],
            learning_rate=SETTINGS["learning_rate"],
            matched_start=matched_start,
            callbacks=dict.fromkeys(looks, look),
            seed=seed,
            progress=False,
        )
        report = asdict(evaluate(model, data))
        return {"seconds": round(history.seconds, 1), "steps": looks, "course": course, "report": report}

    return method


VAE_1, VAE_10 = VAE(enumeration=Truncated()), VAE(10.0, enumeration=Truncated())
#: The paper's regime: its networks, its start of the weights and of q_C.
REGIME = {"networks": "conv", "weight_std": SMALL, "matched_start": True, "steps": 300}
#: What is run for each seed, by name.
CELLS: dict[str, dict[str, Any]] = {
    "vae": {"objective": VAE_1, **REGIME},
    # The bound with the terms of its sum over k drawn as those of the WAE are.
    "vae resampled": {"objective": VAE(enumeration=Resampled()), **REGIME},
    "vae beta 10": {"objective": VAE_10, **REGIME},
    "wae": {"objective": PAPER_WAE, **REGIME},
} | {
    name: {"objective": objective, "networks": "mlp", "weight_std": std, "matched_start": matched, "steps": 1000}
    for name, objective, std, matched in (
        ("mlp small matched", VAE_1, SMALL, True),
        ("mlp small", VAE_1, SMALL, False),
        ("mlp ordinary matched", VAE_1, None, True),
        ("mlp ordinary", VAE_1, None, False),
        ("mlp ordinary beta 10", VAE_10, None, False),
    )
}
METHODS = {name: run(**cell) for name, cell in CELLS.items()}

if __name__ == "__main__":
    cells = {name: {**cell, "objective": repr(cell["objective"])} for name, cell in CELLS.items()}
    runner.main("experiments.collapse", {**SETTINGS, "cells": cells}, METHODS, range(5))
