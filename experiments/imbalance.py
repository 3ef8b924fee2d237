"""Classes of unequal size: what an even use of the components does to them, and what other rules do.

``python -m experiments.imbalance --output results/imbalance.json`` makes the file that the chapter "Beyond MNIST"
reads; the other methods have no committed file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor

from experiments import digits, measures, other_data, runner
from experiments.shapes import coloured_shapes
from gmlvm import Clusterer, InformationMaximisation, datasets, embedding, start_discrete_encoder
from gmlvm.datasets import ImageData, Split

#: The path's, what is rare and what else was (a digit and those four and eight places on, as 0, 4 and 8 are), and how
#: many components are merged to how many groups.
SETTINGS: dict[str, Any] = {
    **other_data.SETTINGS,
    "rare": [0, 4, 8],
    "rare_share": 0.1,
    "other_rare": [[1, 5, 9], [2, 6, 0], [3, 7, 1]],
    "many_components": 30,
    "groups_left": [8, 10, 12, 14],
    "shape_shares": [0.6, 0.2, 0.1, 0.05, 0.05],
}


def imbalanced(rare: Sequence[int] | None = None) -> ImageData:
    """MNIST with a tenth of some digits, in both splits.

    Args:
        rare: Those digits, if not the chapter's.
    """

    def thinned(split: Split) -> Split:
        assert split.labels is not None
        labels = split.labels.numpy()
        chosen = np.random.default_rng(0).random(len(labels)) < SETTINGS["rare_share"]
        kept = np.flatnonzero(chosen | ~np.isin(labels, rare or SETTINGS["rare"]))
        return Split(split.images[kept], split.labels[kept])

    data = datasets.mnist()
    return ImageData("imbalanced MNIST", thinned(data.train), thinned(data.test), data.class_names)


def unequal_shapes() -> ImageData:
    """Coloured shapes, most of which are of one kind."""
    return coloured_shapes(shares=SETTINGS["shape_shares"])


def started(data: ImageData, targets: Tensor, refining: InformationMaximisation, seed: int) -> Clusterer:
    """A discrete encoder after the path's start.

    Args:
        data: The images.
        targets: What the teacher says.
        refining: What follows the teacher.
        seed: Seed of everything.
    """
    model = digits.new_encoder(data, targets.shape[1], seed)
    start_discrete_encoder(
        model,
        data,
        targets=targets,
        refining=refining,
        refining_steps=SETTINGS["refining_steps"],
        seed=seed,
        progress=False,
    )
    return model


def _rules(targets: Tensor) -> dict[str, InformationMaximisation]:
    """What the use of the components is drawn to: an even one, the teacher's, or nothing."""
    return {
        "even": InformationMaximisation(),
        # A component that the teacher leaves empty has no logarithm.
        "teacher's shares": InformationMaximisation(shares=targets.mean(0).clamp_min(torch.finfo(targets.dtype).tiny)),
        "free": InformationMaximisation(balance=0.0),
    }


def _figures(data: ImageData, model: Clusterer) -> dict[str, Any]:
    """How a discrete encoder groups, with the test images of each component by label."""
    assert data.test.labels is not None
    train, test = (model.predict(split.images) for split in (data.train, data.test))
    counts = confusion_matrix(test, data.test.labels.numpy(), labels=range(model.num_components))
    return {
        **measures.grouped(data, train, test, model.num_components),
        "counts": counts[:, : len(data.class_names)].tolist(),
    }


def as_many(source: Callable[[], ImageData]) -> runner.Method:
    """K-means, the teacher, and the start by each rule, with as many components as classes, as a function of the seed.

    Args:
        source: Gives the data.
    """

    def method(seed: int) -> dict[str, Any]:
        data = source()
        figures, targets = other_data.yardsticks(data, len(data.class_names), seed)
        return {
            **figures,
            **{name: _figures(data, started(data, targets, rule, seed)) for name, rule in _rules(targets).items()},
        }

    return method


def by_rules(source: Callable[[], ImageData], *names: str) -> runner.Method:
    """The teacher, and the start by some rules, with as many components as classes, as a function of the seed.

    Args:
        source: Gives the data.
        *names: The rules.
    """

    def method(seed: int) -> dict[str, Any]:
        data = source()
        k, images = len(data.class_names), data.train.images
        targets = embedding.teacher(images, k, seed)
        rules = _rules(targets)
        found: dict[str, Any] = {"teacher": measures.of_training_split(data, targets.argmax(1).numpy(), k)}
        for name in names:
            model = started(data, targets, rules[name], seed)
            training = measures.of_training_split(data, model.predict(images), k)
            found[name] = {**_figures(data, model), "training split": training}
        return found

    return method


def many(seed: int) -> dict[str, Any]:
    """More components, by each rule, and what is left when they are merged.

    Args:
        seed: Seed of everything.
    """
    data, k = imbalanced(), SETTINGS["many_components"]
    targets, found = embedding.teacher(data.train.images, k, seed), {}
    for name, rule in _rules(targets).items():
        model = started(data, targets, rule, seed)
        merged = {str(left): measures.merged(data, model, left, seed) for left in SETTINGS["groups_left"]}
        found[name] = {**_figures(data, model), "merged": merged}
    return found


#: What is run for each seed, by name.
METHODS: dict[str, runner.Method] = {
    "ten": as_many(imbalanced),
    "many": many,
    "unequal shapes": as_many(unequal_shapes),
    "Fashion-MNIST": as_many(other_data.fashion),
    "small digits": as_many(other_data.small_digits),
    **{
        f"rare {' '.join(map(str, rare))}": by_rules(partial(imbalanced, rare), "even", "free")
        for rare in SETTINGS["other_rare"]
    },
}

if __name__ == "__main__":
    runner.main("experiments.imbalance", SETTINGS, METHODS, range(5))
