"""How runs are measured, all by the same rules: what they group, and what they draw. Labels are looked at here."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from torch import Tensor

from gmlvm import GMLVM, Clusterer, datasets, evaluate, fit_prior, merging, metrics
from gmlvm.datasets import ImageData
from gmlvm.generation import evaluate_samples, prior_mixing
from gmlvm_book.instrument import load_classifier

_CLASSIFIER = Path(__file__).parents[1] / "results" / "classifier.safetensors"


def pixels(data: ImageData) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images of the training and of the test split, (N, pixels), in [0, 1].

    Args:
        data: The images.
    """
    train, test = (split.images.flatten(1).float().numpy() / 255 for split in (data.train, data.test))
    return train, test


def agreement(
    data: ImageData, train: NDArray[np.integer[Any]], test: NDArray[np.integer[Any]], num_groups: int
) -> float:
    """Share of the test images whose group's label is right, the label map fitted on the training split.

    Args:
        data: The images' labels.
        train: Group of each training image, (N,).
        test: Group of each test image, (M,).
        num_groups: Number of groups.
    """
    assert data.train.labels is not None
    assert data.test.labels is not None
    labels = metrics.match_components(train, data.train.labels, num_groups)
    return float((labels[test] == data.test.labels.numpy()).mean())


def grouped(
    data: ImageData, train: NDArray[np.integer[Any]], test: NDArray[np.integer[Any]], num_groups: int
) -> dict[str, float]:
    """How groups agree with labels.

    Args:
        data: The images' labels.
        train: Group of each training image, (N,).
        test: Group of each test image, (M,).
        num_groups: Number of groups.

    Returns:
        :func:`agreement`, and normalised mutual information.
    """
    assert data.test.labels is not None
    return {
        "accuracy": agreement(data, train, test, num_groups),
        "nmi": float(normalized_mutual_info_score(data.test.labels.numpy(), test)),
    }


def of_training_split(data: ImageData, groups: NDArray[np.integer[Any]], num_groups: int) -> dict[str, float]:
    """:func:`grouped` for a method that has groups for the training images alone: measured on these.

    Args:
        data: The images' labels.
        groups: Group of each training image, (N,).
        num_groups: Number of groups.
    """
    return grouped(replace(data, test=data.train), groups, groups, num_groups)


def accuracy(data: ImageData, model: Clusterer) -> float:
    """:func:`agreement` of a discrete encoder.

    Args:
        data: The images and their labels.
        model: The encoder.
    """
    train, test = (model.predict(split.images) for split in (data.train, data.test))
    return agreement(data, train, test, model.num_components)


def merged(data: ImageData, model: Clusterer, num_groups: int, seed: int) -> dict[str, Any]:
    """What is left of a discrete encoder when its components are merged.

    Args:
        data: The images, of which those of the training split say what is merged.
        model: The encoder.
        num_groups: How many components are left.
        seed: Seed of the perturbations that the boundaries are found by.

    Returns:
        Heights of all mergers, the group of each component, and the accuracy of the groups.
    """
    links = merging.merge_heights(merging.boundary_flow(model, data.train.images, seed=seed))
    groups = merging.merged_groups(links, num_groups)
    fewer = Clusterer(merging.merge_components(model.discrete_encoder, groups), model.image_shape).eval()
    return {"heights": links[:, 2].tolist(), "groups": groups.tolist(), "accuracy": accuracy(data, fewer)}


def mixing(data: ImageData, model: GMLVM, seed: int, count: int = 2000) -> float:
    """How well the codes of test images fill the prior; see :func:`gmlvm.generation.prior_mixing`.

    Args:
        data: The images.
        model: The model.
        seed: Seed of the codes and of the draws.
        count: Images, if there are as many, and draws.

    Returns:
        Share of all codes and draws whose nearest neighbour is of the other kind.
    """
    return prior_mixing(model, data.test.images[:count], seed=seed)


def decoded(model: GMLVM, mixture: GaussianMixture, codes: NDArray[np.float64], count: int) -> Tensor:
    """Images at some of the codes that a mixture has drawn, in random order: it draws one component after the other.

    Args:
        model: The model, of which the decoder is used.
        mixture: Whose generator gives the order.
        codes: What it has drawn, (N, D).
        count: How many images, at most N.
    """
    picked = codes[mixture.random_state.permutation(len(codes))[:count]]
    return torch.cat([model.decode(part) for part in torch.from_numpy(picked).split(1000)])


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
