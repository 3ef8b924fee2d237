"""Relatives of MNIST, through torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision

from gmlvm.datasets.arrays import from_arrays
from gmlvm.datasets.splits import ImageData

_FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_KMNIST_CLASSES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def fashion_mnist(root: str | Path | None = None, download: bool = True) -> ImageData:
    """Fashion-MNIST, 60,000 and 10,000 articles of clothing, through torchvision.

    Args:
        root: Where the files are kept; torch's cache folder if left out.
        download: Fetch the files if they are not there yet.

    Returns:
        Grey images (N, 1, 28, 28) with labels 0 to 9.

    Raises:
        RuntimeError: If the files are not there and cannot be fetched; torchvision's own.

    Source: Xiao, Rasul and Vollgraf (2017).
    """
    return _from_torchvision("Fashion-MNIST", torchvision.datasets.FashionMNIST, root, download, _FASHION_CLASSES)


def kmnist(root: str | Path | None = None, download: bool = True) -> ImageData:
    """Kuzushiji-MNIST, 60,000 and 10,000 cursive Japanese characters, through torchvision.

    Args:
        root: Where the files are kept; torch's cache folder if left out.
        download: Fetch the files if they are not there yet.

    Returns:
        Grey images (N, 1, 28, 28) with labels 0 to 9.

    Raises:
        RuntimeError: If the files are not there and cannot be fetched; torchvision's own.

    Source: Clanuwat et al. (2018).
    """
    return _from_torchvision("KMNIST", torchvision.datasets.KMNIST, root, download, _KMNIST_CLASSES)


def _from_torchvision(
    name: str, dataset: Any, root: str | Path | None, download: bool, classes: tuple[str, ...]
) -> ImageData:
    folder = Path(torch.hub.get_dir()).parent / "gmlvm" if root is None else Path(root).expanduser()
    train, test = (dataset(folder, train=train, download=download) for train in (True, False))
    return from_arrays(train.data, train.targets, test.data, test.targets, name=name, class_names=classes)
