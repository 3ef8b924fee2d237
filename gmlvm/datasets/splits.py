"""What a data set is: a training and a test split, each of images and, where there are any, labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images and, where there are any, their labels.

    Attributes:
        images: ``uint8``, shape (N, C, H, W).
        labels: ``int64``, shape (N,), or None.
    """

    images: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        """N, the number of images."""
        return len(self.images)


@dataclass(frozen=True)
class ImageData:
    """A data set with its training and test split.

    Attributes:
        name: For titles.
        train: The :class:`Split` that training sees.
        test: The :class:`Split` that results are measured on.
        class_names: The name of each label, empty if there are no labels.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def total_variance(self) -> float:
        """What a penalty weight is measured by: the squared error, summed over pixels, of the best single image.

        The variance of each pixel over the training images, summed; pixels lie in [0, 1]. A model's squared error is a
        share of it, whatever the size and contrast of the images, so that ``WAE(2 * data.total_variance)`` asks for the
        same balance everywhere.
        """
        pixels = self.train.images.flatten(1)
        # Some pixels of all images at a time: in float64 the whole would be eight times as large.
        parts = (part.double().var(0, correction=0).sum() for part in pixels.split(64, dim=1))
        return float(sum(parts)) / 255**2

    def __repr__(self) -> str:
        """Name and sizes instead of the tensors."""
        sizes = f"{len(self.train)} training and {len(self.test)} test images, {self.image_shape}"
        return f"ImageData({self.name}: {sizes}, {len(self.class_names)} classes)"
