"""Checks on arguments: what passes comes back as Python's own type, what doesn't is named with what was expected."""

import re

import numpy as np
import pytest
import torch

from gmlvm import validation


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers_pass_as_int_numpys_too(value):
    assert type(validation.check_positive_int("n", value)) is int
    assert type(validation.check_seed("seed", value)) is int


@pytest.mark.parametrize("value", [True, np.True_, 3.0, "3", None, torch.tensor(3)])
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(TypeError, match=re.escape(f"n must be an integer, got {value!r}")):
        validation.check_positive_int("n", value)


def test_seeds_are_those_that_torch_takes():
    largest = 2**64 - 1
    torch.Generator().manual_seed(validation.check_seed("seed", largest))
    with pytest.raises(ValueError, match=r"seed must be below 2\^64, got 18446744073709551616"):
        validation.check_seed("seed", largest + 1)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        validation.check_seed("seed", -1)


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.int64(1)])
def test_numbers_pass_as_float_numpys_too(value):
    assert type(validation.check_number("rate", value)) is float


@pytest.mark.parametrize(
    ("value", "limits"),
    [(float("nan"), {}), (float("inf"), {}), (-0.1, {}), (1.1, {"maximum": 1.0}), (0.0, {"exclusive": True})],
)
def test_numbers_outside_their_interval_are_refused(value, limits):
    with pytest.raises(ValueError, match="rate must be a finite number in"):
        validation.check_number("rate", value, **limits)
    assert validation.check_number("rate", 1.0, maximum=1.0) == 1.0


def test_a_path_is_in_the_home_folder_if_it_starts_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert validation.check_path("~/model", "model") == tmp_path / "model"
    with pytest.raises(FileNotFoundError, match=r"no folder .*none to write the model a\.bin to"):
        validation.check_path("~/none/a.bin", "model")


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path):
    file, link = tmp_path / "a", tmp_path / "b"
    file.touch()
    link.symlink_to(tmp_path / "none")
    for path in (file, link):
        with pytest.raises(FileExistsError, match=f"the runs must be in a folder, {path} is none"):
            validation.check_folder(path, "runs")
    with pytest.raises(IsADirectoryError, match=f"the model must be a file, {tmp_path} is a folder"):
        validation.check_path(tmp_path, "model")
    assert validation.check_folder(tmp_path / "new", "runs") == tmp_path / "new"
    assert validation.check_folder(tmp_path, "runs") == tmp_path


def test_shapes_are_compared_where_they_are_given():
    tensor = torch.zeros(2, 3)
    assert validation.check_shape("x", tensor, (None, 3)) is tensor
    for expected in ((2, 4), (2, 3, 1), (None,)):
        with pytest.raises(ValueError, match=r"x must have shape .* \(rows\), got \(2, 3\)"):
            validation.check_shape("x", tensor, expected, " (rows)")
    with pytest.raises(TypeError, match=r"x must be a torch.Tensor, got ndarray"):
        validation.check_shape("x", np.zeros((2, 3)), (2, 3))


@pytest.mark.parametrize("shape", [(1, 28, 28), [1, 28, 28], torch.Size([1, 28, 28]), tuple(np.array([1, 28, 28]))])
def test_image_shapes_pass_as_three_ints(shape):
    checked = validation.check_image_shape(shape)
    assert checked == (1, 28, 28)
    assert all(type(size) is int for size in checked)


@pytest.mark.parametrize("shape", [(28, 28), (1, 0, 28), (1, 28.0, 28), (True, 28, 28), 28, None])
def test_what_is_no_image_shape_is_refused(shape):
    with pytest.raises(
        ValueError, match=r"image_shape must be \(channels, height, width\).*got " + re.escape(repr(shape))
    ):
        validation.check_image_shape(shape)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(value):
    finite = torch.tensor([0.0, 1.0])
    assert validation.check_finite("z", finite) is finite
    with pytest.raises(ValueError, match="z must be finite, got NaN or infinity"):
        validation.check_finite("z", torch.tensor([0.0, value]))


def test_images_are_brought_to_the_unit_interval():
    floating = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert validation.as_unit_interval("x", floating) is floating
    whole = validation.as_unit_interval("x", torch.tensor([0, 51, 255], dtype=torch.uint8))
    torch.testing.assert_close(whole, torch.tensor([0.0, 0.2, 1.0]))
    for bad in (floating - 0.1, floating + 0.1, floating / 0):
        with pytest.raises(ValueError, match=r"x must lie in \[0, 1\]"):
            validation.as_unit_interval("x", bad)
    with pytest.raises(TypeError, match=r"uint8 in 0..255 or floating point .* got torch.int64"):
        validation.as_unit_interval("x", torch.tensor([0, 1]))


def test_a_choice_is_one_of_those_named():
    assert validation.check_choice("kind", "a", ("a", "b")) == "a"
    with pytest.raises(ValueError, match="kind must be one of 'a', 'b'; got 'c'"):
        validation.check_choice("kind", "c", ("a", "b"))
