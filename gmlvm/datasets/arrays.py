"""A data set from arrays, with labels that are numbers or names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmlvm.datasets.splits import ImageData, Split
from gmlvm.images import as_uint8_images

# Integer labels from here on are names (years, article numbers): no data set numbers that many classes.
_MOST_CLASSES = 100_000


def from_arrays(
    train_images: Any,
    train_labels: Any = None,
    test_images: Any = None,
    test_labels: Any = None,
    *,
    name: str = "images",
    class_names: Sequence[str] = (),
    channels: str | None = None,
) -> ImageData:
    """A data set from arrays of one's own.

    Args:
        train_images: An array or tensor, or a list of arrays, tensors or PIL images of one size; (N, H, W) for grey,
            (N, C, H, W) or (N, H, W, C) with C 1 or 3, or with any C if ``channels`` says where it is; ``uint8`` in
            0..255, ``uint16`` in 0..65535, other integers in 0..255, ``bool``, or floating point in [0, 1], which is
            rounded to 8 bits. ``uint8`` arrays, memory-mapped ones too, are not copied where their layout fits.
        train_labels: Integers or strings, shape (N,), or None. Integers from 0 are the numbers of the classes as
            they stand. For strings, booleans, and integers of which one is negative or 100,000 or above, the classes
            are the different labels of both splits, sorted.
        test_images: As ``train_images``, of the same (C, H, W); the training images again if left out.
        test_labels: As ``train_labels``.
        name: For titles.
        class_names: The name of each class, in order; where labels are strings, all of them in the order wanted. The
            labels themselves if left out.
        channels: ``"first"`` or ``"last"``: where the channels of four axes are; needed only for a shape that fits
            both, such as (N, 3, 8, 3).

    Returns:
        The data set, with images ``uint8`` (N, C, H, W) and labels ``int64`` (N,).

    Raises:
        TypeError: If a dtype does not fit.
        ValueError: If a shape, range or length does not fit, a label has no name, or there are no images.
    """
    images = [as_uint8_images("train_images", train_images, channels)]
    labels = [_read_labels("train_labels", train_labels, len(images[0]))]
    if test_images is None:
        if test_labels is not None:
            raise ValueError("test_labels came without test_images")
    else:
        images.append(as_uint8_images("test_images", test_images, channels))
        shape, expected = (tuple(split.shape[1:]) for split in (images[1], images[0]))
        if shape != expected:
            raise ValueError(f"test_images must have the shape {expected} of the training images, got {shape}")
        labels.append(_read_labels("test_labels", test_labels, len(images[1])))
    given = [split for split in labels if split is not None]
    if len(given) not in (0, len(labels)):
        raise ValueError("either both splits have labels or neither: one of train_labels and test_labels is missing")
    numbers, names = _number_classes(given, tuple(class_names)) if given else ([None] * len(labels), tuple(class_names))
    splits = [Split(*pair) for pair in zip(images, numbers, strict=True)]
    return ImageData(name, splits[0], splits[-1], names)


def _read_labels(name: str, labels: Any, count: int) -> NDArray[Any] | None:
    """Labels as an array of int64, bool or strings, one for each image."""
    if labels is None:
        return None
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
        labels = labels.float() if labels.is_floating_point() else labels  # NumPy has no bfloat16
    if not isinstance(labels, (list, tuple)):
        labels = np.atleast_1d(np.asarray(labels))
    plain = isinstance(labels, np.ndarray) and labels.dtype not in (object, np.uint64)
    array: NDArray[Any] = labels if plain else _from_items(name, labels)
    if array.dtype.kind not in "biuU":
        raise TypeError(f"{name} must be integers or strings, got {array.dtype}")
    if array.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one label for each image, got {array.shape}")
    return array.astype(np.int64) if array.dtype.kind in "iu" else array


def _from_items(name: str, items: Iterable[Any]) -> NDArray[Any]:
    """Labels one by one: NumPy would make strings of numbers among strings, and other numbers of very large ones."""
    values = [item.item() if getattr(item, "ndim", None) == 0 else item for item in items]
    kinds = sorted({type(value).__name__ for value in values}) or ["int"]
    if kinds not in (["bool"], ["int"], ["str"]):
        raise TypeError(f"{name} must be integers or strings, got {' and '.join(kinds)}")
    try:
        return np.array(values, np.int64 if kinds == ["int"] else None)
    except OverflowError:
        raise ValueError(f"{name} must be integers of 64 bits, got {max(values, key=abs)}") from None


def _number_classes(labels: Sequence[NDArray[Any]], names: tuple[str, ...]) -> tuple[list[Tensor], tuple[str, ...]]:
    """Each split's labels as numbers of classes, and the names of the classes."""
    kinds = {split.dtype.kind for split in labels}
    if len(kinds) > 1:
        raise TypeError(
            f"train_labels and test_labels must be of one kind, got {labels[0].dtype} and {labels[1].dtype}"
        )
    classes = np.unique(np.concatenate(labels))
    if kinds == {"U"} and names:
        missing = sorted(set(classes.tolist()) - set(names))
        if missing:
            raise ValueError(f"class_names must hold every label, {missing[0]!r} is missing from {names}")
        classes = np.array(names)
    elif kinds == {"i"} and classes[0] >= 0 and classes[-1] < _MOST_CLASSES:
        classes = np.arange(classes[-1] + 1)
    names = names or tuple(map(str, classes.tolist()))
    if len(names) < len(classes):
        raise ValueError(f"class_names must name {len(classes)} labels, got {len(names)}: {names}")
    order = np.argsort(classes)
    numbers = [order[np.searchsorted(classes, split, sorter=order)] for split in labels]
    return [torch.from_numpy(split) for split in numbers], names
