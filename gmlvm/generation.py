r"""How good drawn images are: judged by a classifier, which no training and no choice may look at, or by the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigvals
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import polynomial_kernel
from torch import Tensor, nn

from gmlvm.clusterer import Clusterer
from gmlvm.datasets import ImageData
from gmlvm.inference import inference
from gmlvm.model import GMLVM
from gmlvm.validation import check_positive_int, check_seed, check_type


@dataclass(frozen=True, repr=False)
class SampleReport:
    """What :func:`evaluate_samples` measures.

    Attributes:
        purity: Share of a component's samples that the classifier reads as its commonest label, mean over components.
        least_purity: The least of them.
        component_purities: One for each component, (K,).
        component_labels: The commonest label of each component, (K,).
        labels_recalled: How many labels are the commonest of a component.
        diversity: Mean distance between the features of two samples of one component, in units of that between two
            test images of its label; mean over components. Below one the samples are more alike than the images.
        frechet: Fréchet distance between the features of samples drawn by the prior's weights and of the test split.
        kernel: Squared kernel distance between the same, times 1,000; without bias, so that it can be negative.
    """

    purity: float
    least_purity: float
    component_purities: tuple[float, ...]
    component_labels: tuple[int, ...]
    labels_recalled: int
    diversity: float
    frechet: float
    kernel: float

    def __repr__(self) -> str:
        """The figures, one a line."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        lines = [f"{name}={np.round(value, 4).tolist()}" for name, value in values.items()]
        return "\n  ".join(["SampleReport(", *lines]) + "\n)"


def own_samples(model: GMLVM, samples: int = 100, *, seed: int = 0) -> NDArray[np.float64]:
    """Share of each component's samples that the model's own discrete encoder sends back to it; no label is looked at.

    Far below one, the component's Gaussian in the prior does not lie where the codes of its images are. It tells where
    samples lie and not how good they are: a blurred one can be sent back as well.

    Args:
        model: The model.
        samples: Images drawn from each component, at least 1.
        seed: Seed of the samples, below 2^64.

    Returns:
        Shares in [0, 1], shape (K,).

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.

    Source: chapter "Choices".
    """
    check_type("model", model, GMLVM)
    samples = check_positive_int("samples", samples)
    generator = torch.Generator(model.device).manual_seed(check_seed("seed", seed))
    back = [
        model.predict(model.sample(samples, component=k, generator=generator)) == k for k in range(model.num_components)
    ]
    shares: NDArray[np.float64] = np.array(back).mean(1)
    return shares


def prior_mixing(model: GMLVM, images: Tensor | ArrayLike, *, seed: int = 0) -> float:
    """How well the codes of images fill the prior: one half if they lie as its draws do, near zero if they lie apart.

    Each image gives a code, drawn from the posterior of its most probable component, and as many codes are drawn from
    the prior. Where both have one distribution, a point's nearest neighbour is of either kind with equal chance. No
    label is looked at.

    Args:
        model: The model.
        images: Images, (N, C, H, W), at least 2, ``uint8`` or floating point in [0, 1]. A thousand are plenty: all
            distances are held at once, (2 N)^2 of them.
        seed: Seed of the codes and of the draws, below 2^64.

    Returns:
        Share, in [0, 1], of all codes and draws whose nearest neighbour is of the other kind.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range, or there are fewer than 2 images.

    Source: the two-sample test of Schilling (1986), with one neighbour; chapter "Walking the latent space".
    """
    check_type("model", model, GMLVM)
    generator = torch.Generator(model.device).manual_seed(check_seed("seed", seed))
    with inference(model):
        posterior = model.posterior(images)
        count = check_positive_int("the number of images", len(posterior.logits), minimum=2)
        codes = posterior.sample(generator)[torch.arange(count), posterior.logits.argmax(1)]
        both = torch.cat([codes, model.prior.sample(count, generator=generator)]).cpu().double()
    distance = torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    drawn = torch.arange(2 * count) >= count
    return float((drawn[distance.argmin(1)] != drawn).double().mean())


def evaluate_samples(
    model: GMLVM, classifier: Clusterer, data: ImageData, *, samples: int = 1000, seed: int = 0
) -> SampleReport:
    """Measure images drawn from a model's prior.

    Args:
        model: The model.
        classifier: Trained on labels; its ``discrete_encoder`` a ``torch.nn.Sequential`` that ends in a linear
            layer, what goes into which are the features.
        data: Test images to compare with, and their labels.
        samples: Images drawn from each component, at least 2; and ten times as many from the prior as a whole.
        seed: Seed of the samples, below 2^64.

    Returns:
        The :class:`SampleReport`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range, or the test split has no labels, or too few images with a label that
            samples are read as.

    Source: Heusel et al. (2017), equation 6; Binkowski et al. (2018), section 4; chapter "Components that mean digits".
    """
    check_type("model", model, GMLVM)
    generator = torch.Generator(model.device).manual_seed(check_seed("seed", seed))
    draw = partial(model.sample, generator=generator)
    return judge_samples(draw, model.num_components, classifier, data, samples=samples)


