"""IDX, the format of MNIST and its relatives: a header with type and sizes, then the values; often gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmlvm.datasets.arrays import from_arrays
from gmlvm.datasets.splits import ImageData

# The third byte of a file says the type of its values, big endian.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def from_idx(folder: str | Path, *, name: str | None = None, class_names: Sequence[str] = ()) -> ImageData:
    """A data set from the four IDX files of MNIST and its relatives, gzipped or not.

    Args:
        folder: Where ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
            ``t10k-labels-idx1-ubyte`` are, each as it stands or with ``.gz``: side by side, as a Linux distribution
            lays them, or in ``raw/`` or ``FashionMNIST/raw/``, as torchvision does.
        name: For titles; the folder's if left out.
        class_names: The name of each label; the numbers themselves if left out.

    Returns:
        The data set.

    Raises:
        FileNotFoundError: If the folder or one of the four files is not there.
        ValueError: If a file is damaged, its header disagrees with its length, images and labels do not fit, or the
            folder holds several data sets.

    Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", file formats.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}")
    where = [place for place in (folder, folder / "raw", *sorted(folder.glob("*/raw"))) if any(_find(place))]
    if len(where) > 1:
        raise ValueError(f"{folder} holds several data sets: {', '.join(map(str, where))}; name one of these folders")
    place = where[0] if where else folder
    files = _find(place)
    for expected, file in zip(_FILES, files, strict=True):
        if file is None:
            raise FileNotFoundError(f"no {expected} and no {expected}.gz in {place}")
    arrays = [_read(file) for file in files if file is not None]
    return from_arrays(*arrays, name=folder.absolute().name if name is None else name, class_names=class_names)


def parse_idx(name: str, content: bytes) -> NDArray[Any]:
    """The array in an IDX file: two zeros, the type, the rank, the sizes (big endian), then the values.

    Args:
        name: What error messages call the file.
        content: All of its bytes.

    Returns:
        The array, in memory of its own.

    Raises:
        ValueError: If this is no IDX file, or its header disagrees with its length.
    """
    rank = content[3] if len(content) > 3 else 0
    start = 4 + 4 * rank
    if len(content) < max(start, 4) or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise ValueError(f"{name} is not an IDX file: it starts with {content[:4].hex(' ')!r}")
    dtype = np.dtype(_TYPES[content[2]])
    shape = tuple(np.frombuffer(content, ">u4", rank, offset=4).tolist())
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise ValueError(
            f"{name} must be {expected} bytes long for the shape {shape} in its header, got {len(content)}"
        )
    return np.frombuffer(bytearray(content), dtype, offset=start).reshape(shape)  # a bytearray: writable memory


def _find(folder: Path) -> list[Path | None]:
    """The four files in a folder, None for each that is not there."""
    return [next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None) for name in _FILES]


def _read(path: Path) -> NDArray[Any]:
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    return parse_idx(str(path), content)
