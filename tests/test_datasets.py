"""The embedded data, torchvision's, IDX files, and the reader's own arrays and folders."""

import gzip
import lzma
import os
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from gmlvm import datasets
from gmlvm.datasets import folders
from gmlvm.datasets.embedded import unpack_mnist

EMBEDDED = Path(datasets.__file__).parents[1] / "data" / "mnist.tar.xz"


class TestMNIST:
    def test_is_the_standard_split(self, mnist):
        assert mnist.train.images.shape == (60_000, 1, 28, 28)
        assert mnist.test.images.shape == (10_000, 1, 28, 28)
        assert mnist.train.images.dtype == torch.uint8
        assert mnist.image_shape == (1, 28, 28)
        train, test = (np.bincount(split.labels).tolist() for split in (mnist.train, mnist.test))
        assert train == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert test == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
        assert mnist.train.images.float().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)
        assert mnist.class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")

    def test_the_embedded_file_is_small(self):
        assert EMBEDDED.stat().st_size <= 9_500_000

    @pytest.fixture
    def embedded(self, tmp_path):
        """A copy of the embedded file that a test may damage."""
        copy = tmp_path / "mnist.tar.xz"
        copy.write_bytes(EMBEDDED.read_bytes())
        return copy

    def test_a_missing_embedded_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="embedded MNIST file is missing"):
            unpack_mnist(tmp_path / "mnist.tar.xz")

    @pytest.mark.parametrize("length", [0, 100, 5_000_000])
    def test_a_truncated_embedded_file(self, embedded, length):
        embedded.write_bytes(embedded.read_bytes()[:length])
        with pytest.raises(ValueError, match="truncated or altered"):
            unpack_mnist(embedded)

    def test_an_altered_embedded_file(self, embedded):
        content = bytearray(lzma.decompress(embedded.read_bytes()))
        content[1_000_000] ^= 1  # one bit of one pixel
        embedded.write_bytes(lzma.compress(bytes(content), preset=0))
        with pytest.raises(ValueError, match="train-images-idx3-ubyte is altered: expected SHA-256 ba891046"):
            unpack_mnist(embedded)


