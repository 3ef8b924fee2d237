"""Where the images of each step come from: all of them on the device, or a loader that reads them batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmlvm import distributed
from gmlvm.datasets import ImageData, Split
from gmlvm.identity import digest, name_of
from gmlvm.images import as_images, as_uint8_images
from gmlvm.validation import check_positive_int

#: Images in a batch, if there are as many and nothing else is asked for.
BATCH_SIZE = 128


class Batch(NamedTuple):
    """The images of a step.

    Attributes:
        images: (B, C, H, W), ``uint8`` or floating point in [0, 1].
        indices: Place of each image in the training split, int64, (B,), for what has a value for each; None where the
            source does not know it.
    """

    images: Tensor
    indices: Tensor | None = None


class Batches(ABC):
    """A source of batches that can be left and taken up again.

    :func:`gmlvm.testing.check_batches` tries one out.

    Attributes:
        batch_size: Images in a batch, as far as it is known.
    """

    batch_size: int

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Batch:
        """The next batch, on the generator's device.

        Args:
            generator: Source of randomness.

        Raises:
            EOFError: If there are no more.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What makes two sources the same, in JSON values: a run goes on with the data that it was begun with."""

    def state(self) -> dict[str, Tensor]:
        """What is needed besides the generator to go on from here; nothing, if batches are drawn independently."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 (nothing to do where nothing is kept)
        """Go on from where :meth:`state` was taken.

        Args:
            state: What it gave.
        """


class TensorBatches(Batches):
    """Batches drawn with replacement from images that stay on the device, so that each is an independent sample.

    Args:
        images: ``uint8``, (N, C, H, W).
        batch_size: Images in a batch, at least 2 and at most N; the smaller of 128 and N if left out.
        device: Where the images are kept.

    Raises:
        ValueError: If ``batch_size`` is out of range.
    """

    def __init__(self, images: Tensor, batch_size: int | None = None, device: torch.device | str = "cpu") -> None:
        size = min(BATCH_SIZE, len(images)) if batch_size is None else batch_size
        self.batch_size = check_positive_int("batch_size", size, minimum=2)
        if self.batch_size > len(images):
            raise ValueError(f"batch_size must be at most the {len(images)} training images, got {self.batch_size}")
        self._given = images
        self.images = images.to(device)

    def draw(self, generator: torch.Generator) -> Batch:
        """The next batch; see :class:`Batches`."""
        index = torch.randint(len(self.images), (self.batch_size,), generator=generator, device=generator.device)
        index = index[distributed.own_rows(self.batch_size)]
        return Batch(self.images[index], index)

    def describe(self) -> dict[str, Any]:
        """Sizes, and a digest of the images; see :class:`Batches`."""
        return {"images": list(self._given.shape), "batch_size": self.batch_size, "digest": digest(self._given)}


