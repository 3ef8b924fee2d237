"""How well a trained model does: clustering, use of the discrete latent, reconstruction, divergence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import xlogy
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor

from gmlvm.datasets import ImageData, Split
from gmlvm.kernels import InverseMultiquadratic
from gmlvm.mmd import squared_mmd
from gmlvm.model import GMLVM, inference
from gmlvm.validation import as_unit_interval, check_positive_int, check_type

# A component counts as used if it takes at least this share of its equal share of the images.
_USED_SHARE = 0.4
# Images in each batch of the divergence estimate: the penalty's cost grows with the square.
_DIVERGENCE_BATCH = 500


@dataclass(frozen=True)
class Report:
    """What :func:`evaluate` measures. The figures that need labels are None where there are none.

    Attributes:
        accuracy: Share of test images whose component's label is right; the label map is fitted on the
            training split.
        nmi: Normalised mutual information of components and labels on the test split, in [0, 1].
        ari: Adjusted Rand index of components and labels on the test split, at most 1, 0 by chance.
        component_entropy: Entropy of the mean q_D(k|x) over the test split, nats; log K is full use.
        mutual_information: I(x; k) = entropy of the mean less mean entropy, nats, in [0, log K].
        components_used: Components that are the most probable one for at least 0.4 / K of the test images
            (4 % for K = 10).
        component_shares: Share of the test images for which each component is the most probable, (K,).
        component_labels: Label of each component, (K,).
        reconstruction_error: Squared error summed over pixels, mean over the test split, in squared pixel
            units per image; code and component at their most probable.
        divergence: Unbiased joint squared MMD of the test split's codes against the prior; it can be negative.

    Source: chapter "Training the GM-WAE".
    """

    accuracy: float | None
    nmi: float | None
    ari: float | None
    component_entropy: float
    mutual_information: float
    components_used: int
    component_shares: tuple[float, ...]
    component_labels: tuple[int, ...] | None
    reconstruction_error: float
    divergence: float


def evaluate(model: GMLVM, data: ImageData, *, batch_size: int = 1000, seed: int = 0) -> Report:
    """Measure a model on the test split.

    Labels are used here alone: the map from components to labels is fitted on the training split and its
    accuracy measured on the test split.

    Args:
        model: The model.
        data: The data it was trained on.
        batch_size: Images encoded at once.
        seed: Seed of the codes sampled for the divergence.

    Returns:
        The :class:`Report`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the images do not fit the model, or the test split has fewer than two.

    Source: chapter "Training the GM-WAE".
    """
    check_type("model", model, GMLVM)
    check_type("data", data, ImageData)
    if len(data.test) < 2:
        raise ValueError(f"the test split must have 2 images or more, got {len(data.test)}")
    check_positive_int("batch_size", batch_size)
    check_positive_int("seed", seed, minimum=0)
    test_probs = component_probs(model, data.test.images, batch_size)
    assigned = test_probs.argmax(1)
    shares = np.bincount(assigned, minlength=model.num_components) / len(assigned)
    accuracy = nmi = ari = labels = None
    if data.train.labels is not None and data.test.labels is not None:
        train_assigned = component_probs(model, data.train.images, batch_size).argmax(1)
        labels = match_components(train_assigned, data.train.labels.numpy(), model.num_components)
        truth = data.test.labels.numpy()
        accuracy = float((labels[assigned] == truth).mean())
        nmi = float(normalized_mutual_info_score(truth, assigned))
        ari = float(adjusted_rand_score(truth, assigned))
    return Report(
        accuracy=accuracy,
        nmi=nmi,
        ari=ari,
        component_entropy=component_entropy(test_probs),
        mutual_information=mutual_information(test_probs),
        components_used=int((shares >= _USED_SHARE / model.num_components).sum()),
        component_shares=tuple(shares.tolist()),
        component_labels=None if labels is None else tuple(labels.tolist()),
        reconstruction_error=_reconstruction_error(model, data.test, batch_size),
        divergence=_divergence(model, data.test, seed),
    )


def component_probs(model: GMLVM, images: Tensor, batch_size: int = 1000) -> NDArray[np.float64]:
    """q_D(k|x) for many images.

    Args:
        model: The model.
        images: (N, C, H, W), on any device.
        batch_size: Images encoded at once.

    Returns:
        Probabilities in float64, shape (N, K), rows summing to one.

    Raises:
        TypeError: If ``images`` has another dtype.
        ValueError: If ``images`` has another shape or lies outside [0, 1].

    Source: Gaujac, Feige and Barber (2018), figure 5; chapter "Training the GM-WAE".
    """
    with inference(model):
        parts = [model.posterior(x.to(model.device)).log_probs.cpu() for x in images.split(batch_size)]
    return torch.cat(parts).double().softmax(1).numpy()


def component_entropy(probs: NDArray[np.float64]) -> float:
    r"""Entropy of the mean posterior: how evenly the components are used.

    .. math:: H(k) = -\sum_k \bar q_k \log \bar q_k, \quad \bar q_k = E_x\, q_D(k|x)

    Args:
        probs: q_D(k|x), shape (N, K), rows summing to one.

    Returns:
        Nats, from 0 (one component takes everything) to log K (all are used alike).

    Source: chapter "How a VAE collapses".

    Example:
        >>> component_entropy(np.array([[1.0, 0.0], [1.0, 0.0]])) + 0.0
        0.0
    """
    mean = probs.mean(0)
    return float(-xlogy(mean, mean).sum())


def mutual_information(probs: NDArray[np.float64]) -> float:
    r"""What the component tells of the image, I(x; k) = H(k) - H(k|x).

    .. math:: I(x; k) = -\sum_k \bar q_k \log \bar q_k + E_x \sum_k q_D(k|x) \log q_D(k|x)

    Args:
        probs: q_D(k|x), shape (N, K), rows summing to one.

    Returns:
        Nats, from 0 (q_D is the same for every image) to the entropy of the mean.

    Source: Hoffman and Johnson (2016); chapter "How a VAE collapses".

    Example:
        >>> round(mutual_information(np.array([[1.0, 0.0], [0.0, 1.0]])), 4)  # log 2
        0.6931
    """
    return component_entropy(probs) + float(xlogy(probs, probs).sum(1).mean())


def match_components(assigned: NDArray[np.int64], labels: NDArray[np.int64], num_components: int) -> NDArray[np.int64]:
    """The label of each component: the one-to-one map with the most agreement (Hungarian method).

    With more components than labels, those left over take their own most frequent label.

    Args:
        assigned: Component of each image, integers, shape (N,).
        labels: Label of each image, integers from 0, shape (N,).
        num_components: Number of components K, at least 1.

    Returns:
        Labels, int64, shape (K,). With fewer components than labels some labels stay without one.

    Raises:
        ValueError: If the lengths differ.

    Source: Kuhn (1955), through SciPy; chapter "Training the GM-WAE".

    Example:
        >>> match_components(np.array([0, 0, 1]), np.array([1, 1, 0]), 2)
        array([1, 0])
    """
    if len(assigned) != len(labels):
        raise ValueError(f"assigned and labels must have the same length, got {len(assigned)} and {len(labels)}")
    counts = np.zeros((num_components, int(labels.max()) + 1), dtype=np.int64)
    np.add.at(counts, (assigned, labels), 1)
    matched: NDArray[np.int64] = counts.argmax(1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    matched[rows] = columns
    return matched


def mean_posterior_by_label(probs: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean q_D(k|x) over the images of each label.

    Args:
        probs: q_D(k|x), shape (N, K).
        labels: Integers from 0, shape (N,); each label up to the largest must occur.

    Returns:
        Shape (number of labels, K), rows summing to one.

    Raises:
        ValueError: If the lengths differ or a label does not occur.

    Source: Gaujac, Feige and Barber (2018), figures 1 and 5; chapter "Training the GM-WAE".

    Example:
        >>> mean_posterior_by_label(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1, 0]))
        array([[0., 1.],
               [1., 0.]])
    """
    if len(probs) != len(labels):
        raise ValueError(f"probs and labels must have the same length, got {len(probs)} and {len(labels)}")
    counts = np.bincount(labels)
    if (counts == 0).any():
        raise ValueError(f"every label up to {len(counts) - 1} must occur, got counts {counts.tolist()}")
    return np.stack([probs[labels == label].mean(0) for label in range(len(counts))])


def _reconstruction_error(model: GMLVM, split: Split, batch_size: int) -> float:
    total = 0.0
    for images in split.images.split(batch_size):
        x = as_unit_interval("images", images).to(model.device)
        total += (model.reconstruct(x) - x).square().sum().item()
    return total / len(split)


def _divergence(model: GMLVM, split: Split, seed: int) -> float:
    """Joint squared MMD, the mean of unbiased estimates over batches of the split."""
    generator = torch.Generator(model.device).manual_seed(seed)
    # In random order: neighbours in MNIST share their writers, so as they stand batches differ from one another.
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    prior = model.prior
    kernel = InverseMultiquadratic.for_prior(prior)
    values = []
    with inference(model):
        for indices in order.chunk(math.ceil(len(order) / _DIVERGENCE_BATCH)):  # of nearly equal sizes
            images = split.images[indices]
            posterior = model.posterior(images.to(model.device))
            prior_z = prior.sample_each(_DIVERGENCE_BATCH // prior.num_components + 2, generator)
            values.append(
                squared_mmd(posterior.probs, posterior.sample(generator), prior.probs, prior_z, kernel).item()
            )
    return float(np.mean(values))
