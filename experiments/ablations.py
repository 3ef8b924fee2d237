"""What of the path to components that mean digits is needed: one part at a time left out or exchanged.

``python -m experiments.ablations --output results/ablations.json`` makes the file that the chapter "What carries the
path" reads, and with other methods those beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from experiments import digits, measures, runner, seeds
from experiments.contest import CODES_WEIGHT
from gmlvm import (
    GMLVM,
    MMD,
    VAE,
    WAE,
    Clusterer,
    Distillation,
    InformationMaximisation,
    Objective,
    Run,
    Smoothness,
    datasets,
    embedding,
    fit,
    start_discrete_encoder,
)
from gmlvm.history import History

#: The path's, the components that are merged, and the last steps that tell how well an objective was met.
SETTINGS: dict[str, Any] = {
    **digits.SETTINGS,
    "teaching_steps": 500,
    "start_batch_size": 256,
    "start_learning_rate": 2e-3,
    "many_components": 20,
    "window": 200,
    "smoothness_weight": 20.0,
    "consistency_weight": 10.0,
}
#: A perturbation so short that smoothness asks for nothing.
_NO_SMOOTHNESS = 1e-6


# After the start


@dataclass(frozen=True)
class After:
    """What follows the start.

    Args:
        objective: What the model is trained with.
        frozen: Whether q_D stays as it is.
    """

    objective: Objective
    frozen: bool = True


_WEIGHT = SETTINGS["penalty_weight"]
#: What is done from one and the same start, by name; the first is the path.
AFTER: dict[str, After] = {
    "path": After(WAE(_WEIGHT)),
    "smooth, not frozen": After(WAE(_WEIGHT, smoothness=Smoothness(SETTINGS["smoothness_weight"])), frozen=False),
    "neither smooth nor frozen": After(WAE(_WEIGHT), frozen=False),
    "penalty on z": After(WAE(CODES_WEIGHT, MMD("codes"))),
    "VAE": After(VAE()),
    "consistency": After(WAE(_WEIGHT, consistency_weight=SETTINGS["consistency_weight"])),
}


def started(seed: int) -> tuple[GMLVM, dict[str, Any]]:
    """A model whose q_D has had its start, and what that shows.

    Args:
        seed: Seed of everything.
    """
    data = datasets.mnist()
    model = digits.new_model(data, seed)
    begun = time.perf_counter()
    start_discrete_encoder(model, data, refining_steps=SETTINGS["refining_steps"], seed=seed, progress=False)
    return model, {
        "seconds": round(time.perf_counter() - begun, 1),
        "accuracy": measures.accuracy(data, model),
    }


def after(seed: int) -> dict[str, Any]:
    """Every training of :data:`AFTER` from one start.

    Args:
        seed: Seed of everything.
    """
    start, figures = started(seed)
    found: dict[str, Any] = {"start": figures}
    for name, how in AFTER.items():
        model = deepcopy(start)
        model.discrete_encoder.requires_grad_(not how.frozen)
        found[name] = seeds.train_and_measure(model, deepcopy(how.objective), SETTINGS["steps"], seed)
    return found


# The start itself


def train_encoder(
    model: Clusterer,
    objective: Objective,
    steps: int,
    seed: int,
    callbacks: Mapping[int, Callable[[Run], None]] | None = None,
) -> History:
    """Train a discrete encoder by itself, as the start does.

    Args:
        model: The encoder.
        objective: What is minimised.
        steps: How many.
        seed: Seed of batches and perturbations.
        callbacks: See :func:`gmlvm.fit`.
    """
    return fit(
        model,
        objective,
        datasets.mnist(),
        steps=steps,
        batch_size=SETTINGS["start_batch_size"],
        learning_rate=SETTINGS["start_learning_rate"],
        callbacks=callbacks,
        seed=seed,
        progress=False,
    )


def _last(history: History) -> dict[str, float]:
    """The mean of each term over the last steps: what can be seen without labels."""
    return {name: float(np.mean(history[name][-SETTINGS["window"] :])) for name in history.terms}


def no_teacher(seed: int) -> dict[str, Any]:
    """Information maximisation from random weights, with as many components as digits.

    Args:
        seed: Seed of everything.
    """
    model = digits.new_encoder(datasets.mnist(), SETTINGS["num_components"], seed)
    history = train_encoder(model, InformationMaximisation(), SETTINGS["refining_steps"], seed)
    return {
        "seconds": round(history.seconds, 1),
        "accuracy": measures.accuracy(datasets.mnist(), model),
        "terms": _last(history),
    }


def merged(seed: int) -> dict[str, Any]:
    """The same with more components, which are merged afterwards.

    Args:
        seed: Seed of everything.
    """
    many, groups = SETTINGS["many_components"], SETTINGS["num_components"]
    model, begun = digits.new_encoder(datasets.mnist(), many, seed), time.perf_counter()
    history = train_encoder(model, InformationMaximisation(), SETTINGS["refining_steps"], seed)
    figures = measures.merged(datasets.mnist(), model, groups, seed)
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "unmerged_accuracy": measures.accuracy(datasets.mnist(), model),
        "terms": _last(history),
        **figures,
    }


def without(seed: int) -> dict[str, Any]:
    """The start with the same teacher and without a part: the teacher alone, no smoothness, no even use.

    Args:
        seed: Seed of everything.
    """
    images = datasets.mnist().train.images
    targets = embedding.teacher(images, SETTINGS["num_components"], seed)
    rough = Smoothness(share=_NO_SMOOTHNESS)
    found: dict[str, Any] = {}
    for name, teaching, refining in (
        ("no smoothness", Distillation(targets, rough), InformationMaximisation(rough)),
        ("no even use", Distillation(targets), InformationMaximisation(balance=0.0)),
        ("no refinement", Distillation(targets), None),
    ):
        model = digits.new_encoder(datasets.mnist(), SETTINGS["num_components"], seed)
        # What is not refined is taught as long instead.
        steps = SETTINGS["teaching_steps"] + (0 if refining else SETTINGS["refining_steps"])
        history = train_encoder(model, teaching, steps, seed)
        if refining:
            history = train_encoder(model, refining, SETTINGS["refining_steps"], seed + 1)
        found[name] = {"accuracy": measures.accuracy(datasets.mnist(), model), "terms": _last(history)}
    return found


def no_start(seed: int) -> dict[str, Any]:
    """The GM-WAE with the path's larger q_D and no start of it: what the network does by itself.

    Args:
        seed: Seed of everything.
    """
    return seeds.train_and_measure(digits.new_model(datasets.mnist(), seed), WAE(_WEIGHT), SETTINGS["steps"], seed)


def supervised(seed: int) -> dict[str, Any]:
    """The same network with the labels, as long as the start: the ceiling of what it can say.

    Args:
        seed: Seed of everything.
    """
    data = datasets.mnist()
    assert data.train.labels is not None
    targets = torch.nn.functional.one_hot(data.train.labels, SETTINGS["num_components"]).float()
    steps, found = SETTINGS["teaching_steps"] + SETTINGS["refining_steps"], {}
    for name, smoothness in (("smooth", Smoothness()), ("no smoothness", Smoothness(share=_NO_SMOOTHNESS))):
        model = digits.new_encoder(datasets.mnist(), SETTINGS["num_components"], seed)
        train_encoder(model, Distillation(targets, smoothness), steps, seed)
        found[name] = {"accuracy": measures.accuracy(datasets.mnist(), model)}
    return found


METHODS: dict[str, runner.Method] = {
    "no teacher": no_teacher,
    "merged": merged,
    "without": without,
    "supervised": supervised,
    "after": after,
    "deep networks, no start": no_start,
}

if __name__ == "__main__":
    runner.main("experiments.ablations", SETTINGS, METHODS, range(5))
