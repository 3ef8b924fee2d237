"""Image data: MNIST inside the package, two relatives through torchvision, and the reader's own images."""

from gmlvm.datasets.arrays import from_arrays
from gmlvm.datasets.embedded import mnist
from gmlvm.datasets.folders import from_folder
from gmlvm.datasets.idx import from_idx
from gmlvm.datasets.relatives import fashion_mnist, kmnist
from gmlvm.datasets.splits import ImageData, Split

__all__ = [
    "ImageData",
    "Split",
    "fashion_mnist",
    "from_arrays",
    "from_folder",
    "from_idx",
    "kmnist",
    "mnist",
]
