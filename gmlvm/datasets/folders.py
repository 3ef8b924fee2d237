"""A data set from a folder of image files: which are there, in what class and what split."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from PIL import Image, ImageColor
from torch import Tensor
from tqdm.auto import tqdm

from gmlvm.datasets.arrays import from_arrays
from gmlvm.datasets.pictures import read_picture
from gmlvm.datasets.splits import ImageData
from gmlvm.validation import check_number, check_positive_int, check_seed

# Folders that are splits and no classes, in lower case.
_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "testing", "val", "valid", "validation")
# Formats whose endings Pillow knows and whose pixels it does not read: data, film, and two that it only writes.
_NO_PIXELS = ("BUFR", "GRIB", "HDF5", "MPEG", "PALM", "PDF")
# Endings of images that it reads with a plugin or in some builds alone.
_NEED_MORE = (".arw", ".avif", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef", ".svg", ".webp")


def from_folder(
    path: str | Path,
    *,
    image_size: int | Sequence[int] | None = None,
    grey: bool = False,
    test_fraction: float = 0.1,
    seed: int = 0,
    background: str | Sequence[int] = "white",
    splits: Sequence[str] | None = None,
) -> ImageData:
    """A data set from image files: a subfolder for each class, or one folder for all.

    A class is everything below its subfolder, however deep; a subfolder without images is none. Images that lie in
    the folder itself have no labels. Two folders above the classes, ``train`` (or ``training``) and ``test`` (or
    ``testing``, ``val``, ``valid``, ``validation``), are the splits; otherwise the test split is drawn at random.
    Left out are names that start with a dot, ``__MACOSX``, and files whose ending is not an image's.

    Every format is read that Pillow reads: 16 bits are scaled to 8, floating point must lie in [0, 1], images are
    turned as their EXIF data say, and of an animation or a stack the first image counts. At most one image is in
    memory at its full size.

    Args:
        path: The folder. One with a single subfolder gives a data set of one class.
        image_size: Resize to this height and width, one number or two; all images must share one size if left out.
        grey: Read as one channel instead of three.
        test_fraction: Share of the images set aside, drawn at random, in (0, 1); not looked at where the folders
            are the splits.
        seed: Seed of that draw.
        background: What transparent images lie on: a colour by its name, or red, green and blue in 0..255.
        splits: The folders of the training and the test split, such as ``("train", "val")``; needed where they have
            other names, or there are more of them.

    Returns:
        Images (N, 3, H, W), or (N, 1, H, W) if ``grey``, with the index of the class as label, in the order of the
        names.

    Raises:
        TypeError: If an argument has the wrong type.
        FileNotFoundError: If the folder, or any image in it, is not there.
        ValueError: If an argument is out of range, the folders can be read in two ways, a file with the ending of an
            image cannot be read (the message names it), sizes differ, or a split would be empty.
    """
    size = None if image_size is None else _check_size(image_size)
    colour = _check_colour(background)
    check_number("test_fraction", test_fraction, maximum=1.0, exclusive=True)
    seed = check_seed("seed", seed)
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder at {root}")
    folders = _find_splits(root, splits)
    found = [_find_images(folder) for folder in folders]
    files = [file for split in found for file, _ in split]
    labels = [label for split in found for _, label in split]
    if None in labels and any(labels):
        raise ValueError(f"{' and '.join(map(str, folders))} must both have a subfolder for each class, or neither")

    count = len(files)
    if len(folders) == 2:
        train, test = torch.arange(count).split([len(split) for split in found])
    else:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        held_out = round(test_fraction * count)
        if not 0 < held_out < count:
            raise ValueError(f"test_fraction {test_fraction} leaves an empty split of {count} images")
        test, train = order[:held_out], order[held_out:]
    # Each image goes to its place at once, so that the splits are views and nothing is in memory twice.
    images = _read_all(files, torch.cat([train, test]).argsort(), "L" if grey else "RGB", colour, size)
    train_labels, test_labels = (
        None if None in labels else [labels[index] for index in split.tolist()] for split in (train, test)
    )
    return from_arrays(
        images[: len(train)],
        train_labels,
        images[len(train) :],
        test_labels,
        name=root.absolute().name,
        class_names=sorted(set(filter(None, labels))),
        channels="first",
    )


def _find_splits(root: Path, splits: Sequence[str] | None) -> list[Path]:
    """The folders of the training and the test split, or the one folder that both are drawn from."""
    if splits is not None:
        if isinstance(splits, str) or len(splits) != 2:
            raise ValueError(f"splits must be the names of two folders, for training and for test, got {splits!r}")
        return [root / name for name in splits]
    names = sorted({file.relative_to(root).parts[0] for file in _walk(root)})
    train = [name for name in names if name.lower() in _TRAIN_NAMES]
    test = [name for name in names if name.lower() in _TEST_NAMES]
    if names and names == train[:1]:
        return [root / train[0]]
    if not train or not test:
        return [root]
    if len(names) > 2:
        other = next(name for name in names if name not in (train[0], test[0]))
        raise ValueError(
            f"{root} has {other} beside {train[0]} and {test[0]}: say which folders are the splits, "
            f"such as splits=({train[0]!r}, {test[0]!r})"
        )
    return [root / train[0], root / test[0]]


def _find_images(folder: Path) -> list[tuple[Path, str | None]]:
    """The images of a split and the class of each, None for all of them if there are no subfolders."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}")
    files = list(_walk(folder))
    if not files:
        raise FileNotFoundError(f"no images in {folder}, nor in subfolders of it, one for each class")
    # In torchvision's order: by class, then by folder, then by name.
    found = sorted((_class_of(file, folder), str(file.parent), file.name) for file in files)
    classes = [label for label, _, _ in found]
    if "" in classes and classes[-1] != "":
        raise ValueError(f"{folder} has images both in itself ({found[0][2]}) and in subfolders ({classes[-1]})")
    return [(Path(parent, name), label or None) for label, parent, name in found]


