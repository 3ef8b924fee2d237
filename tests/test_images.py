"""Arrays, tensors and PIL images of every kind as one tensor (N, C, H, W)."""

import numpy as np
import pytest
import torch
from PIL import Image

from gmlvm.images import as_images, as_uint8_images

RNG = np.random.default_rng(0)
GREY = RNG.integers(256, size=(5, 6, 4), dtype=np.uint8)  # (N, H, W)
COLOUR = RNG.integers(256, size=(5, 6, 4, 3), dtype=np.uint8)  # (N, H, W, C)


GREY_FORMS = {
    "array": GREY,
    "one channel first": GREY[:, None],
    "one channel last": GREY[..., None],
    "negative strides": GREY[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "Fortran order": np.asfortranarray(GREY),
    "a field of records": np.rec.fromarrays([GREY.astype("i4"), GREY], names="image,other").image,
    "tensor": torch.from_numpy(GREY),
    "tensor channels last": torch.from_numpy(GREY)[..., None],
    "a list of arrays": list(GREY),
    "a tuple of tensors": tuple(torch.from_numpy(GREY)),
    "a list of PIL images": [Image.fromarray(image) for image in GREY],
    "nested lists of numbers": GREY.tolist(),
    "a list of images with their channel": list(GREY[:, None]),
}
COLOUR_FORMS = {
    "channels last": COLOUR,
    "channels first": COLOUR.transpose(0, 3, 1, 2),
    "tensor channels first in the memory of channels last": torch.from_numpy(COLOUR).permute(0, 3, 1, 2),
    "a list of arrays": list(COLOUR),
    "a list of PIL images": [Image.fromarray(image) for image in COLOUR],
    "a list of tensors": [torch.from_numpy(image).permute(2, 0, 1) for image in COLOUR],
}


def read(values, **options):
    return as_images("pictures", values, **options)


class TestForms:
    """The same images in another form give the same tensor."""

    @pytest.mark.parametrize("form", GREY_FORMS)
    def test_grey(self, form):
        images = read(GREY_FORMS[form])
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        np.testing.assert_array_equal(images, GREY[:, None])

    @pytest.mark.parametrize("form", COLOUR_FORMS)
    def test_colour(self, form):
        images = read(COLOUR_FORMS[form])
        assert images.is_contiguous()
        np.testing.assert_array_equal(images, COLOUR.transpose(0, 3, 1, 2))

    @pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "f2", "longdouble"])
    def test_floating_point_stays_as_it_is(self, dtype):
        values = np.linspace(0, 1, 24).reshape(1, 6, 4).astype(dtype)
        images = read(values)
        assert images.is_floating_point()
        np.testing.assert_array_equal(images[:, 0].double(), values.astype(np.float64))

    @pytest.mark.parametrize("dtype", ["i1", ">i2", "<i4", ">i8", "u4", "u8"])
    def test_integers_of_any_width_lie_in_0_to_255(self, dtype):
        np.testing.assert_array_equal(read((GREY // 2).astype(dtype))[:, 0], GREY // 2)

    def test_black_and_white(self):
        mask = GREY > 100
        np.testing.assert_array_equal(read(mask)[:, 0], np.where(mask, 255, 0))
        np.testing.assert_array_equal(read([Image.fromarray(image) for image in mask])[:, 0], np.where(mask, 255, 0))

    @pytest.mark.parametrize("byte_order", ["<", ">"])
    def test_sixteen_bits_are_scaled_white_on_white(self, byte_order):
        values = np.array([[[0, 128, 129, 257, 40_000, 65_535]]], dtype=byte_order + "u2")
        assert read(values).flatten().tolist() == [0, 0, 1, 1, 156, 255]  # 40,000 / 257 = 155.6
        assert read(torch.from_numpy(values.astype("=u2"))).flatten().tolist() == [0, 0, 1, 1, 156, 255]
        assert read([Image.fromarray(values[0].astype("=u2"))]).flatten().tolist() == [0, 0, 1, 1, 156, 255]
        assert (read(np.zeros((1, 2, 2), np.uint16)) == 0).all()

    def test_a_palette_becomes_colour_and_transparency_white(self):
        colours = Image.fromarray(COLOUR[0]).quantize(8)
        np.testing.assert_array_equal(read([colours])[0].permute(1, 2, 0), np.asarray(colours.convert("RGB")))
        ink = Image.new("LA", (2, 1), (0, 255))  # black, opaque
        ink.putpixel((0, 0), (0, 0))  # black, transparent
        assert read([ink]).flatten().tolist() == [255, 0]

    def test_floats_round_to_the_nearest_of_256_levels(self):
        values = np.array([[[0, 0.4, 0.6, 100.4, 100.6, 255]]]) / 255
        assert as_uint8_images("pictures", values).flatten().tolist() == [0, 0, 1, 100, 101, 255]


class TestMemory:
    def test_a_uint8_tensor_comes_back_itself_without_a_look_at_its_values(self):
        images = torch.zeros(5, 3, 6, 4, dtype=torch.uint8)
        assert read(images) is images
        nowhere = torch.empty(5, 1, 6, 4, dtype=torch.uint8, device="meta")  # it has no values to look at
        assert read(nowhere) is nowhere

    @pytest.mark.parametrize("shape", [(5, 6, 4), (5, 1, 6, 4), (5, 6, 4, 1), (5, 3, 6, 4)])
    def test_a_memory_mapped_file_is_not_copied(self, tmp_path, shape):
        np.save(tmp_path / "images.npy", np.zeros(shape, np.uint8))
        mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
        images = read(mapped)
        assert images.data_ptr() == mapped.ctypes.data
        assert images.is_contiguous()

    def test_a_read_only_array_is_neither_copied_nor_warned_about(self):
        values = np.frombuffer(bytes(24), np.uint8).reshape(1, 6, 4)
        assert not values.flags.writeable
        assert read(values).data_ptr() == values.ctypes.data

    def test_an_array_is_left_as_it_was(self):
        values = np.linspace(0, 1, 24).reshape(1, 6, 4)
        before = values.copy()
        as_uint8_images("pictures", values)
        np.testing.assert_array_equal(values, before)


class TestOrderOfChannels:
    @pytest.mark.parametrize("shape", [(5, 3, 8, 3), (5, 1, 8, 3), (5, 3, 8, 1), (5, 1, 8, 1)])
    @pytest.mark.parametrize("kind", [np.zeros, torch.zeros])
    def test_a_shape_that_fits_both_ways_needs_to_be_told(self, shape, kind):
        with pytest.raises(ValueError, match=r"pictures of shape \(5, .*channels='first' or channels='last'"):
            read(kind(shape))
        assert read(kind(shape), channels="first").shape == shape
        assert read(kind(shape), channels="last").shape == (5, shape[3], shape[1], 8)

    @pytest.mark.parametrize("count", [2, 4])
    def test_another_number_of_channels_needs_to_be_told_where_they_are(self, count):
        first = np.arange(5 * count * 6 * 7, dtype=np.uint8).reshape(5, count, 6, 7)
        with pytest.raises(ValueError, match=r"C 1 or 3, got .*channels='first' or channels='last' allows any C"):
            read(first)
        np.testing.assert_array_equal(read(first, channels="first"), first)
        np.testing.assert_array_equal(read(first.transpose(0, 2, 3, 1), channels="last"), first)

    def test_the_order_that_is_told_must_fit(self):
        assert read(COLOUR, channels="last").shape == (5, 3, 6, 4)
        with pytest.raises(ValueError, match=r"C 1 or 3, got \(5, 6, 4, 3\) and channels='first'"):
            read(COLOUR, channels="first")
        with pytest.raises(ValueError, match="channels must be one of 'first', 'last'; got 'middle'"):
            read(COLOUR, channels="middle")


ERRORS = {
    "text": ("images", TypeError, "pictures must be a list of images, or an array or tensor of numbers, got str"),
    "nothing": (None, TypeError, "got NoneType"),
    "objects": (np.array([{}]), TypeError, "got ndarray of object"),
    "a single PIL image": (Image.new("L", (4, 6)), TypeError, "list of images, got a single PIL image"),
    "a list of texts": (["0.png"], TypeError, "got str"),
    "complex array": (GREY * 1j, TypeError, "got ndarray of complex128"),
    "complex tensor": (torch.zeros(1, 6, 4) * 1j, TypeError, "integers or floating point, got torch.complex64"),
    "an empty list": ([], ValueError, "at least one image, got an empty list"),
    "no images": (GREY[:0], ValueError, r"at least one image, got shape \(0, 1, 6, 4\)"),
    "rank 2": (GREY.reshape(5, -1), ValueError, r"\(N, H, W\) or \(N, C, H, W\) or .* C 1 or 3, got \(5, 24\)"),
    "rank 5": (GREY[:, None, None], ValueError, r"got \(5, 1, 1, 6, 4\)"),
    "two channels": (np.zeros((5, 2, 6, 4)), ValueError, r"got \(5, 2, 6, 4\)"),
    "sizes": ([GREY[0], GREY[1, :5]], ValueError, r"one size.*: number 1 has \(5, 4\).*the first \(6, 4\)"),
    "dtypes": ([GREY[0], GREY[1] / 255], ValueError, "dtype.*: number 1 has .*float64.*the first .*uint8"),
    "ragged lists": ([[[0, 1], [2]]], ValueError, "pictures must be of one size, got list"),
    "floats above": (
        GREY / 2,
        ValueError,
        r"pictures must lie in \[0, 1\] when floating point, got values from 0 to 1",
    ),
    "a float just above": (np.full((1, 2, 2), 1.000001), ValueError, "to 1.000001$"),
    "not a number": (np.full((1, 2, 2), np.nan), ValueError, r"\[0, 1\] when floating point, got values from nan"),
    "integers above": (GREY.astype(int) + 200, ValueError, r"0\.\.255 when torch.int64, got values from \d+ to 4\d\d$"),
    "integers below": (GREY.astype(int) - 300, ValueError, r"0\.\.255 when torch.int64, got values from -"),
    "dark uint16": (GREY.astype(np.uint16), ValueError, r"uint16, in which 65535 is white, but no value is above \d+"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_no_image_gets_an_error_that_says_what_was_expected(case):
    values, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        read(values)