def idx(array):
    """An IDX file's bytes: two zeros, type 8 (unsigned bytes), the rank, the sizes, the values."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture
def idx_files():
    """The four files of a small relative of MNIST, 30 and 10 images of 28 x 28, by name."""
    rng = np.random.default_rng(0)
    content = {}
    for part, count in (("train", 30), ("t10k", 10)):
        content[f"{part}-images-idx3-ubyte"] = idx(rng.integers(256, size=(count, 28, 28)))
        content[f"{part}-labels-idx1-ubyte"] = idx(np.arange(count) % 10)
    return content


def check_idx_data(data, content):
    for split, part in ((data.train, "train"), (data.test, "t10k")):
        images, labels = content[f"{part}-images-idx3-ubyte"], content[f"{part}-labels-idx1-ubyte"]
        assert split.images.shape[1:] == (1, 28, 28)
        assert split.images.numpy().tobytes() == images[16:]
        assert split.labels.tolist() == list(labels[8:])


class TestRelatives:
    CASES = pytest.mark.parametrize(
        ("load", "folder"), [(datasets.fashion_mnist, "FashionMNIST"), (datasets.kmnist, "KMNIST")]
    )

    @CASES
    def test_come_through_torchvision(self, tmp_path, monkeypatch, idx_files, load, folder):
        raw = tmp_path / "data" / folder / "raw"
        raw.mkdir(parents=True)
        for name, content in idx_files.items():
            (raw / name).write_bytes(content)
        data = load(tmp_path / "data", download=False)
        check_idx_data(data, idx_files)
        assert len(data.class_names) == 10
        monkeypatch.setenv("HOME", str(tmp_path))
        check_idx_data(load("~/data", download=False), idx_files)

    @CASES
    def test_say_when_they_are_not_there(self, tmp_path, load, folder):
        with pytest.raises(RuntimeError, match="not found"):
            load(tmp_path, download=False)


class TestFromIDX:
    @staticmethod
    def write(folder, content, ending=""):
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in content.items():
            (folder / (name + ending)).write_bytes(gzip.compress(value) if ending == ".gz" else value)

    @pytest.mark.parametrize("ending", ["", ".gz"])
    @pytest.mark.parametrize("inside", [".", "raw", "FashionMNIST/raw"])
    def test_side_by_side_or_as_torchvision_lays_them_gzipped_or_not(self, tmp_path, idx_files, inside, ending):
        self.write(tmp_path / "fashion" / inside, idx_files, ending)
        data = datasets.from_idx(tmp_path / "fashion")
        check_idx_data(data, idx_files)
        assert data.name == "fashion"

    def test_both_gzipped_and_not(self, tmp_path, idx_files):
        self.write(tmp_path, idx_files)
        self.write(tmp_path, idx_files, ".gz")
        check_idx_data(datasets.from_idx(tmp_path), idx_files)

    def test_a_home_folder_a_name_and_names_of_classes(self, tmp_path, monkeypatch, idx_files):
        monkeypatch.setenv("HOME", str(tmp_path))
        self.write(tmp_path / "clothes", idx_files)
        data = datasets.from_idx("~/clothes", name="Clothes", class_names="abcdefghij")
        assert (data.name, data.class_names[3]) == ("Clothes", "d")

    def test_wider_types_are_read_too(self, tmp_path, idx_files):
        shades = np.linspace(0, 1, 30 * 4, dtype=">f4").reshape(30, 2, 2)
        header = bytes([0, 0, 0x0D, 3]) + np.array(shades.shape, ">u4").tobytes()
        idx_files["train-images-idx3-ubyte"] = header + shades.tobytes()
        idx_files["t10k-images-idx3-ubyte"] = idx(np.full((10, 2, 2), 7))
        self.write(tmp_path, idx_files)
        data = datasets.from_idx(tmp_path)
        np.testing.assert_array_equal(data.train.images[:, 0], np.rint(shades * 255))

    @pytest.mark.parametrize("part", ["train", "t10k"])
    @pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
    def test_a_missing_file_is_named(self, tmp_path, idx_files, part, kind):
        name = f"{part}-{kind}-ubyte"
        del idx_files[name]
        self.write(tmp_path, idx_files, ".gz")
        with pytest.raises(FileNotFoundError, match=rf"no {name} and no {name}.gz in .*{tmp_path.name}"):
            datasets.from_idx(tmp_path)

    def test_an_empty_or_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no train-images-idx3-ubyte and no"):
            datasets.from_idx(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"no folder at .*nowhere"):
            datasets.from_idx(tmp_path / "nowhere")

    def test_several_data_sets_in_one_folder(self, tmp_path, idx_files):
        self.write(tmp_path / "MNIST" / "raw", idx_files)
        self.write(tmp_path / "KMNIST" / "raw", idx_files)
        with pytest.raises(ValueError, match=r"several data sets: .*KMNIST/raw, .*MNIST/raw; name one"):
            datasets.from_idx(tmp_path)
        check_idx_data(datasets.from_idx(tmp_path / "MNIST"), idx_files)

    @pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip", "empty"])
    def test_a_damaged_gzip_file_is_named(self, tmp_path, idx_files, damage):
        self.write(tmp_path, idx_files, ".gz")
        path = tmp_path / "train-images-idx3-ubyte.gz"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        damaged = {
            "cut": path.read_bytes()[:-100],
            "flipped": bytes(content),
            "no gzip": b"page not found",
            "empty": b"",
        }
        path.write_bytes(damaged[damage])
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is (damaged|not an IDX file)"):
            datasets.from_idx(tmp_path)

    @pytest.mark.parametrize("change", [-1, 1])
    def test_a_header_that_disagrees_with_the_length(self, tmp_path, idx_files, change):
        name = "train-images-idx3-ubyte"
        content = idx_files[name]
        idx_files[name] = content[:change] if change < 0 else content + b"\0"
        self.write(tmp_path, idx_files)
        message = rf"{name} must be 23536 bytes long for the shape \(30, 28, 28\).*, got {23536 + change}"
        with pytest.raises(ValueError, match=message):
            datasets.from_idx(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [b"", b"\0\0\x08", b"\0\0\x08\x03\0\0", b"\0\0\x07\x01\0\0\0\0", b"PK\x03\x04" * 9],
        ids=["empty", "no rank", "no sizes", "no known type", "a zip archive"],
    )
    def test_what_is_no_idx_file(self, tmp_path, idx_files, content):
        idx_files["train-labels-idx1-ubyte"] = content
        self.write(tmp_path, idx_files)
        with pytest.raises(ValueError, match="train-labels-idx1-ubyte is not an IDX file"):
            datasets.from_idx(tmp_path)


RNG = np.random.default_rng(0)
GREY = RNG.integers(256, size=(5, 4, 3), dtype=np.uint8)
COLOUR = RNG.integers(256, size=(5, 8, 6, 3), dtype=np.uint8)


class TestArrays:
    """The forms that images come in are tested in test_images.py; here that they all get through."""

    def test_in_every_accepted_form(self):
        data = datasets.from_arrays(GREY, [0, 1, 2, 0, 1])
        assert data.image_shape == (1, 4, 3)
        np.testing.assert_array_equal(data.train.images[:, 0], GREY)
        assert data.test is data.train
        assert data.class_names == ("0", "1", "2")
        as_floats = datasets.from_arrays(GREY / 255)
        assert torch.equal(as_floats.train.images, data.train.images)
        assert as_floats.train.labels is None
        colour = datasets.from_arrays(torch.zeros(5, 3, 4, 4, dtype=torch.uint8), test_images=np.ones((2, 3, 4, 4)))
        assert colour.image_shape == (3, 4, 4)
        assert (colour.test.images == 255).all()

    FORMS = pytest.mark.parametrize(
        "form",
        [
            pytest.param(lambda grey: np.flip(np.flip(grey).copy()), id="negative strides"),
            pytest.param(lambda grey: (grey / 255).astype(">f8"), id="big-endian"),
            pytest.param(lambda grey: list(torch.from_numpy(grey)), id="list of tensors"),
            pytest.param(lambda grey: [Image.fromarray(image) for image in grey], id="list of PIL images"),
            pytest.param(lambda grey: grey.astype(int), id="integers"),
            pytest.param(lambda grey: grey.astype(np.uint16) * 257, id="16 bits"),
            pytest.param(lambda grey: grey[..., None], id="channels last"),
        ],
    )

    @FORMS
    def test_what_a_user_of_numpy_pillow_or_scikit_image_has(self, form):
        np.testing.assert_array_equal(datasets.from_arrays(form(GREY)).train.images[:, 0], GREY)

    def test_colours_channels_last(self):
        data = datasets.from_arrays(COLOUR, test_images=list(COLOUR))
        np.testing.assert_array_equal(data.train.images, COLOUR.transpose(0, 3, 1, 2))
        assert torch.equal(data.test.images, data.train.images)

    def test_booleans_are_black_and_white(self):
        np.testing.assert_array_equal(datasets.from_arrays(GREY > 99).train.images[:, 0], np.where(GREY > 99, 255, 0))

    def test_a_narrow_colour_image_channels_last_is_not_taken_for_channels_first(self):
        narrow = RNG.integers(256, size=(5, 3, 8, 3), dtype=np.uint8)  # 3 x 8 pixels in colour
        with pytest.raises(ValueError, match="say which with channels='first' or channels='last'"):
            datasets.from_arrays(narrow)
        np.testing.assert_array_equal(
            datasets.from_arrays(narrow, channels="last").train.images, narrow.transpose(0, 3, 1, 2)
        )
        np.testing.assert_array_equal(datasets.from_arrays(narrow, channels="first").train.images, narrow)

    def test_read_only_images_and_labels_give_no_warning(self):
        images, labels = GREY.copy(), np.arange(5)
        images.flags.writeable = labels.flags.writeable = False
        data = datasets.from_arrays(images, labels)
        np.testing.assert_array_equal(data.train.images[:, 0], GREY)
        assert data.train.labels.tolist() == [0, 1, 2, 3, 4]

    def test_memory_mapped_images_stay_in_their_file(self, tmp_path):
        np.save(tmp_path / "images.npy", GREY)
        mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
        assert datasets.from_arrays(mapped).train.images.data_ptr() == mapped.ctypes.data

    def test_floats_are_rounded_to_the_nearest_grey_level(self):
        assert (datasets.from_arrays(np.full((1, 2, 2), 100.6 / 255)).train.images == 101).all()


class TestLabels:
    @staticmethod
    def number(train, test=None, **options):
        """Numbers of both splits' labels, and the names of the classes."""
        test_images = None if test is None else GREY[: len(test)]
        data = datasets.from_arrays(GREY[: len(train)], train, test_images, test, **options)
        assert data.train.labels.dtype == torch.int64
        return data.train.labels.tolist(), data.test.labels.tolist(), data.class_names

    FORMS = pytest.mark.parametrize(
        "labels",
        [
            [2, 0, 1],
            (2, 0, 1),
            np.array([2, 0, 1], ">i2"),
            np.array([2, 0, 1], np.uint64),
            np.array([2, 0, 1], object),
            torch.tensor([2, 0, 1], dtype=torch.uint8),
            list(np.array([2, 0, 1])),
            list(torch.tensor([2, 0, 1])),
        ],
        ids=["list", "tuple", "big-endian", "uint64", "objects", "tensor", "NumPy scalars", "tensors"],
    )

    @FORMS
    def test_integers_from_0_are_the_numbers_as_they_stand(self, labels):
        assert self.number(labels) == ([2, 0, 1], [2, 0, 1], ("0", "1", "2"))

    def test_a_class_without_images_keeps_its_number(self):
        assert self.number([3, 1, 1]) == ([3, 1, 1], [3, 1, 1], ("0", "1", "2", "3"))
        assert self.number([1, 0], [2]) == ([1, 0], [2], ("0", "1", "2"))

    @pytest.mark.parametrize(
        "kind", [list, np.array, lambda labels: np.array(labels, object), lambda x: list(np.array(x))]
    )
    def test_strings_are_sorted_over_both_splits(self, kind):
        assert self.number(kind(["dog", "cat"]), kind(["ant"])) == ([2, 1], [0], ("ant", "cat", "dog"))

    def test_strings_in_an_order_of_ones_own(self):
        numbers = self.number(["dog", "cat"], ["dog"], class_names=("dog", "ant", "cat"))
        assert numbers == ([0, 2], [0], ("dog", "ant", "cat"))
        with pytest.raises(ValueError, match=r"class_names must hold every label, 'cat' is missing from \('dog',\)"):
            self.number(["dog", "cat"], class_names=("dog",))

    def test_negative_and_very_large_integers_are_names(self):
        assert self.number([1, -1], [1]) == ([1, 0], [1], ("-1", "1"))
        assert self.number([20_240_101, 20_231_231, 3]) == ([2, 1, 0], [2, 1, 0], ("3", "20231231", "20240101"))
        assert self.number([1, -1], class_names=("no", "yes")) == ([1, 0], [1, 0], ("no", "yes"))

    def test_booleans_are_names(self):
        assert self.number(np.array([True, False])) == ([1, 0], [1, 0], ("False", "True"))

    ERRORS = pytest.mark.parametrize(
        ("labels", "error", "message"),
        [
            ([0.0, 1.0], TypeError, "train_labels must be integers or strings, got float$"),
            (np.array([0.0, 1.0]), TypeError, "integers or strings, got float64"),
            (torch.tensor([0.0, 1.0], dtype=torch.bfloat16), TypeError, "integers or strings, got float32"),
            (["a", 1], TypeError, "integers or strings, got int and str"),
            ([None, 1], TypeError, "integers or strings, got NoneType and int"),
            ([[0], [1]], TypeError, "integers or strings, got list"),
            (np.array([b"a", b"b"]), TypeError, r"integers or strings, got \|S1"),
            ([0, 1, 2], ValueError, r"shape \(2,\), one label for each image, got \(3,\)"),
            ([], ValueError, r"shape \(2,\), one label for each image, got \(0,\)"),
            (np.zeros((2, 1), int), ValueError, r"shape \(2,\), one label for each image, got \(2, 1\)"),
            ("ab", ValueError, r"shape \(2,\), one label"),
            ([0, 2**63], ValueError, "integers of 64 bits, got 9223372036854775808"),
            (np.array([0, 2**63], np.uint64), ValueError, "integers of 64 bits, got 9223372036854775808"),
        ],
    )

    @ERRORS
    def test_what_is_no_label_gets_an_error_that_says_what_was_expected(self, labels, error, message):
        with pytest.raises(error, match=message):
            datasets.from_arrays(GREY[:2], labels)

    def test_both_splits_must_have_labels_of_one_kind(self):
        with pytest.raises(TypeError, match=r"train_labels and test_labels must be of one kind, got <U3 and int64"):
            self.number(["cat", "dog"], [0])


