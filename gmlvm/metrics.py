"""How well a trained model does: clustering, use of the discrete latent, reconstruction, divergence."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import xlogy
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor

from gmlvm.datasets import ImageData
from gmlvm.inference import inference
from gmlvm.kernels import InverseMultiquadratic
from gmlvm.mmd import squared_mmd
from gmlvm.model import GMLVM
from gmlvm.posterior import Posterior
from gmlvm.validation import check_finite, check_positive_int, check_seed, check_type

# A component counts as used if it takes at least this share of what the prior has for it.
_USED_SHARE = 0.4
# Images in each batch of the divergence estimate, whose cost grows with the square; fewer where B * K * D, the size
# of the codes of all components, would be beyond the second figure.
_DIVERGENCE_BATCH = 500
_DIVERGENCE_VALUES = 2**23
# The entropy of the mean says nothing of use if less than this share of it is information on the image.
_TELLING_SHARE = 0.05


@dataclass(frozen=True, repr=False)
class Report:
    """What :func:`evaluate` measures. The figures that need labels are None where there are none.

    Attributes:
        accuracy: Share of test images whose component's label is right; the label map is fitted on the
            training split.
        majority_accuracy: What there is without a model: the accuracy of always answering the commonest label of the
            training split.
        nmi: Normalised mutual information of components and labels on the test split, in [0, 1].
        ari: Adjusted Rand index of components and labels on the test split, at most 1, 0 by chance.
        component_entropy: Entropy of the mean q_D(k|x) over the test split, nats; log K is full use.
        mutual_information: I(x; k) = entropy of the mean less mean entropy, nats, in [0, log K].
        components_used: Components that are the most probable one for at least 0.4 times the share of the test images
            that the prior has for them (4 % of the images for a tenth).
        component_shares: Share of the test images for which each component is the most probable, (K,).
        component_labels: Label of each component, (K,).
        reconstruction_error: Squared error summed over pixels, mean over the test split, in squared pixel
            units per image; code and component at their most probable.
        divergence: Unbiased squared MMD of the test split's pairs (k, z) against the prior; it can be negative.
    """

    accuracy: float | None
    majority_accuracy: float | None
    nmi: float | None
    ari: float | None
    component_entropy: float
    mutual_information: float
    components_used: int
    component_shares: tuple[float, ...]
    component_labels: tuple[int, ...] | None
    reconstruction_error: float
    divergence: float

    @property
    def note(self) -> str:
        """What is easily misread, or empty: an entropy as of components in use, while they tell nothing of the image.

        It is there if :attr:`component_entropy` is above half of log K and less than a twentieth of it is
        :attr:`mutual_information`.
        """
        entropy, most = self.component_entropy, math.log(len(self.component_shares))
        if entropy <= most / 2 or self.mutual_information >= _TELLING_SHARE * entropy:
            return ""
        return (
            f"the component tells next to nothing of the image, I(x; k) = {self.mutual_information:.2g} nats: q_D(k|x) "
            f"is about the same for every image, though its mean's entropy of {entropy:.3g} (log K = {most:.3g}) looks "
            f"like components in use"
        )

    def __repr__(self) -> str:
        """The figures, one a line, and the note if there is one."""
        lines = [f"{field.name}={_short(getattr(self, field.name))}" for field in fields(self)]
        note = [f"note: {self.note}"] if self.note else []
        return "\n  ".join(["Report(", *lines, *note]) + "\n)"


def evaluate(model: GMLVM, data: ImageData, *, batch_size: int = 1000, seed: int = 0) -> Report:
    """Measure a model on the test split.

    Labels are used here alone: the map from components to labels is fitted on the training split and its
    accuracy measured on the test split. Of the training split no more is computed than q_D(k|x). What grows in memory
    with the number of images is q_D(k|x) of the test split alone, K numbers for each.

    Args:
        model: The model.
        data: The data it was trained on.
        batch_size: Images that go through a network at once; it changes no figure.
        seed: Seed of the codes sampled for the divergence, below 2^64.

    Returns:
        The :class:`Report`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the images do not fit the model, the test split has fewer than two, a split has labels that do
            not fit it, or what a network gives is not finite.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps is measured as it is
    check_type("model", model, GMLVM)
    check_type("data", data, ImageData)
    if len(data.test) < 2:
        raise ValueError(f"the test split must have 2 images or more, got {len(data.test)}")
    batch_size, seed = check_positive_int("batch_size", batch_size), check_seed("seed", seed)
    known = truth = None
    if data.train.labels is not None and data.test.labels is not None:
        known = _whole_numbers("labels of the training split", data.train.labels, len(data.train))
        truth = _whole_numbers("labels of the test split", data.test.labels, len(data.test))
    probs, reconstruction_error, divergence = _test_pass(model, data.test.images, batch_size, seed)
    assigned = probs.argmax(1)
    shares = np.bincount(assigned, minlength=model.num_components) / len(assigned)
    accuracy = majority_accuracy = nmi = ari = labels = None
    if known is not None and truth is not None:
        known_assigned = np.concatenate([model.predict(images) for images in data.train.images.split(batch_size)])
        labels = match_components(known_assigned, known, model.num_components)
        accuracy = float((labels[assigned] == truth).mean())
        majority_accuracy = float((truth == np.bincount(known).argmax()).mean())
        nmi = float(normalized_mutual_info_score(truth, assigned))
        ari = float(adjusted_rand_score(truth, assigned))
    return Report(
        accuracy=accuracy,
        majority_accuracy=majority_accuracy,
        nmi=nmi,
        ari=ari,
        component_entropy=component_entropy(probs),
        mutual_information=mutual_information(probs),
        components_used=_components_used(shares, model.prior.probs),
        component_shares=tuple(shares.tolist()),
        component_labels=None if labels is None else tuple(labels.tolist()),
        reconstruction_error=reconstruction_error,
        divergence=divergence,
    )


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


