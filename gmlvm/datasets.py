"""Image data: MNIST inside the package, two relatives through torchvision, and the reader's own images."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gmlvm.validation import check_number, check_positive_int

# SHA-256 of the four files of the original distribution, in the order in which they are packed.
_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_KMNIST_CLASSES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


@dataclass(frozen=True)
class Split:
    """Images and, where there are any, their labels.

    Attributes:
        images: ``uint8``, shape (N, C, H, W).
        labels: ``int64``, shape (N,), or None.

    Source: chapter "Training the GM-WAE".
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

    Source: chapter "Training the GM-WAE".
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

    def __repr__(self) -> str:
        """Name and sizes instead of the tensors."""
        sizes = f"{len(self.train)} training and {len(self.test)} test images, {self.image_shape}"
        return f"ImageData({self.name}: {sizes}, {len(self.class_names)} classes)"


def mnist() -> ImageData:
    """MNIST, the standard split of 60,000 and 10,000 handwritten digits, from a file inside this package.

    Returns:
        Grey images (N, 1, 28, 28) with labels 0 to 9.

    Raises:
        FileNotFoundError: If the embedded file is missing.
        ValueError: If it is truncated or altered: every file in it is checked against the SHA-256 sum of the
            original distribution.

    Source: LeCun, Cortes and Burges, CC BY-SA 3.0; chapter "Training the GM-WAE".
    """
    with as_file(files("gmlvm") / "data" / "mnist.tar.xz") as path:
        arrays = [_parse_idx(name, content) for name, content in _unpack_mnist(path).items()]
    return from_arrays(*arrays, name="MNIST", class_names=tuple(map(str, range(10))))


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


def from_arrays(
    train_images: Any,
    train_labels: Any = None,
    test_images: Any = None,
    test_labels: Any = None,
    *,
    name: str = "images",
    class_names: Sequence[str] = (),
) -> ImageData:
    """A data set from arrays of one's own.

    Args:
        train_images: Array or tensor, (N, H, W) for grey or (N, C, H, W) with C 1 or 3; ``uint8`` in 0..255,
            or floating point in [0, 1], which is rounded to 8 bits.
        train_labels: Integers from 0, shape (N,), or None.
        test_images: As ``train_images``, of the same (C, H, W); the training images again if left out.
        test_labels: As ``train_labels``.
        name: For titles.
        class_names: The name of each label; the numbers themselves if left out.

    Returns:
        The data set, as contiguous tensors of its own dtype and layout; nothing is copied that fits already.

    Raises:
        TypeError: If a dtype does not fit.
        ValueError: If a shape, range or length does not fit, or there are no images.

    Source: chapter "Training the GM-WAE".
    """
    train = Split(_check_images("train_images", train_images), None)
    train = Split(train.images, _check_labels("train_labels", train_labels, len(train)))
    if test_images is None:
        if test_labels is not None:
            raise ValueError("test_labels came without test_images")
        test = train
    else:
        images = _check_images("test_images", test_images)
        if images.shape[1:] != train.images.shape[1:]:
            raise ValueError(
                f"test_images must have the shape {tuple(train.images.shape[1:])} of the training images, "
                f"got {tuple(images.shape[1:])}"
            )
        test = Split(images, _check_labels("test_labels", test_labels, len(images)))
    if (train.labels is None) != (test.labels is None):
        raise ValueError("either both splits have labels or neither: one of train_labels and test_labels is missing")
    names = tuple(class_names)
    if train.labels is not None and test.labels is not None:
        count = 1 + int(max(train.labels.max(), test.labels.max()))
        names = names or tuple(map(str, range(count)))
        if len(names) < count:
            raise ValueError(f"class_names must name {count} labels, got {len(names)}: {names}")
    return ImageData(name, train, test, names)


