"""MNIST from a file inside the package."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from importlib.resources import as_file, files
from pathlib import Path

from gmlvm.datasets.arrays import from_arrays
from gmlvm.datasets.idx import parse_idx
from gmlvm.datasets.splits import ImageData

# SHA-256 of the four files of the original distribution, in the order in which they are packed.
_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


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
        arrays = [parse_idx(name, content) for name, content in unpack_mnist(path).items()]
    return from_arrays(*arrays, name="MNIST", class_names=tuple(map(str, range(10))))


def unpack_mnist(path: Path) -> dict[str, bytes]:
    """The four checked IDX files of the embedded archive.

    Args:
        path: The archive, ``mnist.tar.xz``.

    Returns:
        The content of each file, by its name.

    Raises:
        FileNotFoundError: If the archive is missing.
        ValueError: If it is truncated or altered.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the embedded MNIST file is missing: {path}")
    try:
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(path.read_bytes()))) as archive:
            contents = {name: archive.extractfile(name).read() for name in _SHA256}  # type: ignore[union-attr]
    except (lzma.LZMAError, tarfile.TarError, KeyError) as error:
        raise ValueError(f"the embedded MNIST file {path} is truncated or altered: {error}") from error
    for name, expected in _SHA256.items():
        got = hashlib.sha256(contents[name]).hexdigest()
        if got != expected:
            raise ValueError(f"the embedded {name} is altered: expected SHA-256 {expected}, got {got}")
    return contents
