"""The classifier that reads drawn digits: an instrument, trained on labels, that no model and no choice ever sees.

``python -m gmlvm_book.instrument --output results/classifier.safetensors`` makes the file that chapters and experiments
read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gmlvm import Clusterer, Distillation, cosine, datasets, fit, storage

_KIND = "classifier of digits"
SETTINGS: dict[str, Any] = {"steps": 3000, "batch_size": 128, "learning_rate": 2e-3, "seed": 1000}


def new_classifier() -> Clusterer:
    """A small convolutional network for MNIST, untrained, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SETTINGS["seed"])
        network = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 49, 128), nn.BatchNorm1d(128), nn.ReLU(),
            nn.Linear(128, 10),
        )  # fmt: skip
    return Clusterer(network, (1, 28, 28))


def train() -> tuple[Clusterer, float]:
    """Train it on the labels of the training split.

    Returns:
        The classifier, and its accuracy on the test split.
    """
    data, classifier = datasets.mnist(), new_classifier()
    assert data.train.labels is not None
    assert data.test.labels is not None
    labels = nn.functional.one_hot(data.train.labels, 10).float()
    fit(classifier, Distillation(labels), data, schedule=cosine, **SETTINGS)
    return classifier, float((classifier.predict(data.test.images) == data.test.labels.numpy()).mean())


def load_classifier(path: str | Path) -> Clusterer:
    """Read the trained classifier.

    Args:
        path: ``results/classifier.safetensors`` in the repository.

    Returns:
        The classifier, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or holds something else.
    """
    _, tensors = storage.read(path, _KIND)
    classifier = new_classifier()
    classifier.load_state_dict(tensors)
    return classifier.eval()


def main() -> None:
    """Train it and write the file."""
    parser = argparse.ArgumentParser(prog="python -m gmlvm_book.instrument", description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    path = parser.parse_args().output
    torch.set_num_threads(1)
    classifier, accuracy = train()
    header = {"settings": SETTINGS, "test_accuracy": accuracy}
    storage.write(path, _KIND, header, classifier.state_dict())
    print(f"accuracy on the test split: {accuracy:.4f}")


if __name__ == "__main__":
    main()
