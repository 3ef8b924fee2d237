"""Images as tensors, whatever a NumPy, Pillow, scikit-image or torchvision user holds them in."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gmlvm.validation import check_choice


def as_images(name: str, values: Any, channels: str | None = None) -> Tensor:
    """Images as one contiguous tensor (N, C, H, W).

    A ``uint8`` tensor of that layout comes back itself, without a look at its values. ``uint8`` arrays, read-only
    and memory-mapped ones too, share their memory with the result where the layout allows it: do not write into it.

    Args:
        name: What error messages call the images.
        values: An array or tensor, or a list or tuple of arrays, tensors or PIL images of one size; shape (N, H, W)
            for grey, (N, C, H, W) or (N, H, W, C) with C 1 or 3, or with any C if ``channels`` says where it is. The
            dtype says the range, as in scikit-image:

            - ``uint8`` 0..255;
            - ``bool``: False is 0, True 255;
            - ``uint16`` 0..65535, scaled to 0..255;
            - other integers 0..255, whatever their width;
            - floating point [0, 1].

            PIL images with a palette become RGB, transparent ones lie on white.
        channels: ``"first"`` or ``"last"``: where the channels of four axes are; needed only for a shape that fits
            both, such as (N, 3, 8, 3), or neither, such as (N, 2, 8, 8).

    Returns:
        ``uint8`` in 0..255, or the floating point that came, on the device where the values were.

    Raises:
        TypeError: If these are no numbers.
        ValueError: If there are no images, they differ in size or dtype, their shape does not fit or fits twice, or a
            value is out of range; also for ``uint16`` with no value above 255, where 255 may well mean white.

    Example:
        >>> as_images("images", [[[0, 255]]])
        tensor([[[[  0, 255]]]], dtype=torch.uint8)
    """
    if channels is not None:
        check_choice("channels", channels, ("first", "last"))
    tensor = _channels_first(name, _as_tensor(name, values), channels)
    if tensor.numel() == 0:
        raise ValueError(f"{name} must hold at least one image, got shape {tuple(tensor.shape)}")
    return _in_range(name, tensor).contiguous()


def as_uint8_images(name: str, values: Any, channels: str | None = None) -> Tensor:
    """:func:`as_images`, with floating point rounded to the nearest of 256 levels.

    Args:
        name: What error messages call the images.
        values: As in :func:`as_images`.
        channels: As in :func:`as_images`.

    Returns:
        ``uint8`` in 0..255, (N, C, H, W).

    Raises:
        TypeError: If these are no numbers.
        ValueError: As :func:`as_images`.
    """
    images = as_images(name, values, channels)
    return images if images.dtype == torch.uint8 else (images * 255).round_().to(torch.uint8)


def scale_16_bit(values: Tensor) -> Tensor:
    """Integers in 0..65535 as the nearest of 256 levels, white on white.

    Args:
        values: Integers in 0..65535, any shape.

    Returns:
        ``uint8``, of the same shape.

    Example:
        >>> scale_16_bit(torch.tensor([0, 128, 129, 65535])).tolist()
        [0, 0, 1, 255]
    """
    return ((values.to(torch.int32) + 128) // 257).to(torch.uint8)


def holds_numbers(picture: Image.Image) -> bool:
    """Whether a PIL image holds 16- or 32-bit numbers, which Pillow would clip at 255 and not scale.

    Args:
        picture: The image.

    Returns:
        True for the modes "I", "F" and "I;16" in every byte order.
    """
    return picture.mode in ("I", "F") or picture.mode.startswith("I;16")


def on_background(picture: Image.Image, mode: str, background: Sequence[int] = (255, 255, 255)) -> Image.Image:
    """A picture without its palette, and without transparency: what lies behind it shows.

    Args:
        picture: A PIL image of 8 bits a channel or less.
        mode: ``"L"`` or ``"RGB"``.
        background: Red, green and blue of what lies behind, in 0..255.

    Returns:
        The picture in that mode.
    """
    if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        ground = Image.new("RGBA", picture.size, (*background, 255))
        ground.alpha_composite(picture.convert("RGBA"))
        picture = ground
    return picture.convert(mode)


def _as_tensor(name: str, values: Any) -> Tensor:
    """What came, as a tensor of numbers."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, (list, tuple)):
        return _stack(name, values)
    if isinstance(values, Image.Image):
        raise TypeError(f"{name} must be a list of images, got a single PIL image: put it in a list")
    return _from_numpy(name, values)