def match_components(
    assigned: Tensor | ArrayLike, labels: Tensor | ArrayLike, num_components: int
) -> NDArray[np.int64]:
    """The label of each component: the one-to-one map with the most agreement (Hungarian method).

    With more components than labels, those left over take their own most frequent label.

    Args:
        assigned: Component of each image, integers in 0..K - 1, shape (N,).
        labels: Label of each image, integers from 0, shape (N,).
        num_components: Number of components K, at least 1.

    Returns:
        Labels, int64, shape (K,). With fewer components than labels some labels stay without one.

    Raises:
        TypeError: If ``assigned`` or ``labels`` are not integers.
        ValueError: If they are negative, differ in length or are empty, or a component is not one of the K.

    Source: Kuhn (1955), through SciPy; chapter "Training the GM-WAE".

    Example:
        >>> match_components(np.array([0, 0, 1]), np.array([1, 1, 0]), 2)
        array([1, 0])
    """
    assigned = _whole_numbers("assigned", assigned)
    labels = _whole_numbers("labels", labels, len(assigned))
    if assigned.max() >= check_positive_int("num_components", num_components):
        raise ValueError(f"assigned must lie in 0..{num_components - 1}, got {assigned.max()}")
    counts = np.zeros((num_components, int(labels.max()) + 1), dtype=np.int64)
    np.add.at(counts, (assigned, labels), 1)
    matched: NDArray[np.int64] = counts.argmax(1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    matched[rows] = columns
    return matched


def mean_posterior_by_label(probs: NDArray[np.float64], labels: Tensor | ArrayLike) -> NDArray[np.float64]:
    """Mean q_D(k|x) over the images of each label.

    Args:
        probs: q_D(k|x), shape (N, K).
        labels: Integers from 0, shape (N,); each label up to the largest must occur.

    Returns:
        Shape (number of labels, K), rows summing to one.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If they are negative or of another number, or one does not occur.

    Source: Gaujac, Feige and Barber (2018), figures 1 and 5; chapter "Training the GM-WAE".

    Example:
        >>> mean_posterior_by_label(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1, 0]))
        array([[0., 1.],
               [1., 0.]])
    """
    labels = _whole_numbers("labels", labels, len(probs))
    counts = np.bincount(labels)
    if (counts == 0).any():
        raise ValueError(f"every label up to {len(counts) - 1} must occur, got counts {counts.tolist()}")
    return np.stack([probs[labels == label].mean(0) for label in range(len(counts))])


def _test_pass(model: GMLVM, images: Tensor, batch_size: int, seed: int) -> tuple[NDArray[np.float64], float, float]:
    """What needs the test split's posteriors, from one pass: q_D(k|x), (N, K), reconstruction error, divergence.

    The divergence is the mean of unbiased estimates over batches. They are of images in random order: neighbours in
    MNIST share their writers, so as they stand batches differ from one another.
    """
    prior, images_at_once = model.prior, _DIVERGENCE_VALUES // (model.num_components * model.latent_dim)
    batches = math.ceil(len(images) / max(4, min(_DIVERGENCE_BATCH, images_at_once)))
    kernel = InverseMultiquadratic.for_prior(prior)
    generator = torch.Generator(model.device).manual_seed(seed)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    probs = np.empty((len(images), model.num_components))
    error, divergences = 0.0, []
    with inference(model):
        for indices in order.tensor_split(batches):  # of nearly equal sizes, 2 or more
            x = model.pixels(images[indices])
            posterior = _posterior(model, x, batch_size)
            probs[indices] = posterior.log_probs.cpu().double().softmax(1).numpy()
            best = posterior.logits.argmax(1)[:, None, None]
            codes = posterior.loc.take_along_dim(best, 1).squeeze(1)  # (B, D)
            x_hat = torch.cat([model.decode(part) for part in codes.split(batch_size)])
            error += (x_hat - x).square().sum((1, 2, 3)).cpu().double().sum().item()
            prior_z = prior.sample_each(_DIVERGENCE_BATCH // model.num_components + 2, generator)
            value = squared_mmd(posterior.probs, posterior.sample(generator), prior.probs, prior_z, kernel)
            divergences.append(check_finite("the divergence of the codes from the prior", value).item())
    return probs, error / len(images), float(np.mean(divergences))


def _posterior(model: GMLVM, x: Tensor, batch_size: int) -> Posterior:
    """The posterior of ``x``, of which ``batch_size`` images go through the networks at once."""
    parts = [model.posterior(part) for part in x.split(batch_size)]
    names = ("logits", "loc", "scale")
    return Posterior(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _components_used(shares: NDArray[np.float64], prior_probs: Tensor) -> int:
    """How many components take enough of the images, (K,), for what the prior has for them, (K,)."""
    # Less what float32 rounds off the prior's weights: a share of just 0.4 times the weight is enough.
    enough = _USED_SHARE * (1 - 1e-6) * prior_probs.detach().cpu().double().numpy()
    return int(((shares >= enough) & (shares > 0)).sum())


def _whole_numbers(name: str, values: Tensor | ArrayLike, count: int | None = None) -> NDArray[np.int64]:
    """Integers from 0 on, one for each of ``count`` images: (N,)."""
    array = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    if array.ndim != 1 or len(array) == 0 or (count is not None and len(array) != count):
        wanted = "one or more" if count is None else f"{count} images"
        raise ValueError(f"{name} must have shape (N,), one for each of {wanted}, got {array.shape}")
    if array.min() < 0:
        raise ValueError(f"{name} must count from 0, got {array.min()}")
    return array.astype(np.int64)


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
