"""The path on other images: clothes, small digits, and digits of which three are rare.

``python -m experiments.other_data --output results/other_data.json`` makes the file that the chapter "Contest and
ablations" reads. Fashion-MNIST is read from the folder that the environment variable ``FASHION_MNIST`` names, or that
Debian's package dataset-fashion-mnist lays it in.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score
from sklearn.model_selection import train_test_split

from experiments import digits, measures, runner
from gmlvm import datasets, embedding, evaluate
from gmlvm.datasets import ImageData, Split

#: The path's, and what is rare.
SETTINGS: dict[str, Any] = {**digits.SETTINGS, "rare": [0, 4, 8], "rare_share": 0.1, "kmeans_starts": 10}
_FASHION = "/usr/share/datasets/fashion-mnist"


def fashion() -> ImageData:
    """Zalando's clothes, ten classes."""
    return datasets.from_idx(os.environ.get("FASHION_MNIST", _FASHION), name="Fashion-MNIST")


def small_digits() -> ImageData:
    """Scikit-learn's 1,797 digits of 8 x 8 pixels, a quarter of them to test on."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(
        images.reshape(-1, 8, 8) / images.max(), labels, test_size=0.25, random_state=0, stratify=labels
    )
    train_images, test_images, train_labels, test_labels = parts
    return datasets.from_arrays(train_images, train_labels, test_images, test_labels, name="scikit-learn's digits")


def imbalanced() -> ImageData:
    """MNIST with a tenth of some digits, in both splits."""

    def thinned(split: Split) -> Split:
        assert split.labels is not None
        labels, rare = split.labels.numpy(), SETTINGS["rare"]
        chosen = np.random.default_rng(0).random(len(labels)) < SETTINGS["rare_share"]
        kept = np.flatnonzero(chosen | ~np.isin(labels, rare))
        return Split(split.images[kept], split.labels[kept])

    data = datasets.mnist()
    return ImageData("imbalanced MNIST", thinned(data.train), thinned(data.test))


def _figures(data: ImageData, train: NDArray[Any], test: NDArray[Any]) -> dict[str, float]:
    """Accuracy, by the rules of :func:`gmlvm.evaluate`, and normalised mutual information of groups."""
    assert data.test.labels is not None
    return {
        "accuracy": measures.agreement(data, train, test, SETTINGS["num_components"]),
        "nmi": float(normalized_mutual_info_score(data.test.labels.numpy(), test)),
    }


def compared(source: Callable[[], ImageData]) -> runner.Method:
    """K-means, the teacher and the path on one data set, as a function of the seed.

    Args:
        source: Gives the data.
    """

    def method(seed: int) -> dict[str, Any]:
        data = source()
        groups, pixels = SETTINGS["num_components"], measures.pixels(data)
        kmeans = KMeans(groups, n_init=SETTINGS["kmeans_starts"], random_state=seed).fit(pixels[0])
        targets = embedding.teacher(data.train.images, groups, seed)
        taught = targets.argmax(1).numpy()
        model, seconds = digits.follow(data, seed, targets=targets)
        return {
            "k-means": _figures(data, kmeans.labels_, kmeans.predict(pixels[1])),
            # It has groups for the images that it saw alone: of these.
            "teacher": _figures(replace(data, test=data.train), taught, taught),
            "seconds": seconds,
            "path": asdict(evaluate(model, data)),
        }

    return method


def many(num_components: int) -> runner.Method:
    """More components on the imbalanced digits, merged to ten, as a function of the seed.

    Args:
        num_components: Number of components K.
    """

    def method(seed: int) -> dict[str, Any]:
        data = imbalanced()
        model, seconds = digits.follow(data, seed, num_components)
        merged = measures.merged(data, model, SETTINGS["num_components"], seed)
        return {"seconds": seconds, "model": asdict(evaluate(model, data)), "merged": merged}

    return method


#: What is run for each seed, by name.
METHODS: dict[str, runner.Method] = {
    "Fashion-MNIST": compared(fashion),
    "small digits": compared(small_digits),
    "imbalanced": compared(imbalanced),
    "imbalanced, K = 20": many(20),
    "imbalanced, K = 30": many(30),
}

if __name__ == "__main__":
    runner.main("experiments.other_data", SETTINGS, METHODS, range(5))
