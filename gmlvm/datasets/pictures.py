"""One image file as 8 bits: grey or colour, upright, opaque, and of the size wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from gmlvm.images import as_uint8_images, holds_numbers, on_background, scale_16_bit

# A JPEG that is to shrink is decoded at no more than it needs: at least so many times the size wanted.
_SPARE = 4


def read_picture(file: Path, mode: str, background: tuple[int, ...], size: tuple[int, int] | None = None) -> Tensor:
    """Read an image file.

    Args:
        file: The file, in any format that Pillow reads; the first image of several.
        mode: ``"L"`` or ``"RGB"``.
        background: Red, green and blue, in 0..255, of what shows through where it is transparent.
        size: Height and width to resize to; as it is if left out.

    Returns:
        ``uint8``, (1, H, W) or (3, H, W).

    Raises:
        ValueError: If it cannot be read, or floating-point values lie outside [0, 1]; the message names the file.
    """
    try:
        with Image.open(file) as opened:
            if size is not None:
                opened.draft(None, (_SPARE * max(size), _SPARE * max(size)))
            # Older versions of Pillow open 16 bits in the mode of 32.
            picture = _as_8_bits(ImageOps.exif_transpose(opened), wide=opened.format not in ("PNG", "PPM"))
            picture = on_background(picture, mode, background)
    except Exception as error:  # for a broken file Pillow raises nearly anything
        raise ValueError(f"cannot read {file} as an image: {error}") from error
    if size is not None:
        picture = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    tensor: Tensor = pil_to_tensor(picture)
    return tensor


def _as_8_bits(picture: Image.Image, wide: bool) -> Image.Image:
    """A picture of 16- or 32-bit numbers as 8 bits; ``wide`` if mode "I" means 32."""
    if not holds_numbers(picture):
        return picture
    values = np.asarray(picture)
    if picture.mode == "F" or (picture.mode == "I" and wide):
        levels = as_uint8_images("its pixels", values[None])[0, 0]
    else:
        levels = scale_16_bit(torch.from_numpy(values.astype(np.int32)))
    grey = Image.fromarray(levels.numpy())
    if "transparency" in picture.info:  # one value stands for transparent
        grey.putalpha(Image.fromarray(np.where(values == picture.info["transparency"], 0, 255).astype(np.uint8)))
    return grey