def _class_of(file: Path, folder: Path) -> str:
    """The subfolder that a file is in, "" if none."""
    inner = file.relative_to(folder).parts
    return inner[0] if len(inner) > 1 else ""


def _walk(folder: Path) -> Iterator[Path]:
    """All images below a folder."""
    known = {ending for ending, kind in Image.registered_extensions().items() if kind not in _NO_PIXELS}
    for where, subfolders, names in os.walk(folder, onerror=_stop, followlinks=True):
        subfolders[:] = filter(_is_visible, subfolders)
        for file in (Path(where, name) for name in names if _is_visible(name)):
            ending = file.suffix.lower()
            if ending in known:
                yield file
            elif ending in _NEED_MORE:
                raise ValueError(f"{file} looks like an image, but Pillow here reads no {ending}: convert or remove it")


def _is_visible(name: str) -> bool:
    """Whether a file or folder is its owner's, and not an operating system's or a notebook's."""
    return not name.startswith(".") and name != "__MACOSX"


def _stop(error: OSError) -> NoReturn:
    """Raise what ``os.walk`` would pass over: a folder that cannot be read."""
    raise error


def _read_all(
    files: Sequence[Path], places: Tensor, mode: str, background: tuple[int, ...], size: tuple[int, int] | None
) -> Tensor:
    """Read files one by one, each to its place."""
    images = torch.empty(0)
    # A bar for what takes longer than a second; in a notebook tqdm does not look at the environment by itself.
    with tqdm(files, unit="image", delay=1, disable=bool(os.environ.get("TQDM_DISABLE"))) as bar:
        for place, file in zip(places.tolist(), bar, strict=True):
            image = read_picture(file, mode, background, size)
            if file is files[0]:
                images = torch.empty(len(files), *image.shape, dtype=torch.uint8)
            elif image.shape != images.shape[1:]:
                raise ValueError(
                    f"all images must share one size, or image_size must be given: {file} has "
                    f"{tuple(image.shape[1:])}, the first {tuple(images.shape[2:])}"
                )
            images[place] = image
    return images


def _check_size(image_size: Any) -> tuple[int, int]:
    """(height, width)."""
    sides = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(sides) != 2:
        raise ValueError(f"image_size must be one number or (height, width), got {image_size!r}")
    height, width = (check_positive_int("image_size", side) for side in sides)
    return height, width


def _check_colour(background: Any) -> tuple[int, ...]:
    """(red, green, blue)."""
    try:
        colour = ImageColor.getrgb(background) if isinstance(background, str) else tuple(background)
        valid = len(colour) == 3 and all(check_positive_int("level", level, minimum=0) <= 255 for level in colour)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(f"background must be the name of a colour or (red, green, blue) in 0..255, got {background!r}")
    return tuple(map(int, colour))
