"""The path on other images: clothes, and small digits.

``python -m experiments.other_data --output results/other_data.json`` makes the file that the chapter "Beyond MNIST"
reads. Fashion-MNIST is read from the folder that the environment variable ``FASHION_MNIST`` names, or that Debian's
package dataset-fashion-mnist lays it in.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from experiments import digits, measures, runner
from gmlvm import datasets, embedding, evaluate
from gmlvm.datasets import ImageData

#: The path's.
SETTINGS: dict[str, Any] = {**digits.SETTINGS, "kmeans_starts": 10}
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


def yardsticks(data: ImageData, num_groups: int, seed: int) -> tuple[dict[str, Any], Tensor]:
    """How k-means and the teacher group, and what the teacher says of the training images.

    Args:
        data: The images.
        num_groups: Number of groups.
        seed: Seed of both.
    """
    train, test = measures.pixels(data)
    kmeans = KMeans(num_groups, n_init=SETTINGS["kmeans_starts"], random_state=seed).fit(train)
    targets = embedding.teacher(data.train.images, num_groups, seed)
    return {
        "k-means": measures.grouped(data, kmeans.labels_, kmeans.predict(test), num_groups),
        "teacher": measures.of_training_split(data, targets.argmax(1).numpy(), num_groups),
    }, targets


def compared(source: Callable[[], ImageData]) -> runner.Method:
    """K-means, the teacher and the path on one data set, as a function of the seed.

    Args:
        source: Gives the data.
    """

    def method(seed: int) -> dict[str, Any]:
        data = source()
        figures, targets = yardsticks(data, SETTINGS["num_components"], seed)
        model, seconds = digits.follow(data, seed, targets=targets)
        return {**figures, "seconds": seconds, "path": asdict(evaluate(model, data))}

    return method


#: What is run for each seed, by name.
METHODS: dict[str, runner.Method] = {
    "Fashion-MNIST": compared(fashion),
    "small digits": compared(small_digits),
}

if __name__ == "__main__":
    runner.main("experiments.other_data", SETTINGS, METHODS, range(5))