def from_folder(
    path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    grey: bool = False,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> ImageData:
    """A data set from image files: one subfolder for each class, as torchvision's ``ImageFolder`` reads them.

    Args:
        path: The folder. One with a single subfolder gives a data set of one class.
        image_size: Resize to this height and width; all images must share one size if left out.
        grey: Read as one channel instead of three.
        test_fraction: Share of the images set aside, drawn at random, in (0, 1).
        seed: Seed of that draw.

    Returns:
        Images (N, 3, H, W), or (N, 1, H, W) if ``grey``, with the subfolder's index as label.

    Raises:
        FileNotFoundError: If the folder, or a class's images, are not there.
        ValueError: If an image cannot be read, sizes differ, or a split would be empty.

    Source: torchvision.datasets.ImageFolder.
    """
    check_number("test_fraction", test_fraction, maximum=1.0, exclusive=True)
    check_positive_int("seed", seed, minimum=0)
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no folder at {path}")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    folder = torchvision.datasets.ImageFolder(str(path))
    images: list[Tensor] = []
    for file, _ in folder.samples:
        try:
            with Image.open(file) as opened:
                picture = opened.convert("L" if grey else "RGB")
        except (OSError, SyntaxError) as error:  # Pillow raises a SyntaxError for some broken files
            raise ValueError(f"cannot read {file} as an image: {error}") from error
        if size is not None:
            picture = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)
        image = torchvision.transforms.functional.pil_to_tensor(picture)
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"all images must share one size, or image_size must be given: {file} has "
                f"{tuple(image.shape[1:])}, the first {tuple(images[0].shape[1:])}"
            )
        images.append(image)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held_out = round(test_fraction * len(images))
    if not 0 < held_out < len(images):
        raise ValueError(f"test_fraction {test_fraction} leaves an empty split of {len(images)} images")
    test, train = order[:held_out], order[held_out:]
    stack, labels = torch.stack(images), torch.tensor(folder.targets)
    return from_arrays(
        stack[train], labels[train], stack[test], labels[test], name=path.name, class_names=folder.classes
    )


def _unpack_mnist(path: Path) -> dict[str, bytes]:
    """The four checked IDX files of the embedded archive."""
    if not path.is_file():
        raise FileNotFoundError(f"the embedded MNIST file is missing: {path}")
    try:
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(path.read_bytes()))) as archive:
            contents = {name: archive.extractfile(name).read() for name in _MNIST_SHA256}  # type: ignore[union-attr]
    except (lzma.LZMAError, tarfile.TarError, KeyError) as error:
        raise ValueError(f"the embedded MNIST file {path} is truncated or altered: {error}") from error
    for name, expected in _MNIST_SHA256.items():
        got = hashlib.sha256(contents[name]).hexdigest()
        if got != expected:
            raise ValueError(f"the embedded {name} is altered: expected SHA-256 {expected}, got {got}")
    return contents


def _parse_idx(name: str, content: bytes) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes: two zeros, type 8, the rank, the sizes (big endian), then the values."""
    rank = content[3]
    shape = np.frombuffer(content, ">u4", count=rank, offset=4)
    values = np.frombuffer(bytearray(content), np.uint8, offset=4 + 4 * rank)  # a bytearray: writable memory
    return values.reshape(shape)


def _from_torchvision(
    name: str, dataset: Any, root: str | Path | None, download: bool, classes: tuple[str, ...]
) -> ImageData:
    folder = Path(torch.hub.get_dir()).parent / "gmlvm" if root is None else Path(root)
    train, test = (dataset(folder, train=train, download=download) for train in (True, False))
    return from_arrays(train.data, train.targets, test.data, test.targets, name=name, class_names=classes)


def _as_tensor(name: str, values: Any) -> Tensor:
    """What came, as a tensor."""
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array or tensor of numbers, got {type(values).__name__}: {error}") from None


def _check_images(name: str, images: Any) -> Tensor:
    """Images as uint8 in NCHW."""
    tensor = _as_tensor(name, images)
    if tensor.ndim == 3:
        tensor = tensor.unsqueeze(1)
    if tensor.ndim != 4 or tensor.shape[1] not in (1, 3):
        raise ValueError(f"{name} must have shape (N, H, W) or (N, C, H, W) with C 1 or 3, got {tuple(tensor.shape)}")
    if tensor.numel() == 0:
        raise ValueError(f"{name} must hold at least one image, got shape {tuple(tensor.shape)}")
    if tensor.is_floating_point():
        low, high = tensor.min().item(), tensor.max().item()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{name} must lie in [0, 1] when floating point, got values from {low:g} to {high:g}")
        tensor = (tensor * 255).round().to(torch.uint8)
    elif tensor.dtype != torch.uint8:
        raise TypeError(f"{name} must be uint8 in 0..255 or floating point in [0, 1], got {tensor.dtype}")
    return tensor.contiguous()


def _check_labels(name: str, labels: Any, count: int) -> Tensor | None:
    """Labels as int64, one for each image."""
    if labels is None:
        return None
    tensor = _as_tensor(name, labels)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got {tensor.dtype}")
    if tensor.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one label for each image, got {tuple(tensor.shape)}")
    tensor = tensor.to(torch.int64)
    if int(tensor.min()) < 0:
        raise ValueError(f"{name} must be 0 or above, got {int(tensor.min())}")
    return tensor