def judge_samples(
    draw: Callable[[int, int | None], Tensor],
    num_components: int,
    classifier: Clusterer,
    data: ImageData,
    *,
    samples: int = 1000,
) -> SampleReport:
    """Measure images drawn by anything that has components.

    Args:
        draw: Gives images (N, C, H, W) for a number N and a component, or None for all of them by their weights.
        num_components: Number of components K, at least 1.
        classifier: See :func:`evaluate_samples`.
        data: Test images to compare with, and their labels.
        samples: See :func:`evaluate_samples`.

    Returns:
        The :class:`SampleReport`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: See :func:`evaluate_samples`.

    Source: Heusel et al. (2017), equation 6; Binkowski et al. (2018), section 4; chapter "A contest".
    """
    check_type("classifier", classifier, Clusterer)
    check_type("data", data, ImageData)
    check_type("classifier.discrete_encoder", classifier.discrete_encoder, nn.Sequential)
    check_positive_int("samples", samples, minimum=2)
    if data.test.labels is None:
        raise ValueError("samples are compared with labelled test images, and the test split has no labels")
    real, truth = _read(classifier, data.test.images)[0], data.test.labels.numpy()
    purities, labels, diversities = [], [], []
    for k in range(check_positive_int("num_components", num_components)):
        features, read = _read(classifier, draw(samples, k))
        counts = np.bincount(read, minlength=classifier.num_components)
        labels.append(int(counts.argmax()))
        purities.append(float(counts.max() / samples))
        alike = real[truth == labels[-1]][:samples]
        if len(alike) < 2:
            raise ValueError(
                f"samples of component {k} are read as {labels[-1]}: 2 test images of it are needed, or more"
            )
        diversities.append(pdist(features).mean() / pdist(alike).mean())
    features, _ = _read(classifier, draw(10 * samples, None))
    return SampleReport(
        purity=float(np.mean(purities)),
        least_purity=min(purities),
        component_purities=tuple(purities),
        component_labels=tuple(labels),
        labels_recalled=len(set(labels)),
        diversity=float(np.mean(diversities)),
        frechet=frechet_distance(features, real),
        kernel=1000 * kernel_distance(features, real),
    )


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    r"""Squared 2-Wasserstein distance between the Gaussians that two samples have the moments of.

    .. math::
        \lVert \mu_a - \mu_b \rVert^2 + \operatorname{tr}\big(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2}\big)

    Args:
        a: Features, shape (N, F), N at least 2.
        b: Features, shape (M, F), M at least 2.

    Returns:
        The distance, in squared units of the features.

    Raises:
        ValueError: If a shape does not fit.

    Source: Heusel et al. (2017), equation 6.

    Example:
        >>> a = np.array([[-1.0], [1.0]])
        >>> round(frechet_distance(a, a + 3), 6)
        9.0
    """
    _check_features(a, b)
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b)]
    # The root itself need not exist where a feature is constant; its trace does, by the eigenvalues of the product.
    roots = np.sqrt(eigvals(covariances[0] @ covariances[1]).real.clip(0))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1]) - 2 * roots.sum())


def kernel_distance(a: NDArray[np.float64], b: NDArray[np.float64], size: int = 2000) -> float:
    r"""Squared MMD with the cubic kernel :math:`(x^T y / F + 1)^3`, mean of unbiased estimates over pieces.

    Args:
        a: Features, shape (N, F), N at least 2.
        b: Features, shape (M, F), M at least 2; of the larger sample as many are used as the smaller has.
        size: Features of each in a piece, at least 2; more, but not twice as many, where they don't come out even.

    Returns:
        The estimate, without unit.

    Raises:
        ValueError: If a shape does not fit, or ``size`` is below 2.

    Source: Binkowski et al. (2018), section 4.
    """
    _check_features(a, b)
    count = min(len(a), len(b))
    pieces = np.array_split(np.arange(count), max(1, count // check_positive_int("size", size, minimum=2)))
    estimates = []
    for x, y in ((a[piece], b[piece]) for piece in pieces):
        within = []
        for z in (x, y):
            gram = polynomial_kernel(z, degree=3, coef0=1)
            within.append((gram.sum() - gram.trace()) / (len(z) * (len(z) - 1)))
        estimates.append(sum(within) - 2 * polynomial_kernel(x, y, degree=3, coef0=1).mean())
    return float(np.mean(estimates))


def _check_features(a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
    shapes = np.shape(a), np.shape(b)
    if any(len(shape) != 2 or shape[0] < 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"features must have shapes (N, F) and (M, F), N and M at least 2, got {shapes[0]}, {shapes[1]}"
        )


def _read(classifier: Clusterer, images: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What goes into the classifier's last layer, (N, F), and the label that comes out, (N,)."""
    assert isinstance(classifier.discrete_encoder, nn.Sequential)
    body, last = classifier.discrete_encoder[:-1], classifier.discrete_encoder[-1]
    with inference(classifier):
        features = torch.cat([body(classifier.pixels(part)) for part in images.split(1000)])
        labels = last(features).argmax(1)
    return features.cpu().double().numpy(), labels.cpu().numpy()