def _stack(name: str, items: Sequence[Any]) -> Tensor:
    """Images of one size and dtype as one tensor."""
    if len(items) == 0:
        raise ValueError(f"{name} must hold at least one image, got an empty {type(items).__name__}")
    tensors = [
        item
        if isinstance(item, Tensor)
        else _from_numpy(name, _from_pil(item) if isinstance(item, Image.Image) else item)
        for item in items
    ]
    kinds = [(tuple(tensor.shape), tensor.dtype, tensor.device) for tensor in tensors]
    for index, kind in enumerate(kinds):
        if kind != kinds[0]:
            raise ValueError(
                f"{name} must share one size, dtype and device: number {index} has {', '.join(map(str, kind))}, "
                f"the first {', '.join(map(str, kinds[0]))}"
            )
    return torch.stack(tensors)


def _from_pil(picture: Image.Image) -> Any:
    """A PIL image as an array, (H, W) or (H, W, 3)."""
    if not holds_numbers(picture):
        picture = on_background(picture, "L" if picture.mode in ("1", "L", "LA") else "RGB")
    return np.asarray(picture)


def _from_numpy(name: str, values: Any) -> Tensor:
    """An array, or what NumPy makes one of, as a tensor; in its own memory where torch can hold it."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:  # nested lists of different lengths
        raise ValueError(f"{name} must be of one size, got {type(values).__name__}: {error}") from None
    if array.dtype.kind not in "biuf":
        got = type(values).__name__ + (f" of {array.dtype}" if isinstance(values, np.ndarray) else "")
        raise TypeError(f"{name} must be a list of images, or an array or tensor of numbers, got {got}")
    # torch has neither another byte order nor negative strides nor more than 64 bits.
    dtype = np.dtype(np.float64) if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    array = np.ascontiguousarray(array, dtype)
    with warnings.catch_warnings():  # nothing here writes into a read-only array
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def _channels_first(name: str, tensor: Tensor, channels: str | None) -> Tensor:
    """Images as (N, C, H, W), a view."""
    shape = tuple(tensor.shape)
    if len(shape) == 3:
        return tensor.unsqueeze(1)
    fitting = [layout for layout, axis in (("first", 1), ("last", 3)) if len(shape) == 4 and shape[axis] in (1, 3)]
    if channels is not None and len(shape) == 4:  # any C where it is told, unless it looks as if the other axis were it
        fitting = [channels] if channels in fitting or not fitting else []
    if not fitting:
        said = (
            "; channels='first' or channels='last' allows any C" if channels is None else f" and channels={channels!r}"
        )
        raise ValueError(
            f"{name} must have shape (N, H, W) or (N, C, H, W) or (N, H, W, C) with C 1 or 3, got {shape}{said}"
        )
    if len(fitting) == 2:
        raise ValueError(
            f"{name} of shape {shape} can be read as (N, C, H, W) or as (N, H, W, C): "
            f"say which with channels='first' or channels='last'"
        )
    return tensor if fitting == ["first"] else tensor.permute(0, 3, 1, 2)


def _in_range(name: str, tensor: Tensor) -> Tensor:
    """Values as ``uint8`` in 0..255 or floating point in [0, 1]."""
    if tensor.dtype == torch.uint8:
        return tensor
    if tensor.dtype == torch.bool:
        return tensor.to(torch.uint8) * 255
    if tensor.is_complex():
        raise TypeError(f"{name} must be integers or floating point, got {tensor.dtype}")
    if tensor.is_floating_point():
        low, high = tensor.min().item(), tensor.max().item()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{name} must lie in [0, 1] when floating point, got values from {low:.9g} to {high:.9g}")
        return tensor
    integers = tensor.to(torch.int64)  # torch has no minimum of the wider unsigned types
    low, high = integers.min().item(), integers.max().item()
    if tensor.dtype == torch.uint16:
        if 0 < high <= 255:
            raise ValueError(
                f"{name} are uint16, in which 65535 is white, but no value is above {high}: "
                f"convert them to uint8 if 255 is white"
            )
        return scale_16_bit(integers)
    if low < 0 or high > 255:
        raise ValueError(f"{name} must lie in 0..255 when {tensor.dtype}, got values from {low} to {high}")
    return integers.to(torch.uint8)