@pytest.fixture
def folder(tmp_path):
    """Two classes of ten images of 6 x 5 pixels."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        for index in range(10):
            save(tmp_path / "pets" / label / f"{index}.png", rng.integers(256, size=(6, 5, 3), dtype=np.uint8))
    return tmp_path / "pets"


def save(path, pixels, **options):
    """Write an image file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    image.save(path, **options)


def read_one(path, **options):
    """The pixels of one file, (H, W, C), read beside a copy of it: both splits need an image."""
    shutil.copy(path, path.with_name("9" + path.suffix))
    return datasets.from_folder(path.parent, test_fraction=0.5, **options).test.images[0].permute(1, 2, 0).numpy()


class TestFolder:
    def test_a_subfolder_for_each_class(self, folder):
        data = datasets.from_folder(folder, test_fraction=0.2)
        assert data.image_shape == (3, 6, 5)
        assert (len(data.train), len(data.test)) == (16, 4)
        assert data.class_names == ("cat", "dog")
        assert data.name == "pets"
        together = torch.cat([data.train.images, data.test.images]).flatten(1)
        assert len(together.unique(dim=0)) == 20  # every image in exactly one split
        first = torch.from_numpy(np.array(Image.open(folder / "dog" / "0.png"))).permute(2, 0, 1)
        where = (together == first.flatten()).all(1).nonzero().item()
        assert torch.cat([data.train.labels, data.test.labels])[where] == 1

    def test_the_split_follows_its_seed(self, folder):
        first, same, other = (datasets.from_folder(folder, seed=seed).test.images for seed in (0, 0, 1))
        assert torch.equal(first, same)
        assert not torch.equal(first, other)

    def test_a_seed_sets_the_images_aside_that_it_always_did(self, folder):
        files = sorted(folder.glob("*/*.png"))
        order = torch.randperm(20, generator=torch.Generator().manual_seed(3)).tolist()
        expected = [np.asarray(Image.open(files[index])).transpose(2, 0, 1) for index in order]
        data = datasets.from_folder(folder, seed=3, test_fraction=0.2)
        np.testing.assert_array_equal(data.test.images, expected[:4])
        np.testing.assert_array_equal(data.train.images, expected[4:])
        assert data.train.labels.tolist() == [index // 10 for index in order[4:]]

    def test_one_folder_for_all_has_no_labels(self, folder):
        data = datasets.from_folder(folder / "cat", test_fraction=0.2)
        assert (len(data.train), len(data.test)) == (8, 2)
        assert data.train.labels is data.test.labels is None
        assert data.class_names == ()

    @pytest.mark.parametrize("kind", [str, Path])
    def test_a_path_from_the_home_folder(self, folder, monkeypatch, kind):
        monkeypatch.setenv("HOME", str(folder.parent))
        assert len(datasets.from_folder(kind("~/pets")).train) == 18

    def test_images_deeper_below_their_class(self, folder):
        save(folder / "cat" / "2024" / "may" / "0.png", np.zeros((6, 5, 3), np.uint8))
        data = datasets.from_folder(folder)
        assert data.class_names == ("cat", "dog")
        assert torch.cat([data.train.labels, data.test.labels]).bincount().tolist() == [11, 10]

    def test_what_operating_systems_and_notebooks_leave_behind_is_no_image(self, folder):
        for clutter in (
            "cat/._0.png", ".ipynb_checkpoints/0-checkpoint.png", "dog/.ipynb_checkpoints/0.png", ".DS_Store",
            "__MACOSX/cat/._0.png", "__MACOSX/cat/0.png", "cat/Thumbs.db", "dog/desktop.ini", "readme.txt",
        ):  # fmt: skip
            (folder / clutter).parent.mkdir(parents=True, exist_ok=True)
            (folder / clutter).write_bytes(b"no image")
        data = datasets.from_folder(folder)
        assert data.class_names == ("cat", "dog")
        assert len(data.train) + len(data.test) == 20

    def test_a_subfolder_without_images_is_no_class(self, folder):
        (folder / "bird").mkdir()
        (folder / "fish" / "deep").mkdir(parents=True)
        (folder / "fish" / "notes.txt").write_text("none yet")
        assert datasets.from_folder(folder).class_names == ("cat", "dog")

    def test_no_images_at_all(self, tmp_path):
        (tmp_path / "cat").mkdir()
        with pytest.raises(FileNotFoundError, match=rf"no images in .*{tmp_path.name}, nor in subfolders"):
            datasets.from_folder(tmp_path)

    def test_images_beside_the_classes_are_not_left_out_in_silence(self, folder):
        save(folder / "preview.png", np.zeros((6, 5, 3), np.uint8))
        with pytest.raises(ValueError, match=r"images both in itself \(preview.png\) and in subfolders \(dog\)"):
            datasets.from_folder(folder)

    def test_a_folder_that_cannot_be_read_is_not_left_out_in_silence(self, folder, monkeypatch):
        scandir = os.scandir

        def refuse(path):
            if str(path).endswith("dog"):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(PermissionError, match="pets/dog"):
            datasets.from_folder(folder)


class TestSplitFolders:
    @staticmethod
    def move(folder, *names):
        """The classes of the folder once more below each of the names."""
        classes = [folder / "cat", folder / "dog"]
        for name in names:
            for path in classes:
                for file in path.iterdir():
                    save(folder / name / path.name / file.name, Image.open(file).copy())
        for path in classes:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()

    @pytest.mark.parametrize(
        "names",
        [("train", "test"), ("train", "val"), ("train", "valid"), ("training", "testing"), ("Train", "validation")],
    )
    def test_above_the_classes_are_the_splits(self, folder, names):
        (folder / "dog" / "9.png").unlink()
        self.move(folder, *names)
        save(folder / names[1] / "fox" / "0.png", np.full((6, 5, 3), 7, np.uint8))
        data = datasets.from_folder(folder)
        assert data.class_names == ("cat", "dog", "fox")
        assert data.train.labels.tolist() == [0] * 10 + [1] * 9
        assert data.test.labels.tolist() == [0] * 10 + [1] * 9 + [2]
        np.testing.assert_array_equal(
            data.train.images[12].permute(1, 2, 0), np.asarray(Image.open(folder / names[0] / "dog" / "2.png"))
        )
        assert (data.test.images[-1] == 7).all()

    def test_without_classes_have_no_labels(self, folder):
        (folder / "cat").rename(folder / "train")
        (folder / "dog").rename(folder / "test")
        (folder / "test" / "9.png").unlink()
        data = datasets.from_folder(folder)
        assert (len(data.train), len(data.test)) == (10, 9)
        assert data.train.labels is data.test.labels is None

    def test_the_training_folder_alone_is_split_at_random(self, folder):
        self.move(folder, "train")
        data = datasets.from_folder(folder)
        assert data.class_names == ("cat", "dog")
        assert (len(data.train), len(data.test)) == (18, 2)

    def test_with_names_of_ones_own(self, folder):
        self.move(folder, "A", "B", "C")
        (folder / "C" / "cat" / "0.heic").write_bytes(b"of no interest")
        data = datasets.from_folder(folder, splits=("B", "A"))
        assert data.class_names == ("cat", "dog")
        assert (len(data.train), len(data.test)) == (20, 20)
        with pytest.raises(FileNotFoundError, match=r"no folder at .*D"):
            datasets.from_folder(folder, splits=("A", "D"))
        for splits in ("train", ("A",), ("A", "B", "C")):
            with pytest.raises(ValueError, match="splits must be the names of two folders"):
                datasets.from_folder(folder, splits=splits)

    def test_three_of_them_have_to_be_told_apart(self, folder):
        self.move(folder, "train", "test", "val")
        with pytest.raises(ValueError, match=r"has val beside train and test: .* splits=\('train', 'test'\)"):
            datasets.from_folder(folder)
        assert len(datasets.from_folder(folder, splits=("train", "val")).test) == 20

    def test_an_image_beside_them_is_not_left_out_in_silence(self, folder):
        self.move(folder, "train", "test")
        save(folder / "preview.png", np.zeros((6, 5, 3), np.uint8))
        with pytest.raises(ValueError, match=r"has preview.png beside train and test"):
            datasets.from_folder(folder)

    def test_one_with_classes_and_one_without(self, folder):
        self.move(folder, "train")
        save(folder / "test" / "0.png", np.zeros((6, 5, 3), np.uint8))
        with pytest.raises(ValueError, match=r"train and .*test must both have a subfolder for each class, or neither"):
            datasets.from_folder(folder)

    def test_a_class_may_be_called_train(self, folder):
        (folder / "cat").rename(folder / "train")
        assert datasets.from_folder(folder).class_names == ("dog", "train")


class TestFiles:
    """What is in one image file."""

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "0.png"

    @staticmethod
    def shades():
        return np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)

    @pytest.mark.parametrize(
        "ending", [".png", ".PNG", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".tga", ".ico", ".jp2"]
    )
    def test_every_format_that_pillow_reads(self, path, ending):
        if ending == ".jp2" and not features.check("jpg_2000"):
            pytest.skip("Pillow here has no JPEG 2000")
        path = path.with_suffix(ending)
        options = {"sizes": [(8, 8)]} if ending == ".ico" else {}
        save(path, np.kron(self.shades(), np.ones((2, 2), np.uint8))[:8, :8], **options)
        shades = read_one(path, grey=True)[..., 0]
        with Image.open(path) as opened:
            np.testing.assert_array_equal(shades, np.asarray(opened.convert("L")))

    @pytest.mark.parametrize("ending", [".gif", ".webp", ".avif"])
    def test_other_formats_beside_pngs_are_not_left_out(self, folder, ending):
        if ending != ".gif" and not features.check(ending[1:]):
            pytest.skip(f"Pillow here reads no {ending}")
        for index in range(5):
            save(folder / "dog" / f"{index}{ending}", np.zeros((6, 5, 3), np.uint8))
        data = datasets.from_folder(folder)
        assert len(data.train) + len(data.test) == 25

    @pytest.mark.parametrize("name", ["0.png", "0.JPG", "x.gif", "y.webp", "z.tiff"])
    def test_a_file_that_looks_like_an_image_and_is_none_is_named(self, folder, name):
        (folder / "dog" / name).write_bytes(b"no image")
        with pytest.raises(ValueError, match=rf"cannot read .*dog/{name} as an image"):
            datasets.from_folder(folder)

    def test_a_file_cut_short_is_named(self, folder):
        path = folder / "dog" / "0.png"
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(ValueError, match=r"cannot read .*dog/0.png as an image"):
            datasets.from_folder(folder)

    @pytest.mark.parametrize("ending", [".svg", ".cr2", ".HEIC"])
    def test_an_image_that_pillow_does_not_read_is_named(self, folder, ending):
        if ending.lower() in Image.registered_extensions():
            pytest.skip(f"Pillow here reads {ending}")
        (folder / "dog" / f"x{ending}").write_bytes(b"some image")
        with pytest.raises(
            ValueError, match=rf"x{ending} looks like an image, but Pillow here reads no {ending.lower()}"
        ):
            datasets.from_folder(folder)

    @pytest.mark.parametrize("ending", [".png", ".tif"])
    @pytest.mark.parametrize("grey", [True, False])
    def test_sixteen_bits_are_scaled(self, path, ending, grey):
        path = path.with_suffix(ending)
        save(path, self.shades().astype(np.uint16) * 257)
        np.testing.assert_array_equal(
            read_one(path, grey=grey), np.repeat(self.shades()[..., None], 1 if grey else 3, 2)
        )

    def test_sixteen_bits_of_the_other_byte_order(self, path):
        path = path.with_suffix(".tif")
        save(path, self.shades().astype(">u2") * 257)
        np.testing.assert_array_equal(read_one(path, grey=True)[..., 0], self.shades())

    def test_sixteen_bits_in_a_file_need_no_bright_pixel(self, path):
        save(path, np.full((8, 8), 250, np.uint16))  # nearly black: the file says that 65,535 is white
        assert (read_one(path) == 1).all()

    def test_sixteen_bits_in_a_pgm(self, path):
        path = path.with_suffix(".pgm")  # which Pillow opens as 32 bits
        save(path, self.shades().astype(np.uint16) * 257)
        np.testing.assert_array_equal(read_one(path, grey=True)[..., 0], self.shades())

    def test_a_transparent_value_of_sixteen_bits(self, path):
        save(path, self.shades().astype(np.uint16) * 257, transparency=0)
        np.testing.assert_array_equal(
            read_one(path, grey=True)[..., 0], np.where(self.shades() == 0, 255, self.shades())
        )

    def test_floating_point_lies_in_0_to_1(self, path):
        path = path.with_suffix(".tif")
        save(path, (self.shades() / 255).astype(np.float32))
        np.testing.assert_array_equal(read_one(path, grey=True)[..., 0], self.shades())
        save(path, self.shades().astype(np.float32))
        with pytest.raises(ValueError, match=r"0.tif as an image: .* in \[0, 1\] when floating point, .* to 252"):
            read_one(path)

    def test_32_bit_integers_lie_in_0_to_255(self, path):
        path = path.with_suffix(".tif")
        save(path, self.shades().astype(np.int32))
        np.testing.assert_array_equal(read_one(path, grey=True)[..., 0], self.shades())
        save(path, self.shades().astype(np.int32) * 1000)
        with pytest.raises(ValueError, match=r"0.tif as an image: .* in 0..255 when torch.int32, .* to 252000"):
            read_one(path)

    @pytest.mark.parametrize("grey", [True, False])
    def test_a_black_drawing_on_a_transparent_ground_is_seen(self, path, grey):
        ink = self.shades() > 100
        noise = RNG.integers(256, size=(8, 8, 3), dtype=np.uint8)  # hidden where nothing is drawn
        colours = np.where(ink[..., None], 0, noise)
        save(path, np.dstack([colours, np.where(ink, 255, 0)]).astype(np.uint8))
        np.testing.assert_array_equal(read_one(path, grey=grey)[..., 0], np.where(ink, 0, 255))

    def test_half_transparent_is_half_background(self, path):
        save(path, Image.new("RGBA", (8, 8), (0, 0, 200, 128)))
        assert read_one(path)[0, 0].tolist() == [127, 127, 227]  # (1 - 128 / 255) 255 + 128 / 255 (0, 0, 200)

    @pytest.mark.parametrize("background", ["red", "#ff0000", (255, 0, 0), [np.int64(255), 0, 0]])
    def test_a_background_of_ones_own(self, path, background):
        save(path, Image.new("LA", (8, 8), (9, 0)))
        assert read_one(path, background=background)[0, 0].tolist() == [255, 0, 0]
        assert read_one(path, background=background, grey=True)[0, 0].tolist() == [76]  # 0.299 of 255

    @pytest.mark.parametrize("background", ["reddish", "#ff000080", 255, (255, 0), (256, 0, 0), (0.5, 0, 0), None])
    def test_what_is_no_background(self, folder, background):
        with pytest.raises(ValueError, match=r"background must be the name of a colour or .* got"):
            datasets.from_folder(folder, background=background)

    def test_palettes_with_and_without_transparency(self, path):
        image = Image.new("P", (8, 8), 1)
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.putpixel((0, 0), 0)
        save(path, image)
        pixels = read_one(path)
        assert (pixels[0, 0].tolist(), pixels[1, 1].tolist()) == ([10, 20, 30], [40, 50, 60])
        save(path, image, transparency=0)
        pixels = read_one(path)
        assert (pixels[0, 0].tolist(), pixels[1, 1].tolist()) == ([255, 255, 255], [40, 50, 60])

    def test_exif_orientation_is_respected(self, path):
        exif = Image.Exif()
        exif[0x0112] = 6  # the top of the picture is at the right of the file: turn by 90 degrees, clockwise
        tall = self.shades()[:, :5]
        save(path, tall, exif=exif)
        np.testing.assert_array_equal(read_one(path)[..., 0], np.rot90(tall, -1))