class LoaderBatches(Batches):
    """Batches from a ``DataLoader``, or from any iterable of batches, for data that memory doesn't hold.

    An iterable that can be begun again is, whenever it comes to its end; another ends the training. Labels and whatever
    else comes after the images are left aside. A run that is taken up again reads past the batches of the epoch that it
    has seen, which is exact if the iterable draws its randomness from torch's global generator or the loader's own.
    Several processes each read all of it, and use their rows.

    On a GPU give ``uint8``: whether floating point lies in [0, 1] is checked at each step, which waits for the answer.

    Args:
        loader: Gives images (B, C, H, W), ``uint8`` or floating point in [0, 1], or tuples that begin with them; arrays
            also as (B, H, W), or as (B, H, W, C) with C 1 or 3 where that can't be read as (B, C, H, W).
        device: Where the images are brought.

    Raises:
        TypeError: If what comes is not images.
        ValueError: If it is fewer than two, or processes cannot share them evenly.
    """

    def __init__(self, loader: Iterable[Any], device: torch.device | str = "cpu") -> None:
        self.loader, self.device = loader, torch.device(device)
        self.batch_size = getattr(loader, "batch_size", None) or BATCH_SIZE
        self._iterator: Iterator[Any] | None = None
        self._begun: dict[str, Tensor] = {}  # the generators' states when the epoch began
        self._taken = 0

    def draw(self, generator: torch.Generator) -> Batch:
        """The next batch; see :class:`Batches`."""
        for _ in range(2):  # what is left of this epoch, else the next one
            if self._iterator is None:
                self._begin()
            assert self._iterator is not None
            try:
                item = next(self._iterator, None)
            except EOFError as error:  # of a file cut short, say
                raise RuntimeError(f"the data failed after {self._taken} batches: {error}") from error
            if item is not None:
                self._taken += 1
                images = self._images(item).to(self.device, non_blocking=True)
                return Batch(images[distributed.own_rows(len(images))])
            if self._taken == 0 or isinstance(self.loader, Iterator):
                break
            self._iterator = None
        raise EOFError("the data came to an end" if self._taken else "the data hold no batch")

    def describe(self) -> dict[str, Any]:
        """Class and length, which is all that can be known; see :class:`Batches`."""
        length = len(self.loader) if isinstance(self.loader, Sized) else None
        seeded = getattr(self.loader, "generator", None) is not None
        return {
            "loader": name_of(type(self.loader)), "batches": length, "batch_size": self.batch_size,
            "generator of its own": seeded,
        }  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """How far into the epoch, and what its order was drawn from; see :class:`Batches`."""
        return {"taken": torch.tensor(self._taken), **self._begun}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Begin the epoch again and read past what was taken; see :class:`Batches`."""
        taken = int(state["taken"])
        if taken == 0:
            return
        torch.set_rng_state(state["global"])
        own = getattr(self.loader, "generator", None)
        if own is not None:
            own.set_state(state["own"])
        self._begin()
        assert self._iterator is not None
        self._taken = sum(1 for _ in islice(self._iterator, taken))
        if self._taken < taken:
            raise ValueError(f"the data must hold the {taken} batches that were taken already, got {self._taken}")

    def _begin(self) -> None:
        own = getattr(self.loader, "generator", None)
        self._begun = {"global": torch.get_rng_state()} | ({} if own is None else {"own": own.get_state()})
        self._iterator, self._taken = iter(self.loader), 0

    @staticmethod
    def _images(item: Any) -> Tensor:
        first = item[0] if isinstance(item, (tuple, list)) and item else item
        if not isinstance(first, (Tensor, np.ndarray)):
            raise TypeError(
                f"a loader must give images, or tuples that begin with images, got {type(first).__name__}; "
                "wrap it in a generator that picks them out"
            )
        images = first if isinstance(first, Tensor) else _from_array(first)
        if len(images) < 2:
            raise ValueError(
                "a batch must hold at least 2 images, got 1; does the loader leave out an incomplete last one?"
            )
        return images


def _from_array(array: NDArray[Any]) -> Tensor:
    """Images of any number of channels, which come first unless only the last axis can be that of grey or colour."""
    last = array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3)
    return as_images("what the loader gives", array, "last" if last else "first")


def whole_images(data: Any, why: str) -> Tensor:
    """The training images of what :func:`as_batches` takes, where all of them are there at once.

    Args:
        data: An :class:`gmlvm.datasets.ImageData`, a :class:`gmlvm.datasets.Split`, or images as a tensor or array.
        why: Why a loader does not do, for the message.

    Returns:
        ``uint8``, (N, C, H, W), on the CPU.

    Raises:
        TypeError: If ``data`` is a loader or another iterable of batches.
    """
    batches = as_batches(data, None, torch.device("cpu"))
    if not isinstance(batches, TensorBatches):
        raise TypeError(f"{why}; data must be ImageData or images, not a loader")
    return batches.images


def as_batches(data: Any, batch_size: int | None, device: torch.device) -> Batches:
    """A source of batches from whatever training takes.

    Args:
        data: An :class:`gmlvm.datasets.ImageData`, whose training split is used; a :class:`gmlvm.datasets.Split`;
            images as a tensor or array; a loader or another iterable of batches; or a source of one's own.
        batch_size: Images in a batch, for what is not in batches already.
        device: Where the images are to be.

    Raises:
        TypeError: If ``data`` is none of these.
        ValueError: If ``batch_size`` is out of range, or given for what is in batches already.
    """
    if isinstance(data, ImageData):
        data = data.train
    if isinstance(data, Split):
        return TensorBatches(data.images, batch_size, device)
    if isinstance(data, (Tensor, np.ndarray, list, tuple)):
        return TensorBatches(as_uint8_images("data", data), batch_size, device)
    if batch_size is not None:
        raise ValueError(f"data that come in batches have a batch size of their own, got batch_size={batch_size}")
    if isinstance(data, Batches):
        return data
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        return LoaderBatches(data, device)
    raise TypeError(f"data must be ImageData, images, or a loader of images, got {type(data).__name__}")
