"""Checks on arguments, shared by every module: each says what was expected and what came."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def check_positive_int(name: str, value: Any, minimum: int = 1) -> int:
    """Return ``value`` as an ``int`` if it is an integer, NumPy's among them, of at least ``minimum``.

    Raises:
        TypeError: If ``value`` is not an integer (a ``bool`` is not one).
        ValueError: If it is below ``minimum``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    number = int(value)
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def check_seed(name: str, value: Any) -> int:
    """Return ``value`` as an ``int`` if torch can be seeded with it.

    Raises:
        TypeError: If ``value`` is not an integer.
        ValueError: If it is negative, or has more than 64 bits.
    """
    seed = check_positive_int(name, value, minimum=0)
    if seed >= 2**64:
        raise ValueError(f"{name} must be below 2^64, got {seed}")
    return seed


def check_path(path: str | Path, what: str) -> Path:
    """Return where to write a file, with ``~`` for the home folder, if the folder is there.

    Raises:
        FileNotFoundError: If it is not; ``what`` names the file in the message.
        IsADirectoryError: If a folder is there in place of the file.
    """
    path = _in_a_folder(path, what)
    if path.is_dir():
        raise IsADirectoryError(f"the {what} must be a file, {path} is a folder")
    return path


def check_folder(path: str | Path, what: str) -> Path:
    """Return a folder to write in, with ``~`` for the home folder, if it is there or can be made in one that is.

    Raises:
        FileNotFoundError: If that is not there; ``what`` names the folder in the message.
        FileExistsError: If something else than a folder is there.
    """
    path = _in_a_folder(path, what)
    if os.path.lexists(path) and not path.is_dir():
        raise FileExistsError(f"the {what} must be in a folder, {path} is none")
    return path


def _in_a_folder(path: str | Path, what: str) -> Path:
    path = Path(path).expanduser()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write the {what} {path.name} to")
    return path


def check_number(
    name: str, value: Any, minimum: float = 0.0, maximum: float = math.inf, *, exclusive: bool = False
) -> float:
    """Return ``value`` as a float if it is finite and in ``[minimum, maximum]``.

    With ``exclusive`` the lower end is left out.

    Raises:
        TypeError: If ``value`` is not a real number.
        ValueError: If it is not finite or lies outside the interval.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    number = float(value)
    below = number <= minimum if exclusive else number < minimum
    if not math.isfinite(number) or below or number > maximum:
        bracket = "(" if exclusive else "["
        raise ValueError(f"{name} must be a finite number in {bracket}{minimum:g}, {maximum:g}], got {value}")
    return number


def check_type(name: str, value: Any, kind: type) -> None:
    """Let ``value`` pass if it is an instance of ``kind``.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be of type {kind.__name__}, got {type(value).__name__}")


def check_choice(name: str, value: Any, choices: Collection[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ValueError: If it is not.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
    return str(value)


def check_shape(name: str, tensor: Any, expected: tuple[int | None, ...], meaning: str = "") -> Tensor:
    """Return ``tensor`` if its shape is ``expected``, where ``None`` stands for any size.

    Raises:
        TypeError: If ``tensor`` is not a tensor.
        ValueError: If its shape differs; ``meaning`` names the axes in the message.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    fits = tensor.ndim == len(expected) and all(
        want is None or want == got for want, got in zip(expected, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("*" if size is None else str(size) for size in expected)
        raise ValueError(f"{name} must have shape ({wanted}){meaning}, got {tuple(tensor.shape)}")
    return tensor


def check_finite(name: str, tensor: Tensor) -> Tensor:
    """Return ``tensor`` if it holds no NaN and no infinity.

    Raises:
        ValueError: If it does.
    """
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return tensor


def check_image_shape(image_shape: Any) -> tuple[int, int, int]:
    """Return ``image_shape`` as ``(channels, height, width)``, three positive integers.

    Raises:
        ValueError: If it is anything else.
    """
    shape = tuple(image_shape) if isinstance(image_shape, (tuple, list, torch.Size)) else ()
    if len(shape) != 3 or not all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) > 0 for n in shape):
        raise ValueError(f"image_shape must be (channels, height, width), three positive integers; got {image_shape!r}")
    channels, height, width = map(int, shape)
    return channels, height, width


def as_unit_interval(name: str, images: Tensor) -> Tensor:
    """Return images as floating point in [0, 1].

    ``uint8`` images are divided by 255; floating-point ones are checked and returned unchanged.

    Raises:
        TypeError: If the dtype is neither ``uint8`` nor floating point.
        ValueError: If a floating-point value lies outside [0, 1] or is NaN.
    """
    if images.dtype == torch.uint8:
        return images.to(torch.get_default_dtype()) / 255
    if not images.is_floating_point():
        raise TypeError(f"{name} must be uint8 in 0..255 or floating point in [0, 1], got {images.dtype}")
    if images.numel() and not bool(((images >= 0) & (images <= 1)).all()):
        low, high = images.min().item(), images.max().item()
        raise ValueError(f"{name} must lie in [0, 1] when floating point, got values from {low:g} to {high:g}")
    return images
