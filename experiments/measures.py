"""How runs are measured, all by the same rules: what they group, and what they draw. Labels are looked at here."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmlvm import GMLVM, Clusterer, datasets, evaluate, fit_prior, metrics
from gmlvm.generation import evaluate_samples
from gmlvm_book.instrument import load_classifier

_CLASSIFIER = Path(__file__).parents[1] / "results" / "classifier.safetensors"


def pixels() -> tuple[NDArray[Any], NDArray[Any]]:
    """Images of the training and of the test split, (N, pixels), in [0, 1]."""
    data = datasets.mnist()
    train, test = (split.images.flatten(1).float().numpy() / 255 for split in (data.train, data.test))
    return train, test


def agreement(train: NDArray[np.integer[Any]], test: NDArray[np.integer[Any]], num_groups: int) -> float:
    """Share of the test images whose group's label is right, the label map fitted on the training split.

    Args:
        train: Group of each training image, (N,).
        test: Group of each test image, (M,).
        num_groups: Number of groups.
    """
    data = datasets.mnist()
    assert data.train.labels is not None
    assert data.test.labels is not None
    labels = metrics.match_components(train, data.train.labels, num_groups)
    return float((labels[test] == data.test.labels.numpy()).mean())


def accuracy(model: Clusterer) -> float:
    """:func:`agreement` of a discrete encoder.

    Args:
        model: The encoder.
    """
    data = datasets.mnist()
    train, test = (model.predict(split.images) for split in (data.train, data.test))
    return agreement(train, test, model.num_components)


def classifier() -> Clusterer:
    """The instrument that reads drawn digits."""
    return load_classifier(_CLASSIFIER)


def measured(model: GMLVM) -> dict[str, Any]:
    """The figures of a model: of its components, and of the samples that its prior gives.

    Args:
        model: The model.
    """
    data = datasets.mnist()
    return {"model": asdict(evaluate(model, data)), "samples": asdict(evaluate_samples(model, classifier(), data))}


def with_fitted_prior(model: GMLVM) -> dict[str, Any]:
    """The figures of a model before and after its prior moves to the codes.

    Args:
        model: The model, whose prior is another afterwards.

    Returns:
        Both, and the seconds of the fit. A component that no image is left to has no Gaussian: then the reason stands
        in their place.
    """
    fixed, begun = measured(model), time.perf_counter()
    try:
        fit_prior(model, datasets.mnist())
    except ValueError as error:
        return {"fixed prior": fixed, "fitted prior": None, "reason": str(error)}
    seconds = round(time.perf_counter() - begun, 1)
    return {"fixed prior": fixed, "prior_seconds": seconds, "fitted prior": measured(model)}
