"""Coloured shapes of five kinds on a dark ground, made by rule: data with channels, of which everything is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gmlvm import datasets
from gmlvm.datasets import ImageData

#: The classes.
KINDS = ("disc", "square", "triangle", "cross", "ring")
SIZE = 16


def coloured_shapes(
    count: int = 6000, test_count: int = 1000, shares: Sequence[float] = (0.2,) * len(KINDS)
) -> ImageData:
    """Images of one shape each, with a colour, a place and a size drawn at random.

    Args:
        count: Training images.
        test_count: Test images.
        shares: Of the kinds, summing to one.
    """
    random = np.random.default_rng(0)
    splits = []
    for size in (count, test_count):
        labels = random.choice(len(KINDS), size, p=shares)
        splits += [np.stack([_drawn(KINDS[label], random) for label in labels]), labels]
    return datasets.from_arrays(*splits, name="coloured shapes", class_names=KINDS)


def _drawn(kind: str, random: np.random.Generator) -> NDArray[np.float64]:
    """One image, (SIZE, SIZE, 3), in [0, 1]."""
    row, column = np.mgrid[:SIZE, :SIZE] - random.uniform(6.5, 8.5, size=(2, 1, 1))
    radius = random.uniform(4.0, 6.0)
    distance = np.hypot(row, column)
    inside = {
        "disc": distance < radius,
        "square": np.maximum(abs(row), abs(column)) < 0.85 * radius,
        "triangle": (row < 0.7 * radius) & (abs(column) < 0.6 * (row + radius)),
        "cross": (np.minimum(abs(row), abs(column)) < 0.3 * radius) & (np.maximum(abs(row), abs(column)) < radius),
        "ring": (distance < radius) & (distance > 0.6 * radius),
    }[kind]
    ground = random.uniform(0, 0.15, size=3)
    return np.where(inside[:, :, None], random.uniform(0.4, 1, size=3), ground)