class TestSizes:
    @pytest.mark.parametrize("image_size", [(8, 3), [8, 3], (np.int64(8), np.int32(3)), torch.Size([8, 3])])
    def test_a_height_and_a_width(self, folder, image_size):
        assert datasets.from_folder(folder, image_size=image_size).image_shape == (3, 8, 3)

    @pytest.mark.parametrize("image_size", [8, np.int64(8), np.uint8(8)])
    def test_one_number_for_both(self, folder, image_size):
        assert datasets.from_folder(folder, image_size=image_size, grey=True).image_shape == (1, 8, 8)

    @pytest.mark.parametrize(
        ("image_size", "error", "message"),
        [
            (8.0, TypeError, r"image_size must be an integer, got 8.0 \(float\)"),
            (True, TypeError, r"image_size must be an integer, got True \(bool\)"),
            ("8", TypeError, r"image_size must be an integer, got '8' \(str\)"),
            ((8, 3.0), TypeError, r"image_size must be an integer, got 3.0 \(float\)"),
            ((8,), ValueError, r"image_size must be one number or \(height, width\), got \(8,\)"),
            ((3, 8, 8), ValueError, r"image_size must be one number or \(height, width\), got \(3, 8, 8\)"),
            (0, ValueError, "image_size must be at least 1, got 0"),
        ],
    )
    def test_what_is_no_size(self, folder, image_size, error, message):
        with pytest.raises(error, match=message):
            datasets.from_folder(folder, image_size=image_size)

    def test_sizes_that_differ(self, folder):
        save(folder / "dog" / "5.png", np.zeros((5, 6, 3), np.uint8))
        with pytest.raises(ValueError, match=r"share one size, or .*: .*dog/5.png has \(5, 6\), the first \(6, 5\)"):
            datasets.from_folder(folder)
        assert datasets.from_folder(folder, image_size=(6, 5)).image_shape == (3, 6, 5)

    def test_a_split_without_images_shows_before_anything_is_read(self, folder):
        (folder / "dog" / "5.png").write_bytes(b"no image")
        with pytest.raises(ValueError, match=r"test_fraction 0.01 leaves an empty split of 20 images"):
            datasets.from_folder(folder, test_fraction=0.01)

    def test_a_large_jpeg_is_decoded_no_larger_than_it_needs(self, tmp_path, monkeypatch):
        ramp = np.tile(np.linspace(0, 255, 1600), (1200, 1)).astype(np.uint8)
        for index in range(2):
            save(tmp_path / f"{index}.jpg", ramp)
        decoded = []
        resize = Image.Image.resize
        monkeypatch.setattr(
            Image.Image, "resize", lambda image, *args: (decoded.append(image.size), resize(image, *args))[1]
        )
        data = datasets.from_folder(tmp_path, image_size=8, grey=True, test_fraction=0.5)
        assert decoded == [(200, 150)] * 2
        expected = np.asarray(resize(Image.fromarray(ramp), (8, 8), Image.Resampling.LANCZOS)).astype(int)
        assert abs(data.train.images[0, 0].numpy() - expected).max() <= 2

    def test_one_photo_at_a_time_is_in_memory_at_its_full_size(self, folder, monkeypatch):
        photos, alive = [], []
        open_file = Image.open

        def spy(file):
            alive.append(sum(photo() is not None for photo in photos))
            image = open_file(file)
            photos.append(weakref.ref(image))
            return image

        monkeypatch.setattr(Image, "open", spy)
        datasets.from_folder(folder, image_size=2)
        assert alive == [0] * 20

    def test_no_image_is_in_memory_twice(self, folder):
        data = datasets.from_folder(folder)
        train, test = (split.images.untyped_storage() for split in (data.train, data.test))
        assert train.data_ptr() == test.data_ptr()
        assert train.nbytes() == 20 * 3 * 6 * 5


@pytest.mark.parametrize(("environment", "hidden"), [("", False), ("1", True)])
def test_a_bar_shows_the_progress_unless_the_environment_forbids_it(folder, monkeypatch, environment, hidden):
    monkeypatch.setenv("TQDM_DISABLE", environment)
    bars = []
    bar = folders.tqdm
    monkeypatch.setattr(folders, "tqdm", lambda files, **options: bars.append(options) or bar(files, **options))
    datasets.from_folder(folder)
    assert [options["disable"] for options in bars] == [hidden]


@pytest.mark.parametrize("shape", [(5, 4), (9, 9, 3)])
def test_the_total_variance_is_the_error_of_the_best_single_image(shape):
    images = np.random.default_rng(0).integers(0, 256, (300, *shape), dtype=np.uint8)
    other = np.zeros_like(images[:7])
    data = datasets.from_arrays(images, None, other, None)
    pixels = images.reshape(300, -1) / 255
    error = ((pixels - pixels.mean(0)) ** 2).sum(1).mean()
    assert data.total_variance == pytest.approx(error, rel=1e-12)
    assert isinstance(data.total_variance, float)
    assert datasets.from_arrays(other, None, images, None).total_variance == 0
