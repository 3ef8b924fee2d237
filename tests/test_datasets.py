"""The embedded data, torchvision's, and the reader's own."""

import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gmlvm import datasets


def test_mnist_is_the_standard_split(mnist):
    assert mnist.train.images.shape == (60_000, 1, 28, 28)
    assert mnist.test.images.shape == (10_000, 1, 28, 28)
    assert mnist.train.images.dtype == torch.uint8
    assert mnist.image_shape == (1, 28, 28)
    assert np.bincount(mnist.train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.train.images.float().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)


def test_the_embedded_file_is_small():
    size = (Path(datasets.__file__).parent / "data" / "mnist.tar.xz").stat().st_size
    assert size <= 9_500_000


@pytest.fixture
def embedded(tmp_path):
    """A copy of the embedded file that a test may damage."""
    copy = tmp_path / "mnist.tar.xz"
    copy.write_bytes((Path(datasets.__file__).parent / "data" / "mnist.tar.xz").read_bytes())
    return copy


def test_a_missing_embedded_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="embedded MNIST file is missing"):
        datasets._unpack_mnist(tmp_path / "mnist.tar.xz")


@pytest.mark.parametrize("length", [0, 100, 5_000_000])
def test_a_truncated_embedded_file(embedded, length):
    embedded.write_bytes(embedded.read_bytes()[:length])
    with pytest.raises(ValueError, match="truncated or altered"):
        datasets._unpack_mnist(embedded)


def test_an_altered_embedded_file(embedded):
    content = bytearray(lzma.decompress(embedded.read_bytes()))
    content[1_000_000] ^= 1  # one bit of one pixel
    embedded.write_bytes(lzma.compress(bytes(content), preset=0))
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is altered: expected SHA-256 ba891046"):
        datasets._unpack_mnist(embedded)


@pytest.mark.parametrize(("load", "folder"), [(datasets.fashion_mnist, "FashionMNIST"), (datasets.kmnist, "KMNIST")])
def test_relatives_of_mnist_come_through_torchvision(tmp_path, load, folder):
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, labels = {}, {}
    for part, count in (("train", 30), ("t10k", 10)):
        images[part] = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels[part] = np.arange(count, dtype=np.uint8) % 10
        for name, array in ((f"{part}-images-idx3-ubyte", images[part]), (f"{part}-labels-idx1-ubyte", labels[part])):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (raw / name).write_bytes(header + array.tobytes())
    data = load(tmp_path, download=False)
    np.testing.assert_array_equal(data.train.images[:, 0], images["train"])
    np.testing.assert_array_equal(data.test.labels, labels["t10k"])
    assert len(data.class_names) == 10


@pytest.mark.parametrize("load", [datasets.fashion_mnist, datasets.kmnist])
def test_relatives_of_mnist_say_when_they_are_not_there(tmp_path, load):
    with pytest.raises(RuntimeError, match="not found"):
        load(tmp_path, download=False)


def test_arrays_in_every_accepted_form():
    rng = np.random.default_rng(0)
    grey = rng.integers(256, size=(5, 4, 3), dtype=np.uint8)
    data = datasets.from_arrays(grey, [0, 1, 2, 0, 1])
    assert data.image_shape == (1, 4, 3)
    np.testing.assert_array_equal(data.train.images[:, 0], grey)
    assert data.test is data.train
    assert data.class_names == ("0", "1", "2")
    as_floats = datasets.from_arrays(grey / 255)
    assert torch.equal(as_floats.train.images, data.train.images)
    assert as_floats.train.labels is None
    colour = datasets.from_arrays(torch.zeros(5, 3, 4, 4, dtype=torch.uint8), test_images=np.ones((2, 3, 4, 4)))
    assert colour.image_shape == (3, 4, 4)
    assert (colour.test.images == 255).all()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for index in range(10):
            pixels = rng.integers(256, size=(6, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{index}.png")
    return tmp_path


def test_a_folder_of_images(folder):
    data = datasets.from_folder(folder, test_fraction=0.2)
    assert data.image_shape == (3, 6, 5)
    assert (len(data.train), len(data.test)) == (16, 4)
    assert data.class_names == ("cat", "dog")
    together = torch.cat([data.train.images, data.test.images]).flatten(1)
    assert len(together.unique(dim=0)) == 20  # every image in exactly one split
    first = torch.from_numpy(np.array(Image.open(folder / "dog" / "0.png"))).permute(2, 0, 1)
    where = (together == first.flatten()).all(1).nonzero().item()
    assert torch.cat([data.train.labels, data.test.labels])[where] == 1


def test_a_folder_of_images_resized_and_grey(folder):
    data = datasets.from_folder(folder, image_size=8, grey=True)
    assert data.image_shape == (1, 8, 8)


def test_the_split_of_a_folder_follows_its_seed(folder):
    first, same, other = (datasets.from_folder(folder, seed=seed).test.images for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_folder_resized_to_a_height_and_a_width(folder):
    assert datasets.from_folder(folder, image_size=(8, 3)).image_shape == (3, 8, 3)


def test_floats_are_rounded_to_the_nearest_grey_level():
    images = np.full((1, 2, 2), 100.6 / 255)
    assert (datasets.from_arrays(images).train.images == 101).all()
